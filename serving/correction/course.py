"""The course of asking again: a pilot in each way, a choice, then the rows that are worth it. No gold label is read."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from serving.correction.asked import Asker, Said, together
from serving.correction.judged import Judged
from serving.correction.pilot import Tried, chance, drawn, tried
from serving.correction.policy import Policy, best_way
from serving.correction.recommendation import Recommendation, recommend
from serving.correction.rerisk import Corrected, corrected
from training.errors import InputError
from training.task import ABSTAIN

PILOT = 100


@dataclass(frozen=True)
class Plan:
    """policy: who is asked. pilot: how many are drawn to be asked first. anyway: go on though it is not recommended.

    seed: of the draw. The same plan asks the same rows again.
    """

    policy: Policy = field(default_factory=Policy)
    pilot: int = PILOT
    anyway: bool = False
    seed: int = 0


@dataclass(frozen=True)
class Course:
    """What came of n rows. tried: each way after its pilot. pilot: (k,) its rows.

    stopped: it ended with the pilot, and every first answer stays. said: of all n, asked in `way`. elsewhere: what the
    pilots of the other ways said.
    """

    way: str
    tried: dict[str, Tried]
    recommendation: Recommendation
    pilot: np.ndarray
    stopped: bool
    said: Said
    elsewhere: tuple[Said, ...]
    corrected: Corrected

    @property
    def chosen(self) -> Tried:
        """The way that was taken, after its pilot."""
        return self.tried[self.way]

    @property
    def asked(self) -> np.ndarray:
        """(n,) whether somebody was asked, in `way`."""
        return self.said.asked

    @property
    def questions(self) -> int:
        """How many were asked, in any way."""
        return sum(int(part.asked.sum()) for part in (self.said, *self.elsewhere))

    @property
    def cost(self) -> float:
        """Of all questions, in any way."""
        return sum(float(part.cost.sum()) for part in (self.said, *self.elsewhere))

    @property
    def cost_of_one(self) -> float:
        """What a question in `way` took, those that failed among them."""
        return float(self.said.cost.sum()) / max(int(self.asked.sum()), 1)

    @property
    def missing(self) -> dict[str, int]:
        """How often there is no answer, by reason, in any way."""
        return dict(sum((part.counted for part in (self.said, *self.elsewhere)), Counter()))


def run(judged: Judged, ways: Sequence[str], able: np.ndarray, ask: Asker, plan: Plan) -> Course:
    """Ask again. ways: those to be tried. able: (n,) the rows that can be asked.

    Raises:
        InputError: no row that can be asked has a first answer, so that there is no pilot.
    """
    pilot = drawn(judged.ids, able & (judged.first != ABSTAIN), plan.pilot, plan.seed)
    if not len(pilot):
        raise InputError("no row of this split has an answer of the LLM that could be asked about again.")
    said = {way: ask(way, pilot) for way in ways}
    found = {way: tried(judged, pilot, said[way].answers, said[way].price) for way in ways}
    way = best_way({name: _net(one, judged, plan.policy) for name, one in found.items()})
    chosen = found[way]
    left = able & plan.policy.chosen(chosen.gain, judged.risk, chosen.cost)
    left[pilot] = False
    advice = recommend(judged, way, chosen, pilot, left, plan.policy)
    stopped = not chosen.habits.asked or not (advice.recommended or plan.anyway)
    parts = [(pilot, said.pop(way))]
    if not stopped and left.any():
        rest = _by_gain(np.flatnonzero(left), chosen.gain, judged.ids, plan.seed)
        parts.append((rest, ask(way, rest)))
    whole = together(len(judged), parts)
    kept = corrected(judged, whole.answers, chosen.habits, None if stopped else chosen.margin)
    return Course(way, found, advice, pilot, stopped, whole, tuple(said.values()), kept)


def _net(one: Tried, judged: Judged, policy: Policy) -> float:
    """What a way is expected to bring, net of its cost; a way of which nothing is known, nothing at all."""
    if not one.habits.asked:
        return -np.inf
    asked = policy.chosen(one.gain, judged.risk, one.cost)
    return float(policy.net(one.gain[asked].sum(), int(asked.sum()), one.cost))


def _by_gain(rows: np.ndarray, gain: np.ndarray, ids: np.ndarray, seed: int) -> np.ndarray:
    """The rows (k,) that gain most first, as a budget may end it; level ones by chance."""
    return rows[np.lexsort((chance(ids[rows], seed), -gain[rows]))]
