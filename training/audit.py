"""The audit: which answers a person should check, and the file that carries them there and back.

Most of the N rows are drawn at random from the answers of split valid, which the harmonizer was not fitted on.
The answers are sorted by their risk. The safest of them, up to where their mean risk reaches α (at least a tenth of
all), are cut into 0.91 N cells of the same number of rows, and one row is drawn from each: that is where a
threshold for an error rate α must lie, and a known number of labels lies below every border between cells. The
other rows of valid are cut into 0.09 N cells of nearly the same size, one row from each, so that high risks are
recalibrated too. Every row records its probability, 1 / the rows of its cell.

Where valid has fewer than N answers, or its cells of the same size leave fewer than 0.09 N rows, the rest come from
train: cells again, but of purpose `chosen`. The votes of those rows were fitted on, so they serve the recalibration
and no guarantee.
"""

import csv
import io
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from training.errors import InputError
from training.rows import read_rows
from training.sources import encode_classes
from training.table import Table
from training.task import ABSTAIN

SHARE, LEAST = 0.91, 0.1
RANDOM, CHOSEN = "random", "chosen"
COLUMNS = ("id", "split", "text", "answer", "label", "purpose", "cell", "probability")


@dataclass(frozen=True)
class Draw:
    """The n rows that a person should check.

    rows: (n,) places in the table, in the order of the cells. cell: (n,) 0..k−1 for the k cells of equal size that
    a guarantee rests on, the safest first; -1 for the other rows. probability: (n,) with which each row was drawn.
    purpose: (n,) `random` or `chosen`.
    """

    rows: np.ndarray
    cell: np.ndarray
    probability: np.ndarray
    purpose: np.ndarray


@dataclass(frozen=True)
class Audited:
    """The rows of a file that came back; arrays as in `Draw`. labels: (n,) class indices, -1 = not yet checked."""

    rows: np.ndarray
    cell: np.ndarray
    probability: np.ndarray
    purpose: np.ndarray
    labels: np.ndarray

    @property
    def checked(self) -> np.ndarray:
        """(n,) whether a person has filled in the label."""
        return self.labels != ABSTAIN


def cells(risk: np.ndarray, n: int, alpha: float, least: int = 0) -> tuple[np.ndarray, int]:
    """Borders (n' + 1,) of the cells in the order of the risks (m,), and how many of them have the same size.

    Cell j holds the places borders[j] to borders[j + 1] of the sorted risks. n' = min(n, m), or fewer where the cells
    of the same size leave too few rows for the others, but at least `least`, if m is.
    """
    rows, n = len(risk), min(n, len(risk))
    ordered = np.sort(risk)
    safe = int((np.cumsum(ordered) <= alpha * np.arange(1, rows + 1)).sum())
    equal = math.ceil(SHARE * n)
    size = min(max(1, round(max(safe, LEAST * rows) / equal)), (rows - max(min(least, n) - equal, 0)) // equal)
    rest = np.linspace(size * equal, rows, min(n - equal, rows - size * equal) + 1).astype(np.int64)
    return np.concatenate([np.arange(equal) * size, rest]), equal


def order(risk: np.ndarray) -> np.ndarray:
    """The places (m,) of the risks, the lowest first; ties stay in the order of the rows."""
    return np.argsort(risk, kind="stable")


def draw(risk: np.ndarray, splits: np.ndarray, n: int, seed: int = 0, alpha: float = 0.10) -> Draw:
    """Draw n rows of train and valid to check; the same for the same arguments.

    risk: (rows,) label-free, NaN where there is no answer. splits: (rows,). alpha: the error rate that a threshold
    will be asked for.

    Raises:
        InputError: n is below 1 or above the number of answers in train and valid, or alpha is not in (0, 1).
    """
    check_draw(~np.isnan(risk), splits, n, alpha)
    answered = {split: np.flatnonzero((splits == split) & ~np.isnan(risk)) for split in ("valid", "train")}
    generator = np.random.default_rng(seed)
    parts: list[Draw] = []
    for split, purpose, least in (("valid", RANDOM, n - len(answered["train"])), ("train", CHOSEN, n)):
        left = n - sum(len(part.rows) for part in parts)
        if left and len(answered[split]):
            borders = cells(risk[answered[split]], left, alpha, least)
            parts.append(_draw_one_a_cell(risk, answered[split], *borders, purpose, generator))
    return Draw(*(np.concatenate([getattr(part, name) for part in parts])
                  for name in ("rows", "cell", "probability", "purpose")))


def check_draw(answered: np.ndarray, splits: np.ndarray, n: int, alpha: float) -> None:
    """Refuse what `draw` cannot do, before anything is trained. answered, splits: (rows,).

    Raises:
        InputError: as `draw`.
    """
    most = int((answered & (splits != "test")).sum())
    if not 1 <= n <= most:
        raise InputError(f"--audit should be from 1 to {most}, the answers in splits train and valid. Found {n}.")
    if not 0 < alpha < 1:
        raise InputError(f"alpha, the error rate to keep under, should lie between 0 and 1. Found {alpha}.")


def _draw_one_a_cell(
    risk: np.ndarray, pool: np.ndarray, borders: np.ndarray, equal: int, purpose: str, generator: np.random.Generator
) -> Draw:
    sizes = np.diff(borders)
    rows = pool[order(risk[pool])][borders[:-1] + (generator.random(len(sizes)) * sizes).astype(np.int64)]
    places = np.arange(len(sizes))
    cell = np.where((places < equal) & (purpose == RANDOM), places, -1)
    return Draw(rows, cell, 1 / sizes, np.full(len(sizes), purpose, dtype=object))


def check_target(path: Path) -> None:
    """Refuse a file that `write_audit` could not write, before anything is trained.

    Raises:
        InputError: it exists already (it may hold labels), does not end in .csv, or its folder cannot be written.
    """
    if path.suffix != ".csv":
        raise InputError(f"{path} should end in .csv, the format of the file to fill in.")
    if path.exists() or path.is_symlink():
        raise InputError(f"{path} exists already, and may hold labels. Name another file with --audit-file.")
    if not path.parent.is_dir():
        raise InputError(f"{path} cannot be written: there is no folder {path.parent}.")
    if not os.access(path.parent, os.W_OK | os.X_OK):
        raise InputError(f"{path} cannot be written: the folder {path.parent.absolute()} is read-only.")


def write_audit(path: Path, table: Table, drawn: Draw, seed: int = 0) -> None:
    """Write the rows to check as CSV, in random order; a person fills in the column `label`. Whole, or not at all.

    Raises:
        InputError: as `check_target`, or writing fails.
    """
    check_target(path)
    shuffled = np.random.default_rng(seed).permutation(len(drawn.rows))
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(COLUMNS)
    for place in shuffled:
        row = drawn.rows[place]
        writer.writerow([table.ids[row], table.splits[row], table.texts[row], table.classes[table.answers[row]], "",
                         drawn.purpose[place], drawn.cell[place], repr(float(drawn.probability[place]))])
    try:
        with path.open("x", encoding="utf-8", errors="replace", newline="") as file, _whole(path):
            file.write(text.getvalue())
            file.flush()
    except FileExistsError:
        raise InputError(f"{path} exists already, and may hold labels. Name another file with --audit-file.") from None
    except OSError as error:
        raise InputError(f"{path} cannot be written: {error.strerror}.") from None


@contextmanager
def written(path: Path, table: Table, drawn: Draw | None, seed: int = 0) -> Iterator[None]:
    """The file of `write_audit`, there while what follows goes on and after it; gone again if that fails."""
    if drawn is None:
        yield
        return
    write_audit(path, table, drawn, seed)
    with _whole(path):
        yield


@contextmanager
def _whole(path: Path) -> Iterator[None]:
    """Take a file away again if what follows fails."""
    try:
        yield
    except BaseException:
        path.unlink(missing_ok=True)
        raise


def read_audit(path: Path, table: Table) -> Audited:
    """Read a file of `write_audit` with labels filled in, as CSV or in any format that data may have.

    A row that occurs twice with one label counts once. Empty labels are rows not yet checked.

    Raises:
        InputError: a column is missing; an id is unknown, or lies in split test; a label is no class; an id has two
        labels; the LLM's answer is missing or another one now; purpose, cell or probability was edited into nonsense;
        no label at all.
    """
    frame = read_rows(path)
    if missing := [name for name in COLUMNS if name not in frame and name != "text"]:
        raise InputError(f"{path} lacks the column '{missing[0]}'. Expected a file of polarscore train --audit.")
    ids = np.array([str(value) for value in frame["id"]], dtype=object)
    rows = pd.Index(table.ids).get_indexer(ids)
    _refuse(rows < 0, ids, path, "is not in the data. Was the file drawn from another task?")
    _refuse(table.splits[rows] == "test", ids, path, "lies in split test, which an audit should leave alone.")
    _refuse(table.answers[rows] == ABSTAIN, ids, path, "has no answer of the LLM to check.")
    given = frame["label"].map(lambda label: label.strip() if isinstance(label, str) else label)
    labels = encode_classes(given, table.classes, ids, f"{path}: 'label'").astype(np.int64)
    answers = encode_classes(frame["answer"], table.classes, ids, f"{path}: 'answer'")
    _refuse(answers != table.answers[rows], ids, path, "has another answer in the data now. Draw a new audit.")
    purpose = frame["purpose"].to_numpy(dtype=object)
    _refuse(~np.isin(purpose.astype(str), (RANDOM, CHOSEN)), ids, path, "should have the purpose random or chosen.")
    _refuse((purpose == RANDOM) & (table.splits[rows] != "valid"), ids, path,
            "is of purpose random, which rows of split valid alone can be.")
    probability = _numbers(frame["probability"])
    _refuse(~((probability > 0) & (probability <= 1)), ids, path, "should have a probability above 0, at most 1.")
    cell = _numbers(frame["cell"])
    _refuse(~((cell >= -1) & (cell == np.floor(cell)) & (cell < len(table))), ids, path,
            "should have a cell as it was drawn, a whole number from -1.")
    found = pd.DataFrame({"row": rows, "cell": cell.astype(np.int64), "probability": probability,
                          "purpose": purpose, "label": labels, "place": np.arange(len(rows))})
    found = found.sort_values("label", ascending=False, kind="stable")  # a checked row before its unchecked copy
    both = found[found["label"] != ABSTAIN].drop_duplicates(["row", "label"])
    twice = both["row"].duplicated(keep=False).to_numpy()
    if twice.any():
        raise InputError(f"{path}, row '{ids[both['place'].to_numpy()[twice.argmax()]]}' has two different labels. "
                         "Keep the right one.")
    if both.empty:
        raise InputError(f"{path} has no label yet. Fill in the column 'label' with classes of the task.")
    found = found.drop_duplicates("row").sort_values("place")
    return Audited(found["row"].to_numpy(), found["cell"].to_numpy(), found["probability"].to_numpy(),
                   found["purpose"].to_numpy(dtype=object), found["label"].to_numpy())


def _numbers(column: pd.Series) -> np.ndarray:
    """Each cell as the very number that was written, NaN where it is none."""
    def number(value: object) -> float:
        try:
            return float(value)  # type: ignore[arg-type]
        except (TypeError, ValueError):
            return math.nan

    return np.array([number(value) for value in column], dtype=np.float64)


def _refuse(wrong: np.ndarray, ids: np.ndarray, path: Path, reason: str) -> None:
    if wrong.any():
        raise InputError(f"{path}, row '{ids[wrong.argmax()]}' {reason}")
