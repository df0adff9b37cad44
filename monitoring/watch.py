"""Watching a version: what production scored, beside what training saw, to a report, alarms, a sample to check."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from monitoring.alarms import Alarm, decide
from monitoring.review import choose
from monitoring.store import ModelCount, Store
from registry.database import now
from registry.versions import PRODUCTION, Version, Versions
from training.errors import InputError
from training.state import State
from training.tracking import log_report


@dataclass(frozen=True)
class Watched:
    """A version, the frame of its training answers, and the frame of its scores in production."""

    version: Version
    reference: pd.DataFrame
    current: pd.DataFrame


def watched(state: State, which: str | None) -> Watched:
    """The version that is named, or of a bare model name the one in production, else the one scored last.

    Raises:
        InputError: no such version, nothing has been scored by it, or several models and none is named.
    """
    versions = Versions(state)
    with Store(state.database_url) as store:
        version = _version(versions, store.models(), which)
        return Watched(version, versions.reference(version), store.frame(version.model, str(version.version)))


def report(state: State, which: str | None, folder: Path | None) -> dict[str, Any]:
    """Write the Evidently report and log it to MLflow: paths, run id, and how many scores and labels it rests on."""
    from monitoring.drift import write_report
    from monitoring.pages import Pages

    seen = watched(state, which)
    moment = now()
    name = f"{seen.version.model}-v{seen.version.version}-{moment:%Y%m%dT%H%M%SZ}"
    files = write_report(seen.reference, seen.current, folder or state.reports, name, at=moment,
                         pages=Pages(_workspace(state), seen.version.model))
    run_id = log_report(state, seen.version.model, name, [files.html, files.json],
                        {"kind": "monitoring", "version": str(seen.version.version)})
    return {"model": seen.version.model, "version": seen.version.version, "scores": len(seen.current),
            "labelled": int(seen.current["error"].notna().sum()), "html": str(files.html), "json": str(files.json),
            "run_id": run_id}


def serve_reports(state: State, port: int, ready: Callable[[], None]) -> None:
    """Show all reports in Evidently's pages until interrupted; `ready` is called once the port is ours."""
    from monitoring.pages import serve_pages

    serve_pages(_workspace(state), port, ready)


def check(state: State, which: str | None) -> list[Alarm]:
    """The alarms of a version."""
    seen = watched(state, which)
    return decide(seen.reference, seen.current)


def sample(state: State, which: str | None, budget: int, seed: int) -> list[dict[str, Any]]:
    """Answers to check next: score_id, id, risk, and the probability with which each was drawn."""
    chosen = choose(watched(state, which).current, budget, seed).rename(columns={"item_id": "id"})
    return chosen[["score_id", "id", "risk", "probability"]].to_dict("records")


def _workspace(state: State) -> Path:
    return state.reports / "workspace"


def _version(versions: Versions, scored: list[ModelCount], which: str | None) -> Version:
    if which is not None and which.startswith("models:"):
        version = versions.get(which)
        if not any(row.model == version.model and row.version == str(version.version) for row in scored):
            raise InputError(f"nothing that {version.uri} scored is kept yet. Score something first.")
        return version
    names = sorted({row.model for row in scored})
    if which is not None and which not in names:
        raise InputError(f"nothing that a model '{which}' scored is kept. Kept are scores of: "
                         f"{', '.join(names) or 'none'}.")
    if which is None and len(names) != 1:
        raise InputError(f"name a model. Scores are kept of: {', '.join(names) or 'none; score something first'}.")
    model = which or names[0]
    numbers = [int(row.version) for row in scored if row.model == model]
    holder = versions.holder(model, PRODUCTION) if model in versions.models() else None
    return holder if holder and holder.version in numbers else versions.number(model, max(numbers))
