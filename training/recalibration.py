"""From risk to recalibrated risk, learned from a few checked answers. Pure.

    logit r'(a, b) = c + a + b · (x − c),    x = logit(0.998 r + 0.001),    c = −1,
    a ~ Normal(0, 1),    b ~ Normal(1, 0.5) cut to b ≥ 0,    and r' is the posterior mean of r'(a, b).

The prior is centred on the identity, and the mean over the posterior keeps r' away from 0 and 1 as long as few
labels say so: labels that contradict each other, or the risk, pull it to the middle, never outwards. b ≥ 0 makes
the map non-decreasing: the order of the answers stays. Without labels it is the identity.

The posterior is computed on a grid that is narrowed to where its mass lies: no sampling, no tuning. The likelihood
may be weighted; weights are scaled to the effective number of labels, (Σw)² / Σw². Where the chance to be drawn
depended on the risk alone, as in `training.audit`, the labels count as they are: the curve is a curve given the risk.
"""

import math
from dataclasses import dataclass

import numpy as np
from scipy.special import expit

from training.audit_result import KNOTS, SQUASH, Recalibration, squashed

CENTRE, SHIFT_SD, SLOPE_SD = -1.0, 1.0, 0.5
GRID = 41
SUMMARY = 256
SHOWN = tuple(round(0.05 + 0.1 * tenth, 2) for tenth in range(10))


@dataclass(frozen=True)
class Posterior:
    """Shifts a and slopes b on a grid of g points, and the probability of each: all (g,)."""

    shift: np.ndarray
    slope: np.ndarray
    weight: np.ndarray

    def curves(self, risk: np.ndarray) -> np.ndarray:
        """r'(a, b) of n risks at each point: (g, n)."""
        return expit(CENTRE + self.shift[:, None] + self.slope[:, None] * (squashed(risk)[None] - CENTRE))

    def quantile(self, values: np.ndarray, level: float) -> np.ndarray:
        """The quantile of values (g, n) under the posterior: (n,)."""
        places = np.argsort(values, axis=0, kind="stable")
        reached = (np.cumsum(self.weight[places], axis=0) >= level - 1e-12).argmax(axis=0)
        return np.take_along_axis(np.take_along_axis(values, places, axis=0), reached[None], axis=0)[0]


def fit_recalibration(
    risk: np.ndarray, error: np.ndarray, weight: np.ndarray | None = None, pool: np.ndarray | None = None
) -> Recalibration:
    """Recalibrate by n checked answers: their risks (n,) in [0, 1], errors (n,) of 0 and 1, weights (n,) above 0.

    pool: the risks of all answers, NaN ignored, whose mean risk is reported (at 256 of their quantiles); without it
    those of the checked ones.
    """
    if not len(risk):
        return Recalibration()
    found = posterior(risk, error, weight)
    pool = np.asarray(risk if pool is None else pool[~np.isnan(pool)], dtype=np.float64)
    knots = found.curves(np.clip((expit(KNOTS) - SQUASH) / (1 - 2 * SQUASH), 0, 1))
    heights = found.curves(np.quantile(pool, (np.arange(SUMMARY) + 0.5) / SUMMARY)).mean(axis=1, keepdims=True)
    mean = (found.quantile(heights, 0.05), found.quantile(heights, 0.95))
    shown = found.curves(np.array(SHOWN))
    curve = zip(SHOWN, found.weight @ shown, found.quantile(shown, 0.05), found.quantile(shown, 0.95), strict=True)
    return Recalibration(
        values=tuple(map(float, np.maximum.accumulate(found.weight @ knots))), labels=len(risk),
        mean_risk=float(found.weight @ heights[:, 0]), mean_low=float(mean[0][0]), mean_high=float(mean[1][0]),
        curve=tuple((float(r), float(m), float(low), float(high)) for r, m, low, high in curve),
    )


def posterior(risk: np.ndarray, error: np.ndarray, weight: np.ndarray | None = None) -> Posterior:
    """Shift and slope given n labels, as in `fit_recalibration`; without any, the prior.

    Raises:
        ValueError: a risk is outside [0, 1] or NaN, an error neither 0 nor 1, a weight not above 0.
    """
    risk, error = np.asarray(risk, dtype=np.float64), np.asarray(error, dtype=np.float64)
    weight = np.ones(len(risk)) if weight is None else np.asarray(weight, dtype=np.float64)
    if not ((risk >= 0) & (risk <= 1)).all() or not np.isin(error, (0, 1)).all():
        raise ValueError("risk should lie in [0, 1], and error be 0 or 1. Leave unchecked rows out.")
    if not ((weight > 0) & np.isfinite(weight)).all():
        raise ValueError("weight should be above 0: one over the probability with which the row was drawn.")
    weight = weight * (weight.sum() / np.square(weight).sum() if len(weight) else 1.0)
    shifts, slopes = (-5 * SHIFT_SD, 5 * SHIFT_SD), (0.0, 1 + 5 * SLOPE_SD)
    for _ in range(3):
        found = _on_grid(np.linspace(*shifts, GRID), np.linspace(*slopes, GRID), squashed(risk), error, weight)
        shifts = _narrowed(found.shift, found.weight, *shifts)
        slopes = _narrowed(found.slope, found.weight, *slopes)
    return found


def believed_threshold(found: Posterior, pool: np.ndarray, alpha: float, delta: float) -> float | None:
    """The highest risk t for which P(the error rate among the pool's answers with risk ≤ t is ≤ alpha) ≥ 1 − delta.

    A belief and no guarantee: it holds if error is the curve of risk that this module supposes. pool: (n,) risks.
    """
    ordered = np.sort(pool)
    ends = np.unique(np.linspace(1, len(ordered), min(SUMMARY, len(ordered))).astype(np.int64))
    starts = np.concatenate([[0], ends[:-1]])
    heights = found.curves(ordered[(starts + ends - 1) // 2]) * (ends - starts)
    held = found.weight @ (np.cumsum(heights, axis=1) / ends <= alpha) >= 1 - delta
    return float(ordered[ends[np.flatnonzero(held).max()] - 1]) if held.any() else None


def _on_grid(
    shifts: np.ndarray, slopes: np.ndarray, x: np.ndarray, error: np.ndarray, weight: np.ndarray
) -> Posterior:
    shift, slope = (axis.ravel() for axis in np.meshgrid(shifts, slopes, indexing="ij"))
    score = CENTRE + shift[:, None] + slope[:, None] * (x[None] - CENTRE)
    told = error * score - np.logaddexp(0, score)  # log of p where wrong, of 1 - p where right
    log = told @ weight - ((shift / SHIFT_SD) ** 2 + ((slope - 1) / SLOPE_SD) ** 2) / 2
    mass = np.exp(log - log.max())
    return Posterior(shift, slope, mass / mass.sum())


def _narrowed(values: np.ndarray, weight: np.ndarray, low: float, high: float) -> tuple[float, float]:
    """Where the mass lies: five standard deviations around the mean, and a step of the grid, within the old ends."""
    mean = float(weight @ values)
    width = 5 * math.sqrt(float(weight @ (values - mean) ** 2)) + (high - low) / (GRID - 1)
    return max(low, mean - width), min(high, mean + width)
