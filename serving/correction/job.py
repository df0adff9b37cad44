"""Correcting a task: its rows judged by a version, asked again, weighed, measured where there are labels, logged."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np

from registry.versions import Version, Versions
from serving.correction import course
from serving.correction.asked import Asker
from serving.correction.course import Course, Plan
from serving.correction.evidence import Material
from serving.correction.helped import Curve, curve
from serving.correction.judged import Judged, judge
from serving.correction.measured import Measured, measured
from serving.correction.pilot import everybody
from serving.correction.rerisk import corrected
from serving.correction.similar import low_risk
from serving.correction.stored import Stored, read_stored
from serving.correction.ways import WAYS
from training.asking import Ask
from training.encoder import passages
from training.errors import InputError
from training.job import embeddings
from training.model import RiskModel, load
from training.rows import read_rows
from training.scoring import fitted, known_to
from training.state import State
from training.table import Table, read_table
from training.task import Task, read_task

AUTO = "auto"


@dataclass(frozen=True)
class Correction:
    """A task's split, corrected. llm: what it is called. priced: whether the cost is known.

    measured: beside gold labels, None without any. trouble: why asking broke off, None = it did not.
    """

    version: Version
    split: str
    llm: str
    table: Table
    judged: Judged
    course: Course
    measured: Measured | None
    priced: bool
    trouble: str | None

    def expected(self) -> Curve:
        """Accuracy by threshold as it is expected without labels."""
        right, chosen = self.judged.right, self.course.chosen
        return curve(self.judged.risk, right, right + chosen.gain, everybody(self.judged, chosen.habits),
                     np.ones(len(right), dtype=bool))


@dataclass(frozen=True)
class Rows:
    """A task as a version sees it. places: of the split's rows in the whole table."""

    task: Task
    version: Version
    model: RiskModel
    table: Table
    places: np.ndarray
    state: State

    @property
    def split(self) -> Table:
        """The rows of the split."""
        return self.table.rows(self.places)


def read(task_dir: Path, uri: str, split: str, state: State) -> Rows:
    """Read a task and a version.

    Raises:
        InputError: the task, the version or the split is at fault.
    """
    task = read_task(task_dir)
    whole = read_table(task)
    whole.split(split)  # which refuses one that is not there
    versions = Versions(state)
    version = versions.get(uri)
    model = load(versions.folder(version))
    table = fitted(model, known_to(model, whole))
    return Rows(task, version, model, table, np.flatnonzero(table.splits == split), state)


def correct_stored(rows: Rows, split: str, way: str, plan: Plan, price: float = 0.0) -> Correction:
    """Correct by what the LLM said when it was asked again, as the data holds it.

    Raises:
        InputError: the data has no such column or way, or something else in it.
    """
    stored = _stored(rows, price)
    if way not in (AUTO, *stored.answers):
        raise InputError(f"'{rows.task.data.followup}' of {rows.task.data.path} holds no answers of the way "
                         f"'{way[:60]}'. It has {', '.join(stored.answers)}.")
    ways = list(stored.answers) if way == AUTO else [way]
    judged = judge(rows.model, embeddings(rows.state), rows.split)
    able = np.logical_and.reduce([stored.held[name] for name in ways])
    if not able.any():
        raise InputError(f"no row of this split has what the LLM said in all the ways, {', '.join(ways)}. "
                         "Choose one of them with --way.")
    found = course.run(judged, ways, able, stored, plan)
    every = corrected(judged, stored.answers[found.way], found.chosen.habits, found.chosen.margin)
    told = measured(judged, rows.split.labels, every, found.asked, stored.held[found.way], price or None)
    return Correction(rows.version, split, rows.task.task.llm, rows.split, judged, found, told, price > 0, None)


def correct_asking(
    rows: Rows, split: str, way: str, plan: Plan, ask: Callable[[Material], Asker], llm: str, priced: bool
) -> Correction:
    """Correct by asking. ask: makes what asks, from the material for prompts. llm: who is asked.

    Raises:
        InputError: there is no such way, or it has nothing to show; the endpoint is not to be had.
    """
    if way not in (AUTO, *WAYS):
        raise InputError(f"there is no way '{way[:60]}' of asking again. Expected {AUTO} or one of {', '.join(WAYS)}.")
    encode = embeddings(rows.state)
    whole = way in (AUTO, "similar")  # rows that are like a row may be in any split
    table, places = (rows.table, rows.places) if whole else (rows.split, np.arange(len(rows.places)))
    judged = judge(rows.model, encode, table)
    trusted = judged.risk <= low_risk(rows.model.spec.guarantee)

    @cache
    def vectors() -> np.ndarray:
        return encode(passages(table.texts, table.spans))

    material = Material(table, judged, rows.task.ask or rows.model.spec.ask or Ask(), trusted, vectors)
    if way not in (AUTO, *material.ways(places)):
        raise InputError(f"the way '{way}' has nothing to show: "
                         + ("no source votes on these rows." if way == "explain" else "no row has a risk that is low."))
    ways = material.ways(places) if way == AUTO else [way]
    own, asker = judged.rows(places), ask(material)
    found = course.run(own, ways, np.ones(len(places), dtype=bool), lambda name, at: asker(name, places[at]), plan)
    every = corrected(own, found.said.answers, found.chosen.habits, found.chosen.margin)
    told = measured(own, rows.split.labels, every, found.asked, found.asked, found.cost_of_one if priced else None)
    return Correction(rows.version, split, llm, rows.split, own, found, told, priced, getattr(asker, "trouble", None))


def _stored(rows: Rows, price: float) -> Stored:
    data = rows.task.data
    frame = read_rows(rows.task.data_path)
    if data.followup not in frame:
        raise InputError(f"{data.path} has no column '{data.followup}' of what the LLM said when it was asked again. "
                         "Name it in task.toml, [data] followup, or leave --stored out.")
    return read_stored(frame[data.followup].iloc[rows.places], rows.table.classes, rows.split.ids,
                       f"{data.path}: '{data.followup}'", price)


