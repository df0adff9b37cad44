"""The database's schema: told apart, and brought to this version by Alembic."""

from pathlib import Path

import sqlalchemy as sa

from training.errors import InputError

CURRENT = "0004"
VERSION_TABLE = "polarscore_schema"  # of our own: MLflow, which may share the database, keeps its in `alembic_version`
_OLD = ("stage_log", "scores", "feedback")


def is_current(connection: sa.Connection, migrating: bool = False) -> bool:
    """Whether the schema is of this version; False for an empty database, and if migrating for an older one.

    Raises:
        InputError: it is of an older polarscore, names the command that migrates it; or of a newer one.
    """
    found = version(connection)
    if found is not None and found > CURRENT:
        raise InputError(f"the database has schema {found}, and this polarscore knows {CURRENT}. "
                         "Use the newer polarscore that made it.")
    if found is not None and found != CURRENT and not migrating:
        raise InputError(f"the database has schema {found}, of an older polarscore, and {CURRENT} is needed. "
                         "Back it up, then run: polarscore registry migrate")
    return found == CURRENT


def version(connection: sa.Connection) -> str | None:
    """The schema's version; `0000` for that of a polarscore that kept none, None for an empty database."""
    there = sa.inspect(connection)
    if there.has_table(VERSION_TABLE):
        return str(connection.exec_driver_sql(f"SELECT version_num FROM {VERSION_TABLE}").scalar())
    return "0000" if any(map(there.has_table, _OLD)) else None


def migrate(connection: sa.Connection) -> None:
    """Bring the schema to this version, inside the caller's transaction."""
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(Path(__file__).with_name("migrations")).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = connection
    command.upgrade(config, CURRENT)
