"""The questions of a service to its LLM: a bounded number at a time, all of a request's within a deadline.

Nothing here fails a request: what is not answered has a reason. Given up by its client, a request's questions are
given up, too. What is known already is looked up in a thread, as the file may be held up by whoever writes it.
"""

import asyncio
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import Literal

from serving.batcher import overloaded
from serving.llm.cache import Cache, key_of
from serving.llm.client import Client
from serving.llm.exchange import Outcome, Prompt, Reply
from serving.llm.settings import Endpoint
from serving.llm.usage import Usage
from serving.schema import Took
from training.errors import PolarscoreError

LOG = logging.getLogger("bentoml.polarscore")
QUEUED = 16  # times as many questions as may be in flight, that may be under way or wait
MILLION = 1_000_000

Unasked = Literal["timeout", "unreachable"]
"""Why nobody answered: the request's time was over, or the endpoint cannot be used, as the log says."""


class Questions:
    """The questions that are under way; for one event loop. Close it.

    cache: that of the client. told: of what the client used, before and after.
    """

    def __init__(
        self, endpoint: Endpoint, cache: Cache, client: Client,
        told: Callable[[Usage, Usage], None] = lambda before, after: None,
    ):
        self._endpoint, self._cache, self._client, self._told = endpoint, cache, client, told
        self._looking_up = ThreadPoolExecutor(1, "llm-known")
        self._most = QUEUED * endpoint.in_flight
        self._waiting, self._seen = 0, Usage()
        self._said = ""

    def admit(self, count: int = 1) -> None:
        """See to it that there is room for so many questions. Those of one request have it always, if they are alone.

        Raises:
            Refusal: too many are waiting.
        """
        if self._waiting and self._waiting + count > self._most:
            raise overloaded(f"{self._waiting:,} questions are waiting for the LLM", 5.0)

    async def ask(self, prompts: Sequence[Prompt], seconds: float) -> list[Outcome | Unasked]:
        """What comes of questions, in their order; after so many seconds, what is left is given up.

        Equal ones are asked once, and the further replies took nothing.

        Raises:
            Refusal: too many are waiting.
        """
        if not prompts:
            return []
        self.admit(len(prompts))
        found: dict[Prompt, Outcome | Unasked] = dict.fromkeys(prompts, "timeout")
        with self._counted(len(prompts)), suppress(TimeoutError):
            async with asyncio.timeout(max(0.0, seconds)):
                await self._all(found)
        return _in_order(prompts, found)

    async def close(self) -> None:
        """Ask no more, and give the connections back."""
        await self._client.close()
        self._looking_up.shutdown(wait=False, cancel_futures=True)

    async def _all(self, found: dict[Prompt, Outcome | Unasked]) -> None:
        """Find what comes of each question."""
        try:
            loop = asyncio.get_running_loop()
            known = await loop.run_in_executor(self._looking_up, self._known, list(found))
        except Exception as error:
            self._say(type(error).__name__)
            found |= dict.fromkeys(found, "unreachable")
            return
        async with asyncio.TaskGroup() as group:
            for prompt, (key, reply) in known.items():
                if reply:
                    found[prompt] = self._client.again(reply)
                else:
                    group.create_task(self._one(key, prompt, found))

    def _known(self, prompts: Sequence[Prompt]) -> dict[Prompt, tuple[bytes, Reply | None]]:
        """By what the reply to each prompt is kept, and the reply, if one is."""
        keys = {prompt: key_of(self._endpoint, prompt) for prompt in prompts}
        kept = self._cache.get_many(list(keys.values()))
        return {prompt: (key, kept.get(key)) for prompt, key in keys.items()}

    async def _one(self, key: bytes, prompt: Prompt, found: dict[Prompt, Outcome | Unasked]) -> None:
        """Unlike the client's own `ask`, this ends when nobody waits any more."""
        try:
            found[prompt] = await self._client.fetch(key, prompt)
            self._said = ""
        except PolarscoreError as error:  # in our words, which hold neither text nor secret
            self._say(str(error))
            found[prompt] = "unreachable"
        except Exception as error:  # its message may hold a text
            self._say(type(error).__name__)
            found[prompt] = "unreachable"

    @contextmanager
    def _counted(self, count: int) -> Iterator[None]:
        """Count questions as waiting, and tell what they took."""
        self._waiting += count
        try:
            yield
        finally:
            self._waiting -= count
            before, self._seen = self._seen, self._client.usage
            self._told(before, self._seen)

    def _say(self, why: str) -> None:
        """Once, until something else is to be said."""
        if why != self._said:
            self._said = why
            LOG.warning("the LLM cannot be asked again, and first answers stay: %s", why)


def _in_order(
    prompts: Sequence[Prompt], found: Mapping[Prompt, Outcome | Unasked]
) -> list[Outcome | Unasked]:
    """The outcomes of prompts; a reply to an equal one took nothing more."""
    seen: set[Prompt] = set()
    outcomes: list[Outcome | Unasked] = []
    for prompt in prompts:
        outcome = found[prompt]
        outcomes.append(replace(outcome, cached=True) if prompt in seen and isinstance(outcome, Reply) else outcome)
        seen.add(prompt)
    return outcomes


def took(outcomes: Iterable[object], endpoint: Endpoint) -> Took:
    """What the replies among outcomes took; those that were known took nothing."""
    replies = [each for each in outcomes if isinstance(each, Reply)]
    asked = [each for each in replies if not each.cached]
    tokens_in, tokens_out = sum(each.tokens_in for each in asked), sum(each.tokens_out for each in asked)
    money = (tokens_in * endpoint.price_in + tokens_out * endpoint.price_out) / MILLION
    return Took(cached=len(replies) - len(asked), tokens_in=tokens_in, tokens_out=tokens_out, money=money)
