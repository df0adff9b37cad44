"""How far a draw has been checked: what it drew counts as drawn only as far as people got in its order. Pure.

The order is random, so that the first k of what was drawn are as good as a smaller draw. Labels that were there before
are not: people labelled those for their own reasons. They are where the order has put them, and count once the checking
has reached them.
"""

from bisect import insort
from math import ceil

import numpy as np
import pandas as pd

CHECKED = 0.9
"""The share of a draw's first k that must be labelled for these to count: a few that nobody can tell hold up little."""

_NEVER = np.iinfo(np.int64).max
_NAT = np.iinfo(np.int64).min


def reached(drawn: pd.DataFrame, labelled_at: pd.Series) -> pd.Series:
    """Since when each drawn score counts as drawn, NaT while it does not. (n,)

    drawn: draw_id, position, at (when it was drawn). labelled_at: (n,) beside it, NaT without a label.
    A score at position j counts from the first moment on at which, of the first k positions for some k > j, `CHECKED`
    were labelled and the last of these was labelled since the draw, or lies behind all such; and not before its own
    label. So no label that comes later changes a moment. What was erased has no position.
    """
    rows = drawn.assign(label=labelled_at.to_numpy("datetime64[us]"), since=drawn["at"].to_numpy("datetime64[us]"))
    found = np.full(len(rows), _NAT)
    for _, each in rows.reset_index(drop=True).sort_values("position").groupby("draw_id"):
        label, since = each["label"].to_numpy(), each["since"].to_numpy()
        moments = np.where(np.isnat(label), _NEVER, np.maximum(label, since).astype(np.int64))
        got = _reached(moments, asked=~(label <= since))
        found[each.index] = np.where(got == _NEVER, _NAT, got)
    return pd.Series(pd.to_datetime(found.astype("datetime64[us]"), utc=True), index=drawn.index)


def _reached(moments: np.ndarray, asked: np.ndarray) -> np.ndarray:
    """(n,) of moments (n,) in a draw's order; asked: (n,), whether the label was still to be given."""
    last = int(np.flatnonzero(asked)[-1]) if asked.any() else -1
    end = np.where(asked, moments, _NEVER)  # when the first positions up to this one may be looked at
    end[last + 1:] = moments[last] if asked.any() else moments
    ordered, whole = list[int](), np.empty_like(moments)
    for place, moment in enumerate(moments.tolist()):  # a loop, over what people check: not many
        insort(ordered, moment)
        whole[place] = max(ordered[ceil(CHECKED * (place + 1)) - 1], end[place])
    return np.maximum(moments, np.minimum.accumulate(whole[::-1])[::-1])
