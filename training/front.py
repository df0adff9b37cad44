"""The Pareto front between groups of sources: what is on it, its hypervolume, and a choice on it. Pure.

Each point is a harmonizer, fitted with Pareto weights that state a preference over the objectives (`training.sweep`);
an objective is the mean loss a vote of a group of sources, held out. No label is involved.

Losses are compared with those of the uniform prediction, log K a vote for every objective: that is the reference
point of the hypervolume, which makes it comparable between versions.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np

MOST_POINTS = 15


@dataclass(frozen=True)
class Point:
    """One fit: its preference (G,) over the objectives, Pareto weights (m,) and held-out losses (G,) in nats a vote."""

    preference: np.ndarray
    weights: np.ndarray
    losses: np.ndarray
    dominated: bool


@dataclass(frozen=True)
class Front:
    """The points of a sweep, and which of them was chosen, and why.

    reference: log K. hypervolume: what the points dominate, as a share of the box between losses of 0 and log K.
    """

    objectives: tuple[str, ...]
    points: tuple[Point, ...]
    reference: float
    hypervolume: float
    chosen: int
    reason: str

    @property
    def weights(self) -> np.ndarray:
        """The Pareto weights (m,) of the chosen point."""
        return self.points[self.chosen].weights

    def as_dict(self, sources: Sequence[str]) -> dict[str, Any]:
        """For JSON: every point with its preference and losses by objective, and its Pareto weights by source."""
        named = [{"preference": dict(zip(self.objectives, point.preference.tolist(), strict=True)),
                  "losses": dict(zip(self.objectives, point.losses.tolist(), strict=True)),
                  "dominated": point.dominated, "chosen": number == self.chosen,
                  "weights": dict(zip(sources, point.weights.tolist(), strict=True))}
                 for number, point in enumerate(self.points)]
        return {"objectives": list(self.objectives), "reference": self.reference, "hypervolume": self.hypervolume,
                "chosen": self.chosen, "reason": self.reason, "points": named}


def directions(objectives: int, most: int = MOST_POINTS) -> np.ndarray:
    """Preferences spread evenly over the simplex, about `most` of them: (p, objectives), each summing to 1.

    For two objectives eleven steps from one to the other. For more, the finest lattice of at most `most` points (Das
    and Dennis) and its centre; where that has the corners alone, the points half-way to them from the centre, too.
    """
    steps = 10 if objectives == 2 else max(
        (h for h in range(1, most) if math.comb(h + objectives - 1, h) <= most), default=1)
    bars = combinations(range(steps + objectives - 1), objectives - 1)
    lattice = np.array([np.diff([-1, *places, steps + objectives - 1]) - 1 for places in bars]) / steps
    centre = np.full((1, objectives), 1 / objectives)
    half_way = (lattice + centre) / 2 if steps == 1 else lattice[:0]
    inside = lattice[:0] if np.isclose(lattice, centre).all(axis=1).any() else centre
    return np.concatenate([lattice, half_way, inside])


def non_dominated(losses: np.ndarray) -> np.ndarray:
    """Which points (p, G) are on the front: no other is at most as large in every objective and smaller in one."""
    no_worse = (losses[:, None] <= losses[None]).all(axis=2)
    better = (losses[:, None] < losses[None]).any(axis=2)
    return np.logical_not((no_worse & better).any(axis=0))


def hypervolume(losses: np.ndarray, reference: np.ndarray) -> float:
    """The volume that the points (p, G) dominate, up to the reference (G,): exact, for a few points.

    The box of each point less what the points after it dominate of that box (While et al., 2012, WFG).
    """
    inside = losses[(losses < reference).all(axis=1)]
    inside = inside[non_dominated(inside)]
    total = 0.0
    for number, point in enumerate(inside):
        total += float(np.prod(reference - point))
        if number + 1 < len(inside):
            total -= hypervolume(np.maximum(inside[number + 1 :], point), reference)
    return total


def choose(losses: np.ndarray) -> int:
    """The point on the front (of p) closest to the ideal one, which has the smallest loss in every objective.

    Each objective is measured by its range over the front, from its best there to its worst, so that neither its
    scale nor how well it can be met at all decides, but what each side still gives up. (A product of gains over the
    uniform prediction, Nash's solution, protects whoever is met worst: the poorer a side, the more it is heard.)
    A front of one point is its own ideal. Of equals the one with the smallest mean loss.
    Source: compromise programming, Zeleny, "Multiple Criteria Decision Making", 1982.
    """
    on_front = np.flatnonzero(non_dominated(losses))
    kept = losses[on_front]
    ideal, span = kept.min(axis=0), np.ptp(kept, axis=0)
    given_up = (kept - ideal) / np.where(span > 0, span, 1.0)
    distance = np.linalg.norm(given_up, axis=1).round(9)
    return int(on_front[np.lexsort((kept.mean(axis=1), distance))[0]])


def front_of(
    names: Sequence[str], preferences: np.ndarray, weights: np.ndarray, losses: np.ndarray, classes: int
) -> Front:
    """The front of a sweep's p points: preferences and losses (p, G), Pareto weights (p, m)."""
    reference = math.log(classes)
    best, chosen = non_dominated(losses), choose(losses)
    told = ", ".join(f"{name} {loss:.3f}" for name, loss in zip(names, losses[chosen], strict=True))
    ideal = ", ".join(f"{loss:.3f}" for loss in losses[best].min(axis=0))
    reason = (f"Of {len(best)} points, {best.sum()} of them dominated by no other, this one is the closest to the "
              "ideal point, each objective measured by its range on the front: held-out losses a vote of "
              f"{told}, where the smallest are {ideal}, and the uniform prediction has {reference:.3f}. "
              "No label was used.")
    points = tuple(Point(preference, each, loss, not kept) for preference, each, loss, kept
                   in zip(preferences, weights, losses, best.tolist(), strict=True))
    volume = hypervolume(losses, np.full(len(names), reference)) / reference ** len(names)
    return Front(tuple(names), points, reference, volume, chosen, reason)
