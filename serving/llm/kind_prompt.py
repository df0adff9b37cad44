"""The same question in other words, or beside passages that are like the text: the reply is the vote.

In other words: another instruction, other examples, other lines about the classes. Passages: `count` of a file, the
nearest by the encoder.
"""

from collections.abc import Sequence

import numpy as np

from serving.llm.exchange import Outcome
from serving.llm.kind import Given, Kind, Questions, SourceVotes, gathered
from serving.llm.parsing import parsed
from serving.llm.passages import read_passages, similar
from serving.llm.prompting import classify
from training.task import ABSTAIN

NONE_LIKE_IT = "no passage"


def questions(given: Given) -> Questions:
    """One for each row, with the source's wording in place of the task's."""
    every = range(len(given.rows))
    return Questions(np.arange(len(given.rows)), [
        classify(given.ask, given.classes, given.text(row), given.pairs(row), wording=given.source) for row in every])


def questions_beside_passages(given: Given) -> Questions:
    """One for each row that has a passage to show; its own text is none."""
    source, rows = given.source, given.rows
    passages = read_passages(rows.task.folder, source.passages or "")
    found = similar([given.text(row) for row in range(len(rows))], passages, source.count, given.encode)
    told = [row for row, near in enumerate(found) if near]
    return Questions(np.array(told, dtype=np.int64), [
        classify(given.ask, given.classes, given.text(row), given.pairs(row), wording=source, passages=found[row])
        for row in told], [found[row] for row in told])


def votes(given: Given, questions: Questions, outcomes: Sequence[Outcome]) -> SourceVotes:
    """The answers."""
    heard: dict[int, tuple[int, str]] = {row: (ABSTAIN, NONE_LIKE_IT) for row in range(len(given.rows))}
    shown = questions.passages or [()] * len(outcomes)
    for row, outcome, passages in zip(questions.rows.tolist(), outcomes, shown, strict=True):
        heard[row] = said(given, row, outcome, passages)
    return gathered(given, heard)


def said(given: Given, row: int, outcome: Outcome, passages: Sequence[str] = ()) -> tuple[int, str]:
    """The class that a reply about a row names, or -1, and why. passages: what it was shown beside the text."""
    found = parsed(outcome, given.classes, (given.text(row), *passages))
    return found.answer, found.reason


WORDING = ("system", "question", "classes", "examples")
PROMPT = Kind(questions, votes, WORDING, "{who} was asked in other words.")
RETRIEVAL = Kind(questions_beside_passages, votes, WORDING, "{who} was asked beside passages that are like the text.")
