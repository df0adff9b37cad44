"""What came of asking rows again, whoever was asked: an endpoint, or answers that the data holds."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from training.task import ABSTAIN


@dataclass(frozen=True)
class Said:
    """k rows that were to be asked. answers: (k,) the new ones, -1 = none. asked: (k,) whether somebody was asked.

    reasons: why there is no answer, None where there is one. raw: what was said, None = nothing. cost: (k,) money.
    """

    answers: np.ndarray
    asked: np.ndarray
    reasons: list[str | None]
    raw: list[str | None]
    cost: np.ndarray

    @property
    def counted(self) -> Counter[str]:
        """How often there is no answer, by reason."""
        return Counter(reason for reason in self.reasons if reason)

    @property
    def price(self) -> float:
        """The mean cost of those that cost something: one that failed does not show what a question takes."""
        paid = self.cost[self.cost > 0]
        return float(paid.mean()) if len(paid) else 0.0


Asker = Callable[[str, np.ndarray], Said]
"""Asks the rows (k,) again in a way, in the order in which they matter."""


def together(n: int, parts: Sequence[tuple[np.ndarray, Said]]) -> Said:
    """What was said of n rows, from parts that each hold the indices (k,) of theirs; the others were not asked."""
    found = Said(np.full(n, ABSTAIN, dtype=np.int64), np.zeros(n, dtype=bool), [None] * n, [None] * n, np.zeros(n))
    for rows, part in parts:
        found.answers[rows], found.asked[rows], found.cost[rows] = part.answers, part.asked, part.cost
        for row, reason, text in zip(rows, part.reasons, part.raw, strict=True):
            found.reasons[row], found.raw[row] = reason, text
    return found
