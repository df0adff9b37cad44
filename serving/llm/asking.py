"""Have the LLM answer a task's rows, and make the votes of the sources that more questions make.

What stops it, a budget or a Ctrl-C, leaves what was answered: in the cache, and in what is returned.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx

from serving.llm.budget import Account
from serving.llm.cache import Cache
from serving.llm.client import Client, Session
from serving.llm.exchange import Failed, Outcome, Prompt, Reply
from serving.llm.kinds import source_votes
from serving.llm.parsing import Parsed, parsed
from serving.llm.prompting import classify
from serving.llm.question_rows import ToAsk
from serving.llm.result import Asked, AskedVotes, Stopped, for_now
from serving.llm.settings import Settings
from serving.llm.usage import Usage
from training.asking import AskedSource
from training.errors import InputError


@dataclass(frozen=True)
class Told:
    """Who hears of progress. begins: of what is asked next, with the number of questions. came: of an outcome, and
    what it means, if it answers the task's own question."""

    begins: Callable[[str, int], None] = lambda what, questions: None
    came: Callable[[Outcome, Parsed | None], None] = lambda outcome, meaning: None


@dataclass(frozen=True)
class Line:
    """Where texts go. endpoint: its name, None for the settings' own choice. transport: how requests travel."""

    settings: Settings
    endpoint: str | None
    cache: Cache
    account: Account
    transport: httpx.AsyncBaseTransport | None = None


@dataclass
class _Course:
    """What happens while it is asked. session: asks all of it, so that what is learned of an endpoint stays known."""

    session: Session
    usage: Usage = field(default_factory=Usage)
    stopped: Stopped = ""
    error: InputError | None = None
    unheard: Counter[str] = field(default_factory=Counter)


def prompts_of(to_ask: ToAsk) -> list[Prompt]:
    """The task's own question about each row; with log-probabilities, which make the LLM's confidence."""
    return [classify(to_ask.ask, to_ask.task.classes, text, [(int(start), int(end)) for start, end in spans],
                     logprobs=True)
            for text, spans in zip(to_ask.rows.texts, to_ask.rows.spans, strict=True)]


def check(line: Line, sources: Sequence[AskedSource]) -> None:
    """Refuse what could not be asked to its end, before anybody is asked.

    Raises:
        InputError: an endpoint that is needed is unknown or not allowed, lacks its key, or has no prices where the
            budget is one of money.
    """
    for name in dict.fromkeys([line.endpoint, *(source.endpoint or line.endpoint for source in sources)]):
        Client(line.settings.endpoint(name), line.cache, budget=line.account, transport=line.transport, alone=True)


def ask_task(to_ask: ToAsk, line: Line, sources: Sequence[AskedSource] = (), told: Told = Told()) -> Asked:
    """Ask about all rows, then what each source asks, until all is asked or something stops it."""
    with Session(line.cache, budget=line.account, transport=line.transport) as session:
        return _ask_task(to_ask, line, sources, told, _Course(session))


def _ask_task(to_ask: ToAsk, line: Line, sources: Sequence[AskedSource], told: Told, course: _Course) -> Asked:
    prompts, texts = prompts_of(to_ask), to_ask.rows.texts
    outcomes: list[Outcome | None] = [None] * len(prompts)
    meanings: list[Parsed | None] = [None] * len(prompts)

    def came(place: int, outcome: Outcome) -> None:
        outcomes[place] = outcome
        meanings[place] = meaning = parsed(outcome, to_ask.task.classes, texts[place])
        told.came(outcome, meaning)

    told.begins("asking", len(prompts))
    with _stopping(course):
        _ask(line, line.endpoint, prompts, course, came)
    asked = Asked(prompts, outcomes, meanings, [], course.usage, course.stopped, course.error)
    heard = [outcome for outcome in outcomes if outcome is not None]
    if course.stopped or not any(isinstance(outcome, Reply) for outcome in heard):
        return asked
    votes = []
    for source in sources:
        if course.stopped:
            break
        found = _votes(source, to_ask, asked, heard, line, course, told)
        votes += [found] if found else []
    return Asked(prompts, outcomes, meanings, votes, course.usage, course.stopped, course.error)


def _votes(source: AskedSource, to_ask: ToAsk, asked: Asked, heard: list[Outcome], line: Line, course: _Course,
           told: Told) -> AskedVotes | None:
    def ask_with(endpoint: str | None, prompts: Sequence[Prompt]) -> list[Outcome]:
        told.begins(source.name, len(prompts))
        return _ask(line, endpoint or line.endpoint, prompts, course, lambda place, outcome: told.came(outcome, None))

    course.unheard, found = Counter(), None
    with _stopping(course):
        found = source_votes(source, to_ask.rows, heard, asked.answers, ask_with)
    return AskedVotes(source, found, course.unheard) if found else None


@contextmanager
def _stopping(course: _Course) -> Iterator[None]:
    """What ends asking before its end is told of, and goes no further."""
    try:
        yield
    except KeyboardInterrupt:
        course.stopped = "interrupted"
    except InputError as error:
        course.stopped, course.error = "error", error


def _ask(line: Line, endpoint: str | None, prompts: Sequence[Prompt], course: _Course,
         came: Callable[[int, Outcome], Any]) -> list[Outcome]:
    def spent(usage: Usage) -> None:
        course.usage += usage

    found = course.session.ask_all(line.settings.endpoint(endpoint), prompts, told=came, spent=spent)
    course.unheard += Counter(outcome.kind for outcome in found if isinstance(outcome, Failed) and for_now(outcome))
    if any(isinstance(outcome, Failed) and outcome.kind == "budget" for outcome in found):
        course.stopped = "budget"
    return found
