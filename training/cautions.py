"""Signs, seen without labels, that the agreement of the sources may say nothing about what is right. Pure.

Where all sources err together, no agreement shows it. But whether agreement can carry any evidence shows in the votes:

- Beside the LLM's answers, the votes of sources outside its family agree with it hardly more often than by chance,
      κ = (agreed − chance) / (1 − chance),    chance = Σ_k P(the LLM says k) · P(the vote says k),
  over all pairs of an answer and such a vote on its row. At κ = 0 votes and answers are independent: any error rate
  of the LLM would look the same. Cohen's kappa, 1960.
- The LLM gives one class nearly always, and the others name that class far less often.
- There are few such votes, or the LLM's own family, itself asked differently, outweighs them.

How often the harmonizer agrees with the LLM is no sign: it was trained to. Nor is it one that all other sources are of
one family, as rules of one author are. A sign is a reason to check a few answers, and no proof.
"""

from collections.abc import Sequence

import numpy as np

from training.task import ABSTAIN
from training.worth import Worth, vote_weights

LEAST_KAPPA = 0.1
FEWEST_VOTES = 50
MOST_ALONE = 0.75
ONE_CLASS, NAMED_LESS = 0.9, 0.2
REMEDY = "Check a few answers: polarscore train TASK --audit N"


def warnings_of(votes: np.ndarray, families: Sequence[str], classes: Sequence[str], worth: Worth) -> list[str]:
    """A sentence a sign, with its figures and what to do; none where there is no reason to doubt.

    votes: (n, m) of all sources, the LLM first, -1 = abstains. families: m names. worth: of the same m sources.
    """
    votes = votes[votes[:, 0] != ABSTAIN]
    kin = np.array([family == families[0] for family in families])
    voted = votes[:, ~kin] != ABSTAIN
    pairs = int(voted.sum())
    if not pairs:
        return [_sentence("no source outside the LLM's own family votes on an answer, so that nothing contradicts it "
                          "but its own kind")]
    if pairs < FEWEST_VOTES:
        return [_sentence(f"sources outside the LLM's own family cast only {pairs} votes on its answers, too few to "
                          "tell how often it errs")]
    found = [_beyond_chance(votes, ~kin, classes), _one_class(votes, ~kin, classes),
             _alone(1 - float(voted.any(axis=1).mean())), _outweighed(votes, kin, worth)]
    return [_sentence(sign) for sign in found if sign]


def agreement(votes: np.ndarray, others: np.ndarray, classes: int) -> tuple[float, float]:
    """How often the votes of some sources agree with the LLM's answers beside them, and how often by chance they would.

    votes: (n, m), the LLM's first. others: (m,) whose votes count.
    """
    row, source = np.nonzero((votes != ABSTAIN) & others & (votes[:, [0]] != ABSTAIN))
    answer, vote = votes[row, 0], votes[row, source]
    shares = [np.bincount(values, minlength=classes) / len(row) for values in (answer, vote)]
    return float((answer == vote).mean()), float(shares[0] @ shares[1])


def _beyond_chance(votes: np.ndarray, others: np.ndarray, classes: Sequence[str]) -> str | None:
    agreed, chance = agreement(votes, others, len(classes))
    if agreed - chance >= LEAST_KAPPA * (1 - chance) and chance < 1:
        return None
    return (f"the LLM and the sources outside its own family agree on {agreed:.0%} of their votes, where chance alone "
            f"would give {chance:.0%}: their agreement says next to nothing about what is right")


def _one_class(votes: np.ndarray, others: np.ndarray, classes: Sequence[str]) -> str | None:
    counts = np.bincount(votes[:, 0], minlength=len(classes))
    top, said = int(counts.argmax()), votes[:, others]
    share, named = counts.max() / len(votes), (said == top).sum() / (said != ABSTAIN).sum()
    if share < ONE_CLASS or named > share - NAMED_LESS:
        return None
    return (f"the LLM says '{classes[top]}' in {share:.0%} of its answers, and the sources outside its own family in "
            f"{named:.0%} of their votes: one of the two is far off, and no vote tells which")


def _alone(share: float) -> str | None:
    if share <= MOST_ALONE:
        return None
    return (f"{share:.0%} of the answers have no vote of a source outside the LLM's own family: their risk rests on "
            "the text alone")


def _outweighed(votes: np.ndarray, kin: np.ndarray, worth: Worth) -> str | None:
    weights = vote_weights(votes, worth.dependence).sum(axis=0) / len(votes)
    own, others = float(weights[kin][1:].sum()), float(weights[~kin].sum())
    if own <= others:
        return None
    return (f"the LLM's own family counts as {own:.2g} votes an answer beside it, and all other sources as "
            f"{others:.2g}: what the family shares is not contradicted")


def _sentence(sign: str) -> str:
    return f"{sign[0].upper()}{sign[1:]}. {REMEDY}"
