"""From a journal into the store: rows that may come twice are kept once, and what was forgotten stays away."""

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

import sqlalchemy as sa

from monitoring.feedback import known, named, said_by
from monitoring.once import once
from monitoring.tables import FEEDBACK, FORGOTTEN, SCORES, ScoredAnswer, TakenFeedback
from monitoring.tallies import add_to_tallies
from training.errors import InputError


def merge(connection: sa.Connection, scores: Sequence[ScoredAnswer], taken: Sequence[TakenFeedback]) -> None:
    """Keep scores, then feedback; a score_id or a label that is kept already stays as it is.

    The caller's transaction is one that the store gave for writing. Scores that were made before one of their ids was
    forgotten are left out, and so is feedback that names no score that is kept (any more).
    """
    insert_scores(connection, _not_forgotten(connection, scores))
    labels = []
    for model, rows in _by_model(taken).items():
        by_score, by_item = known(connection, [each.row for each in rows], model, held=True)
        for each in rows:
            labels += _labels(each, named(each.row, by_score, by_item))
    if labels:
        connection.execute(once(connection, FEEDBACK), labels)


def insert_scores(connection: sa.Connection, rows: Sequence[ScoredAnswer]) -> int:
    """Insert those whose score_id is not taken, and count them in the tallies: how many."""
    if not rows:
        return 0
    insert = once(connection, SCORES).returning(SCORES.c.score_id)
    fresh = set(connection.execute(insert, [_record(row) for row in rows]).scalars())
    add_to_tallies(connection, {row.score_id: row for row in reversed(rows) if row.score_id in fresh}.values())
    return len(fresh)


def key_of(name: str) -> str:
    """Under which an id is remembered as forgotten."""
    return hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()


def _not_forgotten(connection: sa.Connection, scores: Sequence[ScoredAnswer]) -> list[ScoredAnswer]:
    if not scores:
        return []
    since = min(row.created_at for row in scores)
    at = {row.key: row.at for row in connection.execute(sa.select(FORGOTTEN).where(FORGOTTEN.c.at >= since))}
    if not at:
        return list(scores)

    def forgotten(row: ScoredAnswer) -> bool:
        moments = (at.get(key_of(name)) for name in (row.item_id, row.score_id, row.shadow_of) if name is not None)
        return any(moment is not None and row.created_at <= moment for moment in moments)

    return [row for row in scores if not forgotten(row)]


def _record(row: ScoredAnswer) -> dict[str, Any]:
    agreeing = sum(vote == row.answer for vote in row.votes.values())
    return {**vars(row), "sources_voting": len(row.votes), "sources_agreeing": agreeing}


def _labels(taken: TakenFeedback, scores: Iterable[tuple[str, list[str]]]) -> list[dict[str, Any]]:
    labels = []
    for score_id, classes in scores:
        try:
            said = said_by(taken.row, classes)
        except InputError:  # a version of other classes has scored the item since
            continue
        labels.append({"uid": f"{taken.uid}:{score_id}", "score_id": score_id, "created_at": taken.created_at, **said})
    return labels


def _by_model(taken: Sequence[TakenFeedback]) -> dict[str, list[TakenFeedback]]:
    grouped = defaultdict(list)
    for each in taken:
        grouped[each.model].append(each)
    return grouped
