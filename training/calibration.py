"""How far risks can be trusted: measures of risk against observed error, as pure functions.

Everywhere `risk` is (n,) in [0, 1] and `error` is (n,) of 0 and 1, rows without an answer left out.
A measure that cannot be told from the rows is None. Ties are risks equal after rounding to 1e-9.
"""

from typing import TypedDict

import numpy as np
import pandas as pd

BINS = 10
TIE_DECIMALS = 9
TIE_ORDERS = 20


class Measures(TypedDict):
    """The measures of one set of rows; the keys are a contract of `--json`."""

    n: int
    error_rate: float | None
    mean_risk: float | None
    ece: float | None
    r2: float | None
    auroc: float | None
    aurc: float | None
    brier: float | None


def measures(risk: np.ndarray, error: np.ndarray) -> Measures:
    """All measures at once."""
    risk, error = _aligned(risk, error)
    n = len(risk)
    return {
        "n": n,
        "error_rate": float(error.mean()) if n else None,
        "mean_risk": float(risk.mean()) if n else None,
        "ece": ece(risk, error),
        "r2": r2(risk, error),
        "auroc": auroc(risk, error),
        "aurc": aurc(risk, error),
        "brier": brier(risk, error),
    }


def ece(risk: np.ndarray, error: np.ndarray) -> float | None:
    """Expected calibration error: Σ n_b/n · |mean risk − mean error| over ten equal-width bins of risk.

    Each bin is closed below and open above, but for the last, which holds a risk of exactly 1.
    """
    risk, error = _aligned(risk, error)
    if not len(risk):
        return None
    return float(np.abs(np.bincount(_bin(risk), risk - error, BINS)).sum() / len(risk))


def reliability(risk: np.ndarray, error: np.ndarray) -> pd.DataFrame:
    """The bins of `ece` that hold a row: low, high, n, mean_risk, error_rate."""
    risk, error = _aligned(risk, error)
    n = np.bincount(_bin(risk), minlength=BINS)
    held = np.flatnonzero(n)
    return pd.DataFrame({
        "low": held / BINS,
        "high": (held + 1) / BINS,
        "n": n[held],
        "mean_risk": np.bincount(_bin(risk), risk, BINS)[held] / n[held],
        "error_rate": np.bincount(_bin(risk), error, BINS)[held] / n[held],
    })


def r2(risk: np.ndarray, error: np.ndarray) -> float | None:
    """Squared correlation of mean risk and mean error over bins of ⌊√n⌋ rows, the riskiest first.

    The last, incomplete bin, of the safest rows, is dropped; with ties, the mean over 20 seeded orders,
    whatever the order of the rows. None with fewer than two bins, or where risks or error rates are the same
    in all of them.
    Source: Zhao et al., arXiv 2306.16564.
    """
    risk, error = _aligned(risk, error)
    width = int(np.sqrt(len(risk)))
    if width == 0 or len(risk) // width < 2:
        return None
    rounded = np.round(risk, TIE_DECIMALS)
    own = np.lexsort((risk, error, rounded))
    risk, error, rounded = risk[own], error[own], rounded[own]
    tied = len(np.unique(rounded)) < len(rounded)
    orders = [np.random.default_rng(seed).random(len(risk)) for seed in range(TIE_ORDERS if tied else 1)]
    sorts = [np.lexsort((order, -rounded)) for order in orders]
    found = [_squared_correlation(risk, error, rows, width) for rows in sorts]
    told = [value for value in found if value is not None]
    return float(np.mean(told)) if told else None


def auroc(risk: np.ndarray, error: np.ndarray) -> float | None:
    """The probability that a wrong answer has the higher risk than a right one, ties counting half."""
    risk, error = _aligned(risk, error)
    if not 0 < error.sum() < len(error):
        return None
    from sklearn.metrics import roc_auc_score  # it takes seconds to import

    return float(roc_auc_score(error, np.round(risk, TIE_DECIMALS)))


def aurc(risk: np.ndarray, error: np.ndarray) -> float | None:
    """Area under the risk-coverage curve: the mean of `risk_coverage`."""
    return float(risk_coverage(risk, error).mean()) if len(risk) else None


def risk_coverage(risk: np.ndarray, error: np.ndarray) -> np.ndarray:
    """The error rate among the k least risky rows, k = 1..n; tied rows count their mean error."""
    risk, error = _aligned(risk, error)
    _, group = np.unique(np.round(risk, TIE_DECIMALS), return_inverse=True)
    mean = np.bincount(group, error) / np.bincount(group) if len(group) else error
    return np.cumsum(mean[np.sort(group)]) / np.arange(1, len(risk) + 1)


def brier(risk: np.ndarray, error: np.ndarray) -> float | None:
    """Mean squared distance of risk and error."""
    risk, error = _aligned(risk, error)
    return float(np.mean((risk - error) ** 2)) if len(risk) else None


def riskiest_share(risk: np.ndarray, error: np.ndarray, share: float) -> float | None:
    """Of all errors, the part that lies among the riskiest `share` of the rows (ties as in `risk_coverage`)."""
    risk, error = _aligned(risk, error)
    if not error.sum():
        return None
    accepted = round(len(risk) * (1 - share))
    missed = risk_coverage(risk, error)[accepted - 1] * accepted if accepted else 0.0
    return float(1 - missed / error.sum())


def wilson(share: np.ndarray, n: np.ndarray, z: float = 1.96) -> tuple[np.ndarray, np.ndarray]:
    """Wilson's interval for a share of n; it holds the share, and stays in [0, 1]."""
    middle = (share + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * np.sqrt(share * (1 - share) / n + z**2 / (4 * n**2))
    return np.clip(middle - half, 0, share), np.clip(middle + half, share, 1)


def _bin(risk: np.ndarray) -> np.ndarray:
    return np.minimum((risk * BINS).astype(np.int64), BINS - 1)


def _squared_correlation(risk: np.ndarray, error: np.ndarray, order: np.ndarray, width: int) -> float | None:
    kept = order[: len(order) // width * width]
    x = risk[kept].reshape(-1, width).mean(axis=1)
    y = error[kept].reshape(-1, width).mean(axis=1)
    if np.ptp(x) < 10.0**-TIE_DECIMALS or np.ptp(y) == 0:
        return None
    return float(np.corrcoef(x, y)[0, 1] ** 2)


def _aligned(risk: np.ndarray, error: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    risk, error = np.asarray(risk, dtype=np.float64), np.asarray(error, dtype=np.float64)
    if risk.shape != error.shape or risk.ndim != 1:
        raise ValueError(f"risk and error should be aligned vectors. Found shapes {risk.shape} and {error.shape}.")
    if not ((risk >= 0) & (risk <= 1)).all():
        raise ValueError("risk should lie in [0, 1], with no NaN. Leave rows without an answer out.")
    if not np.isin(error, (0, 1)).all():
        raise ValueError("error should be 0 or 1. Leave rows without a gold label out.")
    return risk, error
