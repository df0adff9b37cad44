"""Erasing scores with their labels, by name or by age, so that nothing of them is left in the database's file.

That they were drawn to be checked goes too; the tallies, which are counts, stay. Of a labelled score that is erased by
its age stays what alarms need (`monitoring.remains`); of what is erased by name nothing.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

import sqlalchemy as sa

from monitoring.frame import read_labelled
from monitoring.merging import key_of
from monitoring.once import INSERT
from monitoring.reading import among
from monitoring.remains import keep_remains
from monitoring.tables import DRAWN, FEEDBACK, FORGOTTEN, SCORES
from monitoring.tallies import note_erased

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
    """Erase the oldest scores made before a moment, `CHUNK` at most, and those in the dark beside them."""
    query = sa.select(SCORES.c.score_id).where(SCORES.c.created_at < moment).order_by(SCORES.c.created_at)
    oldest = connection.execute(query.limit(CHUNK)).scalars().all()
    which = sa.or_(*(among(connection, column, oldest) for column in (SCORES.c.score_id, SCORES.c.shadow_of)))
    score_ids = connection.execute(sa.select(SCORES.c.score_id).where(which)).scalars().all()
    for trusted in (False, True):
        keep_remains(connection, read_labelled(connection, score_ids, trusted), trusted)
    return _erase(connection, which)


def _erase(connection: sa.Connection, which: sa.ColumnElement[bool]) -> Erased:
    columns = (SCORES.c.score_id, SCORES.c.item_id, SCORES.c.text_hash, SCORES.c.decision, SCORES.c.model,
               SCORES.c.version, SCORES.c.role, SCORES.c.created_at)
    rows = connection.execute(sa.select(*columns).where(which).with_for_update()).all()
    ids, labels = [row.score_id for row in rows], 0
    for start in range(0, len(ids), CHUNK):
        some = ids[start : start + CHUNK]
        labels += connection.execute(sa.delete(FEEDBACK).where(FEEDBACK.c.score_id.in_(some))).rowcount
        connection.execute(sa.delete(DRAWN).where(DRAWN.c.score_id.in_(some)))
        connection.execute(sa.delete(SCORES).where(SCORES.c.score_id.in_(some)))
    note_erased(connection, [(row.model, row.version, row.role, row.created_at) for row in rows])
    return Erased(frozenset(ids), frozenset(row.item_id for row in rows),
                  frozenset(row.text_hash for row in rows if row.text_hash), labels,
                  sum(row.text_hash is None and row.decision is None for row in rows))


def _remember(connection: sa.Connection, names: Sequence[str], at: datetime) -> None:
    connection.execute(sa.delete(FORGOTTEN).where(FORGOTTEN.c.at < at - REMEMBERED))
    insert = INSERT[connection.dialect.name](FORGOTTEN)
    insert = insert.on_conflict_do_update(index_elements=[FORGOTTEN.c.key], set_={"at": insert.excluded.at})
    connection.execute(insert, [{"key": key_of(name), "at": at} for name in dict.fromkeys(names)])
