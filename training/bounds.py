"""What a perfectly calibrated score would show on a sample of a given size: the floor of ECE, the ceiling of R².

A score is perfectly calibrated if each error is a coin of its own, error ~ Bernoulli(risk). Even so its ECE on n
rows is not 0 and its R² not 1. Both are simulated here, as means over seeded draws. Pure.
"""

from collections.abc import Iterator

import numpy as np
from scipy.optimize import brentq
from scipy.special import betainc, betaincinv

from training.calibration import BINS

DRAWS = 200
FEWEST_DRAWS = 20
NUMBERS = 4_000_000  # beyond so many random numbers there are fewer draws: with more rows, each tells more
CHUNK = 500_000  # of them are held at a time
NODES, WEIGHTS = np.polynomial.legendre.leggauss(128)


def ece_floor(risk: np.ndarray, draws: int = DRAWS, seed: int = 0) -> float | None:
    """The mean ECE over draws of error ~ Bernoulli(risk), the risks (n,) as they are. None without a row."""
    n = len(risk)
    if not n:
        return None
    bins = np.minimum((risk * BINS).astype(np.int64), BINS - 1)
    order = np.argsort(bins, kind="stable")
    risk, starts = risk[order], np.unique(bins[order], return_index=True)[1]
    rng = np.random.default_rng(seed)
    found = [np.abs(np.add.reduceat(risk - (rng.random((rows, n)) < risk), starts, axis=1)).sum(axis=1) / n
             for rows in _chunks(draws, n)]
    return float(np.concatenate(found).mean())


def r2_ceiling(n: int, error_rate: float, auroc: float | None, draws: int = DRAWS, seed: int = 0) -> float | None:
    """The mean R² of a perfectly calibrated score with this error rate and this expected AUROC, on n rows.

    Its risks are drawn from a beta distribution, the mean of which is the error rate and the spread of which is
    solved for the AUROC; errors ~ Bernoulli(risk); R² is that of `training.calibration.r2`. None where the AUROC is
    not above one half, as no calibrated score is worse than chance, or R² cannot be told.
    """
    if auroc is None or not 0.5 < auroc < 1 or not 0 < error_rate < 1:
        return None
    a, b = _beta(error_rate, auroc)
    rng = np.random.default_rng(seed)
    found = []
    for rows in _chunks(draws, n):
        risk = rng.beta(a, b, (rows, n))
        found.append(squared_correlations(risk, (rng.random((rows, n)) < risk).astype(float)))
    told = np.concatenate(found)
    told = told[~np.isnan(told)]
    return float(told.mean()) if len(told) else None


def squared_correlations(risk: np.ndarray, error: np.ndarray) -> np.ndarray:
    """`training.calibration.r2` of each row of risks (draws, n) without ties and errors (draws, n); NaN for None."""
    n = risk.shape[1]
    width = int(np.sqrt(n))
    if width == 0 or n // width < 2:
        return np.full(len(risk), np.nan)
    order = np.argsort(-risk, axis=1)[:, : n // width * width]
    x, y = (np.take_along_axis(values, order, axis=1).reshape(len(risk), -1, width).mean(axis=2)
            for values in (risk, error))
    x, y = x - x.mean(axis=1, keepdims=True), y - y.mean(axis=1, keepdims=True)
    with np.errstate(invalid="ignore", divide="ignore"):
        return (x * y).sum(axis=1) ** 2 / ((x**2).sum(axis=1) * (y**2).sum(axis=1))


def _beta(mean: float, auroc: float) -> tuple[float, float]:
    """The beta distribution (a, b) of that mean, a calibrated score drawn from which has that expected AUROC."""

    def surplus(log_size: float) -> float:
        return _expected_auroc(mean * np.exp(log_size), (1 - mean) * np.exp(log_size)) - auroc

    low, high = -9.0, 12.0  # a + b from near 0, risks of 0 and 1 alone, to very large, all risks the same
    if surplus(low) <= 0 or surplus(high) >= 0:
        log_size = low if surplus(low) <= 0 else high
    else:
        log_size = brentq(surplus, low, high, xtol=1e-6)
    return mean * float(np.exp(log_size)), (1 - mean) * float(np.exp(log_size))


def _expected_auroc(a: float, b: float) -> float:
    """P(X > Y) for the risks X ~ Beta(a + 1, b) of errors and Y ~ Beta(a, b + 1) of right answers, by quadrature."""
    return float(0.5 * WEIGHTS @ betainc(a, b + 1, betaincinv(a + 1, b, (NODES + 1) / 2)))


def _chunks(draws: int, n: int) -> Iterator[int]:
    """The draws in portions that fit into memory, fewer of them where the rows are many."""
    left = min(draws, max(NUMBERS // max(n, 1), FEWEST_DRAWS))
    step = max(CHUNK // max(n, 1), 1)
    while left > 0:
        yield min(step, left)
        left -= step
