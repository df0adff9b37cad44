"""Feedback: reading a file of it, and what a row means, the scores that it names and the class that its label names."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from monitoring.tables import SCORES, Feedback
from training.errors import InputError
from training.rows import read_rows
from training.sources import ABSTAIN, class_codes, classes_shown

CHUNK = 1000  # keys a query: databases bound the number of parameters

Known = dict[str, list[tuple[str, list[str]]]]
"""Scores by the key that names them: (score_id, class names in the order of their indices)."""


def read_feedback(path: Path) -> list[Feedback]:
    """The rows of a file with `label` and either `score_id` or `id`: JSON Lines, CSV or Parquet.

    Raises:
        InputError: the file cannot be read, lacks a column, or a row has no label or names nothing.
    """
    frame = read_rows(path)
    if "label" not in frame or not {"score_id", "id"} & set(frame.columns):
        raise InputError(f"{path} should have the columns 'label' and 'score_id' or 'id'. "
                         f"Found {', '.join(map(str, frame.columns))}.")
    columns = [frame[name].tolist() if name in frame else [None] * len(frame) for name in ("label", "score_id", "id")]
    rows = []
    for number, (label, score_id, item_id) in enumerate(zip(*columns, strict=True), 1):
        label, score_id, item_id = (None if _missing(value) else value for value in (label, score_id, item_id))
        if label is None:
            raise InputError(f"{path}, row {number} has no label.")
        if score_id is None and item_id is None:
            raise InputError(f"{path}, row {number} has neither a score_id nor an id.")
        by_id = None if item_id is None or score_id is not None else str(item_id)
        rows.append(Feedback(label if isinstance(label, str) else _whole(label),
                             None if score_id is None else str(score_id), by_id))
    return rows


def resolve(
    connection: sa.Connection, rows: Sequence[Feedback], model: str | None
) -> Iterator[tuple[str, str]]:
    """The (score_id, class name) pairs that rows of feedback say, in the order of the rows.

    model: ids are looked up among this model's scores only; None: among all.

    Raises:
        InputError: a row that names no kept score, or a label that is no class of the score's model.
    """
    by_score = _known(connection, SCORES.c.score_id, {row.score_id for row in rows}, model)
    by_item = _known(connection, SCORES.c.item_id, {row.id for row in rows}, model)
    for row in rows:
        if (row.score_id is None) == (row.id is None):
            raise InputError("a row of feedback should name either a score_id or an id. "
                             f"Found {'neither' if row.id is None else 'both'}. Nothing was written.")
        found = by_score.get(str(row.score_id)) if row.id is None else by_item.get(row.id)
        if found is None:
            of = "" if model is None else f" of model '{model}'"
            raise InputError(f"feedback names {_named(row)}, of which no score{of} is kept. "
                             "Nothing was written.")
        for score_id, classes in found:
            yield score_id, _class(row, classes)


def _known(
    connection: sa.Connection, column: sa.Column[Any], keys: set[str | None], model: str | None
) -> Known:
    wanted = sorted(key for key in keys if key is not None)
    found: Known = {}
    for start in range(0, len(wanted), CHUNK):
        query = (sa.select(column, SCORES.c.score_id, SCORES.c.probabilities)
                 .where(column.in_(wanted[start : start + CHUNK]))
                 .order_by(SCORES.c.score_id))
        if model is not None:
            query = query.where(SCORES.c.model == model)
        for key, score_id, probabilities in connection.execute(query):
            found.setdefault(key, []).append((score_id, list(probabilities)))
    return found


def _class(row: Feedback, classes: list[str]) -> str:
    code = ABSTAIN if isinstance(row.label, bool) else class_codes(classes).get(row.label, ABSTAIN)
    if code == ABSTAIN:
        raise InputError(f"the feedback for {_named(row)} says {str(row.label)[:60]!r}, which is no class. "
                         f"Expected {classes_shown(classes)}. Nothing was written.")
    return classes[code]


def _missing(value: Any) -> bool:
    return value is None or value == "" or value != value


def _whole(label: Any) -> Any:
    """3.0 as a format without integers holds it is 3."""
    return int(label) if isinstance(label, float) and label.is_integer() else label


def _named(row: Feedback) -> str:
    return f"the score_id '{row.score_id}'" if row.id is None else f"the id '{row.id}'"
