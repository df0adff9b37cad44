"""Erasing scores with their labels, by name or by age, so that nothing of them is left in the database's file."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

import sqlalchemy as sa

from monitoring.merging import INSERT, key_of
from monitoring.tables import FEEDBACK, FORGOTTEN, SCORES

CHUNK = 500  # rows or names a statement
REMEMBERED = timedelta(days=90)  # how long a score made before its id was forgotten may be under way


@dataclass(frozen=True)
class Erased:
    """What was erased: score_ids, ids, hashes of the texts. labels: how many.

    unhashed: how many scores had no hash and may have left a vector on disk. A service, which decides, writes no vector
    without a hash; those are scores that an older polarscore kept in batch.
    """

    scores: frozenset[str] = frozenset()
    ids: frozenset[str] = frozenset()
    hashes: frozenset[str] = frozenset()
    labels: int = 0
    unhashed: int = 0

    def __add__(self, other: "Erased") -> "Erased":
        return Erased(self.scores | other.scores, self.ids | other.ids, self.hashes | other.hashes,
                      self.labels + other.labels, self.unhashed + other.unhashed)


def erase_named(connection: sa.Connection, names: Sequence[str], at: datetime) -> Erased:
    """Erase every score of these ids, the scores of these score_ids, and those in the dark beside them.

    at: scores made up to then that come later, from a journal, are not kept either.
    """
    _remember(connection, names, at)
    erased = Erased()
    for start in range(0, len(names), CHUNK):
        some = names[start : start + CHUNK]
        erased += _erase(connection, sa.or_(*(column.in_(some) for column in
                                              (SCORES.c.item_id, SCORES.c.score_id, SCORES.c.shadow_of))))
    return erased


def erase_before(connection: sa.Connection, moment: datetime) -> Erased:
    """Erase the oldest scores made before a moment, `CHUNK` at most."""
    oldest = sa.select(SCORES.c.score_id).where(SCORES.c.created_at < moment).order_by(SCORES.c.created_at)
    return _erase(connection, SCORES.c.score_id.in_(oldest.limit(CHUNK)))


def _erase(connection: sa.Connection, which: sa.ColumnElement[bool]) -> Erased:
    columns = (SCORES.c.score_id, SCORES.c.item_id, SCORES.c.text_hash, SCORES.c.decision)
    rows = connection.execute(sa.select(*columns).where(which).with_for_update()).all()
    ids, labels = [row.score_id for row in rows], 0
    for start in range(0, len(ids), CHUNK):
        some = ids[start : start + CHUNK]
        labels += connection.execute(sa.delete(FEEDBACK).where(FEEDBACK.c.score_id.in_(some))).rowcount
        connection.execute(sa.delete(SCORES).where(SCORES.c.score_id.in_(some)))
    return Erased(frozenset(ids), frozenset(row.item_id for row in rows),
                  frozenset(row.text_hash for row in rows if row.text_hash), labels,
                  sum(row.text_hash is None and row.decision is None for row in rows))


def _remember(connection: sa.Connection, names: Sequence[str], at: datetime) -> None:
    connection.execute(sa.delete(FORGOTTEN).where(FORGOTTEN.c.at < at - REMEMBERED))
    insert = INSERT[connection.dialect.name](FORGOTTEN)
    insert = insert.on_conflict_do_update(index_elements=[FORGOTTEN.c.key], set_={"at": insert.excluded.at})
    connection.execute(insert, [{"key": key_of(name), "at": at} for name in dict.fromkeys(names)])
