"""Methods of the benchmark that see a hundred labels of split train, drawn by the seed, and none of the task's sources.

`written` spends them on sources that write themselves, and ours is trained on these and the LLM's answers. `labels` is
the plain alternative: a harmonizer that is trained on the labels alone. Neither is told any other label.
"""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch

from training.fit import FitConfig, Voted, fit
from training.heuristics.finding import Sample, found
from training.heuristics.labels import own_labels
from training.heuristics.writing import FAMILY, named
from training.learning import learn
from training.pareto import uniform_weights
from training.risk import risk
from training.table import Table
from training.task import ABSTAIN, Source, Task
from training.weighting import pareto_weights_of

LABELS = 100

Labelling = Callable[[Task, Table, np.ndarray, int], np.ndarray]
"""(task, table with its labels, vectors (n, width), seed) -> risks (n,)."""


def written_task(
    task: Task, labelled: Table, vectors: np.ndarray, seed: int, budget: int = LABELS
) -> tuple[Task, Table]:
    """The task with the sources that so many labels wrote in the place of its own, and its rows without any label."""
    count = min(budget, int(((labelled.splits == "train") & (labelled.labels != ABSTAIN)).sum()))
    seen = found(Sample.of(labelled, vectors, own_labels(labelled, count, seed)), seed=seed)
    sources = tuple(Source(name=each.name, family=FAMILY, evidence=each.evidence) for each in named(seen))
    votes = np.column_stack([each.heuristic.votes(list(labelled.texts)) for each in named(seen)])
    return (task.model_copy(update={"sources": sources}),
            replace(labelled, sources=sources, votes=votes, labels=np.full_like(labelled.labels, ABSTAIN)))


def written_risk(task: Task, labelled: Table, vectors: np.ndarray, seed: int, budget: int = LABELS) -> np.ndarray:
    """Our risks (n,) where the written sources are all there are."""
    task, table = written_task(task, labelled, vectors, seed, budget)
    model = learn(task, table, vectors, pareto_weights_of("learned", task, table), FitConfig(seed=seed))[1]
    return model.score(vectors, table.answers, table.votes).risk


def labels_risk(task: Task, labelled: Table, vectors: np.ndarray, seed: int, budget: int = LABELS) -> np.ndarray:
    """1 − h(x)[a] (n,) of a harmonizer trained on so many labels."""
    count = min(budget, int(((labelled.splits == "train") & (labelled.labels != ABSTAIN)).sum()))
    given = own_labels(labelled, count, seed)
    rows = Voted(vectors[given.rows], given.labels[:, None])
    harmonizer = fit(rows, rows, len(labelled.classes), uniform_weights(1), FitConfig(seed=seed)).harmonizer
    with torch.inference_mode():
        return risk(harmonizer(torch.from_numpy(vectors)).exp().numpy(), labelled.answers)


WRITTEN: dict[str, Labelling] = {f"written_{LABELS}": written_risk, f"labels_{LABELS}": labels_risk}
"""Methods that may look at the labels of a hundred rows of train."""
