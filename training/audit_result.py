"""What an audit leaves in a version: the recalibrated scale of its risks, and a threshold with a guarantee."""

from dataclasses import dataclass
from typing import Any

import numpy as np

SQUASH = 0.001
EDGE = float(np.log((1 - SQUASH) / SQUASH))
KNOTS = np.linspace(-EDGE, EDGE, 49)


@dataclass(frozen=True)
class Recalibration:
    """The map from a label-free risk to the recalibrated one.

    values: the recalibrated risk at the knots, equally spaced in logit(0.998 r + 0.001) from r = 0 to 1; empty: the
    identity. mean_risk, mean_low, mean_high: its mean over the answers it was made for, and the 90 % interval of that;
    None without. curve: (risk, recalibrated, low, high) at ten risks, with the 90 % interval of the curve there.
    labels: how many checked answers it used.
    """

    values: tuple[float, ...] = ()
    labels: int = 0
    mean_risk: float | None = None
    mean_low: float | None = None
    mean_high: float | None = None
    curve: tuple[tuple[float, float, float, float], ...] = ()

    def apply(self, risk: np.ndarray) -> np.ndarray:
        """The recalibrated risks (n,) in [0, 1], NaN where risk is; never in another order."""
        return np.interp(squashed(risk), KNOTS, self.values) if self.values else risk

    @property
    def words(self) -> str:
        """What the audit found, in a sentence; none without one."""
        if self.mean_risk is None:
            return ""
        return (f"recalibrated by {self.labels} checked answer{'s' * (self.labels != 1)}: the mean risk is "
                f"{self.mean_risk:.1%}, with confidence 0.9 between {self.mean_low:.1%} and {self.mean_high:.1%}")

    def summary(self) -> dict[str, Any] | None:
        """For JSON: mean risk, its 90 % interval, and the curve with its own; None where nothing was recalibrated."""
        if self.mean_risk is None:
            return None
        keys = ("risk", "recalibrated", "low", "high")
        return {"mean_risk": self.mean_risk, "interval": [self.mean_low, self.mean_high],
                "curve": [dict(zip(keys, point, strict=True)) for point in self.curve]}


UNCHANGED = Recalibration()


@dataclass(frozen=True)
class Guarantee:
    """What accepting every answer with risk ≤ threshold promises.

    threshold: None if no threshold can be promised, a legal answer. accepted: the share of the answers of valid that
    it accepts, 0 without. upper: the exact upper limit of their error rate at confidence 1 − delta, this border taken
    alone; 1 without. labels: how many checked labels it rests on. words: the promise, or why there is none.
    """

    alpha: float
    delta: float
    threshold: float | None
    accepted: float
    upper: float
    labels: int
    words: str


def squashed(risk: np.ndarray) -> np.ndarray:
    """logit(0.998 r + 0.001), finite for risks of 0 and 1."""
    inside = (1 - 2 * SQUASH) * np.asarray(risk, dtype=np.float64) + SQUASH
    return np.log(inside) - np.log1p(-inside)
