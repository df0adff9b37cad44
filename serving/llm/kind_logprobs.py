"""How probable the LLM's answer was to itself: the vote is the answer where its class's tokens are probable enough.

The probability of a class in a reply is the product of those of the tokens that make up its name; of several places
where it stands, the least. A reply that means a class without naming it counts with all of its tokens.
"""

import math
from collections.abc import Sequence
from itertools import accumulate

import numpy as np

from serving.llm.exchange import Outcome, Reply, Token
from serving.llm.folding import folded
from serving.llm.kind import Given, Kind, Questions, SourceVotes, answered_rows, gathered
from serving.llm.kind_prompt import said
from serving.llm.naming import names_of
from serving.llm.parsing import REASONING
from serving.llm.prompting import classify
from training.task import ABSTAIN

NOT_OFFERED, UNSURE, OTHERWISE = "no probabilities", "not probable enough", "says something else"


def questions(given: Given) -> Questions:
    """The task's question again, of rows whose first reply has no tokens; all, where another endpoint is asked."""
    rows = (np.arange(len(given.rows)) if given.source.endpoint
            else np.array([row for row in answered_rows(given).tolist() if not _tokens(given.first[row])], dtype=int))
    return Questions(rows, [
        classify(given.ask, given.classes, given.text(row), given.pairs(row), logprobs=True) for row in rows.tolist()])


def votes(given: Given, questions: Questions, outcomes: Sequence[Outcome]) -> SourceVotes:
    """The first answer, or that of the other endpoint, where it is probable enough; beside it, the probability."""
    replies: dict[int, Outcome] = {row: given.first[row] for row in answered_rows(given).tolist()}
    again = dict(zip(questions.rows.tolist(), outcomes, strict=True))
    heard: dict[int, tuple[int, str]] = {}
    probabilities: dict[int, float | None] = {}
    for row, outcome in (replies | again).items():
        answer, reason = said(given, row, outcome) if row in again else (int(given.answers[row]), "answered")
        tokens = _tokens(outcome)
        if answer == ABSTAIN:
            heard[row] = (ABSTAIN, reason)
        elif not given.source.endpoint and answer != given.answers[row]:
            heard[row] = (ABSTAIN, OTHERWISE)
        elif not tokens:
            heard[row] = (ABSTAIN, NOT_OFFERED)
        else:
            probabilities[row] = probability = class_probability(tokens, answer, given.classes)
            heard[row] = (answer, reason) if probability >= given.source.at_least else (ABSTAIN, UNSURE)
    return gathered(given, heard, {"probability": probabilities})


def class_probability(tokens: Sequence[Token], answer: int, classes: Sequence[str]) -> float:
    """The probability of a class's name in a reply, 0 to 1. What was thought before the answer does not count."""
    whole = "".join(token.text for token in tokens)
    thought = REASONING.match(whole)
    begin = thought.end() if thought else 0
    folds = [folded(character) for character in whole[begin:]]
    origin = [begin + place for place, fold in enumerate(folds) for _ in fold]  # of each folded character
    spans = [(origin[start], origin[end - 1] + 1)
             for start, end, named in names_of(tuple(classes)).mentions("".join(folds), weak=True) if named == answer]
    ends = accumulate(len(token.text) for token in tokens)
    placed = [(token, end - len(token.text), end) for token, end in zip(tokens, ends, strict=True)]
    if not spans:
        return _product([token for token, _, end in placed if end > begin and token.text.strip()])
    return min(_product([token for token, start, end in placed if end > first and start < last])
               for first, last in spans)


def _product(tokens: Sequence[Token]) -> float:
    total = math.fsum(min(token.logprob, 0.0) for token in tokens)
    return 0.0 if math.isnan(total) else math.exp(total)


def _tokens(outcome: Outcome) -> tuple[Token, ...]:
    return outcome.tokens if isinstance(outcome, Reply) else ()


KIND = Kind(questions, votes, (), "{who} gave its answer a high probability.")
