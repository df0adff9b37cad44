"""The log of stage changes in the state's database: append-only, one change of a model at a time.

A change is made in two steps, since MLflow and the database have no transaction in common: what is intended is written
down, then MLflow's aliases move, then the entry takes the intention's place in one transaction. A process killed in
between leaves the intention, by which the next one finishes or undoes the change.
"""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from datetime import datetime
from types import TracebackType
from typing import Any, NamedTuple

import sqlalchemy as sa
from filelock import FileLock, Timeout

from registry.chain import Entry
from registry.database import UtcDateTime, connect, sqlite_file
from registry.stages import MOVES, PRODUCTION, PROMOTE, STAGING, THRESHOLD
from training.errors import CheckFailed, InputError

METADATA = sa.MetaData()
LOCK_TIMEOUT = "55P03"  # PostgreSQL's code for a lock that was not to be had in time
WAIT_S = 60  # how long a change waits for another one of the same model

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
    sa.Column("seq", sa.Integer, nullable=False),
    sa.Column("files", sa.Text),
    sa.Column("evidence", sa.Text),
    sa.Column("evidence_uri", sa.Text),
    sa.Column("previous", sa.Text, nullable=False),
    sa.Column("hash", sa.Text, nullable=False),
    sa.Column("key", sa.Text),
    sa.Column("signature", sa.Text),
    sa.Index("ux_stage_log_model_seq", "model", "seq", unique=True),
)

INTENTIONS = sa.Table(
    "stage_intentions",
    METADATA,
    sa.Column("model", sa.Text, primary_key=True),
    sa.Column("entry", sa.JSON, nullable=False),
)

_FIELDS = [column for column in STAGE_LOG.c if column.name != "entry"]


class Moved(NamedTuple):
    """Of an entry, what tells where the versions are."""

    seq: int
    action: str
    version: int
    to_stage: str
    replaced: int | None


class History:
    """The log, in the state's database."""

    def __init__(self, url: str):
        """Open it.

        Raises:
            InputError: it cannot be opened, or is of another polarscore.
        """
        self._engine = connect(url)

    def entries(self, model: str, limit: int | None = None) -> list[Entry]:
        """A model's entries, the oldest first; the newest `limit` of them, if given."""
        newest = sa.select(*_FIELDS).where(STAGE_LOG.c.model == model).order_by(STAGE_LOG.c.seq.desc()).limit(limit)
        with self._engine.connect() as connection:
            return [Entry(**row) for row in connection.execute(newest).mappings()][::-1]

    def moves(self, model: str, until: datetime | None = None) -> list[Moved]:
        """Where the versions went, the oldest first; up to a moment, if given."""
        columns = [STAGE_LOG.c[name] for name in Moved._fields]
        query = sa.select(*columns).where(STAGE_LOG.c.model == model).order_by(STAGE_LOG.c.seq)
        if until is not None:
            query = query.where(STAGE_LOG.c.at <= until)
        with self._engine.connect() as connection:
            return [Moved(*row) for row in connection.execute(query)]

    def count(self, model: str) -> int:
        """How many entries a model has."""
        with self._engine.connect() as connection:
            found = connection.execute(sa.select(sa.func.count()).where(STAGE_LOG.c.model == model)).scalar_one()
        return int(found)

    def models(self) -> list[str]:
        """The models that have an entry."""
        with self._engine.connect() as connection:
            query = sa.select(STAGE_LOG.c.model).distinct().order_by(STAGE_LOG.c.model)
            return list(connection.execute(query).scalars())

    def last(self, model: str) -> Entry | None:
        """A model's newest entry."""
        found = self.entries(model, limit=1)
        return found[0] if found else None

    def first(self, model: str) -> str | None:
        """The hash of a model's first entry."""
        query = sa.select(STAGE_LOG.c.hash).where(STAGE_LOG.c.model == model).order_by(STAGE_LOG.c.seq).limit(1)
        with self._engine.connect() as connection:
            return connection.execute(query).scalar()

    def production(self, model: str) -> Entry | None:
        """The entry that put a version into production."""
        return in_production_by_log(self._engine, model)

    def threshold(self, model: str) -> Entry | None:
        """The latest entry on the threshold of the version in production (`threshold_by_log`)."""
        return threshold_by_log(self._engine, model)

    def evidence(self, model: str, version: int, to: str | None = None) -> tuple[str, str] | None:
        """Place and digest of the evidence of a version's latest promotion, to a stage if one is given; None: none."""
        log = STAGE_LOG.c
        query = (sa.select(log.evidence_uri, log.evidence)
                 .where(log.model == model, log.version == version, log.evidence.is_not(None))
                 .order_by(log.seq.desc()).limit(1))
        if to is not None:
            query = query.where(log.to_stage == to)
        with self._engine.connect() as connection:
            row = connection.execute(query).first()
        return (row[0], row[1]) if row else None

    def intention(self, model: str) -> Entry | None:
        """The change that is under way or was interrupted, signed as it will be logged."""
        with self._engine.connect() as connection:
            return _intention(connection, model)

    @contextmanager
    def changing(self, model: str) -> "Iterator[Changing]":
        """One change of a model at a time, over all processes and machines.

        Raises:
            InputError: another change has taken longer than a minute.
        """
        with self._locked(model) as connection:
            yield Changing(connection, model)

    @contextmanager
    def _locked(self, model: str) -> Iterator[sa.Connection]:
        busy = InputError(f"another change of '{model}' has been under way for {WAIT_S} s. Try again later.")
        if file := sqlite_file(self._engine):
            name = hashlib.sha256(model.encode()).hexdigest()[:16]
            try:
                with FileLock(f"{file}.{name}.lock", timeout=WAIT_S), self._engine.connect() as connection:
                    connection.exec_driver_sql("PRAGMA synchronous = FULL")  # a logged change outlives a power cut
                    connection.commit()
                    yield connection
            except Timeout:
                raise busy from None
            return
        key = int.from_bytes(hashlib.sha256(f"polarscore {model}".encode()).digest()[:8], "big", signed=True)
        with self._engine.connect() as connection:
            connection.execute(sa.text(f"SET lock_timeout = '{WAIT_S}s'"))
            try:
                connection.execute(sa.select(sa.func.pg_advisory_lock(key)))  # of the session: it outlives a commit
            except sa.exc.OperationalError as error:
                if getattr(error.orig, "sqlstate", None) != LOCK_TIMEOUT:
                    raise
                raise busy from None
            connection.commit()
            try:
                yield connection
            finally:
                if not connection.invalidated:  # with the session, the lock is gone as well
                    connection.rollback()
                    connection.execute(sa.select(sa.func.pg_advisory_unlock(key)))
                    connection.commit()

    def close(self) -> None:
        """Give the connections back."""
        self._engine.dispose()

    def __enter__(self) -> "History":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class Changing:
    """A change under way; made by `History.changing`."""

    def __init__(self, connection: sa.Connection, model: str):
        self._connection, self._model = connection, model

    @property
    def last(self) -> Entry | None:
        """The newest entry."""
        query = sa.select(*_FIELDS).where(STAGE_LOG.c.model == self._model).order_by(STAGE_LOG.c.seq.desc()).limit(1)
        row = self._connection.execute(query).mappings().first()
        self._connection.commit()
        return Entry(**row) if row else None

    @property
    def intention(self) -> Entry | None:
        """What a process left that was killed."""
        found = _intention(self._connection, self._model)
        self._connection.commit()
        return found

    def intend(self, entry: Entry) -> None:
        """Write down what is about to happen."""
        values = {"model": self._model, "entry": asdict(entry) | {"at": entry.at.isoformat()}}
        self._connection.execute(sa.insert(INTENTIONS), values)
        self._connection.commit()

    def log(self, entry: Entry) -> None:
        """Append the entry and drop the intention: both, or nothing.

        Raises:
            CheckFailed: the intention is not this entry's: the database took this session for dead, and another
                process has settled the change.
        """
        intended = _intention(self._connection, self._model)
        if intended is None or intended.hash != entry.hash:
            self._connection.rollback()
            raise CheckFailed(f"another process has settled the change of '{self._model}' meanwhile. Look at it: "
                              f"polarscore registry history {self._model}")
        self._connection.execute(sa.insert(STAGE_LOG), asdict(entry))
        self._connection.execute(sa.delete(INTENTIONS).where(INTENTIONS.c.model == self._model))
        self._connection.commit()

    def drop(self) -> None:
        """Drop the intention: nothing happened."""
        self._connection.execute(sa.delete(INTENTIONS).where(INTENTIONS.c.model == self._model))
        self._connection.commit()


def in_production_by_log(engine: sa.Engine, model: str) -> Entry | None:
    """The entry that put a version into production, read with nothing but the database; None: none did.

    It is as the database has it: who relies on it looks at its signature.
    """
    log = STAGE_LOG.c
    query = (sa.select(*_FIELDS)
             .where(log.model == model, log.to_stage == PRODUCTION, log.action.in_(MOVES))
             .order_by(log.seq.desc()).limit(1))
    with engine.connect() as connection:
        row = connection.execute(query).mappings().first()
    return Entry(**row) if row else None


def threshold_by_log(engine: sa.Engine, model: str) -> Entry | None:
    """The latest entry on the threshold of the version in production since the gates last let it there; None: none.

    It stays with its version: a rollback brings it back, a promotion leaves it behind. As the database has it.
    """
    log = STAGE_LOG.c
    there = sa.and_(log.model == model, log.to_stage == PRODUCTION)
    holder = (sa.select(log.version).where(there, log.action.in_(MOVES)).order_by(log.seq.desc()).limit(1)
              .scalar_subquery())
    promoted = (sa.select(sa.func.max(log.seq)).where(there, log.version == holder, log.action == PROMOTE)
                .scalar_subquery())
    query = (sa.select(*_FIELDS)
             .where(there, log.action == THRESHOLD, log.version == holder, log.seq > promoted)
             .order_by(log.seq.desc()).limit(1))
    with engine.connect() as connection:
        row = connection.execute(query).mappings().first()
    return Entry(**row) if row else None


def in_staging_by_log(engine: sa.Engine, model: str) -> Entry | None:
    """The entry that put a version into staging, where it still is; None: none is. As the database has it."""
    log = STAGE_LOG.c
    moves = sa.select(*_FIELDS).where(log.model == model, log.action.in_(MOVES)).order_by(log.seq.desc())
    with engine.connect() as connection:
        row = connection.execute(moves.where(log.to_stage == STAGING).limit(1)).mappings().first()
        if row is None:
            return None
        left = connection.execute(moves.where(log.seq > row["seq"], sa.or_(
            log.version == row["version"], log.replaced == row["version"])).limit(1)).first()
    return None if left else Entry(**row)


def _intention(connection: sa.Connection, model: str) -> Entry | None:
    found: dict[str, Any] | None = connection.execute(
        sa.select(INTENTIONS.c.entry).where(INTENTIONS.c.model == model)).scalar()
    if not found:
        return None
    try:
        return Entry(**(found | {"at": datetime.fromisoformat(found["at"])}))
    except (TypeError, KeyError, ValueError, AttributeError):
        raise CheckFailed(f"what a change of '{model}' intends cannot be read: polarscore did not write it") from None
