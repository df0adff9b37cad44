"""What to do with an answer of a given risk: accept it, have the LLM answer again, or show it to a person. Pure.

    accept       risk ≤ accept
    review       risk ≥ review, and not accepted
    ask again    between the two, and where there is no answer

Where `accept` comes from, in this order, is the policy's basis:

- `configured`: the service's configuration;
- `guarantee`: the version's audit (`training.guarantee`), which promises an error rate of at most α among all that is
  accepted, with confidence 1 − δ; where it found no threshold to promise, nothing is accepted;
- `risk`: the risk itself. What is accepted is expected to be wrong with a probability of at most α = 0.1, which only
  the calibration of the risk vouches for.

Where the registry's log lowers the threshold of a version in production (`registry.threshold`), no answer above that is
accepted, whatever the basis: α is then what is expected, and nobody promises it with a confidence any more.

Answers are reviewed from a risk of 0.5 on, where a coin is as good, or as configured. A configured `review` below the
threshold of the guarantee or of the risk takes its place: the audit then promises nothing, the basis is `configured`.
"""

from functools import lru_cache
from typing import Literal

import numpy as np

from registry.threshold import NOTHING, UNCHANGED
from serving.config import Thresholds
from serving.schema import Decision, Policy
from training.audit_result import Guarantee

ALPHA = 0.1
REVIEW = 0.5
_DECISIONS: tuple[Decision, ...] = ("accept", "review", "ask again")

Basis = Literal["guarantee", "configured", "risk"]


@lru_cache(maxsize=64)
def policy_of(guarantee: Guarantee | None, thresholds: Thresholds, limit: float = UNCHANGED) -> Policy:
    """The policy that a version's guarantee, if it has one, and the configured thresholds make.

    limit: the highest risk that may be accepted, by the log (`registry.threshold.limit_of`).
    """
    accept, basis, alpha, confidence = _acceptance(guarantee, thresholds.accept)
    if accept is not None and limit < accept:
        accept, confidence = None if limit == NOTHING else limit, None
    review = thresholds.review
    if review is None:
        review = REVIEW if accept is None else max(REVIEW, accept)
    if accept is not None and review < accept:
        accept, basis, alpha, confidence = review, "configured", None, None
    return Policy(accept=accept, review=review, basis=basis, alpha=alpha, confidence=confidence)


def decide(policy: Policy, risk: np.ndarray) -> list[Decision]:
    """A decision for each risk (n,), NaN where there is no answer."""
    accepted = risk <= (-np.inf if policy.accept is None else policy.accept)  # NaN is neither
    places = np.where(accepted, 0, np.where(risk >= policy.review, 1, 2))
    return [_DECISIONS[place] for place in places.tolist()]


def _acceptance(
    guarantee: Guarantee | None, configured: float | None
) -> tuple[float | None, Basis, float | None, float | None]:
    """Threshold, basis, α and confidence."""
    if configured is not None:
        return configured, "configured", None, None
    if guarantee is not None:
        return guarantee.threshold, "guarantee", guarantee.alpha, round(1 - guarantee.delta, 12)
    return ALPHA, "risk", ALPHA, None
