"""Whether the risks are true within parts of the answers: by class, length, sources, decision, or any column. Pure."""

from collections.abc import Callable, Sequence
from difflib import get_close_matches
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy.special import betainc

from monitoring.answers import SMALLEST, Labelled, plain
from monitoring.settings import AlarmSettings
from monitoring.weighing import bins_of, effective_rows, rates
from training.calibration import BINS
from training.errors import InputError

MOST = 50
NAMED = 20  # columns, that a message names
NONE, OTHERS = "(none)", "others"
PRIVATE = (
    "score_id", "item_id", "id", "text", "text_hash", "created_at", "labelled_at", "risk", "error", "probability",
)
"""Columns by which nothing is sliced: they name rows or texts, or are what is measured."""

COLUMNS = ("slice", "value", "n", "mean_risk", "labelled", "error_rate", "error_low", "error_high", "gap", "ece",
           "p_value", "marked")


class Slices(NamedTuple):
    """A row a slice, with `COLUMNS`; and in words what is not shown.

    mean_risk: of all n answers. error_rate, its interval of 95 %, gap (error rate − mean risk of the labelled ones) and
    ece: of the labelled ones, NaN below five. p_value: of a gap beyond the tolerance, NaN below the labels that are
    enough. marked: it is beyond chance, with Holm's correction for the number of slices.
    """

    table: pd.DataFrame
    left_out: list[str]


def slices(
    frame: pd.DataFrame, told: Labelled, also: Sequence[str] = (), settings: AlarmSettings | None = None
) -> Slices:
    """Of the answers with a risk, by `SLICINGS` and by further columns of the frame.

    A column of more than 50 values is not shown, and values with fewer than five answers are put together.

    Raises:
        InputError: no such column, or one of `PRIVATE`.
    """
    limits = settings or AlarmSettings()
    ways: dict[str, Callable[[pd.DataFrame], pd.Series]] = {
        title: way for title, (column, way) in SLICINGS.items() if frame[column].notna().any()
    }
    if len(frame["version"].cat.categories) > 1:
        ways["version"] = lambda all_of: all_of["version"]
    for column in also:
        check_column(frame, column)
        ways[plain(column)] = lambda all_of, column=column: all_of[column]  # type: ignore[misc]
    tables, left_out = [], []
    for title, way in ways.items():
        cells = _cells(way(frame).where(frame["risk"].notna()), frame["risk"].notna().to_numpy())
        if isinstance(cells, str):
            left_out.append(f"{title}: {cells}")
            continue
        tables.append(_measured(frame, told, *cells).assign(slice=title))
    table = pd.concat(tables, ignore_index=True) if tables else pd.DataFrame(columns=list(COLUMNS))
    table["p_value"] = _p_values(table, limits) if len(table) else []
    table["marked"] = holm(table["p_value"].to_numpy(float), limits.alpha)
    return Slices(table[list(COLUMNS)], left_out)


def check_column(frame: pd.DataFrame, column: str) -> None:
    """Refuse to slice by a column that a report may not show, or that is not there.

    Raises:
        InputError: names some that are.
    """
    if column in PRIVATE:
        raise InputError(f"a report is not sliced by '{column}': it would show single answers.")
    if column not in frame:
        raise InputError(f"the scores have no column '{column[:60]}'. Slice by one of: {_like(column, frame)}.")


def _like(column: str, frame: pd.DataFrame) -> str:
    """The columns by which one may slice, those that are spelt most alike first; of many a few."""
    there = [name for name in map(str, frame.columns) if name not in PRIVATE]
    alike = [name for name in get_close_matches(column, there) if name in there]
    names = list(dict.fromkeys([*alike, *there]))
    more = f", and {len(names) - NAMED:,} more" if len(names) > NAMED else ""
    return ", ".join(name[:60] for name in names[:NAMED]) + more


def _of_length(frame: pd.DataFrame) -> pd.Series:
    """Doubling bands: below 64 characters, to 127, …"""
    band = np.clip(np.log2(np.maximum(frame["text_length"].to_numpy(float), 1)), 5, 14)
    names = ["below 64", *(f"{2**k:,} to {2 ** (k + 1) - 1:,}" for k in range(6, 14)), "16,384 and more"]
    code = np.where(np.isnan(band), -1, np.nan_to_num(band).astype(int) - 5)
    return pd.Series(pd.Categorical.from_codes(code, names, ordered=True), index=frame.index)


def _of_sources(frame: pd.DataFrame) -> pd.Series:
    """How the sources that voted stand to the LLM's answer."""
    names = ["no vote", "all agree with the LLM", "some disagree", "most disagree"]
    agreement, voting = frame["agreement"].to_numpy(float), frame["sources_voting"].to_numpy(float)
    code = np.select([voting == 0, agreement == 1, agreement >= 0.5, agreement < 0.5], range(4), -1)
    return pd.Series(pd.Categorical.from_codes(code, names, ordered=True), index=frame.index)


SLICINGS: dict[str, tuple[str, Callable[[pd.DataFrame], pd.Series]]] = {
    "the LLM's answer": ("answer", lambda frame: frame["answer"]),
    "the harmonizer's answer": ("harmonizer_answer", lambda frame: frame["harmonizer_answer"]),
    "length in characters": ("text_length", _of_length),
    "sources": ("sources_voting", _of_sources),
    "decision": ("decision", lambda frame: frame["decision"]),
}
"""How answers are sliced wherever the column named first is known: a title, and the value of each answer."""


def _cells(values: pd.Series, answered: np.ndarray) -> tuple[np.ndarray, list[str]] | str:
    """The cell of each row, -1 without a risk, and the cells' names; or why they are not shown."""
    if isinstance(values.dtype, pd.CategoricalDtype) and values.cat.ordered:
        code, names = values.cat.codes.to_numpy(np.int64), [str(name) for name in values.cat.categories]
    else:
        code, found = pd.factorize(values)
        if len(found) > MOST:
            return f"it has more than {MOST} values"
        order = np.argsort([str(name) for name in found], kind="stable")
        code = np.where(code < 0, -1, np.argsort(order)[code]) if len(found) else code
        names = [plain(found[place]) for place in order]
    names.append(NONE)
    code = np.where(answered, np.where(code < 0, len(names) - 1, code), -1)
    n = np.bincount(code[code >= 0], minlength=len(names))
    merged = (n > 0) & (n < SMALLEST)
    while 0 < n[merged].sum() < SMALLEST and (n[~merged] > 0).any():  # or it could be told from the others
        merged[np.argmin(np.where(merged | (n == 0), np.iinfo(n.dtype).max, n))] = True
    if 0 < n[merged].sum() < SMALLEST:
        return f"it has fewer than {SMALLEST} answers"
    shown = np.flatnonzero((n > 0) & ~merged)
    place = np.full(len(names) + 1, -1)  # the last one is for code -1
    place[shown] = np.arange(len(shown))
    place[np.flatnonzero(merged)] = len(shown)
    names = [names[at] for at in shown] + [f"{OTHERS} ({merged.sum()})"] * bool(merged.any())
    return (place[code], names) if len(names) > 1 else "all answers are in one slice"


def _measured(frame: pd.DataFrame, told: Labelled, code: np.ndarray, names: list[str]) -> pd.DataFrame:
    groups, held = len(names), np.flatnonzero(code >= 0)
    n = np.bincount(code[held], minlength=groups)
    mean_risk = np.bincount(code[held], frame["risk"].to_numpy(float)[held], groups) / n
    of = code[told.rows]
    labels = np.bincount(of, minlength=groups)
    rate, low, high = rates(of, told.error, told.weight, groups)
    total = np.bincount(of, told.weight, groups)
    off = np.bincount(of * BINS + bins_of(told.risk), told.weight * (told.risk - told.error), groups * BINS)
    with np.errstate(invalid="ignore"):
        gap = np.bincount(of, told.weight * (told.error - told.risk), groups) / total
        error = np.abs(off.reshape(groups, BINS)).sum(axis=1) / total
    few = labels < SMALLEST
    figures = {"error_rate": rate, "error_low": low, "error_high": high, "gap": gap, "ece": error}
    return pd.DataFrame({
        "value": names, "n": n, "mean_risk": mean_risk, "labelled": labels,
        "effective": effective_rows(total, np.bincount(of, told.weight**2, groups)),
        **{name: np.where(few, np.nan, values) for name, values in figures.items()},
    })


def _p_values(table: pd.DataFrame, limits: AlarmSettings) -> np.ndarray:
    """Two-sided, of as many errors or more (or fewer) among as many answers with the mean risk ± tolerance.

    Binomial with the effective number of rows, which makes large gaps no less likely than the risks themselves do.
    """
    n, rate = table["effective"].to_numpy(float), table["error_rate"].to_numpy(float)
    risk = rate - table["gap"].to_numpy(float)
    wrong = n * rate
    with np.errstate(invalid="ignore"):
        more = np.where(wrong > 0, betainc(wrong, n - wrong + 1, np.clip(risk + limits.tolerance, 0, 1)), 1.0)
        fewer = np.where(n > wrong, 1 - betainc(wrong + 1, n - wrong, np.clip(risk - limits.tolerance, 0, 1)), 1.0)
    return np.where(table["labelled"] >= limits.rows, np.minimum(1.0, 2 * np.minimum(more, fewer)), np.nan)


def holm(p_values: np.ndarray, alpha: float) -> np.ndarray:
    """Which of several p-values are below alpha with Holm's correction; NaN ones are none of them."""
    order = np.argsort(p_values)
    kept = order[: int((~np.isnan(p_values)).sum())]
    passed = np.cumprod(p_values[kept] * np.arange(len(kept), 0, -1) < alpha).astype(bool)
    marked = np.zeros(len(p_values), dtype=bool)
    marked[kept[passed]] = True
    return marked
