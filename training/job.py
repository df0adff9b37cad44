"""The training job: a task's folder in, a registered version out."""

import re
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from training import audit_plan
from training import model as files
from training.audit import written
from training.audit_figure import recalibration_figure
from training.audit_plan import NOTHING, Plan
from training.audit_result import UNCHANGED, Guarantee, Recalibration
from training.calibration import Measures, measures
from training.cautions import warnings_of
from training.embeddings import EmbeddingCache
from training.encoder import DEFAULT_ENCODER, Encoder, best_device, default_spec, passages
from training.errors import InputError
from training.figures import front_figure, histogram_figure, reliability_figure, risk_coverage_figure, weights_figure
from training.fit import Epoch, FitConfig, check
from training.front import Front
from training.learning import learn
from training.model import Scores
from training.selection import held_out, some
from training.sources import ABSTAIN, requirements_of, source_table
from training.spec import Spec
from training.state import State
from training.sweep import CHOSEN_ON, FAMILIES, LLM_AND_SOURCES
from training.table import SPLITS, Table, read_table
from training.task import NAME, Task, read_task
from training.tracking import Record, open_run
from training.transformer import KIND as TRANSFORMER
from training.weighting import FITTED, FRONT, families_of, fitted_weights, pareto_weights_of
from training.worth import Worth, vote_weights


@dataclass(frozen=True)
class Trained:
    """What a job leaves behind: where to find the version, and its measures (None: no labels in that split).

    sources: as `training.sources.source_table`, and what the sources are worth. warnings: why the risk may be worth
    little before an audit. to_check: how many answers were drawn into the plan's file. recalibration, guarantee: what
    an audit left.
    """

    run_id: str
    model: str
    version: int
    measures: dict[str, Measures | None]
    sources: pd.DataFrame
    warnings: tuple[str, ...] = ()
    to_check: int = 0
    recalibration: Recalibration = UNCHANGED
    guarantee: Guarantee | None = None


@dataclass(frozen=True)
class Progress:
    """What a job tells while it runs: rows encoded out of n, each epoch, a line for what is worth knowing.

    That is a GPU that runs out of memory, or the choice on the Pareto front.
    """

    encoded: Callable[[int, int], None] = lambda done, of: None
    epoch: Callable[[Epoch, int], None] = lambda epoch, of: None
    tell: Callable[[str], None] = lambda line: None


def train(
    folder: Path,
    state: State,
    config: FitConfig,
    name: str | None = None,
    weights: Mapping[str, float] | str = "learned",
    progress: Progress = Progress(),
    origin: str = "given",
    plan: Plan = NOTHING,
) -> Trained:
    """Read a task, train its harmonizer, log the run, register the version as `candidate`.

    Gold labels are read for the measures alone, after the version is final. Those of an audit are in the file that
    the plan names, and change the scale of the risks and nothing else.
    weights: Pareto weights by source, `LLM` being the LLM's, with the `origin` that the run tells; or a rule:
    `learned`, by what the votes are worth; `uniform`; `family`, uniform but for the LLM's own family, which shares
    one weight; or one that needs first fits, `eigenvector`, `minimum_variance` or `front`.

    Raises:
        InputError: the task, the weights, the configuration or the audit is at fault; nothing is registered then, and
            no file of answers to check is left.
    """
    if name is not None and not re.fullmatch(NAME, name):
        raise InputError("a model's name should be at most 100 letters, digits, '_', '.' and '-', the first a letter "
                         f"or digit. Found '{name[:100]}'.")
    task = read_task(folder)
    table = read_table(task)
    rule = weights if isinstance(weights, str) else origin
    fits = weights if isinstance(weights, str) and weights in FITTED else None
    pareto_weights = pareto_weights_of("uniform" if fits else weights, task, table)
    _check_trainable(table, pareto_weights, config)
    audited = audit_plan.prepare(plan, table, name or task.name)
    requirements = requirements_of(task.sources_path) if task.sources_path else []
    state.prepare()
    vectors = (np.empty((len(table), 0), dtype=np.float32) if config.harmonizer == TRANSFORMER and not fits
               else embeddings(state)(passages(table.texts, table.spans), progress.encoded))
    traced: dict[str, Front] = {}
    with open_run(state, name or task.name, list(pareto_weights)) as run:
        if fits:
            pareto_weights, traced = fitted_weights(fits, task, table, vectors, config)
            rule = "family, for want of a front" if fits == FRONT and CHOSEN_ON not in traced else fits
            if fits == FRONT:
                progress.tell(f"front: {traced[CHOSEN_ON].reason}" if CHOSEN_ON in traced else
                              "front: no two sides have votes to trace one between; the weights are by family.")

        def on_epoch(epoch: Epoch) -> None:
            run.log_epoch(epoch)
            progress.epoch(epoch, config.epochs)

        fitted, riskmodel = learn(task, table, vectors, pareto_weights, config, on_epoch, progress.tell)
        beliefs = riskmodel.beliefs(table.texts, table.spans, lambda texts: vectors)
        scores = riskmodel.judge(beliefs, table.answers, table.votes)
        to_check = audit_plan.drawn(plan, scores.risk, table, config.seed)
        if audited:
            riskmodel = audit_plan.audited_model(plan, audited, riskmodel, scores.risk, table)
            scores = riskmodel.judge(beliefs, table.answers, table.votes)
        found = {split: labelled_measures(table, scores.risk, split) for split in SPLITS}
        cautions = () if audited else _warnings(task, table, riskmodel.worth)
        with tempfile.TemporaryDirectory() as place, written(plan.file(name or task.name), table, to_check,
                                                             config.seed):
            files.save(riskmodel, Path(place), task.sources_path if riskmodel.spec.sources_digest else None)
            sources = source_table(table.votes, table.answers, table.sources).assign(**_told(table, riskmodel.worth))
            version = run.register(Record(
                name=name or task.name, config=config, rule=rule,
                best_epoch=fitted.best, encoder=riskmodel.spec.encoder, data_name=task.name, data_folder=task.folder,
                data_file=task.data.path, data_digest=table.digest,
                splits={split: int((table.splits == split).sum()) for split in SPLITS},
                pareto_weights=pareto_weights, sources=sources,
                source_losses=dict(zip(pareto_weights, fitted.epochs[fitted.best - 1].held_out_source_losses.tolist(),
                                       strict=True)),
                measures=found, fronts=traced,
                figures=_figures(table, scores, pareto_weights, task.name) | _front_figures(traced, task.name)
                | _audit_figures(riskmodel.spec, task.name),
                reference=monitoring_frame(table, scores).loc[table.splits != "test"],
                model=Path(place), example=_example(task), requirements=requirements, warnings=cautions,
                to_check=len(to_check.rows) if to_check else 0, recalibration=riskmodel.spec.recalibration,
                guarantee=riskmodel.spec.guarantee,
            ))
    return Trained(run.run_id, name or task.name, version, found, sources, cautions,
                   len(to_check.rows) if to_check else 0, riskmodel.spec.recalibration, riskmodel.spec.guarantee)


def embeddings(state: State) -> Callable[..., np.ndarray]:
    """The default encoder behind the state's cache: `encode(texts, progress)` as in `training.encoder`."""
    cache = EmbeddingCache(state.prepare().embeddings, lambda: Encoder(DEFAULT_ENCODER, best_device(), half=False),
                           default_spec())  # in float32 everywhere, so that a version does not depend on the machine

    def encode(texts: list[str], progress: Callable[[int, int], None] = lambda done, of: None) -> np.ndarray:
        done = 0

        def report(more: int) -> None:
            nonlocal done
            done += more
            progress(done, len(texts))

        return cache.encode(texts, report)

    return encode


def labelled_measures(table: Table, risk: np.ndarray, split: str) -> Measures | None:
    """The measures on a split's rows that have an answer and a gold label; None where no row has both."""
    told = (table.splits == split) & (table.labels != ABSTAIN) & (table.answers != ABSTAIN)
    if not told.any():
        return None
    return measures(risk[told], (table.answers != table.labels)[told].astype(float))


def monitoring_frame(table: Table, scores: Scores) -> pd.DataFrame:
    """What monitoring watches, a row an answer and no text: risk, answers, length, how sources voted.

    `vote:NAME` is the class that a source voted for, None where it abstained.
    """
    names = np.array([*table.classes, None], dtype=object)
    voted = table.votes != ABSTAIN
    agree = voted & (table.votes == table.answers[:, None])
    with np.errstate(invalid="ignore"):
        agreement = agree.sum(axis=1) / voted.sum(axis=1)
    return pd.DataFrame({
        "risk": scores.risk,
        "answer": names[np.where(table.answers == ABSTAIN, len(table.classes), table.answers)],
        "harmonizer_answer": names[scores.harmonizer_answers],
        "text_length": np.fromiter(map(len, table.texts), dtype=np.int64, count=len(table)),
        "sources_voting": voted.sum(axis=1),
        "agreement": np.where(table.answers == ABSTAIN, np.nan, agreement),
        **{f"vote:{source.name}": names[column] for source, column in zip(table.sources, table.votes.T, strict=True)},
    })


def _check_trainable(table: Table, pareto_weights: Mapping[str, float], config: FitConfig) -> None:
    """What would fail after the texts are encoded and a run is open fails here instead."""
    check(config)
    train, _ = held_out(table)
    votes = np.column_stack([table.answers, table.votes])[train]
    if not (votes[:, np.array(list(pareto_weights.values())) > 0] != ABSTAIN).any():
        raise InputError("no source with a weight above 0 votes on any row to train on.")


def _figures(
    table: Table, scores: Scores, weights: Mapping[str, float], name: str
) -> dict[str, Figure]:
    figures = {"pareto/weights": weights_figure(weights, f"Pareto weights, {name}")}
    for split in ("valid", "test"):
        told = (table.splits == split) & (table.labels != ABSTAIN) & (table.answers != ABSTAIN)
        if told.sum() < 2:
            continue
        risk, error = scores.risk[told], (table.answers != table.labels)[told].astype(float)
        figures[f"figures/{split}_reliability"] = reliability_figure(risk, error, f"Is the risk true? {name}, {split}")
        figures[f"figures/{split}_risk_histogram"] = histogram_figure(risk, error, f"Risks, {name}, {split}")
        figures[f"figures/{split}_risk_coverage"] = risk_coverage_figure(
            risk, error, f"What accepting the safest buys, {name}, {split}")
    return figures


def _front_figures(traced: Mapping[str, Front], name: str) -> dict[str, Figure]:
    titles = {LLM_AND_SOURCES: ("pareto/front", f"What the LLM and the sources give up for each other, {name}"),
              FAMILIES: ("pareto/front_families", f"What the families of sources give up for each other, {name}")}
    return {titles[which][0]: front_figure(front, titles[which][1]) for which, front in traced.items()}


def _audit_figures(spec: Spec, name: str) -> dict[str, Figure]:
    if not spec.recalibration.curve:
        return {}
    return {"audit/recalibration": recalibration_figure(spec.recalibration, spec.guarantee,
                                                        f"What the checked answers change, {name}")}


def _warnings(task: Task, table: Table, worth: Worth) -> tuple[str, ...]:
    rows = some(table.splits != "test", 0)
    votes = np.column_stack([table.answers, table.votes])[rows]
    return tuple(warnings_of(votes, families_of(task, table), table.classes, worth))


def _told(table: Table, worth: Worth) -> dict[str, np.ndarray]:
    """Of each source but the LLM, how often a vote is believed to be right, and as how many independent ones it counts.

    NaN where a source votes on no row.
    """
    votes = np.column_stack([table.answers, table.votes])[some(np.ones(len(table), dtype=bool), 0)]
    with np.errstate(invalid="ignore"):
        counts = vote_weights(votes, worth.dependence).sum(axis=0) / (votes != ABSTAIN).sum(axis=0)
    return {"accuracy": worth.accuracy[1:], "counts_as": counts[1:].astype(np.float64)}


def _example(task: Task) -> pd.DataFrame:
    """A row to try the model on. It is made up, so that nobody's text is in MLflow."""
    text = "An example: replace it with a text of your own."
    spans = [[[0, 2], [3, 10]][entity % 2] for entity in range(len(task.data.spans))]
    row: dict[str, object] = {"text": text, "answer": task.classes[0]}
    return pd.DataFrame([row | ({"spans": spans} if spans else {})])
