"""Inserting rows that may be there already: those stay as they are."""

from collections.abc import Callable
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

INSERT: dict[str, Callable[[sa.Table], Any]] = {"sqlite": sqlite.insert, "postgresql": postgresql.insert}


def once(connection: sa.Connection, table: sa.Table) -> Any:
    """An insertion that leaves out the rows whose key is taken."""
    return INSERT[connection.dialect.name](table).on_conflict_do_nothing()
