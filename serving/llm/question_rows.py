"""The rows of a task that the LLM is to be asked about, checked as training checks them; answers may be missing yet."""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from serving.llm.kinds import Rows, check
from serving.llm.passages import read_passages
from training.asking import Ask
from training.errors import InputError
from training.rows import read_rows
from training.sources import load_labelling_functions
from training.table import SPLITS, Table, rows_to_table
from training.task import LLM, Task


@dataclass(frozen=True)
class ToAsk:
    """frame: all n rows as the file holds them. table: the same, checked; its answers are none.

    where: (q,) the rows to ask about, in their order.
    """

    task: Task
    ask: Ask
    frame: pd.DataFrame
    table: Table
    where: np.ndarray

    @property
    def rows(self) -> Rows:
        """The rows to ask about."""
        return Rows(self.task, self.table.texts[self.where], self.table.spans[self.where])


def read_to_ask(task: Task, split: str | None = None, limit: int | None = None, sources: bool = True) -> ToAsk:
    """Read a task's rows, and choose: those of a split, and of these the first so many.

    sources: those that more questions make are to be asked, too, and so have to be in order.

    Raises:
        InputError: as for training; and: no [ask], no such split, a source that cannot be asked.
    """
    if task.ask is None:
        raise InputError(f"{task.folder / 'task.toml'} has no [ask], which says how the LLM is asked. An empty one "
                         "asks for one of the classes.")
    frame = read_rows(task.data_path)
    for column in frame.columns:
        if frame[column].map(lambda value: isinstance(value, bytes)).any():
            raise InputError(f"{task.data.path}: '{column}' holds bytes, which the result cannot. Leave it out.")
    table = rows_to_table(*_unanswered(task, frame), task.data.path)
    _check_names(task)
    for source in task.ask.sources if sources else ():
        check(source)
        if source.passages is not None:
            read_passages(task.folder, source.passages)
    if split is not None and split not in SPLITS:
        raise InputError(f"split '{split[:60]}' is unknown. Expected one of {', '.join(SPLITS)}.")
    where = np.flatnonzero(table.splits == split) if split else np.arange(len(table))
    if not len(where):
        raise InputError(f"the data has no row in split '{split}'.")
    return ToAsk(task, task.ask, frame, table, where[:limit])


def _unanswered(task: Task, frame: pd.DataFrame) -> tuple[Task, pd.DataFrame]:
    """The same without an answer in any row."""
    column = fresh("answer", frame.columns)
    columns = task.data.model_copy(update={"answer": column, "response": None})
    return task.model_copy(update={"data": columns}), frame.assign(**{column: None})


def _check_names(task: Task) -> None:
    if task.ask is None or task.sources_path is None:
        return
    taken = {LLM, *(source.name for source in task.sources), *(source.name for source in task.ask.sources)}
    for function in load_labelling_functions(task.sources_path):
        if function.name in taken:
            raise InputError(f"sources.py names a source '{function.name}', a name that is taken. Rename it.")


def fresh(name: str, taken: object) -> str:
    """The name, or one made of it, that no column has yet."""
    columns = set(map(str, taken))  # type: ignore[call-overload]
    names = (name, f"{name}_asked", *(f"{name}_asked{number}" for number in range(2, len(columns) + 3)))
    return next(candidate for candidate in names if candidate not in columns)
