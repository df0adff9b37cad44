"""Risk: the probability that an answer is wrong, from the text and from this row's votes. Pure.

The harmonizer's h(x) is a belief from the text alone. It is trained to agree with sources that err, so it is less
sure than it might be: it is sharpened until its mean confidence is the rate at which the LLM agrees with it,

    s(x) ∝ h(x)^T,    T ≥ 1 such that  mean max s(x) = mean [argmax h(x) = the LLM's answer].

The votes on the row itself, the LLM's answer among them, are evidence on top (`training.worth`), and the sum is taken
with some reserve, as sources share what no agreement shows:

    p = (1 − b) · softmax(τ · log posterior) + b · h(x),    τ = 0.85,    b = 0.1

No gold label enters.
"""

import numpy as np

from training.audit_result import Recalibration
from training.task import ABSTAIN
from training.worth import Worth, posterior

TEMPER, POOLED = 0.85, 0.1
SHARPEST = 30.0


def risk(probabilities: np.ndarray, answers: np.ndarray) -> np.ndarray:
    """r(x, a) = 1 − p[a]: (n,) in [0, 1], NaN where there is no answer.

    probabilities: (n, K) of the classes. answers: (n,) class indices, -1 = none.
    """
    own = np.take_along_axis(probabilities, np.maximum(answers, 0)[:, None].astype(np.int64), axis=1)[:, 0]
    return np.where(answers == ABSTAIN, np.nan, np.clip(1.0 - own, 0.0, 1.0))


def sharpness(beliefs: np.ndarray, answers: np.ndarray) -> float:
    """T, by which a harmonizer's beliefs (n, K) are sharpened, from its agreement with the answers (n,), -1 = none.

    1 (as it is) where it is sure enough already, or where no row has an answer; at most 30.
    """
    answered = answers != ABSTAIN
    if not answered.any():
        return 1.0
    agreement = float((beliefs[answered].argmax(axis=1) == answers[answered]).mean())
    low, high = 1.0, SHARPEST
    if sharpened(beliefs, low).max(axis=1).mean() >= agreement:
        return low
    for _ in range(30):
        middle = float(np.sqrt(low * high))
        low, high = ((middle, high) if sharpened(beliefs, middle).max(axis=1).mean() < agreement else (low, middle))
    return low


def sharpened(beliefs: np.ndarray, power: float) -> np.ndarray:
    """Beliefs (n, K) to a power, summing to 1 again."""
    logits = power * np.log(np.maximum(beliefs.astype(np.float64), 1e-12))
    odds = np.exp(logits - logits.max(axis=1, keepdims=True))
    return odds / odds.sum(axis=1, keepdims=True)


def with_votes(
    beliefs: np.ndarray, answers: np.ndarray, votes: np.ndarray, worth: Worth, power: float
) -> np.ndarray:
    """Class probabilities (n, K) from beliefs (n, K), the LLM's answers (n,) and the sources' votes (n, m).

    worth: of the LLM and the m sources. power: the sharpness of the beliefs. Rows sum to 1.
    """
    found = posterior(worth, np.column_stack([answers, votes]), sharpened(beliefs, power))
    return (1 - POOLED) * sharpened(found, TEMPER) + POOLED * beliefs


def recalibrated(probabilities: np.ndarray, answers: np.ndarray, recalibration: Recalibration) -> np.ndarray:
    """Class probabilities (n, K) whose risk is the recalibrated one; those of the other classes keep their proportions.

    answers: (n,) class indices; a row without one, -1, stays as it is.
    """
    if not recalibration.values:
        return probabilities
    answered = np.flatnonzero(answers != ABSTAIN)
    own = answers[answered].astype(np.int64)
    before = risk(probabilities, answers)[answered]
    after = recalibration.apply(before)
    others = probabilities.shape[1] - 1
    found = probabilities.copy()
    found[answered] = np.where(before[:, None] > 0, found[answered] * (after / np.maximum(before, 1e-300))[:, None],
                               (after / others)[:, None])
    found[answered, own] = 1 - after
    return found


def majority_vote_risk(answers: np.ndarray, votes: np.ndarray) -> np.ndarray:
    """The baseline: of the LLM and the sources that vote, the share that says something else than the LLM.

    (n,), NaN where the LLM gave no answer.
    """
    voters = 1 + (votes != ABSTAIN).sum(axis=1)
    against = ((votes != ABSTAIN) & (votes != answers[:, None])).sum(axis=1)
    return np.where(answers == ABSTAIN, np.nan, against / voters)
