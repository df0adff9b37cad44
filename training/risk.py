"""Risk: the probability that an answer is wrong, from the text and from this row's votes. Pure.

The harmonizer's h(x) is a belief from the text alone. The votes on the row itself, the LLM's answer among
them, are evidence on top, each worth what votes of its source have been worth so far:

    p(k | x, votes) ∝ h(x)[k] · (Π_j P(source j votes λ_j | class k))^(1/√n)

over the n sources that voted. The chances P come from the training rows, h(x) standing in for the class, so
no gold label enters. Sources repeat each other and the text, so n votes count as √n independent ones would.
"""

import numpy as np

from training.task import ABSTAIN

SMOOTHING = 1.0


def risk(probabilities: np.ndarray, answers: np.ndarray) -> np.ndarray:
    """r(x, a) = 1 − p[a]: (n,) in [0, 1], NaN where there is no answer.

    probabilities: (n, K) of the classes. answers: (n,) class indices, -1 = none.
    """
    own = np.take_along_axis(probabilities, np.maximum(answers, 0)[:, None].astype(np.int64), axis=1)[:, 0]
    return np.where(answers == ABSTAIN, np.nan, np.clip(1.0 - own, 0.0, 1.0))


def vote_chances(votes: np.ndarray, beliefs: np.ndarray) -> np.ndarray:
    """How likely source j is to vote v where the class is k and it votes: (m, K voted, K true) float32.

    votes: (n, m), -1 = abstains. beliefs: (n, K) class probabilities of the same rows, h(x).
    Smoothed towards what the source votes anyway, so that a vote never seen tells nothing.
    """
    classes = beliefs.shape[1]
    counts = np.stack([(votes == v).T.astype(np.float64) @ beliefs for v in range(classes)], axis=1)
    said = counts.sum(axis=2, keepdims=True) + SMOOTHING / classes
    said /= said.sum(axis=1, keepdims=True)
    smoothed = counts + SMOOTHING * said
    return (smoothed / smoothed.sum(axis=1, keepdims=True)).astype(np.float32)


def with_votes(beliefs: np.ndarray, votes: np.ndarray, chances: np.ndarray) -> np.ndarray:
    """Class probabilities (n, K) from beliefs (n, K) and votes (n, m); a row without votes keeps its beliefs.

    votes: the LLM's answer is one of them. chances: (m, K voted, K true), as `vote_chances` gives them.
    """
    independent = 1 / np.sqrt(np.maximum((votes != ABSTAIN).sum(axis=1, keepdims=True), 1))
    log_chances = np.log(chances.astype(np.float64))
    logits = np.log(np.maximum(beliefs.astype(np.float64), 1e-12))
    for v in range(beliefs.shape[1]):
        logits += independent * ((votes == v) @ log_chances[:, v, :])
    logits -= logits.max(axis=1, keepdims=True)
    weights = np.exp(logits)
    return weights / weights.sum(axis=1, keepdims=True)


def majority_vote_risk(answers: np.ndarray, votes: np.ndarray) -> np.ndarray:
    """The baseline: of the LLM and the sources that vote, the share that says something else than the LLM.

    (n,), NaN where the LLM gave no answer.
    """
    voters = 1 + (votes != ABSTAIN).sum(axis=1)
    against = ((votes != ABSTAIN) & (votes != answers[:, None])).sum(axis=1)
    return np.where(answers == ABSTAIN, np.nan, against / voters)
