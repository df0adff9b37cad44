"""The drain: a thread that moves rows from a journal's file into the store, each exactly once.

A row is removed from the file only after the store has it for good, and the store takes a row that comes again as the
one that it has. A row that the database would refuse again and again is set aside, so that the others pass.
"""

import logging
import sqlite3
import threading
import time
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path

import sqlalchemy as sa
from filelock import FileLock, Timeout

from monitoring.erasure import CHUNK
from monitoring.journal_file import JournalFile, Waiting, feedback_of, score_of
from monitoring.store import Store, StoreAway
from monitoring.vectors import erase_vectors
from registry.database import now

LOG = logging.getLogger("bentoml.polarscore")
BATCH = 500  # rows a transaction
GATHER_S = 0.05  # what came first waits so long for others, so that a busy service has few transactions
AGAIN_S = (0.5, 30.0)  # how soon it tries again while the database is away: at first, doubling each time, and at most
SHARED_S = 0.2  # how soon it looks again while another process drains the same file
IDLE_S = 60.0  # how long nothing may come until it looks at what is due
RETENTION_S = 3600.0  # how often old scores are erased
ROWS_FAULT = ("22", "23", "54")  # SQLSTATE classes: bad data, a violated constraint, a limit of the database


class Drain:
    """Of one file into one store; of the processes that share a file, one at a time drains it."""

    def __init__(self, file: JournalFile, store: Store, days: float | None = None, embeddings: Path | None = None):
        """Move nothing yet. days: erase scores older than that, in the store and in the file, every hour.

        embeddings: the file from which the vectors of their texts go too, as far as the scores' hashes tell them.
        """
        self._file, self._store, self._days, self._embeddings = file, store, days, embeddings
        self._lock = FileLock(f"{file.path}.drain")
        self._wake, self._closing, self._until = threading.Event(), threading.Event(), float("inf")
        self._thread = threading.Thread(target=self._run, name="draining", daemon=True)
        self._again, self._retention = AGAIN_S[0], 0.0
        self._told = set[str]()  # why the database is away, as the log says it

    def start(self) -> None:
        """Move rows from now on."""
        self._thread.start()

    def wake(self) -> None:
        """Something has come."""
        self._wake.set()

    def close(self, seconds: float) -> bool:
        """Move what waits, for at most so long, then stop; False if it hangs in the database instead."""
        self._until = time.monotonic() + seconds
        self._closing.set()
        self._wake.set()
        if self._thread.is_alive():
            self._thread.join(seconds + 1)
        return not self._thread.is_alive()

    @property
    def away(self) -> bool:
        """Whether the database could not be written the last time."""
        return bool(self._told)

    @property
    def _waiting(self) -> int:
        return self._file.size()[0]

    def once(self) -> bool:
        """Move the oldest rows, a transaction's worth: whether there were any.

        Raises:
            Exception: what the database raises while it is away; the rows wait on.
        """
        rows = self._file.oldest(BATCH)
        if not rows:
            return False
        try:
            self._move(rows)
        except Exception as error:  # a driver's, or what a row's own content raises; `at_fault` tells them apart
            if not at_fault(error):
                raise
            for row in rows:  # one of them is at fault, and the others are not to wait for it
                self._move_alone(row)
        return True

    def _move(self, rows: Sequence[Waiting]) -> None:
        scores = [score_of(row.row) for row in rows if row.kind == "score"]
        taken = {row.seq: feedback_of(row.row) for row in rows if row.kind == "feedback"}
        self._store.merge(scores, list(taken.values()))
        refused = self._file.size()[1]
        aside = {seq for seq, each in taken.items() if refused and self._file.refused(each.row, each.model)}
        for seq in aside:
            self._file.set_aside(seq, "its score was refused")
        self._file.remove(row.seq for row in rows if row.seq not in aside)

    def _move_alone(self, row: Waiting) -> None:
        try:
            self._move([row])
        except Exception as error:  # as above
            if not at_fault(error):
                raise
            self._file.set_aside(row.seq, _kind(error))
            LOG.error("the prediction store refuses a row for good (%s); it is kept in the table 'refused' of %s",
                      _kind(error), self._file.path)

    def _run(self) -> None:
        while not self._done():
            pause = self._pass()
            if pause or not self._closing.is_set():
                self._wait(pause)

    def _pass(self) -> float | None:
        """Move all that waits; how long to wait before the next time, None until something comes."""
        try:
            with self._lock.acquire(timeout=0):
                self._reach()
                while self.once():
                    self._back()
                    self._file.tidy()
                    if time.monotonic() > self._until:
                        return None
                self._retain()
            return None
        except Timeout:
            return SHARED_S
        except Exception as error:  # whatever it is, the thread goes on, and the rows wait
            return self._gone(error)

    def _reach(self) -> None:
        """Open the store, if it could not be opened yet.

        Raises:
            StoreAway: it cannot be opened now either.
        """
        if not self._store.is_open and self._store.engine:
            self._back()

    def _retain(self) -> None:
        """Erase a few of the old scores, if it is time; those left come next time, which is soon."""
        if self._days is None or time.monotonic() < self._retention or self._closing.is_set():
            return
        moment, more = now() - timedelta(days=self._days), False
        try:
            with self._store.erasing_before(moment) as found:
                erased = found + self._file.erase([], before=moment.timestamp())
                if self._embeddings:
                    erase_vectors(self._embeddings, erased, doubtful=False)
            more = len(found.scores) >= CHUNK
        except sqlite3.Error as error:  # of one of the files
            LOG.warning("old scores cannot be erased now (%s); it is tried again in an hour", _kind(error))
        if more:
            self._wake.set()
        else:
            self._retention = time.monotonic() + RETENTION_S

    def _wait(self, pause: float | None) -> None:
        """So long; None: until something comes, and then until more has gathered."""
        if pause is None:
            self._wake.wait(IDLE_S)
            pause = GATHER_S
        if self._closing.is_set():
            time.sleep(max(0.0, min(pause, self._until - time.monotonic())))
        until = time.monotonic() + pause
        while not self._closing.wait(min(1.0, max(0.0, until - time.monotonic()))) and time.monotonic() < until:
            self._file.tidy()
        self._wake.clear()

    def _done(self) -> bool:
        """Whether to stop: it is closing, and nothing waits or the time is up."""
        return self._closing.is_set() and (time.monotonic() > self._until or not self._waiting)

    def _gone(self, error: Exception) -> float:
        why = error.why if isinstance(error, StoreAway) else _kind(error)
        if why not in self._told:
            LOG.warning("the prediction store cannot be written (%s); %d rows wait in the journal, and scoring goes on",
                        why, self._waiting)
        self._told.add(why)
        pause = self._again
        self._again = min(2 * pause, AGAIN_S[1])
        return pause

    def _back(self) -> None:
        if self.away:
            LOG.info("the prediction store is back; %d rows wait in the journal", self._waiting)
        self._told, self._again = set(), AGAIN_S[0]


def at_fault(error: Exception) -> bool:
    """Whether a row, rather than the database, is to blame for an error: it would be refused again and again."""
    cause = getattr(error, "orig", None) or error
    if state := getattr(cause, "sqlstate", None):
        return str(state)[:2] in ROWS_FAULT
    if isinstance(error, sa.exc.DBAPIError):
        return isinstance(error, (sa.exc.DataError, sa.exc.IntegrityError))
    return isinstance(cause, (ValueError, TypeError, KeyError, OverflowError))


def _kind(error: Exception) -> str:
    return type(getattr(error, "orig", None) or error).__name__
