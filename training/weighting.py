"""Pareto weights by source: given, or by one of the rules. Uses no label."""

import json
import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from training.errors import InputError
from training.fit import FitConfig, Voted
from training.front import Front
from training.pareto import family_weights, uniform_weights
from training.reweighting import REWEIGHTINGS, reweighted
from training.selection import held_out, some
from training.sweep import CHOSEN_ON, fronts
from training.table import Table
from training.task import LLM, Task
from training.transformer import KIND as TRANSFORMER
from training.worth import Worth, from_votes, learned_weights

FRONT = "front"
FITTED = (*REWEIGHTINGS, FRONT)
RULES = ("learned", "uniform", "family", *FITTED)


def read_weights(path: Path) -> dict[str, float]:
    """Pareto weights as JSON: `{"LLM": 1.0, "source": 0.5, …}`, the form that a run logs.

    Raises:
        InputError: the file is missing, no JSON object, or holds something else than numbers of at least 0.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}.") from None
    except (json.JSONDecodeError, UnicodeDecodeError):
        raise InputError(f"{path} is not JSON. Expected an object of source and weight.") from None
    if not isinstance(content, dict):
        raise InputError(f"{path} should hold an object of source and weight.")
    for name, value in content.items():
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or value < 0:
            raise InputError(f"{path}: the weight of '{name}' should be a finite number of at least 0.")
    return {name: float(value) for name, value in content.items()}


def pareto_weights_of(given: Mapping[str, float] | str, task: Task, table: Table) -> dict[str, float]:
    """Pareto weights by source, the LLM first, as given, or learned from the votes, uniform, or by family.

    Raises:
        InputError: an unknown rule, a source that the task lacks, one without a weight, or all weights 0.
    """
    names = [LLM, *(source.name for source in table.sources)]
    if given == "uniform":
        return dict(zip(names, uniform_weights(len(names)).tolist(), strict=True))
    if given == "family":
        return dict(zip(names, family_weights(families_of(task, table)).tolist(), strict=True))
    if given == "learned":
        train = some(held_out(table)[0], 0)
        votes = np.column_stack([table.answers, table.votes])[train]
        return dict(zip(names, learned_weights(worth_of_votes(task, table, train), votes).tolist(), strict=True))
    if isinstance(given, str):
        raise InputError(f"the Pareto weights '{given}' are unknown. Expected {', '.join(RULES)}, a JSON file or "
                         "models:/NAME/VERSION.")
    if strange := given.keys() - set(names):
        raise InputError(f"the Pareto weights name the source '{min(strange)}', which the task lacks.")
    if missing := [name for name in names if name not in given]:
        raise InputError(f"the Pareto weights lack the source '{missing[0]}'. Give 0 to leave a source out.")
    if not sum(given.values()):
        raise InputError("the Pareto weights are all 0.")
    return {name: given[name] for name in names}


def fitted_weights(
    rule: str, task: Task, table: Table, vectors: np.ndarray, config: FitConfig
) -> tuple[dict[str, float], dict[str, Front]]:
    """Pareto weights by a rule that fits first, and the fronts that were traced. Uses no label.

    `eigenvector` and `minimum_variance` are in `training.reweighting`; `front` takes the point chosen on the front
    between the LLM and the other sources, and the weights by family where there are no two sides to trace it between.
    The fits are of small networks on the vectors (n, width), in a transformer's place of an `mlp`.
    """
    if config.harmonizer == TRANSFORMER:
        config = replace(config, harmonizer="mlp")
    names = [LLM, *(source.name for source in table.sources)]
    votes = np.column_stack([table.answers, table.votes])
    train, held = (Voted(vectors[rows], votes[rows]) for rows in held_out(table))
    if rule != FRONT:
        found = reweighted(rule, train, held, len(table.classes), config)
        return dict(zip(names, found.tolist(), strict=True)), {}
    traced = fronts(families_of(task, table), train, held, len(table.classes), config)
    if CHOSEN_ON not in traced:
        return pareto_weights_of("family", task, table), traced
    return dict(zip(names, traced[CHOSEN_ON].weights.tolist(), strict=True)), traced


def families_of(task: Task, table: Table) -> list[str]:
    """The family of each source, the LLM first."""
    return [task.task.llm_family, *(source.family for source in table.sources)]


def worth_of_votes(task: Task, table: Table, rows: np.ndarray) -> Worth:
    """What the votes on some rows are worth, by these alone."""
    votes = np.column_stack([table.answers, table.votes])[rows]
    return from_votes(votes, families_of(task, table), len(table.classes))
