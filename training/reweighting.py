"""Pareto weights from the correlation of the sources' gradients, without labels.

The gradient of source j's loss with respect to the harmonizer's logits is, on a row where it votes, h − e_vote
(K numbers), and 0 where it abstains. Over n rows that is one vector of n·K numbers a source; as h − e sums to 0 over
the classes, its mean is 0, and the cosine of two such vectors is their correlation. Sources whose gradients
correlate want the harmonizer to change alike: they share their errors, or are right together where it errs.

Source: Zhao et al., "Pareto Optimal Learning for Estimating Large Language Model Errors", arXiv 2306.16564.
"""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch

from training.fit import FitConfig, Voted, fit
from training.pareto import uniform_weights
from training.task import ABSTAIN

RIDGE = 0.01
CHUNK = 16384
NEGLIGIBLE = 1e-6


def gradient_gramian(votes: np.ndarray, h: np.ndarray) -> np.ndarray:
    """Inner products of the sources' gradients with respect to the logits: (m, m) float64.

    One product of matrices a class, over chunks of rows: memory does not grow with the rows.
    votes: (n, m), -1 = abstains. h: (n, K), the harmonizer's probabilities.
    """
    total = np.zeros((votes.shape[1], votes.shape[1]))
    for start in range(0, len(votes), CHUNK):
        said = votes[start : start + CHUNK]
        voted = said != ABSTAIN
        for k in range(h.shape[1]):
            gradient = (voted * h[start : start + CHUNK, k : k + 1] - (said == k)).astype(np.float32)
            total += gradient.T @ gradient
    return total


def correlation(gramian: np.ndarray) -> np.ndarray:
    """Correlations of the sources' gradients: (m, m), 1 on the diagonal; 0, there too, of a source with no gradient."""
    norm = np.sqrt(np.diag(gramian))
    inverse = np.divide(1.0, norm, out=np.zeros_like(norm), where=norm > 0)
    return gramian * inverse[:, None] * inverse[None, :]


def eigenvector(correlations: np.ndarray) -> np.ndarray:
    """In proportion to the dominant eigenvector: a source counts by how much it pulls with the others.

    The eigenvector's sign is such that its sum is positive; a source that pulls against the others, where its part
    is negative, gets 0. Where several directions tie, as when no two sources overlap, the one nearest to uniform is
    taken: the uniform vector, projected onto them. It follows the majority: copies of a source strengthen it.
    correlations: (m, m). Returns (m,), summing to 1.
    """
    values, vectors = np.linalg.eigh(correlations)
    dominant = vectors[:, values >= values[-1] * (1 - NEGLIGIBLE)]
    pull = dominant @ dominant.sum(axis=0)
    return _shares(pull if pull.max() > NEGLIGIBLE else np.diag(correlations))


def minimum_variance(correlations: np.ndarray, ridge: float = RIDGE) -> np.ndarray:
    """The weights w ≥ 0 with Σ w = 1 whose pull on the harmonizer varies least: minimise w'(C + ridge·I)w.

    It rewards what is independent: copies of a source share one weight, equally, for which the ridge sees.
    A source with no gradient, which would have no variance, gets 0. correlations: (m, m). Returns (m,).
    """
    from qpsolvers import solve_qp

    heard = np.flatnonzero(np.diag(correlations) > 0)
    m = len(heard)
    found = np.zeros(len(correlations))
    if m:
        quadratic = correlations[np.ix_(heard, heard)] + ridge * np.eye(m)
        best = solve_qp(quadratic, np.zeros(m), -np.eye(m), np.zeros(m), np.ones((1, m)), np.ones(1), solver="quadprog")
        found[heard] = np.ones(m) if best is None else best
    return _shares(found)


REWEIGHTINGS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "eigenvector": eigenvector,
    "minimum_variance": minimum_variance,
}


def reweighted(rule: str, train: Voted, held_out: Voted, classes: int, config: FitConfig) -> np.ndarray:
    """Pareto weights (m,) by one of the REWEIGHTINGS, from a first fit with uniform weights and `linear`.

    Raises:
        InputError: no source votes on any row to train on.
    """
    fitted = fit(train, held_out, classes, uniform_weights(train.votes.shape[1]), replace(config, scalariser="linear"))
    with torch.inference_mode():
        chunks = torch.from_numpy(train.vectors).split(65536)
        h = torch.cat([fitted.harmonizer(chunk).exp() for chunk in chunks]).numpy()
    return REWEIGHTINGS[rule](correlation(gradient_gramian(train.votes, h)))


def _shares(weights: np.ndarray) -> np.ndarray:
    """At least 0, rounding errors set to 0, summing to 1; uniform if nothing is left."""
    kept = np.where(weights > NEGLIGIBLE * max(weights.max(), 0.0), weights, 0.0).clip(min=0.0)
    return kept / kept.sum() if kept.sum() > 0 else uniform_weights(len(weights))
