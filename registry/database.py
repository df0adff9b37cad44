"""Opening the database: one engine, its tables made once however many processes ask, moments in UTC."""

from contextlib import nullcontext
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from filelock import FileLock, Timeout

from registry.schema import is_current, migrate
from training.errors import InputError

WAIT_S = 30  # how long an opener or a writer waits for another
SERVER = {"connect_timeout": 10, "keepalives_idle": 15, "keepalives_interval": 5, "keepalives_count": 3,
          "tcp_user_timeout": 20_000}
"""For libpq, unless the URL says otherwise; seconds and, the last, milliseconds. So a dead network is noticed."""
SCHEMA_LOCK = 7_036_527  # any number that nobody else takes: the key of PostgreSQL's advisory lock


class UtcDateTime(sa.TypeDecorator[datetime]):
    """A moment: goes in with a time zone, comes out in UTC, also where the database keeps no zone."""

    impl = sa.DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: sa.Dialect) -> datetime | None:
        """To UTC."""
        if value is not None and value.tzinfo is None:
            raise ValueError("a moment should carry its time zone. Found none.")
        return None if value is None else value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, dialect: sa.Dialect) -> datetime | None:
        """From what the database keeps, which is UTC where it keeps no zone."""
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


def now() -> datetime:
    """This moment, in UTC."""
    return datetime.now(UTC)


def connect(url: str, migrating: bool = False) -> sa.Engine:
    """An engine, its tables in place. It logs neither statements' values nor texts.

    migrating: bring an older schema to this version, instead of refusing it.

    Raises:
        InputError: the URL is none, names another kind of database, cannot be opened, or has another schema.
    """
    parsed = _parse(url)
    on_server = parsed.get_backend_name() == "postgresql"
    told = {key: value for key, value in SERVER.items() if key not in parsed.query} if on_server else {}
    engine = sa.create_engine(parsed, hide_parameters=True, pool_pre_ping=on_server, connect_args=told)
    file = _file(parsed)
    if not on_server:
        sa.event.listen(engine, "connect", _set_up_sqlite)
    try:
        if file and not file.parent.is_dir():
            raise FileNotFoundError(f"there is no folder {file.parent}")
        with engine.connect() as connection:
            ready = is_current(connection, migrating)
        if not ready:
            with FileLock(f"{file}.lock", timeout=WAIT_S) if file else nullcontext():
                _migrate(engine, migrating)
    except InputError:
        engine.dispose()
        raise
    except (sa.exc.SQLAlchemyError, OSError, Timeout, ImportError) as error:
        engine.dispose()
        raise InputError(f"the database {shown(parsed)} cannot be opened: {_reason(error)}. "
                         "Set POLARSCORE_DATABASE_URL to one that can be written.") from None
    return engine


def sqlite_file(engine: sa.Engine) -> Path | None:
    """The file of a SQLite database; None in memory or on a server."""
    return _file(engine.url)


def shown(url: sa.URL) -> str:
    """A URL as it may be printed: no password, and no query, where one may hide too."""
    return url.set(query={}).render_as_string(hide_password=True)


def _parse(url: str) -> sa.URL:
    try:
        parsed = sa.make_url(url)
    except (sa.exc.ArgumentError, ValueError):  # its message repeats the URL, password included
        raise InputError("POLARSCORE_DATABASE_URL is no database URL. "
                         "Expected sqlite:///FILE or postgresql://USER@HOST/NAME.") from None
    if parsed.drivername in ("postgresql", "postgres"):
        parsed = parsed.set(drivername="postgresql+psycopg")
    if parsed.get_backend_name() not in ("sqlite", "postgresql"):
        raise InputError("the database should be sqlite or postgresql. "
                         f"Found '{parsed.drivername}'.")
    return parsed


def _file(url: sa.URL) -> Path | None:
    """The file of a SQLite database; None in memory or on a server."""
    if url.get_backend_name() != "sqlite" or url.database in (None, "", ":memory:"):
        return None
    return Path(str(url.database)).absolute()


def _set_up_sqlite(connection: Any, record: Any) -> None:
    cursor = connection.cursor()
    cursor.execute(f"PRAGMA busy_timeout = {WAIT_S * 1000}")
    cursor.execute("PRAGMA foreign_keys = ON")
    cursor.execute("PRAGMA synchronous = NORMAL")
    cursor.close()


def _migrate(engine: sa.Engine, migrating: bool) -> None:
    """Make or migrate the tables in one transaction: a process that is killed leaves all of it or nothing."""
    with engine.connect() as connection:
        if engine.dialect.name == "postgresql":
            connection.execute(sa.select(sa.func.pg_advisory_xact_lock(SCHEMA_LOCK)))
        else:
            connection.exec_driver_sql("PRAGMA journal_mode = WAL")  # written into the file once
            connection.exec_driver_sql("BEGIN IMMEDIATE")
        if not is_current(connection, migrating):
            migrate(connection)
        connection.commit()


def _reason(error: Exception) -> str:
    cause = getattr(error, "orig", None) or error
    if isinstance(cause, Timeout):
        return f"another process has held {cause.lock_file} for {WAIT_S} s"
    lines = str(getattr(cause, "strerror", None) or cause).strip().splitlines()
    return lines[0].rstrip(".") if lines else type(cause).__name__
