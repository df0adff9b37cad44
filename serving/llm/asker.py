"""Get one question answered by an endpoint, however often it has to be tried: in turn, within the budget, and kept."""

import asyncio
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass, field

from serving.llm.budget import Account, Cost
from serving.llm.commits import Commits
from serving.llm.exchange import Failed, Outcome, Prompt, Reply
from serving.llm.protocol import Answered, Dialect, Lost, body_of, most_tokens_in
from serving.llm.retrying import LONGEST_PAUSE_S, Clock, backoff_s
from serving.llm.settings import Endpoint
from serving.llm.throttle import Throttle
from serving.llm.transport import Wire
from serving.llm.verdict import Again, Hopeless, Otherwise, Verdict, verdict
from training.errors import InputError

DEAF_TRIES = {"away": 2, "timeout": 2, "cut": 6}  # again, of an endpoint that never answered anything
ALL_USELESS = 20
HOPELESS = 3  # in a row, once a question was answered
MILLION = 1e6


@dataclass
class Question:
    """A prompt that is to be answered. tried: tries that failed, by kind. since: how many replies had come by the first
    of them. asked: whether the endpoint got it."""

    key: bytes
    prompt: Prompt
    tried: Counter[str] = field(default_factory=Counter)
    since: int = 0
    asked: bool = False
    written: tuple[Dialect, bytes] | None = None

    def body(self, model: str, dialect: Dialect) -> bytes:
        """The body of a request for it, written once for each dialect."""
        if self.written is None or self.written[0] != dialect:
            self.written = dialect, body_of(model, self.prompt, dialect)
        return self.written[1]


class Asker:
    """What is learned of an endpoint while it is asked. spent: by this asker; the account may know of others too."""

    def __init__(self, endpoint: Endpoint, wire: Wire, commits: Commits, account: Account, clock: Clock):
        self.account, self.spent = account, Cost()
        self._under_way = set[asyncio.Task[object]]()
        self._endpoint, self._wire, self._commits, self._clock = endpoint, wire, commits, clock
        self._throttle, self._dialect = Throttle(endpoint.in_flight, clock), Dialect()
        self._heard, self._ends = False, False
        self._replies, self._useless = 0, 0
        self._given_up, self._hopeless = 0, 0  # in a row, since the last reply
        self._beyond = (0, 0)  # tokens read and written, at most, by which a request took more than was thought of

    async def answer(self, question: Question) -> Outcome:
        """Ask until there is an outcome. A reply is kept before this returns.

        Raises:
            InputError: no question would be answered: a wrong key, an unknown model, nobody there, or not any more.
        """
        while True:
            found = await self._attempt(question)
            if isinstance(found, Hopeless):
                return self._doubted(found)
            if isinstance(found, Reply | Failed):
                return found
            if self._ends:
                raise asyncio.CancelledError
            if isinstance(found, Again):
                tries = self._tried(question, found)
                if tries is None:
                    return self._given(question, found.failed)
                await self._clock.sleep(backoff_s(tries, self._clock.chance()))

    def ends(self) -> Collection[asyncio.Task[object]]:
        """From now on, nothing is tried again; the tasks whose questions are with the endpoint, or are being kept."""
        self._ends = True
        return self._under_way

    def _tried(self, question: Question, again: Again) -> int | None:
        """How many tries have failed; None: no further one is due. Where nobody is answered, the tries of all count."""
        question.since = question.since if question.tried else self._replies
        question.tried[again.failed.kind] += 1
        tries = question.tried.total()
        over = max(tries, self._throttle.silent) > self._endpoint.retries or (
            again.most is not None and question.tried[again.failed.kind] > again.most)
        return None if over else tries

    async def _attempt(self, question: Question) -> Verdict:
        """Ask once, in turn and within the budget; nobody, if another process was answered in the meantime."""
        question.body(self._endpoint.model, self._dialect)  # while it waits; its turn is for the endpoint
        round_ = await self._throttle.enter()
        if round_ is None:
            return Failed("server", f"the server asks to wait for more than {LONGEST_PAUSE_S:g} s")
        task = asyncio.current_task()
        assert task is not None
        try:
            try:
                kept = self._commits.kept(question.key)
                found = kept or await self._within_budget(question, round_, task)
            finally:
                self._throttle.leave()  # while an answer is written, the next question is on its way
            if isinstance(found, Reply) and not kept:
                await self._commits.keep(question.key, found)
            return found
        finally:
            self._under_way.discard(task)

    async def _within_budget(self, question: Question, round_: int, task: asyncio.Task[object]) -> Verdict:
        thought = self._cost(most_tokens_in(question.prompt), question.prompt.max_tokens)
        most = thought + self._cost(*self._beyond)
        if not await self.account.reserve(most):
            return Failed("budget", self.account.why())
        dialect, took = self._dialect, most
        question.asked = True
        self._under_way.add(task)
        try:
            sent = await self._wire.send(question.body(self._endpoint.model, dialect))
            took = most if _may_cost(sent) else Cost()
            found = verdict(self._endpoint, question.prompt, dialect, sent, self._clock.date())
            if isinstance(found, Reply):
                took = self._cost(found.tokens_in, found.tokens_out)
                self._surprised(took, thought, most)
            self._learn(found, sent, dialect, round_)
            return found
        finally:
            self.account.settle(most, took)
            self.spent = self.spent + took

    def _surprised(self, took: Cost, thought: Cost, most: Cost) -> None:
        """Put more aside from now on if a reply took more; once that was not enough, let one go at a time."""
        beyond = took - thought
        self._beyond = max(self._beyond[0], beyond.tokens_in), max(self._beyond[1], beyond.tokens_out)
        if self._replies and (took.tokens > most.tokens or took.money > most.money):
            self.account.one_by_one()

    def _learn(self, found: Verdict, sent: Answered | Lost, dialect: Dialect, round_: int) -> None:
        """Let what came back tell how to go on."""
        self._heard = self._heard or isinstance(sent, Answered)
        if isinstance(found, Otherwise):
            self._dialect = found.dialect if self._dialect == dialect else self._dialect
        elif isinstance(found, Again):
            self._slow_down(found, sent, round_)
        elif isinstance(found, Hopeless):
            self._throttle.heard()
        else:
            self._throttle.answered()
            if isinstance(found, Reply):
                self._replies, self._given_up, self._hopeless = self._replies + 1, 0, 0
            elif found.kind == "rejected":
                self._without_use(found)

    def _slow_down(self, again: Again, sent: Answered | Lost, round_: int) -> None:
        """Let nobody ask for a while, where the server says so; fewer at a time where it is asked too much; and one,
        where nobody is answered."""
        if again.dead:
            tries = max(1, min(self._throttle.silent + 1, self._endpoint.retries))
            self._throttle.unanswered(backoff_s(tries, self._clock.chance()))
        if isinstance(sent, Lost) and not self._heard:
            if self._throttle.silent > min(DEAF_TRIES[sent.kind], self._endpoint.retries):
                raise InputError(f"{self._said} does not answer: {again.failed.detail}. Is it running, and is its URL "
                                 "right?")
        elif again.too_much:
            said = again.wait_s if again.wait_s is not None else backoff_s(1, self._clock.chance())
            self._throttle.refused(round_, said)
        elif not again.dead:
            self._throttle.heard()

    def _doubted(self, found: Hopeless) -> Failed:
        """The outcome of a question that the endpoint had no right to refuse, having answered others."""
        self._hopeless += 1
        if not self._replies or self._hopeless >= (HOPELESS if found.failed.kind == "server" else ALL_USELESS):
            raise InputError(found.why)
        return found.failed

    def _given(self, question: Question, failed: Failed) -> Failed:
        """The outcome of a question that was tried for long enough. It tells of the endpoint, unless others were
        answered since it failed first."""
        self._given_up += question.since == self._replies
        if failed.kind == "malformed":
            self._without_use(failed)
        if self._given_up >= self._throttle.many:
            raise InputError(f"{self._said} does not answer{' any more' if self._replies else ''}: "
                             f"{failed.detail}, {self._given_up} questions in a row. What was answered is kept, and "
                             "the same command goes on from there.")
        return failed

    def _without_use(self, failed: Failed) -> None:
        """Count an answer that is none."""
        self._useless += 1
        if not self._replies and self._useless >= ALL_USELESS:
            raise InputError(f"{self._said} answers none of the first {ALL_USELESS} questions: {failed.detail}. Is it "
                             "a server of chat completions, and does the model take what [ask] sets?")

    @property
    def _said(self) -> str:
        return f"the endpoint '{self._endpoint.name}' at {self._endpoint.url}"

    def _cost(self, tokens_in: int, tokens_out: int) -> Cost:
        prices = self._endpoint.price_in, self._endpoint.price_out
        return Cost(tokens_in, tokens_out, (prices[0] * tokens_in + prices[1] * tokens_out) / MILLION)


def _may_cost(sent: Answered | Lost) -> bool:
    """Whether the server may have worked for it."""
    return 200 <= sent.status < 300 if isinstance(sent, Answered) else sent.kind != "away"
