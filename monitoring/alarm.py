"""An alarm, what it is decided from, and how it is printed."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime
from typing import Any, Literal

import pandas as pd

from monitoring.settings import AlarmSettings
from monitoring.tally import Tally

State = Literal["ok", "alarm", "unknown"]

RECENT = 100_000
"""The newest scores of a version, which stand for all that it scores now."""


@dataclass(frozen=True)
class Alarm:
    """What one alarm says.

    since: when the change began, as far as can be told; noticed: when the evidence first sufficed. None without an
    alarm. size: how large the difference is, low and high: where it lies, with a probability of 1 − alpha however often
    one looks; None where it cannot be told. sure: 1 − p, p the probability that chance ever brings as much evidence.
    smallest: the smallest difference, in the unit of size, that would have rung by now in half of all cases, so no less
    than a tolerance.
    n: the labels, or scores, that it rests on.
    """

    name: str
    state: State
    since: datetime | None
    size: float | None
    reason: str
    noticed: datetime | None = None
    low: float | None = None
    high: float | None = None
    sure: float | None = None
    smallest: float | None = None
    n: int = 0


@dataclass(frozen=True)
class Context:
    """All that the alarms of a version are decided from.

    labelled: its scores with a label, `Store.frame(..., labelled=True)`. tallies: of the hours in which it served, or
    of one that never did scored in the dark, ascending. reference: the tally of its training answers.
    reference_measures: `n`, `error_rate`, `mean_risk` of labelled rows when it was promoted, None without any.
    threshold: answers of at most this risk are accepted, of which a share of at most alpha_promised was promised to be
    wrong; None without a guarantee. accepts_nothing: whether its threshold was lowered to nothing. accepted_risk: the
    mean risk of all accepted answers, with or without a label; None where it is not known. least_probability: the
    smallest with which the draws may choose an answer; None takes the smallest seen for it, which misleads where risky
    answers are far likelier.

    Give all of a version since a fixed day: what the alarms promise holds for evidence that nobody cuts short.
    """

    settings: AlarmSettings = field(default_factory=AlarmSettings)
    labelled: pd.DataFrame = field(default_factory=pd.DataFrame)
    tallies: Sequence[tuple[datetime, Tally]] = ()
    reference: Tally = field(default_factory=Tally)
    reference_measures: Mapping[str, Any] | None = None
    threshold: float | None = None
    alpha_promised: float | None = None
    accepts_nothing: bool = False
    accepted_risk: float | None = None
    least_probability: float | None = None


def accepted_risk(risk: pd.Series, threshold: float | None) -> float | None:
    """The mean of the risks, (n,), that are accepted; None where none is."""
    accepted = risk[risk <= threshold] if threshold is not None else risk[:0]
    return float(accepted.mean()) if len(accepted) else None


def as_json(alarms: Sequence[Alarm], strict: bool = False) -> dict[str, Any]:
    """What `polarscore monitor check --json` prints. ok: no alarm rings and, if strict, none is unknown."""
    bad = {"alarm", "unknown"} if strict else {"alarm"}
    return {"ok": not any(alarm.state in bad for alarm in alarms), "alarms": [_row(alarm) for alarm in alarms]}


def _row(alarm: Alarm) -> dict[str, Any]:
    moments = {name: moment and moment.isoformat() for name, moment in
               (("since", alarm.since), ("noticed", alarm.noticed))}
    return asdict(alarm) | moments


def unknown(name: str, reason: str, n: int = 0) -> Alarm:
    """An alarm that cannot tell."""
    return Alarm(name, "unknown", None, None, reason, n=n)
