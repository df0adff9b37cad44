"""Every measure of one set of answers, as a table: what reports show and compare. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.stats import norm

from monitoring.answers import SMALLEST, Labelled, labelled
from monitoring.decomposition import decompose
from monitoring.estimation import Estimate, accepted_error, error_rate
from monitoring.slices import holm
from monitoring.smooth import smooth_error
from monitoring.weighing import aurc, auroc, ece, r2, rates, reliability

TITLES = {
    "answers": "Answers scored",
    "labelled": "Labelled answers",
    "mean_risk": "Predicted errors (mean risk)",
    "error_rate": "Observed errors",
    "gap": "Gap (observed − predicted)",
    "ece": "Calibration error (ECE)",
    "smooth_ece": "Smooth calibration error",
    "r2": "R² of risk and error",
    "auroc": "AUROC",
    "aurc": "AURC",
    "brier": "Brier score",
    "brier_reliability": "Brier: reliability (0 is best)",
    "brier_resolution": "Brier: resolution (more is better)",
    "brier_uncertainty": "Brier: uncertainty",
    "brier_within": "Brier: within the bins",
    "accepted_share": "Share accepted at the threshold",
    "accepted_error": "Errors among the accepted",
}
"""The measures in the order of a report, and what they are called there.

brier = brier_reliability − brier_resolution + brier_uncertainty + brier_within. accepted_share: of the answers with a
risk. accepted_error: the error rate of those that the threshold accepts.
"""


@dataclass(frozen=True)
class Measured:
    """Of one set of answers.

    table: columns measure, value, low, high; a row for each measure of `TITLES` that can be told, the interval of 95 %
    NaN where there is none. reliability: its bins of five answers and more. told: the labels that all rests on.
    unknown: why the error rate of all answers cannot be told, None where it can be.
    """

    table: pd.DataFrame
    reliability: pd.DataFrame
    told: Labelled
    unknown: str | None

    def value(self, measure: str) -> float | None:
        """A measure, None where it cannot be told."""
        found = self.table.loc[self.table["measure"] == measure, "value"]
        return float(found.iloc[0]) if len(found) else None


def measured(frame: pd.DataFrame, threshold: float | None = None, enough: int = 30) -> Measured:
    """Of a frame as `answers.safe` gives it.

    threshold: answers of at most this risk are accepted; None: it is not known. enough: labels of known probability
    that make a measure hold for all answers. With fewer than five answers nothing is said of risks, with fewer than
    five labels nothing of errors.
    """
    told = labelled(frame, enough)
    risk = frame["risk"].dropna().to_numpy(float)
    rows: dict[str, tuple[float | None, float, float]] = {"answers": (len(frame), np.nan, np.nan),
                                                          "labelled": (len(told), np.nan, np.nan)}
    if len(risk) >= SMALLEST:
        rows["mean_risk"] = (float(risk.mean()), np.nan, np.nan)
        if threshold is not None:
            rows["accepted_share"] = (float((risk <= threshold).mean()), np.nan, np.nan)
    bins = reliability(told.risk, told.error, told.weight)[:0]
    unknown: str | None = _only(len(told), "answer", "labelled") if len(told) else "no answer is labelled"
    if len(told) >= SMALLEST:
        columns = frame[["risk", "error", "probability"]]
        estimate = error_rate(columns)
        unknown = None if told.known else _why_unknown(estimate, columns, enough)
        if unknown is None:
            error = _estimated(estimate, told, np.ones(len(told), dtype=bool))
        else:
            error = _rate(told, np.ones(len(told), dtype=bool))
            rows["mean_risk"] = (float(np.average(told.risk, weights=told.weight)), np.nan, np.nan)
        rows["error_rate"] = error
        rows |= _of_labels(told)
        accepted = np.zeros(len(told), dtype=bool) if threshold is None else told.risk <= threshold
        if threshold is not None and accepted.sum() >= SMALLEST:
            rows["accepted_error"] = _rate(told, accepted) if unknown else _estimated(
                accepted_error(columns, threshold), told, accepted)
        predicted = rows["mean_risk"][0] or 0.0
        rows["gap"] = (error[0] - predicted, error[1] - predicted, error[2] - predicted)
        bins = reliability(told.risk, told.error, told.weight)
        bins = bins[bins["n"] >= SMALLEST].reset_index(drop=True)
    table = pd.DataFrame([(name, *rows[name]) for name in TITLES if name in rows and rows[name][0] is not None],
                         columns=["measure", "value", "low", "high"])
    return Measured(table, bins, told, unknown)


def _why_unknown(estimate: Estimate, columns: pd.DataFrame, enough: int) -> str:
    """Why labels do not hold for all answers: none, or too few, of known choice."""
    if estimate.value is None:
        return estimate.reason.removeprefix("cannot tell: ")
    sure = int((columns[["risk", "error"]].notna().all(axis=1) & (columns["probability"] > 0)).sum())
    return f"{_only(sure, 'label', 'of known choice')}, {enough} are needed"


def _only(n: int, noun: str, what: str) -> str:
    return f"only {n} {noun}{'s are' if n != 1 else ' is'} {what}"


def _of_labels(told: Labelled) -> dict[str, tuple[float | None, float, float]]:
    risk, error, weight = told.risk, told.error, told.weight
    smooth, parts = smooth_error(risk, error, weight), decompose(risk, error, weight)
    return {
        "ece": (ece(risk, error, weight), np.nan, np.nan),
        "smooth_ece": (smooth.value, smooth.low, smooth.high),
        "r2": (r2(risk, error, weight), np.nan, np.nan),
        "auroc": (auroc(risk, error, weight), np.nan, np.nan),
        "aurc": (aurc(risk, error, weight), np.nan, np.nan),
        "brier": (parts.score, *_mean_interval((risk - error) ** 2, weight)),
        "brier_reliability": (parts.reliability, np.nan, np.nan),
        "brier_resolution": (parts.resolution, np.nan, np.nan),
        "brier_uncertainty": (parts.uncertainty, np.nan, np.nan),
        "brier_within": (parts.within, np.nan, np.nan),
    }


def _rate(told: Labelled, rows: np.ndarray) -> tuple[float, float, float]:
    code = np.zeros(int(rows.sum()), dtype=np.int64)
    rate, low, high = rates(code, told.error[rows], told.weight[rows], 1)
    return float(rate[0]), float(low[0]), float(high[0])


def _estimated(estimate: Estimate, told: Labelled, rows: np.ndarray) -> tuple[float, float, float]:
    """An estimate about a population of N answers, as one about the rate behind it, that others may be compared with.

    To its variance comes that of N answers, p (1 − p)/N. If all of them are labelled, it is their share that counts.
    """
    if estimate.value is None or estimate.low is None or estimate.high is None or estimate.method == "exact":
        return _rate(told, rows)
    value, reach = estimate.value, 1.96 * np.sqrt(estimate.value * (1 - estimate.value) / estimate.population)
    return (value, float(max(value - np.hypot(value - estimate.low, reach), 0.0)),
            float(min(value + np.hypot(estimate.high - value, reach), 1.0)))


def _mean_interval(values: np.ndarray, weight: np.ndarray) -> tuple[float, float]:
    """95 % by the normal approximation, with the linearised variance of a weighted mean."""
    part = weight / weight.sum()
    mean = float(part @ values)
    half = 1.96 * float(np.sqrt((part * (values - mean)) @ (part * (values - mean))))
    return mean - half, mean + half


def compared(before: pd.DataFrame, after: pd.DataFrame) -> pd.DataFrame:
    """Measures that both tables hold, side by side: measure, before, after, difference, low, high.

    low, high: an interval of 95 % of the difference of two independent sets, from each one's own interval (MOVER; Zou
    and Donner, "Construction of confidence limits about effect measures", 2008); NaN where either has none.
    """
    both = before.merge(after, on="measure", suffixes=("_a", "_b"))
    a, b = both["value_a"].to_numpy(float), both["value_b"].to_numpy(float)
    below = np.hypot(b - both["low_b"], both["high_a"] - a)
    above = np.hypot(both["high_b"] - b, a - both["low_a"])
    return pd.DataFrame({"measure": both["measure"], "before": a, "after": b, "difference": b - a,
                         "low": b - a - below, "high": b - a + above})


def surely(differences: pd.DataFrame, measures: Sequence[str]) -> list[str]:
    """Those of the measures whose difference is beyond chance, which brings any of them here one time in twenty.

    differences: as `compared` has them. Holm's correction over the measures; each p-value by the normal approximation,
    from how far the difference's interval reaches towards 0.
    """
    rows = differences[differences["measure"].isin(measures)].dropna()
    off, low, high = (rows[name].to_numpy(float) for name in ("difference", "low", "high"))
    reach = np.where(off > 0, off - low, high - off)
    with np.errstate(divide="ignore", invalid="ignore"):
        p_values = np.where(off == 0, 1.0, 2 * norm.sf(1.96 * np.abs(off) / reach))
    marked = set(rows["measure"][holm(p_values, 0.05)])
    return [measure for measure in measures if measure in marked]
