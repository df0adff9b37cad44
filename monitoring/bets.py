"""Bets on single answers: what each pays if the answer is wrong and if it is right. Pure.

`on_risks` bets against "each answer is wrong with the probability that its risk says".
Such bets are fair however answers were chosen by their risks: choosing by risk alone leaves the probability of an
error given the risk as it is. `on_mean` bets against a statement about the mean over *all* answers; answers that were
chosen with different probabilities must be weighed by one over them.
"""

from dataclasses import dataclass

import numpy as np
from scipy.special import log_expit, logit

SHIFTS = np.array([0.1, 0.35, 0.7, 1.4])
"""How far errors are bet to be off the risks, as a difference of logits."""

MONEY = np.array([0.08, 0.37, 0.37, 0.18])
ABOVE = 0.75
"""The part of the money that is bet on more errors rather than on fewer."""

SLOPES = np.array([0.3, 2.0, -0.5])
"""How errors are bet to follow the risks: the slope of their logits over those of the risks, about `CENTRE`."""

CENTRE, FURTHEST = -1.0, 3.0
"""A bet on a slope moves a risk's logit by no more than `FURTHEST`: one answer must not decide."""

SLOPED = 0.1
"""The part of the money that is bet on slopes."""

FACTORS, FACTOR_MONEY = np.array([1.0, 4.0]), np.array([0.75, 0.25])
ROUNDING = 1e-6


@dataclass(frozen=True)
class Bets:
    """Log payoffs, (bets, n) each, of answers that are wrong and of those that are right; and the log money on each.

    side: (bets,), 1 for a bet on more errors, −1 for one on fewer, 0 for one on a slope. slope: (bets,), of those, else
    1: below it errors follow the risks less than they should, above it more.
    """

    if_wrong: np.ndarray
    if_right: np.ndarray
    log_money: np.ndarray
    side: np.ndarray
    slope: np.ndarray

    def growth(self, error: np.ndarray) -> np.ndarray:
        """(bets, n): log of what each bet holds after each answer, with error (n,) 0 or 1."""
        return np.asarray(np.cumsum(np.where(error > 0, self.if_wrong, self.if_right), axis=1))

    def smallest(self, expected: np.ndarray, alpha: float, log_first: float) -> float | None:
        """The smallest shift up of the probability of an error that these answers would have shown, or None.

        expected: (n,), each answer's probability of an error without the shift. With a shift g, the mean log of a bet
        is Σ (p + g) · if_wrong + (1 − p − g) · if_right, linear in g; half of all times or so, it grows beyond its
        mean. What is looked for is the g with which a bet that began with the first answer reaches 1/alpha.
        """
        up = self.side > 0
        wrong, right = self.if_wrong[up], self.if_right[up]
        with np.errstate(invalid="ignore", divide="ignore"):
            unmoved = (expected * wrong + (1 - expected) * right).sum(axis=1)
            needed = -np.log(alpha) - self.log_money[up] - log_first - unmoved
            shifts = needed / (wrong - right).sum(axis=1)
        possible = shifts[np.isfinite(shifts) & (shifts <= 1 - expected.mean())] if len(expected) else shifts[:0]
        return float(possible.min()) if len(possible) else None


def on_risks(risk: np.ndarray) -> Bets:
    """Likelihood ratios against errors with the probability that the risk says: for more, for fewer, for other slopes.

    risk: (n,). With the shift d, a bet on more errors pays e^d / (1 − r + r e^d) if the answer is wrong and
    1 / (1 − r + r e^d) if it is right, which is 1 on average at r and less below. A bet on the slope b takes errors for
    p = expit(C + b (logit r − C)), with C = `CENTRE`, and pays p / r or (1 − p) / (1 − r).
    """
    shift = SHIFTS[:, None]
    above, below = (-np.log1p(np.clip(limit, ROUNDING, 1) * np.expm1(shift)) for limit in (risk, 1 - risk))
    z = logit(np.clip(risk, ROUNDING, 1 - ROUNDING))
    moved = z + np.clip(np.outer(SLOPES - 1, z - CENTRE), -FURTHEST, FURTHEST)
    wrong, right = (log_expit(side * moved) - np.log(np.maximum(chance, ROUNDING))
                    for side, chance in ((1, risk), (-1, 1 - risk)))
    shifted = (1 - SLOPED) * MONEY
    return Bets(
        if_wrong=np.concatenate([above + shift, below, wrong]),
        if_right=np.concatenate([above, below + shift, right]),
        log_money=np.log(np.concatenate([ABOVE * shifted, (1 - ABOVE) * shifted,
                                         np.full(len(SLOPES), SLOPED / len(SLOPES))])),
        side=np.repeat([1, -1, 0], [len(SHIFTS), len(SHIFTS), len(SLOPES)]),
        slope=np.concatenate([np.ones(2 * len(SHIFTS)), SLOPES]),
    )


def on_mean(
    weight: np.ndarray, above: float, below: float | None = None, risk: np.ndarray | None = None, most: float = 1.0,
) -> Bets:
    """Bets against "over all answers the mean of error − risk is at most `above` and, if given, at least `below`".

    weight: (n,), as of `monitoring.labels.weights`, at most 1. risk: (n,), none above `most`; None for a statement
    about the errors alone. A bet pays 1 + stake · weight · (error − risk − above), which is 1 on average or less,
    whatever is chosen with which probability, and above 0. As weights may all be small, some of the money is on stakes
    `FACTORS` times as large, as far as no bet can lose all that it holds.
    """
    expected = np.zeros_like(weight) if risk is None else risk
    sides = [(1, above, 1.0)] if below is None else [(1, above, ABOVE), (-1, -below, 1 - ABOVE)]
    pays: dict[float, list[np.ndarray]] = {1.0: [], 0.0: []}
    for side, limit, _ in sides:
        furthest = 0.0 if risk is None else most if side > 0 else 1.0
        loss = max(furthest + limit, ROUNDING)
        stake = np.minimum(np.outer(FACTORS, np.expm1(SHIFTS) / (1 + loss * np.expm1(SHIFTS))), 0.98 / loss)
        for error, found in pays.items():
            found.append(np.log1p(np.outer(stake, weight * (side * (error - expected) - limit))))
    money = np.outer(FACTOR_MONEY, MONEY).ravel()
    return Bets(np.concatenate(pays[1.0]), np.concatenate(pays[0.0]),
                np.log(np.concatenate([part * money for *_, part in sides])),
                np.repeat([side for side, *_ in sides], len(money)), np.ones(len(sides) * len(money)))
