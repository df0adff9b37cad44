"""Reports: how risks and inputs drifted from training, and what feedback says about the risks.

With `metrics` and `pages` the only place that imports Evidently, once a report is asked for: it takes seconds.
"""

import json
import os
import tempfile
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from types import ModuleType
from typing import Any

import pandas as pd

from monitoring.alarms import Thresholds
from monitoring.change import of_categories, of_numbers
from monitoring.pages import Pages, import_evidently, keep
from registry.database import now
from training.calibration import Measures, measures, reliability
from training.errors import InputError

NUMERICAL = ("risk", "text_length", "sources_voting", "agreement")
CATEGORICAL = ("answer", "harmonizer_answer")
DRIFT_COLUMNS = ("risk", "answer", "harmonizer_answer", "agreement", "sources_voting", "text_length")
"""What a report compares with the reference: columns of `Store.frame`, none of which names a row."""


@dataclass(frozen=True)
class ReportFiles:
    """Where a report was written."""

    html: Path
    json: Path


def write_report(
    reference: pd.DataFrame,
    current: pd.DataFrame,
    folder: Path,
    name: str,
    *,
    thresholds: Thresholds | None = None,
    at: datetime | None = None,
    pages: Pages | None = None,
) -> ReportFiles:
    """Write `folder/name.html` and `folder/name.json`, replacing them in one step each.

    reference, current: tables like those of `Store.frame`; only `DRIFT_COLUMNS` and `error` are read, and a
    column that is missing counts as unknown. at: the report's moment, by default this one. pages: where to keep the
    report besides, for `serve_pages`.

    The files hold counts, means of bins and distances: no text, no id, no list of rows. What cannot be told is said in
    words: too few rows to compare, no feedback yet.

    Raises:
        InputError: `name` is no plain file name, or the folder cannot be written.
    """
    if not name or Path(name).name != name or name.startswith("."):
        raise InputError(f"a report's name should be a plain file name. Found '{name}'.")
    moment = at or now()
    snapshot, facts = make_report(reference, current, name, thresholds=thresholds, at=moment)
    content = {"name": name, "created_at": moment.isoformat(), **facts, **snapshot.dict()}
    html = snapshot.get_html_str(as_iframe=False)
    files = ReportFiles(folder / f"{name}.html", folder / f"{name}.json")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _write(files.html, html.replace("<head>", f"<head><title>polarscore: {_plain(name)}</title>", 1))
        _write(files.json, json.dumps(content, indent=1, allow_nan=False, default=str))
        if pages:
            keep(snapshot, pages)
    except OSError as error:
        raise InputError(f"the report cannot be written to {folder}: {error.strerror}.") from None
    return files


def make_report(
    reference: pd.DataFrame,
    current: pd.DataFrame,
    name: str,
    *,
    thresholds: Thresholds | None = None,
    at: datetime | None = None,
) -> tuple[Any, dict[str, Any]]:
    """The report as Evidently's snapshot, and its facts as plain data: what the JSON file begins with.

    summary: sentences. scores: counts. measures: those of `training.calibration` on labelled rows, None
    without any. reliability: its bins. drift: distance, p-value and verdict of each column.
    not_compared: the reason for each column that is not.
    """
    limits = thresholds or Thresholds()
    before, after = _safe(reference), _safe(current)
    risk, error = (after[["risk", "error"]].dropna()[key].to_numpy(float) for key in ("risk", "error"))
    found = measures(risk, error)
    not_compared = {column: reason for column in DRIFT_COLUMNS
                    if (reason := _too_few(before[column], after[column], limits.rows))}
    drift = {}
    for column in (column for column in DRIFT_COLUMNS if column not in not_compared):
        compare = of_numbers if column in NUMERICAL else of_categories
        drift[column] = compare(before[column].dropna(), after[column].dropna())
    drifted = [column for column, change in drift.items() if change.exceeds(limits.distance, limits.alpha)]
    facts: dict[str, Any] = {
        "summary": summarise(before, after, found, not_compared, drifted),
        "scores": {
            "reference": len(before),
            "current": len(after),
            "without_risk": int(after["risk"].isna().sum()),
            "labelled": found["n"],
        },
        "measures": found if found["n"] else None,
        "reliability": reliability(risk, error).to_dict("records") if found["n"] else [],
        "drift": {
            column: {"distance": change.size, "p_value": change.p_value, "drifted": column in drifted}
            for column, change in drift.items()
        },
        "not_compared": not_compared,
    }
    evidently = import_evidently()
    from monitoring.metrics import CalibrationSection, ColumnDrift, Summary

    words = "\n\n".join([f"# Risk report: {_plain(name)}", *facts["summary"]])
    parts: list[Any] = [Summary()]
    if found["n"]:
        parts.append(CalibrationSection(n=found["n"], auroc=found["auroc"] is not None))
    parts += [
        ColumnDrift(column=column, limit=limits.distance, alpha=limits.alpha, numerical=column in NUMERICAL)
        for column in drift
    ]
    datasets = [_dataset(evidently, frame.dropna(axis=1, how="all")) for frame in (after, before)]
    report = evidently.Report(parts, metadata={"summary": words}, include_tests=True)
    return report.run(*datasets, name=name, timestamp=at or now()), facts


def summarise(
    reference: pd.DataFrame,
    current: pd.DataFrame,
    found: Measures,
    not_compared: dict[str, str],
    drifted: list[str],
) -> list[str]:
    """The report's first words, a sentence each."""
    said = [f"{len(current):,} scores, compared with {len(reference):,} from training."]
    if missing := int(current["risk"].isna().sum()):
        said.append(f"{missing:,} of the scores have no risk, as the LLM gave no answer.")
    if not found["n"]:
        said.append("No feedback yet: whether answers are wrong as often as their risks say cannot be told.")
    elif found["error_rate"] is not None and found["mean_risk"] is not None:
        said.append(f"Of {found['n']:,} answers that people checked, {found['error_rate']:.1%} were wrong; "
                    f"their risks predicted {found['mean_risk']:.1%}.")
        if found["auroc"] is None:
            kind = "wrong" if found["error_rate"] else "right"
            said.append(f"All of them were {kind}: whether risk tells wrong from right cannot be told.")
    if len(not_compared) < len(DRIFT_COLUMNS):
        changed = ", ".join(drifted) or "nothing that could be compared"
        said.append(f"Distributed otherwise than in training: {changed}.")
    return said + [f"{column} was not compared: {reason}." for column, reason in not_compared.items()]


def _dataset(evidently: ModuleType, frame: pd.DataFrame) -> Any:
    return evidently.Dataset.from_pandas(frame, evidently.DataDefinition(
        numerical_columns=[column for column in (*NUMERICAL, "error") if column in frame],
        categorical_columns=[column for column in CATEGORICAL if column in frame],
    ))


def _safe(frame: pd.DataFrame) -> pd.DataFrame:
    """The columns that a report reads, numbered anew, with types that hold also where no row or value is."""
    kept = frame.reindex(columns=[*DRIFT_COLUMNS, "error"]).reset_index(drop=True)
    names = {column: kept[column].astype("object").map(_plain, na_action="ignore") for column in CATEGORICAL}
    return kept.assign(**names).astype({column: "float64" for column in (*NUMERICAL, "error")})


def _plain(text: Any) -> str:
    """A name that cannot be read as markup in the page."""
    return str(text).replace("<", "‹").replace(">", "›").replace("&", "＆")


def _too_few(before: pd.Series, after: pd.Series, rows: int) -> str | None:
    for values, where in ((before, "training"), (after, "production")):
        if (n := int(values.notna().sum())) < rows:
            return f"{n or 'no'} value{'s' * (n != 1)} in {where}, {rows} are needed"
    return None


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
