"""How often a heuristic is right, from few labels and many beliefs. Pure.

A heuristic votes for the class k with the largest  log π_k / b_k,  b the shares of the classes and

    π_k = (right_k + s · q_k) / (seen + s),    q_k = (Σ beliefs in k of the texts it covers + 3 b_k) / (covered + 3).

So the opinion counts as s labels that are all alike: a heuristic that was seen right 3 times of 3 is believed no more
than the opinion of all texts that it covers allows. What is reported counts labels out of fold: a label tells whether
a heuristic is right with the class that the labels and the opinion outside of its fold would have given it. Two things
flatter it still: q rests on all labels, and a heuristic is kept because it looks good.
"""

from dataclasses import dataclass

import numpy as np
import scipy.sparse as sparse
from scipy.stats import beta

from training.heuristics.opinion import FOLDS, Opinion

PRIOR_LABELS = 6.0
PRIOR_TEXTS = 3.0
CONFIDENCE = 0.9


@dataclass(frozen=True)
class Estimate:
    """What is known of a heuristic. coverage: its share of all texts. believed: q. right, seen: labels, out of fold.

    precision: right and seen shrunken towards q, with the interval of a beta posterior, of confidence 0.9.
    """

    coverage: float
    right: int
    seen: int
    believed: float
    precision: float
    low: float
    high: float


@dataclass(frozen=True)
class Estimates:
    """Of m heuristics. label: (m,) the class of each. count: (m,) texts covered. Others: (m,) as in `Estimate`."""

    label: np.ndarray
    count: np.ndarray
    right: np.ndarray
    seen: np.ndarray
    believed: np.ndarray
    precision: np.ndarray
    texts: int

    def one(self, place: int) -> Estimate:
        """That of one of them."""
        return estimate(int(self.count[place]), self.texts, int(self.right[place]), int(self.seen[place]),
                        float(self.believed[place]))


def estimate(count: int, texts: int, right: int, seen: int, believed: float) -> Estimate:
    """The estimate of a heuristic that covers so many of the texts."""
    more, less = right + PRIOR_LABELS * believed, seen - right + PRIOR_LABELS * (1 - believed)
    low, high = beta.ppf([(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2], more, max(less, 1e-3))
    return Estimate(count / texts, right, seen, believed, more / (more + less), float(low), float(high))


def estimates_of(
    covers: sparse.csc_matrix, opinion: Opinion, rows: np.ndarray, labels: np.ndarray, balance: np.ndarray
) -> Estimates:
    """Estimates of the heuristics whose covers (n, m) are given, from labels (l,) of the rows (l,)."""
    known = covers[rows].tocsr()
    told = np.eye(len(balance))[labels]
    seen = np.asarray(known.sum(axis=0)).ravel()
    count = np.asarray(covers.sum(axis=0)).ravel()
    right = np.zeros(covers.shape[1])
    for fold in range(FOLDS):
        held = opinion.folds == fold
        label, _, _ = _decided(covers, opinion.without[fold], known[~held].T @ told[~held], count, balance)
        right += np.asarray(known[held].multiply(labels[held][:, None] == label[None, :]).sum(axis=0)).ravel()
    label, believed, _ = _decided(covers, opinion.beliefs, known.T @ told, count, balance)
    precision = (right + PRIOR_LABELS * believed) / (seen + PRIOR_LABELS)
    return Estimates(label, count.astype(np.int64), right.astype(np.int64), seen.astype(np.int64), believed, precision,
                     covers.shape[0])


def _decided(
    covers: sparse.csc_matrix, beliefs: np.ndarray, right: np.ndarray, count: np.ndarray, balance: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The class k of each heuristic, q_k and π_k, each (m,). right: (m, K) labels of each class covered."""
    q = (covers.T @ beliefs + PRIOR_TEXTS * balance) / (count + PRIOR_TEXTS)[:, None]
    q = q / q.sum(axis=1, keepdims=True)
    precision = (right + PRIOR_LABELS * q) / (right.sum(axis=1, keepdims=True) + PRIOR_LABELS)
    label = np.log(precision / balance).argmax(axis=1)
    each = np.arange(len(label))
    return label, q[each, label], precision[each, label]
