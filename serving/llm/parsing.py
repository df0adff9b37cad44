"""What a reply means: one of the classes, or an abstention with its reason. Pure.

It is read as a careful person reads: case, quotes, Markdown, JSON and an explanation around the answer do not matter;
a class that is denied, doubted or one of two is no answer. Nothing is guessed.
"""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from serving.llm.exchange import Failed, Outcome
from serving.llm.folding import folded
from serving.llm.injection import ordered
from serving.llm.naming import Names, names_of
from serving.llm.prose import read

Reason = Literal[
    "answered", "empty", "no class", "two classes", "refusal", "followed the text", "cut short",
    "failed: too_long", "failed: rejected", "failed: malformed", "failed: timeout", "failed: server", "failed: budget"]

LONGEST = 5_000
"""Characters at either end of a reply that are read, where it is longer than both."""

_FAILED: dict[str, Reason] = {
    "too_long": "failed: too_long", "rejected": "failed: rejected", "malformed": "failed: malformed",
    "timeout": "failed: timeout", "server": "failed: server", "budget": "failed: budget"}
_ANSWER_KEYS = ("answer", "final_answer", "label", "class", "category", "classification", "prediction", "result",
                "output", "response", "verdict", "relation", "sentiment")
REASONING = re.compile(r"^.*</(?:think|thinking|reasoning)>", re.DOTALL | re.IGNORECASE)
_THOUGHT_OPEN = re.compile(r"<(?:think|thinking|reasoning)>.*$", re.DOTALL | re.IGNORECASE)
_BLOCK = re.compile(r"```\w*\n?(.*?)(?:```|$)", re.DOTALL)
_TAG = re.compile(r"</?[A-Za-z]\w*>|<\|[^|<>]*\|>|\\(?:boxed|text|mathrm|textbf|mathbf)\{|\$")
_QUOTED = re.compile(r'"([^"\n]{4,}?)"')
_BULLET = re.compile(r"^\(?\d{1,2}[.)]\s+(?=\S)")
_REFUSAL = re.compile(
    r"\b(?:sorry|apologi[sz]e)\b[^.\n]{0,40}\b(?:can't|cannot|can not|unable|won't|not able|not comfortable|no)\b"
    r"|\bI(?:'m| am)? (?:can't|cannot|can not|won't|will not|unable to|not able to|must decline|have to decline|"
    r"decline to|refuse to|do not feel comfortable|don't feel comfortable|not comfortable) "
    r"?(?:to )?(?:help|assist|answer|comply|provide|classify|respond|do|fulfil|fulfill|process|continue|engage|discuss|"
    r"generate|complete|participate|support|make|with|give|label)"
    r"|\bas an? (?:ai|artificial|large|language)\b|\bagainst (?:my|the) (?:guidelines|policy|policies|programming)"
    r"|\bes tut mir leid\b|\bje suis desole\b|\blo siento\b|\bmi dispiace\b", re.IGNORECASE)


@dataclass(frozen=True)
class Parsed:
    """answer: a class's index; -1 is an abstention. reason: why there is none, or `answered`."""

    answer: int
    reason: Reason


def parsed(outcome: Outcome, classes: Sequence[str], text: str | Sequence[str] = "") -> Parsed:
    """What an outcome means.

    text: what the LLM was shown as data: the text that was asked about, or it and all else, such as passages. Where any
    of it orders an answer and the reply obeys, nobody can tell what the LLM thinks.
    """
    if isinstance(outcome, Failed):
        return Parsed(-1, _FAILED[outcome.kind])
    if outcome.refusal or outcome.finish == "content_filter":
        return Parsed(-1, "refusal")
    shown, known = [text] if isinstance(text, str) else text, tuple(classes)
    found = meaning(outcome.text, classes, "\n".join(shown), cut=outcome.finish == "length")
    if found.answer >= 0 and any(found.answer in ordered(one, known) for one in shown):
        return Parsed(-1, "followed the text")
    return found


def meaning(said: str, classes: Sequence[str], text: str = "", cut: bool = False) -> Parsed:
    """What words mean. text: what was asked about; quoting it is not answering. cut: the end is missing."""
    names = names_of(tuple(classes))
    reply = folded(said).strip()
    if not reply:
        return Parsed(-1, "empty")
    index = names.whole(reply)
    if index is not None:
        return Parsed(-1, "cut short") if cut and names.begins(reply) else Parsed(index, "answered")
    reply = _THOUGHT_OPEN.sub("", REASONING.sub("", reply))
    if not reply.strip():
        return Parsed(-1, "cut short" if cut else "no class")
    if len(reply) > 2 * LONGEST:
        reply = f"{reply[:LONGEST]}\n…\n{reply[-LONGEST:]}"
    block = _BLOCK.search(reply)
    value = _json(block[1] if block else reply)
    if value is not None:
        return _of_json(value, names)
    return _of_words(_TAG.sub(" ", reply).replace("}", " ").replace("```", "\n").strip(), names, folded(text), cut)


def _of_words(reply: str, names: Names, text: str, cut: bool) -> Parsed:
    reply = _BULLET.sub("", reply) if names.numbered else reply
    index = names.whole(reply)
    if index is not None:
        return Parsed(-1, "cut short") if cut and names.begins(reply) else Parsed(index, "answered")
    reply = _QUOTED.sub(lambda quoted: " … " if names.whole(quoted[1]) is None and _says(text, quoted[1])
                        else quoted[0], reply)
    found = read(reply, names, whole=not cut)
    if found.last is not None:
        return Parsed(found.last, "answered")
    if len(found.plain) == 1:
        index = next(iter(found.plain))
        tail = re.split(r"[.;:!?,\n]", reply)[-1]
        return Parsed(-1, "cut short") if cut and names.whole(tail) == index and names.begins(tail) \
            else Parsed(index, "answered")
    if found.plain:
        return Parsed(-1, "two classes")
    if _REFUSAL.search(reply):
        return Parsed(-1, "refusal")
    if cut:
        return Parsed(-1, "cut short")
    if len(found.named) > 1:
        return Parsed(-1, "two classes")
    if len(found.affirmed) == 1 and not (len(reply.split()) > 3 and _says(text, reply)):
        return Parsed(next(iter(found.affirmed)), "answered")
    return Parsed(-1, "no class")


def _says(text: str, phrase: str) -> bool:
    return len(phrase.split()) > 1 and " ".join(phrase.split()).casefold() in " ".join(text.split()).casefold()


def _json(reply: str) -> Any:
    """The JSON that a reply is, or that stands in it as its only object; None where there is none."""
    begin, end = reply.find("{"), reply.rfind("}")
    for candidate in (reply.strip(), reply[begin:end + 1] if 0 <= begin < end else ""):
        try:
            value = json.loads(candidate)
        except (ValueError, RecursionError):
            continue
        if isinstance(value, dict | list | str):
            return value
    return None


def _of_json(value: Any, names: Names) -> Parsed:
    """The class in JSON: a string, the value under a key such as `answer`, or the one key whose value is true."""
    if isinstance(value, list):
        found = [_of_json(item, names) for item in value[:100]]
        if len({one.answer for one in found if one.answer >= 0}) > 1:
            return Parsed(-1, "two classes")
        return next((one for one in found if one.answer >= 0), Parsed(-1, "no class"))
    if isinstance(value, dict):
        said = {str(key).casefold(): item for key, item in value.items()}
        for key in _ANSWER_KEYS:
            if key in said:
                return _of_json(said[key], names)
        true = [str(key) for key, item in value.items() if item is True]
        kept = true if len(true) == 1 else [item for item in value.values() if isinstance(item, str)]
        if len(kept) == 1:
            return _of_json(kept[0], names)
        return Parsed(-1, "two classes" if len(true) > 1 else "no class")
    if value is None:
        return Parsed(-1, "no class")
    return _of_words(str(value).strip(), names, "", cut=False) if str(value).strip() else Parsed(-1, "empty")
