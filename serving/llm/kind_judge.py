"""A judge: the same model or another rates the first answer, without a reference, and names a better one if it can.

It sees the text and the answer, and not who gave it. Compare Zheng et al., "Judging LLM-as-a-judge", NeurIPS 2023.
"""

import re
from collections.abc import Sequence
from dataclasses import replace

from serving.llm.exchange import Message, Outcome, Prompt, Reply
from serving.llm.folding import folded
from serving.llm.injection import ordered
from serving.llm.kind import Given, Kind, Questions, SourceVotes, answered_rows, gathered
from serving.llm.naming import names_of
from serving.llm.parsing import REASONING, parsed
from serving.llm.prompting import NOTICE, entities, fenced, marked, worded
from training.task import ABSTAIN

SYSTEM = ("You check answers. You are shown a text and the class that somebody gave it, and say whether the class is "
          "right.")
QUESTION = "Is this class right for this text?"
LEAST_TOKENS = 24
UNCLEAR, NO_BETTER, FOLLOWED = "no verdict", "wrong, and no better class", "followed the text"

VERDICTS = (("right", "wrong"), ("correct", "incorrect"), ("agree", "disagree"), ("keep", "replace"))
"""Words for a verdict; a task whose classes share a word with a pair is asked with the next."""
JUDGING = frozenset(word for pair in VERDICTS[:2] for word in pair)
ALIKE = {"right": ("right", "correct", "yes", "true"),
         "wrong": ("wrong", "incorrect", "no", "false", "mistaken", "mistake", "mistakes", "error", "errors")}
NOT = (r"(?:\b(?:not|never|nothing|no|nor|without|neither)|n't)\s(?:(?:is|are|the|an?|any|that|seems|really|obviously)"
       r"\s){0,3}")
NO_DOUBT = re.compile(r"\b(?:no|without(?: a| any)?|beyond(?: a| any)?) (?:doubts?|questions?)\b|\bundoubtedly\b")
CALLED = re.compile(r"\b(?:the|a) (?:right|correct|true) (?:class|answer|one|label|category|choice)"
                    r"(?= (?:is|would|should)\b| ?:)")
LOOSE_NOT = re.compile(r"\b(?:not|no|nothing|never|nobody|none|neither|cannot)\b|n't\b")
DOUBT = re.compile(
    r"\bnot (?:so |very |quite |entirely |completely |fully |really |totally |100% |always |necessarily |all )*"
    r"(?:sure|certain|clear|convinced|confident|always|necessarily|entirely|completely|quite|fully|all)\b"
    r"|n't (?:quite|entirely|completely|fully|always|necessarily|be sure|sure|certain|know|tell|say|decide|think|"
    r"believe)\b"
    r"|\b(?:doubt\w*|unsure|uncertain|unclear|whether|maybe|perhaps|possibly|might|could|hardly|barely|partly|"
    r"partially|half|cannot (?:tell|say|decide|know|be sure)|hard to|difficult to|impossible to|far from|anything but|"
    r"if|either)\b")
FIRST = re.compile(r"\W*(\w+)\b(?=\s*(?:$|[.,;:!\n*`'\")-]|\u2014|\u2013))(?!\W*(?:/|or\b))")


def questions(given: Given) -> Questions:
    """One for each row that has a first answer."""
    rows = answered_rows(given)
    return Questions(rows, [_prompt(given, row) for row in rows.tolist()])


def votes(given: Given, questions: Questions, outcomes: Sequence[Outcome]) -> SourceVotes:
    """The first answer where it is found right; where not, the better class that is named, or the other one of two."""
    return gathered(given, {row: _said(given, row, outcome)
                            for row, outcome in zip(questions.rows.tolist(), outcomes, strict=True)})


def verdict_words(classes: Sequence[str]) -> tuple[str, str]:
    """The words for right and wrong that no class of the task has in its name; the first pair if all are taken."""
    taken = _words(" ".join(classes))
    return next((pair for pair in VERDICTS if not taken & set(pair)), VERDICTS[0])


def verdict(reply: str, classes: Sequence[str]) -> bool | None:
    """Whether a reply finds an answer right; None where it says neither, or both, or doubts.

    Words in class names say nothing. "Yes" and "no" count as the first word alone.
    """
    right, wrong = verdict_words(classes)
    taken = _words(" ".join(classes))
    good = {right, *(() if taken & set(ALIKE["right"]) else ALIKE["right"])}
    bad = {wrong, *(() if taken & set(ALIKE["wrong"]) else ALIKE["wrong"])}
    text = _plain(reply, classes)
    if DOUBT.search(text):
        return None
    begins = FIRST.match(text)
    said = [] if begins is None or begins[1] not in good | bad else [begins[1] in good]
    good, bad = good - {"yes"}, bad - {"no"}
    for found in re.finditer(rf"({NOT})?\b({'|'.join(good | bad)})\b", text):
        if LOOSE_NOT.search(re.split(r"[.,;:!?\n]", text[max(0, found.start() - 200):found.start()])[-1]):
            return None
        said.append((found[2] in good) != bool(found[1]))
    return said[0] if len(set(said)) == 1 else None


def _said(given: Given, row: int, outcome: Outcome) -> tuple[int, str]:
    first, classes = int(given.answers[row]), given.classes
    if not isinstance(outcome, Reply) or outcome.refusal or not outcome.text.strip():
        return ABSTAIN, parsed(outcome, classes, given.text(row)).reason
    reply = REASONING.sub("", outcome.text)
    right = verdict(reply, classes)
    named = parsed(replace(outcome, text=_without_verdict(reply, classes)), classes, given.text(row))
    told = ordered(given.text(row), verdict_words(classes))
    if named.reason == FOLLOWED or (right is not None and int(not right) in told):
        return ABSTAIN, FOLLOWED
    if right is None:
        said = _plain(reply, classes)
        return (ABSTAIN, UNCLEAR) if named.answer == ABSTAIN or DOUBT.search(said) or _words(said) & JUDGING else (
            named.answer, "answered")
    if right:
        other = named.answer not in (ABSTAIN, first) or named.reason == "two classes"
        return (ABSTAIN, UNCLEAR) if other else (first, "answered")
    if len(classes) == 2 and named.answer != first:
        return 1 - first, "answered"
    return (named.answer, "answered") if named.answer not in (ABSTAIN, first) else (ABSTAIN, NO_BETTER)


def _prompt(given: Given, row: int) -> Prompt:
    source, classes, text, pairs = given.source, given.classes, given.text(row), given.pairs(row)
    right, wrong = verdict_words(classes)
    lines = worded(given.ask, source).classes
    about = [f"- {name}: {lines[name]}" if lines.get(name) else f"- {name}" for name in classes]
    system = "\n".join([source.system or SYSTEM, "", "The classes:", *about, "", NOTICE])
    parts = [fenced("text", marked(text, pairs)), *([fenced("entities", entities(text, pairs))] if pairs else []),
             fenced("class", classes[given.answers[row]]),
             f"{source.question or QUESTION} Reply `{right}`, or `{wrong}: ` and the class that is right instead."]
    return Prompt((Message("system", system), Message("user", "\n\n".join(parts))),
                  max_tokens=max(given.ask.max_tokens, LEAST_TOKENS))


def _without_verdict(reply: str, classes: Sequence[str]) -> str:
    right, wrong = verdict_words(classes)
    return re.sub(rf"^\W*(?:{right}|{wrong})\b\W*", "", reply, flags=re.IGNORECASE)


def _plain(reply: str, classes: Sequence[str]) -> str:
    """The reply in lower case without the names of classes, which may be words of doubt."""
    reply = folded(reply)
    for mention in reversed(names_of(tuple(classes)).mentions(reply)):
        reply = f"{reply[:mention.start]}…{reply[mention.end:]}"
    return NO_DOUBT.sub(" ", CALLED.sub(" ", reply.lower()))


def _words(text: str) -> set[str]:
    return set(re.findall(r"\w+", text.lower()))


KIND = Kind(questions, votes, ("system", "question", "classes"),
            "{who}, as a judge that saw the text and the answer alone, finds that this is right.")
