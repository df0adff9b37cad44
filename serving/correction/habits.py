"""What being asked again does to an LLM's answers, learned without labels, and when its new answer is to be kept. Pure.

Asked again, an LLM keeps right answers with a probability κ and mends wrong ones with μ; of the wrong ones it also
keeps some, σ (compare Xie et al., "Confidence v.s. Critique", arXiv 2412.19513, where κ is called the confidence level
and μ the critique score). With the true class t, the first answer a and the new one f,

    P(f = a | t = a) = κ        P(f = c | t = a) = (1 − κ) s_c / (1 − s_a)                  c ≠ a
    P(f = t | t ≠ a) = μ        P(f = a | t ≠ a) = σ        P(f = c | t ≠ a) ∝ (1 − μ − σ) s_c    otherwise

s being the shares of the classes that it changes to. κ, μ and σ come from what the risk model believes of the true
class, p, before the new answer is looked at: counts weighed by p, shrunk towards an LLM that keeps four right answers
of five and two wrong ones, mends two, and changes one to something else. The new answer is then evidence,
p'[t] ∝ p[t] · P(f | t).

The first answer stands unless  p'[f] ≥ M · p'[a],  with  M = 2 · max(1, odds(q) / odds(q'))²,  q and q' being the mean
probability that a first and a new answer are right: an LLM whose new answers are worse than its first ones has to
argue better for them, and squared, since the risks that say by how much may be off by the same for all answers. For
that a narrow majority for a change is none: the 2.
"""

from dataclasses import dataclass

import numpy as np

from training.task import ABSTAIN

PRIOR_KEPT = 0.8
PRIOR_WRONG = (0.4, 0.4, 0.2)  # of a wrong answer: mended, kept, changed to another wrong one
PRIOR_ROWS = 4.0
MARGIN = 2.0


@dataclass(frozen=True)
class Habits:
    """kept: κ. mended: μ. stubborn: σ. shares: (K,) of the classes that it changes to, summing to 1.

    asked: from how many answers it was learned.
    """

    kept: float
    mended: float
    stubborn: float
    shares: np.ndarray
    asked: int


def learn(probabilities: np.ndarray, first: np.ndarray, again: np.ndarray) -> Habits:
    """Habits from the probabilities (n, K) of the classes, first answers (n,) and new ones (n,), -1 = none.

    Rows that lack either answer tell nothing.
    """
    told = (first != ABSTAIN) & (again != ABSTAIN)
    p, a, f = probabilities[told], first[told].astype(np.int64), again[told].astype(np.int64)
    classes, rows = probabilities.shape[1], np.arange(int(told.sum()))
    same, right = a == f, p[rows, a]
    wrong = 1 - right
    kept = ((right * same).sum() + PRIOR_KEPT * PRIOR_ROWS) / (right.sum() + PRIOR_ROWS)
    prior = np.array(PRIOR_WRONG[:2] if classes == 2 else PRIOR_WRONG) * PRIOR_ROWS
    mended = (p[rows, f] * ~same).sum() + prior[0]
    stubborn = (wrong * same).sum() + prior[1]
    other = 0.0 if classes == 2 else ((wrong - p[rows, f]) * ~same).sum() + prior[2]
    total = mended + stubborn + other
    shares = np.bincount(f[~same], minlength=classes) + 1.0
    return Habits(float(kept), float(mended / total), float(stubborn / total), shares / shares.sum(), len(rows))


def likelihood(habits: Habits, first: np.ndarray, again: np.ndarray) -> np.ndarray:
    """P(the new answer | true class): (n, K), 1 everywhere where there is no new answer.

    Without a first answer, the new one is right with probability μ, and else any other class.
    """
    n, classes = len(first), len(habits.shares)
    a, f, rows = np.maximum(first, 0).astype(np.int64), np.maximum(again, 0).astype(np.int64), np.arange(len(first))
    s = habits.shares
    rest = np.maximum(1 - s[a][:, None] - s[None, :], 1e-9)  # (n, true class): what is neither a nor t
    other = max(1 - habits.mended - habits.stubborn, 0.0)
    found = other * s[f][:, None] / rest
    found[rows, f] = habits.mended
    found[rows, a] = (1 - habits.kept) * s[f] / np.maximum(1 - s[a], 1e-9)
    same = a == f
    found[same] = habits.stubborn
    found[rows[same], a[same]] = habits.kept
    alone = first == ABSTAIN
    found[alone] = (1 - habits.mended) / max(classes - 1, 1)
    found[rows[alone], f[alone]] = habits.mended
    found[again == ABSTAIN] = 1.0
    return np.maximum(found, 1e-9) if n else found


def weighed(probabilities: np.ndarray, first: np.ndarray, again: np.ndarray, habits: Habits) -> np.ndarray:
    """p' (n, K): the probabilities of the classes with the new answers as evidence; rows sum to 1."""
    found = probabilities * likelihood(habits, first, again)
    return found / np.maximum(found.sum(axis=1, keepdims=True), 1e-300)


def margin_of(habits: Habits, probabilities: np.ndarray, first: np.ndarray, least: float = MARGIN) -> float:
    """M, from all answers (n,) that might be asked again and the probabilities (n, K) before that.

    least: what it is where new answers are no worse than first ones.
    """
    told = first != ABSTAIN
    right = probabilities[told, first[told].astype(np.int64)]
    if not len(right):
        return least
    q = float(right.mean())
    q_again = float((right * habits.kept + (1 - right) * habits.mended).mean())
    return least * max(1.0, _odds(q) / _odds(q_again)) ** 2


def kept(weighed: np.ndarray, first: np.ndarray, again: np.ndarray, margin: float) -> np.ndarray:
    """The answers to keep (n,): the new one where it is so much more probable by p' (n, K), else the first.

    Where the first is missing, the new one, and the other way round.
    """
    rows = np.arange(len(first))
    p_first = weighed[rows, np.maximum(first, 0).astype(np.int64)]
    p_again = weighed[rows, np.maximum(again, 0).astype(np.int64)]
    new = (again != ABSTAIN) & ((first == ABSTAIN) | ((again != first) & (p_again >= margin * p_first)))
    return np.where(new, again, first)


def expected_gain(probabilities: np.ndarray, first: np.ndarray, habits: Habits, margin: float) -> np.ndarray:
    """By how much asking again makes it likelier that the answer kept is right, before anybody asks: (n,) ≥ 0.

    Σ over the classes c ≠ a for which a new answer c would be kept, of p[c] P(c | c) − p[a] P(c | a). Without a first
    answer, the chance that the new one is right: Σ_c p[c] μ.
    """
    a, rows = np.maximum(first, 0).astype(np.int64), np.arange(len(probabilities))
    s = habits.shares
    lost = (probabilities[rows, a] * (1 - habits.kept) / np.maximum(1 - s[a], 1e-9))[:, None] * s
    won = probabilities * habits.mended
    changes = won >= margin * lost
    changes[rows, a] = False
    gain = np.where(changes, won - lost, 0.0).sum(axis=1)
    return np.where(first == ABSTAIN, habits.mended, gain)


def _odds(q: float) -> float:
    q = min(max(q, 1e-6), 1 - 1e-6)
    return q / (1 - q)
