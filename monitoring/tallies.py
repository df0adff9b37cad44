"""The tallies of scores as kept, an hour and a version each: written with the scores, read without looking at any.

They are counts and name nobody: they stay when scores are erased, so that drift can be told later too. How many of the
counted scores were erased is beside them.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta

import sqlalchemy as sa

from monitoring.once import once
from monitoring.tables import TALLIES, ScoredAnswer
from monitoring.tally import AGREES, DIFFERS, NUMBERS, SOURCE, Tally, added

Key = tuple[str, str, str, datetime]
"""model, version, role, hour"""


def add_to_tallies(connection: sa.Connection, rows: Iterable[ScoredAnswer]) -> None:
    """Count scores that were inserted, in the transaction that inserted them."""
    grouped: dict[Key, list[ScoredAnswer]] = defaultdict(list)
    for row in rows:
        grouped[row.model, row.version, row.role, hour_of(row.created_at)].append(row)
    for key in sorted(grouped):  # in one order, so that writers wait for each other and not in a circle
        fresh = counted(grouped[key])
        values = dict(zip(("model", "version", "role", "hour"), key, strict=True))
        connection.execute(once(connection, TALLIES), values | {"n": 0, "counts": {}})
        kept = connection.execute(sa.select(TALLIES.c.n, TALLIES.c.counts).where(_is(key)).with_for_update()).one()
        total = added([Tally(kept.n, kept.counts), fresh])
        connection.execute(sa.update(TALLIES).where(_is(key)).values(n=total.n, counts=total.counts))


def note_erased(connection: sa.Connection, keys: Iterable[Key]) -> None:
    """Note that scores are kept no longer; a key each, its moment any of its hour."""
    erased = Counter((*key[:3], hour_of(key[3])) for key in keys)
    for key in sorted(erased):
        connection.execute(sa.update(TALLIES).where(_is(key)).values(erased=TALLIES.c.erased + erased[key]))


def read_tallies(
    connection: sa.Connection, model: str, version: str, role: str, since: datetime | None
) -> list[tuple[datetime, Tally]]:
    """The hours of a version and their tallies, the oldest first; from the hour on in which `since` lies."""
    query = sa.select(TALLIES.c.hour, TALLIES.c.n, TALLIES.c.counts).order_by(TALLIES.c.hour)
    query = query.where(TALLIES.c.model == model, TALLIES.c.version == version, TALLIES.c.role == role)
    if since is not None:
        query = query.where(TALLIES.c.hour >= hour_of(since))
    return [(row.hour, Tally(row.n, row.counts)) for row in connection.execute(query)]


def kept_by_version(connection: sa.Connection) -> list[tuple[str, str, int]]:
    """The versions of which scores are kept: model, version, and how many."""
    kept = sa.func.sum(TALLIES.c.n - TALLIES.c.erased)
    of = (TALLIES.c.model, TALLIES.c.version)
    rows = connection.execute(sa.select(*of, kept).group_by(*of).having(kept > 0).order_by(*of))
    return [(model, version, int(n)) for model, version, n in rows]


def hour_of(moment: datetime) -> datetime:
    """The beginning of its hour, in UTC."""
    at = moment.astimezone(UTC)
    return at - timedelta(minutes=at.minute, seconds=at.second, microseconds=at.microsecond)


def counted(rows: Iterable[ScoredAnswer]) -> Tally:
    """The `tally` of scores, for the few at a time that a running service inserts: without a frame, in microseconds."""
    n, found = 0, defaultdict[str, Counter[str]](Counter)
    for row in rows:
        n += 1
        found["harmonizer_answer"][row.harmonizer_answer] += 1
        found["text_length"][f"{max(row.text_length, 1).bit_length() - 1:02d}"] += 1
        if row.risk is not None:
            found["risk"][_bin("risk", row.risk)] += 1
        if row.answer is not None:
            found["answer"][row.answer] += 1
        agreeing = 0
        for source, vote in row.votes.items():
            agreeing += (agrees := vote == row.answer)
            found[SOURCE + source][AGREES if agrees else DIFFERS] += 1
        if row.answer is not None and row.votes:
            found["agreement"][_bin("agreement", agreeing / len(row.votes))] += 1
    return Tally(n, {feature: dict(bins) for feature, bins in found.items()})


def _bin(feature: str, value: float) -> str:
    return f"{min(int(value * NUMBERS[feature]), NUMBERS[feature] - 1):02d}"


def _is(key: Key) -> sa.ColumnElement[bool]:
    return sa.and_(*(TALLIES.c[name] == value for name, value in zip(("model", "version", "role", "hour"), key,
                                                                      strict=True)))
