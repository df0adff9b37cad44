"""Evidence that grows with every answer and may be looked at after each: bets that pay only if something is wrong.

A bet starts with the money 1 and multiplies it, row by row, by a payoff whose mean, given all before, is at most 1
while nothing is wrong. Such money *ever* exceeds 1/α with a probability of at most α, however often one looks (Ville's
inequality), and so does any average of bets: here over stakes, and over the rows with which a bet begins, so that a
change after a long healthy time is noticed soon. Sources: Waudby-Smith and Ramdas, "Estimating means of bounded random
variables by betting", arXiv 2010.09686; Shin, Ramdas and Rinaldo, "E-detectors", arXiv 2203.03532. Pure.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

FIRST = 0.5
"""The part of the money that is bet from the first row on."""

NEVER = -np.inf


@dataclass(frozen=True)
class Evidence:
    """What bets hold after each row.

    growth: (bets, n), log of what a bet began before the first row holds after each. log_money: (bets,), of the money
    put on each, e^… sum to at most 1. log_starts: (n,), of the part of it that a bet begins with each row.
    """

    growth: np.ndarray
    log_money: np.ndarray
    log_starts: np.ndarray

    @cached_property
    def log_wealth(self) -> np.ndarray:
        """(n,): log of all the money, what is not bet yet included."""
        return np.asarray(np.logaddexp.reduce(self.log_money[:, None] + self.of_bets, axis=0))

    @cached_property
    def of_bets(self) -> np.ndarray:
        """(bets, n): log of what the money on each bet has become."""
        return over_starts(self.growth, self.log_starts)

    def start(self, row: int) -> tuple[int, int]:
        """The bet, and the row with which it began, that hold most after a row."""
        found = [best_start(growth, self.log_starts, row) for growth in self.growth]
        bet = int(np.argmax(self.log_money + [held for _, held in found]))
        return bet, found[bet][0]


def first_reached(log_wealth: np.ndarray, alpha: float, counts: np.ndarray) -> int | None:
    """The first row, among those where `counts`, (n,), is true, with a wealth of 1/alpha; None if there is none."""
    reached = counts & (log_wealth >= -np.log(alpha))
    return int(reached.argmax()) if reached.any() else None


def p_value(log_wealth: np.ndarray, counts: np.ndarray) -> float:
    """The probability that chance ever brings as much evidence as was there at its peak, among where `counts`."""
    return float(np.exp(-log_wealth[counts].max(initial=0.0)))


def peak(log_wealth: np.ndarray, counts: np.ndarray) -> int:
    """The row, among where `counts`, after which there was most evidence."""
    return int(np.where(counts, log_wealth, NEVER).argmax())


def best_start(growth: np.ndarray, log_starts: np.ndarray, row: int) -> tuple[int, float]:
    """The row with which the bet began that holds most after `row`, and the log of what it holds. growth: (n,)."""
    held = (log_starts - _before(growth))[:row + 1]
    first = int(held.argmax())
    return first, float(held[first] + growth[row])


def over_starts(growth: np.ndarray, log_starts: np.ndarray) -> np.ndarray:
    """Log of what bets hold whose money is bet little by little: (…, n) from growth (…, n) and log_starts (n,).

    wealth_t = Σ_{s ≤ t} w_s · exp(G_t − G_{s−1}) + 1 − Σ_{s ≤ t} w_s, with G the growth from the first row, finite.
    """
    before = _before(growth)
    begun = np.logaddexp.accumulate(log_starts - before, axis=-1) + growth
    rest = np.log(np.maximum(1 - np.cumsum(np.exp(log_starts)), 1e-300))
    return np.asarray(np.logaddexp(begun, rest))


def starts(rows_before: np.ndarray, scale: float, horizon: float) -> np.ndarray:
    """(n,): log of the part of the money that is bet from each of n steps on, given the rows before each.

    `FIRST` on the first step, the rest spread over rows up to `horizon` evenly on the scale log(scale + row): about as
    much on rows 1,000 to 2,000 as on 10,000 to 20,000. What is known before a step is all that its part depends on.
    """
    spread = np.minimum(np.log1p(rows_before / scale) / np.log1p(horizon / scale), 1.0)
    parts = np.diff(spread, prepend=0.0) * (1 - FIRST)
    parts[:1] = FIRST
    with np.errstate(divide="ignore"):
        return np.asarray(np.log(parts))


def _before(growth: np.ndarray) -> np.ndarray:
    return np.concatenate([np.zeros_like(growth[..., :1]), growth[..., :-1]], axis=-1)
