"""What a few labels say of all texts: beliefs in the classes, from several ways to learn, pooled. Pure.

A hundred labels meet few phrases often. So they first teach an opinion of every text, and a phrase is then judged by
what is believed of all texts that say it. Three ways to learn, each the best of a short list by the log loss out of
fold:

- `linear`: logistic regression on phrases (TF-IDF) and embeddings together;
- `prototypes`: p ∝ exp(τ cos) of a text and the mean embedding of each class;
- `zero_shot`: the same of the embeddings of the lines that describe the classes, times the shares of the classes.

The opinion is the best of these and of the shares of the classes; each of the others, the better first, is mixed into
it as a weighted geometric mean if that lowers the loss; and it is taken to the power that fits best. No more than
1 − 1 / (l + 2) is believed by l labels: the rest goes to the shares of the classes.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import scipy.sparse as sparse
from sklearn.linear_model import LogisticRegression

FOLDS = 5
LEAST = 1e-4
STRENGTHS = (1.0, 3.0, 10.0, 30.0, 100.0)
SHARPNESS = (3.0, 6.0, 12.0, 24.0)
MIXES = (0.0, 0.25, 0.5)
POWERS = (0.5, 0.75, 1.0, 1.5, 2.0)


@dataclass(frozen=True)
class Lesson:
    """Texts and the few labels of some of them.

    phrases: (n, p) sparse TF-IDF. vectors: (n, width) of unit length. rows: (l,) places of the labelled texts.
    labels: (l,). classes: K. weights: (l,) how many texts each stands for, of mean 1. lines: (K, width) embeddings of
    what describes the classes, None for no such opinion.
    """

    phrases: sparse.csr_matrix
    vectors: np.ndarray
    rows: np.ndarray
    labels: np.ndarray
    classes: int
    weights: np.ndarray
    lines: np.ndarray | None = None

    @property
    def balance(self) -> np.ndarray:
        """(K,) the shares of the classes, a class without a label a small one."""
        counts = np.bincount(self.labels, self.weights, self.classes) + 1 / self.classes
        return np.asarray(counts / counts.sum())

    def without(self, held: np.ndarray) -> "Lesson":
        """The lesson with some labels (a mask) left out."""
        return Lesson(self.phrases, self.vectors, self.rows[~held], self.labels[~held], self.classes,
                      self.weights[~held], self.lines)


@dataclass(frozen=True)
class Opinion:
    """Beliefs in K classes of n texts: by all labels (n, K), and by those outside of each fold (FOLDS, n, K).

    folds: (l,) the fold of each label. loss: mean log loss of the labels, out of fold. used: the ways that were pooled.
    """

    beliefs: np.ndarray
    without: np.ndarray
    folds: np.ndarray
    loss: float
    used: tuple[str, ...]

    def on(self, classes: np.ndarray) -> "Opinion":
        """The same with no belief but in some classes, a mask (K,)."""
        return replace(self, beliefs=_shares(self.beliefs * classes), without=_shares(self.without * classes))


Way = Callable[[Lesson, float], np.ndarray]
"""(lesson, its one setting) -> beliefs (n, K)."""


def linear(lesson: Lesson, strength: float) -> np.ndarray:
    """Logistic regression on phrases and embeddings, the inverse of the penalty given."""
    if len(np.unique(lesson.labels)) < 2:
        return np.tile(lesson.balance, (len(lesson.vectors), 1))
    known = lesson.phrases[lesson.rows]
    seen = np.unique(known.indices)
    inputs = np.hstack([known[:, seen].toarray(), lesson.vectors[lesson.rows]])
    model = LogisticRegression(C=strength, max_iter=300, tol=1e-3).fit(inputs, lesson.labels, lesson.weights)
    logits = (lesson.phrases[:, seen] @ model.coef_[:, : len(seen)].T + lesson.vectors @ model.coef_[:, len(seen) :].T
              + model.intercept_)
    if len(model.classes_) == 2:
        logits = np.hstack([-logits / 2, logits / 2])
    beliefs = np.full((len(logits), lesson.classes), LEAST)
    beliefs[:, model.classes_] = _softmax(logits)
    return _shares(beliefs)


def prototypes(lesson: Lesson, sharpness: float) -> np.ndarray:
    """By the cosines to the mean embedding of each class; a class without a label is hardly believed in."""
    members = np.eye(lesson.classes)[lesson.labels] * lesson.weights[:, None]
    means = members.T @ lesson.vectors[lesson.rows]
    beliefs = _softmax(sharpness * _cosines(lesson.vectors, means) + np.where(members.any(axis=0), 0, -10))
    return _shares(beliefs + LEAST)


def zero_shot(lesson: Lesson, sharpness: float) -> np.ndarray:
    """By the cosines to the lines that describe the classes, and the shares of the classes."""
    assert lesson.lines is not None
    return _shares(_softmax(sharpness * _cosines(lesson.vectors, lesson.lines) + np.log(lesson.balance)) + LEAST)


WAYS: dict[str, tuple[Way, Sequence[float]]] = {
    "linear": (linear, STRENGTHS),
    "prototypes": (prototypes, SHARPNESS),
    "zero_shot": (zero_shot, SHARPNESS),
}


def opinion_of(lesson: Lesson, folds: np.ndarray) -> Opinion:
    """Learn each way, out of fold and from all labels, and pool. folds: (l,) as `folds_of` deals them."""
    shares = np.stack([np.tile(lesson.without(folds == f).balance, (len(lesson.vectors), 1)) for f in range(FOLDS)])
    learned = {"shares": (_loss(shares, lesson, folds), shares, np.tile(lesson.balance, (len(lesson.vectors), 1)))}
    for name, (way, settings) in WAYS.items():
        if name == "zero_shot" and lesson.lines is None:
            continue
        tried = [np.stack([way(lesson.without(folds == f), setting) for f in range(FOLDS)]) for setting in settings]
        losses = [_loss(each, lesson, folds) for each in tried]
        best = int(np.argmin(losses))
        learned[name] = losses[best], tried[best], way(lesson, settings[best])
    first, *others = sorted(learned, key=lambda name: learned[name][0])
    _, without, beliefs = learned[first]
    used = [first]
    for name in others:
        _, their_without, theirs = learned[name]
        mixed = [_softmax((1 - share) * np.log(without) + share * np.log(their_without)) for share in MIXES]
        best = int(np.argmin([_loss(each, lesson, folds) for each in mixed]))
        if best:
            share, without = MIXES[best], mixed[best]
            beliefs = _softmax((1 - share) * np.log(beliefs) + share * np.log(theirs))
            used.append(name)
    sharpened = [_softmax(power * np.log(without)) for power in POWERS]
    losses = [_loss(each, lesson, folds) for each in sharpened]
    best = int(np.argmin(losses))
    doubt = 1 / (len(lesson.labels) + 2)
    beliefs, without = ((1 - doubt) * each + doubt * lesson.balance
                        for each in (_softmax(POWERS[best] * np.log(beliefs)), sharpened[best]))
    return Opinion(beliefs, without, folds, losses[best], tuple(used))


def folds_of(labels: np.ndarray, seed: int) -> np.ndarray:
    """Deal labels (l,) to folds, those of each class evenly."""
    shuffled = np.random.default_rng(seed).permutation(len(labels))
    order = shuffled[np.argsort(labels[shuffled], kind="stable")]
    folds = np.empty(len(labels), dtype=np.int64)
    folds[order] = np.arange(len(labels)) % FOLDS
    return folds


def _loss(without: np.ndarray, lesson: Lesson, folds: np.ndarray) -> float:
    """The mean log loss of the labels by beliefs (FOLDS, n, K) that have not seen them."""
    told = without[folds, lesson.rows, lesson.labels]
    return float(np.average(-np.log(np.maximum(told, LEAST)), weights=lesson.weights))


def _cosines(vectors: np.ndarray, others: np.ndarray) -> np.ndarray:
    return np.asarray(vectors @ (others / np.maximum(np.linalg.norm(others, axis=1, keepdims=True), 1e-9)).T)


def _softmax(logits: np.ndarray) -> np.ndarray:
    return _shares(np.exp(logits - logits.max(axis=-1, keepdims=True)))


def _shares(values: np.ndarray) -> np.ndarray:
    return np.asarray(values / values.sum(axis=-1, keepdims=True))
