"""A registered version on a labelled task: its risks, its measures, and its comparison with the champion."""

from pathlib import Path

import numpy as np

from registry.gates import Compared
from registry.versions import Version, Versions
from training.calibration import Measures
from training.errors import InputError
from training.job import labelled_measures
from training.model import Encode, load
from training.scoring import fitted, known_to, score_table
from training.sources import ABSTAIN
from training.table import Table, read_table
from training.task import read_task
from training.tracking import TASK_TAG


def evaluate(versions: Versions, version: Version, table: Table, encode: Encode, split: str) -> Measures:
    """The measures of a version on a split of a task.

    Raises:
        InputError: the split has no row with both an answer and a gold label.
    """
    found = labelled_measures(table, risks(versions, version, table, encode), split)
    if found is None:
        raise InputError(f"split '{split}' has no row with both an answer and a gold label to measure by.")
    return found


def risks(versions: Versions, version: Version, table: Table, encode: Encode) -> np.ndarray:
    """The risks (n,) that a version gives a task's answers, sources new to it left out; NaN without an answer."""
    model = load(versions.folder(version))
    return score_table(model, encode, fitted(model, known_to(model, table))).risk


def compare(
    versions: Versions, candidate: Version, champion: Version | None, table: Table, encode: Encode
) -> Compared:
    """Candidate and champion on the same answered rows."""
    answered = table.rows(table.answers != ABSTAIN)
    error = np.where(answered.labels == ABSTAIN, np.nan, (answered.answers != answered.labels).astype(float))
    return Compared(
        risks(versions, candidate, answered, encode),
        risks(versions, champion, answered, encode) if champion else None,
        error,
    )


def task_of(versions: Versions, version: Version, given: Path | None) -> Table:
    """The task to judge a version by: the given one, or the one it was trained on, where that still is.

    Raises:
        InputError: neither is to be had.
    """
    trained_on = versions.run_tag(version, TASK_TAG)
    if given is None and (trained_on is None or not Path(trained_on).is_dir()):
        raise InputError(f"the task that {version.uri} was trained on is not here any more. Name one with --task.")
    return read_table(read_task(given or Path(str(trained_on))))
