"""Does the guarantee hold, and what does it accept? Resampled trials on tasks with gold labels.

The population of a task is its labelled answers of valid and test, with the risks of a model that saw no label. Each
trial draws N of them as `polarscore train --audit N` would, sets the threshold by their labels alone, and is judged
by the error rate of all that the threshold accepts. `shifted` draws from valid, and judges on test.
`believed` is the threshold that supposes a logistic curve of risk: no guarantee, a comparison.

Run: python benchmarks/guarantee.py DIR [--labels 100] [--trials 1000] [--alpha 0.10] [--delta 0.10]
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.table import Table as Grid

from training.audit import cells, order
from training.bench import find_tasks
from training.encoder import passages
from training.fit import FitConfig
from training.guarantee import looks, passed
from training.job import embeddings
from training.learning import learn
from training.recalibration import believed_threshold, posterior
from training.state import State
from training.table import read_table
from training.task import ABSTAIN, read_task
from training.weighting import pareto_weights_of

BELIEVED_TRIALS = 50  # each fits a posterior of its own


def labelled_risks(folder: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Risks, errors and splits of the labelled answers of a task, the risks without a label."""
    task = read_task(folder)
    table = read_table(task)
    vectors = embeddings(State.from_environment())(passages(table.texts, table.spans))
    _, model = learn(task, table, vectors, pareto_weights_of("learned", task, table), FitConfig(seed=0))
    told = (table.labels != ABSTAIN) & (table.answers != ABSTAIN)
    risk = model.score(vectors, table.answers, table.votes).risk
    return risk[told], (table.answers != table.labels)[told].astype(float), table.splits[told]


def hindsight(risk: np.ndarray, error: np.ndarray, alpha: float) -> float:
    """The largest share that a threshold accepts with an error rate of at most alpha."""
    ordered, sums = np.sort(risk), np.cumsum(error[order(risk)])
    held = (sums <= alpha * np.arange(1, len(risk) + 1)) & np.append(ordered[:-1] < ordered[1:], True)
    return float(np.flatnonzero(held).max() + 1) / len(risk) if held.any() else 0.0


def thresholds(
    risk: np.ndarray, error: np.ndarray, n: int, trials: int, alpha: float, delta: float
) -> tuple[np.ndarray, np.ndarray]:
    """The guaranteed thresholds (trials,) and the believed ones of the first trials; -inf where there is none."""
    ordered, wrong = np.sort(risk), error[order(risk)]
    borders, equal = cells(risk, n, alpha)
    sizes = np.diff(borders)
    places = borders[:-1] + (np.random.default_rng(0).random((trials, len(sizes))) * sizes).astype(np.int64)
    ends = borders[1 : equal + 1]
    tested = looks(int(sizes[0]), alpha, delta, ordered[ends - 1] < np.append(ordered, np.inf)[ends])
    tops = np.array([-np.inf, *(ordered[look.cells * sizes[0] - 1] for look in tested)])
    believed = [believed_threshold(posterior(ordered[row], wrong[row]), risk, alpha, delta)
                for row in places[:BELIEVED_TRIALS]]
    return (tops[passed(wrong[places[:, :equal]].astype(np.int64), tested)],
            np.array([-np.inf if top is None else top for top in believed]))


def judged(tops: np.ndarray, risk: np.ndarray, error: np.ndarray, alpha: float) -> tuple[float, float, float]:
    """Mean share accepted, how often the promise is broken, and the standard error of that."""
    ordered, sums = np.sort(risk), np.concatenate([[0], np.cumsum(error[order(risk)])])
    accepted = np.searchsorted(ordered, tops, side="right")
    broken = float((sums[accepted] > alpha * accepted).mean())
    return float(accepted.mean()) / len(risk), broken, float(np.sqrt(broken * (1 - broken) / len(tops)))


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, metavar="DIR")
    for name, kind, default in (("labels", int, 100), ("trials", int, 1000), ("alpha", float, 0.1),
                                ("delta", float, 0.1)):
        parser.add_argument(f"--{name}", type=kind, default=default)
    given = parser.parse_args()
    torch.set_num_threads(1)
    grid = Grid("task", "errors", "hindsight", "share", "ratio", "broken", "believed", "broken", "shifted", "broken")
    shares = []
    for folder in find_tasks(given.folder):
        risk, error, splits = labelled_risks(folder)
        shares.append(_row(grid, folder.name, risk, error, splits, given))
    best, ours, believed = np.mean(shares, axis=0)
    grid.add_section()
    grid.add_row("mean", "", f"{best:.3f}", f"{ours:.3f}", f"{ours / best:.3f}", "", f"{believed / best:.3f}")
    Console(width=130).print(grid)


def _row(
    grid: Grid, name: str, risk: np.ndarray, error: np.ndarray, splits: np.ndarray, given: argparse.Namespace
) -> tuple[float, float, float]:
    whole = splits != "train"
    best = hindsight(risk[whole], error[whole], given.alpha)
    rule = (given.labels, given.trials, given.alpha, given.delta)
    exact, curve = (judged(tops, risk[whole], error[whole], given.alpha)
                    for tops in thresholds(risk[whole], error[whole], *rule))
    valid, test = splits == "valid", splits == "test"
    moved = judged(thresholds(risk[valid], error[valid], *rule)[0], risk[test], error[test], given.alpha)
    ratio = f"{exact[0] / best:.3f}" if best else "–"
    shown = [f"{broken:.3f} ± {width:.3f}" for _, broken, width in (exact, curve, moved)]
    grid.add_row(name, f"{error[whole].mean():.3f}", f"{best:.3f}", f"{exact[0]:.3f}", ratio, shown[0],
                 f"{curve[0]:.3f}", shown[1], f"{moved[0]:.3f}", shown[2])
    return best, exact[0], curve[0]


if __name__ == "__main__":
    main()
