"""A task's rows as aligned arrays, checked before anything uses them."""

import hashlib
import itertools
import json
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from training.errors import InputError
from training.rows import parsed, read_rows
from training.sources import (
    ABSTAIN,
    LabellingFunction,
    apply_labelling_functions,
    encode_classes,
    load_labelling_functions,
)
from training.task import LLM, Columns, Source, Task

SPLITS = ("train", "valid", "test")


@dataclass(frozen=True)
class Table:
    """n rows, aligned. Class indices throughout; -1 is no answer, abstention, no gold label.

    ids, texts: n strings. spans: (n, entities, 2) character offsets; entities may be 0.
    splits: n of train, valid, test. answers: (n,) the LLM's. votes: (n, m), a column a source.
    labels: (n,) gold, for evaluation alone. confidence: (n,) the LLM's own in its answer, NaN where none is stored.
    digest: SHA-256 of the data file and of sources.py.
    """

    classes: tuple[str, ...]
    sources: tuple[Source, ...]
    ids: np.ndarray
    texts: np.ndarray
    spans: np.ndarray
    splits: np.ndarray
    answers: np.ndarray
    votes: np.ndarray
    labels: np.ndarray
    confidence: np.ndarray
    digest: str

    def __len__(self) -> int:
        return len(self.ids)

    def rows(self, where: np.ndarray | slice) -> "Table":
        """The rows that a mask, an index array or a slice picks."""
        columns = ("ids", "texts", "spans", "splits", "answers", "votes", "labels", "confidence")
        return replace(self, **{name: getattr(self, name)[where] for name in columns})

    def split(self, name: str) -> "Table":
        """The rows of one split.

        Raises:
            InputError: no such split in the data.
        """
        if name not in SPLITS:
            raise InputError(f"split '{name}' is unknown. Expected one of {', '.join(SPLITS)}.")
        rows = self.rows(self.splits == name)
        if not len(rows):
            found = ", ".join(split for split in SPLITS if (self.splits == split).any())
            raise InputError(f"the data has no row in split '{name}'. Choose another with --split: {found}.")
        return rows


def read_table(task: Task) -> Table:
    """Read and check all rows of a task; votes come from the data, then from `sources.py`.

    Raises:
        InputError: names the file, the row and the key at fault.
    """
    functions = load_labelling_functions(task.sources_path) if task.sources_path else ()
    table = rows_to_table(task, read_rows(task.data_path), task.data.path, functions)
    if not (table.votes != ABSTAIN).any():
        raise InputError(f"every source abstains on every row of {task.data.path}. "
                         "A harmonizer needs votes to learn from: add sources.py or a votes column.")
    if not (table.answers != ABSTAIN).any():
        raise InputError(f"no row of {task.data.path} has an answer of the LLM in '{task.data.answer}'.")
    return replace(table, digest=_digest(task))


def rows_to_table(
    task: Task,
    frame: pd.DataFrame,
    path: str,
    functions: Sequence[LabellingFunction] = (),
) -> Table:
    """Check a frame of raw rows against a task and turn it into arrays. `path` names it in errors."""
    columns = task.data
    if frame.empty:
        raise InputError(f"{path} is empty. Expected at least one row.")
    needed = [columns.id, columns.text, columns.answer, *columns.spans]
    needed += [name for name in (columns.split, columns.response, columns.label) if name]
    for name in needed:
        if name not in frame:
            raise InputError(f"{path} lacks the column '{name}', which task.toml names. "
                             f"Found {', '.join(map(str, frame.columns))}.")
    ids = _ids(frame[columns.id], path)
    texts = check_texts(frame[columns.text], ids, path)
    spans = check_spans([frame[name] for name in columns.spans], texts, ids, path)
    splits = _splits(frame[columns.split] if columns.split else None, ids, path)
    answers = encode_classes(frame[columns.answer], task.classes, ids, f"{path}: '{columns.answer}'")
    labels = (encode_classes(frame[columns.label], task.classes, ids, f"{path}: '{columns.label}'")
              if columns.label else np.full(len(ids), ABSTAIN, dtype=np.int16))
    votes = stored_votes(frame, task, ids, path)
    written = apply_labelling_functions(functions, frame, columns, task.classes, ids)
    sources = task.sources + tuple(Source(name=f.name, family=f.family, evidence=f.evidence or "") for f in functions)
    names = [LLM, *(source.name for source in sources)]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise InputError(f"sources.py names a source '{twice}', a name that is taken. Rename it.")
    return Table(task.classes, sources, ids, texts, spans, splits, answers,
                 np.concatenate([votes, written], axis=1), labels, _confidence(frame, columns), digest="")


def _ids(column: pd.Series, path: str) -> np.ndarray:
    ids = np.array([str(value) for value in column], dtype=object)
    missing = column.isna().to_numpy(dtype=bool) | (ids == "")
    if missing.any():
        raise InputError(f"{path}, row {missing.argmax() + 1} has no id in '{column.name}'.")
    broken = np.fromiter((i != i.encode("utf-8", "replace").decode() for i in ids), dtype=bool, count=len(ids))
    if broken.any():
        raise InputError(f"{path}, row {broken.argmax() + 1} has an id in '{column.name}' that is no valid Unicode.")
    repeated = pd.Series(ids).duplicated().to_numpy()
    if repeated.any():
        raise InputError(f"{path}, row '{ids[repeated.argmax()]}' occurs more than once. Ids should be distinct.")
    return ids


def check_texts(column: pd.Series, ids: np.ndarray, path: str) -> np.ndarray:
    """The texts as an object array, each a string with something in it.

    Raises:
        InputError: names the first row whose text is missing, NaN, no string, or blank.
    """
    wrong = ~column.map(lambda text: isinstance(text, str) and bool(text.strip())).to_numpy(dtype=bool)
    if wrong.any():
        row = wrong.argmax()
        found = "a blank one" if isinstance(column.iloc[row], str) else type(column.iloc[row]).__name__
        raise InputError(f"{path}, row '{ids[row]}': '{column.name}' should be a text. Found {found}.")
    return column.to_numpy(dtype=object)


def check_spans(columns: list[pd.Series], texts: np.ndarray, ids: np.ndarray, path: str) -> np.ndarray:
    """Character offsets [start, end) as (n, entities, 2) integers, each inside its text and not empty.

    Raises:
        InputError: names the first row whose span is malformed or outside the text.
    """
    spans = np.zeros((len(ids), len(columns), 2), dtype=np.int64)
    lengths = np.fromiter(map(len, texts), dtype=np.int64, count=len(texts))
    for entity, column in enumerate(columns):
        pairs = [_span(value) for value in column]
        wrong = np.fromiter((pair is None for pair in pairs), dtype=bool, count=len(pairs))
        if wrong.any():
            raise InputError(f"{path}, row '{ids[wrong.argmax()]}': '{column.name}' should be two whole numbers, "
                             "[start, end].")
        spans[:, entity] = np.array(pairs, dtype=np.int64)
        start, end = spans[:, entity].T
        wrong = (start < 0) | (start >= end) | (end > lengths)
        if wrong.any():
            row = wrong.argmax()
            raise InputError(f"{path}, row '{ids[row]}': '{column.name}' [{start[row]}, {end[row]}] is outside the "
                             f"text of {lengths[row]} characters.")
    return spans


def _span(value: Any) -> tuple[int, int] | None:
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except json.JSONDecodeError:
            return None
    try:
        start, end = value
        whole = int(start) == start and int(end) == end and abs(start) < 2**53 and abs(end) < 2**53
        return (int(start), int(end)) if whole else None
    except (TypeError, ValueError, OverflowError):
        return None


def _splits(column: pd.Series | None, ids: np.ndarray, path: str) -> np.ndarray:
    """The given splits; without any, 80 % train, 10 % valid, 10 % test by a hash of the id."""
    if column is None:
        buckets = np.fromiter((zlib.crc32(str(i).encode()) % 10 for i in ids), dtype=np.int64, count=len(ids))
        return np.array(["valid", "test"] + ["train"] * 8, dtype=object)[buckets]
    unknown = ~column.isin(SPLITS).to_numpy(dtype=bool)
    if unknown.any():
        row = unknown.argmax()
        raise InputError(f"{path}, row '{ids[row]}': '{column.name}' should be one of {', '.join(SPLITS)}. "
                         f"Found {column.iloc[row]!r}.")
    return column.to_numpy(dtype=object)


def stored_votes(frame: pd.DataFrame, task: Task, ids: np.ndarray, path: str) -> np.ndarray:
    """Votes (n, m) that the data holds: lists or {source: class} in one column, or columns `vote:NAME`."""
    names = [source.name for source in task.sources]
    key = task.data.votes
    prefixed = [column for column in frame.columns if str(column).startswith("vote:")]
    if key in frame:
        flat, where = _flatten_votes(frame[key], names, ids, f"{path}: '{key}'")
    elif prefixed:
        for column in prefixed:
            if column.removeprefix("vote:") not in names:
                raise InputError(f"{path} has the column '{column}', which is no source of this task.")
        for name in names:
            if f"vote:{name}" not in frame:
                raise InputError(f"{path} lacks the column 'vote:{name}', a source that task.toml lists.")
        flat = frame[[f"vote:{name}" for name in names]].to_numpy(dtype=object).ravel()
        where = f"{path}: a vote"
    elif names:
        raise InputError(f"{path} lacks the column '{key}' (or 'vote:NAME' columns), and task.toml lists "
                         f"{len(names)} sources.")
    else:
        return np.empty((len(ids), 0), dtype=np.int16)
    codes = encode_classes(pd.Series(flat, dtype=object), task.classes, np.repeat(ids, max(len(names), 1)), where)
    return codes.reshape(len(ids), len(names))


def _flatten_votes(column: pd.Series, names: list[str], ids: np.ndarray, where: str) -> tuple[np.ndarray, str]:
    values = [parsed(value) for value in column]
    if any(isinstance(value, dict) for value in values):
        known = set(names)
        for row, value in enumerate(values):
            if not isinstance(value, dict):
                raise InputError(f"{where} of row '{ids[row]}' should be an object of source and class, "
                                 "as in other rows.")
            if strange := value.keys() - known:
                raise InputError(f"{where} of row '{ids[row]}' names the source '{min(strange)}', "
                                 "which task.toml does not list.")
        values = [[value.get(name, ABSTAIN) for name in names] for value in values]
    for row, value in enumerate(values):
        if not isinstance(value, list | tuple | np.ndarray) or len(value) != len(names):
            found = len(value) if isinstance(value, list | tuple | np.ndarray) else type(value).__name__
            raise InputError(f"{where} of row '{ids[row]}' should have {len(names)} entries, one a source. "
                             f"Found {found}. Does task.toml list each source of the data?")
    flat = np.fromiter(itertools.chain.from_iterable(values), dtype=object, count=len(values) * len(names))
    return flat, where


def _confidence(frame: pd.DataFrame, columns: Columns) -> np.ndarray:
    if columns.confidence not in frame:
        return np.full(len(frame), np.nan)
    told = pd.to_numeric(frame[columns.confidence], errors="coerce").to_numpy(dtype=float)
    return np.where((told >= 0) & (told <= 1), told, np.nan)


def _digest(task: Task) -> str:
    digest = hashlib.sha256(task.data_path.read_bytes())
    if task.sources_path:
        digest.update(task.sources_path.read_bytes())
    return digest.hexdigest()
