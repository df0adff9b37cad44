"""Risks and errors over time: what was predicted of a day, week or month, beside what was found. Pure."""

import numpy as np
import pandas as pd

from monitoring.answers import SMALLEST, Labelled
from monitoring.weighing import rates

DAYS, WEEKS = 62, 120  # as many are shown; beyond, weeks and then months are

COLUMNS = ("start", "n", "mean_risk", "labelled", "error_rate", "error_low", "error_high")


def timeline(frame: pd.DataFrame, told: Labelled) -> pd.DataFrame:
    """A row a period (in UTC) in which at least five answers with a risk were scored, ascending, with `COLUMNS`.

    start: its first day, as text. mean_risk: of all its answers or, where the labels do not hold for all of them, of
    the labelled ones. error_rate and its interval of 95 %: NaN with fewer than five labels.
    """
    moments = frame["created_at"].where(frame["risk"].notna())
    code, starts = pd.factorize(_starts(moments), sort=True)
    groups, held = len(starts), np.flatnonzero(code >= 0)
    if not groups:
        return pd.DataFrame(columns=list(COLUMNS))
    n = np.bincount(code[held], minlength=groups)
    inside = code[told.rows] >= 0
    of, risk, error, weight = (values[inside] for values in (code[told.rows], told.risk, told.error, told.weight))
    labels = np.bincount(of, minlength=groups)
    rate, low, high = rates(of, error, weight, groups)
    few = labels < SMALLEST
    if told.known or not len(told):
        mean_risk = np.bincount(code[held], frame["risk"].to_numpy(float)[held], groups) / n
    else:
        with np.errstate(invalid="ignore"):
            mean_risk = np.where(few, np.nan, np.bincount(of, weight * risk, groups) / np.bincount(of, weight, groups))
    table = pd.DataFrame({
        "start": pd.DatetimeIndex(starts).strftime("%Y-%m-%d"), "n": n, "mean_risk": mean_risk, "labelled": labels,
        "error_rate": np.where(few, np.nan, rate), "error_low": np.where(few, np.nan, low),
        "error_high": np.where(few, np.nan, high),
    })
    return table[table["n"] >= SMALLEST].reset_index(drop=True)


def _starts(moments: pd.Series) -> np.ndarray:
    """The first day of each moment's period: a day or, where there are too many of these, a week or a month."""
    instants = moments.dt.tz_localize(None).to_numpy("datetime64[s]")
    days = instants.astype("datetime64[D]")
    if len(np.unique(days[~np.isnat(days)])) <= DAYS:
        return days.astype("datetime64[s]")
    mondays = days - ((days.astype(np.int64) + 3) % 7).astype("timedelta64[D]")  # 1970-01-01 was a Thursday
    mondays[np.isnat(days)] = np.datetime64("NaT")
    if len(np.unique(mondays[~np.isnat(mondays)])) <= WEEKS:
        return mondays.astype("datetime64[s]")
    return days.astype("datetime64[M]").astype("datetime64[s]")
