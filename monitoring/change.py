"""How much a sample differs from a reference, and how likely mere chance makes such a difference."""

from typing import NamedTuple

import pandas as pd
from scipy.stats import ks_2samp


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
