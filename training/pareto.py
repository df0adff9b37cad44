"""Pareto optimisation of all sources at once: losses, scalarisers and their Pareto weights. Pure.

Notation: n rows, m sources (the LLM is one of them), K classes; `log_h` (n, K) is the harmonizer's
log-probability of each class; source j's loss on a row is ℓ_j = −log h[λ_j], and 0 where it abstains.

All sources that vote for a class on a row have the same loss there. So each scalariser G(w_0 ℓ_0, …)
needs of the m votes only one number a class, the `vote_table` (n, K), and an optimiser's step costs the
same for two sources as for two hundred.

Source: Zhao et al., "Pareto Optimal Learning for Estimating Large Language Model Errors", arXiv 2306.16564.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor


class Scalariser(NamedTuple):
    """G, in two steps: which number a class the votes leave, and the loss (n,) from those numbers.

    gather: "sum" of weight, "square" (sum of squared weights) or "max" over the sources that voted for it.
    combine: from the table (n, K) and ℓ (n, K), one value of G a row.
    """

    gather: str
    combine: Callable[[Tensor, Tensor], Tensor]
    formula: str


def linear(table: Tensor, losses: Tensor) -> Tensor:
    """Σ_j w_j ℓ_j."""
    return (table * losses).sum(dim=1)


def quadratic(table: Tensor, losses: Tensor) -> Tensor:
    """(Σ_j w_j ℓ_j)²."""
    return linear(table, losses).square()


def euclidean(table: Tensor, losses: Tensor) -> Tensor:
    """√Σ_j (w_j ℓ_j)², with gradient 0 where the sum is 0 (all abstain, or all are met exactly)."""
    squared = (table * losses.square()).sum(dim=1)
    zero = squared == 0
    return torch.where(zero, 0.0, torch.where(zero, 1.0, squared).sqrt())


def chebyshev(table: Tensor, losses: Tensor) -> Tensor:
    """max_j w_j ℓ_j."""
    return (table * losses).amax(dim=1)


SCALARISERS: dict[str, Scalariser] = {
    "linear": Scalariser("sum", linear, "Σ w ℓ"),
    "quadratic": Scalariser("sum", quadratic, "(Σ w ℓ)²"),
    "euclidean": Scalariser("square", euclidean, "√Σ (w ℓ)²"),
    "chebyshev": Scalariser("max", chebyshev, "max w ℓ"),
}


def vote_table(votes: np.ndarray, weights: np.ndarray, classes: int, gather: str) -> np.ndarray:
    """What the votes leave for a scalariser: one number a row and class, 0 where nobody voted for it.

    votes: (n, m), -1 = abstains. weights: (m,), at least 0. Returns (n, classes) float32.
    """
    if weights.shape != (votes.shape[1],) or not (np.isfinite(weights) & (weights >= 0)).all():
        raise ValueError(f"Pareto weights should be {votes.shape[1]} finite numbers, none below 0.")
    table = np.zeros((len(votes), classes), dtype=np.float32)
    for k in range(classes):
        said = votes == k
        match gather:
            case "sum":
                table[:, k] = said @ weights
            case "square":
                table[:, k] = said @ weights**2
            case "max":
                table[:, k] = np.max(said * weights, axis=1, initial=0.0)
            case _:
                raise ValueError(f"gather should be sum, square or max. Found '{gather}'.")
    return table


def uniform_weights(sources: int) -> np.ndarray:
    """Every source counts the same, 1/m each: (m,), summing to 1."""
    return np.full(sources, 1.0 / sources)


def family_weights(families: Sequence[str]) -> np.ndarray:
    """Uniform, but the LLM, which is the first source, shares one weight with the sources of its own family.

    Those are the LLM asked differently: counted one by one they would outvote everybody with its own errors.
    families: m names. Returns (m,), summing to 1.
    """
    own = np.array([family == families[0] for family in families])
    weights = np.where(own, 1 / own.sum(), 1.0)
    return weights / weights.sum()


def source_losses(votes: np.ndarray, log_h: np.ndarray) -> np.ndarray:
    """Each source's mean loss over all rows, abstentions counting 0: (m,)."""
    total = np.zeros(votes.shape[1])
    for k in range(log_h.shape[1]):
        total -= log_h[:, k] @ (votes == k)
    return total / max(len(votes), 1)
