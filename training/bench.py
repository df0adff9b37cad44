"""The benchmark: every task of a folder, ours beside the baselines, on the same rows of the test split.

Labels are read for the measures; `gold` alone trains on them, as the ceiling.
"""

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from training.baselines import dawid_skene, label_model
from training.calibration import Measures, measures
from training.encoder import passages
from training.errors import InputError
from training.fit import FitConfig, Voted, fit
from training.job import learn, pareto_weights_of
from training.model import Encode
from training.pareto import SCALARISERS, uniform_weights
from training.risk import majority_vote_risk, risk
from training.table import Table, read_table
from training.task import ABSTAIN, Task, read_task

Risks = Iterator[tuple[str, np.ndarray]]


def find_tasks(folder: Path) -> list[Path]:
    """The task folders in a folder, by name.

    Raises:
        InputError: there is none.
    """
    found = sorted(path.parent for path in folder.glob("*/task.toml")) if folder.is_dir() else []
    if not found:
        raise InputError(f"{folder} holds no task. Expected folders with a task.toml in them.")
    return found


def bench_task(folder: Path, encode: Encode, seeds: list[int]) -> dict[str, Measures]:
    """Every method's measures on the test split of a task, mean over seeds.

    Raises:
        InputError: the task has no labelled answers in its test split.
    """
    task = read_task(folder)
    table = read_table(task)
    told = (table.splits == "test") & (table.labels != ABSTAIN) & (table.answers != ABSTAIN)
    if not told.any():
        raise InputError(f"{folder} has no labelled answers in split 'test' to measure by.")
    error = (table.answers != table.labels)[told].astype(float)
    vectors = encode(passages(table.texts, table.spans))
    runs = [{method: measures(found[told], error) for method, found in _all_risks(task, table, vectors, seed)}
            for seed in seeds]
    return {method: average([run[method] for run in runs]) for method in runs[0]}


def average(found: list[Measures]) -> Measures:
    """The mean of each measure over those that could be told; None if none could."""
    frame = pd.DataFrame(found).astype(float)
    mean = {key: None if np.isnan(value) else float(value) for key, value in frame.mean().items()}
    return {**mean, "n": int(frame["n"].mean())}  # type: ignore[typeddict-item]


def _all_risks(task: Task, table: Table, vectors: np.ndarray, seed: int) -> Risks:
    """The risks (n,) of all rows by each method."""
    votes = np.column_stack([table.answers, table.votes])
    train = table.splits == "train"
    classes = len(table.classes)
    if np.isfinite(table.confidence).any():
        yield "llm_confidence", np.where(table.answers == ABSTAIN, np.nan, 1 - table.confidence)
    yield "majority_vote", majority_vote_risk(table.answers, table.votes)
    yield "dawid_skene", risk(dawid_skene(votes[train], classes).posterior(votes), table.answers)
    yield "label_model", risk(label_model(votes[train], classes, seed=seed).posterior(votes), table.answers)
    yield "distilled", _network_risk(table, vectors, table.answers[:, None], FitConfig(seed=seed))
    for scalariser in SCALARISERS:
        yield f"paper_{scalariser}", _network_risk(table, vectors, votes, FitConfig(scalariser=scalariser, seed=seed))
    _, model = learn(task, table, vectors, pareto_weights_of("family", task, table), FitConfig(seed=seed))
    yield "polarscore", model.score(vectors, table.answers, table.votes).risk
    yield "polarscore_no_votes", model.score(vectors, table.answers, np.full_like(table.votes, ABSTAIN)).risk
    if (table.labels[train] != ABSTAIN).any():
        yield "gold", _network_risk(table, vectors, table.labels[:, None], FitConfig(seed=seed))


def _network_risk(table: Table, vectors: np.ndarray, votes: np.ndarray, config: FitConfig) -> np.ndarray:
    """1 − h(x)[a] of a harmonizer fitted to these votes (n, m) with uniform weights, as the paper has it."""
    train, valid = table.splits == "train", table.splits == "valid"
    fitted = fit(Voted(vectors[train], votes[train]), Voted(vectors[valid], votes[valid]), len(table.classes),
                 uniform_weights(votes.shape[1]), config)
    with torch.inference_mode():
        return risk(fitted.harmonizer(torch.from_numpy(vectors)).exp().numpy(), table.answers)


def mean_over_tasks(tasks: dict[str, dict[str, Measures]]) -> dict[str, Measures]:
    """Each method's mean over the tasks that have it."""
    methods = dict.fromkeys(method for found in tasks.values() for method in found)
    return {method: average([found[method] for found in tasks.values() if method in found]) for method in methods}


def run(
    folder: Path, encode: Encode, seeds: int, done: Callable[[str, dict[str, Measures]], None]
) -> dict[str, dict[str, Measures]]:
    """Every task of a folder; `done` is told of each as it is finished."""
    found = {}
    for path in find_tasks(folder):
        try:
            found[path.name] = bench_task(path, encode, list(range(seeds)))
        except InputError as error:
            raise InputError(f"{path.name}: {error}") from None
        done(path.name, found[path.name])
    return found
