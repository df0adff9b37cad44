"""What a source that asks the LLM is given, what it asks, and what it makes of the replies."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from serving.llm.exchange import Outcome, Prompt
from training.asking import Ask, AskedSource
from training.task import ABSTAIN, Task

Encode = Callable[[list[str]], np.ndarray]
"""Texts to vectors of unit length, (n, width)."""

NO_ANSWER = "no first answer"


@dataclass(frozen=True)
class Rows:
    """n rows of a task. texts: (n,) strings. spans: (n, entities, 2) character offsets."""

    task: Task
    texts: np.ndarray
    spans: np.ndarray

    def __len__(self) -> int:
        return len(self.texts)


@dataclass(frozen=True)
class Given:
    """first: n outcomes of the task's own question. answers: (n,) what they mean, -1 = none."""

    source: AskedSource
    rows: Rows
    first: Sequence[Outcome]
    answers: np.ndarray
    encode: Encode

    @property
    def ask(self) -> Ask:
        """How the task's own question is asked."""
        return self.rows.task.ask or Ask()

    @property
    def classes(self) -> tuple[str, ...]:
        """The task's classes."""
        return self.rows.task.classes

    def text(self, row: int) -> str:
        """The text of a row."""
        return str(self.rows.texts[row])

    def pairs(self, row: int) -> list[tuple[int, int]]:
        """The spans of a row."""
        return [(int(start), int(end)) for start, end in self.rows.spans[row]]


@dataclass(frozen=True)
class Questions:
    """q prompts, and the row (q,) that each is about; a row may have several, or none.

    passages: what else each shows as data; empty: nothing.
    """

    rows: np.ndarray
    prompts: list[Prompt]
    passages: Sequence[Sequence[str]] = ()


@dataclass(frozen=True)
class SourceVotes:
    """votes: (n,) int16, -1 = abstains. columns: what is kept beside the vote, n values each, None where there is none.

    reasons: how many rows it abstains on, by why.
    """

    votes: np.ndarray
    columns: dict[str, list[float | None]] = field(default_factory=dict)
    reasons: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Kind:
    """One way to make votes of more questions: what is asked, and the votes that the outcomes make; both pure.

    wording: the fields of a wording that it makes use of. evidence: a sentence that says what a vote rests on.
    """

    questions: Callable[[Given], Questions]
    votes: Callable[[Given, Questions, Sequence[Outcome]], SourceVotes]
    wording: tuple[str, ...]
    evidence: str


def answered_rows(given: Given) -> np.ndarray:
    """The rows that have a first answer: (q,)."""
    return np.flatnonzero(given.answers != ABSTAIN)


def gathered(
    given: Given, said: Mapping[int, tuple[int, str]], columns: Mapping[str, Mapping[int, float | None]] | None = None
) -> SourceVotes:
    """Votes from what is said of some rows, a class (or -1) and why; the others abstain for want of a first answer.

    columns: by their endings, which follow the source's name.
    """
    n = len(given.rows)
    votes = np.full(n, ABSTAIN, dtype=np.int16)
    votes[list(said)] = [vote for vote, _ in said.values()]
    reasons = Counter(reason for vote, reason in said.values() if vote == ABSTAIN)
    if len(said) < n:
        reasons[NO_ANSWER] += n - len(said)
    kept = {f"{given.source.name}_{ending}": [values.get(row) for row in range(n)]
            for ending, values in (columns or {}).items()}
    return SourceVotes(votes, kept, dict(reasons.most_common()))
