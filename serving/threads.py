"""A bounded number of threads for blocking work, with what waits for them counted and told in seconds."""

import time
from collections.abc import Callable
from typing import TypeVar

import anyio
import anyio.to_thread

from serving.batcher import overloaded
from serving.pace import Pace

Result = TypeVar("Result")


class Threads:
    """So many pieces of work at a time; the event loop goes on meanwhile. Further ones wait, in order of arrival."""

    def __init__(self, count: int, most: int):
        """`most` is how many pieces may be under way or wait."""
        self._count, self._most = count, most
        self._limiter = anyio.CapacityLimiter(count)
        self._pieces, self._units, self._pace = 0, 0, Pace()

    @property
    def seconds_waiting(self) -> float:
        """How long what waits and what is under way will still take, by the pace of late."""
        if self._pieces <= self._count:
            return 0.0
        return self._pace.seconds(self._units, self._pieces) / self._count

    async def run(self, work: Callable[[], Result], units: int = 1) -> Result:
        """What `work` returns. units: how much it is, in whatever unit it takes time in proportion to.

        Raises:
            Refusal: too much waits.
            Exception: whatever `work` raises.
        """
        if self._pieces >= self._most:
            raise overloaded(f"{self._most:,} requests of this kind are waiting", self.seconds_waiting)
        self._pieces += 1
        self._units += units
        try:
            result, seconds = await anyio.to_thread.run_sync(_timed, work, limiter=self._limiter)
        finally:
            self._pieces -= 1
            self._units -= units
        self._pace.learn(units, seconds)
        return result


def _timed(work: Callable[[], Result]) -> tuple[Result, float]:
    began = time.monotonic()
    return work(), time.monotonic() - began
