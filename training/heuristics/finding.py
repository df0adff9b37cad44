"""From a few labels, and all texts without any, to the heuristics that are worth writing down. Pure.

No label but those given enters, no text of split test, and the order of the rows does not matter.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from sklearn.feature_extraction.text import TfidfTransformer

from training.errors import InputError
from training.heuristics.card import card_of
from training.heuristics.choosing import chosen
from training.heuristics.estimates import Estimate, estimates_of
from training.heuristics.labels import Labelled
from training.heuristics.opinion import Lesson, folds_of, opinion_of
from training.heuristics.stumps import Counts, Points, Says, Stumps, covered, points_votes, stumps_of
from training.table import Table
from training.task import ABSTAIN

MOST = 60
FEWEST_LABELS = 2
WEIGHT = 4.0


@dataclass(frozen=True)
class Sample:
    """Texts to learn from, of splits train and valid, and what is known of them.

    texts: (n,) strings. vectors: (n, width) embeddings of unit length. answers: (n,) the LLM's, -1 = none: they
    tell how the labelled texts differ from all, and nothing else. rows, labels: (l,) the labelled ones, as class
    indices. lines: (K, width) embeddings of what describes the classes, None without.
    """

    classes: tuple[str, ...]
    texts: np.ndarray
    vectors: np.ndarray
    answers: np.ndarray
    rows: np.ndarray
    labels: np.ndarray
    lines: np.ndarray | None = None

    @classmethod
    def of(cls, table: Table, vectors: np.ndarray, labelled: Labelled, lines: np.ndarray | None = None) -> "Sample":
        """That of a table, its rows sorted by id. vectors: of all rows of the table, (rows, width)."""
        rows = np.flatnonzero(table.splits != "test")
        rows = rows[np.argsort(table.ids[rows].astype(str), kind="stable")]
        place = np.full(len(table), -1)
        place[rows] = np.arange(len(rows))
        order = np.argsort(place[labelled.rows])
        return cls(table.classes, table.texts[rows], vectors[rows], table.answers[rows],
                   place[labelled.rows][order], labelled.labels[order].astype(np.int64), lines)

    def where(self, kept: np.ndarray) -> "Sample":
        """The same with some of the labels alone, a mask (l,)."""
        return replace(self, rows=self.rows[kept], labels=self.labels[kept])


@dataclass(frozen=True)
class Heuristic:
    """One to write down. label: the class it votes for, None where it may vote for any."""

    rule: Says | Counts | Points
    label: int | None
    estimate: Estimate

    def votes(self, texts: Sequence[str]) -> np.ndarray:
        """Its votes (n,), -1 = abstains."""
        if isinstance(self.rule, Points):
            return points_votes(self.rule, texts)
        assert self.label is not None
        return np.where(covered(self.rule, texts), self.label, ABSTAIN).astype(np.int16)


@dataclass(frozen=True)
class Found:
    """The heuristics, best first, a table of points last. labels: (K,) how many of each class they rest on.

    without: classes with fewer than two labels, for which none votes. ways: what the opinion was pooled from.
    """

    classes: tuple[str, ...]
    heuristics: tuple[Heuristic, ...]
    labels: tuple[int, ...]
    without: tuple[str, ...]
    ways: tuple[str, ...]


def found(sample: Sample, most: int = MOST, seed: int = 0) -> Found:
    """At most so many heuristics; deterministic.

    Raises:
        InputError: fewer than two classes have two labels, or no heuristic is believed.
    """
    counts = np.bincount(sample.labels, minlength=len(sample.classes))
    rare = counts < FEWEST_LABELS
    if (~rare).sum() < 2:
        shown = ", ".join(f"{name} {count}" for name, count in zip(sample.classes, counts, strict=True))
        raise InputError(f"at least two classes should have {FEWEST_LABELS} labels each. Found {shown}. "
                         "Label more rows.")
    sample = sample.where(~rare[sample.labels])
    stumps = stumps_of(list(sample.texts))
    phrases, said = stumps.phrases()
    lesson = lesson_of(sample, stumps)
    opinion = opinion_of(lesson, folds_of(sample.labels, seed)).on(~rare)
    judged = estimates_of(stumps.covers, opinion, sample.rows, sample.labels, lesson.balance)
    card = card_of(said, phrases, opinion, sample.rows, sample.labels)
    picked = chosen(stumps.covers, judged, lesson.balance, most - (card is not None), ~rare)
    kept = [Heuristic(stumps.stumps[place], int(judged.label[place]), judged.one(place)) for place in picked]
    kept += [Heuristic(card[0], None, card[1])] if card else []
    if not kept:
        raise InputError("no phrase or count tells the classes apart by these labels. Label more rows.")
    without = tuple(name for name, few in zip(sample.classes, rare, strict=True) if few)
    return Found(sample.classes, tuple(kept), tuple(map(int, counts)), without, opinion.used)


def lesson_of(sample: Sample, stumps: Stumps) -> Lesson:
    """What the labels of a sample can teach, with the phrases among its heuristics."""
    said = stumps.phrases()[1].tocsr()
    phrases = TfidfTransformer().fit_transform(said) if said.shape[1] else said
    return Lesson(phrases, sample.vectors, sample.rows, sample.labels, len(sample.classes), _weights(sample),
                  sample.lines)


def _weights(sample: Sample) -> np.ndarray:
    """How many texts each labelled one stands for, of mean 1: by how often the LLM answers so among all, and them."""
    kinds = len(sample.classes) + 1
    everywhere, here = (np.bincount(answers + 1, minlength=kinds) for answers in
                        (sample.answers.astype(np.int64), sample.answers[sample.rows].astype(np.int64)))
    share = (everywhere / everywhere.sum() * here.sum() + 1) / (here + 1)
    weights = np.clip(share, 1 / WEIGHT, WEIGHT)[sample.answers[sample.rows] + 1]
    return np.asarray(weights / weights.mean())
