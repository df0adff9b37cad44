"""How many scores fell where: what monitoring without labels goes by, small however many scores there are. Pure.

A tally counts, for each feature, the scores in each of its bins. Features are `risk` (20 bins), `answer`,
`harmonizer_answer` (a bin a class), `text_length` (doubling), `agreement` (10 bins), and `source:NAME` (`agrees` with
the LLM, or `differs`) for every source. Scores without a value, and sources that abstain, are in no bin: their number
is n less the bins' sum. Whoever keeps tallies an hour each can add them up to any longer time.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

VOTE, SOURCE = "vote:", "source:"
"""Prefixes: of a frame's columns that hold a source's votes, by class name, and of a tally's features of a source."""

AGREES, DIFFERS = "agrees", "differs"
NUMBERS = {"risk": 20, "agreement": 10}
CATEGORIES = ("answer", "harmonizer_answer")


@dataclass(frozen=True)
class Tally:
    """Counts of n scores: `counts[feature][bin]`; a feature without a value in any of them may be missing."""

    n: int = 0
    counts: Mapping[str, Mapping[str, int]] = field(default_factory=dict)

    def shares(self, feature: str) -> dict[str, float]:
        """The share of the scores in each bin of a feature, those without a value in none."""
        return {name: count / self.n for name, count in self.counts.get(feature, {}).items()} if self.n else {}


def tally(frame: pd.DataFrame) -> Tally:
    """Of scores, one a row; columns as in `Store.frame`, and `vote:NAME` with the class that a source voted for.

    A column that is missing is a feature without values.
    """
    found: dict[str, dict[str, int]] = {}
    for name, bins in NUMBERS.items():
        if name in frame:
            values = frame[name].dropna().to_numpy(float)
            found[name] = _counted(np.minimum((values * bins).astype(np.int64), bins - 1), bins)
    for name in CATEGORIES:
        if name in frame:
            counts = frame[name].dropna().value_counts()
            found[name] = dict(zip(counts.index.astype(str), counts.tolist(), strict=True))
    if "text_length" in frame:
        lengths = frame["text_length"].dropna().to_numpy(float)
        found["text_length"] = _counted(np.log2(np.maximum(lengths, 1)).astype(np.int64), 64)
    votes = [column for column in frame if str(column).startswith(VOTE)]
    if votes:
        answer = frame["answer"].to_numpy(object)[:, None]
        cast = frame[votes].to_numpy(object)
        voted = ~pd.isna(cast)
        agrees = (voted & (cast == answer)).sum(axis=0)
        differs = voted.sum(axis=0) - agrees
        for column, same, other in zip(votes, agrees.tolist(), differs.tolist(), strict=True):
            said = {name: count for name, count in ((AGREES, same), (DIFFERS, other)) if count}
            if said:
                found[SOURCE + column[len(VOTE):]] = said
    return Tally(len(frame), {feature: bins for feature, bins in found.items() if bins})


def added(tallies: Iterable[Tally]) -> Tally:
    """Of all scores that the tallies count."""
    n, found = 0, dict[str, dict[str, int]]()
    for each in tallies:
        n += each.n
        for feature, bins in each.counts.items():
            into = found.setdefault(feature, {})
            for name, count in bins.items():
                into[name] = into.get(name, 0) + count
    return Tally(n, found)


def _counted(codes: np.ndarray, bins: int) -> dict[str, int]:
    counts = np.bincount(codes, minlength=bins)
    return {f"{place:02d}": int(counts[place]) for place in np.flatnonzero(counts)}
