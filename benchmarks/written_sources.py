"""What are a hundred labels best spent on? Sources that write themselves, against training on the labels.

For each task, its own sources left out, the mean AUROC of the risk for errors of the LLM on split test, over draws of
the labels from split train:

- `written`: sources written from the labels, beside the LLM (`polarscore sources`, then `polarscore train`);
- `labels`: a harmonizer trained on the labels alone, 1 − h(x)[a];
- `logistic`: logistic regression on the embeddings, its penalty chosen on the labels by cross-validation, 1 − p[a];
- `logistic source`: what that says of every row as the one source beside the LLM, as votes that are stored;
- `opinion`: what the written sources were written from, by phrases and embeddings, 1 − p[a].

Run: python benchmarks/written_sources.py DIR [--tasks trec sms] [--seeds 5] [--labels 100]
"""

import argparse
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.table import Table as Grid
from sklearn.linear_model import LogisticRegressionCV

from training.bench_written import labels_risk, written_risk
from training.calibration import measures
from training.encoder import passages
from training.fit import FitConfig
from training.heuristics.finding import Sample, lesson_of
from training.heuristics.labels import Labelled, own_labels
from training.heuristics.opinion import folds_of, opinion_of
from training.heuristics.stumps import stumps_of
from training.job import embeddings
from training.learning import learn
from training.risk import risk
from training.state import State
from training.table import Table, read_table
from training.task import ABSTAIN, Source, Task, read_task
from training.weighting import pareto_weights_of

WAYS = ("written", "labels", "logistic", "logistic source", "opinion")


def logistic(vectors: np.ndarray, given: Labelled, classes: int) -> np.ndarray:
    """Probabilities (n, K); a class with fewer than two labels is left out."""
    common = np.bincount(given.labels, minlength=classes)[given.labels] > 1
    rows, labels = given.rows[common], given.labels[common]
    folds = folds_of(labels, 0)
    model = LogisticRegressionCV(
        Cs=np.logspace(-1, 3, 9), cv=[(np.flatnonzero(folds != f), np.flatnonzero(folds == f)) for f in range(5)],
        scoring="accuracy", max_iter=500, l1_ratios=(0,), use_legacy_attributes=False).fit(vectors[rows], labels)
    found = np.full((len(vectors), classes), 1e-4)
    found[:, model.classes_] = model.predict_proba(vectors)
    return found


def aurocs(task: Task, table: Table, vectors: np.ndarray, seed: int, count: int) -> list[float | None]:
    """Of each way, for one draw of the labels."""
    given = own_labels(table, count, seed)
    told = logistic(vectors, given, len(table.classes))
    source = (Source(name="logistic"),)
    beside = replace(table, sources=source, votes=told.argmax(axis=1)[:, None].astype(np.int16))
    alone = task.model_copy(update={"sources": source})
    model = learn(alone, beside, vectors, pareto_weights_of("learned", alone, beside), FitConfig(seed=seed))[1]
    risks = [written_risk(task, table, vectors, seed, count), labels_risk(task, table, vectors, seed, count),
             risk(told, table.answers), model.score(vectors, table.answers, beside.votes).risk,
             risk(opinion(table, vectors, given, seed), table.answers)]
    test = (table.splits == "test") & (table.labels != ABSTAIN) & (table.answers != ABSTAIN)
    return [measures(each[test], (table.answers != table.labels)[test].astype(float))["auroc"] for each in risks]


def opinion(table: Table, vectors: np.ndarray, given: Labelled, seed: int) -> np.ndarray:
    """Beliefs (n, K); split test is told about, and still teaches nothing but which phrases are common."""
    everything = replace(table, splits=np.where(table.splits == "test", "valid", table.splits).astype(object))
    sample = Sample.of(everything, vectors, given)
    beliefs = opinion_of(lesson_of(sample, stumps_of(list(sample.texts))), folds_of(sample.labels, seed)).beliefs
    found = np.empty_like(beliefs)
    found[np.argsort(table.ids.astype(str), kind="stable")] = beliefs
    return found


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, metavar="DIR")
    parser.add_argument("--tasks", nargs="+", default=["trec", "sms", "youtube", "health_advice_gpt35"])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--labels", type=int, default=100)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    grid = Grid("task", *WAYS, "draws in which written is above labels")
    for name in asked.tasks:
        task = read_task(asked.folder / name)
        table = read_table(task)
        vectors = embeddings(State.from_environment())(passages(table.texts, table.spans))
        found = np.array([aurocs(task, table, vectors, seed, asked.labels) for seed in range(asked.seeds)], dtype=float)
        shown = [f"{mean:.3f} ± {sd:.3f}" for mean, sd in zip(found.mean(axis=0), found.std(axis=0), strict=True)]
        grid.add_row(name, *shown, f"{(found[:, 0] > found[:, 1]).sum()} of {asked.seeds}")
    Console(width=150).print(grid)


if __name__ == "__main__":
    main()
