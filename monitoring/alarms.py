"""Alarms: whether risk scores are still to be trusted, decided from two tables and nothing else.

The tables are those of `Store.frame`: `reference` from training, `current` from production. Give all scores
of one version since a fixed day: the calibration alarm may be looked at as often as one likes only then.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any, Literal

import pandas as pd

from monitoring.change import Change, of_categories, of_means, of_numbers
from monitoring.evidence import first_crossing

USED = ("risk", "answer", "agreement", "sources_voting", "created_at", "labelled_at", "error")

State = Literal["ok", "alarm", "unknown"]


@dataclass(frozen=True)
class Alarm:
    """What one alarm says.

    since: when an alarm began, as far as can be told: for `calibration` the moment when the evidence
    sufficed, for the others the first score compared. None without an alarm.
    size: how large the difference is; None where it cannot be told.
    """

    name: str
    state: State
    since: datetime | None
    size: float | None
    reason: str


@dataclass(frozen=True)
class Thresholds:
    """When an alarm rings. A change must be both larger than a size and unlikely to be chance.

    calibration_alpha: the probability that a calibrated model ever rings the calibration alarm.
    calibration_tolerance: a gap between errors and risks this small does not matter.
    alpha: the probability that chance alone brings one of the other changes, each time that one looks.
    distance: of distributions of risks (Kolmogorov-Smirnov) and of answers (total variation).
    agreement: a fall of the sources' mean agreement with the LLM. missing: a rise of the share without risk.
    sources: the part of the sources' votes that is gone. rows: fewer are too few to tell.
    """

    calibration_alpha: float = 0.05
    calibration_tolerance: float = 0.02
    alpha: float = 0.001
    distance: float = 0.1
    agreement: float = 0.05
    sources: float = 0.2
    missing: float = 0.1
    rows: int = 30


def decide(
    reference: pd.DataFrame, current: pd.DataFrame, thresholds: Thresholds | None = None
) -> list[Alarm]:
    """Every alarm in `ALARMS`, in that order. Rows without an answer have no risk and count only as missing.

    Columns used: risk, answer, agreement, sources_voting; of current also created_at, labelled_at, error.
    What a table lacks is unknown, and so is what an empty reference would have told.
    """
    limits = thresholds or Thresholds()
    reference, current = (_with_columns(frame) for frame in (reference, current))
    return [Alarm(name, *alarm(reference, current, limits)) for name, alarm in ALARMS.items()]


def as_json(alarms: Sequence[Alarm], strict: bool = False) -> dict[str, Any]:
    """What `polarscore monitor check --json` prints. ok: no alarm rings and, if strict, none is unknown."""
    bad = {"alarm", "unknown"} if strict else {"alarm"}
    rows = [asdict(alarm) | {"since": alarm.since and alarm.since.isoformat()} for alarm in alarms]
    return {"ok": not any(alarm.state in bad for alarm in alarms), "alarms": rows}


Verdict = tuple[State, datetime | None, float | None, str]


def calibration(reference: pd.DataFrame, current: pd.DataFrame, limits: Thresholds) -> Verdict:
    """Whether answers are wrong as often as their risks say. size: error rate − mean risk."""
    known_at = "labelled_at" if current["labelled_at"].notna().any() else "created_at"
    rows = current.dropna(subset=["risk", "error"]).sort_values(known_at, kind="stable")
    if rows.empty:
        return "unknown", None, None, "no feedback yet on an answer with a risk"
    risk, error, moments = rows["risk"].to_numpy(float), rows["error"].to_numpy(float), rows[known_at]
    size = float(error.mean() - risk.mean())
    facts = f"{error.mean():.1%} of {_count(rows, 'checked answer')} wrong, {risk.mean():.1%} predicted"
    alpha, tolerance = limits.calibration_alpha, limits.calibration_tolerance
    row = first_crossing(risk, error, moments.to_numpy(), alpha, tolerance)
    if row is not None:
        return "alarm", _moment(moments.iloc[row]), size, f"{facts}: more than chance explains"
    if len(rows) < limits.rows:
        return "unknown", None, size, f"{facts}; {limits.rows} are needed to tell"
    return "ok", None, size, f"{facts}: no more than chance explains"


def risk_drift(reference: pd.DataFrame, current: pd.DataFrame, limits: Thresholds) -> Verdict:
    """Whether risks are distributed as in training. size: the Kolmogorov-Smirnov distance."""
    before, now = reference["risk"].dropna(), current["risk"].dropna()
    if too_few := _too_few(before, now, limits, "score"):
        return too_few
    change = of_numbers(before, now)
    facts = f"the mean risk is {now.mean():.2f}, in training {before.mean():.2f}"
    facts += f"; the distributions are {change.size:.2f} apart"
    return _judge(change, limits.distance, limits, current, facts)


def answer_drift(reference: pd.DataFrame, current: pd.DataFrame, limits: Thresholds) -> Verdict:
    """Whether the LLM gives each class as often as in training. size: the total variation distance."""
    before, now = reference["answer"].dropna(), current["answer"].dropna()
    if too_few := _too_few(before, now, limits, "answer"):
        return too_few
    change = of_categories(before, now)
    shares = (now.value_counts(normalize=True) - before.value_counts(normalize=True)).dropna()
    new = now[~now.isin(set(before))].value_counts()
    facts = f"{change.size:.1%} of the answers would have to change class to be distributed as in training"
    if len(new):
        facts += f"; '{new.index[0]}' was never given there"
    elif len(shares) and change.size > 0:
        name = shares.abs().idxmax()
        facts += f"; '{name}' went from {(before == name).mean():.1%} to {(now == name).mean():.1%}"
    return _judge(change, limits.distance, limits, current, facts)


def agreement_drop(reference: pd.DataFrame, current: pd.DataFrame, limits: Thresholds) -> Verdict:
    """Whether the sources say what the LLM says less often than in training. size: the fall of the mean."""
    before, now = reference["agreement"].dropna(), current["agreement"].dropna()
    if too_few := _too_few(before, now, limits, "answer that a source voted on"):
        return too_few
    facts = f"of the sources that vote, {now.mean():.1%} agree with the LLM, in training {before.mean():.1%}"
    return _judge(of_means(before, now), limits.agreement, limits, current, facts)


def sources_silent(reference: pd.DataFrame, current: pd.DataFrame, limits: Thresholds) -> Verdict:
    """Whether fewer sources vote than in training. size: the part of the votes that is gone."""
    before, now = reference["sources_voting"].dropna(), current["sources_voting"].dropna()
    if too_few := _too_few(before, now, limits, "score"):
        return too_few
    if not before.any():
        return "unknown", None, None, "no source voted in training either"
    fall = of_means(before, now)
    facts = f"{now.mean():.1f} sources vote on an answer, in training {before.mean():.1f}"
    gone = Change(fall.size / float(before.mean()), fall.p_value)
    return _judge(gone, limits.sources, limits, current, facts)


def constant_or_missing_risk(reference: pd.DataFrame, current: pd.DataFrame, limits: Thresholds) -> Verdict:
    """Whether risks are missing more often than in training, or all the same. size: the share missing."""
    now = current["risk"]
    if len(now) < limits.rows:
        return "unknown", None, None, f"only {_count(now, 'score')}; {limits.rows} are needed to tell"
    missing = float(now.isna().mean())
    known = now.dropna()
    if len(known) >= limits.rows and float(known.max() - known.min()) < 1e-9:
        reason = f"all {_count(known, 'score')} have the same risk, {known.iloc[0]:.3f}"
        return "alarm", _first(current), missing, reason
    before = reference["risk"] if len(reference) >= limits.rows else pd.Series([0.0] * limits.rows)
    rise = of_means(before.notna(), now.notna())
    facts = f"{missing:.1%} of the scores have no risk, in training {before.isna().mean():.1%}"
    state, since, _, reason = _judge(rise, limits.missing, limits, current, facts)
    return state, since, missing, reason


ALARMS: dict[str, Callable[[pd.DataFrame, pd.DataFrame, Thresholds], Verdict]] = {
    "calibration": calibration,
    "risk_drift": risk_drift,
    "answer_drift": answer_drift,
    "agreement_drop": agreement_drop,
    "sources_silent": sources_silent,
    "constant_or_missing_risk": constant_or_missing_risk,
}


def _judge(change: Change, limit: float, limits: Thresholds, current: pd.DataFrame, facts: str) -> Verdict:
    if change.size < limit:
        return "ok", None, change.size, f"{facts}: less than the limit of {limit:g}"
    if not change.exceeds(limit, limits.alpha):
        return "ok", None, change.size, f"{facts}: large, but on so few answers it may be chance"
    reason = f"{facts}: more than the limit of {limit:g}, and hardly by chance"
    return "alarm", _first(current), change.size, reason


def _too_few(before: pd.Series, now: pd.Series, limits: Thresholds, what: str) -> Verdict | None:
    for values, where in ((before, "in training"), (now, "in production")):
        if len(values) < limits.rows:
            reason = f"only {_count(values, what)} {where}; {limits.rows} are needed to tell"
            return "unknown", None, None, reason
    return None


def _count(rows: pd.Series | pd.DataFrame, what: str) -> str:
    noun, _, rest = what.partition(" that ")
    many = noun if len(rows) == 1 else noun + "s"
    return f"{len(rows):,} {many}" + (f" that {rest}" if rest else "")


def _first(current: pd.DataFrame) -> datetime | None:
    return _moment(current["created_at"].min())


def _with_columns(frame: pd.DataFrame) -> pd.DataFrame:
    return frame.reindex(columns=sorted({*USED, *frame.columns}))


def _moment(value: Any) -> datetime | None:
    return None if pd.isna(value) else pd.Timestamp(value).to_pydatetime()
