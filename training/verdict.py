"""What a benchmark settles: which claims hold of the figures of one run. Pure.

"Best" is the method with the best mean over tasks for the measure in question.
"""

import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from training.bench import Bounds, TaskFound, mean_over_tasks
from training.bench_methods import OWN, PAPER
from training.calibration import Measures

Aim = tuple[str, float]
RELATIONS = {"at most": operator.le, "below": operator.lt, "at least": operator.ge, "above": operator.gt}

MARGIN = 0.01
"""How far behind in AUROC, on top of one standard error, still passes for level."""


@dataclass(frozen=True)
class Scale:
    """How near R² comes to its ceiling, as means over the tasks where both can be told; ratio: of these means."""

    tasks: int
    r2: float
    ceiling: float

    @property
    def ratio(self) -> float:
        """R² / ceiling."""
        return self.r2 / self.ceiling


@dataclass(frozen=True)
class Duel:
    """Ours against the best of the others on one task; difference: ours minus theirs, in AUROC."""

    against: str
    ours: float
    theirs: float
    difference: float
    standard_error: float | None
    exceeds: bool


@dataclass(frozen=True)
class Claim:
    """A claim and whether it holds; None where the run lacks the methods to tell. against: who was the best."""

    what: str
    value: float | None
    aim: str
    holds: bool | None
    against: str | None = None


def scales(found: Mapping[str, TaskFound]) -> dict[str, Scale]:
    """By method, R² beside its ceiling on the tasks on which the LLM is wrong on fewer than half of the rows."""
    pairs: dict[str, list[tuple[float, float]]] = {}
    for task in found.values():
        for method, value in task.measures.items():
            r2, ceiling = value["r2"], task.bounds[method]["r2_ceiling"]
            if r2 is not None and ceiling is not None:
                pairs.setdefault(method, []).append((r2, ceiling))
    return {method: Scale(len(told), *np.mean(told, axis=0).tolist()) for method, told in pairs.items()}


def mean_floors(found: Mapping[str, TaskFound]) -> dict[str, float]:
    """By method, the mean floor of its ECE over tasks."""
    floors: dict[str, list[float]] = {}
    for task in found.values():
        for method, bounds in task.bounds.items():
            if bounds["ece_floor"] is not None:
                floors.setdefault(method, []).append(bounds["ece_floor"])
    return {method: float(np.mean(told)) for method, told in floors.items()}


def duels(found: Mapping[str, TaskFound]) -> dict[str, Duel]:
    """By task, ours against the one with the highest AUROC there of majority vote, Dawid-Skene and the paper's best."""
    mean = mean_over_tasks({task: value.measures for task, value in found.items()})
    rivals = ["majority_vote", "dawid_skene", best(mean, "auroc", PAPER)]
    met = {}
    for task, value in found.items():
        measures, told = value.measures, [rival for rival in rivals if rival in value.gaps]
        if told:
            against = max(told, key=lambda rival: measures[rival]["auroc"] or 0.0)
            gap = value.gaps[against]
            met[task] = Duel(against, measures[OWN]["auroc"] or 0.0, measures[against]["auroc"] or 0.0, gap.difference,
                             gap.standard_error, gap.behind_by_more_than(MARGIN))
    return met


def best(mean: Mapping[str, Measures], measure: str, methods: Sequence[str]) -> str | None:
    """Which of the methods has the best mean, the lowest ECE or the highest AUROC; None if none has any."""
    told = {method: value for method in methods if (value := _value(mean, method, measure)) is not None}
    choose: Callable = min if measure == "ece" else max
    return choose(told, key=lambda method: told[method]) if told else None


def claims(found: Mapping[str, TaskFound]) -> dict[str, Claim]:
    """The claims that a run is asked about, by name."""
    mean = mean_over_tasks({task: value.measures for task, value in found.items()})
    scale, met = scales(found).get(OWN), duels(found)
    told: dict[str, Claim] = {}
    for name, who, rival, aim in _rivals(mean, "ece", ("at most", 0.6), ("below", 1.0)):
        ours, theirs = _value(mean, OWN, "ece"), _value(mean, rival, "ece")
        ratio = ours / theirs if ours is not None and theirs else None
        told[f"ece_to_{name}"] = _claim(f"mean ECE / that of {who}", ratio, aim, rival)
    for name, who, rival, aim in _rivals(mean, "auroc", ("at least", 0.03), ("above", 0.0)):
        ours, theirs = _value(mean, OWN, "auroc"), _value(mean, rival, "auroc")
        gain = ours - theirs if ours is not None and theirs is not None else None
        told[f"auroc_over_{name}"] = _claim(f"mean AUROC − that of {who}", gain, aim, rival)
    behind = float(sum(duel.exceeds for duel in met.values())) if met else None
    told["auroc_behind"] = _claim(f"tasks behind the best of these by more than {MARGIN} + 1 SE", behind,
                                  ("at most", 0.0))
    told["r2_to_ceiling"] = _claim("mean R² / its ceiling, where the LLM errs on less than half",
                                   scale.ratio if scale else None, ("at least", 0.95))
    for audited, most in ((25, 0.085), (100, 0.06)):
        told[f"ece_audit_{audited}"] = _claim(f"mean ECE with {audited} audited answers",
                                              _value(mean, f"{OWN}_audit_{audited}", "ece"), ("at most", most))
    return told


def as_json(found: Mapping[str, TaskFound]) -> dict[str, Any]:
    """Everything, as `--json` prints it and MLflow keeps it. Measures as everywhere; what is unknown is null."""
    tasks = {task: value.measures for task, value in found.items()}
    floors, scale = mean_floors(found), scales(found)
    return {
        "tasks": tasks,
        "mean": mean_over_tasks(tasks),
        "bounds": {
            "tasks": {task: {method: {**bounds, "r2_ratio": _ratio(tasks[task][method], bounds)}
                             for method, bounds in value.bounds.items()} for task, value in found.items()},
            "mean": {method: {"ece_floor": floor, "r2_tasks": told.tasks if told else 0,
                              "r2": told.r2 if told else None, "r2_ceiling": told.ceiling if told else None,
                              "r2_ratio": told.ratio if told else None}
                     for method, floor in floors.items() for told in [scale.get(method)]},
        },
        "duels": {task: asdict(duel) for task, duel in duels(found).items()},
        "claims": {name: asdict(claim) for name, claim in claims(found).items()},
        "per_seed": {task: value.per_seed for task, value in found.items()},
    }


def _ratio(measures: Measures, bounds: Bounds) -> float | None:
    r2, ceiling = measures["r2"], bounds["r2_ceiling"]
    return r2 / ceiling if r2 is not None and ceiling else None


def _value(mean: Mapping[str, Measures], method: str | None, measure: str) -> float | None:
    return mean[method][measure] if method and method in mean else None  # type: ignore[literal-required]


def _rivals(
    mean: Mapping[str, Measures], measure: str, paper: Aim, votes: Aim
) -> list[tuple[str, str, str | None, Aim]]:
    """Whom ours is held against: its name in a claim and in words, the method, and what is aimed at."""
    return [("paper", "the paper's best", best(mean, measure, PAPER), paper),
            ("majority_vote", "majority vote", "majority_vote", votes),
            ("dawid_skene", "Dawid-Skene", "dawid_skene", votes)]


def _claim(what: str, value: float | None, aim: Aim, against: str | None = None) -> Claim:
    relation, bound = aim
    return Claim(what, value, f"{relation} {bound:g}", None if value is None else RELATIONS[relation](value, bound),
                 against)
