"""How many scores fell where: what monitoring without labels goes by, small however many scores there are. Pure.

A tally counts, for each feature, the scores in each of its bins. Features are `risk` (20 bins), `answer`,
`harmonizer_answer` (a bin a class), `text_length` (doubling), `agreement` (10 bins), and `source:NAME` (`agrees` with
the LLM, or `differs`) for every source. Scores without a value, and sources that abstain, are in no bin: their number
is n less the bins' sum. Whoever keeps tallies an hour each can add them up to any longer time.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

VOTE, SOURCE = "vote:", "source:"
"""Prefixes: of a frame's columns that hold a source's votes, by class name, and of a tally's features of a source."""

AGREES, DIFFERS = "agrees", "differs"
NUMBERS = {"risk": 20, "agreement": 10}
CATEGORIES = ("answer", "harmonizer_answer")
DOUBLINGS = 64


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
    return tallies(frame, np.zeros(len(frame), dtype=np.int64), 1)[0]


def tallies(frame: pd.DataFrame, group: np.ndarray, groups: int) -> list[Tally]:
    """The `tally` of each group of rows; group: (n,), the number of each row's, below `groups`."""
    found = [dict[str, dict[str, int]]() for _ in range(groups)]
    for feature, names, codes in _coded(frame):
        known = codes >= 0
        counts = np.bincount(group[known] * len(names) + codes[known], minlength=groups * len(names))
        _put(found, feature, names, counts.reshape(groups, -1))
    votes = [column for column in frame if str(column).startswith(VOTE)]
    if votes:
        cast = frame[votes].to_numpy(object)
        voted = ~pd.isna(cast)
        agreed = voted & (cast == frame["answer"].to_numpy(object)[:, None])
        agrees, voting = (_summed(each, group, groups) for each in (agreed, voted))
        for place, column in enumerate(votes):
            both = np.stack([agrees[:, place], voting[:, place] - agrees[:, place]], axis=1)
            _put(found, SOURCE + column[len(VOTE):], (AGREES, DIFFERS), both)
    sizes = np.bincount(group, minlength=groups).tolist()
    return [Tally(n, counts) for n, counts in zip(sizes, found, strict=True)]


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


def _coded(frame: pd.DataFrame) -> Iterator[tuple[str, Sequence[str], np.ndarray]]:
    """Of each feature but the sources: its name, its bins' names, and each row's bin, (n,), -1 without a value."""
    for name, bins in NUMBERS.items():
        if name in frame:
            values = frame[name].to_numpy(float)
            codes = np.minimum(np.nan_to_num(values, nan=0.0) * bins, bins - 1).astype(np.int64)
            yield name, _numbered(bins), np.where(np.isnan(values), -1, codes)
    for name in CATEGORIES:
        if name in frame:
            codes, classes = pd.factorize(frame[name])
            yield name, [str(each) for each in classes], codes
    if "text_length" in frame:
        lengths = frame["text_length"].to_numpy(float)
        codes = np.log2(np.maximum(np.nan_to_num(lengths, nan=0.0), 1)).astype(np.int64)
        yield "text_length", _numbered(DOUBLINGS), np.where(np.isnan(lengths), -1, codes)


def _numbered(bins: int) -> list[str]:
    return [f"{place:02d}" for place in range(bins)]


def _summed(hits: np.ndarray, group: np.ndarray, groups: int) -> np.ndarray:
    """(groups, m): how many of the hits (n, m) each group has."""
    found = np.zeros((groups, hits.shape[1]), dtype=np.int64)
    np.add.at(found, group, hits)
    return found


def _put(found: Sequence[dict[str, dict[str, int]]], feature: str, names: Sequence[str], counts: np.ndarray) -> None:
    """Into each group's counts those, (groups, bins), of a feature's bins that hold a score."""
    for place in np.flatnonzero(counts.any(axis=1)).tolist():
        held = np.flatnonzero(counts[place]).tolist()
        found[place][feature] = {names[each]: int(counts[place, each]) for each in held}
