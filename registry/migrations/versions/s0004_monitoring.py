"""What monitoring goes by: who labelled what and why, draws, an hour's tally of scores, counts of a score's votes, and
what remains of labelled scores that are erased by age.

Feedback that is there does not say how its answers were chosen. Scores are counted a day at a time, so that a large
database takes time (docs/monitoring.md) and no more memory than a small one.
"""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import sqlalchemy as sa
from alembic import op

revision, down_revision = "0004", "0003"

_MOMENT = sa.DateTime(timezone=True)
_DAY = timedelta(days=1)


def upgrade() -> None:
    """Add columns and tables, fill in what is counted, then the index."""
    op.add_column("scores", sa.Column("sources_voting", sa.Integer, nullable=False, server_default="0"))
    op.add_column("scores", sa.Column("sources_agreeing", sa.Integer, nullable=False, server_default="0"))
    op.add_column("scores", sa.Column("spans", sa.JSON))
    op.add_column("feedback", sa.Column("reviewer", sa.Text))
    op.add_column("feedback", sa.Column("chosen", sa.Text, nullable=False, server_default="unknown"))
    op.add_column("feedback", sa.Column("probability", sa.Double))
    op.add_column("feedback", sa.Column("trusted", sa.Boolean, nullable=False, server_default=sa.false()))
    op.add_column("feedback", sa.Column("withdrawn", sa.Boolean, nullable=False, server_default=sa.false()))
    op.create_table(
        "draws",
        sa.Column("draw_id", sa.Text, primary_key=True),
        sa.Column("model", sa.Text, nullable=False),
        sa.Column("version", sa.Text, nullable=False),
        sa.Column("at", _MOMENT, nullable=False),
        sa.Column("since", _MOMENT),
        sa.Column("until", _MOMENT, nullable=False),
        sa.Column("budget", sa.Integer, nullable=False),
        sa.Column("scale", sa.Double, nullable=False),
        sa.Column("uniform", sa.Double, nullable=False),
        sa.Column("seed", sa.BigInteger, nullable=False),
        sa.Index("ix_draws_model_version", "model", "version"),
    )
    op.create_table(
        "drawn",
        sa.Column("draw_id", sa.Text, sa.ForeignKey("draws.draw_id"), primary_key=True),
        sa.Column("score_id", sa.Text, sa.ForeignKey("scores.score_id"), primary_key=True, index=True),
        sa.Column("probability", sa.Double, nullable=False),
        sa.Column("position", sa.Integer, nullable=False),
    )
    tallies = op.create_table(
        "tallies",
        sa.Column("model", sa.Text, primary_key=True),
        sa.Column("version", sa.Text, primary_key=True),
        sa.Column("role", sa.Text, primary_key=True),
        sa.Column("hour", _MOMENT, primary_key=True),
        sa.Column("n", sa.Integer, nullable=False),
        sa.Column("erased", sa.Integer, nullable=False, server_default="0"),
        sa.Column("counts", sa.JSON, nullable=False),
    )
    op.create_table(
        "evidence",
        sa.Column("evidence_id", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True),
        sa.Column("model", sa.Text, nullable=False),
        sa.Column("version", sa.Text, nullable=False),
        sa.Column("role", sa.Text, nullable=False),
        sa.Column("trusted", sa.Boolean, nullable=False),
        sa.Column("created_at", _MOMENT, nullable=False),
        sa.Column("labelled_at", _MOMENT, nullable=False),
        sa.Column("risk", sa.Double, nullable=False),
        sa.Column("error", sa.Double, nullable=False),
        sa.Column("chosen", sa.Text, nullable=False),
        sa.Column("probability", sa.Double),
        sa.Index("ix_evidence_model_version", "model", "version"),
    )
    _count(op.get_bind(), tallies)
    op.create_index("ix_scores_model_version_created_at", "scores", ["model", "version", "created_at"])


def _count(connection: sa.Connection, tallies: sa.Table) -> None:
    scores = sa.Table("scores", sa.MetaData(), autoload_with=connection)
    scores.c.created_at.type = _MOMENT
    for day in _days(connection, scores.c.created_at):
        connection.execute(_votes(connection, scores).where(day))
        kept: dict[Any, tuple[int, dict[str, dict[str, int]]]] = {}
        for *key, _, _, n in _counted(connection, scores, day, sa.literal(""), sa.literal(0), None):
            kept[tuple(key)] = n, {}
        for feature, place, source in _features(connection, scores):
            for *key, name, where, n in _counted(connection, scores, day, feature, place, source):
                kept[tuple(key)][1].setdefault(name, {})[where if isinstance(where, str) else f"{where:02d}"] = n
        connection.execute(sa.insert(tallies), [
            {"model": key[0], "version": key[1], "role": key[2], "hour": _moment(key[3]), "n": n, "counts": counts}
            for key, (n, counts) in kept.items()])


def _counted(connection: sa.Connection, scores: sa.Table, day: Any, feature: Any, place: Any, source: Any) -> Any:
    """How many scores of the day are in each bin: rows of model, version, role, hour, feature, bin, n."""
    hour = _hour(connection, scores.c.created_at)
    rows = sa.select(scores.c.model, scores.c.version, scores.c.role, hour.label("hour"), feature.label("feature"),
                     place.label("place")).where(day)
    rows = rows.select_from(scores if source is None else scores.join(source, sa.true()))
    each = rows.subquery()
    return connection.execute(sa.select(*each.c, sa.func.count()).where(each.c.place.is_not(None)).group_by(*each.c))


def _days(connection: sa.Connection, at: Any) -> Iterator[sa.ColumnElement[bool]]:
    """The days, in UTC, that have scores, as conditions."""
    oldest = sa.select(sa.func.min(at, type_=_MOMENT))
    first = connection.execute(oldest).scalar()
    while first is not None:
        day = _moment(first).replace(hour=0, minute=0, second=0, microsecond=0)
        yield sa.and_(at >= day, at < day + _DAY)
        first = connection.execute(oldest.where(at >= day + _DAY)).scalar()


def _votes(connection: sa.Connection, scores: sa.Table) -> sa.Update:
    """Sets the counts of the votes."""
    each = _each(connection, scores)
    voting = sa.select(sa.func.count()).select_from(each)
    agreeing = voting.where(each.c.value == scores.c.answer)
    return sa.update(scores).values(sources_voting=voting.correlate(scores).scalar_subquery(),
                                    sources_agreeing=agreeing.correlate(scores).scalar_subquery())


def _each(connection: sa.Connection, scores: sa.Table) -> Any:
    """The votes of a score, a row each: key and value."""
    each = sa.func.json_each if connection.dialect.name == "sqlite" else sa.func.json_each_text
    votes = sa.type_coerce(scores.c.votes, sa.Text)
    return each(votes).table_valued(sa.column("key", sa.Text), sa.column("value", sa.Text))


def _features(connection: sa.Connection, scores: sa.Table) -> list[tuple[Any, Any, Any]]:
    """What `monitoring.tally` counts: (name, bin, where it comes from besides the score)."""
    each = _each(connection, scores)
    agreement = sa.cast(scores.c.sources_agreeing, sa.Double) / sa.func.nullif(scores.c.sources_voting, 0)
    answered = sa.case((scores.c.answer.is_not(None), agreement))
    length = sa.case(*((scores.c.text_length < 2 ** (power + 1), power) for power in range(30)), else_=30)
    return [
        (sa.literal("risk"), _bin(connection, scores.c.risk, 20), None),
        (sa.literal("agreement"), _bin(connection, answered, 10), None),
        (sa.literal("answer"), scores.c.answer, None),
        (sa.literal("harmonizer_answer"), scores.c.harmonizer_answer, None),
        (sa.literal("text_length"), length, None),
        (sa.literal("source:").concat(each.c.key), sa.case((each.c.value == scores.c.answer, "agrees"),
                                                           else_="differs"), each),
    ]


def _bin(connection: sa.Connection, value: Any, bins: int) -> Any:
    scaled = value * sa.literal(bins)
    whole = sa.cast(scaled if connection.dialect.name == "sqlite" else sa.func.trunc(scaled), sa.Integer)
    return sa.case((whole >= bins, bins - 1), else_=whole)


def _hour(connection: sa.Connection, at: Any) -> Any:
    if connection.dialect.name == "sqlite":
        return sa.func.strftime("%Y-%m-%d %H:00:00", at, type_=sa.Text)
    return sa.func.date_trunc("hour", sa.func.timezone("UTC", at))


def _moment(at: Any) -> datetime:
    """In UTC, which is meant where no zone is named."""
    found = datetime.fromisoformat(at) if isinstance(at, str) else at
    return found.replace(tzinfo=UTC) if found.tzinfo is None else found.astimezone(UTC)
