"""The journal's file: scores and feedback that wait, in one SQLite file that several threads and processes share.

A row is in the file once `add` returns, and survives whatever ends the process. SQLite runs with `synchronous=NORMAL`:
a power cut, or a crash of the whole machine, may lose the rows of the last moments, never the file's order; waiting
for the disk each time would cost some milliseconds a request. WAL needs a local disk, not a network's file system.
"""

import itertools
import json
import os
import sqlite3
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

from filelock import FileLock

from monitoring.erasure import Erased
from monitoring.tables import Feedback, ScoredAnswer, TakenFeedback
from training.errors import InputError, PolarscoreError

FORMAT = 2
READ = (0, 1, FORMAT)  # 0: a new file; of 1, rows lack what was not known then
WAIT_S = 10  # how long a writer waits for those of other processes
TIDY_BYTES = 4 * 2**20  # of write-ahead log until they are brought into the file, beside the writers
PAGES = 8192  # of write-ahead log until a writer has to do it
TABLES = """
CREATE TABLE IF NOT EXISTS waiting (seq INTEGER PRIMARY KEY AUTOINCREMENT, kind TEXT NOT NULL, key TEXT NOT NULL UNIQUE,
    item TEXT, parent TEXT, model TEXT NOT NULL, at REAL NOT NULL, row TEXT NOT NULL);
CREATE INDEX IF NOT EXISTS of_item ON waiting (item);
CREATE INDEX IF NOT EXISTS of_parent ON waiting (parent) WHERE parent IS NOT NULL;
CREATE TABLE IF NOT EXISTS refused (seq INTEGER PRIMARY KEY, kind TEXT NOT NULL, key TEXT NOT NULL, item TEXT,
    parent TEXT, model TEXT NOT NULL, at REAL NOT NULL, row TEXT NOT NULL, why TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS size (waiting INTEGER NOT NULL, refused INTEGER NOT NULL, bytes INTEGER NOT NULL);
INSERT INTO size SELECT 0, 0, 0 WHERE NOT EXISTS (SELECT 1 FROM size);
""" + "".join(
    f"CREATE TRIGGER IF NOT EXISTS {table}_{event.lower()} AFTER {event} ON {table} BEGIN UPDATE size SET "
    f"{table} = {table} {sign} 1, bytes = bytes {sign} length({row}.row); END;\n"
    for table in ("waiting", "refused") for event, sign, row in (("INSERT", "+", "new"), ("DELETE", "-", "old"))
)
ENCODER = json.JSONEncoder(separators=(",", ":"), allow_nan=False)
COLUMNS = "kind, key, item, parent, model, at, row"


class JournalFull(PolarscoreError):
    """As much waits for the database as may; nothing was kept."""


class JournalAway(PolarscoreError):
    """The journal cannot be written now: a full disk, for instance. Nothing was kept."""


class Waiting(NamedTuple):
    """A row of the file; `row` is JSON."""

    seq: int
    kind: str
    row: str


class JournalFile:
    """The open file."""

    def __init__(self, path: Path):
        """Open it, or make it; only its owner may read it.

        Raises:
            InputError: it cannot be opened, is damaged, or of another polarscore.
        """
        self.path = path
        self._turn = threading.Lock()
        try:
            os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
            with FileLock(f"{path}.lock"):
                self._connection = self._open()
        except OSError as error:
            raise InputError(f"the journal {path} cannot be opened: {error.strerror}.") from None
        except sqlite3.OperationalError as error:
            raise InputError(f"the journal {path} cannot be opened: {error}.") from None
        except sqlite3.DatabaseError as error:
            raise InputError(f"the journal {path} is damaged ({error}). What waits in it is in no other place: move "
                             "it aside, with the files beside it, to begin a new one.") from None

    def add_scores(self, rows: Sequence[ScoredAnswer], most_bytes: int) -> None:
        """Keep valid rows: all or, if one cannot be, none.

        Raises:
            InputError: a score_id that waits already.
            JournalFull: the rows that wait would be more than `most_bytes`.
            JournalAway: the file cannot be written.
        """
        self._add([("score", row.score_id, row.item_id, row.shadow_of, row.model, row.created_at.timestamp(),
                    _json(dict(vars(row)))) for row in rows], most_bytes)

    def add_feedback(self, taken: TakenFeedback, most_bytes: int) -> None:
        """Keep accepted feedback. Raises what `add_scores` does."""
        said = _json(asdict(taken))
        self._add([("feedback", taken.uid, taken.row.id, taken.row.score_id, taken.model,
                    taken.created_at.timestamp(), said)], most_bytes)

    def oldest(self, most: int) -> list[Waiting]:
        """The rows that came first, in that order."""
        return [Waiting(*row) for row in self._read("SELECT seq, kind, row FROM waiting ORDER BY seq LIMIT ?", [most])]

    def remove(self, seqs: Iterable[int]) -> None:
        """Rows that wait no longer."""
        with self._writing() as connection:
            connection.executemany("DELETE FROM waiting WHERE seq = ?", [(seq,) for seq in seqs])

    def set_aside(self, seq: int, why: str) -> None:
        """Move a row that the database refuses to the table `refused`, unless it was erased meanwhile."""
        with self._writing() as connection:
            connection.execute(f"INSERT INTO refused SELECT seq, {COLUMNS}, ? FROM waiting WHERE seq = ?", [why, seq])
            connection.execute("DELETE FROM waiting WHERE seq = ?", [seq])

    def look_up(self, row: Feedback, model: str) -> dict[str, list[str]]:
        """The scores here that a row of feedback names, and the classes of each."""
        where, names = _named(row, model)
        found = self._read(f"SELECT key, row FROM waiting {where} UNION ALL SELECT key, row FROM refused {where}",
                           names * 2)
        return {key: list(json.loads(content)["probabilities"]) for key, content in found}

    def refused(self, row: Feedback, model: str) -> bool:
        """Whether the database refused a score that a row of feedback names, which waits for a person."""
        where, names = _named(row, model)
        return bool(self._read(f"SELECT 1 FROM refused {where} LIMIT 1", names))

    def size(self) -> tuple[int, int, int]:
        """How many rows wait, how many are set aside, and the bytes of both."""
        (size,) = self._read("SELECT waiting, refused, bytes FROM size")
        return size

    def erase(self, names: Sequence[str], before: float = 0.0) -> Erased:
        """Erase scores by id and score_id, those in the dark beside them, and feedback on any; or made before."""
        columns = ("key", "item", "parent")
        which: list[tuple[str, Any]] = [(f"{column} = ?", name) for name in names for column in columns]
        which += [("kind = 'score' AND at < ?", before)] if before else []
        erased = Erased()
        with self._writing() as connection:
            for table, (where, value) in itertools.product(("waiting", "refused"), which):
                rows = connection.execute(f"SELECT kind, row FROM {table} WHERE {where}", [value]).fetchall()
                connection.execute(f"DELETE FROM {table} WHERE {where}", [value])
                erased += _erased([json.loads(row) for kind, row in rows if kind == "score"])
                erased += Erased(labels=sum(kind == "feedback" for kind, _ in rows))
        return erased

    def tidy(self) -> None:
        """Bring what is written into the file itself, once there is much of it; writers go on meanwhile."""
        log = self.path.with_name(f"{self.path.name}-wal")
        if log.exists() and log.stat().st_size > TIDY_BYTES:
            with closing(sqlite3.connect(self.path)) as connection:
                connection.execute("PRAGMA wal_checkpoint(PASSIVE)")

    def scrub(self) -> bool:
        """Rewrite the file, so that it holds nothing that was erased; False if a reader kept us from it."""
        with self._turn:
            self._connection.execute("VACUUM")
            return bool(self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0] == 0)

    def close(self) -> None:
        """Close the file."""
        with self._turn:
            self._connection.close()

    def _add(self, rows: list[tuple[Any, ...]], most_bytes: int) -> None:
        try:
            with self._writing() as connection:
                connection.executemany(f"INSERT INTO waiting ({COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?)", rows)
                waiting, aside, used = connection.execute("SELECT waiting, refused, bytes FROM size").fetchone()
                if used > most_bytes:
                    raise JournalFull(f"{waiting - len(rows):,} rows wait for the prediction store and {aside:,} are "
                                      f"set aside: the journal's {most_bytes:,} bytes are full. Nothing was kept; try "
                                      "again later")
        except sqlite3.IntegrityError:
            raise InputError("every score should have a score_id of its own. Found one that is kept already. "
                             "Nothing was written.") from None
        except UnicodeEncodeError:
            raise InputError("an id should be Unicode text without lone surrogates. Nothing was written.") from None
        except sqlite3.Error as error:
            raise JournalAway(f"the journal cannot be written ({error}). Nothing was kept; try again later") from None

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        with self._turn:
            connection = self._connection
            connection.execute("BEGIN IMMEDIATE")
            try:
                yield connection
                connection.execute("COMMIT")
            finally:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")

    def _read(self, query: str, values: Sequence[Any] = ()) -> list[Any]:
        try:
            with self._turn:
                return self._connection.execute(query, values).fetchall()
        except sqlite3.Error as error:
            raise JournalAway(f"the journal cannot be read ({error}). Nothing was kept; try again later") from None

    def _open(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self.path, timeout=WAIT_S, isolation_level=None, check_same_thread=False)
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = NORMAL")
            connection.execute("PRAGMA secure_delete = ON")
            connection.execute(f"PRAGMA wal_autocheckpoint = {PAGES}")
            (found,) = connection.execute("PRAGMA user_version").fetchone()
            if found not in READ:
                raise InputError(f"the journal {self.path} has format {found}, and this polarscore knows {FORMAT}. "
                                 "Start the polarscore that made it, which empties it.")
            if (fault := connection.execute("PRAGMA quick_check(1)").fetchone()[0]) != "ok":
                raise sqlite3.DatabaseError(fault.splitlines()[-1])
            if found != FORMAT:
                connection.executescript(f"BEGIN IMMEDIATE; {TABLES} PRAGMA user_version = {FORMAT}; COMMIT;")
        except BaseException:  # an interrupt, too, leaves no connection open
            connection.close()
            raise
        return connection


def score_of(content: str) -> ScoredAnswer:
    """A score from its JSON."""
    said = json.loads(content)
    spans = said.get("spans")
    return ScoredAnswer(**said | {"created_at": datetime.fromisoformat(said["created_at"]),
                                  "spans": None if spans is None else tuple(map(tuple, spans))})


def feedback_of(content: str) -> TakenFeedback:
    """Accepted feedback from its JSON."""
    said = json.loads(content)
    return TakenFeedback(**said | {"row": Feedback(**said["row"]),
                                   "created_at": datetime.fromisoformat(said["created_at"])})


def _named(row: Feedback, model: str) -> tuple[str, list[Any]]:
    """Which rows are the scores of a model that feedback names, and the values of that condition."""
    column, name = ("key", row.score_id) if row.id is None else ("item", row.id)
    return f"WHERE kind = 'score' AND {column} = ? AND model = ? AND parent IS NULL", [name, model]


def _json(said: dict[str, Any]) -> str:
    return ENCODER.encode(said | {"created_at": said["created_at"].isoformat()})


def _erased(rows: Sequence[dict[str, Any]]) -> Erased:
    return Erased(frozenset(row["score_id"] for row in rows), frozenset(row["item_id"] for row in rows),
                  frozenset(row["text_hash"] for row in rows if row["text_hash"]),
                  unhashed=sum(row["text_hash"] is None and row["decision"] is None for row in rows))
