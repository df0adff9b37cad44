"""Writing reports: pages and JSON about a day, a version, or two of them side by side.

With `measure`, `metrics`, `sections` and `pages` the only place that imports Evidently, once a report is asked for: it
takes seconds. What a report says is found before (`findings`), so that Evidently is handed tables of aggregates alone.
"""

import json
import os
import tempfile
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import pandas as pd

from monitoring.answers import plain
from monitoring.distances import DRIFT_COLUMNS
from monitoring.findings import Findings, Kind, as_plain, find
from monitoring.pages import Pages, import_evidently, keep
from monitoring.settings import AlarmSettings
from monitoring.wording import summarise
from registry.database import now
from training.errors import InputError

__all__ = ["DRIFT_COLUMNS", "Kind", "Pages", "ReportFiles", "write_report"]

TITLES: dict[Kind, str] = {"daily": "Daily report", "release": "Release report", "comparison": "Comparison"}


@dataclass(frozen=True)
class ReportFiles:
    """Where a report was written. not_kept: why the pages of `serve_pages` have it not, None if they do."""

    html: Path
    json: Path
    not_kept: str | None = None


def write_report(
    kind: Kind,
    reference: pd.DataFrame,
    current: pd.DataFrame,
    folder: Path,
    name: str,
    *,
    before: pd.DataFrame | None = None,
    sides: tuple[str, str] | None = None,
    threshold: float | None = None,
    reference_threshold: float | None = None,
    promised: float | None = None,
    slices: Sequence[str] = (),
    settings: AlarmSettings | None = None,
    at: datetime | None = None,
    pages: Pages | None = None,
) -> ReportFiles:
    """Write `folder/name.html` and `folder/name.json`, replacing them in one step each.

    kind: `daily`, a day's scores beside those of training and, in before, of the days before; `release`, a version's
    scores since its promotion beside training; `comparison`, two versions or periods side by side.
    reference, current, before: tables like those of `Store.frame`; only `answers.READ` and `slices` are read, and a
    column that is missing counts as unknown. sides: how reference and current are called, such as version 3.
    threshold: of the current version, which accepts answers of at most this risk; reference_threshold: of the first
    of a comparison. promised: at most so many of the accepted answers are wrong. slices: further columns to slice by.
    settings: what is enough, and what a gap must exceed. at: the report's moment, by default this one. pages: where to
    keep the report besides, for `serve_pages`; if that fails, the files are written all the same.

    The files hold counts, means of at least five answers, and distances: no text, no id, no list of rows. What cannot
    be told is said in words: too few rows to compare, no feedback yet, labels chosen nobody knows how.

    Raises:
        InputError: `name` is no plain file name, the folder cannot be written, or a column of slices is not there or
            may not be shown.
    """
    if not name or Path(name).name != name or name.startswith("."):
        raise InputError(f"a report's name should be a plain file name. Found '{name}'.")
    moment = at or now()
    found = find(kind, reference, current, before=before, sides=sides, threshold=threshold,
                 reference_threshold=reference_threshold, promised=promised, also=slices, settings=settings)
    words = summarise(found)
    snapshot = make_snapshot(found, words, name, moment)
    content = {"name": name, "created_at": moment.isoformat(), "summary": words, **as_plain(found), **snapshot.dict()}
    html = snapshot.get_html_str(as_iframe=False)
    files = ReportFiles(folder / f"{name}.html", folder / f"{name}.json")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _write(files.html, html.replace("<head>", f"<head><title>polarscore: {plain(name)}</title>", 1))
        _write(files.json, json.dumps(content, indent=1, allow_nan=False, default=str))
    except OSError as error:
        raise InputError(f"the report cannot be written to {folder}: {error.strerror}.") from None
    return files if pages is None else ReportFiles(files.html, files.json, keep(snapshot, pages))


def make_snapshot(found: Findings, words: Sequence[str], name: str, at: datetime) -> Any:
    """The report as Evidently's snapshot, tagged with its kind."""
    evidently = import_evidently()
    from monitoring.metrics import MEASURES
    from monitoring.sections import ColumnDrift, MeasuresSection, PeriodsShown, SlicesOff, Summary

    parts: list[Any] = [Summary(), MeasuresSection(measures=[key for key in found.current.table["measure"]
                                                             if key in MEASURES])]
    if len(found.over_time):
        parts.append(PeriodsShown())
    if len(found.slices.table):
        parts.append(SlicesOff())
    parts += [ColumnDrift(column=column) for column in found.drift.table["column"]]
    tables = {
        "reliability": found.current.reliability, "differences": found.differences, "over_time": found.over_time,
        "slices": found.slices.table, "drift": found.drift.table,
        **{f"shares {column}": shares for column, shares in found.drift.shares.items()},
    }
    if found.drift_before is not None:
        tables["drift_before"] = found.drift_before.table
    title = "Risk against observed errors, " + (
        "of all answers" if found.current.unknown is None else "of the labelled answers alone")
    metadata = {
        "summary": "\n\n".join([f"# {TITLES[found.kind]}: {plain(name)}", *words]), "measures_title": title,
        "reference": found.sides[0], "current": found.sides[1], "other": found.other or "",
    }
    report = evidently.Report(parts, metadata=metadata, tags=[found.kind], include_tests=True)
    sides = [found.current.table, *([] if found.before is None else [found.before.table])]
    with warnings.catch_warnings():  # of columns without a value, of which Evidently counts the distinct ones
        warnings.simplefilter("ignore", RuntimeWarning)
        more = {key: evidently.Dataset.from_pandas(table) for key, table in tables.items() if len(table)}
        datasets = [evidently.Dataset.from_pandas(table) for table in sides]
    return report.run(*datasets, additional_data=more, name=name, timestamp=at)


def _write(path: Path, text: str) -> None:
    handle, draft = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
        os.chmod(draft, 0o644)
        os.replace(draft, path)
    except BaseException:
        Path(draft).unlink(missing_ok=True)
        raise
