"""Each version of a model in figures, so that the effect of a promotion can be seen."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

import pandas as pd

from monitoring.estimation import calibration_gap, error_rate, starts
from monitoring.store import Store
from monitoring.unlabelled import error_rate_unlabelled, honesty
from monitoring.watch import scored_model
from registry.chain import Entry
from registry.opening import Registry
from registry.stages import MOVES, PRODUCTION
from registry.versions import model_name
from training.errors import InputError
from training.state import State

By = Literal["version", "week", "day"]


@dataclass(frozen=True)
class Known:
    """What the registry knows of a version. reference: the frame of its training answers, empty where it is gone."""

    reference: pd.DataFrame
    threshold: float | None = None
    audited: bool = False


def figures(state: State, which: str | None, by: By, since: datetime | None = None) -> list[dict[str, Any]]:
    """A row a version, or a period and a version, ascending, of the answers that were served.

    version, start (of the period), in_production_since (when it came there last), scores, mean_risk; accepted: the
    share of the answers with a risk that the service said to accept or, where it said nothing, of those up to the
    threshold of the guarantee. Over all answers, by the labels of known choice: labels, error_rate, low, high, gap,
    gap_low, gap_high, reason; and of those accepted: accepted_labels, accepted_error, accepted_low, accepted_high.
    Without any label: unlabelled, the estimated error rate, and honesty, how right such estimates were before.
    What cannot be told is None.

    Raises:
        InputError: nothing has been scored by the model, or several have and none is named.
    """
    with Registry.open(state) as registry, Store(state.database_url) as store:
        scored = store.models()
        model = scored_model(scored, which and model_name(which))
        version = str(registry.versions.get(which).version) if which and which.startswith("models:") else None
        entries = registry.history.entries(model)
        served = store.frame(model, since=since)
        served = served if version is None else served[served["version"] == version]
        known = {number: _known(registry, model, number) for number in served["version"].unique()}
    return rows_of(served, known, came_there(entries), by)


def rows_of(
    served: pd.DataFrame, known: dict[str, Known], came: dict[str, datetime], by: By
) -> list[dict[str, Any]]:
    """`figures`, given the scores, as of `Store.frame`, and what the registry knows of their versions. Pure."""
    periods = pd.Series(pd.NaT, index=served.index) if by == "version" else starts(served["created_at"], by)
    found = []
    for version, of in sorted(served.groupby("version"), key=lambda group: int(group[0])):
        about = known[version]
        told = honesty(of, about.reference, about.audited).reason
        for start, part in of.groupby(periods[of.index], dropna=False):
            found.append({
                "version": int(version), "start": None if pd.isna(start) else start.to_pydatetime(),
                "in_production_since": came.get(version), **_figures(part, about), "honesty": told,
            })
    return sorted(found, key=lambda row: (str(row["start"]), row["version"]))


def came_there(entries: Sequence[Entry]) -> dict[str, datetime]:
    """When each version came into production last."""
    return {str(entry.version): entry.at for entry in entries
            if entry.action in MOVES and entry.to_stage == PRODUCTION}


def _figures(part: pd.DataFrame, about: Known) -> dict[str, Any]:
    rate, gap = error_rate(part), calibration_gap(part)
    answered = part[part["risk"].notna()]
    said = answered["decision"].notna()
    accepted = (answered["decision"] == "accept").where(
        said, answered["risk"] <= about.threshold if about.threshold is not None else False).astype(bool)
    decided = bool(len(answered)) and (bool(said.any()) or about.threshold is not None)
    among = error_rate(answered[accepted])
    return {
        "scores": len(part), "mean_risk": float(answered["risk"].mean()) if len(answered) else None,
        "labels": rate.n, "error_rate": rate.value, "low": rate.low, "high": rate.high,
        "gap": gap.value, "gap_low": gap.low, "gap_high": gap.high, "reason": rate.reason,
        "accepted": float(accepted.mean()) if decided else None, "accepted_labels": among.n,
        "accepted_error": among.value, "accepted_low": among.low, "accepted_high": among.high,
        "unlabelled": error_rate_unlabelled(part, about.reference, about.audited).value,
    }


def _known(registry: Registry, model: str, number: str) -> Known:
    """What there is to know of a version that may have been deleted."""
    try:
        version = registry.versions.number(model, int(number))
        spec, reference = registry.versions.spec(version), registry.versions.reference(version)
    except InputError:
        return Known(pd.DataFrame({"risk": [], "answer": [], "harmonizer_answer": []}))
    return Known(reference, spec.guarantee.threshold if spec.guarantee else None, spec.recalibration.labels > 0)
