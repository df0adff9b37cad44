"""What a training job does about an audit: draw answers for a person to check, or use those that came back.

What makes no sense is refused before anything is trained. Labels come from the file alone, never from the task's data.
"""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from training.audit import Audited, Draw, check_draw, check_target, draw, read_audit
from training.errors import InputError
from training.guarantee import guarantee
from training.model import RiskModel
from training.recalibration import fit_recalibration
from training.table import Table
from training.task import ABSTAIN

ALPHA, DELTA = 0.10, 0.10


@dataclass(frozen=True)
class Plan:
    """What is asked for; by default nothing.

    draw: how many answers to draw, None for none. target: the file they go to, None for `NAME-audit.csv` in the
    current folder. checked: a file that came back, None for none. alpha: the error rate to stay under.
    delta: one less the confidence.
    """

    draw: int | None = None
    target: Path | None = None
    checked: Path | None = None
    alpha: float = ALPHA
    delta: float = DELTA

    def file(self, name: str) -> Path:
        """Where drawn answers of a model go."""
        return self.target or Path(f"{name}-audit.csv")


NOTHING = Plan()


def prepare(plan: Plan, table: Table, name: str) -> Audited | None:
    """Refuse a plan that cannot be carried out; read the checked answers if it has any.

    Raises:
        InputError: both a draw and checked answers, alpha or delta outside (0, 1), an N that the data cannot give, a
        file that cannot be written, or one that `read_audit` refuses.
    """
    for option, value in (("--alpha", plan.alpha), ("--delta", plan.delta)):
        if not 0 < value < 1:
            raise InputError(f"{option} should lie between 0 and 1. Found {value}.")
    if plan.draw is not None and plan.checked:
        raise InputError("--audit draws answers to check, --audited uses those that were checked. Give one of them.")
    if plan.draw is not None:
        check_draw(table.answers != ABSTAIN, table.splits, plan.draw, plan.alpha)
        check_target(plan.file(name))
    return read_audit(plan.checked, table) if plan.checked else None


def drawn(plan: Plan, risk: np.ndarray, table: Table, seed: int) -> Draw | None:
    """The answers to check, by their label-free risks (rows,); None where none are asked for."""
    return None if plan.draw is None else draw(risk, table.splits, plan.draw, seed, plan.alpha)


def audited_model(plan: Plan, audited: Audited, model: RiskModel, risk: np.ndarray, table: Table) -> RiskModel:
    """A label-free version, recalibrated by checked answers, with the guarantee that they allow.

    risk: (rows,) the label-free risks that it gives the rows of the table, NaN where there is no answer.
    """
    rows = audited.rows[audited.checked]
    error = (audited.labels[audited.checked] != table.answers[rows]).astype(np.float64)
    recalibration = fit_recalibration(risk[rows], error, pool=pool_of(risk, table.splits))
    found = guarantee(risk, table.splits, table.answers, audited, plan.alpha, plan.delta, recalibration)
    return replace(model, spec=model.spec.model_copy(update={"recalibration": recalibration, "guarantee": found}))


def pool_of(risk: np.ndarray, splits: np.ndarray) -> np.ndarray:
    """The risks of the answers of split valid, if there are none of all: those whose mean an audit reports.

    risk: (rows,), NaN where there is no answer.
    """
    answered = ~np.isnan(risk)
    valid = answered & (splits == "valid")
    return risk[valid if valid.any() else answered]
