"""Gradient-based aggregation: steps along which no objective need rise, by TorchJD.

A scalariser makes one loss of all sources and follows its gradient. An aggregator keeps the objectives apart:
it takes the gradient of each (the Jacobian) and looks for a direction that serves them all. `mgda` takes the
shortest vector in the convex hull of the gradients; `upgrad` projects each gradient onto the directions that
conflict with none, and averages.

An objective is a family of sources, the LLM being in its own: L_g = mean over the rows of Σ_{j in g} w_j ℓ_j, the
weighted mean loss of its sources times the family's Pareto weight, so that Σ_g L_g is the loss of `linear`. Not each
source is one, for three reasons: a step costs one backward pass an objective; a rule that votes once in a hundred
rows is in most batches absent and in the others pure noise, to which the shortest vector would listen most; and the
copies that a family holds are one opinion.

Sources: Désidéri, "Multiple-gradient descent algorithm (MGDA)", 2012; Quinton and Rey, "Jacobian Descent for
Multi-Objective Optimization", arXiv 2406.16232 (UPGrad).
"""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor

from training.pareto import vote_table

if TYPE_CHECKING:
    from torchjd.aggregation import MGDA, UPGrad

MOST_OBJECTIVES = 12


def mgda() -> "MGDA":
    """The shortest vector in the convex hull of the gradients, by Frank and Wolfe's algorithm."""
    from torchjd.aggregation import MGDA

    return MGDA()


def upgrad() -> "UPGrad":
    """The mean of the gradients, each projected onto the cone of the directions that conflict with none."""
    from torchjd.aggregation import UPGrad
    from torchjd.linalg import QuadprogProjector

    return UPGrad(projector=QuadprogProjector(norm_eps=1e-30))  # its default takes small gradients for none


AGGREGATORS: dict[str, Callable[[], "MGDA | UPGrad"]] = {"mgda": mgda, "upgrad": upgrad}


def objectives_of(families: Sequence[str], most: int = MOST_OBJECTIVES) -> np.ndarray:
    """Which objective each source belongs to: (m,) numbers, 0 being that of the LLM, which is the first source.

    One a family, in the order of their first source; with more than `most` families there are two objectives, the
    LLM's family and all the others.
    """
    names = list(dict.fromkeys(families))
    if len(names) > most:
        return np.array([int(family != families[0]) for family in families])
    return np.array([names.index(family) for family in families])


def objective_table(votes: np.ndarray, weights: np.ndarray, classes: int, objectives: np.ndarray) -> np.ndarray:
    """What the votes leave for an aggregator: the summed weight a row, objective and class.

    votes: (n, m), -1 = abstains. weights: (m,). objectives: (m,) numbers 0..G-1. Returns (n, G, classes) float32.
    """
    kinds = range(int(objectives.max()) + 1)
    return np.stack([vote_table(votes[:, objectives == kind], weights[objectives == kind], classes, "sum")
                     for kind in kinds], axis=1)


def objective_losses(table: Tensor, log_h: Tensor) -> Tensor:
    """Each objective's loss, averaged over the rows: (G,), from the table (n, G, K) and log_h (n, K)."""
    return -(table * log_h.unsqueeze(1)).sum(dim=2).mean(dim=0)


def descend(table: Tensor, log_h: Tensor, parameters: Sequence[Tensor], aggregator: "MGDA | UPGrad") -> None:
    """Put the aggregated gradient of the objectives into the `grad` of the parameters, in place of `backward()`.

    An objective without a vote in these rows has no loss and no say: a gradient of zero would be the shortest
    vector. table: (n, G, K). log_h: (n, K), with its graph.
    """
    from torchjd.autojac import backward, jac_to_grad

    heard = (table > 0).any(dim=2).any(dim=0)
    losses = objective_losses(table, log_h)[heard]
    if len(losses):
        backward(losses, inputs=parameters, parallel_chunk_size=1)
        jac_to_grad(parameters, aggregator)
