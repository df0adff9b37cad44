"""Which answers are asked again, and in which way: by the expected gain for the cost. Pure.

There is one yardstick for a row, a way and the whole: right answers gained, net of what the questions cost. With
`worth`, the value of one more right answer, it is money: a row is asked if  gain · worth > cost.  Without, a question
costs `LEAST` right answers: a row is asked if its gain is above that. With `above`, all rows with a higher risk are
asked, whatever they gain and cost. A row without an answer has no risk, and nothing to lose: `above` asks it too.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

LEAST = 0.01
"""The least expected gain, a chance of one in a hundred of one more right answer, for which it is worth asking."""

Amount = TypeVar("Amount", float, np.ndarray)


@dataclass(frozen=True)
class Policy:
    """above: a risk. worth: of one more right answer, in the money of the prices. least: the least gain without it."""

    above: float | None = None
    worth: float | None = None
    least: float = LEAST

    def net(self, more: Amount, questions: int, cost: float) -> Amount:
        """What so many more right answers are worth, net of the questions, each at a cost: money, or right answers."""
        if self.worth is not None:
            return more * self.worth - questions * cost
        return more - questions * (self.least if self.above is None else 0.0)

    def chosen(self, gain: np.ndarray, risk: np.ndarray, cost: float) -> np.ndarray:
        """(n,) whether to ask, by the expected gains (n,), the risks (n,), NaN = no answer, and a question's cost."""
        return self.net(gain, 1, cost) > 0 if self.above is None else ~(risk <= self.above)


def best_way(net: Mapping[str, float]) -> str:
    """The way with the largest net gain; the first of equals."""
    return max(net, key=lambda way: net[way])
