"""The plot's bins, found in the background: whoever looks at the page sees those found last, and waits for nothing."""

import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import sqlalchemy as sa

from monitoring.draws import drawn_scores
from monitoring.frame import COLUMNS, derive
from monitoring.opinions import opinions
from monitoring.reading import among, fetch, unindexed
from monitoring.tables import FEEDBACK, SCORES
from serving.review_plot import Bin, bins

LOG = logging.getLogger("bentoml.polarscore")

LABELLED, PART, ROWS = 20_000, 5_000, 200_000
"""Labelled answers that a plot shows, the newest; labels that are looked up at once; and that are gone through."""

VERSIONS = 8  # whose plot is kept
FRESH_S, COST = 1.0, 20.0  # how long it is kept at least, and in times of what it took
AGAIN_S = 30.0  # until it is tried again where it could not be found

_READ = [SCORES.c[name] for name in (*(name for name in COLUMNS if name in SCORES.c), "shadow_of")]


@dataclass(frozen=True)
class Kept:
    """The bins found last, None: none yet; and until when they are not looked for again, by the clock."""

    found: tuple[Bin, ...] | None
    until: float


class Plots:
    """The bins of each version. Safe to use from several threads; at most one looks for some at a time."""

    def __init__(self, find: Callable[[str], tuple[Bin, ...]], clock: Callable[[], float] = time.monotonic):
        """`find` gives the bins of a version, and may take long, or raise."""
        self._find, self._clock = find, clock
        self._kept: dict[str, Kept] = {}  # the version that was looked for last is last
        self._turn = threading.Lock()
        self._looking: threading.Thread | None = None

    def last(self, version: str) -> tuple[Bin, ...] | None:
        """As they were found last, None before that; where that is a while ago, they are looked for from now on."""
        with self._turn:
            kept = self._kept.get(version, Kept(None, -1.0))
            if self._looking is None and self._clock() >= kept.until:
                self._looking = threading.Thread(target=self._look, args=(version, kept), name="plotting", daemon=True)
                self._looking.start()
            return kept.found

    def soon(self, version: str, seconds: float) -> tuple[Bin, ...] | None:
        """As `last`, but where there were none yet, this waits so long for them."""
        found, looking = self.last(version), self._looking
        if found is None and looking is not None:
            looking.join(seconds)
            return self.last(version)
        return found

    def _look(self, version: str, before: Kept) -> None:
        began, found, wait = self._clock(), before.found, AGAIN_S
        try:
            found = self._find(version)
            wait = max(FRESH_S, COST * (self._clock() - began))
        except Exception as error:  # the page goes on without; its message may hold anything
            LOG.warning("%s while the plot of the review page was made; it is tried again", type(error).__name__)
        with self._turn:
            self._kept.pop(version, None)
            self._kept[version] = Kept(found, self._clock() + wait)
            if len(self._kept) > VERSIONS:
                del self._kept[next(iter(self._kept))]
            self._looking = None


def bins_of(connection: sa.Connection, model: str, version: str) -> tuple[Bin, ...]:
    """Those of a version's newest labelled answers, in the dark too. Reads by keys alone, a part at a time."""
    last = connection.execute(sa.select(sa.func.max(FEEDBACK.c.feedback_id))).scalar() or 0
    rows, seen, before = [_rows(connection, model, version, [])], set[str](), last + 1
    while before > max(1, last + 1 - ROWS) and sum(map(len, rows)) < LABELLED:
        part = connection.execute(
            sa.select(FEEDBACK.c.feedback_id, FEEDBACK.c.score_id).where(FEEDBACK.c.feedback_id < before)
            .order_by(FEEDBACK.c.feedback_id.desc()).limit(PART)).all()
        if not part:
            break
        rows.append(_rows(connection, model, version, list({row.score_id for row in part} - seen)))
        seen |= {row.score_id for row in part}
        before = part[-1].feedback_id
    found = pd.concat(rows, ignore_index=True).sort_values(["created_at", "score_id"], ignore_index=True)
    drawn, dark = drawn_scores(connection, model), found["shadow_of"].notna()
    labelled = found["score_id"].mask(dark, found["shadow_of"])
    frame = derive(found, opinions(connection, pd.concat([labelled, drawn.index.to_series()])), drawn)
    once = frame[~frame["again"]]
    return bins(*(once[name].to_numpy(np.float64) for name in ("risk", "error", "probability")))


def _rows(connection: sa.Connection, model: str, version: str, score_ids: Sequence[str]) -> pd.DataFrame:
    """The version's scores of these, and those in the dark beside them."""
    query = sa.select(*_READ).where(unindexed(SCORES.c.model) == model, unindexed(SCORES.c.version) == version)
    return pd.concat([fetch(connection, query.where(among(connection, column, score_ids)))
                      for column in (SCORES.c.score_id, SCORES.c.shadow_of)], ignore_index=True)
