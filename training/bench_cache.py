"""Risks that a benchmark has computed, kept in files, so that one that was stopped goes on where it was.

A file holds the risks of one task, method and seed, and the key of all that they depend on: if any of it has changed,
or the file is damaged, there is nothing kept.
"""

import ast
import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

ROOM = Path(__file__).parent
REPORTING = ("figures", "printing", "tracking")
"""Modules that tell of risks and make none."""


def key(parts: Mapping[str, Any]) -> str:
    """SHA-256 of what risks depend on, a mapping that JSON can hold."""
    return hashlib.sha256(json.dumps(dict(parts), sort_keys=True).encode()).hexdigest()


@cache
def code_digest(modules: tuple[str, ...], alone: tuple[str, ...] = (), room: Path = ROOM) -> str:
    """SHA-256 over the source of some modules of a package and of all that they import from it, at any depth.

    alone: modules that count without what they import. A digest is taken once in a process, as its code is loaded
    once: an edit of the source while it runs changes neither.
    """
    digest = hashlib.sha256()
    for name in sorted(imported(modules, room) | set(alone)):
        digest.update(name.encode() + hashlib.sha256(_file(name, room).read_bytes()).digest())
    return digest.hexdigest()


def imported(modules: Iterable[str], room: Path = ROOM) -> set[str]:
    """These modules of a package and those that they import from it, directly or not, but for the reporting ones."""
    found: set[str] = set()
    pending = list(modules)
    while pending:
        name = pending.pop()
        if name not in found and name not in REPORTING:
            found.add(name)
            pending += _imports(_file(name, room).read_text(encoding="utf-8"), room)
    return found


def read(path: Path, wanted: str, n: int) -> np.ndarray | None:
    """The risks (n,) kept under that key; None if there are none, others, or the file is damaged."""
    try:
        table = pq.read_table(path, page_checksum_verification=True)
        if (table.schema.metadata or {}).get(b"key") != wanted.encode() or len(table) != n:
            return None
        return table["risk"].to_numpy()
    except (OSError, ValueError, KeyError, pa.ArrowException):
        return None


def write(path: Path, wanted: str, risks: np.ndarray) -> None:
    """Keep risks (n,) under that key, in place of what the file held; a reader sees the one or the other, whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f"{path.name}.{os.getpid()}")
    try:
        table = pa.table({"risk": risks}).replace_schema_metadata({"key": wanted})
        pq.write_table(table, draft, write_page_checksum=True)
        os.replace(draft, path)
    finally:
        draft.unlink(missing_ok=True)


def _imports(source: str, room: Path) -> set[str]:
    """Which modules of the package a module's source names in its imports, those inside functions among them."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    inside = {name.removeprefix(f"{room.name}.") for name in names if name.startswith(f"{room.name}.")}
    return {name for name in inside if _file(name, room).is_file()}


def _file(name: str, room: Path) -> Path:
    """Of a module, or of one in a package inside, as `heuristics.words`."""
    return room / f"{name.replace('.', '/')}.py"
