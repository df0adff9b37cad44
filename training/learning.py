"""From a task's rows to a version: the harmonizer, what the votes are worth, and how sure the harmonizer may be."""

import hashlib
from collections.abc import Callable, Mapping

import numpy as np

from training.beliefs import Harmonizer, beliefs_of
from training.encoder import default_spec
from training.fit import Epoch, Fit, FitConfig, Voted, check, fit
from training.model import RiskModel
from training.risk import sharpened, sharpness
from training.selection import held_out, some
from training.sources import load_labelling_functions
from training.spec import Spec
from training.table import Table
from training.task import Task
from training.textfit import fit_texts
from training.transformer import KIND as TRANSFORMER
from training.weighting import families_of, worth_of_votes
from training.worth import refined


def learn(
    task: Task,
    table: Table,
    vectors: np.ndarray,
    pareto_weights: Mapping[str, float],
    config: FitConfig,
    on_epoch: Callable[[Epoch], None] = lambda epoch: None,
    tell: Callable[[str], None] = lambda line: None,
) -> tuple[Fit, RiskModel]:
    """Train on a table's rows and their vectors (n, width). Uses no label: shuffling them changes no bit.

    A transformer leaves the vectors alone, and stays on the device that it was trained on.
    tell: is given a line whenever a GPU runs out of memory.
    """
    votes = np.column_stack([table.answers, table.votes])
    train, held = held_out(table)
    weights = np.array(list(pareto_weights.values()))
    check(config)
    harmonizer: Harmonizer
    if config.harmonizer == TRANSFORMER:
        harmonizer, fitted = fit_texts(table.rows(train), table.rows(held), weights, config, on_epoch, tell)
        harmonizer.network.to(config.device)
    else:
        fitted = fit(Voted(vectors[train], votes[train]), Voted(vectors[held], votes[held]),
                     len(table.classes), weights, config, on_epoch, families_of(task, table), tell)
        harmonizer = fitted.harmonizer
    rows = some(train, config.seed)
    beliefs = beliefs_of(harmonizer, table.texts[rows], table.spans[rows], lambda texts: vectors[rows])
    power = sharpness(beliefs, table.answers[rows])
    worth = refined(worth_of_votes(task, table, rows), votes[rows], families_of(task, table),
                    sharpened(beliefs, power))
    functions = load_labelling_functions(task.sources_path) if task.sources_path else ()
    functions = tuple(function for function in functions if function.needs_only_text)
    spec = Spec(
        name=task.name, classes=table.classes, sources=table.sources, stored_sources=len(task.sources),
        columns=task.data, encoder=default_spec(), harmonizer=config.harmonizer, scalariser=config.scalariser,
        pareto_weights=dict(pareto_weights), sharpness=power, data_digest=table.digest,
        sources_digest=hashlib.sha256(task.sources_path.read_bytes()).hexdigest()
        if functions and task.sources_path else None,
        ask=task.ask,
    )
    return fitted, RiskModel(spec, harmonizer, worth, functions)
