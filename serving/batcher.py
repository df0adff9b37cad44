"""Token-budget batching: one thread takes as many waiting requests as fit a budget, and scores them in one pass.

Nothing waits while the thread is idle; requests gather while it is busy. More than a bounded time of work never waits:
what comes then is refused at once, which costs next to nothing, so that a service with twice the load that it can
carry still carries all that it can.
"""

import asyncio
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from types import TracebackType
from typing import Generic, TypeVar

from prometheus_client import REGISTRY, CollectorRegistry, Counter, Histogram

from serving.pace import Pace
from serving.refusal import Refusal

T = TypeVar("T")
R = TypeVar("R")

MOST_REQUESTS = 8_192  # that wait for the thread
MOST_ADMITTED = 2_048  # requests that are read, prepared or waiting
MOST_BUDGETS = 128  # of tokens that wait for the thread
PASS = 1 / 8  # of `wait`, that a pass may take
CLOSE_S = 6.0  # by then, uvicorn has waited for requests already (`serving.launch`)


class BatchMeters:
    """What `/metrics` tells of the batches; register it once a process and registry."""

    def __init__(self, registry: CollectorRegistry = REGISTRY):
        self.waited = Histogram("polarscore_queue_seconds", "How long a request waited for its pass",
                                buckets=[0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5],
                                registry=registry)
        self.tokens = Histogram("polarscore_batch_tokens", "Tokens of a pass",
                                buckets=[2**power for power in range(5, 21)], registry=registry)
        self.refused = Counter("polarscore_refused_requests", "Requests refused since too much work waited",
                               registry=registry)


class _Waiting(Generic[T, R]):
    """A request that waits for its pass. work: None once its client is gone."""

    __slots__ = ("future", "loop", "since", "taken", "tokens", "work")

    def __init__(self, work: T, tokens: int, loop: asyncio.AbstractEventLoop):
        self.work: T | None = work
        self.tokens, self.loop, self.since, self.taken = tokens, loop, time.monotonic(), False
        self.future: asyncio.Future[R] = loop.create_future()


class Admission:
    """A request that was let in: use it in a `with` for as long as the request takes."""

    def __init__(self, count: Callable[[int], None]):
        self._count = count

    def __enter__(self) -> None:
        self._count(1)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._count(-1)


class Batcher(Generic[T, R]):
    """Passes of requests, first come first served. But for `close`, its methods are for the event loop.

    run: scores the requests of a pass, one result each in their order; it is called by one thread, a pass at a time.
    tokens: of one request. budget: tokens of one pass, which a request larger than that exceeds alone; fewer where a
    pass would take longer than an eighth of `wait`. wait: seconds of work that may wait before a further request is
    refused.
    """

    def __init__(
        self, run: Callable[[list[T]], list[R]], tokens: Callable[[T], int], budget: int, wait: float,
        meters: BatchMeters | None = None,
    ):
        self._run, self._size, self.budget, self.wait, self._meters = run, tokens, budget, wait, meters
        self._queue: deque[_Waiting[T, R]] = deque()
        self._tokens = self._count = self._admitted = 0  # tokens and requests in the queue; requests let in
        self._until = 0.0  # when the pass that runs should be over
        self._pace = Pace()
        self._patient: deque[asyncio.Future[None]] = deque()
        self._closed = self._ended = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._work, name="scoring", daemon=True)
        self._thread.start()

    @property
    def pass_tokens(self) -> int:
        """Tokens of one pass, at the pace of late."""
        return max(1, int(min(self.budget, self._pace.units(PASS * self.wait))))

    @property
    def seconds_waiting(self) -> float:
        """How long what waits and what runs will still take, by the pace of late; before that, by a slow one."""
        if not self._pace.known:
            return self.wait * self._tokens / self.budget
        running = max(0.0, self._until - time.monotonic())
        return running + self._pace.seconds(self._tokens, math.ceil(self._tokens / self.pass_tokens))

    def admit(self, before: float = 0.0, patient: bool = False) -> Admission:
        """Let a request in, before anything of it is read: `with batcher.admit(): …`.

        before: seconds of other work that lies before it, besides what waits here. patient: it is to wait rather than
        be refused, however much there is to do.

        Raises:
            Refusal: more than `wait` seconds of work wait, too many requests are under way, or the service stops.
        """
        if self._closed:
            raise self._refused("the service is stopping", 1.0)
        ahead = before + self.seconds_waiting
        if not patient and (before > self.wait or (ahead > self.wait and self._tokens > self.budget)):
            raise self._refused(f"more than {self.wait:g} seconds of work are waiting", ahead)
        if self._admitted >= MOST_ADMITTED:
            raise self._refused(f"{MOST_ADMITTED:,} requests are under way", max(1.0, ahead))
        return Admission(self._admit)

    async def submit(self, work: T, patient: bool = False) -> R:
        """The result of a request, after the pass that it goes into. Cancelled before that, it is in none.

        patient: wait for room instead of being refused.

        Raises:
            Refusal: too much is waiting, or the service has stopped.
            Exception: whatever the pass raised, of this request.
        """
        tokens = self._size(work)
        loop = asyncio.get_running_loop()
        while patient and self._full(tokens) and not self._ended:
            await self._room(loop)
        entry: _Waiting[T, R] = _Waiting(work, tokens, loop)
        with self._changed:
            if self._ended:
                raise self._refused("the service is stopping", 1.0)
            if not patient and self._full(tokens):
                raise self._refused("too much work is waiting", self.seconds_waiting)
            self._queue.append(entry)
            self._tokens += tokens
            self._count += 1
            self._changed.notify()
        try:
            return await entry.future
        except asyncio.CancelledError:
            self._drop(entry)
            raise

    def close(self, seconds: float = CLOSE_S) -> None:
        """Let nobody in any more, finish what was let in, end the thread; what is left after that time is refused."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._thread.join(seconds)
        with self._changed:
            self._ended = True
            left = [entry for entry in self._queue if entry.work is not None]
            self._queue.clear()
            self._changed.notify_all()
        self._deliver(left, [overloaded("the service is stopping", 1.0)] * len(left))
        for loop in {room.get_loop() for room in list(self._patient)}:
            with suppress(RuntimeError):
                loop.call_soon_threadsafe(self._hand_over, [])

    def _full(self, tokens: int) -> bool:
        """Whether a request of so many tokens should not join the queue. One pass may always wait, however slow."""
        if not self._tokens:
            return False
        if self._count >= MOST_REQUESTS or self._tokens + tokens > MOST_BUDGETS * self.budget:
            return True
        return self._tokens + tokens > self.budget and self.seconds_waiting > self.wait

    async def _room(self, loop: asyncio.AbstractEventLoop) -> None:
        room: asyncio.Future[None] = loop.create_future()
        self._patient.append(room)
        await room

    def _refused(self, why: str, ahead: float) -> Refusal:
        if self._meters:
            self._meters.refused.inc()
        return overloaded(why, ahead)

    def _admit(self, count: int) -> None:
        with self._changed:
            self._admitted += count
            if self._closed:
                self._changed.notify()

    def _drop(self, entry: _Waiting[T, R]) -> None:
        with self._changed:
            if not entry.taken and entry.work is not None:
                entry.work = None
                self._tokens -= entry.tokens
                self._count -= 1

    def _work(self) -> None:
        while batch := self._next():
            began = time.monotonic()
            works, tokens = [entry.work for entry in batch], sum(entry.tokens for entry in batch)
            outcome = self._outcome(works)  # type: ignore[arg-type]
            if not any(isinstance(each, Exception) for each in outcome):
                self._pace.learn(tokens, time.monotonic() - began)
            if self._meters:
                self._meters.tokens.observe(tokens)
                for entry in batch:
                    self._meters.waited.observe(began - entry.since)
            self._deliver(batch, outcome)
            del batch, works, outcome  # none of it is kept while the thread waits

    def _outcome(self, works: list[T]) -> list[R | Exception]:
        """What comes of each request. Where a pass raises, its halves are tried, so that it fails only those at fault.

        A Refusal is of all: what they give cannot be kept.
        """
        try:
            found = self._run(works)
            if len(found) != len(works):
                raise RuntimeError(f"a pass of {len(works)} requests should give as many results. Found {len(found)}.")
            return list(found)
        except Refusal as refusal:
            return [refusal] * len(works)
        except Exception as error:
            if len(works) == 1:
                return [error]
        half = len(works) // 2
        return [*self._outcome(works[:half]), *self._outcome(works[half:])]

    def _next(self) -> list[_Waiting[T, R]]:
        """The requests of the next pass, in order of arrival, as many as fit the budget and one at least; none: end."""
        with self._changed:
            while True:
                while self._queue and self._queue[0].work is None:
                    self._queue.popleft()
                if self._queue or self._ended or (self._closed and not self._admitted):
                    break
                self._until = 0.0
                self._changed.wait()
            batch: list[_Waiting[T, R]] = []
            tokens, most = 0, self.pass_tokens
            while self._queue and (not batch or tokens + self._queue[0].tokens <= most):
                entry = self._queue.popleft()
                if entry.work is not None:
                    entry.taken = True
                    batch.append(entry)
                    tokens += entry.tokens
            self._tokens -= tokens
            self._count -= len(batch)
            self._until = time.monotonic() + self._pace.seconds(tokens, 1)
            if not batch:
                self._ended = True
            return batch

    def _deliver(self, batch: list[_Waiting[T, R]], outcome: Sequence[R | Exception]) -> None:
        pairs = list(zip(batch, outcome, strict=True))
        for loop in {entry.loop for entry in batch}:
            with suppress(RuntimeError):  # the loop is closed, and so nobody waits
                loop.call_soon_threadsafe(self._hand_over, [pair for pair in pairs if pair[0].loop is loop])

    def _hand_over(self, pairs: list[tuple[_Waiting[T, R], R | Exception]]) -> None:
        for entry, result in pairs:
            if entry.future.done():
                continue
            if isinstance(result, Exception):
                entry.future.set_exception(result)
            else:
                entry.future.set_result(result)
        for _ in range(len(self._patient)):
            room = self._patient.popleft()
            if not room.done():
                room.set_result(None)


def overloaded(why: str, seconds: float) -> Refusal:
    """The refusal of a request that comes while there is too much to do, with when to come again."""
    return Refusal("overloaded", f"{why}; try again later", status=503,
                   headers={"Retry-After": str(max(1, math.ceil(seconds)))})
