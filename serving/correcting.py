"""The way of a body through `POST /correct`: scored, asked again where that gains enough, weighed, kept once.

Items are scored in the passes of `/score`, and while the LLM thinks nobody holds a thread. What goes out is what is
kept: one answer an item, by its own score_id, so that feedback finds one answer, and every figure of monitoring is
about answers that somebody got. Until then nothing of the request is kept, and one that fails, or whose client goes,
may be sent again.

An item is scored by the version that answers it (`serving.lineup`). How the LLM is asked is the first version's.
"""

import asyncio
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import cast

import httpx

from serving.config import ServiceConfig
from serving.correct_asking import Questions, Unasked, took
from serving.correct_choice import Again, asked_of, corrected, decided, questions_of, reply_of
from serving.correct_means import Means, cache_of
from serving.correct_memory import Memory
from serving.correction.habits import Habits
from serving.lineup import Ready
from serving.llm.budget import Budget
from serving.llm.cache import Cache
from serving.llm.client import Client
from serving.llm.exchange import Outcome
from serving.llm.parsing import parsed
from serving.meters import CorrectMeters
from serving.refusal import Refusal
from serving.schema import CorrectRequest, CorrectResponse, Item, read
from serving.scorer import Scorer
from serving.scoring import Scoring
from serving.slices import Slice, Told, cut, prepared
from training.errors import InputError
from training.state import State
from training.task import ABSTAIN

LOG = logging.getLogger("bentoml.polarscore")


@dataclass(frozen=True, eq=False)
class Corrector:
    """Who asks again; one a service. cache: of the replies. Close it in the event loop."""

    means: Means
    questions: Questions
    meters: CorrectMeters
    cache: Cache
    _strange: set[str] = field(default_factory=set)

    async def close(self) -> None:
        """Ask no more."""
        await self.questions.close()
        await asyncio.to_thread(self.cache.close)  # which may wait for whoever reads or writes it

    def forget(self) -> None:
        """Forget the replies that are kept in memory alone."""
        if isinstance(self.cache, Memory):
            self.cache.forget()

    async def corrected(self, scoring: Scoring, body: bytes) -> CorrectResponse:
        """The scores of the items that a body holds, each of the better answer.

        Raises:
            Refusal: the body or an item is at fault, too many questions wait, or the scores cannot be kept.
        """
        asks, began = self.means.config, time.monotonic()
        limits = scoring.limits.model_copy(update={"items": min(scoring.limits.items, asks.items)})
        items = (await scoring.threads.run(lambda: read(body, CorrectRequest, limits), len(body))).items
        first = await _told(scoring, items)
        told, again, outcomes = await self._asked(scoring, items, first, began + asks.seconds)
        unsure = () if asks.accept else {first.scores[place].score_id for place in again}
        response = await scoring.threads.run(lambda: scoring.desk.keep(told, partial(decided, unsure=unsure)))
        reply = reply_of(response, first, again, asks.way, self.means.learned.margin,
                         took(outcomes, self.means.endpoint))
        self.meters.asked(asks.way, reply.asked, reply.changed, reply.abstained)
        return reply

    async def _asked(
        self, scoring: Scoring, items: Sequence[Item], first: Told, until: float
    ) -> tuple[Told, Mapping[int, Again], Sequence[Outcome | Unasked]]:
        """What is said of a request after its questions, what came of them by the items' places, and of the LLM."""
        asks, margin, version = self.means.config, self.means.learned.margin, first.lineup.first
        habits = self._habits(version)
        places = asked_of(first, habits, margin, asks.least_gain) if habits else []
        if not habits or not places:
            return first, {}, ()
        self.questions.admit(len(places))
        size = sum(len(items[place].text) for place in places)
        questions = await scoring.threads.run(lambda: questions_of(asks.way, items, first, places), size)
        asking = time.monotonic()
        outcomes = await self.questions.ask([prompt for prompt, _ in questions], until - asking)
        self.meters.waited(time.monotonic() - asking)
        told, again = await scoring.threads.run(lambda: corrected(
            first, places, *_meant(outcomes, [data for _, data in questions], version.classes), habits, margin), size)
        return told, again, outcomes

    def _habits(self, scorer: Scorer) -> Habits | None:
        """The habits for a version; None: it took over with other classes, as the log says, once."""
        try:
            return self.means.learned.of(scorer.classes)
        except InputError as error:
            if scorer.version not in self._strange:
                self._strange.add(scorer.version)
                LOG.warning("nobody is asked again by version %s: %s", scorer.version, error)
            return None


def open_corrector(
    means: Means | None, config: ServiceConfig, state: State, meters: CorrectMeters | None = None,
    transport: httpx.AsyncBaseTransport | None = None,
) -> Corrector | None:
    """Who asks again; None where nobody is to be asked. Nothing is sent before the first question.

    transport: how requests travel, in place of a network.

    Raises:
        InputError: the cache of replies cannot be opened, or a budget in money lacks the endpoint's prices.
    """
    if means is None:
        return None
    asks, cache, meters = means.config, cache_of(config, state), meters or CorrectMeters()
    client = Client(means.endpoint, cache, budget=Budget(asks.tokens, asks.money), transport=transport)
    return Corrector(means, Questions(means.endpoint, cache, client, meters.took), meters, cache)


def not_configured() -> Refusal:
    """The refusal of a service that asks nobody."""
    return Refusal("not_configured", "this service asks no LLM again. Its configuration names the LLM's endpoint under "
                   "[correction]: docs/service.md shows how", status=409)


async def _told(scoring: Scoring, items: Sequence[Item]) -> Told:
    """What is said of items, of which nothing is kept. All are found right before the first is scored."""
    prepare, ready = scoring.desk.preparer(), list[Ready]()
    for start, some in cut(items, scoring.batcher.pass_tokens):
        work = partial(prepared, prepare, start, some)
        ready.append(await scoring.threads.run(work, sum(len(item.text) for item in some)))
    told = [cast(Told, await scoring.batcher.submit(Slice(each), patient=number > 0))
            for number, each in enumerate(ready)]
    return Slice(ready[-1], tuple(told[:-1])).joined(told[-1])


def _meant(
    outcomes: Sequence[Outcome | Unasked], data: Sequence[Sequence[str]], classes: Sequence[str]
) -> tuple[list[int], list[str | None]]:
    """The class that each outcome means, by its index; -1 for none, and why. data: of each question, what may order."""
    answers: list[int] = []
    reasons: list[str | None] = []
    for outcome, words in zip(outcomes, data, strict=True):
        found = None if isinstance(outcome, str) else parsed(outcome, classes, words)
        answers.append(ABSTAIN if found is None else found.answer)
        reasons.append(str(outcome) if found is None else found.reason if found.answer == ABSTAIN else None)
    return answers, reasons
