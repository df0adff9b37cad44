"""Alarms from labels: whether errors come as the risks, the guarantee and the figures at promotion say. Pure.

Each names the statement that it tests, its null. While that is true, the alarm ever rings with a probability of at most
alpha, however often one looks. Those that have a tolerance do not ring by evidence alone: what it shows must be no less
than that, or a gap that matters to nobody would ring once there are labels enough. All of it needs answers whose labels
come whatever they say: a label that comes later the worse the answer is would mislead all of these.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import datetime
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import norm

from monitoring.alarm import Alarm, Context, unknown
from monitoring.bets import Bets, on_mean, on_risks
from monitoring.confidence import interval_of_mean, interval_of_rate
from monitoring.evidence import Evidence, first_reached, p_value, peak, starts
from monitoring.labels import Labels, usable, weights
from training.calibration import ece

SCALE, HORIZON = 50, 300_000
"""Of `starts`, in labels."""

TO_CHOOSE = "to have some chosen: polarscore monitor sample"
FLATTER, STEEPER = ("errors follow the risks less than they should", "errors follow the risks more than they should")


def calibration(context: Context) -> Alarm:
    """Whether errors come as risks say. size: the share of errors less the mean risk, of the answers checked.

    Null: each answer is wrong with the probability that its risk says, whatever came before. Choosing answers by their
    risks alone, known probability or not, leaves that as it is, so nothing is weighed; labels chosen by a whim, by
    another version's risk, or nobody says how, do not count. Where the mean is right and errors follow the risks too
    little or too much, it is the ECE that must reach the tolerance.
    """
    name, settings = "calibration", context.settings
    labels = usable(context.labelled, weighed=False)
    if not len(labels.rows):
        return unknown(name, _nothing(labels, "no feedback yet on an answer with a risk"))
    risk = labels.rows["risk"].to_numpy(float)

    def described(rows: pd.DataFrame, log_alpha: float) -> tuple[float, float, float, str]:
        error, predicted = rows["error"].to_numpy(float), float(rows["risk"].mean())
        low, high = interval_of_rate(int(error.sum()), len(rows), log_alpha)
        facts = f"{error.mean():.1%} of {_checked(len(rows))} wrong, {predicted:.1%} predicted"
        return float(error.mean()) - predicted, low - predicted, high - predicted, facts

    words = {1: "errors come more often than the risks say", -1: "errors come less often than the risks say"}
    return _judge(name, labels, on_risks(risk), risk, described, words, context, settings.tolerance)


def guarantee(context: Context) -> Alarm:
    """Whether accepted answers are wrong more often than promised. size: their share of errors less the promised one.

    Null: of all answers with a risk of at most the threshold, a share of at most alpha_promised is wrong; put as error
    − risk, whose mean is at most alpha_promised less the mean risk of all of them, so that it does not matter if the
    risky ones are labelled first. Without that mean, as errors. Answers count by one over the probability with which
    they were chosen; where that is not known they do not. A promise that by all labels holds rings nothing.
    """
    name, threshold, promised = "guarantee", context.threshold, context.alpha_promised
    if context.accepts_nothing:
        return unknown(name, "this version promises nothing: its threshold was lowered to nothing")
    if threshold is None or promised is None:
        return unknown(name, "this version promises nothing: it has no threshold")
    found = usable(context.labelled, weighed=True)
    labels = found.of(found.rows["risk"] <= threshold)
    if not len(labels.rows):
        reason = "no feedback yet on an accepted answer that was chosen with a known probability"
        return unknown(name, _nothing(labels, reason))

    mean = context.accepted_risk
    risk = labels.rows["risk"].to_numpy(float) if mean is not None else None
    less = promised - (mean or 0.0)

    def described(rows: pd.DataFrame, log_alpha: float) -> tuple[float, float, float, str]:
        predicted = np.zeros(len(rows)) if mean is None else rows["risk"].to_numpy(float)
        gap, low, high = _rate(rows, found.rows, predicted, context, log_alpha)
        rate = float(np.clip(gap + (mean or 0.0), 0.0, 1.0))
        facts = f"{rate:.1%} of the accepted answers wrong by {_checked(len(rows))}, at most {promised:.1%} promised"
        return rate - promised, max(low - less, -promised), min(high - less, 1 - promised), facts

    bets = on_mean(weights(labels.rows, found.rows, context.least_probability), less, risk=risk, most=threshold)
    expected = np.clip(less + (np.zeros(len(labels.rows)) if risk is None else risk), 0, 1)
    return _judge(name, labels, bets, expected, described, {1: "the promise does not hold"}, context, mends=True)


def calibration_change(context: Context) -> Alarm:
    """Whether errors left the risks since promotion. size: share of errors less mean risk, now less at promotion.

    Null: over all answers, the mean of error − risk is what it was at promotion. Half of alpha goes to the sampling
    error of what was measured then, by the normal approximation, half to the labels that came since, which count as in
    `guarantee`.
    """
    name, before = "calibration_change", context.reference_measures
    gap = _gap(before or {})
    if gap is None:
        return unknown(name, "no labels were there at promotion to compare with")
    labels = usable(context.labelled, weighed=True)
    if not len(labels.rows):
        reason = "no feedback yet on an answer that was chosen with a known probability"
        return unknown(name, _nothing(labels, reason))
    then, margin = gap[0], float(norm.isf(context.settings.alpha / 4)) * gap[1]
    risk = labels.rows["risk"].to_numpy(float)

    def described(rows: pd.DataFrame, log_alpha: float) -> tuple[float, float, float, str]:
        now, low, high = _rate(rows, labels.rows, rows["risk"].to_numpy(float), context, log_alpha)
        facts = f"errors less predicted ones were {then:+.1%} at promotion and are {now:+.1%} by {_checked(len(rows))}"
        return now - then, low - then - margin, high - then + margin, facts

    weight = weights(labels.rows, labels.rows, context.least_probability)
    bets = on_mean(weight, then + margin, then - margin, risk)
    words = {1: "errors come more often than they did", -1: "errors come less often than they did"}
    expected = np.clip(risk + then, 0, 1)
    return _judge(name, labels, bets, expected, described, words, context, context.settings.tolerance,
                  spent=context.settings.alpha / 2)


Described = Callable[[pd.DataFrame, float], tuple[float, float, float, str]]

LABELLED: Mapping[str, Callable[[Context], Alarm]] = {
    "calibration": calibration, "guarantee": guarantee, "calibration_change": calibration_change,
}


def _judge(
    name: str, labels: Labels, bets: Bets, expected: np.ndarray, described: Described, words: Mapping[int, str],
    context: Context, tolerance: float = 0.0, spent: float = 0.0, mends: bool = False,
) -> Alarm:
    """The alarm that bets on the labels ring, if what they show is no less than the tolerance.

    spent: the part of alpha that does not go to these bets. mends: whether it does not ring where by all labels, for
    sure, there is nothing.
    """
    rows, alpha = labels.rows, context.settings.alpha - spent
    log_starts = starts(np.arange(len(rows)), SCALE, HORIZON)
    counts = labels.counts
    evidence = Evidence(bets.growth(rows["error"].to_numpy(float)), bets.log_money, log_starts)
    size, low, high, facts = described(rows, np.log(alpha))
    smallest = bets.smallest(expected, alpha, log_starts[0])
    quiet = Alarm(
        name, "ok", None, size, f"{facts}: no more than chance explains", low=low, high=high, n=len(rows),
        sure=max(0.0, 1 - p_value(evidence.log_wealth, counts) - spent),
        smallest=None if smallest is None else max(smallest, tolerance),
    )
    row = first_reached(evidence.log_wealth, alpha, counts)
    if row is None:
        if len(rows) < context.settings.rows:
            quiet = replace(quiet, state="unknown",
                            reason=f"{facts}; {context.settings.rows} are needed to tell; {TO_CHOOSE}")
        return _noted(quiet, labels)
    bet, start = evidence.start(peak(evidence.log_wealth, counts))
    since, noticed = (_moment(rows["moment"].iloc[each]) for each in (start, row))
    if mends and high < 0:
        return _noted(replace(quiet, reason=f"{facts}: it was broken since {since:%Y-%m-%d %H:%M}, and holds by all "
                                            "labels"), labels)
    shown = rows.iloc[start:]
    size, low, high, facts = described(shown, np.log(alpha) + log_starts[start])
    matters, side = abs(size), int(bets.side[bet])
    if not side and matters >= tolerance:
        side = int(low > 0) - int(high < 0)
    if not side:
        matters = ece(shown["risk"].to_numpy(float), shown["error"].to_numpy(float)) or 0.0
        facts = f"{facts}, ECE {matters:.3f}"
    if matters < tolerance:
        reason = f"{facts}: more than chance explains, and less than the {tolerance:.1%} that matter"
        return _noted(replace(quiet, size=size, low=low, high=high, reason=reason), labels)
    said = words[side] if side else FLATTER if bets.slope[bet] < 1 else STEEPER
    reason = f"since {since:%Y-%m-%d %H:%M} UTC {facts}: {said}, more than chance explains"
    return _noted(replace(quiet, state="alarm", since=since, noticed=noticed, size=size, low=low, high=high,
                          reason=reason), labels)


def _rate(
    rows: pd.DataFrame, of_all: pd.DataFrame, less: np.ndarray, context: Context, log_alpha: float
) -> tuple[float, float, float]:
    """The mean of error − less over all answers, and its interval. of_all: of which the rows are a part."""
    error, weight = rows["error"].to_numpy(float), weights(rows, of_all, context.least_probability)
    if weight.min() == weight.max():
        low, high = interval_of_rate(int(error.sum()), len(error), log_alpha)
        return float((error - less).mean()), low - float(less.mean()), high - float(less.mean())
    bounds = (-1.0 if less.any() else 0.0, 1.0)
    return float(np.average(error - less, weights=weight)), *interval_of_mean(error - less, weight, bounds, log_alpha)


def _gap(before: Mapping[str, Any]) -> tuple[float, float] | None:
    """Error rate less mean risk at promotion, and its standard error; None where it cannot be told.

    The mean of (error − risk)² is the Brier score, where that was kept, and else at most error rate + mean risk.
    """
    n, rate, risk, brier = (before.get(key) for key in ("n", "error_rate", "mean_risk", "brier"))
    if not n or rate is None or risk is None:
        return None
    square = rate + risk if brier is None else brier
    return rate - risk, float(np.sqrt(max(min(square, 1.0) - (rate - risk) ** 2, 1 / (n + 1)) / n))


def _noted(alarm: Alarm, labels: Labels) -> Alarm:
    return replace(alarm, reason="; ".join(filter(None, [alarm.reason, labels.left_out])))


def _nothing(labels: Labels, reason: str) -> str:
    return "; ".join(filter(None, [reason, labels.left_out, TO_CHOOSE]))


def _checked(n: int) -> str:
    return f"{n:,} checked answer{'s' * (n != 1)}"


def _moment(value: Any) -> datetime:
    moment: datetime = pd.Timestamp(value).to_pydatetime()
    return moment
