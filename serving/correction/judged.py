"""What a version believes of a task's answers before anybody is asked again, as plain arrays."""

from dataclasses import dataclass

import numpy as np

from training.beliefs import Encode
from training.model import RiskModel
from training.table import Table
from training.task import ABSTAIN


@dataclass(frozen=True)
class Judged:
    """n rows, by their ids (n,). No gold label is among them.

    first: (n,) the LLM's answers, -1 = none. risk: (n,) NaN where there is none. probabilities: (n, K) of the classes,
    by the text, the answer and the votes. beliefs: (n, K), by the text alone. votes: (n, m), -1 = abstains.
    """

    ids: np.ndarray
    first: np.ndarray
    risk: np.ndarray
    probabilities: np.ndarray
    beliefs: np.ndarray
    votes: np.ndarray

    def __len__(self) -> int:
        return len(self.first)

    @property
    def right(self) -> np.ndarray:
        """(n,) the probability that the first answer is right; 0 where there is none."""
        return believed(self.probabilities, self.first)

    def rows(self, where: np.ndarray) -> "Judged":
        """The rows that a mask or an index array picks."""
        return Judged(self.ids[where], self.first[where], self.risk[where], self.probabilities[where],
                      self.beliefs[where], self.votes[where])


def judge(model: RiskModel, encode: Encode, table: Table) -> Judged:
    """Judge the rows of a table as `training.scoring.fitted` makes it."""
    beliefs = model.beliefs(table.texts, table.spans, encode)
    scores = model.judge(beliefs, table.answers, table.votes)
    return Judged(table.ids, table.answers.astype(np.int64), scores.risk, scores.probabilities, beliefs,
                  table.votes.astype(np.int64))


def believed(probabilities: np.ndarray, answers: np.ndarray) -> np.ndarray:
    """(n,) the probability, by (n, K), that the answers (n,) are right; 0 where there is none, -1."""
    own = probabilities[np.arange(len(answers)), np.maximum(answers, 0)]
    return np.where(answers == ABSTAIN, 0.0, own)


def majority(votes: np.ndarray, first: np.ndarray, classes: int) -> np.ndarray:
    """(n,) what most of the sources say, votes (n, m): the first of level classes; without votes, the LLM's."""
    counts = np.stack([(votes == k).sum(axis=1) for k in range(classes)], axis=1)
    return np.where(counts.any(axis=1), counts.argmax(axis=1), first)
