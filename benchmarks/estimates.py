"""Is the error rate estimated right, from few labels that were chosen by risk, and from none?

Replays: of the labelled answers of a task, with the risks of a model that saw no label, 5 % are drawn to be checked,
1,000 times over, by the product's own design and with probabilities ∝ risk (mixed with a share for all). Each time the
error rate is estimated from those labels: its mean error, how often the 95 % interval holds the truth, its mean width,
and beside it the estimate without risks and the naive mean of the labels.

Without labels: the estimate beside the truth, of the LLM as it is, and of one that errs half as often again (as many
right answers replaced by a random other class).

Run: python benchmarks/estimates.py [--bench DIR] [--replays 1000] [--share 0.05]
"""

import argparse
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from rich.console import Console
from rich.table import Table as Grid

from monitoring.estimation import error_rate, weighted_error_rate
from monitoring.sampling import UNIFORM, pull, scale_of, systematic
from monitoring.unlabelled import error_rate_unlabelled
from training.bench import find_tasks
from training.encoder import passages
from training.fit import FitConfig
from training.job import embeddings
from training.learning import learn
from training.model import RiskModel
from training.state import State
from training.table import Table, read_table
from training.task import ABSTAIN, read_task
from training.weighting import pareto_weights_of

REPLAYED = ("health_advice_gpt4", "health_advice_gpt35", "media_bias", "trec")
SHARE_FOR_ALL = 0.3  # of the design ∝ risk
DESIGNS = {
    "ours": lambda risk: pull(risk, UNIFORM),
    "∝ risk": lambda risk: SHARE_FOR_ALL + (1 - SHARE_FOR_ALL) * risk / risk.mean(),
}
WORSE = 0.5


@dataclass(frozen=True)
class Case:
    """A task, the vectors of its texts, and a version trained without a label."""

    name: str
    table: Table
    vectors: np.ndarray
    model: RiskModel

    def frame(self, answers: np.ndarray, rows: np.ndarray) -> pd.DataFrame:
        """What monitoring sees of some rows, if the LLM had given these answers (n,), and their errors."""
        table = self.table
        scores = self.model.score(self.vectors[rows], answers[rows], table.votes[rows])
        return pd.DataFrame({"risk": scores.risk, "answer": answers[rows],
                             "harmonizer_answer": scores.harmonizer_answers,
                             "error": (answers != table.labels)[rows].astype(float)})

    def told(self, test: bool) -> np.ndarray:
        """Which labelled answers to measure by: of split test, or of train and valid."""
        table = self.table
        return np.flatnonzero((table.labels != ABSTAIN) & (table.answers != ABSTAIN)
                              & ((table.splits == "test") == test))


def case_of(folder: Path) -> Case:
    """Train the version of a task."""
    task = read_task(folder)
    table = read_table(task)
    vectors = embeddings(State.from_environment())(passages(table.texts, table.spans))
    model = learn(task, table, vectors, pareto_weights_of("learned", task, table), FitConfig(seed=0))[1]
    return Case(folder.name, table, vectors, model)


def replayed(risk: np.ndarray, error: np.ndarray, pulls: np.ndarray, budget: int, replays: int) -> np.ndarray:
    """(replays, 7): the estimate, its low and high, the same three without risks, and the naive mean."""
    probability = np.minimum(1.0, scale_of(pulls, budget) * pulls)
    found = np.empty((replays, 7))
    for replay in range(replays):
        drawn = systematic(probability, risk, np.random.default_rng(replay))
        seen = np.full(len(risk), np.nan)
        seen[drawn] = error[drawn]
        frame = pd.DataFrame({"risk": risk, "error": seen, "probability": probability})
        ours, plain = error_rate(frame), weighted_error_rate(frame)
        found[replay] = (ours.value, ours.low, ours.high, plain.value, plain.low, plain.high, error[drawn].mean())
    return found


def judged(found: np.ndarray, truth: float) -> tuple[str, ...]:
    """Bias, root mean square, coverage and width of an estimate (replays, 3)."""
    off, low, high = found[:, 0] - truth, found[:, 1], found[:, 2]
    covered = ((low <= truth + 1e-12) & (truth <= high + 1e-12)).mean()
    return (f"{off.mean():+.4f}", f"{np.sqrt((off**2).mean()):.3f}", f"{covered:.1%}", f"{(high - low).mean():.3f}")


def show_replays(cases: list[Case], replays: int, share: float, console: Console) -> None:
    """The table of the replays."""
    grid = Grid("task", "answers", "labels", "truth", "design", "bias", "rms", "covered", "width",
                "no risks: bias", "rms", "covered", "width", "naive: bias")
    for split in ("test", "all"):
        for case in cases:
            rows = case.told(True) if split == "test" else np.concatenate([case.told(False), case.told(True)])
            frame = case.frame(case.table.answers, rows)
            risk, error = frame["risk"].to_numpy(), frame["error"].to_numpy()
            budget, truth = round(share * len(risk)), float(error.mean())
            for design, pulls in DESIGNS.items():
                found = replayed(risk, error, pulls(risk), budget, replays)
                grid.add_row(f"{case.name}, {split}", f"{len(risk):,}", str(budget), f"{truth:.3f}", design,
                             *judged(found[:, :3], truth), *judged(found[:, 3:6], truth),
                             f"{found[:, 6].mean() - truth:+.3f}")
        grid.add_section()
    console.print(grid)


def changed(case: Case, rows: np.ndarray) -> np.ndarray:
    """The answers (n,) of an LLM that errs half as often again on these rows, where it is right often enough."""
    generator, answers = np.random.default_rng(0), case.table.answers.copy()
    right = rows[(answers == case.table.labels)[rows]]
    n = min(round(WORSE * (len(rows) - len(right))), len(right))
    chosen, classes = generator.choice(right, n, replace=False), len(case.table.classes)
    answers[chosen] = (answers[chosen] + generator.integers(1, classes, n)) % classes
    return answers


def show_unlabelled(cases: list[Case], console: Console) -> None:
    """The table of the estimates without labels."""
    grid = Grid("task, split", *(f"{head}{name}" for head in ("", "half worse: ") for name in (
        "truth", "estimate", "off", "mean risk off")))
    for test in (False, True):
        split, gaps = "test" if test else "train, valid", []
        for case in cases:
            rows, shown = case.told(test), []
            reference = case.frame(case.table.answers, np.flatnonzero(case.table.splits != "test"))
            for answers in (case.table.answers, changed(case, rows)):
                frame = case.frame(answers, rows)
                truth, value = frame["error"].mean(), error_rate_unlabelled(frame, reference).value
                shown += [truth, value, value - truth, frame["risk"].mean() - truth]
            if shown[0] < 0.5:
                gaps.append(shown)
            grid.add_row(f"{case.name}, {split}", *(f"{one:+.3f}" if place % 4 > 1 else f"{one:.3f}"
                                                    for place, one in enumerate(shown)))
        mean = np.abs(gaps).mean(axis=0)
        grid.add_row(f"mean of {len(gaps)} below 1/2, size", *(f"{one:.3f}" if place % 4 > 1 else ""
                                                              for place, one in enumerate(mean)))
        grid.add_section()
    console.print(grid)


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bench", type=Path, default=Path("../shared/bench"), metavar="DIR")
    parser.add_argument("--replays", type=int, default=1000)
    parser.add_argument("--share", type=float, default=0.05)
    given = parser.parse_args()
    torch.set_num_threads(1)
    console = Console(width=190)
    cases = [case_of(folder) for folder in find_tasks(given.bench)]
    show_unlabelled(cases, console)
    show_replays([case for case in cases if case.name in REPLAYED], given.replays, given.share, console)


if __name__ == "__main__":
    main()
