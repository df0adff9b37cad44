"""How quick the queries of monitoring are on a prediction store of 10 million scores.

Run: python benchmarks/store_size.py [--rows 10000000] [--days 365] [--labels 20000] [--folder DIR | --url postgresql://…]

A day's scores, with the votes of ten sources, some in the dark, come in through the store itself, tallies and all. In
SQL the day is then copied to the days before it, ids and moments changed, and its tallies with it; labels, by three
reviewers, and two draws come in through the store again. Indexes are made anew after the copies, which is quicker.
Takes about a minute and 1 GB of disk for each million rows. The store of an earlier run in DIR, or at the URL, is used
again. Each query runs in this process `--repeats` times; `first` is the first time, `median` of all. Seconds.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import sqlalchemy as sa
from rich.console import Console
from rich.table import Table

from monitoring import queue
from monitoring.sampling import draw
from monitoring.store import Feedback, ScoredAnswer, Store
from monitoring.tables import FEEDBACK, SCORES, TALLIES

MODEL, VERSION, DARK = "mail", "3", "4"
CLASSES = ("ham", "spam", "newsletter", "other")
SOURCES = tuple(f"source-{number}" for number in range(10))
END = datetime(2026, 11, 20, tzinfo=UTC)  # when the last day ends
DAY = timedelta(days=1)
MOST = 1.0  # seconds that a query should take at most


def a_day(rows: int, seed: int = 0) -> list[ScoredAnswer]:
    """So many scores of the last day; one in twenty was made in the dark, beside the one before it."""
    generator = np.random.default_rng(seed)
    risks, lengths = generator.beta(1, 4, rows), generator.lognormal(5, 1, rows).astype(int) + 1
    answers = generator.integers(0, len(CLASSES), rows)
    votes = np.where(generator.random((rows, len(SOURCES))) < 0.4,
                     generator.integers(0, len(CLASSES), (rows, len(SOURCES))), -1)
    seconds = np.sort(generator.random(rows)) * DAY.total_seconds()
    found = list[ScoredAnswer]()
    for place in range(rows):
        risk, code = float(risks[place]), int(answers[place])
        rest = dict.fromkeys(CLASSES, risk / (len(CLASSES) - 1)) | {CLASSES[code]: 1 - risk}
        row = ScoredAnswer(
            score_id=f"00000{generator.bytes(14).hex()[1:]}-{place % 20:03d}", item_id=f"00000-{place:06d}",
            created_at=END - DAY + timedelta(seconds=seconds[place]), model=MODEL, version=VERSION,
            answer=CLASSES[code], harmonizer_answer=CLASSES[code], risk=risk, probabilities=rest,
            votes={name: CLASSES[vote] for name, vote in zip(SOURCES, votes[place].tolist(), strict=True) if vote >= 0},
            votes_used=True, text_length=int(lengths[place]), decision="accept" if risk < 0.2 else "review",
            text_hash=generator.bytes(32).hex())
        if place % 20 == 19:
            served = found[-1]
            row = replace(row, score_id=f"{served.score_id}-shadow", item_id=served.item_id, version=DARK,
                          role="shadow", shadow_of=served.score_id, created_at=served.created_at)
        found.append(row)
    return found


def fill(store: Store, rows: int, days: int, labels: int) -> None:
    """Make what is described above."""
    a_days = rows // days
    day = a_day(a_days)
    store.add_scores(day)
    indexes = [index for index in SCORES.indexes if index.name]
    with store.engine.connect() as connection:
        for index in indexes:
            index.drop(connection)
        if store.engine.dialect.name == "sqlite":
            connection.exec_driver_sql("PRAGMA cache_size = -1000000")
        last_day = {table: last_day_of(connection, table) for table in (SCORES, TALLIES)}
        connection.commit()
        for back in range(1, days):
            for table, moment in ((SCORES, "created_at"), (TALLIES, "hour")):
                connection.execute(copied(table, last_day[table], moment, back, store.engine.dialect.name))
            connection.commit()
        for index in indexes:
            index.create(connection)
        connection.commit()
    generator = np.random.default_rng(1)
    served = [row.score_id for row in day if row.role == "serving"]
    backs, places = generator.integers(0, days, labels), generator.integers(0, len(served), labels)
    said = [Feedback(CLASSES[place % len(CLASSES)], score_id=shifted(served[place], back), reviewer=f"r{place % 3}",
                     chosen="random", probability=0.01, trusted=bool(place % 2))
            for back, place in zip(backs.tolist(), places.tolist(), strict=True)]
    store.add_feedback(said, MODEL)
    for number in (2, 1):
        until = END - number * timedelta(days=10)
        since = until - timedelta(days=7)
        with store.drawing(MODEL, VERSION) as drawing:
            made, drawn = draw(drawing.population(since, until), 500, number, MODEL, VERSION, until, since, until,
                               drawing.draws())
            drawing.add(made, drawn["score_id"].tolist(), drawn["probability"].to_numpy())
    if store.engine.dialect.name == "postgresql":
        with store.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.exec_driver_sql("VACUUM ANALYZE")


def last_day_of(connection: sa.Connection, table: sa.Table) -> sa.Table:
    """A temporary copy of a table that holds the last day alone, so that no copy of it has to look for that day."""
    name = f"one_day_of_{table.name}"
    connection.exec_driver_sql(f"CREATE TEMPORARY TABLE {name} AS SELECT * FROM {table.name}")
    return table.to_metadata(sa.MetaData(), name=name)


def copied(table: sa.Table, last_day: sa.Table, moment: str, back: int, dialect: str) -> sa.Insert:
    """Copies the last day to a day before it."""
    def changed(column: sa.Column[Any]) -> Any:
        if column.name in ("score_id", "item_id", "shadow_of"):
            return sa.literal(f"{back:05d}").concat(sa.func.substr(column, 6))
        if column.name != moment:
            return column
        if dialect == "sqlite":
            return sa.func.strftime("%Y-%m-%d %H:%M:%f", column, f"-{back} days", type_=sa.Text).concat("000")
        return column - sa.literal(back * DAY)

    rows = sa.select(*(changed(column) for column in last_day.c))
    return sa.insert(table).from_select(list(table.c), rows)


def shifted(score_id: str, back: int) -> str:
    """The id of a score in the copy of so many days before."""
    return f"{back:05d}{score_id[5:]}"


def queries(store: Store, answer: ScoredAnswer) -> dict[str, Callable[[], Any]]:
    """What monitoring asks."""
    week, wanted = END - timedelta(days=7), queue.Wanted(MODEL, VERSION)

    def population() -> Any:
        with store.drawing(MODEL, VERSION) as drawing:
            return drawing.population(week, END)

    def due(name: queue.QueueName) -> Any:
        with store.engine.connect() as connection:
            return queue.QUEUES[name](connection, wanted, "r0", END, 50)

    return {
        "versions and how many scores": store.models,
        "tallies of a version": lambda: store.tallies(MODEL, VERSION),
        "tallies of a week": lambda: store.tallies(MODEL, VERSION, since=week),
        "labelled scores of a version": lambda: store.frame(MODEL, VERSION, labelled=True),
        "labelled scores in the dark": lambda: store.frame(MODEL, DARK, labelled=True),
        "labelled scores, served by any": lambda: store.frame(MODEL, labelled=True),
        "last 5,000 with votes": lambda: store.frame(MODEL, VERSION, last=5000, votes=True),
        "last 5,000, served by any": lambda: store.frame(MODEL, last=5000),
        "scores of a day": lambda: store.frame(MODEL, VERSION, since=END - DAY),
        "population of a week's draw": population,
        "draws": lambda: store.draws(MODEL, VERSION),
        "to review: the sample": lambda: due("sample"),
        "to review: the riskiest": lambda: due("riskiest"),
        "to review: second opinions": lambda: due("second"),
        "which score feedback means": lambda: store.look_up(Feedback("ham", score_id=answer.score_id), MODEL),
        "which scores an id means": lambda: store.look_up(Feedback("ham", id=answer.item_id), MODEL),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--days", type=int, default=365)
    parser.add_argument("--labels", type=int, default=20_000)
    parser.add_argument("--repeats", type=int, default=5)
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--folder", type=Path, help="default: a temporary one")
    where.add_argument("--url", help="of an empty PostgreSQL database, or of that of an earlier run")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary)
        with Store(options.url or f"sqlite:///{folder / 'store.db'}") as store:
            began = time.perf_counter()
            if not store.models():
                fill(store, options.rows, options.days, options.labels)
            took, kept = time.perf_counter() - began, sum(row.n for row in store.models())
            day = a_day(kept // options.days)
            console = Console()
            console.print(f"{kept:,} scores on {store.engine.dialect.name}; made in {took:.0f} s; "
                          f"{size(store) / 2**30:.1f} GiB")
            console.print(measured(queries(store, day[0]), options.repeats))


def measured(asked: dict[str, Callable[[], Any]], repeats: int) -> Table:
    """How long each query takes."""
    table = Table("query", "rows", "first", "median", f"within {MOST:g} s")
    for name, ask in asked.items():
        seconds = list[float]()
        for _ in range(repeats):
            began = time.perf_counter()
            found = ask()
            seconds.append(time.perf_counter() - began)
        table.add_row(name, f"{len(found):,}", f"{seconds[0]:.3f}", f"{statistics.median(seconds):.3f}",
                      "yes" if max(seconds) < MOST else "no")
    return table


def size(store: Store) -> int:
    """The bytes of scores and feedback, with their indexes."""
    with store.engine.connect() as connection:
        if store.engine.dialect.name == "sqlite":
            pages, of = (connection.exec_driver_sql(f"PRAGMA {name}").scalar() for name in ("page_count", "page_size"))
            return int(pages * of)
        return sum(int(connection.execute(sa.select(sa.func.pg_total_relation_size(table.name))).scalar() or 0)
                   for table in (SCORES, FEEDBACK, TALLIES))


if __name__ == "__main__":
    main()
