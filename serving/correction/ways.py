"""The ways of asking an LLM again, as prompts: whether it is sure, with the sources' evidence, with similar rows. Pure.

Each way goes on with the conversation in which the LLM gave its first answer, and asks for a class once more. What
sources say and what other rows hold is data: it is fenced like the text itself (`serving.llm.prompting`).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from serving.llm.exchange import Message, Prompt
from serving.llm.prompting import classify, fenced
from training.asking import Ask
from training.errors import InputError
from training.task import ABSTAIN, Source

MOST_EVIDENCE = 12  # lines; what more sources say is summed up in one


@dataclass(frozen=True)
class Known:
    """What is known about a row beside its text. first: the LLM's first answer, None = none.

    evidence: a line a source that voted. similar: texts that are like it, and the answers to them.
    """

    first: str | None
    evidence: Sequence[str]
    similar: Sequence[tuple[str, str]]


def reask(known: Known) -> str:
    """Self-examination: nothing new is told."""
    asked = "Are you sure about your answer?" if known.first else "You gave no answer that can be used."
    return f"{asked} Think about the text and the question again."


def explain(known: Known) -> str:
    """The evidence of the sources that voted."""
    if not known.evidence:
        return reask(known)
    return ("Other sources have looked at the same text. They are simple and may be wrong, but they point to "
            "something in it:\n"
            f"{fenced('evidence', chr(10).join(f'- {line}' for line in known.evidence))}\n"
            "Weigh what they say against the text, and decide again.")


def similar(known: Known) -> str:
    """Texts that are like it, with answers that are likely right."""
    if not known.similar:
        return reask(known)
    shown = "\n".join(f"{fenced('similar', text)}\nAnswer: {answer}" for text, answer in known.similar)
    return ("Here are texts that are like the one that you were asked about, with answers that are likely right. "
            f"They are other texts: the right answer may be another.\n{shown}\n"
            "Compare them with the text, and decide again.")


WAYS: Mapping[str, Callable[[Known], str]] = {"reask": reask, "explain": explain, "similar": similar}
"""Each way by its name: what is said after the first answer, before the classes are named again."""


def prompt_again(
    way: str,
    ask: Ask,
    classes: Sequence[str],
    text: str,
    spans: Sequence[tuple[int, int]] = (),
    first: str | None = None,
    evidence: Sequence[str] = (),
    similar: Sequence[tuple[str, str]] = (),
) -> Prompt:
    """The question asked again in one of the ways; the first one, the answer, and what is said to it.

    first: the LLM's first answer, a class, None = none. evidence: of `explain`, as `evidence_of` words it. similar:
    of `similar`, texts and the answers to them. A way that has nothing to tell asks as `reask` does.

    Raises:
        InputError: there is no such way.
    """
    if way not in WAYS:
        raise InputError(f"there is no way '{way[:60]}' of asking again. Expected one of {', '.join(WAYS)}.")
    asked = classify(ask, classes, text, spans)
    said = (f"{WAYS[way](Known(first, tuple(evidence), tuple(similar)))}\n"
            f"Answer with one of these classes and nothing else: {', '.join(classes)}.")
    return replace(asked, messages=_continued(asked.messages, first, said))


def evidence_of(sources: Sequence[Source], votes: np.ndarray, classes: Sequence[str]) -> list[str]:
    """What the sources that voted say, a line each: votes (m,), -1 = abstains; empty if all do.

    Beyond `MOST_EVIDENCE` lines, how many more say what.
    """
    voted = [(source, int(vote)) for source, vote in zip(sources, votes, strict=True) if vote != ABSTAIN]
    lines = [_line(source, classes[vote]) for source, vote in voted[:MOST_EVIDENCE]]
    if rest := voted[MOST_EVIDENCE:]:
        counts = np.bincount([vote for _, vote in rest], minlength=len(classes))
        said = ", ".join(f"{classes[c]} ({counts[c]})" for c in np.argsort(-counts, kind="stable") if counts[c])
        lines.append(f"{len(rest)} more sources say: {said}.")
    return lines


def _line(source: Source, said: str) -> str:
    ground = " ".join(source.evidence.split())
    return f"{ground} That speaks for: {said}." if ground else f"The source '{source.name}' says: {said}."


def _continued(messages: tuple[Message, ...], first: str | None, said: str) -> tuple[Message, ...]:
    """The conversation gone on with; roles alternate, as many servers demand."""
    if first is not None:
        return (*messages, Message("assistant", first), Message("user", said))
    return (*messages[:-1], Message("user", f"{messages[-1].content}\n\n{said}"))
