"""A task replayed as production traffic: rows drawn again and again, scored as the service would, with drifts put in.

A drift changes what comes: which rows are drawn (`Drawing`), or what the LLM and the sources say of them (`Change`).
Whatever it changes, the model scores anew what came, so its risks follow as far as they would in production.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pandas as pd

from monitoring.tally import VOTE, Tally, tallies, tally
from training.beliefs import beliefs_in
from training.bench import find_tasks
from training.encoder import passages
from training.fit import FitConfig
from training.job import embeddings, monitoring_frame
from training.learning import learn
from training.model import RiskModel
from training.state import State
from training.table import Table, read_table
from training.task import ABSTAIN, read_task
from training.weighting import pareto_weights_of

A_DAY = 200  # answers
BLOCK = 50  # answers between two looks
START = datetime(2026, 1, 1, tzinfo=UTC)

Rng = np.random.Generator


@dataclass(frozen=True)
class Replayed:
    """A task and the model that was trained on it without a label. pool: the rows that traffic is drawn from.

    vectors: (n, width) of the texts. beliefs: (n, K), the harmonizer's. reference: of the training answers.
    """

    name: str
    model: RiskModel
    table: Table
    vectors: np.ndarray
    beliefs: np.ndarray
    pool: np.ndarray
    reference: Tally

    @property
    def errors(self) -> np.ndarray:
        """Of all rows (n,), whether the LLM was wrong."""
        return (self.table.answers != self.table.labels).astype(float)


@dataclass(frozen=True)
class Come:
    """Answers that came, in order. rows: of the task. answers: (n,) the LLM's. votes: (n, m)."""

    rows: np.ndarray
    answers: np.ndarray
    votes: np.ndarray


Drawing = Callable[[Replayed, Rng], np.ndarray]
"""The weight of each of the pool's rows to be drawn after the change; before it, all weigh the same."""

Change = Callable[[Replayed, Come, Rng], Come]
"""What the LLM and the sources say after the change, of rows that were drawn."""


@dataclass(frozen=True)
class Drift:
    """What changes, from one answer on: which rows come, or what is said of them."""

    drawing: Drawing | None = None
    change: Change | None = None


def traffic(task: Replayed, before: int, after: int, drift: Drift, rng: Rng) -> pd.DataFrame:
    """The frame (`scored`) of so many answers before a drift, and after it."""
    later = draw(task, after, rng, drift.drawing)
    if drift.change:
        later = drift.change(task, later, rng)
    return scored(task, joined([draw(task, before, rng), later]))


def replayed(folder: Path) -> Replayed:
    """Train on a task, without a label. One random half of its labelled answers is the pool, the other the reference.

    So what comes before a drift is like the reference but for chance, whatever the task's own splits are like.
    """
    task = read_task(folder)
    table = read_table(task)
    vectors = embeddings(State.from_environment().prepare())(passages(table.texts, table.spans))
    _, model = learn(task, table, vectors, pareto_weights_of("learned", task, table), FitConfig(seed=0))
    beliefs = beliefs_in(model.harmonizer, vectors)
    frame = monitoring_frame(table, model.judge(beliefs, table.answers, table.votes))
    told = np.flatnonzero((table.labels != ABSTAIN) & (table.answers != ABSTAIN))
    halves = np.array_split(np.random.default_rng(0).permutation(told), 2)
    return Replayed(folder.name, model, table, vectors, beliefs, halves[0], tally(frame.iloc[halves[1]]))


def all_replayed(folder: Path, names: list[str]) -> list[Replayed]:
    """The tasks of a folder that are named, in that order."""
    tasks = {path.name: path for path in find_tasks(folder)}
    return [replayed(tasks[name]) for name in names]


def draw(task: Replayed, n: int, rng: Rng, drawing: Drawing | None = None) -> Come:
    """n answers drawn from the pool with replacement."""
    weights = None
    if drawing:
        weights = drawing(task, rng)
        weights = weights / weights.sum()
    rows = rng.choice(task.pool, n, p=weights)
    return Come(rows, task.table.answers[rows].copy(), task.table.votes[rows].copy())


def joined(parts: list[Come]) -> Come:
    """One after the other."""
    return Come(*(np.concatenate([getattr(part, name) for part in parts]) for name in ("rows", "answers", "votes")))


def scored(task: Replayed, come: Come, start: datetime = START) -> pd.DataFrame:
    """The frame of what came, one every 24 h / 200, as `Store.frame` would give it with votes, all of it labelled."""
    table = task.table.rows(come.rows)
    table = type(table)(**{**vars(table), "answers": come.answers, "votes": come.votes})
    frame = monitoring_frame(table, task.model.judge(task.beliefs[come.rows], come.answers, come.votes))
    moments = pd.Timestamp(start) + pd.to_timedelta(np.arange(len(frame)) * (86_400 // A_DAY), "s")
    known = come.answers != ABSTAIN
    error = np.where(known, come.answers != table.labels, np.nan)
    votes = [column for column in frame if column.startswith(VOTE)]
    frame = frame.drop(columns=votes).join(pd.DataFrame(frame[votes].to_numpy(object), columns=votes, dtype=object))
    return frame.assign(
        score_id=[f"{place:07d}" for place in range(len(frame))], created_at=moments.as_unit("us"),
        labelled_at=moments.as_unit("us"), error=error.astype(float), chosen="all", probability=1.0, disputed=False)


def blocks(frame: pd.DataFrame, size: int = BLOCK) -> list[tuple[datetime, Tally]]:
    """Tallies of a frame, one for every `size` answers, at the moment of the first of them."""
    group = np.arange(len(frame)) // size
    moments = frame["created_at"].iloc[::size].dt.to_pydatetime()
    return list(zip(moments, tallies(frame, group, int(group[-1]) + 1), strict=True))


def answers_until(moment: datetime | None, start: datetime = START) -> float:
    """How many answers had come at a moment, inf for none."""
    return np.inf if moment is None else (moment - start) / timedelta(seconds=86_400 / A_DAY) + 1


# --- drifts -----------------------------------------------------------------------------------------------------


def errors_up(factor: float) -> Drawing:
    """Wrong answers are drawn so much more often that the error rate is `factor` times as high; risks follow."""
    def weights(task: Replayed, rng: Rng) -> np.ndarray:
        error = task.errors[task.pool]
        rate = error.mean()
        wanted = min(factor * rate, 0.99)
        return np.where(error == 1, wanted / rate, (1 - wanted) / (1 - rate))

    return weights


def errors_up_unseen(factor: float) -> Drawing:
    """The same, but among answers of about the same risk, so that the risks stay as they were."""
    def weights(task: Replayed, rng: Rng) -> np.ndarray:
        rows = task.pool
        risk = task.model.judge(task.beliefs[rows], task.table.answers[rows], task.table.votes[rows]).risk
        error = task.errors[rows]
        group = np.argsort(np.argsort(risk, kind="stable"), kind="stable") * 10 // len(risk)
        rate = np.bincount(group, error, 10) / np.bincount(group, minlength=10)
        shift = _shift_for(rate, np.bincount(group, minlength=10), factor)
        wanted = np.clip(shift(rate), 0, 1)[group]
        rate = rate[group]
        return np.where(error == 1, wanted / np.maximum(rate, 1e-9), (1 - wanted) / np.maximum(1 - rate, 1e-9))

    return weights


def _shift_for(rate: np.ndarray, n: np.ndarray, factor: float) -> Callable[[np.ndarray], np.ndarray]:
    """The odds of an error times what makes the mean rate `factor` times as high."""
    target, low, high = min(factor * (rate @ n) / n.sum(), 0.99), 1.0, 1e4
    for _ in range(60):
        odds = np.sqrt(low * high)
        low, high = (odds, high) if (_by_odds(rate, odds) @ n) / n.sum() < target else (low, odds)
    return lambda values: _by_odds(values, low)


def _by_odds(rate: np.ndarray, odds: float) -> np.ndarray:
    return odds * rate / (1 - rate + odds * rate)


def class_shift(task: Replayed, rng: Rng) -> np.ndarray:
    """Of the true classes, the rarer ones come as often as the most frequent one did, and that as rarely as they."""
    labels = task.table.labels[task.pool]
    counts = np.bincount(labels, minlength=len(task.table.classes)).astype(float)
    order = np.argsort(counts)
    wanted = np.empty_like(counts)
    wanted[order] = counts[order[::-1]]
    return (wanted / np.maximum(counts, 1))[labels]


def new_topics(task: Replayed, rng: Rng) -> np.ndarray:
    """Only the fifth of the texts that is farthest from the mean of the training texts still comes."""
    mean = task.vectors[task.table.splits == "train"].mean(axis=0)
    near = task.vectors[task.pool] @ mean
    return (near <= np.quantile(near, 0.2)).astype(float)


def changed_llm(factor: float) -> Change:
    """Right answers are replaced by a wrong class until the error rate is `factor` times as high."""
    def change(task: Replayed, come: Come, rng: Rng) -> Come:
        labels, classes = task.table.labels[come.rows], len(task.table.classes)
        right = come.answers == labels
        rate = 1 - right.mean()
        spoiled = right & (rng.random(len(right)) < (factor - 1) * rate / max(1 - rate, 1e-9))
        other = (labels + rng.integers(1, classes, len(labels))) % classes
        return Come(come.rows, np.where(spoiled, other, come.answers), come.votes)

    return change


def broken_source(how: str) -> Change:
    """One source that votes on 10 % or more of the answers falls `silent`, says `one class`, or votes at `random`."""
    def change(task: Replayed, come: Come, rng: Rng) -> Come:
        covered = (task.table.votes[task.pool] != ABSTAIN).mean(axis=0)
        able = np.flatnonzero(covered >= 0.1)
        column = int(rng.choice(able))
        said = come.votes[:, column]
        classes = len(task.table.classes)
        broken = {"silent": np.full_like(said, ABSTAIN),
                  "one class": np.where(said != ABSTAIN, int(rng.integers(classes)), ABSTAIN),
                  "random": np.where(said != ABSTAIN, rng.integers(0, classes, len(said)), ABSTAIN)}[how]
        votes = come.votes.copy()
        votes[:, column] = broken
        return Come(come.rows, come.answers, votes)

    return change
