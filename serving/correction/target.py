"""The file of corrected answers: a row an answer, written in one step."""

import os
from pathlib import Path

import numpy as np
import pandas as pd

from serving.correction.course import Course
from serving.correction.judged import Judged
from serving.target import draft_of
from training.table import Table


def frame_of(table: Table, judged: Judged, course: Course) -> pd.DataFrame:
    """Classes by name; None, or NaN of a risk, where there is nothing.

    risk: before anybody was asked. new_risk, kept_risk: of the new answer and of the one that is kept, by both answers.
    """
    names = np.array([*table.classes, None], dtype=object)
    found = course.corrected
    return pd.DataFrame({
        "id": table.ids.astype(str),
        "answer": names[judged.first],
        "risk": judged.risk,
        "asked": course.asked,
        "way": [course.way if asked else None for asked in course.asked],
        "new_answer": names[found.again],
        "new_risk": found.new_risk,
        "kept_answer": names[found.kept],
        "kept_risk": found.kept_risk,
        "reason": pd.Series(course.said.reasons, dtype=object),
        "raw": pd.Series(course.said.raw, dtype=object),
    })


def write(frame: pd.DataFrame, target: Path) -> None:
    """Write it whole, or not at all, readable by its owner alone: it may hold what an LLM wrote about a text.

    Raises:
        InputError: the file cannot be written.
    """
    draft = draft_of(frame, target, 0o600)
    try:
        os.replace(draft, target)
    finally:
        draft.unlink(missing_ok=True)
