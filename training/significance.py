"""Whether one score ranks errors better than another, or the rows just fell that way: a paired bootstrap. Pure."""

from dataclasses import dataclass

import numpy as np

from training.calibration import TIE_DECIMALS

DRAWS = 500
CHUNK = 500_000


@dataclass(frozen=True)
class Gap:
    """AUROC of one score minus AUROC of another on the same rows, and its standard error over resampled rows.

    The error is None where too few resamples hold both right and wrong answers.
    """

    difference: float
    standard_error: float | None

    def behind_by_more_than(self, margin: float) -> bool:
        """Whether the first is behind by more than the margin plus one standard error."""
        return self.standard_error is not None and -self.difference > margin + self.standard_error


def auroc_gaps(
    ours: list[np.ndarray], others: dict[str, list[np.ndarray]], error: np.ndarray, draws: int = DRAWS, seed: int = 0
) -> dict[str, Gap]:
    """The gap between our score of n rows and each other one, a score given as its risks (n,) by training seed.

    A difference is the mean over training seeds of the AUROC differences, as measures are averaged elsewhere. Rows
    are resampled with replacement, the same ones for all scores and seeds. Empty where all rows are right, or all
    wrong.
    """
    n, rng = len(error), np.random.default_rng(seed)
    if not others or not 0 < error.sum() < n:
        return {}
    resampled: dict[str, list[np.ndarray]] = {name: [] for name in others}
    step = max(CHUNK // n, 1)
    for start in range(0, draws, step):
        counts = _resampled(rng, min(step, draws - start), n)
        own = _mean_aurocs(ours, error, counts)
        for name, other in others.items():
            resampled[name].append(own - _mean_aurocs(other, error, counts))
    once = np.ones((1, n))
    own = _mean_aurocs(ours, error, once)
    return {name: Gap(float((own - _mean_aurocs(other, error, once))[0]), _spread(np.concatenate(resampled[name])))
            for name, other in others.items()}


def weighted_aurocs(risk: np.ndarray, error: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """AUROC of risks (n,) for errors (n,) where row i occurs counts[draw, i] times: (draws,), NaN if it cannot be told.

    Ties, as in `training.calibration`, count half.
    """
    order = np.argsort(np.round(risk, TIE_DECIMALS), kind="stable")
    _, starts = np.unique(np.round(risk, TIE_DECIMALS)[order], return_index=True)
    wrong, right = (np.add.reduceat(counts[:, order] * which[order], starts, axis=1) for which in (error, 1 - error))
    below = np.cumsum(right, axis=1) - right / 2
    with np.errstate(invalid="ignore"):
        return (wrong * below).sum(axis=1) / (wrong.sum(axis=1) * right.sum(axis=1))


def _mean_aurocs(risks: list[np.ndarray], error: np.ndarray, counts: np.ndarray) -> np.ndarray:
    return np.mean([weighted_aurocs(risk, error, counts) for risk in risks], axis=0)


def _spread(differences: np.ndarray) -> float | None:
    told = differences[~np.isnan(differences)]
    return float(told.std(ddof=1)) if len(told) > 1 else None


def _resampled(rng: np.random.Generator, draws: int, n: int) -> np.ndarray:
    """How often each of n rows is drawn, in n draws with replacement: (draws, n)."""
    rows = rng.integers(n, size=(draws, n)) + n * np.arange(draws)[:, None]
    return np.bincount(rows.ravel(), minlength=rows.size).reshape(rows.shape).astype(np.float64)
