"""The methods that the benchmark compares, ours and the baselines. Each gives a risk for every row of a task.

The table that a method is handed has no gold label in it. Three kinds ask for the labelled one: `gold`, which is the
ceiling, the audited ones, and those of `training.bench_written`, which look a few labels up.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial

import numpy as np
import torch

from training.audit import draw
from training.audit_plan import pool_of
from training.baselines import dawid_skene, label_model
from training.beliefs import beliefs_of
from training.bench_written import WRITTEN, Labelling
from training.errors import InputError
from training.fit import FitConfig, Voted, fit
from training.learning import learn
from training.model import RiskModel
from training.pareto import uniform_weights
from training.recalibration import fit_recalibration
from training.risk import majority_vote_risk, risk
from training.scoring import score_table
from training.table import Table
from training.task import ABSTAIN, Task
from training.textfit import fit_texts
from training.transformer import KIND as TRANSFORMER
from training.weighting import pareto_weights_of

OWN = "polarscore"
SCALARISERS = ("linear", "quadratic", "euclidean", "chebyshev")
PAPER = tuple(f"paper_{scalariser}" for scalariser in SCALARISERS)

Extra = Callable[[Task, Table, np.ndarray, RiskModel, int], np.ndarray]
"""(task, table, vectors (n, width), the trained version, seed) -> risks (n,)."""

BUDGETS = (25, 100)
"""How many answers a person checks for the audited methods."""


def audited_risk(
    task: Task, labelled: Table, vectors: np.ndarray, model: RiskModel, seed: int, budget: int
) -> np.ndarray:
    """Our risks (n,), recalibrated by the labels of so many answers, drawn as `polarscore train --audit` draws them.

    Of a task with fewer answers in train and valid, all are drawn. A drawn row without a label stays unchecked.
    """
    risks = model.score(vectors, labelled.answers, labelled.votes).risk
    most = int((~np.isnan(risks) & (labelled.splits != "test")).sum())
    if not most:
        return risks
    drawn = draw(risks, labelled.splits, min(budget, most), seed).rows
    checked = drawn[labelled.labels[drawn] != ABSTAIN]
    error = (labelled.answers != labelled.labels)[checked].astype(np.float64)
    return fit_recalibration(risks[checked], error, pool=pool_of(risks, labelled.splits)).apply(risks)


AUDITED: dict[str, Extra] = {f"polarscore_audit_{budget}": partial(audited_risk, budget=budget) for budget in BUDGETS}
"""Methods that may look at the labels of a few rows of train and valid, which a person would have checked."""


@dataclass(frozen=True)
class Case:
    """What a method is given: a task, its rows without gold labels, their vectors (n, width), and a seed.

    labelled: the same rows with their labels.
    """

    task: Task
    table: Table
    vectors: np.ndarray
    seed: int
    labelled: Table

    @classmethod
    def of(cls, task: Task, labelled: Table, vectors: np.ndarray, seed: int) -> "Case":
        """A case from a labelled table."""
        table = replace(labelled, labels=np.full_like(labelled.labels, ABSTAIN))
        return cls(task, table, vectors, seed, labelled)

    @cached_property
    def votes(self) -> np.ndarray:
        """The votes of all sources, (n, 1 + m), the LLM first."""
        return np.column_stack([self.table.answers, self.table.votes])

    @cached_property
    def train(self) -> np.ndarray:
        """Which rows to learn from, (n,)."""
        return self.table.splits == "train"

    @cached_property
    def config(self) -> FitConfig:
        """How every network is trained."""
        return FitConfig(seed=self.seed)

    @cached_property
    def model(self) -> RiskModel:
        """Our version, trained when it is first needed, and then once."""
        weights = pareto_weights_of("learned", self.task, self.table)
        return learn(self.task, self.table, self.vectors, weights, self.config)[1]


@dataclass(frozen=True)
class Method:
    """A way to risks (n,) of all rows of a case.

    applies: whether a task, given with its labels, has what the method needs.
    modules: those that make its risks, with all that they import; by default, all that any method here needs.
    """

    name: str
    risks: Callable[[Case], np.ndarray]
    applies: Callable[[Table], bool] = lambda table: True
    modules: tuple[str, ...] = ("bench_methods",)


def chosen(names: Sequence[str] | None = None, transformer: bool = False) -> list[Method]:
    """The methods of those names, in the order of the table; without names, all but those of WRITTEN.

    transformer: whether the fine-tuned ones are among them.

    Raises:
        InputError: a name that is unknown, or a transformer that is not to be had.
    """
    methods = [*METHODS, *(_audited(name, function) for name, function in AUDITED.items())]
    methods += [_labelled(name, function) for name, function in WRITTEN.items()]
    if transformer and not TRANSFORMERS:
        raise InputError("--transformer: this version of polarscore has no transformer to compare. Leave it out.")
    if transformer:
        methods += [_extra(name, function) for name, function in TRANSFORMERS.items()]
    known = [method.name for method in methods]
    for name in names or ():
        if name in TRANSFORMERS and not transformer:
            raise InputError(f"the method '{name}' fine-tunes a transformer, which takes long. Add --transformer.")
        if name not in known:
            raise InputError(f"the method '{name}' is unknown. Expected some of {', '.join(known)}.")
    return [method for method in methods if (method.name in names if names else method.name not in WRITTEN)]


def _llm_confidence(case: Case) -> np.ndarray:
    return np.where(case.table.answers == ABSTAIN, np.nan, 1 - case.table.confidence)


def _confidence_is_stored(table: Table) -> bool:
    return bool(np.isfinite(table.confidence[(table.splits == "test") & (table.answers != ABSTAIN)]).all())


def _majority_vote(case: Case) -> np.ndarray:
    return majority_vote_risk(case.table.answers, case.table.votes)


def _dawid_skene(case: Case) -> np.ndarray:
    model = dawid_skene(case.votes[case.train], len(case.table.classes))
    return risk(model.posterior(case.votes), case.table.answers)


def _label_model(case: Case) -> np.ndarray:
    model = label_model(case.votes[case.train], len(case.table.classes), seed=case.seed)
    return risk(model.posterior(case.votes), case.table.answers)


def _distilled(case: Case) -> np.ndarray:
    return _network_risk(case, case.table.answers[:, None], case.config)


def _paper(case: Case, scalariser: str) -> np.ndarray:
    return _network_risk(case, case.votes, replace(case.config, scalariser=scalariser))


def _polarscore(case: Case) -> np.ndarray:
    return case.model.score(case.vectors, case.table.answers, case.table.votes).risk


def _polarscore_no_votes(case: Case) -> np.ndarray:
    return case.model.score(case.vectors, case.table.answers, np.full_like(case.table.votes, ABSTAIN)).risk


def _gold(case: Case) -> np.ndarray:
    return _network_risk(case, case.labelled.labels[:, None], case.config)


def _train_is_labelled(table: Table) -> bool:
    return bool((table.labels[table.splits == "train"] != ABSTAIN).any())


def _network_risk(case: Case, votes: np.ndarray, config: FitConfig) -> np.ndarray:
    """1 − h(x)[a] of a harmonizer fitted to these votes (n, m) with uniform weights, as the paper has it."""
    valid = case.table.splits == "valid"
    fitted = fit(Voted(case.vectors[case.train], votes[case.train]), Voted(case.vectors[valid], votes[valid]),
                 len(case.table.classes), uniform_weights(votes.shape[1]), config)
    with torch.inference_mode():
        return risk(fitted.harmonizer(torch.from_numpy(case.vectors)).exp().numpy(), case.table.answers)


def _extra(name: str, function: Extra) -> Method:
    return Method(name, lambda case: function(case.task, case.table, case.vectors, case.model, case.seed))


def _audited(name: str, function: Extra) -> Method:
    """A method that is handed the labels, though our version itself is trained without any."""
    return Method(name, lambda case: function(case.task, case.labelled, case.vectors, case.model, case.seed))


def _labelled(name: str, function: Labelling) -> Method:
    """A method that spends a hundred labels, and sees none of the task's sources."""
    return Method(name, lambda case: function(case.task, case.labelled, case.vectors, case.seed), _train_is_labelled,
                  modules=("bench_written",))


def _paper_transformer(task: Task, table: Table, vectors: np.ndarray, model: RiskModel, seed: int) -> np.ndarray:
    """1 − h(x)[a] of a transformer, by `linear` with uniform weights, as the paper has it."""
    config = FitConfig(harmonizer=TRANSFORMER, seed=seed)
    train, valid = (table.rows(table.splits == split) for split in ("train", "valid"))
    harmonizer, _ = fit_texts(train, valid, uniform_weights(1 + table.votes.shape[1]), config)
    harmonizer.network.to(config.device)
    return risk(beliefs_of(harmonizer, table.texts, table.spans, lambda texts: vectors), table.answers)


def _polarscore_transformer(task: Task, table: Table, vectors: np.ndarray, model: RiskModel, seed: int) -> np.ndarray:
    """Our version with a transformer in the place of the small network."""
    config = FitConfig(harmonizer=TRANSFORMER, seed=seed)
    own = learn(task, table, vectors, pareto_weights_of("learned", task, table), config)[1]
    return score_table(own, lambda texts: vectors, table).risk


TRANSFORMERS: dict[str, Extra] = {
    "paper_transformer": _paper_transformer,
    "polarscore_transformer": _polarscore_transformer,
}
"""Methods that fine-tune a transformer: slow, and only with `--transformer`."""

METHODS: tuple[Method, ...] = (
    Method("llm_confidence", _llm_confidence, _confidence_is_stored, modules=("risk",)),
    Method("majority_vote", _majority_vote, modules=("risk",)),
    Method("dawid_skene", _dawid_skene, modules=("baselines", "risk")),
    Method("label_model", _label_model, modules=("baselines", "risk")),
    Method("distilled", _distilled, modules=("fit", "risk")),
    *(Method(f"paper_{name}", partial(_paper, scalariser=name), modules=("fit", "risk")) for name in SCALARISERS),
    Method(OWN, _polarscore),
    Method("polarscore_no_votes", _polarscore_no_votes),
    Method("gold", _gold, _train_is_labelled, modules=("fit", "risk")),
)
