"""The benchmark: every task of a folder, ours beside the baselines, on the same rows of the test split.

Risks are computed once for each task, method and seed, and kept; measures are means over seeds. Labels are read for
the measures; which methods see any, `training.bench_methods` says.
"""

import hashlib
import importlib.metadata
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from time import perf_counter
from typing import TypedDict

import numpy as np
import pandas as pd

from training import bench_cache
from training.bench_methods import OWN, PAPER, Case, Method
from training.bounds import ece_floor, r2_ceiling
from training.calibration import Measures, measures
from training.encoder import passages
from training.errors import InputError
from training.model import Encode
from training.significance import Gap, auroc_gaps
from training.table import Table, read_table
from training.task import ABSTAIN, Task, read_task

RIVALS = ("majority_vote", "dawid_skene", *PAPER)
"""Whom ours should rank errors no worse than."""

LIBRARIES = ("numpy", "scikit-learn", "torch")


class Bounds(TypedDict):
    """What a perfectly calibrated score would show on a task: the ECE of these risks, the R² with this AUROC.

    The ceiling of R² is told on tasks on which the LLM is wrong on fewer than half of the rows.
    """

    ece_floor: float | None
    r2_ceiling: float | None


@dataclass(frozen=True)
class TaskFound:
    """What one task showed. per_seed: each method's measures by seed. gaps: AUROC of ours minus each rival's."""

    per_seed: dict[str, list[Measures]]
    bounds: dict[str, Bounds]
    gaps: dict[str, Gap]

    @property
    def measures(self) -> dict[str, Measures]:
        """Each method's measures, mean over seeds."""
        return {method: average(found) for method, found in self.per_seed.items()}


@dataclass(frozen=True)
class Kept:
    """Where risks are kept between runs, None for nowhere; fresh: what is there already does not count."""

    folder: Path | None = None
    fresh: bool = False


def run(
    folder: Path,
    encode: Encode,
    seeds: int,
    methods: Sequence[Method],
    kept: Kept = Kept(),
    tell: Callable[[str], None] = lambda line: None,
) -> dict[str, TaskFound]:
    """Every task of a folder; `tell` gets a line for each task and seed.

    Raises:
        InputError: there is no task, or one is at fault.
    """
    found = {}
    for method in methods:
        _code(method)  # of the code as it is now, when it has just been loaded
    for path in find_tasks(folder):
        try:
            found[path.name] = bench_task(path, encode, range(seeds), methods, kept, tell)
        except InputError as error:
            raise InputError(f"{path.name}: {error}") from None
    return found


def find_tasks(folder: Path) -> list[Path]:
    """The task folders in a folder, by name.

    Raises:
        InputError: there is none.
    """
    found = sorted(path.parent for path in folder.glob("*/task.toml")) if folder.is_dir() else []
    if not found:
        raise InputError(f"{folder} holds no task. Expected folders with a task.toml in them.")
    return found


def bench_task(
    folder: Path,
    encode: Encode,
    seeds: Sequence[int],
    methods: Sequence[Method],
    kept: Kept = Kept(),
    tell: Callable[[str], None] = lambda line: None,
) -> TaskFound:
    """Every method that applies, on the rows of a task's test split that have an answer and a label.

    Raises:
        InputError: there is no such row, or none to train on.
    """
    task = read_task(folder)
    table = read_table(task)
    told = (table.splits == "test") & (table.labels != ABSTAIN) & (table.answers != ABSTAIN)
    if not told.any():
        raise InputError(f"{folder} has no labelled answers in split 'test' to measure by.")
    if not (table.splits == "train").any():
        raise InputError(f"{folder} has no row in split 'train'.")
    vectors = encode(passages(table.texts, table.spans))
    applying = [method for method in methods if method.applies(table)]
    common = _key_parts(task, table, vectors)
    risks: dict[str, list[np.ndarray]] = {method.name: [] for method in applying}
    for seed in seeds:
        case, began, computed = Case.of(task, table, vectors, seed), perf_counter(), 0
        for method in applying:
            found, new = _risks(method, case, common, kept)
            risks[method.name].append(found[told])
            computed += new
        tell(f"{folder.name}, seed {seed}: {computed} methods computed, {len(applying) - computed} kept, "
             f"{perf_counter() - began:.1f} s")
    return _judge(risks, (table.answers != table.labels)[told].astype(float))


def average(found: Sequence[Measures]) -> Measures:
    """The mean of each measure over those that could be told; None if none could."""
    frame = pd.DataFrame(found).astype(float)
    mean = {key: None if np.isnan(value) else float(value) for key, value in frame.mean().items()}
    return {**mean, "n": int(frame["n"].mean())}  # type: ignore[typeddict-item]


def mean_over_tasks(tasks: dict[str, dict[str, Measures]]) -> dict[str, Measures]:
    """Each method's mean over the tasks that have it."""
    fullest_first = sorted(tasks.values(), key=len, reverse=True)  # their order is that of the methods
    methods = dict.fromkeys(method for found in fullest_first for method in found)
    return {method: average([found[method] for found in tasks.values() if method in found]) for method in methods}


def _risks(method: Method, case: Case, common: dict[str, object], kept: Kept) -> tuple[np.ndarray, bool]:
    """A method's risks (n,), and whether they had to be computed."""
    n = len(case.table)
    if kept.folder is None:
        return np.asarray(method.risks(case), dtype=np.float64), True
    path = kept.folder / case.task.name / f"{method.name}-{case.seed}.parquet"
    key = bench_cache.key({**common, "method": method.name, "config": asdict(case.config), "code": _code(method)})
    risks = None if kept.fresh else bench_cache.read(path, key, n)
    if risks is not None:
        return risks, False
    risks = np.asarray(method.risks(case), dtype=np.float64)
    bench_cache.write(path, key, risks)
    return risks, True


def _code(method: Method) -> str:
    return bench_cache.code_digest(("table", *method.modules), alone=("bench_methods",))


def _key_parts(task: Task, table: Table, vectors: np.ndarray) -> dict[str, object]:
    """What the risks of every method depend on: data, declaration, vectors (and so their encoder), libraries."""
    return {
        "data": table.digest,
        "task": hashlib.sha256((task.folder / "task.toml").read_bytes()).hexdigest(),
        "vectors": hashlib.sha256(vectors.tobytes()).hexdigest(),
        "libraries": [importlib.metadata.version(name) for name in LIBRARIES],
    }


def _judge(risks: dict[str, list[np.ndarray]], error: np.ndarray) -> TaskFound:
    """From each method's risks (n,) by seed and the errors (n,) of the same rows, what a task shows."""
    per_seed = {method: [measures(risk, error) for risk in found] for method, found in risks.items()}
    bounds: dict[str, Bounds] = {}
    for method, found in risks.items():
        rate, auroc = float(error.mean()), average(per_seed[method])["auroc"]
        bounds[method] = {"ece_floor": float(np.mean([ece_floor(risk) for risk in found])),
                          "r2_ceiling": r2_ceiling(len(error), rate, auroc) if rate < 0.5 else None}
    others = {method: risks[method] for method in RIVALS if method in risks}
    return TaskFound(per_seed, bounds, auroc_gaps(risks[OWN], others, error) if OWN in risks else {})
