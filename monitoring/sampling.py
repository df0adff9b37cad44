"""Which answers to check next: drawn at random, with known probabilities, so that few labels tell most.

The estimates (`monitoring.estimation`) start from the mean risk and add what the checked answers say of error − risk.
They are surest where an answer's chance to be drawn is in proportion to how far its error may lie from its risk r:

    π ∝ pull(r) = √(r² + p (1 − 2r)),    p = (1 − u) r + u/2,

the root of the mean of (error − r)² if errors come with probability p. With u = 0 it is √(r (1 − r)) and trusts the
risks; u, above 0, is how far they are mistrusted, and keeps a chance for every answer. Drawn with π ∝ r instead, an
estimate strays further than with the same π for all (benchmarks/estimates.py).

Sources: Neyman's allocation, for a difference estimator (Särndal, Swensson and Wretman, "Model assisted survey
sampling", 1992); Zrnic and Candès, "Active statistical inference", arXiv 2403.03208.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

import numpy as np
import pandas as pd

from training.errors import InputError

UNIFORM = 0.1


@dataclass(frozen=True)
class Draw:
    """A draw of answers to check, as kept.

    Its population: the served scores of a version, with a risk, created in [since, until], that no earlier draw drew;
    since None: from the first on. budget: how many were to be checked at most. scale, uniform: of its probabilities.
    """

    draw_id: str
    model: str
    version: str
    at: datetime
    since: datetime | None
    until: datetime
    budget: int
    scale: float
    uniform: float
    seed: int

    def probability(self, risk: np.ndarray) -> np.ndarray:
        """With which an answer of its population was drawn, min(1, scale · pull(risk)): (n,) as risk is."""
        return np.minimum(1.0, self.scale * pull(risk, self.uniform))


def total_probability(draws: Sequence[Draw], risk: np.ndarray, created_at: pd.Series | np.ndarray) -> np.ndarray:
    """With which an answer was drawn by any of the draws of its version: 1 − Π (1 − π_d), of those that saw it. (n,)

    A draw counts as having seen what was made in its window, even what came to the store only later, from a journal:
    when that was is not kept. The probability of such answers is then too high.
    risk: (n,), NaN where there is none (then 0). created_at: (n,) moments, in UTC where they name no zone.
    """
    moments = pd.to_datetime(pd.Series(created_at).reset_index(drop=True), utc=True)
    spared = np.ones(len(moments))
    for draw in draws:
        seen = moments <= pd.Timestamp(draw.until)
        if draw.since is not None:
            seen &= moments >= pd.Timestamp(draw.since)
        spared *= np.where(seen, 1 - np.nan_to_num(draw.probability(np.asarray(risk, dtype=float))), 1.0)
    return 1 - spared


def pull(risk: np.ndarray, uniform: float) -> np.ndarray:
    """How strongly risks (n,) in [0, 1] draw: (n,), above 0 where uniform is, at most 1/2 or so."""
    wrong = (1 - uniform) * risk + uniform / 2
    return np.sqrt(np.maximum(risk**2 + wrong * (1 - 2 * risk), 0.0))


def draw(
    population: pd.DataFrame, budget: int, seed: int, model: str, version: str, at: datetime,
    since: datetime | None, until: datetime, earlier: Sequence[Draw] = (),
) -> tuple[Draw, pd.DataFrame]:
    """Draw a population so that `budget` answers are to be checked, or all: the draw, and what was drawn.

    population: score_id, item_id, risk, created_at, drawn (whether an earlier draw drew the answer) and, if it is
    known, label (whether there is one). Left out are those drawn already, without a risk, or not of [since, until].
    Labels do not change the probabilities; an answer with a label is drawn like any other, beyond the budget, and
    counts as checked.
    Returned rows: score_id, item_id, risk, probability (of being drawn by this draw or an `earlier` one: estimates
    weigh by 1/it), position, 0 for the first, and label. They are in random order, labelled or not, so that whoever
    stops early has drawn at random. The same arguments give the same draw.

    Raises:
        InputError: the budget is below 1.
    """
    if budget < 1:
        raise InputError(f"the budget, how many answers to draw, should be 1 or more. Found {budget}.")
    moments = pd.to_datetime(population["created_at"], utc=True)
    within = moments <= pd.Timestamp(until)
    if since is not None:
        within &= moments >= pd.Timestamp(since)
    rows = population[within & population["risk"].notna() & ~population["drawn"].astype(bool)]
    risk = rows["risk"].to_numpy(float)
    label = rows["label"].to_numpy(bool) if "label" in rows else np.zeros(len(rows), dtype=bool)
    name = json.dumps([model, version, at.isoformat(), str(since), until.isoformat(), budget, seed])
    made = Draw(hashlib.sha256(name.encode()).hexdigest()[:32], model, version, at, since, until, budget,
                scale_of(pull(risk[~label], UNIFORM), budget), UNIFORM, seed)
    probability, generator = made.probability(risk), np.random.default_rng(seed)
    parts = [np.flatnonzero(label == known) for known in (False, True)]
    drawn = generator.permutation(
        np.concatenate([part[systematic(probability[part], risk[part], generator)] for part in parts]))
    found = rows.iloc[drawn][["score_id", "item_id", "risk"]].assign(
        probability=total_probability([*earlier, made], risk[drawn], rows["created_at"].iloc[drawn]),
        position=np.arange(len(drawn)), label=label[drawn])
    return made, found.reset_index(drop=True)


def least_probability(draws: Sequence[Draw]) -> float | None:
    """The smallest probability with which any of these draws draws an answer; None without a draw."""
    risks = np.linspace(0, 1, 101)
    return min((float(each.probability(risks).min()) for each in draws), default=None)


def scale_of(pulls: np.ndarray, budget: int) -> float:
    """The scale at which Σ min(1, scale · pull) is the budget; where there are no more rows, each is sure to be drawn.

    pulls: (n,), all above 0.
    """
    if budget >= len(pulls):
        return float(1 / pull(np.zeros(1), UNIFORM)[0] * (1 + 1e-9))  # no risk in [0, 1] pulls less than 0 and 1
    certain = np.zeros(len(pulls), dtype=bool)
    while True:  # rows that would get more than 1 get 1, and the rest share what is left
        scale = float((budget - certain.sum()) / pulls[~certain].sum())
        above = scale * pulls > 1
        if not (above & ~certain).any():
            return scale
        certain |= above


def systematic(probability: np.ndarray, risk: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Rows drawn with the given probabilities, as many as they sum to (or one more), in random order.

    Every row covers a piece of a line as long as its probability; points at distance 1 from each other, starting
    anywhere in [0, 1), mark the rows drawn (Madow, 1949). The pieces lie in the order of the risks, shuffled within
    each stretch of length 1, so that every draw has its part of low, middling and high risks.
    """
    if not len(probability):
        return np.empty(0, dtype=np.int64)
    order = np.lexsort((generator.random(len(risk)), risk))
    stretch = np.floor(np.cumsum(probability[order]) - 1e-9)
    order = order[np.lexsort((generator.random(len(risk)), stretch))]
    ends = np.cumsum(probability[order])
    total = float(ends[-1])
    total = round(total) if abs(total - round(total)) < 1e-6 else total
    points = generator.random() + np.arange(np.ceil(total))
    drawn = order[np.minimum(np.searchsorted(ends, points[points < total], side="right"), len(order) - 1)]
    return generator.permutation(drawn)
