"""Intervals that hold however often one looks. Pure."""

from collections.abc import Callable

import numpy as np
from scipy.optimize import brentq

STAKES = 0.7 * 0.5 ** np.arange(9)
SHIFTS = 1.5 * 0.5 ** np.arange(8)


def interval_of_rate(count: int, n: int, log_alpha: float) -> tuple[float, float]:
    """Where the mean probability of n things is of which `count` happened: at all n at once, but for α.

    Each may depend on what came before. exp(d · count) / (1 − p + p e^d)^n, averaged over shifts d of the logit, ever
    exceeds 2/α with a probability of at most α/2 where p is the mean probability so far, as log(1 − p + p e^d) is
    concave in p; the interval holds the p for which neither it nor its mirror image does.
    """
    def log_money(side: int, rate: float) -> np.ndarray:
        happened, p = (count, rate) if side > 0 else (n - count, 1 - rate)
        return np.asarray(happened * SHIFTS - n * np.log1p(p * np.expm1(SHIFTS)))

    return _where(log_money, count / n if n else 0.5, (0.0, 1.0), log_alpha)


def interval_of_mean(
    values: np.ndarray, weights: np.ndarray, bounds: tuple[float, float], log_alpha: float
) -> tuple[float, float]:
    """Where the mean is of which values, (n,), are a sample with the weights (n,): at all n at once, but for α.

    bounds: between which all values lie. With x_i(m) = w_i (v_i − m), scaled to a range of 1, and x̂_i the mean of those
    before it, the mean over stakes λ of

        exp(λ Σ x_i + (log(1 − λ) + λ) Σ (x_i − x̂_i)²)

    ever exceeds 2/α with a probability of at most α/2 if the x_i have the mean 0, given those before them; the interval
    holds the m for which neither it nor its mirror image does. Source: Howard, Ramdas, McAuliffe and Sekhon, "Time-
    uniform, nonparametric, nonasymptotic confidence sequences", arXiv 1810.08240, theorem 4.
    """
    low, high = bounds
    if not len(values):
        return bounds
    scale = weights.max() * (high - low)
    u, w = weights * values / scale, weights / scale
    count = np.arange(1, len(values) + 1)
    off_u, off_w = (each - np.concatenate([[0.0], np.cumsum(each)[:-1] / count[:-1]]) for each in (u, w))
    sums = u.sum(), w.sum()
    squares = off_u @ off_u, off_u @ off_w, off_w @ off_w

    psi = np.log1p(-STAKES) + STAKES

    def log_money(side: int, mean: float) -> np.ndarray:
        total = side * (sums[0] - mean * sums[1])
        return np.asarray(STAKES * total + psi * (squares[0] - 2 * mean * squares[1] + mean**2 * squares[2]))

    return _where(log_money, float(np.clip(sums[0] / sums[1], low, high)), bounds, log_alpha)


def _where(
    log_money: Callable[[int, float], np.ndarray], middle: float, bounds: tuple[float, float], log_alpha: float
) -> tuple[float, float]:
    """The values around `middle` at which the mean money of the bets on more, and of those on less, is below 2/α."""
    def excess(value: float, side: int) -> float:
        money = log_money(side, value)
        return float(np.logaddexp.reduce(money) - np.log(len(money)) + log_alpha - np.log(2))

    low, high = (float(brentq(excess, middle, end, args=(side,), xtol=1e-6)) if excess(end, side) > 0 else end
                 for side, end in zip((1, -1), bounds, strict=True))
    return low, high
