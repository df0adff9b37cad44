"""How often the LLM is wrong now, from labels of which it is known how they were chosen. Pure.

The N answers of a population have risks r; n of them have a label, their errors e and the probabilities π with which
they came to be checked. Estimated is the error rate and the calibration gap, error rate − mean risk:

    error rate = mean r + gap,    gap = Σ (e − r)/π / Σ 1/π,
    variance = Σ_items (Σ √(1 − π′) d / π)² / (Σ 1/π)²,    π′ = π · min(1, Σ 1/π / N).

An answer that was scored several times is several answers here, and one item: its labels are not independent, so its
deviations are summed before they are squared. d is the observed (e − r − gap) √(m/(m − 1)), m items, or pull(r), what
the risks themselves would make one expect (`monitoring.sampling`), whichever makes the variance larger: among few
labels, errors at low risk, which weigh most, may be missing. π′ allows for drawn answers not yet checked. The interval
is gap ± t · √variance, Student's t with m − 1 degrees of freedom (with 1 where m = 1), cut to what is possible. If
every answer has its label, it is exact.

Labels chosen in an unknown way count for nothing. Labels of a part of the time stand for all of it, as if errors came
as often in the rest: give one period at a time where that is in doubt.

Source: the difference estimator with Hájek's ratio, in Särndal, Swensson and Wretman, "Model assisted survey
sampling", 1992; Angelopoulos et al., "Prediction-powered inference", arXiv 2301.09633.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import pandas as pd
from scipy.stats import t as student

from monitoring.sampling import pull

CONFIDENCE = 0.95
DOUBT = 0.05  # how far the risks are mistrusted in what they make one expect

Method = Literal["exact", "difference", "weighted mean", "label-free", "none"]
Period = Literal["day", "week"]


@dataclass(frozen=True)
class Estimate:
    """An estimate and its interval; None where it cannot be told, and the reason says why.

    n: the labels it rests on. population: the answers it is about.
    """

    value: float | None
    low: float | None
    high: float | None
    n: int
    population: int
    method: Method
    reason: str


def error_rate(frame: pd.DataFrame, confidence: float = CONFIDENCE) -> Estimate:
    """The share of wrong answers among all rows with a risk.

    frame: risk, error and probability, as `Store.frame` has them; labels that count have both of the last. item_id:
    which answers are of one item; without it each is of its own.
    """
    gap, mean = calibration_gap(frame, confidence), _mean_risk(frame)
    if gap.value is None or gap.low is None or gap.high is None:
        return gap
    value, low, high = (min(max(mean + bound, 0.0), 1.0) for bound in (gap.value, gap.low, gap.high))
    return replace(gap, value=value, low=low, high=high)


def calibration_gap(frame: pd.DataFrame, confidence: float = CONFIDENCE) -> Estimate:
    """Error rate − mean risk over all rows with a risk: above 0 where answers are wrong more often than risks say."""
    rows = frame[frame["risk"].notna()]
    told, probability = _counted(rows)
    n, population = len(told), len(rows)
    if unknown := _unknown(rows, n):
        return unknown
    risk, error = told["risk"].to_numpy(float), told["error"].to_numpy(float)
    weight = 1 / probability
    gap = float(np.clip(weight @ (error - risk) / weight.sum(), -1, 1))  # by rounding it may be beyond
    item, items = _items(told)
    found = (error - risk - gap) * np.sqrt(items / max(items - 1, 1))
    spread = max(_spread(probability, population, each, item) for each in (found, pull(risk, DOUBT)))
    reach = _quantile(items, confidence) * spread
    mean = _mean_risk(rows)
    low, high = max(gap - reach, -mean), min(gap + reach, 1 - mean)
    method: Method = "exact" if n == population else "difference"
    return Estimate(gap, min(low, gap), max(high, gap), n, population, method, _reason(n, weight, population))


def weighted_error_rate(frame: pd.DataFrame, confidence: float = CONFIDENCE) -> Estimate:
    """`error_rate` by the labels alone, Σ e/π / Σ 1/π, the risks left out: a comparison.

    The interval is Wilson's, with the number of labels of equal weight that would tell as much.
    """
    rows = frame[frame["risk"].notna()]
    told, probability = _counted(rows)
    n, population = len(told), len(rows)
    if unknown := _unknown(rows, n):
        return unknown
    weight, error = 1 / probability, told["error"].to_numpy(float)
    rate = float(np.clip(weight @ error / weight.sum(), 0, 1))
    item, items = _items(told)
    spread = _spread(probability, population, np.ones(n), item)
    share = (_quantile(items, confidence) * spread) ** 2  # t²/n, of equal weights
    middle = (rate + share / 2) / (1 + share)
    reach = float(np.sqrt(share * rate * (1 - rate) + share**2 / 4)) / (1 + share)
    method: Method = "exact" if n == population else "weighted mean"
    low, high = max(min(middle - reach, rate), 0.0), min(max(middle + reach, rate), 1.0)
    return Estimate(rate, low, high, n, population, method, _reason(n, weight, population))


def accepted_error(frame: pd.DataFrame, threshold: float, confidence: float = CONFIDENCE) -> Estimate:
    """`error_rate` among the answers with a risk of at most the threshold."""
    accepted = frame[frame["risk"] <= threshold]
    if accepted.empty and frame["risk"].notna().any():
        return _none(0, f"no answer has a risk of at most {threshold:g}")
    return error_rate(accepted, confidence)


def by_group(frame: pd.DataFrame, groups: pd.Series, estimate: Callable[[pd.DataFrame], Estimate] = error_rate
             ) -> pd.DataFrame:
    """One estimate a group, in the order of the groups: group, answers, labels, mean_risk, value, low, high, reason.

    groups: (n,) beside the frame, such as its `version` or `starts`; NaN belongs to none. What cannot be told is NaN.
    """
    columns = ["group", "answers", "labels", "mean_risk", "value", "low", "high", "reason"]
    rows = []
    for group, part in frame.groupby(groups.set_axis(frame.index), sort=True):
        found = estimate(part)
        rows.append((group, found.population, found.n, part["risk"].mean(), found.value, found.low, found.high,
                     found.reason))
    return pd.DataFrame(rows, columns=columns).astype(dict.fromkeys(columns[3:7], float))


def starts(created_at: pd.Series, period: Period) -> pd.Series:
    """When the day, or the week from Monday on, began in which each moment lies; in UTC."""
    days = pd.to_datetime(created_at, utc=True).dt.floor("D")
    return days if period == "day" else days - pd.to_timedelta(days.dt.weekday, unit="D")


def _counted(rows: pd.DataFrame) -> tuple[pd.DataFrame, np.ndarray]:
    """The rows whose labels count, and their probabilities; how labels were chosen is of no matter if all have one."""
    told = rows[rows["error"].notna()]
    if len(told) == len(rows):
        return told, np.ones(len(told))
    told = told[told["probability"] > 0]
    return told, np.minimum(told["probability"].to_numpy(float), 1.0)


def _items(told: pd.DataFrame) -> tuple[np.ndarray, int]:
    """The number of each row's item, (n,), and how many items there are."""
    if "item_id" not in told:
        return np.arange(len(told)), len(told)
    item, names = pd.factorize(told["item_id"])
    return item, len(names)


def _spread(probability: np.ndarray, population: int, deviation: np.ndarray, item: np.ndarray) -> float:
    """The standard deviation of a weighted mean over labels of the given deviations (n,), which add up in an item."""
    weight = 1 / probability
    share = min(1.0, float(weight.sum()) / population)
    sums = np.bincount(item, np.sqrt(np.maximum(1 - probability * share, 0.0)) * deviation * weight)
    return float(np.sqrt(sums @ sums) / weight.sum())


def _quantile(items: int, confidence: float) -> float:
    return float(student.ppf((1 + confidence) / 2, max(items - 1, 1)))


def _mean_risk(rows: pd.DataFrame) -> float:
    return float(rows["risk"].mean())


def _unknown(rows: pd.DataFrame, n: int) -> Estimate | None:
    labels = int(rows["error"].notna().sum())
    if rows.empty:
        return _none(0, "no answer with a risk is scored")
    if not labels:
        return _none(len(rows), "no answer has a label yet")
    if not n:
        return _none(len(rows), f"of {labels} labels it is not known how the answers were chosen: draw some with "
                                "`polarscore monitor sample`")
    return None


def _none(population: int, reason: str) -> Estimate:
    return Estimate(None, None, None, 0, population, "none", f"cannot tell: {reason}")


def _reason(n: int, weight: np.ndarray, population: int) -> str:
    if n == population:
        return f"every one of {population:,} answers has its label"
    facts = f"{n:,} label{'s' * (n != 1)} of known choice, {population:,} answers"
    share = float(weight.sum()) / population
    return facts if share > 0.5 else f"{facts}, of which the labels so far stand for {share:.0%}"
