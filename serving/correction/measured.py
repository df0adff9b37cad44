"""Asking again measured by gold labels: what stands beside what was expected. Pure, and nothing is chosen by it."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from serving.correction.helped import Curve, Effect, curve, effect
from serving.correction.judged import Judged
from serving.correction.recommendation import alternatives
from serving.correction.rerisk import Corrected
from training.task import ABSTAIN

COMPARED: Mapping[str, str] = {
    "first": "the LLM's first answers", "by_risk": "those kept by risk after asking again",
    "harmonizer_with_votes": "the harmonizer's own", "majority": "those of the sources' majority"}
"""What expectations are held against, in words."""


@dataclass(frozen=True)
class Measured:
    """Of the n rows with a gold label. by_risk: the better answer kept by risk. blind: the new answers of the same
    rows taken as they are. everybody: all rows asked, and taken as they are; None unless all were, as `hindsight`,
    the accuracy of the better of both. first, harmonizer, harmonizer_with_votes, majority: accuracy.
    """

    n: int
    first: float
    by_risk: Effect
    blind: Effect
    everybody: Effect | None
    harmonizer: float
    harmonizer_with_votes: float
    majority: float
    hindsight: float | None
    curve: Curve

    def levels(self) -> dict[str, float]:
        """The accuracies that do not depend on who is asked, those that can be told."""
        names = ("first", "harmonizer", "harmonizer_with_votes", "majority", "hindsight")
        return {name: value for name in names if (value := getattr(self, name)) is not None}

    def words(self, expected: Mapping[str, float], stopped: bool) -> str:
        """A sentence or two beside what was expected. stopped: after the pilot, so that by risk is not told."""
        names = {name: words for name, words in COMPARED.items() if not (stopped and name == "by_risk")}
        found = {name: self.by_risk.accuracy if name == "by_risk" else getattr(self, name) for name in names}
        shares = ", ".join(f"{share:.1%} of {names[name]}" for name, share in found.items())
        best, believed = max(found, key=lambda name: found[name]), max(names, key=lambda name: expected[name])
        against = ("" if found[best] <= found[believed] else
                   f" Against what was expected, {names[best]} are the best of these.")
        return f"Measured by {self.n:,} gold labels, right are {shares}.{against}"


def measured(
    judged: Judged, labels: np.ndarray, every: Corrected, asked: np.ndarray, able: np.ndarray, cost: float | None
) -> Measured | None:
    """labels: (n,) gold, -1 = none. every: all that is known of new answers, those of rows not asked with them.

    asked: (n,). able: (n,) the rows whose new answer is known. cost: of one question, None = unknown.
    None where no row has a label.
    """
    told = labels != ABSTAIN
    if not told.any():
        return None
    right = {name: float((answers == labels)[told].mean()) for name, answers in alternatives(judged).items()}
    replaced = np.where(every.again == ABSTAIN, judged.first, every.again)
    before, kept, new = ((answers == labels)[told] for answers in (judged.first, every.kept, replaced))
    asked, able = asked[told], able[told]
    everybody, complete = np.ones_like(asked), bool(able.all())
    return Measured(
        n=int(told.sum()), first=float(before.mean()),
        by_risk=effect(before, np.where(asked, kept, before), asked, cost),
        blind=effect(before, np.where(asked, new, before), asked, cost),
        everybody=effect(before, new, everybody, cost) if complete else None,
        **right,
        hindsight=float((before | new).mean()) if complete else None,
        curve=curve(judged.risk[told], before, kept, new, able),
    )
