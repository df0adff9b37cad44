"""What a Brier score is made of. Pure.

Murphy, "A new vector partition of the probability score", 1973; with the two terms of what happens within the bins, so
that the parts sum to the score exactly: Stephenson, Coelho and Jolliffe, "Two extra components in the Brier score
decomposition", 2008.
"""

from dataclasses import dataclass

import numpy as np

from training.calibration import BINS


@dataclass(frozen=True)
class Brier:
    """score = reliability − resolution + uncertainty + within.

    reliability: how far errors are from the risks, bin by bin; 0 where the risks are true. resolution: how far the
    bins' errors are from each other. uncertainty: error rate · (1 − error rate), whatever the risks say. within: what
    the risks say inside the bins, var(r) − 2 cov(r, e) there; below 0 where they tell wrong from right there, too.
    """

    score: float
    reliability: float
    resolution: float
    uncertainty: float
    within: float


def decompose(risk: np.ndarray, error: np.ndarray, weight: np.ndarray) -> Brier:
    """Of n ≥ 1 rows, over the bins of `training.calibration.ece`; all (n,), weights above 0."""
    part = weight / weight.sum()
    place = np.minimum((risk * BINS).astype(np.int64), BINS - 1)
    code = np.unique(place, return_inverse=True)[1]
    mass = np.bincount(code, part)
    mean_risk, mean_error = np.bincount(code, part * risk) / mass, np.bincount(code, part * error) / mass
    rate = float(part @ error)
    in_risk, in_error = risk - mean_risk[code], error - mean_error[code]
    return Brier(
        score=float(part @ (risk - error) ** 2),
        reliability=float(mass @ (mean_risk - mean_error) ** 2),
        resolution=float(mass @ (mean_error - rate) ** 2),
        uncertainty=rate * (1 - rate),
        within=float(part @ (in_risk**2 - 2 * in_risk * in_error)),
    )
