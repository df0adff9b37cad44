"""Ask an LLM: as many questions at a time as may be, kept as they are answered, each asked once.

    with Cache(state.home / FILE) as cache:
        outcomes = ask_all(settings.endpoint(), prompts, cache, budget=Budget(tokens=100_000))

Several batches, one after the other, keep connections and what was learned of the endpoint:

    with Session(cache, budget=Budget(tokens=100_000)) as session:
        outcomes = session.ask_all(settings.endpoint(), prompts)
        others = session.ask_all(settings.endpoint(), others)
"""

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from types import TracebackType

import httpx

from serving.llm.asker import Asker, Question
from serving.llm.budget import UNLIMITED, Account, Budget
from serving.llm.cache import Cache, key_of
from serving.llm.commits import Commits
from serving.llm.exchange import Failed, Outcome, Prompt, Reply
from serving.llm.retrying import CLOCK, Clock
from serving.llm.settings import Endpoint
from serving.llm.transport import Wire
from serving.llm.usage import Usage
from serving.llm.working import work_off
from training.errors import InputError

AHEAD = 4  # questions under way for each request that may be, since some wait before they are tried again
NOTICE_S = 1e-3  # for a loop that stood still to notice which connections broke
Told = Callable[[int, Outcome], None]
Spent = Callable[[Usage], None]


class Client:
    """Asks one endpoint, within one event loop. Close it."""

    def __init__(
        self, endpoint: Endpoint, cache: Cache, *, budget: Budget | Account = UNLIMITED,
        transport: httpx.AsyncBaseTransport | None = None, clock: Clock = CLOCK, alone: bool = False,
    ):
        """Connect to nothing yet.

        budget: an account goes on where it was left, and may be shared. transport: how requests travel. alone: nothing
        else runs in the event loop, so that it may wait for the disk.

        Raises:
            InputError: the endpoint's key is not there; a budget in money, and the endpoint has no prices.
        """
        account = budget if isinstance(budget, Account) else Account(budget)
        if account.budget.money and not (endpoint.price_in or endpoint.price_out or endpoint.is_local):
            raise InputError(f"a budget in money needs the prices of the endpoint '{endpoint.name}': set `price_in` "
                             "and `price_out`, or a budget in tokens.")
        self.account = account
        self._wire, self._commits = Wire(endpoint, transport), Commits(cache, beside=not alone)
        self._asker = Asker(endpoint, self._wire, self._commits, account, clock)
        self._asked, self._cached, self._failed = 0, 0, Counter[str]()
        self._began = time.monotonic()

    @property
    def usage(self) -> Usage:
        """What this client took so far."""
        spent = self._asker.spent
        return Usage(self._asked, self._cached, dict(self._failed), spent.tokens_in, spent.tokens_out, spent.money,
                     time.monotonic() - self._began)

    async def fetch(self, key: bytes, prompt: Prompt) -> Outcome:
        """Ask. A reply is kept before this returns.

        Raises:
            InputError: no question would be answered: a wrong key, an unknown model, nobody there, or not any more.
        """
        question = Question(key, prompt)
        try:
            outcome = await self._asker.answer(question)
        finally:
            self._asked += question.asked
        return self._counted(outcome)

    def again(self, outcome: Outcome) -> Outcome:
        """The outcome for a further equal question, which nobody was asked."""
        return self._counted(outcome if isinstance(outcome, Failed) else replace(outcome, cached=True))

    def ends(self) -> Collection[asyncio.Task[object]]:
        """Try nothing again; the tasks whose questions are with the endpoint, and should be waited for."""
        return self._asker.ends()

    async def close(self) -> None:
        """Close the connections."""
        await self._commits.close()
        await self._wire.close()

    def _counted(self, outcome: Outcome) -> Outcome:
        if isinstance(outcome, Failed):
            self._failed[outcome.kind] += 1
        else:
            self._cached += outcome.cached
        return outcome


class Session:
    """Asks batch after batch: what was learned of an endpoint is kept, as are its connections. Use it in a `with`."""

    def __init__(
        self, cache: Cache, *, budget: Budget | Account = UNLIMITED,
        transport: httpx.AsyncBaseTransport | None = None, clock: Clock = CLOCK,
    ):
        """Connect to nothing yet. The settings are those of `Client`."""
        self._cache, self._transport, self._clock = cache, transport, clock
        self._account = budget if isinstance(budget, Account) else Account(budget)
        self._runner, self._clients, self._opened = asyncio.Runner(), dict[Endpoint, Client](), list[Client]()

    def ask_all(
        self, endpoint: Endpoint, prompts: Sequence[Prompt], *, told: Told = lambda index, outcome: None,
        spent: Spent = lambda usage: None,
    ) -> list[Outcome]:
        """The outcomes of all prompts, in their order. Equal ones are asked once, and those that are kept not at all.

        told: called for each as it comes, with its place; a reply that is told is on disk. spent: called once, at the
        end or before an error, with what all of it took. Replies that cost nothing are `cached`.

        An error and a Ctrl-C wait for the answers that are under way, and tell them; a second Ctrl-C does not.

        Raises:
            InputError: no question would be answered: no key or a wrong one, an unknown model, nobody there, or not
                any more. What was answered before is kept.
        """
        keys = [key_of(endpoint, prompt) for prompt in prompts]
        different = list(dict.fromkeys(keys))
        kept: dict[bytes, Outcome] = {**self._cache.refused(different), **self._cache.get_many(different)}
        outcomes: dict[int, Outcome] = {}
        left: dict[bytes, list[int]] = {}

        def tell(place: int, outcome: Outcome) -> None:
            outcomes[place] = outcome
            told(place, outcome)

        for place, key in enumerate(keys):
            if key in kept:
                tell(place, kept[key])
            else:
                left.setdefault(key, []).append(place)
        refused = sum(isinstance(outcome, Failed) for outcome in outcomes.values())
        usage = Usage(cached=len(outcomes) - refused, failed={"rejected": refused} if refused else {})
        try:
            if left:
                client = self._client(endpoint)
                before = client.usage
                try:
                    self._runner.run(self._ask(client, AHEAD * endpoint.in_flight, left, prompts, tell))
                except BaseException:
                    del self._clients[endpoint]  # another one begins anew
                    raise
                finally:
                    usage += client.usage - before
        finally:
            spent(usage)
        return [outcomes[place] for place in range(len(prompts))]

    def close(self) -> None:
        """Close the connections; what is under way ends."""
        try:
            for client in self._opened:
                self._runner.run(client.close())
        finally:
            self._runner.close()

    def __enter__(self) -> "Session":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _client(self, endpoint: Endpoint) -> Client:
        if endpoint not in self._clients:
            client = Client(endpoint, self._cache, budget=self._account, transport=self._transport, clock=self._clock,
                            alone=True)
            self._clients[endpoint] = client
            self._opened.append(client)
        return self._clients[endpoint]

    async def _ask(
        self, client: Client, at_once: int, left: Mapping[bytes, Sequence[int]], prompts: Sequence[Prompt], tell: Told
    ) -> None:
        """Ask what is left, by its key and its places; in any order where another process asks, too, so that they
        seldom ask the same."""
        replies, refused = 0, dict[bytes, Failed]()

        async def ask_one(key: bytes) -> None:
            nonlocal replies
            first, *others = left[key]
            outcome = await client.fetch(key, prompts[first])
            if isinstance(outcome, Reply):
                replies += not outcome.cached
            elif outcome.kind == "rejected":
                refused[key] = outcome
            tell(first, outcome)
            for place in others:
                tell(place, client.again(outcome))

        await asyncio.sleep(NOTICE_S)
        with self._cache.asking() as alone:
            keys = list(left) if alone else sorted(left, key=lambda key: self._clock.chance())
            try:
                await work_off(keys, ask_one, at_once, client.ends)
            finally:
                if replies and refused:  # it is the questions that are at fault
                    self._cache.put_refused(refused)


def ask_all(
    endpoint: Endpoint, prompts: Sequence[Prompt], cache: Cache, *, budget: Budget | Account = UNLIMITED,
    told: Told = lambda index, outcome: None, spent: Spent = lambda usage: None,
    transport: httpx.AsyncBaseTransport | None = None, clock: Clock = CLOCK,
) -> list[Outcome]:
    """One batch, as a `Session` asks it. budget: an account may be shared by several calls; its `spent` says what they
    took so far."""
    with Session(cache, budget=budget, transport=transport, clock=clock) as session:
        return session.ask_all(endpoint, prompts, told=told, spent=spent)
