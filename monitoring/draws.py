"""Draws of answers to check, as kept: which draws there were, what they drew, and a new one, alone on its model."""

from collections.abc import Sequence
from dataclasses import asdict
from datetime import datetime
from typing import Any

import numpy as np
import pandas as pd
import sqlalchemy as sa

from monitoring.opinions import spoken_of
from monitoring.reading import among, fetch, unindexed
from monitoring.sampling import Draw, total_probability
from monitoring.tables import DRAWN, DRAWS, SCORES
from training.errors import InputError

SERVING = "serving"


class Drawing:
    """The transaction of a draw: as long as it is open, nobody else draws, nor erases.

    So what is drawn from the population that is read here was drawn by no other draw.
    """

    def __init__(self, connection: sa.Connection, model: str, version: str):
        """Of a version, in a transaction that the store gave for drawing."""
        self._connection, self._model, self._version = connection, model, version

    def draws(self) -> list[Draw]:
        """The earlier draws of the version, the oldest first."""
        return read_draws(self._connection, self._model, self._version)

    def population(self, since: datetime | None, until: datetime) -> pd.DataFrame:
        """The served scores with a risk made in [since, until]: score_id, item_id, risk, created_at, drawn, label.

        drawn: whether an earlier draw drew it. label: whether somebody's label stands. In the order of scoring.
        """
        columns = (SCORES.c.score_id, SCORES.c.item_id, SCORES.c.risk, SCORES.c.created_at)
        query = sa.select(*columns).where(*self._open(), SCORES.c.created_at <= until)
        if since is not None:
            query = query.where(SCORES.c.created_at >= since)
        rows = _ties_by_id(fetch(self._connection, query.order_by(SCORES.c.created_at)))
        drawn = self._connection.execute(_drawn_of(self._model, DRAWN.c.score_id).distinct()).scalars().all()
        ids, spoken = pd.Index(rows["score_id"]), spoken_of(self._connection)
        return rows.assign(drawn=pd.Index(drawn).get_indexer(ids) >= 0, label=pd.Index(spoken).get_indexer(ids) >= 0)

    def add(self, draw: Draw, score_ids: Sequence[str], probabilities: Sequence[float] | np.ndarray) -> None:
        """Keep a draw and what it drew, in this order: all of it or nothing.

        Raises:
            InputError: it is kept already, or of another version; a score that it may not draw; a probability that is
                none.
        """
        if (draw.model, draw.version) != (self._model, self._version):
            raise InputError(f"a draw of models:/{self._model}/{self._version} is under way. "
                             f"Found one of models:/{draw.model}/{draw.version}. Nothing was written.")
        chances = [float(chance) for chance in probabilities]
        if len(chances) != len(score_ids) or not all(0 < chance <= 1 for chance in chances):
            raise InputError(f"each of the {len(score_ids)} scores drawn should have a probability above 0 and at most "
                             "1. Nothing was written.")
        if refused := sorted(set(score_ids) - self._may_draw(score_ids)) or _twice(score_ids):
            raise InputError("a draw should draw served scores of its version, with a risk, that no draw drew before. "
                             f"Found '{refused[0]}'. Nothing was written.")
        if self._connection.execute(sa.select(DRAWS.c.draw_id).where(DRAWS.c.draw_id == draw.draw_id)).first():
            raise InputError(f"the draw {draw.draw_id} is kept already. Nothing was written.")
        self._connection.execute(sa.insert(DRAWS), asdict(draw))
        if chances:
            self._connection.execute(sa.insert(DRAWN), [
                {"draw_id": draw.draw_id, "score_id": score_id, "probability": chance, "position": position}
                for position, (score_id, chance) in enumerate(zip(score_ids, chances, strict=True))])

    def _open(self, by_key: bool = False) -> list[sa.ColumnElement[bool]]:
        model, version = ((unindexed(column) if by_key else column) for column in (SCORES.c.model, SCORES.c.version))
        return [model == self._model, version == self._version, SCORES.c.role == SERVING, SCORES.c.risk.is_not(None)]

    def _may_draw(self, score_ids: Sequence[str]) -> set[str]:
        def among_them(column: sa.Column[Any], *more: sa.ColumnElement[bool]) -> set[str]:
            query = sa.select(column).where(among(self._connection, column, score_ids), *more)
            return set(self._connection.execute(query).scalars())

        return among_them(SCORES.c.score_id, *self._open(by_key=True)) - among_them(DRAWN.c.score_id)


def read_draws(connection: sa.Connection, model: str, version: str | None) -> list[Draw]:
    """The draws of a model, or of one version of it, the oldest first."""
    query = sa.select(DRAWS).where(DRAWS.c.model == model).order_by(DRAWS.c.at, DRAWS.c.draw_id)
    if version is not None:
        query = query.where(DRAWS.c.version == version)
    return [Draw(**row) for row in connection.execute(query).mappings()]


def read_drawn(connection: sa.Connection, draw_id: str) -> pd.DataFrame:
    """What a draw drew, in its order: score_id, probability, position; without what was erased since."""
    columns = (DRAWN.c.score_id, DRAWN.c.probability, DRAWN.c.position)
    return fetch(connection, sa.select(*columns).where(DRAWN.c.draw_id == draw_id).order_by(DRAWN.c.position))


def drawn_scores(connection: sa.Connection, model: str) -> pd.DataFrame:
    """Every score of a model that was drawn, by score_id: draw_id, position, at (when it was drawn), chance.

    chance: with which probability any of the draws of its version drew it.
    """
    columns = (SCORES.c.score_id, SCORES.c.version, SCORES.c.risk, SCORES.c.created_at, DRAWN.c.draw_id,
               DRAWN.c.position, DRAWS.c.at)
    made = DRAWN.join(DRAWS, DRAWN.c.draw_id == DRAWS.c.draw_id).join(SCORES, SCORES.c.score_id == DRAWN.c.score_id)
    rows = fetch(connection, sa.select(*columns).select_from(made).where(DRAWS.c.model == model))
    rows = rows.drop_duplicates("score_id", ignore_index=True)
    chance = pd.Series(np.nan, index=rows.index)
    draws = read_draws(connection, model, None) if len(rows) else []
    for version, group in rows.groupby("version"):
        of = [draw for draw in draws if draw.version == version]
        chance[group.index] = total_probability(of, group["risk"].to_numpy(float), group["created_at"])
    return rows.assign(chance=chance).set_index("score_id")[["draw_id", "position", "at", "chance"]]


def _drawn_of(model: str, *columns: sa.Column[Any]) -> sa.Select[Any]:
    return sa.select(*columns).select_from(DRAWS).join(DRAWN, DRAWN.c.draw_id == DRAWS.c.draw_id).where(
        DRAWS.c.model == model)


def _twice(score_ids: Sequence[str]) -> list[str]:
    return [] if len(set(score_ids)) == len(score_ids) else [min(s for s in score_ids if score_ids.count(s) > 1)]


def _ties_by_id(rows: pd.DataFrame) -> pd.DataFrame:
    """Rows in the order of `created_at`, those of one moment by their score_id: quicker than to have all sorted so."""
    tied = np.flatnonzero(rows["created_at"].duplicated(keep=False))
    if len(tied):
        order, some = np.arange(len(rows)), rows.iloc[tied]
        order[tied] = tied[np.lexsort((some["score_id"].to_numpy(str), some["created_at"].to_numpy()))]
        rows = rows.take(order).reset_index(drop=True)
    return rows
