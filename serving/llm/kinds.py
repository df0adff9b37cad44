"""Sources made of more questions to an LLM: `[[ask.sources]]` of a task, by kind."""

from collections.abc import Callable, Sequence

import numpy as np

from serving.llm import kind_confidence, kind_judge, kind_logprobs, kind_prompt, kind_samples
from serving.llm.exchange import Outcome, Prompt
from serving.llm.kind import Encode, Given, Kind, Questions, Rows, SourceVotes
from serving.llm.settings import Endpoint, Settings
from training.asking import AskedSource, Wording
from training.errors import InputError
from training.task import Task

__all__ = ["KINDS", "Kind", "Rows", "SourceVotes", "check", "evidence_line", "family_of", "source_votes"]

AskWith = Callable[[str | None, Sequence[Prompt]], list[Outcome]]
"""Asks an endpoint by its name, or the one that is asked anyway; outcomes come in the order of the prompts."""

KINDS: dict[str, Kind] = {
    "prompt": kind_prompt.PROMPT,
    "samples": kind_samples.KIND,
    "confidence": kind_confidence.KIND,
    "logprobs": kind_logprobs.KIND,
    "judge": kind_judge.KIND,
    "retrieval": kind_prompt.RETRIEVAL,
}


def source_votes(
    source: AskedSource,
    rows: Rows,
    first: Sequence[Outcome],
    answers: np.ndarray,
    ask_with: AskWith,
    encode: Encode | None = None,
) -> SourceVotes:
    """The votes of a source on n rows, and what is kept beside them.

    first: the n outcomes of the task's own question. answers: (n,) what they mean, -1 = none. Rows without a first
    answer are not asked by a source that rates it. encode: texts to vectors of unit length, for passages; by default
    the encoder's, behind the state's cache.

    Raises:
        InputError: the source says something that its kind makes no use of, its passages cannot be read, or
            `ask_with` cannot ask.
    """
    check(source)
    kind = KINDS[source.kind]
    given = Given(source, rows, first, np.asarray(answers), encode or _encoded)
    questions = kind.questions(given)
    outcomes = ask_with(source.endpoint, questions.prompts) if questions.prompts else []
    return kind.votes(given, questions, outcomes)


def questions_of(
    source: AskedSource, rows: Rows, first: Sequence[Outcome], answers: np.ndarray, encode: Encode | None = None
) -> Questions:
    """What `source_votes` would ask, without asking: for a count, or an estimate of the cost."""
    check(source)
    return KINDS[source.kind].questions(Given(source, rows, first, np.asarray(answers), encode or _encoded))


def check(source: AskedSource) -> None:
    """Refuse a wording that the source's kind makes no use of, and samples that would all be the same.

    Raises:
        InputError: names the source and the key.
    """
    used = KINDS[source.kind].wording
    for key in Wording.model_fields:
        if getattr(source, key) and key not in used:
            expected = ", ".join(f"`{name}`" for name in used) or "nothing of a wording"
            raise InputError(f"[[ask.sources]] '{source.name}': a source of kind {source.kind} makes no use of "
                             f"`{key}`. Expected {expected}; leave the key out.")
    if source.kind == "samples" and source.count > 1 and source.temperature == 0:
        raise InputError(f"[[ask.sources]] '{source.name}': at temperature 0 all {source.count} samples are the same "
                         "answer. Set `temperature`, 0.9 for example; or ask in other words, with a source of kind "
                         "prompt.")


def family_of(source: AskedSource, task: Task, settings: Settings, asked: str | None = None) -> str:
    """The family under which the source's votes are counted.

    As the source says; else, if the same model makes its votes as the answers, the LLM's own, and else the other
    endpoint's family, or its model's name. asked: the endpoint that gives the answers, where not the default.

    Raises:
        InputError: the settings name no such endpoint, or texts may not leave for it.
    """
    if source.family:
        return source.family
    if source.endpoint is None or source.endpoint == asked:
        return task.task.llm_family
    theirs = _kin(settings.endpoint(source.endpoint))
    return task.task.llm_family if theirs == _kin(settings.endpoint(asked)) else theirs


def evidence_line(source: AskedSource) -> str:
    """A sentence for `Source.evidence` that says what the source's votes rest on; nobody's text is in it."""
    who = "The LLM" if source.endpoint is None else "Another LLM"
    return KINDS[source.kind].evidence.format(who=who, count=source.count)


def _kin(endpoint: Endpoint) -> str:
    return endpoint.family or endpoint.model


def _encoded(texts: list[str]) -> np.ndarray:
    from training.job import embeddings
    from training.state import State

    return embeddings(State.from_environment())(texts)
