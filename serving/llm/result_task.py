"""The folder of the resulting task, which `train` reads: whole or not at all.

It is written beside its place and then renamed. A folder that is there already is replaced only where that is wished
and an earlier `polarscore ask` made it; in the task's own folder, the data becomes a new file, and task.toml follows.
"""

import gzip
import json
import os
import secrets
import shutil
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import tomli_w

from serving.llm.kinds import evidence_line, family_of
from serving.llm.prompting import digest
from serving.llm.question_rows import ToAsk
from serving.llm.result import Asked
from serving.llm.result_columns import Row, result_rows
from serving.llm.result_files import check_sources, copy_needed
from serving.llm.settings import Settings
from training.asking import AskedSource
from training.errors import InputError
from training.task import Columns, Header, Task, read_task

DATA = "data.jsonl.gz"
TASK = "task.toml"


def place_of(task: Task, out: Path | None, replace: bool) -> Path:
    """Where the result goes: as told, or beside the task with `-asked` behind its name.

    Raises:
        InputError: something is there already that may not be replaced, or the folder cannot be written.
    """
    place = (out or task.folder.parent / f"{task.folder.resolve().name}-asked").absolute()
    own = place.exists() and place.resolve() == task.folder.resolve()
    if place.exists() and not replace:
        what = "is the task's own folder. To add the answers there" if own else "exists already. To replace it"
        raise InputError(f"{place} {what}, say --replace; or choose another place with --out.")
    if place.exists() and not own and not _made_by_us(place):
        raise InputError(f"{place} is not the result of an earlier polarscore ask, and is not replaced. "
                         "Choose another place with --out.")
    for above in (place, *place.parents):
        if above.exists():
            if not above.is_dir() or not os.access(above, os.W_OK | os.X_OK):
                raise InputError(f"{place} cannot be written: {above} is read-only or no folder. "
                                 "Choose another place with --out.")
            break
    return place


def write_task(place: Path, to_ask: ToAsk, asked: Asked, settings: Settings, endpoint: str | None,
               now: datetime) -> Path:
    """Write the result, and return its folder. endpoint: its name, None for the settings' own choice.

    Raises:
        InputError: the folder cannot be written, or sources.py does not run in it.
    """
    rows, columns = result_rows(to_ask, asked)
    own = place.exists() and place.resolve() == to_ask.task.folder.resolve()
    building = place.parent / f".{place.name}.{secrets.token_hex(6)}"
    try:
        building.mkdir(parents=True)
        needed = copy_needed(to_ask.task, building, others=not own) | {TASK}
        name = next(name for name in _names() if name not in needed and not (own and (place / name).exists()))
        content = _content(to_ask, asked, settings, endpoint, now, columns.model_copy(update={"path": name}))
        (building / name).write_bytes(gzip.compress(b"".join(map(_line, rows)), mtime=0))
        (building / TASK).write_text(tomli_w.dumps(content, multiline_strings=False), encoding="utf-8")
        read_task(building)
        if own:
            os.replace(building / name, place / name)
            os.replace(building / TASK, place / TASK)
        else:
            check_sources(to_ask.task, building)
            _take_place(building, place)
    except OSError as error:
        raise InputError(f"{place} cannot be written: {error.strerror}.") from None
    finally:
        shutil.rmtree(building, ignore_errors=True)
    return place


def _content(to_ask: ToAsk, asked: Asked, settings: Settings, endpoint: str | None, now: datetime,
             columns: Columns) -> dict[str, Any]:
    """What task.toml says."""
    task, model = to_ask.task, settings.endpoint(endpoint)
    header = _header(task, model.model, model.family or model.model, answered=task.data.answer in to_ask.frame)
    named = task.model_copy(update={"task": header})
    taken = {source.source.name for source in asked.sources}
    added = [{"name": source.source.name, "family": family_of(source.source, named, settings, model.name),
              "evidence": evidence_line(source.source)} for source in asked.sources]
    about = {"model": model.model, "endpoint": model.name, "date": now.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
             "prompts_sha256": digest(asked.prompts), "rows": len(asked.prompts),
             "answered": int((asked.answers >= 0).sum()), "abstentions": asked.abstentions}
    if taken:
        about["sources"] = [_said(source.source) for source in asked.sources]
    if "asked" in task.about:
        about["before"] = task.about["asked"]
    left = [_said(source) for source in to_ask.ask.sources if source.name not in taken]
    return {
        "task": header.model_dump(mode="json"),
        "data": columns.model_dump(mode="json", exclude_none=True, exclude_defaults=True)
        | {"path": columns.path, "answer": columns.answer, "response": columns.response},
        "ask": to_ask.ask.model_dump(mode="json", exclude_defaults=True, exclude={"sources"})
        | ({"sources": left} if left else {}),
        "about": task.about | {"asked": about},
        "sources": [source.model_dump(mode="json", exclude_defaults=True) for source in task.sources] + added,
    }


def _header(task: Task, model: str, family: str, answered: bool) -> Header:
    """Whose answers they are: as the task says, unless it says so of earlier answers, or says nothing."""
    said = task.task
    keeps = set() if answered else said.model_fields_set
    return said.model_copy(update={"llm": said.llm if "llm" in keeps else model,
                                   "llm_family": said.llm_family if "llm_family" in keeps else family})


def _said(source: AskedSource) -> dict[str, Any]:
    return source.model_dump(mode="json", exclude_none=True, exclude_defaults=True)


def _names() -> Sequence[str]:
    return [DATA, *(f"asked{number}.jsonl.gz" for number in ("", *range(2, 10_000)))]


def _line(row: Row) -> bytes:
    try:
        return json.dumps(row, ensure_ascii=False).encode() + b"\n"
    except UnicodeEncodeError:  # half a surrogate pair, which JSON can hold and UTF-8 cannot
        return json.dumps(row).encode() + b"\n"


def _take_place(building: Path, place: Path) -> None:
    if not place.exists():
        os.rename(building, place)
        return
    aside = place.parent / f".{place.name}.{secrets.token_hex(6)}"
    os.rename(place, aside)
    try:
        os.rename(building, place)
    except BaseException:
        os.rename(aside, place)
        raise
    shutil.rmtree(aside, ignore_errors=True)


def _made_by_us(place: Path) -> bool:
    try:
        return "asked" in read_task(place).about
    except InputError:
        return False
