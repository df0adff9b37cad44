"""How far a table's columns are from a reference's, and the shares of both, for a report. Pure."""

from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy.stats import chi2_contingency

from monitoring.answers import SMALLEST, plain
from monitoring.change import Change, of_numbers
from monitoring.settings import AlarmSettings

NUMERICAL = ("risk", "agreement", "sources_voting", "text_length")
CATEGORICAL = ("answer", "harmonizer_answer")
DRIFT_COLUMNS = ("risk", "answer", "harmonizer_answer", "agreement", "sources_voting", "text_length")
"""What a report compares with the reference: columns of `Store.frame`, none of which names a row."""

LIMIT = 0.1
ALPHA = 0.001
"""A column has drifted if its distance reaches the limit and chance brings such a distance with less than alpha."""

CATEGORIES = 12
LENGTH_BANDS = 20


class Distances(NamedTuple):
    """How far columns are from the reference's.

    table: columns column, distance, p_value, drifted; a row each that could be compared. shares: of each of them, a
    table place, reference, current. not_compared: the reason for each of the others.
    """

    table: pd.DataFrame
    shares: dict[str, pd.DataFrame]
    not_compared: dict[str, str]


def distances(
    reference: pd.DataFrame, current: pd.DataFrame, sides: tuple[str, str], settings: AlarmSettings
) -> Distances:
    """Kolmogorov-Smirnov distance of numbers, total variation of categories: in [0, 1], of values that are there.

    A column is not compared where either side has fewer values than `settings.rows`, or than five.
    """
    enough = max(settings.rows, SMALLEST)
    rows, shares, not_compared = [], {}, {}
    for column in DRIFT_COLUMNS:
        before, after = reference[column].dropna(), current[column].dropna()
        if reason := _too_few((len(before), len(after)), sides, enough):
            not_compared[column] = reason
            continue
        if column in NUMERICAL:
            change, shares[column] = of_numbers(before, after), _number_shares(column, before, after)
        else:
            counts = _counts(before, after)
            change, shares[column] = _of_counts(counts), _category_shares(counts)
        rows.append((column, change.size, change.p_value, change.exceeds(LIMIT, ALPHA)))
    return Distances(pd.DataFrame(rows, columns=["column", "distance", "p_value", "drifted"]), shares, not_compared)


def _too_few(found: tuple[int, int], sides: tuple[str, str], rows: int) -> str | None:
    for n, side in zip(found, sides, strict=True):
        if n < rows:
            return f"{n or 'no'} value{'s' * (n != 1)} in {side}, {rows} are needed"
    return None


def _number_shares(column: str, before: pd.Series, after: pd.Series) -> pd.DataFrame:
    """Risks by twentieths, agreement by tenths, lengths by doubling, votes one by one or by tens."""
    values = [side.to_numpy(float) for side in (before, after)]
    if column in ("risk", "agreement"):
        bins = 20 if column == "risk" else 10
        codes = [np.minimum((side * bins).astype(np.int64), bins - 1) for side in values]
        names = [f"{100 * place // bins}–{100 * (place + 1) // bins}%" for place in range(bins)]
    elif column == "text_length":
        codes = [np.clip(np.log2(np.maximum(side, 1)), 0, LENGTH_BANDS - 1).astype(np.int64) for side in values]
        names = [f"{2**place:,}–{2 ** (place + 1) - 1:,}" for place in range(LENGTH_BANDS)]
    else:
        step = int(max(1.0, max(side.max() for side in values) // 20))
        codes = [(side // step).astype(np.int64) for side in values]
        most = int(max(side.max() for side in codes)) + 1
        names = [f"{place * step}" if step == 1 else f"{place * step}–{(place + 1) * step - 1}"
                 for place in range(most)]
    counts = [np.bincount(side, minlength=len(names)) / len(side) for side in codes]
    held = np.flatnonzero(counts[0] + counts[1])
    shown = slice(held[0], held[-1] + 1) if column in ("text_length", "sources_voting") else slice(None)
    return pd.DataFrame({"place": names, "reference": counts[0], "current": counts[1]})[shown].reset_index(drop=True)


def _counts(before: pd.Series, after: pd.Series) -> pd.DataFrame:
    """Of each category, sorted by name: columns reference and current."""
    counted = [side.value_counts() for side in (before, after)]
    named = [pd.Series(each.to_numpy(), index=each.index.astype("object")) for each in counted]
    table = pd.concat(named, axis=1, keys=["reference", "current"]).fillna(0).astype("int64")
    return table[table.sum(axis=1) > 0].sort_index(key=lambda index: index.astype("str"))


def _of_counts(table: pd.DataFrame) -> Change:
    """Total variation, ½ Σ |share − share|, with a χ² test."""
    if len(table) < 2:
        return Change(0.0, 1.0)
    shares = table / table.sum()
    distance = float((shares["reference"] - shares["current"]).abs().sum() / 2)
    return Change(distance, float(chi2_contingency(table.to_numpy(), correction=False).pvalue))


def _category_shares(table: pd.DataFrame) -> pd.DataFrame:
    """The most frequent categories; the rare ones are put together."""
    shares = table / table.sum()
    order = shares.sum(axis=1).sort_values(ascending=False, kind="stable").index
    kept, rest = shares.loc[order[:CATEGORIES]], shares.loc[order[CATEGORIES:]]
    if len(rest):
        kept = pd.concat([kept, rest.sum().to_frame(f"{len(rest)} others").T])
    kept.index = pd.Index([plain(name)[:28] for name in kept.index], name="place")
    return kept.reset_index()
