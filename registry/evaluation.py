"""A registered version on a labelled task: its measures, and what it accepts; and which task that is."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from registry.versions import Version, Versions
from training.audit_result import Guarantee
from training.calibration import Measures
from training.errors import InputError
from training.job import labelled_measures
from training.model import Encode, load
from training.scoring import fitted, known_to
from training.sources import ABSTAIN
from training.table import Table
from training.tracking import TASK_TAG


@dataclass(frozen=True)
class Accepted:
    """What accepting every answer up to the guaranteed threshold means on a split.

    threshold: None where none can be promised; then nothing is accepted. share: of the answers. error_rate: among the
    accepted with a gold label, None without any.
    """

    threshold: float | None
    share: float
    error_rate: float | None

    @property
    def words(self) -> str:
        """The same as a sentence."""
        if self.threshold is None:
            return "no threshold is guaranteed: nothing is accepted"
        rate = "none of these has a label" if self.error_rate is None else f"{self.error_rate:.1%} of these are wrong"
        return (f"the guaranteed threshold, a risk of {self.threshold:.4g}, accepts {self.share:.1%} of the answers; "
                f"{rate}")


@dataclass(frozen=True)
class Evaluation:
    """A version on a split. without_votes: as if no source had voted. accepted: None without a guarantee."""

    measures: Measures
    without_votes: Measures
    accepted: Accepted | None


def evaluate(versions: Versions, version: Version, table: Table, encode: Encode, split: str) -> Evaluation:
    """A version on a split of a task.

    Raises:
        InputError: the split has no row with both an answer and a gold label.
    """
    model = load(versions.folder(version))
    table = fitted(model, known_to(model, table.rows(table.splits == split)))
    beliefs = model.beliefs(table.texts, table.spans, encode)
    with_votes, without = (model.judge(beliefs, table.answers, votes).risk
                           for votes in (table.votes, np.full_like(table.votes, ABSTAIN)))
    found, bare = (labelled_measures(table, risk, split) for risk in (with_votes, without))
    if found is None or bare is None:
        raise InputError(f"split '{split}' has no row with both an answer and a gold label to measure by.")
    return Evaluation(found, bare, accepted(model.spec.guarantee, table, with_votes) if model.spec.guarantee else None)


def accepted(guarantee: Guarantee, table: Table, risk: np.ndarray) -> Accepted:
    """What a guaranteed threshold accepts of a table's answers, given their risks (n,), NaN = no answer."""
    taken = risk <= (-1.0 if guarantee.threshold is None else guarantee.threshold)
    told = taken & (table.labels != ABSTAIN)
    answered = int((table.answers != ABSTAIN).sum())
    return Accepted(guarantee.threshold, float(taken.sum() / answered) if answered else 0.0,
                    float((table.answers != table.labels)[told].mean()) if told.any() else None)


def task_folder(versions: Versions, version: Version, given: Path | None) -> Path:
    """The task to judge a version by: the given one, or the one it was trained on, where that still is.

    Raises:
        InputError: neither is to be had.
    """
    if given is not None:
        return given
    trained_on = _trained_on(versions, version)
    if trained_on is None or not Path(trained_on).is_dir():
        raise InputError(f"the task that {version.uri} was trained on is not here any more. Name one with --task.")
    return Path(trained_on)


def _trained_on(versions: Versions, version: Version) -> str | None:
    """What the version's run says, where there is one: a version that was registered by hand has none."""
    from mlflow.exceptions import MlflowException

    try:
        return versions.run_tag(version, TASK_TAG) if version.run_id else None
    except MlflowException:
        return None
