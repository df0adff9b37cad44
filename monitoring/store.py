"""The prediction store: scored answers and what people found out about them, on SQLite or PostgreSQL."""

from collections.abc import Sequence
from datetime import datetime
from types import TracebackType
from typing import NamedTuple

import pandas as pd
import sqlalchemy as sa

from monitoring.feedback import resolve
from monitoring.frame import COLUMNS, read_frame
from monitoring.tables import FEEDBACK, SCORES, Feedback, ScoredAnswer
from registry.database import connect, now
from training.errors import InputError

__all__ = ["COLUMNS", "Feedback", "ModelCount", "ScoredAnswer", "Store"]


class ModelCount(NamedTuple):
    """A version of a model and how many scores of it are kept."""

    model: str
    version: str
    n: int


class Store:
    """Scored answers and feedback, opened at a SQLAlchemy URL (`sqlite:///file.db`, `postgresql://…`).

    Safe to open and write from several threads and processes at once. Close it, or use it in a `with`.
    """

    def __init__(self, url: str):
        """Open the database; make its tables if it is empty.

        Raises:
            InputError: no such kind of database, or it cannot be opened.
        """
        self._engine = connect(url)

    def add_scores(self, rows: Sequence[ScoredAnswer]) -> None:
        """Keep scored answers: all of them or, if one is at fault, none.

        Raises:
            InputError: a risk that is no probability, an answer or vote that is no class, a score_id in use.
        """
        for row in rows:
            _validate(row)
        if not rows:
            return
        try:
            with self._engine.begin() as connection:
                connection.execute(sa.insert(SCORES), [dict(vars(row)) for row in rows])
        except sa.exc.IntegrityError:
            raise InputError("every score should have a score_id of its own. Found one that is kept already. "
                             "Nothing was written.") from None

    def add_feedback(self, rows: Sequence[Feedback], model: str | None = None) -> int:
        """Append labels to scores: all rows count or, if one is bad, none.

        Of several labels for a score the latest counts; within one call, the last.
        model: names are looked up among this model's scores only.

        Returns:
            How many scores got a label.

        Raises:
            InputError: an unknown score or id, or a label that is no class of the score's model; names it.
        """
        moment = now()
        with self._engine.begin() as connection:
            labels = [{"score_id": score_id, "label": label, "created_at": moment}
                      for score_id, label in resolve(connection, rows, model)]
            if labels:
                connection.execute(sa.insert(FEEDBACK), labels)
        return len({label["score_id"] for label in labels})

    def frame(self, model: str, version: str | None = None, since: datetime | None = None) -> pd.DataFrame:
        """One row a score in the order of scoring, with the columns `COLUMNS`; version None: of all versions.

        sources_voting: how many sources voted. agreement: the share of those that say what the LLM said, NaN
        without an answer or votes. label: the latest feedback, None without; labelled_at: when it came.
        error: 1.0 where the answer is wrong, 0.0 where it is right, NaN where that is not known, and at all but
        the last score of an answer that a version scored again.
        since: only scores made at this moment or later.
        """
        with self._engine.connect() as connection:
            return read_frame(connection, model, version, since)

    def models(self) -> list[ModelCount]:
        """The versions of which scores are kept."""
        key = (SCORES.c.model, SCORES.c.version)
        with self._engine.connect() as connection:
            rows = connection.execute(sa.select(*key, sa.func.count()).group_by(*key).order_by(*key))
            return [ModelCount(*row) for row in rows]

    def close(self) -> None:
        """Give the connections back."""
        self._engine.dispose()

    def __enter__(self) -> "Store":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _validate(row: ScoredAnswer) -> None:
    def refusal(expected: str) -> InputError:
        return InputError(f"the score of item '{row.item_id}' should have {expected}. Nothing was written.")

    if (row.risk is None) != (row.answer is None):
        raise refusal("a risk exactly where it has an answer")
    if row.risk is not None and not 0 <= row.risk <= 1:
        raise refusal(f"a risk between 0 and 1, found {row.risk}")
    if not all(0 <= p <= 1 for p in row.probabilities.values()):
        raise refusal("probabilities between 0 and 1")
    said = {row.harmonizer_answer, *row.votes.values(), *([] if row.answer is None else [row.answer])}
    if not said <= row.probabilities.keys():
        raise refusal("its answers and votes among the classes of its probabilities")
