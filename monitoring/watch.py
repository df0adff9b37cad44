"""Watching a version: what production scored and people said of it, to alarms and to a report."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from functools import partial
from pathlib import Path
from typing import Any, get_args

import pandas as pd

from monitoring import acting
from monitoring.alarm import RECENT, Alarm, Context, accepted_risk
from monitoring.alarms import decide
from monitoring.estimation import error_rate
from monitoring.findings import Kind
from monitoring.settings import Settings
from monitoring.store import ModelCount, Store
from monitoring.tally import VOTE, Tally, tally
from registry.database import now
from registry.opening import Registry
from registry.threshold import NOTHING, UNCHANGED, limit_of
from registry.versions import PRODUCTION, Version, Versions
from training.calibration import Measures
from training.errors import InputError
from training.state import State
from training.tracking import log_report

Tell = Callable[[str], None]
BEFORE = 7  # days, that a daily report compares with


@dataclass(frozen=True)
class Checked:
    """What a check found, and what was done about it; acted None: nothing was to be done."""

    version: Version
    alarms: list[Alarm]
    threshold: float | None
    at: datetime
    acted: acting.Acted | None = None


def check(state: State, which: str | None, settings: Settings | None = None) -> list[Alarm]:
    """The alarms of a version. Raises what `checked` does."""
    return checked(state, which, settings).alarms


def checked(
    state: State, which: str | None, settings: Settings | None = None, act_as: str | None = None,
    tell: Tell = lambda line: None,
) -> Checked:
    """Look at the alarms of a version and, if somebody is named to act as, do what the settings say of them.

    Raises:
        InputError: no such version, nothing has been scored by it, or several models and none is named; to act, the
            settings name no action.
    """
    limits = settings or Settings()
    with Registry.open(state) as registry, Store(state.database_url) as store:
        version = scored_version(registry.versions, store.models(), which)
        threshold, promised = _promise(registry, version)
        labelled = store.frame(version.model, str(version.version), labelled=True)
        newest = labelled if threshold is None else store.frame(version.model, str(version.version), last=RECENT)
        alarms = decide(Context(
            settings=limits.alarms, labelled=labelled,
            tallies=_tallies(store, version),
            reference=tally(registry.versions.reference(version)), reference_measures=reference_measures(version),
            threshold=threshold, alpha_promised=promised, accepts_nothing=_limit(registry, version) == NOTHING,
            accepted_risk=accepted_risk(newest["risk"], threshold),
            least_probability=acting.least_of(store, version, labelled),
        ))
        acted = acting.act(registry, store, version, limits, act_as, tell) if act_as is not None else None
        if acted is not None and acted.done:
            threshold, _ = _promise(registry, version)
        return Checked(version, alarms, threshold, now(), acted)


def exposed(state: State, found: Checked) -> dict[str, float | None]:
    """The figures of `monitoring.exposition`: of the newest scores, and how many there are."""
    model, version = found.version.model, str(found.version.version)
    with Store(state.database_url) as store:
        frame = store.frame(model, version, last=RECENT)
        count = next((row.n for row in store.models() if (row.model, row.version) == (model, version)), 0)
    rate = error_rate(frame)
    return {
        "polarscore_error_rate_estimate": rate.value, "polarscore_error_rate_estimate_low": rate.low,
        "polarscore_error_rate_estimate_high": rate.high, "polarscore_labels": rate.n,
        "polarscore_mean_risk": None if frame["risk"].isna().all() else float(frame["risk"].mean()),
        "polarscore_scores": count, "polarscore_threshold": found.threshold,
    }


def report(
    state: State, which: str | None, folder: Path | None, kind: Kind = "release", day: date | None = None,
    against: str | None = None, slices: Sequence[str] = (), settings: Settings | None = None,
) -> dict[str, Any]:
    """Write the Evidently report and log it to MLflow: paths, run id, and how many scores and labels it rests on.

    kind: as of `monitoring.drift.write_report`. day: of a daily report, in UTC; by default the last one with scores.
    against: of a comparison, the first version, by number or URI. slices: further columns to slice by.

    Raises:
        InputError: as `check`; no such day or version to compare with; or a column to slice by that is none.
    """
    from monitoring.drift import write_report
    from monitoring.pages import Pages

    _check_kind(kind, day, against)
    moment = now()
    with Registry.open(state) as registry, Store(state.database_url) as store:
        scored = store.models()
        version = scored_version(registry.versions, scored, which)
        threshold, promised = _promise(registry, version)
        frame = partial(store.frame, version.model, str(version.version),
                        votes=any(column.startswith(VOTE) for column in slices))
        sides: dict[str, Any] = {"reference": registry.versions.reference(version)}
        if kind == "daily":
            sides |= _daily(frame, version, day)
        elif kind == "comparison":
            other = scored_version(registry.versions, scored, _uri(version.model, str(against)))
            sides |= {"reference": store.frame(other.model, str(other.version)), "current": frame(),
                      "sides": (f"version {other.version}", f"version {version.version}"),
                      "reference_threshold": _promise(registry, other)[0]}
        else:
            holder = registry.history.production(version.model)
            since = holder.at if holder and holder.version == version.version else None
            sides |= {"current": frame(since=since)}
    name = f"{version.model}-v{version.version}-{kind}-{moment:%Y%m%dT%H%M%SZ}"
    files = write_report(kind, folder=folder or state.reports, name=name, threshold=threshold, promised=promised,
                         slices=slices, settings=(settings or Settings()).alarms, at=moment,
                         pages=Pages(workspace(state), version.model), **sides)
    run_id = log_report(state, version.model, name, [files.html, files.json],
                        {"kind": "monitoring", "report": kind, "version": str(version.version)})
    current = sides["current"]
    return {"model": version.model, "version": version.version, "kind": kind, "scores": len(current),
            "labelled": int(current["error"].notna().sum()), "html": str(files.html), "json": str(files.json),
            "run_id": run_id, "not_kept": files.not_kept}


def serve_reports(state: State, port: int, ready: Callable[[], None], warn: Tell = lambda line: None) -> None:
    """Show all reports in Evidently's pages until interrupted; `ready` is called once the port is ours.

    warn: is told of reports that Evidently cannot read.
    """
    from monitoring.pages import serve_pages

    serve_pages(workspace(state), port, ready, warn)


def workspace(state: State) -> Path:
    """Where Evidently's pages find the reports."""
    return state.reports / "workspace"


def scored_version(versions: Versions, scored: list[ModelCount], which: str | None) -> Version:
    """The version that is named, or of a bare model name the one in production, else the one scored last.

    Raises:
        InputError: no such version, nothing has been scored by it, or several models and none is named.
    """
    if which is not None and which.startswith("models:"):
        version = versions.get(which)
        if not any(row.model == version.model and row.version == str(version.version) for row in scored):
            raise InputError(f"nothing that {version.uri} scored is kept yet. Score something first.")
        return version
    model = scored_model(scored, which)
    numbers = [int(row.version) for row in scored if row.model == model]
    holder = versions.holder(model, PRODUCTION) if model in versions.models() else None
    return holder if holder and holder.version in numbers else versions.number(model, max(numbers))


def scored_model(scored: list[ModelCount], which: str | None) -> str:
    """The model that is named, or the only one that has scored.

    Raises:
        InputError: nothing has been scored by it, or several models have and none is named.
    """
    names = sorted({row.model for row in scored})
    if which is not None and which not in names:
        raise InputError(f"nothing that a model '{which}' scored is kept. Kept are scores of: "
                         f"{', '.join(names) or 'none'}.")
    if which is None and len(names) != 1:
        raise InputError(f"name a model. Scores are kept of: {', '.join(names) or 'none; score something first'}.")
    return which or names[0]


def reference_measures(version: Version) -> Measures | None:
    """What labels said when the version was made: those of split valid or, where it was recalibrated, of feedback."""
    found = (version.measures(split) for split in ("valid", "feedback"))
    return next((measures for measures in found if measures and measures["n"]), None)


def _tallies(store: Store, version: Version) -> list[tuple[datetime, Tally]]:
    """Of what a version served or, where it never did, of what it scored in the dark."""
    model, number = version.model, str(version.version)
    return store.tallies(model, number) or store.tallies(model, number, role="shadow")


def _limit(registry: Registry, version: Version) -> float:
    """What the log says of the version's threshold."""
    changed = registry.history.threshold(version.model)
    return limit_of(changed) if changed and changed.version == version.version else UNCHANGED


def _promise(registry: Registry, version: Version) -> tuple[float | None, float | None]:
    """The threshold that holds now, and the error rate promised below it; None without."""
    guarantee, limit = registry.versions.spec(version).guarantee, _limit(registry, version)
    if guarantee is None or guarantee.threshold is None or limit == NOTHING:
        return None, None
    return min(guarantee.threshold, limit), guarantee.alpha


def _check_kind(kind: str, day: date | None, against: str | None) -> None:
    if kind not in get_args(Kind):
        raise InputError(f"a report should be one of: {', '.join(get_args(Kind))}. Found '{kind}'.")
    if (against is None) == (kind == "comparison"):
        raise InputError("a comparison needs the version to compare with: --against." if against is None else
                         f"--against is for a comparison. Found it with a {kind} report.")
    if day is not None and kind != "daily":
        raise InputError(f"--day is for a daily report. Found it with a {kind} report.")


def _daily(frame: Callable[..., pd.DataFrame], version: Version, day: date | None) -> dict[str, pd.DataFrame]:
    """The scores of a day, and those of the week before."""
    if day is None:
        newest = frame(last=1)["created_at"]
        day = (newest.iloc[0] if len(newest) else now()).date()
    start = datetime.combine(day, time(), UTC)
    current = frame(since=start, until=start + timedelta(days=1) - timedelta(microseconds=1))
    if current.empty:
        raise InputError(f"{version.uri} scored nothing on {day}, in UTC.")
    before = frame(since=start - timedelta(days=BEFORE), until=start - timedelta(microseconds=1))
    return {"current": current, "before": before}


def _uri(model: str, named: str) -> str:
    return named if named.startswith("models:") else f"models:/{model}/{named}"
