"""Scoring tables: raw rows, or a task's, to a frame of risks."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from training.encoder import passages
from training.errors import InputError
from training.model import Encode, RiskModel, Scores, align_votes
from training.sources import ABSTAIN
from training.table import Table, rows_to_score
from training.task import Header, Task


def score_table(model: RiskModel, encode: Encode, table: Table) -> Scores:
    """Score the rows of a table whose sources and classes are the version's, as `rows_of` and `fitted` make it."""
    return model.score(encode(passages(table.texts, table.spans)), table.answers, table.votes)


def fitted(model: RiskModel, table: Table) -> Table:
    """A table as a version sees it: its sources matched by name, those that it lacks filled in or abstaining.

    Raises:
        InputError: the table's classes are not the version's, or it has a source the version does not know.
    """
    if table.classes != model.spec.classes:
        raise InputError(f"the task's classes are not those of the version of '{model.spec.name}'. "
                         f"Expected {', '.join(model.spec.classes)}.")
    if table.spans.shape[1] != len(model.spec.columns.spans):
        raise InputError(f"the rows mark {table.spans.shape[1]} entities a text. The version was trained on "
                         f"{len(model.spec.columns.spans)}.")
    votes = align_votes(table.votes, table.sources, model.spec.sources)
    return replace(table, votes=model.complete_votes(table.texts, table.spans, votes), sources=model.spec.sources)


def rows_of(model: RiskModel, frame: pd.DataFrame, path: str) -> Table:
    """Raw rows that are to be scored, as the version sees them; `path` names them in errors."""
    spec = model.spec
    task = Task(folder=Path(), task=Header(name=spec.name, classes=spec.classes), data=spec.columns,
                sources=spec.sources)
    return fitted(model, rows_to_score(task, spec.stored_sources, frame, path))


def score_rows(model: RiskModel, encode: Encode, frame: pd.DataFrame, path: str) -> pd.DataFrame:
    """Raw rows to a frame of risks, as in `scores_frame`."""
    table = rows_of(model, frame, path)
    return scores_frame(table, score_table(model, encode, table))


def scores_frame(table: Table, scores: Scores) -> pd.DataFrame:
    """A row an answer: id, risk, p_CLASS…, answer, harmonizer_answer; classes by name."""
    names = np.array([*table.classes, None], dtype=object)
    return pd.DataFrame({
        "id": table.ids.astype(str),
        "risk": scores.risk,
        **{f"p_{name}": scores.probabilities[:, k] for k, name in enumerate(table.classes)},
        "answer": names[np.where(table.answers == ABSTAIN, len(table.classes), table.answers)],
        "harmonizer_answer": names[scores.harmonizer_answers],
    })
