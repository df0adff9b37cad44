"""Scoring tables: raw rows, or a task's, to a frame of risks."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from training.beliefs import Encode
from training.errors import InputError
from training.model import RiskModel, Scores, align_votes
from training.rows import parsed
from training.sources import ABSTAIN
from training.table import Table, rows_to_table
from training.task import Header, Source, Task

_VOTES = (list, tuple, np.ndarray, dict)


def score_table(model: RiskModel, encode: Encode, table: Table) -> Scores:
    """Score the rows of a table whose sources and classes are the version's, as `rows_of` and `fitted` make it."""
    return model.judge(model.beliefs(table.texts, table.spans, encode), table.answers, table.votes)


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


def known_to(model: RiskModel, table: Table) -> Table:
    """A table without the sources that a version was not trained with; it has nothing to say about their votes."""
    names = {source.name for source in model.spec.sources}
    known = [place for place, source in enumerate(table.sources) if source.name in names]
    return replace(table, votes=table.votes[:, known], sources=tuple(table.sources[place] for place in known))


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


def rows_to_score(task: Task, stored: int, frame: pd.DataFrame, path: str) -> Table:
    """Check raw rows that are to be scored: `id`, `text`, `spans`, `answer`, `votes`, or the task's own column names.

    task: its sources are all that a version knows, of which the data of its own making holds the first `stored`.
    Everything but the text may be missing; ids are then row numbers, answers and votes -1.
    The table's sources are those that the rows have votes of.
    """
    own = task.data
    frame = frame.copy()
    names = {key: next((name for name in (getattr(own, key), key) if name in frame), None)
             for key in ("id", "text", "answer", "votes")}
    if not names["id"]:
        frame["id"] = [str(number) for number in range(1, len(frame) + 1)]
    if not names["answer"]:
        frame["answer"] = ABSTAIN
    if (votes := names["votes"]) and frame[votes].isin([None, np.nan, ""]).all():
        frame, names["votes"] = frame.drop(columns=votes), None
    spans = own.spans
    if spans and not set(spans) <= set(frame.columns) and "spans" in frame:
        frame = _split_spans(frame, spans, path)
    sources = _sources_in(frame, names["votes"], task.sources, stored)
    if names["votes"]:
        frame[names["votes"]] = _with_abstentions(frame[names["votes"]], len(sources))
    columns = own.model_copy(update={
        "id": names["id"] or "id", "text": names["text"] or own.text, "answer": names["answer"] or "answer",
        "votes": names["votes"] or own.votes, "split": None, "response": None, "label": None,
    })
    return rows_to_table(task.model_copy(update={"data": columns, "sources": sources}), frame, path)


def _sources_in(frame: pd.DataFrame, votes: str | None, sources: tuple[Source, ...], stored: int) -> tuple[Source, ...]:
    """Of a version's sources, those that the votes in a frame are of."""
    if votes is None:
        prefixed = {column for column in frame.columns if str(column).startswith("vote:")}
        if strange := prefixed - {f"vote:{source.name}" for source in sources}:
            raise InputError(f"the column '{min(strange)}' is of no source that this version knows.")
        return tuple(source for source in sources if f"vote:{source.name}" in prefixed)
    first = next((value for value in map(parsed, frame[votes]) if isinstance(value, _VOTES)), None)
    if isinstance(first, list | tuple | np.ndarray) and len(first) != len(sources):
        return sources[:stored]
    return sources


def _with_abstentions(column: pd.Series, sources: int) -> pd.Series:
    """Votes of rows to score: where a row has none, each source abstains."""
    values = [parsed(value) for value in column]
    nothing: Any = {} if any(isinstance(value, dict) for value in values) else [ABSTAIN] * sources
    missing = column.isin([None, np.nan, ""])
    return pd.Series([nothing if gone else value for gone, value in zip(missing, values, strict=True)],
                     dtype=object, index=column.index)


def _split_spans(frame: pd.DataFrame, names: tuple[str, ...], path: str) -> pd.DataFrame:
    values = [parsed(value) for value in frame["spans"]]
    for row, value in enumerate(values):
        if not isinstance(value, list | tuple | np.ndarray) or len(value) != len(names):
            raise InputError(f"{path}, row {row + 1}: 'spans' should hold {len(names)} pairs [start, end].")
    return frame.assign(**{name: pd.Series([value[e] for value in values], dtype=object, index=frame.index)
                           for e, name in enumerate(names)})
