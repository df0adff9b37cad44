"""Whether asking again is worth it, told by what is believed without labels, beside what costs nothing. Pure.

The harmonizer has answers of its own, and so has the majority of the sources; they are there already. Going on after
the pilot, whose cost is spent, is recommended only where it is expected to beat the best of them net of what the
further questions cost. That is always the harmonizer with the votes: its answers are the most probable ones by the
very probabilities that all are judged by. So it is a comparison of beliefs, and no proof that they beat the LLM's.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from serving.correction.judged import Judged, believed, majority
from serving.correction.pilot import Tried, everybody
from serving.correction.policy import Policy

FREE: Mapping[str, str] = {
    "harmonizer": "the harmonizer's own, by the text alone",
    "harmonizer_with_votes": "the harmonizer's own, with the votes",
    "majority": "the majority of the sources",
}
"""Whose answers cost nothing, in words."""


@dataclass(frozen=True)
class Recommendation:
    """recommended: to go on after the pilot. expected: the share of right answers by who is asked, as believed before;
    `first`, `by_risk`, `everybody` and those of `FREE`.

    left: how many are still to be asked. questions_per_mended, cost_per_mended: of those left, for one more right
    answer; None where none is gained, and without a price. words: all of it.
    """

    recommended: bool
    expected: dict[str, float]
    left: int
    questions_per_mended: float | None
    cost_per_mended: float | None
    words: str


def alternatives(judged: Judged) -> dict[str, np.ndarray]:
    """What costs nothing: by the keys of `FREE`, the answers (n,)."""
    return {"harmonizer": judged.beliefs.argmax(axis=1), "harmonizer_with_votes": judged.probabilities.argmax(axis=1),
            "majority": majority(judged.votes, judged.first, judged.probabilities.shape[1])}


def recommend(
    judged: Judged, way: str, tried: Tried, pilot: np.ndarray, left: np.ndarray, policy: Policy
) -> Recommendation:
    """Judge a way after its pilot (k,), rows that were asked. left: (n,) the rows that are still to be asked."""
    n, questions = len(judged), int(left.sum())
    first = float(judged.right.mean())
    to_come = float(tried.gain[left].sum())
    gain = to_come + float(tried.gain[pilot].sum())
    free = {name: float(believed(judged.probabilities, answers).mean())
            for name, answers in alternatives(judged).items()}
    expected = {"first": first, "by_risk": first + gain / n,
                "everybody": float(everybody(judged, tried.habits).mean()), **free}
    known = tried.habits.asked > 0
    more = (expected["by_risk"] - max(free.values())) * n
    recommended = known and policy.net(more, questions, tried.cost) > 0
    each = questions / to_come if to_come > 0 else None
    price = each * tried.cost if each is not None and tried.cost > 0 else None
    asked = f"{questions + len(pilot):,} of the {n:,} answers by '{way}', {len(pilot):,} of them in the pilot,"
    words = _words(recommended, expected, asked, each, price) if known else NOTHING_KNOWN
    return Recommendation(recommended, expected, questions, each, price, words)


NOTHING_KNOWN = ("Nobody knows whether asking again is worth it here: of the pilot, no question was answered with a "
                 "class. Every answer stays as it was.")


def _words(
    recommended: bool, expected: Mapping[str, float], asked: str, each: float | None, price: float | None
) -> str:
    first, after, free = expected["first"], expected["by_risk"], expected["harmonizer_with_votes"]
    takes = "" if each is None else f" (from here on {each:.1f} questions a mended error{_money(price)})"
    little = "" if recommended or after <= free else " That is not enough more for what the questions cost."
    return (f"Asking again is {'' if recommended else 'not '}worth it here: asking {asked} is expected to bring the "
            f"right ones from {first:.1%} to {after:.1%}{takes}. The harmonizer's own answers, in which the LLM's "
            f"first one is a vote among others, are expected to be right on {free:.1%}, at no cost.{little} These are "
            "beliefs by the risks, without labels. They do not say to take the harmonizer's answers in place of the "
            "LLM's: whether the risks hold, a few checked answers show (polarscore train --audit).")


def _money(price: float | None) -> str:
    return "" if price is None else f", which cost {price:.2g}"
