"""What a report found: tables of measures, slices, periods and distances, from frames, before any page is drawn. Pure.

A daily report sets a day beside training and, if there are any, the days before; a release report sets a version, since
its promotion, beside training; a comparison sets one version or period beside another, measure by measure.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import pandas as pd

from monitoring.answers import plain, safe
from monitoring.distances import Distances, distances
from monitoring.measured import Measured, compared, measured
from monitoring.settings import AlarmSettings
from monitoring.slices import Slices, check_column, slices
from monitoring.timeline import timeline
from training.errors import InputError

Kind = Literal["daily", "release", "comparison"]
KINDS = get_args(Kind)

SIDES: dict[Kind, tuple[str, str]] = {
    "daily": ("training", "the day"),
    "release": ("training", "production"),
    "comparison": ("the first", "the second"),
}
THE_DAYS_BEFORE = "the days before"


@dataclass(frozen=True)
class Findings:
    """Everything that a report says, in aggregates alone.

    sides: how the reference and the current answers are called. other: how the answers are called that the measures
    are compared with, the days before or the reference; None where these have no measures. drift: distances from the
    reference; drift_before: from the days before. over_time: periods of the current answers and of those compared, with
    a column side. scores: counts.
    """

    kind: Kind
    sides: tuple[str, str]
    current: Measured
    other: str | None
    before: Measured | None
    differences: pd.DataFrame
    drift: Distances
    drift_before: Distances | None
    slices: Slices
    over_time: pd.DataFrame
    scores: dict[str, int]
    threshold: float | None
    promised: float | None


def find(
    kind: Kind,
    reference: pd.DataFrame,
    current: pd.DataFrame,
    *,
    before: pd.DataFrame | None = None,
    sides: tuple[str, str] | None = None,
    threshold: float | None = None,
    reference_threshold: float | None = None,
    promised: float | None = None,
    also: Sequence[str] = (),
    settings: AlarmSettings | None = None,
) -> Findings:
    """Look at the frames; `drift.write_report` says what they and the other arguments are.

    Raises:
        InputError: no such kind, or a column to slice by that is not there or may not be shown.
    """
    if kind not in KINDS:
        raise InputError(f"a report should be one of: {', '.join(KINDS)}. Found '{kind}'.")
    for column in also:
        check_column(current, column)
    limits = settings or AlarmSettings()
    named = (plain((sides or SIDES[kind])[0]), plain((sides or SIDES[kind])[1]))
    after, first = safe(current, tuple(also)), safe(reference)
    earlier = safe(before) if kind == "daily" and before is not None and len(before) else None
    now = measured(after, threshold, limits.rows)
    beside = first if earlier is None else earlier
    was = measured(beside, threshold if earlier is not None else reference_threshold, limits.rows)
    tells = kind == "comparison" or len(was.told) > 0 or earlier is not None
    called = named[0] if earlier is None else THE_DAYS_BEFORE
    periods = [(called, timeline(beside, was.told))] if tells and beside["created_at"].notna().any() else []
    periods.append((named[1], timeline(after, now.told)))
    return Findings(
        kind, named, now, called if tells else None, was if tells else None,
        compared(was.table, now.table) if tells else compared(was.table[:0], now.table[:0]),
        distances(first, after, named, limits),
        None if earlier is None else distances(earlier, after, (THE_DAYS_BEFORE, named[1]), limits),
        slices(after, now.told, also, limits),
        pd.concat([table.assign(side=side) for side, table in periods], ignore_index=True),
        {"reference": len(first), "current": len(after), "before": 0 if earlier is None else len(earlier),
         "without_risk": int(after["risk"].isna().sum()), "labelled": len(now.told),
         "labelled_of_unknown_choice": now.told.left_out + (0 if now.told.known else len(now.told))},
        threshold, promised,
    )


def as_plain(found: Findings) -> dict[str, Any]:
    """The findings as plain data, for JSON: no NaN, and no table but lists of its rows."""
    return {
        "kind": found.kind,
        "sides": list(found.sides),
        "scores": found.scores,
        "measures": figures(found.current),
        "holds_for": "all answers" if found.current.unknown is None else "the labelled answers",
        "cannot_tell": found.current.unknown,
        "compared_with": found.other,
        "measures_compared": None if found.before is None else figures(found.before),
        "differences": records(found.differences),
        "threshold": found.threshold,
        "promised": found.promised,
        "reliability": records(found.current.reliability),
        "slices": records(found.slices.table),
        "slices_left_out": found.slices.left_out,
        "over_time": records(found.over_time),
        "drift": {row["column"]: {key: row[key] for key in ("distance", "p_value", "drifted")}
                  for row in records(found.drift.table)},
        "drift_from_the_days_before": None if found.drift_before is None else {
            row["column"]: {key: row[key] for key in ("distance", "p_value", "drifted")}
            for row in records(found.drift_before.table)},
        "not_compared": found.drift.not_compared,
    }


def figures(found: Measured) -> dict[str, dict[str, float | None]]:
    """Of each measure that can be told: value, low, high."""
    return {row.pop("measure"): row for row in records(found.table)}


def records(table: pd.DataFrame) -> list[dict[str, Any]]:
    """The rows of a table, None for NaN."""
    return [{str(key): None if isinstance(value, float) and value != value else value for key, value in row.items()}
            for row in table.to_dict("records")]
