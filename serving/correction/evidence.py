"""What an LLM is shown when it is asked again: its first answer, what sources say, rows that are like the one."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from serving.correction.judged import Judged
from serving.correction.similar import SHOWN, similar_rows
from serving.correction.ways import WAYS, evidence_of, prompt_again
from serving.llm.exchange import Prompt
from serving.llm.prompting import marked
from training.asking import Ask
from training.table import Table
from training.task import ABSTAIN

LONGEST = 800  # characters of a text that is shown beside the one that is asked about
APART = "\n.\n"  # between data, so that the end of one and the beginning of the next are not read as one sentence


@dataclass(frozen=True)
class Question:
    """A prompt, and the data in it: where some of it orders an answer, and the LLM obeys, that is no answer."""

    prompt: Prompt
    data: str


@dataclass(frozen=True)
class Material:
    """All rows N of a task, of which some are asked about.

    table, judged: aligned. ask: how the LLM was asked. trusted: (N,) whether a row may be shown as likely right.
    vectors: makes the embeddings (N, width), and is called only for `similar`.
    """

    table: Table
    judged: Judged
    ask: Ask
    trusted: np.ndarray
    vectors: Callable[[], np.ndarray]

    def ways(self, rows: np.ndarray) -> list[str]:
        """The ways that have something to show for the rows (k,): without it, each would be `reask` again."""
        able = {"explain": bool((self.judged.votes[rows] != ABSTAIN).any()), "similar": bool(self.trusted.any())}
        return [way for way in WAYS if able.get(way, True)]

    def questions(self, way: str, rows: np.ndarray) -> list[Question]:
        """What is asked about the rows (k,) in a way."""
        return [
            Question(prompt_again(way, self.ask, self.table.classes, self.table.texts[row], _spans(self.table, row),
                                  self._answer(row), self._evidence(way, row), near),
                     APART.join([self.table.texts[row], *self._words(way, row), *(text for text, _ in near)]))
            for row, near in zip(rows, self._similar(way, rows), strict=True)
        ]

    def _answer(self, row: int) -> str | None:
        answer = int(self.judged.first[row])
        return None if answer == ABSTAIN else self.table.classes[answer]

    def _evidence(self, way: str, row: int) -> list[str]:
        votes = self.judged.votes[row]
        return evidence_of(self.table.sources, votes, self.table.classes) if way == "explain" else []

    def _words(self, way: str, row: int) -> list[str]:
        """The evidence as its sources put it, without what is said around it."""
        if way != "explain":
            return []
        return [source.evidence or source.name
                for source, vote in zip(self.table.sources, self.judged.votes[row], strict=True) if vote != ABSTAIN]

    def _similar(self, way: str, rows: np.ndarray) -> list[list[tuple[str, str]]]:
        if way != "similar":
            return [[] for _ in rows]
        near = similar_rows(self.vectors(), rows, self.trusted & (self.judged.first != ABSTAIN), SHOWN)
        return [[(self._shown(row), self.table.classes[self.judged.first[row]]) for row in found if row >= 0]
                for found in near]

    def _shown(self, row: int) -> str:
        return marked(self.table.texts[row], _spans(self.table, row))[:LONGEST]


def _spans(table: Table, row: int) -> list[tuple[int, int]]:
    return [(int(start), int(end)) for start, end in table.spans[row]]
