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
    by_score, by_item = known(connection, rows, model)
    for row in rows:
        check_named(row)
        found = named(row, by_score, by_item)
        if not found:
            raise unknown(row, model)
        for score_id, classes in found:
            yield score_id, class_of(row, classes)


def known(
    connection: sa.Connection, rows: Sequence[Feedback], model: str | None, held: bool = False
) -> tuple[Known, Known]:
    """The kept scores that rows name: by score_id, and by id. Scores in the dark are labelled with the served one.

    held: until the transaction ends, nobody erases them.
    """
    def found(column: sa.Column[Any], keys: set[str | None]) -> Known:
        wanted = sorted(key for key in keys if key is not None)
        known: Known = {}
        for start in range(0, len(wanted), CHUNK):
            query = (sa.select(column, SCORES.c.score_id, SCORES.c.probabilities)
                     .where(column.in_(wanted[start : start + CHUNK]), SCORES.c.shadow_of.is_(None))
                     .order_by(SCORES.c.score_id))
            if model is not None:
                query = query.where(SCORES.c.model == model)
            if held:
                query = query.with_for_update(read=True, key_share=True)
            for key, score_id, probabilities in connection.execute(query):
                known.setdefault(key, []).append((score_id, list(probabilities)))
        return known

    return (found(SCORES.c.score_id, {row.score_id for row in rows}),
            found(SCORES.c.item_id, {row.id for row in rows}))


def named(row: Feedback, by_score: Known, by_item: Known) -> list[tuple[str, list[str]]]:
    """Those of the scores that a row names; none where it names no kept one."""
    return by_score.get(str(row.score_id), []) if row.id is None else by_item.get(row.id, [])


def check_named(row: Feedback) -> None:
    """Refuse a row that names not exactly one thing.

    Raises:
        InputError: it does.
    """
    if (row.score_id is None) == (row.id is None):
        raise InputError("a row of feedback should name either a score_id or an id. "
                         f"Found {'neither' if row.id is None else 'both'}. Nothing was written.")


class NoClass(InputError):
    """A label that is no class of the model, or of the version, that made the score."""


def unknown(row: Feedback, model: str | None) -> InputError:
    """What to say of a row that names no kept score."""
    of = "" if model is None else f" of model '{model}'"
    return InputError(f"feedback names {_named(row)}, of which no score{of} is kept. Nothing was written.")


def class_of(row: Feedback, classes: Sequence[str]) -> str:
    """The class that a row's label means.

    Raises:
        NoClass: none of them.
    """
    code = ABSTAIN if isinstance(row.label, bool) else class_codes(classes).get(row.label, ABSTAIN)
    if code == ABSTAIN:
        raise NoClass(f"the feedback for {_named(row)} says {str(row.label)[:60]!r}, which is no class. "
                      f"Expected {classes_shown(classes)}. Nothing was written.")
    return classes[code]


def _missing(value: Any) -> bool:
    return value is None or value == "" or value != value


def _whole(label: Any) -> Any:
    """3.0 as a format without integers holds it is 3."""
    return int(label) if isinstance(label, float) and label.is_integer() else label


def _named(row: Feedback) -> str:
    return f"the score_id '{row.score_id}'" if row.id is None else f"the id '{row.id}'"
