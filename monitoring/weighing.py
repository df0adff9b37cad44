"""The measures of `training.calibration`, of answers that were labelled with unequal probabilities. Pure.

Each answer weighs 1/probability and so stands for the answers that were not drawn. With equal weights each measure is
the one of `training.calibration`, and as there, ties are risks equal after rounding to 1e-9. Everywhere risk (n,) lies
in [0, 1], error (n,) is 0 or 1, weight (n,) is above 0; None is what cannot be told from the rows.
"""

import numpy as np
import pandas as pd
from scipy.special import betaincinv

from training.calibration import BINS, TIE_DECIMALS, TIE_ORDERS


def ece(risk: np.ndarray, error: np.ndarray, weight: np.ndarray) -> float:
    """Σ over ten equal-width bins of |Σ w (r − e)| / Σ w; n ≥ 1."""
    return float(np.abs(np.bincount(bins_of(risk), weight * (risk - error), BINS)).sum() / weight.sum())


def reliability(risk: np.ndarray, error: np.ndarray, weight: np.ndarray) -> pd.DataFrame:
    """The bins of `ece` that hold a row: low, high, n, mean_risk, error_rate, and error_low, error_high (95 %)."""
    place = bins_of(risk)
    n = np.bincount(place, minlength=BINS)
    held = np.flatnonzero(n)
    code = np.searchsorted(held, place)
    rate, low, high = rates(code, error, weight, len(held))
    return pd.DataFrame({
        "low": held / BINS, "high": (held + 1) / BINS, "n": n[held],
        "mean_risk": np.bincount(code, weight * risk) / np.bincount(code, weight),
        "error_rate": rate, "error_low": low, "error_high": high,
    })


def bins_of(risk: np.ndarray) -> np.ndarray:
    """The bin of each risk, 0 to 9; the last one is closed at 1."""
    return np.minimum((risk * BINS).astype(np.int64), BINS - 1)


def rates(
    code: np.ndarray, error: np.ndarray, weight: np.ndarray, groups: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Error rate of each group with an interval of 95 %, (groups,) each; NaN, and [0, 1], of one without rows.

    code: (n,) group of each row. The interval is that of Clopper and Pearson with the effective number of rows, of
    which Kish's (Σw)²/Σw² and the one that the rate's linearised variance implies, the smaller; with equal weights it
    is exact.
    """
    total, square = np.bincount(code, weight, groups), np.bincount(code, weight**2, groups)
    n = np.bincount(code, minlength=groups)
    with np.errstate(invalid="ignore", divide="ignore"):
        rate = np.clip(np.bincount(code, weight * error, groups) / total, 0, 1)
        variance = np.bincount(code, (weight * (error - rate[code])) ** 2, groups) / total**2
        implied = np.where(variance > 0, rate * (1 - rate) / variance, np.inf)
    effective = np.minimum(effective_rows(total, square), np.minimum(implied, n))
    wrong = np.nan_to_num(rate) * effective
    with np.errstate(invalid="ignore"):
        low = betaincinv(wrong, effective - wrong + 1, 0.025)
        high = betaincinv(wrong + 1, effective - wrong, 0.975)
    return rate, np.where(wrong > 0, np.nan_to_num(low), 0.0), np.where(effective > wrong, high, 1.0)


def effective_rows(total: np.ndarray, square: np.ndarray) -> np.ndarray:
    """Kish's number of rows of equal weight that tell as much: (Σw)²/Σw², 0 without any."""
    return np.divide(total**2, square, out=np.zeros(total.shape), where=square > 0)


def auroc(risk: np.ndarray, error: np.ndarray, weight: np.ndarray) -> float | None:
    """The probability that a wrong answer has the higher risk than a right one, ties counting half."""
    if not 0 < error.sum() < len(error):
        return None
    _, group = np.unique(np.round(risk, TIE_DECIMALS), return_inverse=True)
    wrong, right = np.bincount(group, weight * error), np.bincount(group, weight * (1 - error))
    below = np.cumsum(right) - right / 2
    return float(wrong @ below / (wrong.sum() * right.sum()))


def aurc(risk: np.ndarray, error: np.ndarray, weight: np.ndarray) -> float:
    """The mean, over shares accepted, of the error rate among the least risky; n ≥ 1."""
    _, group = np.unique(np.round(risk, TIE_DECIMALS), return_inverse=True)
    order = np.argsort(group, kind="stable")
    mean = np.bincount(group, weight * error) / np.bincount(group, weight)
    sorted_weight = weight[order]
    covered = np.cumsum(sorted_weight)
    wrong = np.cumsum(mean[group[order]] * sorted_weight)
    return float(sorted_weight @ (wrong / covered) / covered[-1])


def r2(risk: np.ndarray, error: np.ndarray, weight: np.ndarray) -> float | None:
    """R² of `training.calibration`: bins hold ⌊√n⌋ rows, and each bin's means and the bins weigh what their rows do.

    Ties are put in the same 20 random orders; yet only those matter that cross from one bin into the next, and they
    alone are sorted each time, which makes a million rows some three times as quick.
    """
    width = int(np.sqrt(len(risk)))
    if width == 0 or len(risk) // width < 2:
        return None
    rounded = np.round(risk, TIE_DECIMALS)
    own = np.lexsort((risk, error, rounded))
    risk, error, weight, rounded = risk[own], error[own], weight[own], rounded[own]
    _, group, size = np.unique(-rounded, return_inverse=True, return_counts=True)  # the riskiest first
    order = np.argsort(group, kind="stable")
    last = np.cumsum(size) - 1
    crosses = (last - size + 1) // width != last // width
    places = np.flatnonzero(crosses[group[order]])
    moving = order[places]
    found = []
    for seed in range(TIE_ORDERS if len(moving) and (size > 1).any() else 1):
        chance = np.random.default_rng(seed).random(len(risk))
        order[places] = moving[np.lexsort((chance[moving], group[moving]))]
        found.append(_squared_correlation(risk[order], error[order], weight[order], width))
    told = [value for value in found if value is not None]
    return float(np.mean(told)) if told else None


def _squared_correlation(risk: np.ndarray, error: np.ndarray, weight: np.ndarray, width: int) -> float | None:
    kept = len(risk) // width * width
    whole = weight[:kept].reshape(-1, width)
    mass = whole.sum(axis=1)
    x = (whole * risk[:kept].reshape(-1, width)).sum(axis=1) / mass
    y = (whole * error[:kept].reshape(-1, width)).sum(axis=1) / mass
    if np.ptp(x) < 10.0**-TIE_DECIMALS or np.ptp(y) < 1e-12:
        return None
    between = np.cov(x, y, aweights=mass)
    return float(between[0, 1] ** 2 / (between[0, 0] * between[1, 1]))
