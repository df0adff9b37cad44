"""New answers scored again, and the better one kept by risk. Pure."""

from dataclasses import dataclass

import numpy as np

from serving.correction.habits import Habits, kept, weighed
from serving.correction.judged import Judged, believed
from training.task import ABSTAIN


@dataclass(frozen=True)
class Corrected:
    """n rows after asking again. again: (n,) new answers, -1 = none, or not asked.

    probabilities: (n, K) p', with the new answers as evidence. kept: (n,) the answers that are kept. new_risk,
    kept_risk: (n,) of the new and of the kept answer, 1 − p'; NaN where there is none.
    """

    again: np.ndarray
    probabilities: np.ndarray
    new_risk: np.ndarray
    kept: np.ndarray
    kept_risk: np.ndarray


def corrected(judged: Judged, again: np.ndarray, habits: Habits, margin: float | None) -> Corrected:
    """Weigh the new answers (n,), -1 = none; a row without one stays as it is. margin: None, no first answer goes."""
    probabilities = weighed(judged.probabilities, judged.first, again, habits)
    probabilities = np.where((again == ABSTAIN)[:, None], judged.probabilities, probabilities)
    found = judged.first if margin is None else kept(probabilities, judged.first, again, margin)
    return Corrected(again, probabilities, _risk(probabilities, again), found, _risk(probabilities, found))


def _risk(probabilities: np.ndarray, answers: np.ndarray) -> np.ndarray:
    return np.where(answers == ABSTAIN, np.nan, np.clip(1 - believed(probabilities, answers), 0, 1))
