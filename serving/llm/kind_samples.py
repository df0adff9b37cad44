"""Self-consistency: several answers drawn at a temperature; the vote is what most of them say.

Source: Wang et al., "Self-consistency improves chain of thought reasoning in language models", ICLR 2023.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from serving.llm.exchange import Failed, Outcome
from serving.llm.kind import Given, Kind, Questions, SourceVotes, gathered
from serving.llm.kind_prompt import said
from serving.llm.prompting import classify
from training.task import ABSTAIN

FAILED = -2
TIE, FEW = "samples tie", "too few samples agree"


def questions(given: Given) -> Questions:
    """`count` samples of each row."""
    source = given.source
    first = [classify(given.ask, given.classes, given.text(row), given.pairs(row), wording=source,
                      temperature=source.temperature) for row in range(len(given.rows))]
    return Questions(np.repeat(np.arange(len(first)), source.count), [
        replace(prompt, sample=sample) for prompt in first for sample in range(source.count)])


def votes(given: Given, questions: Questions, outcomes: Sequence[Outcome]) -> SourceVotes:
    """What most samples say, and beside it their entropy and the share of the samples that agree with the vote."""
    heard = [said(given, row, outcome) for row, outcome in zip(questions.rows.tolist(), outcomes, strict=True)]
    codes = np.array([FAILED if isinstance(outcome, Failed) else answer
                      for (answer, _), outcome in zip(heard, outcomes, strict=True)], dtype=np.int64)
    drawn = codes.reshape(len(given.rows), given.source.count)
    chosen, share, entropy = consistency(drawn, len(given.classes), given.source.at_least)
    reasons = [_most([reason for _, reason in heard[start : start + given.source.count]])
               for start in range(0, len(heard), given.source.count)]
    why = [reason if np.isnan(part) else ("answered" if vote != ABSTAIN else FEW if part < given.source.at_least
                                          else TIE)
           for reason, part, vote in zip(reasons, share, chosen, strict=True)]
    return gathered(given, dict(enumerate(zip(chosen.tolist(), why, strict=True))), {
        "entropy": _told(entropy), "share": _told(share)})


def consistency(drawn: np.ndarray, classes: int, at_least: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Votes (n,), shares (n,) and entropies (n,) of samples (n, count): a class, -1 = abstains, -2 = there is no reply.

    share: of the samples that name a class, those that name the commonest; NaN without any. vote: that class, where no
    other is as common and the share is at least `at_least`. entropy: −Σ p log p in nats, p being the shares of the
    classes and of the abstentions, which are one outcome, among the replies; NaN without any; at most log(classes + 1).
    """
    counts = np.stack([(drawn == code).sum(axis=1) for code in range(-1, classes)], axis=1).astype(float)
    named, most = counts[:, 1:].sum(axis=1), counts[:, 1:].max(axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        share = most / named
        p = counts / counts.sum(axis=1, keepdims=True)
        entropy = -np.where(p > 0, p * np.log(p), p).sum(axis=1) + 0.0  # without replies p is NaN, and stays so
    alone = (counts[:, 1:] == most[:, None]).sum(axis=1) == 1
    vote = np.where(alone & (share >= at_least), counts[:, 1:].argmax(axis=1), ABSTAIN)
    return vote.astype(np.int16), share, entropy


def _most(reasons: list[str]) -> str:
    return max(dict.fromkeys(reasons), key=reasons.count)


def _told(values: np.ndarray) -> dict[int, float | None]:
    return {row: None if np.isnan(value) else float(value) for row, value in enumerate(values)}


KIND = Kind(questions, votes, ("system", "question", "classes", "examples"),
            "{who} was asked {count} times, and most of its answers say this.")
