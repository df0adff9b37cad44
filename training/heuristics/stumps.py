"""The heuristics that may be written, and what each says of texts: phrases, counts, and points for phrases. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import scipy.sparse as sparse

from training.heuristics import words
from training.task import ABSTAIN

MEASURES = {"word_count": "words", "digit_count": "digits", "capital_count": "capital letters", "link_count": "links",
            "exclamation_count": "exclamation marks"}
"""Functions of `training.heuristics.words` and what they count."""

LONGEST = 3  # words of a phrase
FEWEST_TEXTS = 5
"""Different texts in which a phrase has to occur: what one person once wrote should not get into a file of rules."""
MOST_SHARE = 0.5
QUANTILES = (0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 0.8, 0.9, 0.95)


@dataclass(frozen=True)
class Says:
    """Votes where a text says the phrase, as `words.words` sees it."""

    phrase: str


@dataclass(frozen=True)
class Counts:
    """Votes where a text has at least (or at most) so many of what the measure counts."""

    measure: str
    at_least: bool
    bound: int


@dataclass(frozen=True)
class Points:
    """Votes for the class with the most points, by `base` and by what the text says, if it leads by at least `lead`.

    points: by phrase and class index. A text that says none of the phrases gets no vote.
    """

    base: tuple[int, ...]
    points: Mapping[str, Mapping[int, int]]
    lead: int


Stump = Says | Counts


@dataclass(frozen=True)
class Stumps:
    """Candidates over texts. covers: (n, m) sparse booleans as float32, where each of the m would vote."""

    stumps: tuple[Stump, ...]
    covers: sparse.csc_matrix

    def phrases(self) -> tuple[list[str], sparse.csc_matrix]:
        """The phrases among them, p of them, and their covers (n, p)."""
        places = [place for place, stump in enumerate(self.stumps) if isinstance(stump, Says)]
        return [stump.phrase for stump in self.stumps if isinstance(stump, Says)], self.covers[:, places]


def phrases_of(text: str) -> set[str]:
    """The phrases of up to three words in a text; `^ who` is one that a text begins with."""
    found = words.words(text).split()
    tokens = found[1:]
    phrases = set(tokens)
    for size in range(2, LONGEST + 1):
        phrases.update(" ".join(found[start : start + size]) for start in range(len(found) - size + 1))
    return phrases


def stumps_of(texts: Sequence[str], fewest: int = FEWEST_TEXTS) -> Stumps:
    """Every phrase in at least `fewest` different texts and at most half of them, and bounds on every measure.

    Of phrases or bounds that cover the very same texts one stays, the shortest.
    """
    seen: dict[str, list[int]] = {}
    for row, text in enumerate(texts):
        for phrase in phrases_of(text):
            seen.setdefault(phrase, []).append(row)
    which = pd.factorize(np.array([words.words(text) for text in texts], dtype=object))[0]
    kept: dict[bytes, tuple[Stump, np.ndarray]] = {}
    for phrase in sorted(seen, key=lambda phrase: (phrase.count(" "), phrase)):
        rows = np.array(seen[phrase])
        if fewest <= len(rows) <= MOST_SHARE * len(texts) and len(np.unique(which[rows])) >= fewest:
            kept.setdefault(rows.tobytes(), (Says(phrase), rows))
    for measure in MEASURES:
        counted = np.fromiter(map(getattr(words, measure), texts), dtype=np.int64, count=len(texts))
        for bound in np.unique(np.quantile(counted, QUANTILES, method="nearest")).tolist() if len(texts) else ():
            for at_least in (True, False):
                rows = np.flatnonzero(counted >= bound if at_least else counted <= bound)
                if fewest <= len(rows) <= MOST_SHARE * len(texts):
                    kept.setdefault(rows.tobytes(), (Counts(measure, at_least, bound), rows))
    ends = np.cumsum([0, *(len(rows) for _, rows in kept.values())])
    places = np.concatenate([np.empty(0, dtype=np.int64), *(rows for _, rows in kept.values())])
    covers = sparse.csc_matrix((np.ones(len(places), dtype=np.float32), places, ends), shape=(len(texts), len(kept)))
    return Stumps(tuple(stump for stump, _ in kept.values()), covers)


def covered(stump: Stump, texts: Sequence[str]) -> np.ndarray:
    """(n,) whether the heuristic would vote on each text."""
    if isinstance(stump, Says):
        return np.fromiter((words.says(text, stump.phrase) for text in texts), dtype=bool, count=len(texts))
    counted = np.fromiter(map(getattr(words, stump.measure), texts), dtype=np.int64, count=len(texts))
    return counted >= stump.bound if stump.at_least else counted <= stump.bound


def points_votes(card: Points, texts: Sequence[str]) -> np.ndarray:
    """The votes (n,) of a table of points."""
    votes = np.full(len(texts), ABSTAIN, dtype=np.int16)
    for row, text in enumerate(texts):
        said = [card.points[phrase] for phrase in card.points if words.says(text, phrase)]
        total = list(card.base)
        for points in said:
            for label, more in points.items():
                total[label] += more
        best, second = sorted(total, reverse=True)[:2]
        if said and best - second >= card.lead:
            votes[row] = total.index(best)
    return votes
