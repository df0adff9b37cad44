"""The few labels that sources are written from: read from a file, asked of a person, or taken from the task."""

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from training.errors import InputError
from training.rows import read_rows
from training.sources import encode_classes
from training.table import Table
from training.task import ABSTAIN

COLUMNS = ("id", "split", "text", "label")


@dataclass(frozen=True)
class Labelled:
    """rows: (l,) places in the table, none of split test. labels: (l,) class indices."""

    rows: np.ndarray
    labels: np.ndarray


def read_labels(path: Path, table: Table) -> Labelled:
    """The labels of a file with columns `id` and `label`, in any format that data may have; empty ones are passed over.

    Raises:
        InputError: a column is missing; an id is unknown, lies in split test or has two different labels; a label is
        no class; there is no label.
    """
    frame = read_rows(path)
    for name in ("id", "label"):
        if name not in frame:
            raise InputError(f"{path} lacks the column '{name}'. Expected the columns id and label.")
    given = frame["label"].map(lambda label: _tidy(label, table.classes))
    there = given.notna().to_numpy(dtype=bool)
    ids = np.array([str(value) for value in frame["id"]], dtype=object)[there]
    rows = pd.Index(table.ids.astype(str)).get_indexer(ids)
    _refuse(rows < 0, ids, path, "is not in the data. Was the file made for another task?")
    _refuse(table.splits[rows] == "test", ids, path,
            "lies in split test, which labels to learn from should leave alone.")
    labels = encode_classes(given[there], table.classes, ids, f"{path}: 'label'").astype(np.int64)
    kept = pd.DataFrame({"row": rows, "label": labels})[labels != ABSTAIN].drop_duplicates()
    if kept.empty:
        raise InputError(f"{path} has no label yet. Fill in the column 'label' with classes of the task.")
    twice = kept["row"].duplicated().to_numpy()
    if twice.any():
        raise InputError(f"{path}, row '{table.ids[kept['row'].to_numpy()[twice.argmax()]]}' has two different labels. "
                         "Keep the right one.")
    return Labelled(kept["row"].to_numpy(), kept["label"].to_numpy())


def own_labels(table: Table, count: int, seed: int) -> Labelled:
    """So many labels of the task's own, drawn from split train, or from valid where train has none.

    Raises:
        InputError: there are not so many.
    """
    pools = {split: np.flatnonzero((table.splits == split) & (table.labels != ABSTAIN)) for split in ("train", "valid")}
    split = "train" if len(pools["train"]) or not len(pools["valid"]) else "valid"
    rows = _random(pools[split], count, table, seed, f"labelled rows in split {split}")
    return Labelled(rows, table.labels[rows].astype(np.int64))


def drawn(table: Table, count: int, seed: int, balanced: bool = False) -> np.ndarray:
    """Rows (count,) of train and valid for a person to label.

    balanced: the answers of the LLM take turns, so that a class that it seldom names is there too.

    Raises:
        InputError: there are not so many.
    """
    pool = np.flatnonzero(table.splits != "test")
    shuffled = _random(pool, len(pool) if balanced else count, table, seed, "rows in splits train and valid")
    if not balanced:
        return shuffled
    _check(count, len(pool), "rows in splits train and valid")
    turn = pd.Series(table.answers[shuffled]).groupby(table.answers[shuffled]).cumcount().to_numpy()
    return np.asarray(shuffled[np.argsort(turn, kind="stable")[:count]])


def as_csv(table: Table, rows: np.ndarray) -> str:
    """The file that a person fills in: id, split, text, and an empty label. It does not say what the LLM answered."""
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(COLUMNS)
    writer.writerows([table.ids[row], table.splits[row], table.texts[row], ""] for row in rows)
    return text.getvalue()


def _random(pool: np.ndarray, count: int, table: Table, seed: int, what: str) -> np.ndarray:
    """So many of the places, in random order; the order of the table's rows does not matter."""
    _check(count, len(pool), what)
    pool = pool[np.argsort(table.ids[pool].astype(str), kind="stable")]
    return np.asarray(pool[np.random.default_rng(seed).permutation(len(pool))[:count]])


def _tidy(label: Any, classes: Sequence[str]) -> Any:
    """Without the blanks around what a person typed, unless a class is called so; None where nothing is left."""
    return (label.strip() or None) if isinstance(label, str) and label not in classes else label


def _check(count: int, most: int, what: str) -> None:
    if not most:
        raise InputError(f"the task has no {what}. Expected at least {max(count, 1)}.")
    if not 1 <= count <= most:
        raise InputError(f"the number of labels should be from 1 to {most}, the {what}. Found {count}.")


def _refuse(wrong: np.ndarray, ids: np.ndarray, path: Path, reason: str) -> None:
    if wrong.any():
        raise InputError(f"{path}, row '{ids[wrong.argmax()]}' {reason}")
