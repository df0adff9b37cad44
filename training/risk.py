"""Risk: the probability that an answer is wrong, from the text and from this row's votes. Pure.

The harmonizer's h(x) is a belief from the text alone. The votes on the row itself are evidence on top, read
in two ways that fail differently, and pooled:

    p = (1 − b) · posterior + b · share,    b = ½ · n / (n + 1)    for n sources that voted

posterior: each vote, the LLM's answer among them, counts what votes of its source have been worth so far,
    ∝ h(x)[k] · (Π_j P(λ_j | class k))^(1/√v)   over the v votes,
  the chances P coming from the training rows with h(x) standing in for the class. Sources repeat each other
  and the text, so v votes count as √v independent ones would.
share: of the sources that voted, the part that named the class. It believes nothing that was learned, and so
  bounds what a posterior led astray by a wrong majority can claim.

No gold label enters. A row on which no source votes has the posterior alone, from its text and its answer.
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


def with_votes(beliefs: np.ndarray, answers: np.ndarray, votes: np.ndarray, chances: np.ndarray) -> np.ndarray:
    """Class probabilities (n, K) from beliefs (n, K), the LLM's answers (n,) and the sources' votes (n, m).

    chances: (1 + m, K voted, K true), the LLM first, as `vote_chances` gives them. Rows sum to 1; one with
    neither answer nor votes keeps its beliefs.
    """
    posterior = _posterior(beliefs, np.column_stack([answers, votes]), chances)
    counts = np.stack([(votes == k).sum(axis=1) for k in range(beliefs.shape[1])], axis=1)
    voters = counts.sum(axis=1, keepdims=True)
    pooled = 0.5 * voters / (voters + 1)
    return (1 - pooled) * posterior + pooled * counts / np.maximum(voters, 1)


def _posterior(beliefs: np.ndarray, votes: np.ndarray, chances: np.ndarray) -> np.ndarray:
    independent = 1 / np.sqrt(np.maximum((votes != ABSTAIN).sum(axis=1, keepdims=True), 1))
    log_chances = np.log(chances.astype(np.float64))
    logits = np.log(np.maximum(beliefs.astype(np.float64), 1e-12))
    for v in range(beliefs.shape[1]):
        logits += independent * ((votes == v) @ log_chances[:, v, :])
    weights = np.exp(logits - logits.max(axis=1, keepdims=True))
    return weights / weights.sum(axis=1, keepdims=True)


def majority_vote_risk(answers: np.ndarray, votes: np.ndarray) -> np.ndarray:
    """The baseline: of the LLM and the sources that vote, the share that says something else than the LLM.

    (n,), NaN where the LLM gave no answer.
    """
    voters = 1 + (votes != ABSTAIN).sum(axis=1)
    against = ((votes != ABSTAIN) & (votes != answers[:, None])).sum(axis=1)
    return np.where(answers == ABSTAIN, np.nan, against / voters)
