"""Feedback: reading a file of it, and what a row means, the scores that it names and the class that its label names."""

import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from monitoring.reading import unindexed
from monitoring.tables import CHOSEN, SCORES, Feedback
from training.errors import InputError
from training.rows import read_rows
from training.sources import ABSTAIN, class_codes, classes_shown

CHUNK = 1000  # keys a query: databases bound the number of parameters

MAX_REVIEWER = 256  # characters

Known = dict[str, list[tuple[str, list[str]]]]
"""Scores by the key that names them: (score_id, class names in the order of their indices)."""


def read_feedback(
    path: Path, reviewer: str | None = None, chosen: str | None = None, probability: float | None = None,
    blank: Callable[[int], None] | None = None,
) -> list[Feedback]:
    """The rows of a file with `label` and either `score_id` or `id`: JSON Lines, CSV or Parquet.

    It may also say who the reviewer was, how the answer was chosen, and with which probability; for rows that do not,
    the arguments say it. blank: is told how many rows have no label yet, which are left out; without it, or where no
    row has one, they are refused.

    Raises:
        InputError: the file cannot be read, lacks a column, or a row has no label, names nothing, or says of how it was
            chosen what cannot be.
    """
    frame = read_rows(path)
    if "label" not in frame or not {"score_id", "id"} & set(frame.columns):
        raise InputError(f"{path} should have the columns 'label' and 'score_id' or 'id'. "
                         f"Found {', '.join(map(str, frame.columns))}.")
    names = ("label", "score_id", "id", "reviewer", "chosen", "probability")
    columns = [frame[name].tolist() if name in frame else [None] * len(frame) for name in names]
    rows, without = [], 0
    for number, values in enumerate(zip(*columns, strict=True), 1):
        label, score_id, item_id, who, how, chance = (None if _missing(value) else value for value in values)
        if label is None and blank and any(not _missing(each) for each in columns[0]):
            without += 1
            continue
        if label is None:
            raise InputError(f"{path}, row {number} has no label.")
        if score_id is None and item_id is None:
            raise InputError(f"{path}, row {number} has neither a score_id nor an id.")
        by_id = None if item_id is None or score_id is not None else str(item_id)
        who = reviewer if who is None else str(_whole(who))
        told: Any = how or chosen or "unknown"  # checked below
        row = Feedback(label if isinstance(label, str) else _whole(label), None if score_id is None else str(score_id),
                       by_id, who, told, _number(probability if chance is None else chance))
        if fault := _fault(row) or _unsaid(row):
            raise InputError(f"{path}, row {number}: {fault}.")
        rows.append(row)
    if blank and without:
        blank(without)
    return rows


def resolve(
    connection: sa.Connection, rows: Sequence[Feedback], model: str | None
) -> Iterator[tuple[str, dict[str, Any]]]:
    """The pairs of score_id and what is to be kept, as `said_by` has it, in the order of the rows of feedback.

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
            yield score_id, said_by(row, classes)


def said_by(row: Feedback, classes: Sequence[str]) -> dict[str, Any]:
    """What a row of feedback says of a score of these classes, as kept.

    Raises:
        NoClass: its label is none of them.
    """
    return {"label": "" if row.withdrawn else class_of(row, classes), "reviewer": row.reviewer, "chosen": row.chosen,
            "probability": row.probability, "trusted": row.trusted, "withdrawn": row.withdrawn}


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
                     .where(column.in_(wanted[start : start + CHUNK]), unindexed(SCORES.c.role) == "serving")
                     .order_by(SCORES.c.score_id))
            if model is not None:
                query = query.where(unindexed(SCORES.c.model) == model)
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
    """Refuse a row that names not exactly one thing, or says of how it was chosen what cannot be.

    Raises:
        InputError: it does.
    """
    if (row.score_id is None) == (row.id is None):
        raise InputError("a row of feedback should name either a score_id or an id. "
                         f"Found {'neither' if row.id is None else 'both'}. Nothing was written.")
    if fault := _fault(row):
        raise InputError(f"the feedback for {_named(row)}: {fault}. Nothing was written.")


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


def _fault(row: Feedback) -> str | None:
    """What is wrong with who says something, or with how it was chosen."""
    if row.reviewer is not None and not (row.reviewer.isprintable() and 0 < len(row.reviewer) <= MAX_REVIEWER):
        return f"'reviewer' should be 1 to {MAX_REVIEWER} printable characters"
    if row.chosen not in CHOSEN:
        return f"'chosen' should be one of {', '.join(CHOSEN)}. Found {str(row.chosen)[:60]!r}"
    if row.probability is None:
        return ("'chosen' is random, so 'probability' should say how likely the answer was to be chosen. Found none. "
                "Where it is not known, 'chosen' is unknown") if row.chosen == "random" else None
    if not isinstance(row.probability, float | int) or not 0 < row.probability <= 1:
        return f"'probability' should be a number above 0 and at most 1. Found {row.probability!r:.60}"
    if row.chosen == "all" and row.probability != 1:
        return f"'chosen' is all, so 'probability' should be 1 or missing. Found {row.probability:g}"
    return "'chosen' is whim, which has no known probability, so there should be none" if row.chosen == "whim" else None


def _unsaid(row: Feedback) -> str | None:
    """What is wrong with a probability of a way to choose that is not said: it would count for nothing."""
    if row.probability is None or row.chosen != "unknown":
        return None
    return (f"'probability' is {row.probability:g}, so 'chosen' should be random or risk. Found "
            "unknown, or none. Rows of a draw of `polarscore monitor sample` need neither")


def _number(value: Any) -> Any:
    """A cell as a number, NaN as nothing; what is no number as it is."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        return value
    return None if math.isnan(number) else number


def _missing(value: Any) -> bool:
    return value is None or value == "" or value != value


def _whole(label: Any) -> Any:
    """3.0 as a format without integers holds it is 3."""
    return int(label) if isinstance(label, float) and label.is_integer() else label


def _named(row: Feedback) -> str:
    return f"the score_id '{row.score_id}'" if row.id is None else f"the id '{row.id}'"
