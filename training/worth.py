"""What each source's vote is worth, learned from agreement alone: precision by class, and which sources repeat. Pure.

A vote of source j for class v is worth the evidence  L_j[v, k] = log P(class k | j votes v) / P(class k).
Because it is the chance *given the vote*, that a source votes at all counts too: a rule that only ever says one
class is evidence for it, by how seldom it speaks up elsewhere. The evidence of a row's votes adds up,

    log P(k | x, votes) = log h(x)[k] + Σ_j w_j L_j[λ_j, k] + const,
    w_j = 1 / (c_j (1 + Σ_i (ρ_ij − κ_ij) / c_i)),    c_j = 1 + Σ_i κ_ij,    κ = ρ⁸,

over the sources i that vote there, too. ρ_ij, the dependence, is 1 for a copy and 0 for an independent source. κ is
near 0 but for copies: c_j counts those of j, and ten copies count as one, to others too. ρ is how much more often two
sources agree than their precisions explain; sources of one family that are asked the same rows count as at least half
dependent, since errors that a family shares look like truth from within.

The precisions come from what is believed of the class: first from the other sources' votes on the row, then from
the votes so weighed, and at last from the harmonizer, which has seen no row's own votes but those of all others.
They are shrunk towards a source that is right in seven cases of ten and else knows nothing, by as much as 40 votes
for each class: a source that says little stays a modest one. Few rounds, and no belief that a source's own vote
made: with more, a poor majority confirms itself. No gold label enters.

Source: the evidence is that of a naive Bayes model with learned dependence; compare Dawid and Skene, 1979, and
Ratner et al., "Training complex models with multi-task weak supervision", AAAI 2019.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from training.task import ABSTAIN

PRIOR_PRECISION, PRIOR_VOTES = 0.7, 40.0
WITHIN_FAMILY = 0.5
FEW_TOGETHER = 20.0
LEAST_LIFT = 0.01
COPY = 8
CHUNK = 65536


@dataclass(frozen=True)
class Worth:
    """What the votes of m sources, the LLM first, are worth.

    balance: (K,) the believed class shares. precision: (m, K voted, K) P(class | the source votes), summing to 1 over
    the last axis. dependence: (m, m) in [0, 1], 0 on the diagonal. seen: (m, K) the votes that it was learned from.
    """

    balance: np.ndarray
    precision: np.ndarray
    dependence: np.ndarray
    seen: np.ndarray

    @property
    def evidence(self) -> np.ndarray:
        """L, (m, K voted, K)."""
        return np.log(self.precision / self.balance)

    @property
    def accuracy(self) -> np.ndarray:
        """How often a vote of each source is believed to be right: (m,); the prior's for a source never seen."""
        own = np.diagonal(self.precision, axis1=1, axis2=2)
        said = self.seen + 1e-9
        return (said * own).sum(axis=1) / said.sum(axis=1)


def from_votes(votes: np.ndarray, families: Sequence[str], classes: int) -> Worth:
    """Worth from agreement among the votes (n, m) of the sources, -1 = abstains. families: m names."""
    plain = _shares(np.stack([(votes == k).sum(axis=1) for k in range(classes)], axis=1) + 1 / classes)
    weights = vote_weights(votes, _dependence(votes, plain, families)).astype(np.float64)
    counts = np.stack([((votes == k) * weights).sum(axis=1) for k in range(classes)], axis=1)
    beliefs = _shares(counts + 1 / classes)
    balance = beliefs.mean(axis=0)
    row, source = np.nonzero(votes != ABSTAIN)
    vote = votes[row, source].astype(np.int64)
    others = counts[row] + balance
    others[np.arange(len(row)), vote] = np.maximum(others[np.arange(len(row)), vote] - weights[row, source], 1e-9)
    counted = np.zeros((votes.shape[1], classes, classes))
    np.add.at(counted, (source, vote), _shares(others))
    first = _worth(counted, balance, _dependence(votes, beliefs, families))
    beliefs = posterior(first, votes)
    return from_beliefs(votes, families, beliefs, beliefs)


def from_beliefs(votes: np.ndarray, families: Sequence[str], beliefs: np.ndarray, weighed: np.ndarray) -> Worth:
    """Worth from beliefs (n, K) in the classes of the rows of votes (n, m).

    weighed: (n, K) the beliefs that the votes are part of, by which agreement beyond precision is told.
    """
    counted = np.stack([(votes == v).T.astype(np.float64) @ beliefs for v in range(beliefs.shape[1])], axis=1)
    balance = (weighed.sum(axis=0) + 1 / beliefs.shape[1]) / (len(weighed) + 1)  # a class nobody named may yet occur
    return _worth(counted, balance, _dependence(votes, weighed, families))


def refined(worth: Worth, votes: np.ndarray, families: Sequence[str], beliefs: np.ndarray) -> Worth:
    """Worth by the harmonizer's beliefs (n, K) in the rows of votes (n, m), starting from that of the votes alone."""
    for _ in range(2):
        worth = from_beliefs(votes, families, beliefs, posterior(worth, votes, beliefs))
    return worth


def vote_weights(votes: np.ndarray, dependence: np.ndarray) -> np.ndarray:
    """How many independent votes each vote counts as: (n, m), 0 where a source abstains."""
    voted = (votes != ABSTAIN).astype(np.float32)
    dependence = dependence.astype(np.float32)
    copies = dependence**COPY
    group = 1 + voted @ copies
    return voted / (group * (1 + (voted / group) @ (dependence - copies)))


def posterior(worth: Worth, votes: np.ndarray, beliefs: np.ndarray | None = None) -> np.ndarray:
    """P(class | votes) and, with beliefs (n, K) by the text, P(class | text, votes): (n, K), rows summing to 1.

    votes: (n, m), -1 = abstains. A row without a vote keeps its belief, or the class shares.
    """
    found = np.empty((len(votes), len(worth.balance)))
    evidence = worth.evidence
    for start in range(0, len(votes), CHUNK):
        rows = slice(start, start + CHUNK)
        weights = vote_weights(votes[rows], worth.dependence)
        logits = np.log(np.maximum(worth.balance[None] if beliefs is None else beliefs[rows], 1e-9))
        for v in range(len(worth.balance)):
            logits = logits + ((votes[rows] == v) * weights) @ evidence[:, v, :]
        odds = np.exp(logits - logits.max(axis=1, keepdims=True))
        found[rows] = _shares(odds)
    return found


def learned_weights(worth: Worth, votes: np.ndarray) -> np.ndarray:
    """Pareto weights (m,), summing to 1: by how much a source knows beyond the class shares, and how little it repeats.

    w_j ∝ max(accuracy − what votes like its own are right by chance, 0.01) · the mean weight of its votes among those
    beside them. A source that always says one class is right as often as that class occurs, and knows nothing.
    votes: (n, m).
    """
    weights = vote_weights(votes, worth.dependence)
    independence = weights.sum(axis=0) / np.maximum((votes != ABSTAIN).sum(axis=0), 1)
    blind = worth.seen @ worth.balance / np.maximum(worth.seen.sum(axis=1), 1e-9)
    lift = np.maximum(worth.accuracy - blind, LEAST_LIFT)
    found = lift * np.where(independence > 0, independence, 1.0)
    return found / found.sum()


def _worth(counted: np.ndarray, balance: np.ndarray, dependence: np.ndarray) -> Worth:
    """counted: (m, K voted, K) how many votes fall on rows of each class, by what is believed of these."""
    classes = len(balance)
    prior = PRIOR_PRECISION * np.eye(classes) + (1 - PRIOR_PRECISION) * balance
    seen = counted.sum(axis=2)
    precision = (counted + PRIOR_VOTES * prior) / (seen + PRIOR_VOTES)[:, :, None]
    return Worth(balance, precision, dependence, seen)


def _dependence(votes: np.ndarray, beliefs: np.ndarray, families: Sequence[str]) -> np.ndarray:
    """(A − E) / (1 − E) in [0, 1], of how often two sources agree where both vote, and how often they would if they
    erred independently; shrunk where they seldom meet. Within a family at least half the share of rows they share.
    """
    said = [(votes == v).astype(np.float32) for v in range(beliefs.shape[1])]
    voted = (votes != ABSTAIN).astype(np.float32)
    chances = _vote_chances(said, beliefs)
    together = (voted.T @ voted).astype(np.float64)
    met = np.maximum(together, 1)
    agreed = sum(says.T @ says for says in said) / met
    expected = sum(((voted * beliefs[:, [k]].astype(np.float32)).T @ voted) * (chances[:, :, k] @ chances[:, :, k].T)
                   for k in range(beliefs.shape[1])) / met
    beyond = np.clip((agreed - expected) / np.maximum(1 - expected, 1e-3), 0, 1) * together / (together + FEW_TOGETHER)
    own = np.diagonal(together)
    overlap = together / np.maximum(own[:, None] + own[None, :] - together, 1)
    kin = np.array([[one == other for one in families] for other in families])
    found = np.maximum(beyond, WITHIN_FAMILY * overlap * kin)
    np.fill_diagonal(found, 0.0)
    return found


def _vote_chances(said: list[np.ndarray], beliefs: np.ndarray) -> np.ndarray:
    """P(source j votes v | class k, it votes): (m, K voted, K), shrunk towards what it votes anyway."""
    counts = np.stack([says.T.astype(np.float64) @ beliefs for says in said], axis=1)
    usual = _shares(counts.sum(axis=2, keepdims=True) + 1 / beliefs.shape[1], axis=1)
    return _shares(counts + usual, axis=1)


def _shares(values: np.ndarray, axis: int = 1) -> np.ndarray:
    return values / values.sum(axis=axis, keepdims=True)
