"""The prediction store: scored answers and what people found out about them, on SQLite or PostgreSQL."""

import sqlite3
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from types import TracebackType
from typing import NamedTuple

import numpy as np
import pandas as pd
import sqlalchemy as sa

from monitoring.draws import SERVING, Drawing, read_drawn, read_draws
from monitoring.erasure import Erased, erase_before, erase_named
from monitoring.feedback import known, named, resolve
from monitoring.frame import COLUMNS, read_frame
from monitoring.merging import insert_scores, merge
from monitoring.sampling import Draw
from monitoring.tables import FEEDBACK, Feedback, ScoredAnswer, TakenFeedback
from monitoring.tallies import kept_by_version, read_tallies
from monitoring.tally import Tally
from registry.database import connect, now, sqlite_file
from training.errors import InputError, PolarscoreError

__all__ = ["COLUMNS", "Feedback", "ModelCount", "ScoredAnswer", "Store", "StoreAway", "validate"]


class StoreAway(PolarscoreError):
    """The database cannot be asked now. why: names its address, so it is for the log alone."""

    def __init__(self, message: str, why: str = ""):
        super().__init__(message)
        self.why = why or message.rstrip(".")


class ModelCount(NamedTuple):
    """A version of a model and how many scores of it are kept."""

    model: str
    version: str
    n: int


class Store:
    """Scored answers and feedback, opened at a SQLAlchemy URL (`sqlite:///file.db`, `postgresql://…`).

    Safe to open and write from several threads and processes at once. Close it, or use it in a `with`.
    """

    def __init__(self, url: str, patient: bool = False):
        """Open the database; make its tables if it is empty.

        patient: where a server does not let us in now, go on without, and try again whenever it is needed.

        Raises:
            InputError: no such kind of database, or it cannot be opened.
        """
        self._url, self._opening = url, threading.Lock()
        self._opened: sa.Engine | None = None
        try:
            self._opened = connect(url)
        except InputError as error:
            if not (patient and _is_away(error)):
                raise

    @property
    def is_open(self) -> bool:
        """Whether the database has been reached yet."""
        return self._opened is not None

    @property
    def engine(self) -> sa.Engine:
        """The database's engine, which is made now where that was not possible before.

        Raises:
            StoreAway: it is not possible yet.
        """
        with self._opening:
            if self._opened is None:
                try:
                    self._opened = connect(self._url)
                except InputError as error:
                    raise StoreAway("the database cannot be opened.", str(error).rstrip(".")) from None
            return self._opened

    def add_scores(self, rows: Sequence[ScoredAnswer]) -> None:
        """Keep scored answers: all of them or, if one is at fault, none.

        Raises:
            InputError: a risk that is no probability, an answer or vote that is no class, a score_id in use.
        """
        validate(rows)
        if not rows:
            return
        with self._writing() as connection:
            if insert_scores(connection, rows) < len(rows):
                raise InputError("every score should have a score_id of its own. Found one that is kept already. "
                                 "Nothing was written.")

    def add_feedback(self, rows: Sequence[Feedback], model: str | None = None) -> int:
        """Append labels to scores: all rows count or, if one is bad, none.

        Of what one reviewer says of a score the latest counts; within one call, the last.
        model: names are looked up among this model's scores only.

        Returns:
            How many scores got a label, those in the dark beside them not counted.

        Raises:
            InputError: an unknown score or id, or a label that is no class of the score's model; names it.
        """
        moment = now()
        with self.engine.begin() as connection:
            labels = [{"score_id": score_id, "created_at": moment, **said}
                      for score_id, said in resolve(connection, rows, model)]
            if labels:
                connection.execute(sa.insert(FEEDBACK), labels)
        return len({label["score_id"] for label in labels})

    def merge(self, scores: Sequence[ScoredAnswer], taken: Sequence[TakenFeedback]) -> None:
        """Keep valid scores and accepted feedback, each once however often it comes: all or, if one fails, none.

        Scores made before their id was forgotten are left out, and feedback of which no score is kept.

        Raises:
            SQLAlchemyError: the database is away, or refuses a row.
        """
        with self._writing() as connection:
            merge(connection, scores, taken)

    def look_up(self, row: Feedback, model: str) -> dict[str, list[str]]:
        """The scores that a row of feedback names, and the classes of each."""
        with self.engine.connect() as connection:
            return dict(named(row, *known(connection, [row], model)))

    @contextmanager
    def drawing(self, model: str, version: str) -> Iterator[Drawing]:
        """The transaction of a draw, kept once the block is left without an error; nobody else draws meanwhile."""
        with self._writing() as connection:
            if connection.dialect.name != "sqlite":
                connection.exec_driver_sql("LOCK TABLE draws IN SHARE ROW EXCLUSIVE MODE")
            yield Drawing(connection, model, version)

    def add_draw(self, draw: Draw, score_ids: Sequence[str], probabilities: Sequence[float] | np.ndarray) -> None:
        """Keep a draw and what it drew, in this order. Raises what `Drawing.add` does."""
        with self.drawing(draw.model, draw.version) as drawing:
            drawing.add(draw, score_ids, probabilities)

    def draws(self, model: str, version: str | None = None) -> list[Draw]:
        """The draws of a model, or of one version of it, the oldest first."""
        with self.engine.connect() as connection:
            return read_draws(connection, model, version)

    def drawn(self, draw_id: str) -> pd.DataFrame:
        """What a draw drew, in its order: score_id, probability, position; without what was erased since."""
        with self.engine.connect() as connection:
            return read_drawn(connection, draw_id)

    @contextmanager
    def erasing(self, names: Sequence[str], at: datetime) -> Iterator[Erased]:
        """Erase by id and score_id, for good once the block is left without an error; nobody writes meanwhile."""
        with self._writing(alone=True) as connection:
            yield erase_named(connection, names, at)

    @contextmanager
    def erasing_before(self, moment: datetime) -> Iterator[Erased]:
        """Erase a few of the oldest scores made before, for good once the block is left without an error."""
        with self._writing(alone=True) as connection:
            yield erase_before(connection, moment)

    def scrub(self) -> bool:
        """Rewrite a SQLite file, so that it holds nothing that was erased; False if a reader kept us from it.

        A server's files are its own matter.
        """
        if sqlite_file(self.engine) is None:
            return True
        with self.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.exec_driver_sql("VACUUM")
            return connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)").scalar() == 0

    def frame(
        self, model: str, version: str | None = None, since: datetime | None = None, until: datetime | None = None,
        last: int | None = None, labelled: bool = False, votes: bool = False, trusted: bool = False,
    ) -> pd.DataFrame:
        """One row a score in the order of scoring, with the columns `COLUMNS`.

        version None: what was served by any version. Of one version, its scores in the dark are in, too, labelled
        by the feedback on the scores that were served instead.
        since, until: only scores made at these moments or between. last: only the newest so many. labelled: only
        scores that somebody labelled, disputed ones too; found by their labels, however many scores there are. Of one
        version there are also the labelled ones that were erased by their age, score_id and item_id `erased-NUMBER`,
        of which risk, error, chosen, probability and the moments are known and the rest is not.
        votes: also `vote:NAME` for each source that voted on any of them, a class's name or None.
        trusted: with labels that came with an API key of the scope `review` alone, as if there were no others.

        sources_voting, sources_agreeing: how many sources voted, and said what the LLM said. agreement: the share of
        these, NaN without an answer or votes. label, disputed, reviewers, labelled_at are as `consensus` has them;
        without a label None, False, 0 and NaT.
        chosen: how the answer came to be labelled, None as long as nobody has. `drawn` if a draw drew it, whatever else
        was said, once the draw has been checked that far (`monitoring.prefix`): labelled_at is then that moment, and
        probability that of being drawn by any of the draws. Else probability is 1 for `all`, the stated one for
        `random` and `risk`, NaN where it is not known. In the dark, `drawn` and `risk` are `elsewhere`: it was the risk
        of what was served that chose.
        error: 1.0 where the answer is wrong, 0.0 where it is right, NaN where that is not known. again: of an answer
        that a version scored several times, true at all labelled scores but one: the last, of those drawn if there are
        some, else of those of known probability, else of those chosen with a look at no more than the risk.
        """
        with self.engine.connect() as connection:
            return read_frame(connection, model, version, since, until, last, labelled, votes, trusted)

    def tallies(
        self, model: str, version: str, role: str = SERVING, since: datetime | None = None
    ) -> list[tuple[datetime, Tally]]:
        """The hours in which a version scored, by their beginnings, and a tally of each, the oldest first.

        since: from the hour on in which it lies. What was erased since is still counted: counts name nobody.
        """
        with self.engine.connect() as connection:
            return read_tallies(connection, model, version, role, since)

    def models(self) -> list[ModelCount]:
        """The versions of which scores are kept, those scored in the dark too; no score is looked at for that."""
        with self.engine.connect() as connection:
            return [ModelCount(*row) for row in kept_by_version(connection)]

    def close(self) -> None:
        """Give the connections back."""
        if self._opened is not None:
            self._opened.dispose()

    @contextmanager
    def _writing(self, alone: bool = False) -> Iterator[sa.Connection]:
        """A transaction that sees what all those before it wrote. alone: no other one of these writes meanwhile."""
        with self.engine.connect() as connection:
            if connection.dialect.name == "sqlite":
                connection.exec_driver_sql("PRAGMA secure_delete = ON")
                connection.exec_driver_sql("BEGIN IMMEDIATE")
            else:
                mode = "SHARE ROW EXCLUSIVE" if alone else "ROW EXCLUSIVE"
                connection.exec_driver_sql(f"LOCK TABLE scores IN {mode} MODE")
            yield connection
            connection.commit()

    def __enter__(self) -> "Store":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _is_away(error: InputError) -> bool:
    """Whether a server did not let us in; a file, and a schema that does not suit, are as they are."""
    cause = error.__context__
    return isinstance(cause, sa.exc.OperationalError) and not isinstance(cause.orig, sqlite3.Error)


def validate(rows: Sequence[ScoredAnswer]) -> None:
    """Refuse rows that cannot be kept.

    Raises:
        InputError: a risk that is no probability, an answer or vote that is no class; names the item.
    """
    for row in rows:
        if expected := _fault(row):
            raise InputError(f"the score of item '{row.item_id}' should have {expected}. Nothing was written.")


def _fault(row: ScoredAnswer) -> str | None:
    if (row.risk is None) != (row.answer is None):
        return "a risk exactly where it has an answer"
    if row.risk is not None and not 0 <= row.risk <= 1:
        return f"a risk between 0 and 1, found {row.risk}"
    if not all(0 <= p <= 1 for p in row.probabilities.values()):
        return "probabilities between 0 and 1"
    said = {row.harmonizer_answer, *row.votes.values(), *([] if row.answer is None else [row.answer])}
    if not said <= row.probabilities.keys():
        return "its answers and votes among the classes of its probabilities"
    if row.spans is not None and row.text is None:
        return "spans only beside the text in which they lie"
    if (row.role == "shadow") != (row.shadow_of is not None) or row.role not in ("serving", "shadow"):
        return "the role 'serving', or 'shadow' with the score_id of the score that was served"
    return None
