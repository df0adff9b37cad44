"""The rows of the resulting task: all that came in, and beside it what the LLM said. Pure.

What the input holds is kept, its own earlier answers too: a column of a name that is taken gets `_asked` behind it. The
votes alone become one column, {source: class}, of the task's sources and the new ones; who abstains is not in it.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from serving.llm.exchange import Reply
from serving.llm.question_rows import ToAsk, fresh
from serving.llm.result import Asked, AskedVotes, confidence
from training.table import stored_votes
from training.task import ABSTAIN, Columns

Row = dict[str, Any]


def result_rows(to_ask: ToAsk, asked: Asked) -> tuple[list[Row], Columns]:
    """All rows, in the order of the input, and what their columns mean. Rows that were not asked have no answer."""
    task, columns, frame = to_ask.task, to_ask.task.data, to_ask.frame
    rows = plain_rows(to_ask)
    taken = [str(name) for name in frame.columns]
    names = {}
    for role, name in {"answer": columns.answer, "response": columns.response or "llm_raw", "reason": "llm_reason",
                       "confidence": columns.confidence, "followup": columns.followup}.items():
        names[role] = fresh(name, taken)
        taken.append(names[role])
    for row in rows:
        row.update({names["answer"]: None, names["response"]: None})
    told = [confidence(outcome) for outcome in asked.outcomes]
    offered = any(value is not None for value in told)
    for place, outcome, meaning, sure in zip(to_ask.where.tolist(), asked.outcomes, asked.meanings, told, strict=True):
        row = rows[place]
        if isinstance(outcome, Reply):
            row[names["response"]] = outcome.text
        if meaning is not None and meaning.answer != ABSTAIN:
            row[names["answer"]] = task.classes[meaning.answer]
        row[names["reason"]] = "not asked" if meaning is None else meaning.reason
        if offered:
            row[names["confidence"]] = sure
    for source in asked.sources:
        _add_columns(rows, to_ask.where, source, taken)
    if task.sources or asked.sources:
        for row, votes in zip(rows, _votes(to_ask, asked.sources), strict=True):
            row[columns.votes] = votes
    return rows, columns.model_copy(update={
        "answer": names["answer"], "response": names["response"], "confidence": names["confidence"],
        "followup": names["followup"]})


def plain_rows(to_ask: ToAsk) -> list[Row]:
    """The input's rows as JSON's own kinds; what is missing is null."""
    frame = to_ask.frame
    values = [[_plain(value) for value in frame[name]] for name in frame.columns]
    names = [str(name) for name in frame.columns]
    return [dict(zip(names, row, strict=True)) for row in zip(*values, strict=True)]


def _votes(to_ask: ToAsk, asked: Sequence[AskedVotes]) -> list[dict[str, str]]:
    classes, ids = to_ask.task.classes, to_ask.table.ids
    stored = stored_votes(to_ask.frame, to_ask.task, ids, to_ask.task.data.path)
    names = [source.name for source in to_ask.task.sources]
    cast: list[dict[str, str]] = [{} for _ in ids]
    for row, column in np.argwhere(stored != ABSTAIN).tolist():
        cast[row][names[column]] = classes[stored[row, column]]
    for source in asked:
        for place, vote in zip(to_ask.where.tolist(), source.votes.votes.tolist(), strict=True):
            if vote != ABSTAIN:
                cast[place][source.source.name] = classes[vote]
    return cast


def _add_columns(rows: list[Row], where: np.ndarray, source: AskedVotes, taken: list[str]) -> None:
    for name, values in source.votes.columns.items():
        column = fresh(name, taken)
        taken.append(column)
        for place, value in zip(where.tolist(), values, strict=True):
            rows[place][column] = value


def _plain(value: Any) -> Any:
    if isinstance(value, np.ndarray | np.generic):
        value = value.tolist()
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, float) and math.isnan(value):
        return None
    if value is None or isinstance(value, bool | int | float | str):
        return value
    return None if str(value) in ("NaT", "<NA>") else value.isoformat() if hasattr(value, "isoformat") else str(value)
