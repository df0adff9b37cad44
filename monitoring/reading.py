"""From a query to a frame: a part at a time, each column at once a compact array, so that millions of rows fit."""

import json
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pandas as pd
import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import ARRAY

from monitoring.tally import VOTE
from registry.database import UtcDateTime

PART = 20_000  # rows whose values become an array at once
FEW = 250  # rows that exist at once: so few that Python's garbage collector is not called for them


def fetch(connection: sa.Connection, query: sa.Select[Any]) -> pd.DataFrame:
    """The rows of a query on columns of tables, numbered from 0; types are the same without any row.

    A text that may be missing is an object, None without; any other is `str`. Moments are in UTC, to a microsecond.
    JSON stays text. What repeats in a part is kept once.
    """
    kinds = {column.name: _kind(column) for column in query.selected_columns}
    plain = query.with_only_columns(*(_plain(connection, column).label(column.name)
                                      for column in query.selected_columns), maintain_column_froms=True)
    parts: dict[str, list[pd.Series]] = {name: [kind(())] for name, kind in kinds.items()}
    at_server = {"stream_results": True, "max_row_buffer": PART} if connection.dialect.name == "postgresql" else {}
    with connection.execute(plain, execution_options=at_server) as result:  # SQLite gives them one by one anyway
        for columns in _columns(result, len(kinds)):
            for (name, kind), values in zip(kinds.items(), columns, strict=True):
                parts[name].append(kind(values))
    return pd.DataFrame({name: pd.concat(parts.pop(name), ignore_index=True) for name in kinds})


def among(connection: sa.Connection, column: sa.Column[Any], keys: Sequence[str]) -> sa.ColumnElement[bool]:
    """Whether a column is one of so many keys, each looked up by the column's index; they are one parameter."""
    if connection.dialect.name == "sqlite":
        each = sa.func.json_each(json.dumps(list(keys))).table_valued(sa.column("value", sa.Text))
        return column.in_(sa.select(each.c.value))
    return column == sa.any_(sa.literal(list(keys), ARRAY(sa.Text)))


def unindexed(column: sa.Column[Any]) -> sa.ColumnElement[str]:
    """A text column of which no index is used, where SQLite, without statistics, would choose the wrong one."""
    return column.concat("")


def votes_of(texts: pd.Series) -> pd.DataFrame:
    """What the sources voted, from the JSON of each row: `vote:NAME`, a class's name or None, in the names' order."""
    said = pd.DataFrame(json.loads(f"[{','.join(texts)}]"), index=texts.index, dtype=object)
    return said.where(said.notna(), None).sort_index(axis=1).add_prefix(VOTE)


def _columns(result: sa.CursorResult[Any], width: int) -> Iterator[list[list[Any]]]:
    """The columns of a part of the rows at a time."""
    columns: list[list[Any]] = [[] for _ in range(width)]
    for rows in result.partitions(FEW):
        for column, values in zip(columns, zip(*rows, strict=True), strict=True):
            column.extend(values)
        if len(columns[0]) >= PART:
            yield columns
            columns = [[] for _ in range(width)]
    yield columns


def _moments(values: Sequence[Any]) -> pd.Series:
    return pd.Series(pd.to_datetime(list(values), utc=True, format="ISO8601").as_unit("us"))


def _shared(values: Sequence[Any]) -> pd.Series:
    objects = pd.Series(values, dtype=object)
    codes, uniques = pd.factorize(objects, use_na_sentinel=False)
    return pd.Series(uniques.astype(object).take(codes), dtype=object).where(objects.notna(), None)


def _of(dtype: str) -> Callable[[Sequence[Any]], pd.Series]:
    return lambda values: pd.Series(values, dtype=dtype)


def _kind(column: Any) -> Callable[[Sequence[Any]], pd.Series]:
    """How a column of a table becomes one of a frame."""
    match column.type:
        case UtcDateTime():
            return _moments
        case sa.Boolean():
            return _of("bool")
        case sa.Float():
            return _of("float64")
        case sa.Integer():
            return _of("int64")
        case sa.JSON():
            return _of("object")
        case _:
            return _shared if column.nullable else _of("str")


def _plain(connection: sa.Connection, column: Any) -> Any:
    """As the database has it: no work for each value."""
    match column.type:
        case UtcDateTime() if connection.dialect.name == "sqlite":
            return sa.type_coerce(column, sa.Text)
        case UtcDateTime():
            return sa.type_coerce(column, sa.DateTime(timezone=True))
        case sa.JSON():
            return sa.cast(column, sa.Text)
        case _:
            return column
