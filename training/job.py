"""The training job: a task's folder in, a registered version out."""

import hashlib
import json
import math
import re
import tempfile
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure

from training import model as files
from training.calibration import Measures, measures
from training.encoder import DEFAULT_ENCODER, EmbeddingCache, Encoder, best_device, default_spec, passages
from training.errors import InputError
from training.figures import histogram_figure, reliability_figure, risk_coverage_figure, weights_figure
from training.fit import Epoch, Fit, FitConfig, Voted, check, fit
from training.model import RiskModel, Scores, Spec
from training.pareto import family_weights, uniform_weights
from training.risk import vote_chances
from training.sources import ABSTAIN, load_labelling_functions, requirements_of, source_table
from training.state import State
from training.table import SPLITS, Table, read_table
from training.task import LLM, NAME, Task, read_task
from training.tracking import Record, open_run


@dataclass(frozen=True)
class Trained:
    """What a job leaves behind: where to find the version, and its measures (None: no labels in that split)."""

    run_id: str
    model: str
    version: int
    measures: dict[str, Measures | None]
    sources: pd.DataFrame


@dataclass(frozen=True)
class Progress:
    """What a job tells while it runs: rows encoded out of n, and each epoch."""

    encoded: Callable[[int, int], None] = lambda done, of: None
    epoch: Callable[[Epoch, int], None] = lambda epoch, of: None


def train(
    folder: Path,
    state: State,
    config: FitConfig,
    name: str | None = None,
    weights: Mapping[str, float] | str = "family",
    progress: Progress = Progress(),
) -> Trained:
    """Read a task, train its harmonizer, log the run, register the version as `candidate`.

    Gold labels are read for the measures alone, after the version is final.
    weights: Pareto weights by source, `LLM` being the LLM's; or `uniform`; or `family`, uniform but for the
    LLM's own family, which shares one weight.

    Raises:
        InputError: the task, the weights or the configuration is at fault; nothing is registered then.
    """
    if name is not None and not re.fullmatch(NAME, name):
        raise InputError("a model's name should be at most 100 letters, digits, '_', '.' and '-', the first a letter "
                         f"or digit. Found '{name[:100]}'.")
    task = read_task(folder)
    table = read_table(task)
    pareto_weights = pareto_weights_of(weights, task, table)
    _check_trainable(table, pareto_weights, config)
    requirements = requirements_of(task.sources_path) if task.sources_path else []
    state.prepare()
    vectors = embeddings(state)(passages(table.texts, table.spans), progress.encoded)
    with open_run(state, name or task.name, list(pareto_weights)) as run:

        def on_epoch(epoch: Epoch) -> None:
            run.log_epoch(epoch)
            progress.epoch(epoch, config.epochs)

        fitted, riskmodel = learn(task, table, vectors, pareto_weights, config, on_epoch)
        scores = riskmodel.score(vectors, table.answers, table.votes)
        found = {split: labelled_measures(table, scores.risk, split) for split in SPLITS}
        with tempfile.TemporaryDirectory() as place:
            files.save(riskmodel, Path(place), task.sources_path if riskmodel.spec.sources_digest else None)
            sources = source_table(table.votes, table.answers, table.sources)
            version = run.register(Record(
                name=name or task.name, config=config, rule=weights if isinstance(weights, str) else "given",
                best_epoch=fitted.best, encoder=riskmodel.spec.encoder, data_name=task.name, data_folder=task.folder,
                data_file=task.data.path, data_digest=table.digest,
                splits={split: int((table.splits == split).sum()) for split in SPLITS},
                pareto_weights=pareto_weights, sources=sources,
                source_losses=dict(zip(pareto_weights, fitted.epochs[fitted.best - 1].held_out_source_losses.tolist(),
                                       strict=True)),
                measures=found, figures=_figures(table, scores, pareto_weights, task.name),
                reference=monitoring_frame(table, scores).loc[table.splits != "test"],
                model=Path(place), example=_example(task), requirements=requirements,
            ))
    return Trained(run.run_id, name or task.name, version, found, sources)


def learn(
    task: Task,
    table: Table,
    vectors: np.ndarray,
    pareto_weights: Mapping[str, float],
    config: FitConfig,
    on_epoch: Callable[[Epoch], None] = lambda epoch: None,
) -> tuple[Fit, RiskModel]:
    """Train on a table's rows and their vectors (n, width). Uses no label: shuffling them changes no bit."""
    votes = np.column_stack([table.answers, table.votes])
    train, held_out = _held_out(table)
    fitted = fit(Voted(vectors[train], votes[train]), Voted(vectors[held_out], votes[held_out]), len(table.classes),
                 np.array(list(pareto_weights.values())), config, on_epoch)
    with torch.inference_mode():
        beliefs = fitted.harmonizer(torch.from_numpy(vectors[train])).exp().numpy()
    functions = load_labelling_functions(task.sources_path) if task.sources_path else ()
    functions = tuple(function for function in functions if function.needs_only_text)
    spec = Spec(
        name=task.name, classes=table.classes, sources=table.sources, stored_sources=len(task.sources),
        columns=task.data, encoder=default_spec(), harmonizer=config.harmonizer, scalariser=config.scalariser,
        pareto_weights=dict(pareto_weights), data_digest=table.digest,
        sources_digest=hashlib.sha256(task.sources_path.read_bytes()).hexdigest()
        if functions and task.sources_path else None,
    )
    return fitted, RiskModel(spec, fitted.harmonizer, vote_chances(votes[train], beliefs), functions)


def embeddings(state: State) -> Callable[..., np.ndarray]:
    """The default encoder behind the state's cache: `encode(texts, progress)` as in `training.encoder`."""
    cache = EmbeddingCache(state.prepare().embeddings, lambda: Encoder(DEFAULT_ENCODER, best_device()), default_spec())

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
    """What monitoring watches, a row an answer and no text: risk, answers, length, how sources voted."""
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
    })


def read_weights(path: Path) -> dict[str, float]:
    """Pareto weights as JSON: `{"LLM": 1.0, "source": 0.5, …}`, the form that a run logs.

    Raises:
        InputError: the file is missing, no JSON object, or holds something else than numbers of at least 0.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}.") from None
    except (json.JSONDecodeError, UnicodeDecodeError):
        raise InputError(f"{path} is not JSON. Expected an object of source and weight.") from None
    if not isinstance(content, dict):
        raise InputError(f"{path} should hold an object of source and weight.")
    for name, value in content.items():
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or value < 0:
            raise InputError(f"{path}: the weight of '{name}' should be a finite number of at least 0.")
    return {name: float(value) for name, value in content.items()}


def pareto_weights_of(given: Mapping[str, float] | str, task: Task, table: Table) -> dict[str, float]:
    """Pareto weights by source, the LLM first, as given or by one of the two rules.

    Raises:
        InputError: an unknown rule, a source that the task lacks, one without a weight, or all weights 0.
    """
    names = [LLM, *(source.name for source in table.sources)]
    if given == "uniform":
        return dict(zip(names, uniform_weights(len(names)).tolist(), strict=True))
    if given == "family":
        families = [task.task.llm_family, *(source.family for source in table.sources)]
        return dict(zip(names, family_weights(families).tolist(), strict=True))
    if isinstance(given, str):
        raise InputError(f"the Pareto weights '{given}' are unknown. Expected uniform, family, or a JSON file.")
    if strange := given.keys() - set(names):
        raise InputError(f"the Pareto weights name the source '{min(strange)}', which the task lacks.")
    if missing := [name for name in names if name not in given]:
        raise InputError(f"the Pareto weights lack the source '{missing[0]}'. Give 0 to leave a source out.")
    if not sum(given.values()):
        raise InputError("the Pareto weights are all 0.")
    return {name: given[name] for name in names}


def _check_trainable(table: Table, pareto_weights: Mapping[str, float], config: FitConfig) -> None:
    """What would fail after the texts are encoded and a run is open fails here instead."""
    check(config)
    train, _ = _held_out(table)
    votes = np.column_stack([table.answers, table.votes])[train]
    if not (votes[:, np.array(list(pareto_weights.values())) > 0] != ABSTAIN).any():
        raise InputError("no source with a weight above 0 votes on any row to train on.")


def _held_out(table: Table) -> tuple[np.ndarray, np.ndarray]:
    """Which rows to train on and which to stop on: train and valid, or nine tenths and a tenth of train."""
    train, valid = table.splits == "train", table.splits == "valid"
    if not train.any():
        raise InputError("the data has no row in split 'train'.")
    if not valid.any():
        tenth = np.fromiter((zlib.crc32(str(i).encode()) % 10 == 0 for i in table.ids), dtype=bool, count=len(table))
        train, valid = train & ~tenth, train & tenth
    return (train, valid) if train.any() and valid.any() else (train | valid, train | valid)


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


def _example(task: Task) -> pd.DataFrame:
    """A row to try the model on. It is made up, so that nobody's text is in MLflow."""
    text = "An example: replace it with a text of your own."
    spans = [[[0, 2], [3, 10]][entity % 2] for entity in range(len(task.data.spans))]
    row: dict[str, object] = {"text": text, "answer": task.classes[0]}
    return pd.DataFrame([row | ({"spans": spans} if spans else {})])
