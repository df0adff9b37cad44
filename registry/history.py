"""The log of stage changes: who moved which version from where to where, when and why. Append-only."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from registry.database import UtcDateTime, connect, now

METADATA = sa.MetaData()
LOCK = 7_036_528  # key of PostgreSQL's advisory lock for changes of stage

STAGE_LOG = sa.Table(
    "stage_log",
    METADATA,
    sa.Column("entry", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True),
    sa.Column("at", UtcDateTime, nullable=False),
    sa.Column("who", sa.Text, nullable=False),
    sa.Column("action", sa.Text, nullable=False),
    sa.Column("model", sa.Text, nullable=False, index=True),
    sa.Column("version", sa.Integer, nullable=False),
    sa.Column("from_stage", sa.Text, nullable=False),
    sa.Column("to_stage", sa.Text, nullable=False),
    sa.Column("replaced", sa.Integer),
    sa.Column("why", sa.Text, nullable=False),
    sa.Column("gates", sa.JSON, nullable=False),
)


@dataclass(frozen=True)
class Entry:
    """One change of stage. `replaced` is the version that held the stage before; `gates` what they found."""

    who: str
    action: str
    model: str
    version: int
    from_stage: str
    to_stage: str
    replaced: int | None
    why: str
    gates: list[dict[str, Any]] = field(default_factory=list)
    at: datetime = field(default_factory=now)
    entry: int | None = None


class History:
    """The log, in the state's database."""

    def __init__(self, url: str):
        self._engine = connect(url, METADATA)

    def entries(self, model: str, until: datetime | None = None) -> list[Entry]:
        """A model's changes, the oldest first; those up to a moment, if given."""
        with self._engine.connect() as connection:
            return _entries(connection, model, until)

    @contextmanager
    def changing(self, model: str) -> "Iterator[tuple[list[Entry], Callable[[Entry], None]]]":
        """One change of stage at a time, over all processes: the log so far, and how to append to it.

        The entry is kept once the block ends without an error, and not at all otherwise.
        """
        with self._engine.connect() as connection:
            if connection.dialect.name == "postgresql":
                connection.execute(sa.select(sa.func.pg_advisory_xact_lock(LOCK)))
            else:  # SQLite takes its write lock at the first write; take it before reading
                connection.exec_driver_sql("BEGIN IMMEDIATE")

            def append(entry: Entry) -> None:
                values = asdict(entry)
                values.pop("entry")
                connection.execute(sa.insert(STAGE_LOG), values)

            yield _entries(connection, model, None), append
            connection.commit()

    def close(self) -> None:
        """Give the connections back."""
        self._engine.dispose()


def in_production(entries: list[Entry]) -> list[int]:
    """The versions that a rollback walks back through, the present one last."""
    stack: list[int] = []
    for entry in entries:
        if entry.action == "rollback":
            stack = stack[:-1]
        elif entry.to_stage == "production":
            stack.append(entry.version)
    return stack


def _entries(connection: sa.Connection, model: str, until: datetime | None) -> list[Entry]:
    query = sa.select(STAGE_LOG).where(STAGE_LOG.c.model == model).order_by(STAGE_LOG.c.entry)
    if until is not None:
        query = query.where(STAGE_LOG.c.at <= until)
    return [Entry(**row) for row in connection.execute(query).mappings()]
