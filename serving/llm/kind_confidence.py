"""The LLM's own confidence in words: it is shown its first answer, and asked how sure it is of it.

Compare Tian et al., "Just ask for calibration", EMNLP 2023.
"""

from collections.abc import Sequence
from dataclasses import replace

from serving.llm.exchange import Message, Outcome, Prompt, Reply
from serving.llm.injection import ordered
from serving.llm.kind import Given, Kind, Questions, SourceVotes, answered_rows, gathered
from serving.llm.kind_certainty import certainty
from serving.llm.parsing import parsed
from serving.llm.prompting import classify
from training.task import ABSTAIN

QUESTION = "How sure are you that this answer is right?"
FORMAT = "Reply with a percentage alone, from 0% (surely wrong) to 100% (surely right)."
LEAST_TOKENS = 16
NO_FIGURE, UNSURE = "no confidence", "not sure enough"


def questions(given: Given) -> Questions:
    """The conversation about each row that has a first answer, carried on."""
    rows = answered_rows(given)
    return Questions(rows, [_prompt(given, row) for row in rows.tolist()])


def votes(given: Given, questions: Questions, outcomes: Sequence[Outcome]) -> SourceVotes:
    """The first answer, where the LLM says that it is sure enough; beside it, how sure."""
    heard: dict[int, tuple[int, str]] = {}
    sure: dict[int, float | None] = {}
    for row, outcome in zip(questions.rows.tolist(), outcomes, strict=True):
        sure[row], reason = _said(given, row, outcome)
        enough = (sure[row] or 0.0) >= given.source.at_least and sure[row] is not None
        heard[row] = (int(given.answers[row]) if enough else ABSTAIN, reason)
    return gathered(given, heard, {"confidence": sure})


def _prompt(given: Given, row: int) -> Prompt:
    first = classify(given.ask, given.classes, given.text(row), given.pairs(row))
    more = (Message("assistant", given.classes[given.answers[row]]),
            Message("user", f"{given.source.question or QUESTION} {FORMAT}"))
    return replace(first, messages=(*first.messages, *more), max_tokens=max(first.max_tokens, LEAST_TOKENS))


def _said(given: Given, row: int, outcome: Outcome) -> tuple[float | None, str]:
    """How sure a reply is, and why its row abstains if it is not sure enough."""
    if not isinstance(outcome, Reply) or outcome.refusal:
        return None, parsed(outcome, given.classes, given.text(row)).reason
    shown = outcome.text.strip(" .\n*")
    if shown and shown in given.text(row) and ordered(given.text(row), (shown,)):
        return None, "followed the text"
    cut = outcome.finish == "length" and outcome.text.rstrip()[-1:].isdigit()
    found = None if cut else certainty(outcome.text)
    return found, "cut short" if cut else NO_FIGURE if found is None else UNSURE


KIND = Kind(questions, votes, ("question",), "{who} was asked how sure it is of this answer, and says that it is.")
