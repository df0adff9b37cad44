"""Simulated worlds, good and bad, from votes to risks as a training job makes them."""

from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch

from training.calibration import measures
from training.fit import FitConfig, Voted, fit
from training.learning import learn
from training.risk import majority_vote_risk, risk
from training.table import Table
from training.task import ABSTAIN, Columns, Header, Source, Task
from training.weighting import pareto_weights_of
from training.worth import vote_weights

WIDTH = 24
CONFIG = FitConfig(epochs=12, batch_size=256, learning_rate=2e-3)


@dataclass(frozen=True)
class World:
    """Rows of known truth, whose difficulty all voters share: accuracies of the LLM and of the sources."""

    accuracies: tuple[float, ...] = (0.8,) * 6
    llm: float = 0.8
    classes: int = 3
    rows: int = 1500
    coverage: float = 1.0  # how often a source votes
    separation: float = 1.2  # how much the texts tell
    balance: tuple[float, ...] | None = None
    copies: tuple[tuple[int, int], ...] = ()  # (source, how often it is repeated)
    named: tuple[int, ...] | None = None  # the only classes that sources vote for, and that occur
    constant: bool = False  # a source that always votes class 0 comes last
    apart: bool = False  # each row has the vote of one source alone
    families: tuple[str, ...] = field(default=(), repr=False)

    def drawn(self, seed=0):
        """Truth (n,), vectors (n, width) and votes (n, 1 + m)."""
        random = np.random.default_rng(seed)
        usual = list(self.named or range(self.classes))
        truth = random.choice(usual, self.rows, p=self.balance)
        centres = random.normal(size=(self.classes, WIDTH))
        centres /= np.linalg.norm(centres, axis=1, keepdims=True)
        vectors = 2 * self.separation * centres[truth] + random.normal(size=(self.rows, WIDTH))
        ease = random.normal(size=self.rows)
        votes = []
        for accuracy in (self.llm, *self.accuracies):
            odds = accuracy / max(1 - accuracy, 1e-9) * np.exp(0.7 * ease)
            right = random.random(self.rows) < odds / (1 + odds)
            step = random.integers(1, len(usual), self.rows)
            place = np.searchsorted(usual, truth)
            votes.append(np.where(right, truth, np.array(usual)[(place + step) % len(usual)]))
        votes = np.column_stack(votes).astype(np.int16)
        votes[:, 1:][random.random((self.rows, len(self.accuracies))) >= self.coverage] = ABSTAIN
        if self.apart:
            only = random.integers(0, len(self.accuracies), self.rows)
            votes[:, 1:][np.arange(len(self.accuracies)) != only[:, None]] = ABSTAIN
        if self.constant:
            votes = np.column_stack([votes, np.zeros(self.rows, dtype=np.int16)])
        for source, times in self.copies:
            votes = np.column_stack([votes, *[votes[:, source]] * times])
        return truth, (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32), votes


@dataclass(frozen=True)
class Found:
    """What came of a world: a version, its risks, those of the majority, and the errors."""

    model: object
    probabilities: np.ndarray
    risk: np.ndarray
    majority: np.ndarray
    error: np.ndarray
    votes: np.ndarray

    def ece(self, risks):
        return measures(risks, self.error)["ece"]

    def auroc(self, risks):
        return measures(risks, self.error)["auroc"]


@cache
def run(world, seed=0):
    truth, vectors, votes = world.drawn(seed)
    names = [f"s{j}" for j in range(votes.shape[1] - 1)]
    families = world.families or names
    sources = tuple(Source(name=name, family=family) for name, family in zip(names, families, strict=True))
    classes = tuple(f"c{k}" for k in range(world.classes))
    task = Task(folder=Path("-"), task=Header(name="simulated", classes=classes), data=Columns(path="-"),
                sources=sources)
    n = len(truth)
    splits = np.where(np.arange(n) < 0.7 * n, "train", "valid").astype(object)
    table = Table(classes, sources, np.arange(n).astype(str).astype(object), np.full(n, "-", dtype=object),
                  np.zeros((n, 0, 2), dtype=np.int64), splits, votes[:, 0], votes[:, 1:],
                  np.full(n, ABSTAIN, dtype=np.int16), np.full(n, np.nan), digest="")
    _, model = learn(task, table, vectors, pareto_weights_of("learned", task, table), CONFIG)
    scores = model.score(vectors, table.answers, table.votes)
    return Found(model, scores.probabilities, scores.risk, majority_vote_risk(votes[:, 0], votes[:, 1:]),
                 (votes[:, 0] != truth).astype(float), votes)


@cache
def by_the_paper(world, seed=0):
    """Risks of the paper's method: uniform weights, summed losses, and no votes of the row."""
    _, vectors, votes = world.drawn(seed)
    train = np.arange(len(votes)) < 0.7 * len(votes)
    found = fit(Voted(vectors[train], votes[train]), Voted(vectors[~train], votes[~train]), world.classes,
                np.full(votes.shape[1], 1 / votes.shape[1]), CONFIG)
    with torch.inference_mode():
        return risk(found.harmonizer(torch.from_numpy(vectors)).exp().numpy(), votes[:, 0])


WORLDS = {
    "usual": World(),
    "two_sources": World((0.75, 0.7)),
    "one_source": World((0.75,)),
    "164_sparse_sources": World(tuple(np.random.default_rng(1).uniform(0.4, 0.95, 164)), coverage=0.05),
    "two_classes": World(classes=2),
    "21_classes": World(classes=21, rows=2000),
    "sources_all_right": World((1.0,) * 5),
    "llm_nearly_always_right": World(llm=0.98),
    "llm_nearly_always_wrong": World(llm=0.05),
    "hundred_rows": World(rows=100),
    "rare_class": World((0.9, 0.85, 0.9, 0.8, 0.85), classes=2, balance=(0.9, 0.1)),
    "class_that_no_source_names": World(classes=4, named=(0, 2)),
    "source_of_one_class": World(constant=True),
    "sources_without_overlap": World(apart=True),
    "one_family": World((0.6,) * 8, families=("kin",) * 8),
    "copied": World((0.55, 0.75, 0.8), classes=2, copies=((1, 10),)),
    "poor_of_two_classes": World((0.55, 0.5, 0.52, 0.58, 0.5, 0.55), llm=0.85, classes=2),
    "poor_of_three_classes": World((0.33, 0.3, 0.4, 0.35, 0.28, 0.36, 0.4, 0.33), llm=0.75),
}
POOR = ("poor_of_two_classes", "poor_of_three_classes")


@pytest.mark.parametrize("name", WORLDS)
def test_risks_are_sound_and_better_calibrated_than_the_papers(name):
    found = run(WORLDS[name])
    assert ((found.risk >= 0) & (found.risk <= 1)).all()  # no NaN either
    assert found.probabilities.sum(axis=1) == pytest.approx(1.0) and (found.probabilities >= 0).all()
    assert 1 <= found.model.spec.sharpness <= 30
    weights = np.array(list(found.model.spec.pareto_weights.values()))
    assert (weights > 0).all() and weights.sum() == pytest.approx(1.0)
    assert found.ece(found.risk) <= found.ece(by_the_paper(WORLDS[name]))


@pytest.mark.parametrize("name", WORLDS)
def test_errors_are_ranked_as_well_as_by_the_paper_and_by_the_majority(name):
    found = run(WORLDS[name])
    slack = 0.06 if name in POOR else 0.01
    others = found.auroc(by_the_paper(WORLDS[name])), found.auroc(found.majority)
    assert found.auroc(found.risk) >= max(others) - slack


@pytest.mark.parametrize("name", POOR)
@pytest.mark.parametrize("seed", [1, 2])
def test_worth_does_not_collapse_onto_a_poor_majority(name, seed):
    found = run(WORLDS[name], seed)
    accuracy = found.model.worth.accuracy
    assert accuracy[0] > accuracy[1:].max()
    assert found.ece(found.risk) < min(found.ece(by_the_paper(WORLDS[name], seed)), found.ece(found.majority))


@pytest.mark.parametrize(("world", "source"), [
    (World(), 1),
    (World((0.6, 0.8, 0.7, 0.9)), 1),
    (World((0.6, 0.8, 0.7, 0.9), classes=2), 2),
    (World((0.7, 0.75)), 1),
    (World((0.8,) * 12, coverage=0.3), 2),
    (WORLDS["poor_of_three_classes"], 1),
], ids=["usual", "mixed", "two_classes", "two_sources", "sparse", "poor"])
def test_ten_copies_of_a_source_change_the_risks_by_little(world, source):
    before, after = run(world, 1), run(replace(world, copies=((source, 10),)), 1)
    copies = [source, *range(before.votes.shape[1], after.votes.shape[1])]
    weights = vote_weights(after.votes, after.model.worth.dependence)[after.votes[:, source] != ABSTAIN][:, copies]
    assert weights.sum(axis=1).max() < 1.3 and weights.std(axis=1).max() < 0.01
    assert np.abs(after.risk - before.risk).mean() < 0.03
    assert np.abs(after.risk - before.risk).mean() < np.abs(after.majority - before.majority).mean() / 2


def test_a_source_that_always_votes_one_class_tells_nothing():
    found = run(WORLDS["source_of_one_class"])
    assert np.abs(found.model.worth.evidence[-1, 0]).max() < 0.2


def test_a_class_that_no_source_names_is_improbable_and_no_nan():
    found = run(WORLDS["class_that_no_source_names"])
    assert found.probabilities[:, [1, 3]].mean() < 0.05
