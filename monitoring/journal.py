"""The write-behind journal: what a service scores is on disk before it answers, and in the store soon after.

Requests write to a file beside the service and never wait for the database; a thread moves the rows there. While the
database is away, rows wait, up to a bound. Each row comes into the store exactly once, whoever is killed when.
"""

import uuid
from collections.abc import Sequence
from pathlib import Path

import sqlalchemy as sa

from monitoring.draining import Drain
from monitoring.feedback import check_named, said_by, unknown
from monitoring.journal_file import JournalAway, JournalFile, JournalFull
from monitoring.patience import Patience
from monitoring.store import Feedback, ScoredAnswer, Store, StoreAway, validate
from monitoring.tables import TakenFeedback

__all__ = ["Journal", "JournalAway", "JournalFull", "StoreAway"]

MOST_BYTES = 256 * 2**20
ASK_S = 3.0  # how long a request waits for the database to say which scores feedback names


class Journal:
    """Scores and feedback on their way into a store. Safe to use from several threads; processes may share the file.

    The file's bytes of rows are bounded by `most_bytes`; the file itself takes up to a few times that.
    """

    def __init__(self, path: Path, store: Store, most_bytes: int = MOST_BYTES, days: float | None = None,
                 ask_s: float = ASK_S, embeddings: Path | None = None):
        """Open the file; what an earlier process left in it waits for `start`.

        days: erase scores older than that, in the store and here, every hour. None: never. embeddings: the file of
        the cache from which the vectors of their texts go too.

        Raises:
            InputError: the file cannot be opened, is damaged, or of another polarscore.
        """
        self._file, self._store, self._most = JournalFile(path), store, most_bytes
        self._drain = Drain(self._file, store, days, embeddings)
        self._patience: Patience[dict[str, list[str]]] = Patience(ask_s)
        self._left: int | None = None

    @property
    def away(self) -> bool:
        """Whether the database could not be written the last time."""
        return self._drain.away

    @property
    def waiting(self) -> int:
        """How many rows are not in the store yet."""
        return self._file.size()[0]

    @property
    def refused(self) -> int:
        """How many rows the database refused; they are in the file's table `refused`."""
        return self._file.size()[1]

    def add_scores(self, rows: Sequence[ScoredAnswer]) -> None:
        """Keep scored answers on disk: all of them or, if one is at fault, none.

        One whose score_id is in the store already is dropped later: the first one stays.

        Raises:
            InputError: as `Store.add_scores` does.
            JournalFull: too much waits for the database.
            JournalAway: the file cannot be written.
        """
        validate(rows)
        if rows:
            self._file.add_scores(rows, self._most)
            self._drain.wake()

    def add_feedback(self, row: Feedback, model: str) -> int:
        """Keep feedback on disk, on scores of this model that wait or are in the store: how many it labels.

        While the database is away, only those that wait are counted; with an id, the others get the label too.

        Raises:
            InputError: no such score is kept, or the label is no class.
            StoreAway: the database cannot be asked, and no score that waits is named.
            JournalFull, JournalAway: as of `add_scores`.
        """
        check_named(row)
        found = self._file.look_up(row, model)  # first: what is not here any more is in the store by now
        if row.score_id is None or not found:
            try:
                found = self._patience.ask(lambda: self._store.look_up(row, model)) | found
            except (sa.exc.SQLAlchemyError, StoreAway, TimeoutError) as error:
                if not found:
                    raise StoreAway("the prediction store cannot be reached, which alone knows whether there is such "
                                    f"a score ({type(error).__name__}). Nothing was kept; try again later") from None
        if not found:
            raise unknown(row, model)
        for classes in found.values():
            said_by(row, classes)
        self._file.add_feedback(TakenFeedback(uuid.uuid4().hex, row, model), self._most)
        self._drain.wake()
        return len(found)

    def start(self) -> None:
        """Move rows to the store from now on."""
        self._drain.start()

    def drain(self) -> bool:
        """Move the oldest rows here and now, a transaction's worth: whether there were any.

        Raises:
            Exception: what the database raises while it is away; the rows wait on.
        """
        return self._drain.once()

    def close(self, seconds: float = 10.0) -> int:
        """Move what waits, for at most so long, then stop: how many rows are left to the next one."""
        if self._left is None:
            ended = self._drain.close(seconds)
            self._left = self.waiting
            if ended:  # else its thread goes on until the process ends
                self._file.close()
        return self._left
