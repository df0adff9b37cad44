"""What an LLM said about the rows of a task, what it means, and what stopped it, if anything did. Pure."""

import math
from collections import Counter
from dataclasses import dataclass
from typing import Literal

import numpy as np

from serving.llm.exchange import Failed, Outcome, Prompt, Reply
from serving.llm.kinds import SourceVotes
from serving.llm.parsing import Parsed
from serving.llm.usage import Usage
from training.asking import AskedSource
from training.errors import InputError
from training.task import ABSTAIN

Stopped = Literal["", "budget", "interrupted", "error"]
FOR_NOW = ("timeout", "server", "budget")


@dataclass(frozen=True)
class AskedVotes:
    """A source and its votes on the rows that were asked. unheard: questions that have no reply for now, by why."""

    source: AskedSource
    votes: SourceVotes
    unheard: Counter[str]


@dataclass(frozen=True)
class Asked:
    """q rows asked: outcomes, None where it was stopped before, and what they mean. prompts: what was asked.

    error: why nobody would answer any more: a wrong key, an unknown model, nobody there.
    """

    prompts: list[Prompt]
    outcomes: list[Outcome | None]
    meanings: list[Parsed | None]
    sources: list[AskedVotes]
    usage: Usage
    stopped: Stopped
    error: InputError | None = None

    @property
    def answers(self) -> np.ndarray:
        """(q,) int16 class indices, -1 = none."""
        return np.array([ABSTAIN if meaning is None else meaning.answer for meaning in self.meanings], dtype=np.int16)

    @property
    def abstentions(self) -> dict[str, int]:
        """How many rows were asked and have no answer, by why, the commonest first."""
        return dict(Counter(meaning.reason for meaning in self.meanings
                            if meaning is not None and meaning.answer == ABSTAIN).most_common())

    @property
    def heard(self) -> bool:
        """Whether there is a reply at all."""
        return any(isinstance(outcome, Reply) for outcome in self.outcomes)

    @property
    def trouble(self) -> Failed | None:
        """The commonest failure of the task's own question, with the words of one of them."""
        failed = [outcome for outcome in self.outcomes if isinstance(outcome, Failed)]
        kinds = Counter(outcome.kind for outcome in failed).most_common(1)
        return next((outcome for outcome in failed if outcome.kind == kinds[0][0]), None)

    @property
    def unheard(self) -> Counter[str]:
        """Questions that have no reply for now, by why; those of the sources too."""
        own = Counter(outcome.kind if isinstance(outcome, Failed) else "not asked"
                      for outcome in self.outcomes if outcome is None or for_now(outcome))
        return sum((source.unheard for source in self.sources), own)


def confidence(outcome: Outcome | None) -> float | None:
    """The probability of a reply, as the product of its tokens' probabilities; None where none are offered."""
    if not isinstance(outcome, Reply) or not outcome.tokens:
        return None
    told = math.fsum(token.logprob for token in outcome.tokens)
    return None if math.isnan(told) else round(math.exp(min(0.0, told)), 6)


def for_now(outcome: Outcome) -> bool:
    """Whether it is a failure that says nothing about a row: asked once more, it may well be answered."""
    return isinstance(outcome, Failed) and outcome.kind in FOR_NOW
