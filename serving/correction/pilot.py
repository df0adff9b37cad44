"""The pilot: a few answers drawn at random are asked again first, and show what asking again does. Pure.

What is learned comes from these rows alone. The rows asked later are chosen because they are risky: they hold fewer
right answers, and harder ones, and habits learned from them would not be those that chose them. That a pilot is small
costs little, as habits are shrunk (`serving.correction.habits`).

A row's chance to be drawn hangs on its id alone: the same data in another order have the same pilot, and a row more
changes at most one of it.
"""

from dataclasses import dataclass
from hashlib import blake2b

import numpy as np

from serving.correction.habits import Habits, expected_gain, learn, margin_of
from serving.correction.judged import Judged
from training.task import ABSTAIN


@dataclass(frozen=True)
class Tried:
    """A way after its pilot. margin: M. gain: (n,) expected of every row, before it is asked. cost: of a question."""

    habits: Habits
    margin: float
    gain: np.ndarray
    cost: float


def chance(ids: np.ndarray, seed: int) -> np.ndarray:
    """(n,) numbers as if drawn evenly from 64 bits, each by the row's id and the seed."""
    said = (blake2b(f"{seed} {row}".encode("utf-8", "surrogatepass"), digest_size=8).digest() for row in ids)
    return np.frombuffer(b"".join(said), dtype="<u8")


def drawn(ids: np.ndarray, among: np.ndarray, size: int, seed: int) -> np.ndarray:
    """Of the rows that a mask (n,) allows, at most `size` at random: indices, in an order that goes by the ids."""
    rows = np.flatnonzero(among)
    return rows[np.argsort(chance(ids[rows], seed), kind="stable")[:size]]


def tried(judged: Judged, rows: np.ndarray, again: np.ndarray, cost: float) -> Tried:
    """What the new answers (k,), -1 = none, to the rows (k,) of the pilot show."""
    own = judged.rows(rows)
    habits = learn(own.probabilities, own.first, again)
    margin = margin_of(habits, judged.probabilities, judged.first)
    return Tried(habits, margin, expected_gain(judged.probabilities, judged.first, habits, margin), cost)


def everybody(judged: Judged, habits: Habits) -> np.ndarray:
    """(n,) how probable it is that a new answer would be right, whatever the first one: p κ + (1 − p) μ."""
    right = judged.right
    return np.where(judged.first == ABSTAIN, habits.mended, right * habits.kept + (1 - right) * habits.mended)
