"""Gates: may a version go on to a stage? Decided from risks and errors on the same rows. Pure.

Each gate passes, fails, or is unknown because what it needs is not there; only a failure refuses.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from training.calibration import aurc, auroc, ece

PASS, FAIL, UNKNOWN = "pass", "fail", "unknown"
RESAMPLES = 200


@dataclass(frozen=True)
class Gates:
    """The margins: by how much a measure may be worse than the champion's.

    What is within one paired-bootstrap standard error is not held against a candidate either.
    """

    ece: float = 0.02
    auroc: float = 0.02
    aurc: float = 0.02
    least_labelled: int = 30


@dataclass(frozen=True)
class Gate:
    """What one gate found, in figures and in words."""

    name: str
    state: str
    reason: str
    candidate: float | None = None
    champion: float | None = None


@dataclass(frozen=True)
class Decision:
    """All gates' findings; `allowed` unless one of them failed."""

    gates: tuple[Gate, ...]

    @property
    def allowed(self) -> bool:
        """Whether no gate failed."""
        return all(gate.state != FAIL for gate in self.gates)

    @property
    def refusal(self) -> str:
        """Why not, in one line."""
        return "; ".join(f"{gate.name}: {gate.reason}" for gate in self.gates if gate.state == FAIL)


@dataclass(frozen=True)
class Compared:
    """Candidate and champion on the same rows, those that the LLM answered.

    candidate, champion: (n,) risks; champion None if no version holds the stage. error: (n,) 0, 1, or NaN
    where there is no gold label.
    """

    candidate: np.ndarray
    champion: np.ndarray | None
    error: np.ndarray


# measure, which direction is better, and how to call it
_LABELLED: dict[str, tuple[Callable[[np.ndarray, np.ndarray], float | None], float]] = {
    "ece": (ece, -1.0), "auroc": (auroc, 1.0), "aurc": (aurc, -1.0),
}


def decide(rows: Compared, gates: Gates = Gates()) -> Decision:
    """Judge a candidate against the champion."""
    sound = _sound(rows.candidate)
    if sound.state == FAIL:
        return Decision((sound,))
    return Decision((sound, *(_not_worse(name, rows, gates) for name in _LABELLED)))


def _sound(risk: np.ndarray) -> Gate:
    if not len(risk):
        return Gate("sound", FAIL, "there is no answer to judge it by")
    if not np.isfinite(risk).all():
        return Gate("sound", FAIL, f"{np.mean(~np.isfinite(risk)):.1%} of the risks are no numbers")
    if np.ptp(risk) < 1e-6:
        return Gate("sound", FAIL, f"every answer has the same risk, {risk[0]:.3f}")
    return Gate("sound", PASS, f"{len(risk)} risks between {risk.min():.3f} and {risk.max():.3f}")


def _not_worse(name: str, rows: Compared, gates: Gates) -> Gate:
    measure, sign = _LABELLED[name]
    told = np.isfinite(rows.error)
    if told.sum() < gates.least_labelled:
        return Gate(name, UNKNOWN, f"{told.sum()} labelled answers, {gates.least_labelled} needed")
    error = rows.error[told]
    own = measure(rows.candidate[told], error)
    if own is None:
        return Gate(name, UNKNOWN, "the labelled answers are all right or all wrong")
    if rows.champion is None:
        return Gate(name, PASS, "no version to compare with yet", own)
    other = measure(rows.champion[told], error)
    if other is None:
        return Gate(name, UNKNOWN, "the champion's cannot be told", own)
    loss, margin = sign * (other - own), getattr(gates, name)
    noise = _noise(measure, rows.candidate[told], rows.champion[told], error)
    words = f"{own:.3f} beside {other:.3f} of the champion, on the same {told.sum()} labelled answers"
    if loss > margin + noise:
        return Gate(name, FAIL, f"{words}: worse by {loss:.3f}, more than {margin:.3f} and the noise of {noise:.3f}",
                    own, other)
    return Gate(name, PASS, words, own, other)


def _noise(
    measure: Callable[[np.ndarray, np.ndarray], float | None], one: np.ndarray, two: np.ndarray, error: np.ndarray
) -> float:
    """Paired-bootstrap standard error of the difference of a measure between two versions."""
    draws = np.random.default_rng(0).integers(len(error), size=(RESAMPLES, len(error)))
    pairs = [(measure(one[rows], error[rows]), measure(two[rows], error[rows])) for rows in draws]
    differences = [a - b for a, b in pairs if a is not None and b is not None]
    return float(np.std(differences)) if differences else 0.0
