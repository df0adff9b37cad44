"""Forgetting: scores, their labels and the vectors of their texts, out of store, journal and embedding cache.

What was scored before it was forgotten and is still under way, in the journal of another machine for instance, is not
kept when it comes. The logs of stages, MLflow's runs and Evidently's reports hold no text and no id of a scored item.
"""

import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from monitoring.erasure import CHUNK, Erased
from monitoring.journal_file import JournalFile
from monitoring.store import Store, StoreAway
from monitoring.vectors import erase_vectors, rewrite
from registry.database import now
from training.errors import InputError, PolarscoreError
from training.rows import read_rows
from training.state import State

WAIT_S = 30  # how long it waits for readers that keep a file from being rewritten


@dataclass(frozen=True)
class Forgotten:
    """How many scores, labels and vectors were erased.

    all_vectors: of some score neither text nor hash was kept, so whose vector was its could not be told, and all went.
    """

    scores: int
    labels: int
    vectors: int
    all_vectors: bool

    def as_json(self) -> dict[str, Any]:
        """What `polarscore forget --json` prints."""
        return asdict(self)


@dataclass(frozen=True)
class Places:
    """Where something of a text may be: the store, and two files, which need not exist."""

    store: Store
    journal: Path
    embeddings: Path


def journal_of(state: State) -> Path:
    """The journal of the services whose state this is."""
    return state.home / "journal.db"


def forget(ids: Sequence[str], places: Places, older_than: float | None = None) -> Forgotten:
    """Erase every score of these ids and score_ids, and those older than so many days.

    Rows go last: what was cut short can be done again. The files are rewritten as a whole each time, which takes
    seconds for each gigabyte, and the journals' scores wait that long for the store.

    Raises:
        InputError: of an id there is no score; the others are erased.
        PolarscoreError: a place cannot be written, or a reader keeps a file from being rewritten.
    """
    names = list(dict.fromkeys(ids))
    with ExitStack() as stack:
        journal = None
        if places.journal.exists():
            journal = JournalFile(places.journal)
            stack.callback(journal.close)
        try:
            erased, vectors = Erased(), 0
            for some in _parts(places.store, names, older_than):
                with some as found:
                    found += _journalled(journal, names, found, older_than)
                    vectors += erase_vectors(places.embeddings, found, doubtful=True)
                erased += found
            _scrub([places.store.scrub, *([journal.scrub] if journal else []), partial(rewrite, places.embeddings)])
        except (sa.exc.SQLAlchemyError, sqlite3.Error, StoreAway) as error:
            kind = type(getattr(error, "orig", None) or error).__name__
            raise PolarscoreError(f"not all could be erased: a database cannot be reached or written ({kind}). "
                                  "Do it again.") from None
    done = Forgotten(len(erased.scores), erased.labels, vectors, erased.unhashed > 0)
    if unknown := [name for name in names if name not in erased.scores | erased.ids]:
        more = f" and of {len(unknown) - 1} more" if len(unknown) > 1 else ""
        raise InputError(f"of '{unknown[0][:80]}'{more} no score is kept. What else was named is erased: "
                         f"{done.scores} scores, {done.labels} labels, {done.vectors} vectors.")
    return done


def read_ids(path: Path) -> list[str]:
    """The ids in a file with a column `id` or `score_id`: JSON Lines, CSV or Parquet.

    Raises:
        InputError: the file cannot be read, lacks the column, or a row has none.
    """
    frame = read_rows(path)
    column = next((name for name in ("id", "score_id") if name in frame), None)
    if column is None:
        raise InputError(f"{path} should have a column 'id' or 'score_id'. Found {', '.join(map(str, frame.columns))}.")
    ids = frame[column].tolist()
    for number, value in enumerate(ids, 1):
        if value is None or value == "" or value != value:
            raise InputError(f"{path}, row {number} has no {column}.")
    return [str(value) for value in ids]


def _parts(store: Store, names: Sequence[str], older_than: float | None) -> Iterator[Any]:
    """What is to be erased, in transactions: what is named, then the old scores a few at a time."""
    if names:
        yield store.erasing(names, now())
    while older_than is not None:
        found: list[Erased] = []
        yield _told(store.erasing_before(now() - timedelta(days=older_than)), found)
        if len(found[0].scores) < CHUNK:
            break


@contextmanager
def _told(part: Any, found: list[Erased]) -> Iterator[Erased]:
    with part as erased:
        found.append(erased)
        yield erased


def _journalled(journal: JournalFile | None, names: Sequence[str], found: Erased, older_than: float | None) -> Erased:
    if journal is None:
        return Erased()
    before = 0.0 if older_than is None else time.time() - older_than * 86_400
    erased = journal.erase([*names, *found.scores], before)
    return erased + journal.erase(list(erased.scores - found.scores))


def _scrub(places: Sequence[Callable[[], bool]]) -> None:
    until = time.monotonic() + WAIT_S
    for scrub in places:
        while not scrub():
            if time.monotonic() > until:
                raise PolarscoreError("all of it is erased, and traces stay in a file as long as something reads it. "
                                      "Stop what reads it, and do this again.")
            time.sleep(0.2)
