"""A bounded number of threads for blocking work, with what waits for them counted and told in seconds."""

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from contextvars import copy_context
from typing import Any, TypeVar

import anyio

from serving.batcher import overloaded
from serving.pace import Pace

Result = TypeVar("Result")


class Threads:
    """So many pieces of work at a time; the event loop goes on meanwhile. Further ones wait, in order of arrival."""

    def __init__(self, count: int, most: int):
        """`most` is how many pieces may be under way or wait."""
        self._count, self._most = count, most
        self._free = asyncio.Semaphore(count)
        self._executor = ThreadPoolExecutor(count, "requests")
        self._pieces, self._units, self._pace = 0, 0, Pace()

    @property
    def seconds_waiting(self) -> float:
        """How long what waits and what is under way will still take, by the pace of late."""
        if self._pieces <= self._count:
            return 0.0
        return self._pace.seconds(self._units, self._pieces) / self._count

    async def run(self, work: Callable[[], Result], units: int = 1) -> Result:
        """What `work` returns. units: how much it is, in whatever unit it takes time in proportion to.

        Cancelled before a thread has taken it, it is not done. After that, nothing can stop it, and so the cancellation
        waits until it is done: whatever is held for it is held for as long.

        Raises:
            Refusal: too much waits.
            Exception: whatever `work` raises.
        """
        if self._pieces >= self._most:
            raise overloaded(f"{self._most:,} requests of this kind are waiting", self.seconds_waiting)
        self._pieces += 1
        self._units += units
        try:
            async with self._free:
                result, seconds = await self._done(work)
        finally:
            self._pieces -= 1
            self._units -= units
        self._pace.learn(units, seconds)
        return result

    async def _done(self, work: Callable[[], Result]) -> tuple[Result, float]:
        loop = asyncio.get_running_loop()
        doing = loop.run_in_executor(self._executor, copy_context().run, _timed, work)
        try:
            return await asyncio.shield(doing)
        except asyncio.CancelledError:
            await over(doing)
            raise


async def over(*futures: "asyncio.Future[Any]") -> None:
    """Wait until all of these are done, however often this is cancelled meanwhile, and whatever they raise."""
    with anyio.CancelScope(shield=True):
        while not all(each.done() for each in futures):
            with suppress(asyncio.CancelledError):
                await asyncio.wait(futures)
    for each in futures:
        _ = each.cancelled() or each.exception()  # asked for, or asyncio complains that nobody did


def _timed(work: Callable[[], Result]) -> tuple[Result, float]:
    began = time.monotonic()
    return work(), time.monotonic() - began
