"""Judging a promotion: gather the facts about candidate and champion, each costly one once; the gates decide."""

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import numpy as np

from registry.evaluation import task_folder
from registry.gate_config import GateConfig, Transition
from registry.gates import Compared, Decision, Facts, Measured, decide, together
from registry.operation import try_out
from registry.seen import seen_by
from registry.stages import PRODUCTION, STAGING
from registry.versions import Version, Versions
from training.beliefs import Encode
from training.errors import InputError
from training.job import embeddings
from training.model import RiskModel, load
from training.scoring import fitted, known_to
from training.sources import ABSTAIN
from training.state import State
from training.table import SPLITS, Table, read_table
from training.task import read_task

OPERATIONAL = ("loads", "reload", "signature", "requirements")


@dataclass(frozen=True)
class Judged:
    """A decision, and what it was made on.

    compared: candidate and champion on the task's answered rows; None: there was no task to be had. task: its name.
    task_digest: SHA-256 of its data. labelled: how many of the rows have a gold label. measured: the bundle, running.
    """

    decision: Decision
    compared: Compared | None
    task: str | None
    task_digest: str | None
    split: str
    labelled: int
    measured: Measured | None = None


@dataclass(frozen=True)
class _Rows:
    """The answered rows of a task's split; table None: there are none, for the reason."""

    name: str | None = None
    table: Table | None = None
    reason: str = ""


def judge(
    state: State,
    versions: Versions,
    candidate: Version,
    champion: Version | None,
    to: str,
    gates: GateConfig,
    task: Path | None = None,
    split: str | None = None,
    measured: Measured | Callable[[], Measured] | None = None,
) -> Judged:
    """Judge a candidate by the gates before a stage; on its way to production past staging, by those of both.

    champion: the version that holds the stage now. task, split: to judge by, instead of those that the gates' file
    names. measured: the candidate's bundle, running, or what waits for it; None: nobody measured it.

    Raises:
        InputError: a task that was named, or the candidate's files, are at fault; an unknown split.
    """
    if split is not None and split not in SPLITS:
        raise InputError(f"split '{split}' is unknown. Expected one of {', '.join(SPLITS)}.")
    ways = [replaced(way, task, split) for way in _ways(gates, candidate.stage, to)]
    folder = versions.folder(candidate)
    with ThreadPoolExecutor(1) as beside:
        wanted = any(way.gates.standing.keys() & set(OPERATIONAL) for way in ways)
        tried = beside.submit(try_out, folder.parent) if wanted else None  # a process of its own: it takes seconds
        model, encode = load(folder), embeddings(state)
        other, no_champion = _champion(versions, champion)

        @cache
        def gathered(task: Path | None, split: str) -> tuple[_Rows, Facts]:
            rows = _rows(versions, candidate, model, task, split)
            return rows, _facts(rows, model, other, no_champion, encode)

        found = [(way, *gathered(way.task, way.split)) for way in ways]
        operation = tried.result() if tried else None
    measured = measured() if callable(measured) else measured
    decisions = [decide(replace(facts, operation=operation, measured=measured), way) for way, _, facts in found]
    last, rows, facts = found[-1]
    return Judged(
        decision=together(*decisions) if len(decisions) == 2 else decisions[0],
        compared=facts.rows, task=rows.name, task_digest=rows.table.digest if rows.table else None, split=last.split,
        labelled=int(np.isfinite(facts.rows.error).sum()) if facts.rows else 0, measured=measured,
    )


def replaced(way: Transition, task: Path | None, split: str | None) -> Transition:
    """A transition that is judged by another task or split, where these are given."""
    given = {"task": task, "split": split}
    return way.model_copy(update={key: value for key, value in given.items() if value is not None})


def _ways(gates: GateConfig, stage: str, to: str) -> list[Transition]:
    by_stage: Mapping[str, Transition] = {STAGING: gates.staging, PRODUCTION: gates.production}
    skipped = [gates.staging] if to == PRODUCTION and stage != STAGING else []
    return [*skipped, by_stage[to]]


def _champion(versions: Versions, champion: Version | None) -> tuple[RiskModel | None, str]:
    """The champion's model; or None, and why, if there is one that does not load: it may be replaced all the same."""
    try:
        return (load(versions.folder(champion)) if champion else None), ""
    except InputError as error:
        return None, f"the champion cannot be judged: {_said(error)}"


def _rows(versions: Versions, candidate: Version, model: RiskModel, task: Path | None, split: str) -> _Rows:
    """The rows to judge by. A task that nobody named, the one trained on, may be gone; one that was named may not."""
    try:
        described = read_task(task_folder(versions, candidate, task))
        table = read_table(described).split(split)
        table = table.rows(table.answers != ABSTAIN)
        fitted(model, known_to(model, table))
        return _Rows(described.name, table)
    except InputError as error:
        if task is not None:
            raise
        return _Rows(reason=f"there is no task to judge it by: {_said(error)}")


def _facts(rows: _Rows, model: RiskModel, champion: RiskModel | None, no_champion: str, encode: Encode) -> Facts:
    table = rows.table
    if table is None:
        return Facts(no_rows=rows.reason, no_champion=no_champion)
    error = np.where(table.labels == ABSTAIN, np.nan, (table.answers != table.labels).astype(float))
    risk, seen = seen_by(model, table, encode, alone=True)
    if champion is None:
        return Facts(Compared(risk, None, error), seen, no_champion=no_champion)
    try:
        other, seen_by_other = seen_by(champion, table, encode, alone=False)
    except InputError as found:
        return Facts(Compared(risk, None, error), seen,
                     no_champion=f"the champion cannot be judged on these rows: {_said(found)}")
    return Facts(Compared(risk, other, error), seen, seen_by_other)


def _said(error: InputError) -> str:
    return str(error).rstrip(".")
