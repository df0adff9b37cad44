"""How much a sample differs from a reference, and how likely mere chance makes such a difference."""

from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy.stats import chi2_contingency, ks_2samp, norm


class Change(NamedTuple):
    """A difference and its p-value: the probability of one as large if nothing had changed."""

    size: float
    p_value: float

    def exceeds(self, limit: float, alpha: float) -> bool:
        """Whether it is both large and unlikely to be chance."""
        return self.size >= limit and self.p_value < alpha


def of_numbers(reference: pd.Series, current: pd.Series) -> Change:
    """Kolmogorov-Smirnov: the largest difference of the cumulative shares, in [0, 1]; NaN left out."""
    found = ks_2samp(reference.dropna().to_numpy(float), current.dropna().to_numpy(float), method="asymp")
    return Change(float(found.statistic), float(found.pvalue))


def of_categories(reference: pd.Series, current: pd.Series) -> Change:
    """Total variation, ½ Σ |share − share|, in [0, 1], with a χ² test; a missing value is a category too."""
    table = shares_table(reference, current)
    if len(table) < 2:
        return Change(0.0, 1.0)
    shares = table / table.sum()
    distance = float((shares["reference"] - shares["current"]).abs().sum() / 2)
    return Change(distance, float(chi2_contingency(table.to_numpy(), correction=False).pvalue))


def of_means(reference: pd.Series, current: pd.Series) -> Change:
    """The fall of the mean, reference − current (negative for a rise), one-sided; NaN left out.

    p-value by the normal approximation, with each sample's own variance: for some thirty values and more.
    """
    a, b = reference.dropna().to_numpy(float), current.dropna().to_numpy(float)
    fall = float(a.mean() - b.mean())
    spread = float(np.sqrt(a.var() / len(a) + b.var() / len(b)))
    if spread == 0:
        return Change(fall, 0.0 if fall > 0 else 1.0)
    return Change(fall, float(norm.sf(fall / spread)))


def shares_table(reference: pd.Series, current: pd.Series, missing: str = "(none)") -> pd.DataFrame:
    """Counts of each category in both, sorted by name: columns `reference` and `current`."""
    named = [values.astype("object").where(values.notna(), missing) for values in (reference, current)]
    counts = [values.value_counts() for values in named]
    table = pd.concat(counts, axis=1, keys=["reference", "current"]).fillna(0).astype("int64")
    return table.loc[sorted(table.index, key=str)]
