"""How many requests are under way at a time: as many as may, fewer where it is too much, one where nobody answers.

One request goes alone until the server has answered one, so that a wrong key costs one request. Then as many as may
are under way. Where the server refuses for now, nobody asks until the pause is over, and half as many are under way
from then on; each answer lets `1 / limit` more (additive increase, multiplicative decrease; Chiu and Jain, 1989).
Where so many in a row got no answer that the server may be dead, one goes alone again, after pauses that grow, until
one is answered (a circuit breaker; Nygard, "Release It!", 2007).
"""

import asyncio
from collections import deque

from serving.llm.retrying import LONGEST_PAUSE_S, Clock

FEW = 8  # in a row prove nothing, however few are under way at a time


class Throttle:
    """The turns of one client's requests, first come, first served. most: how many at a time.

    many: so many in a row without an answer that the server may be dead. silent: how many that went alone got no
    answer, since one was answered.
    """

    def __init__(self, most: int, clock: Clock):
        self._most, self._clock = most, clock
        self.many, self.silent = max(FEW, most), 0
        self._limit, self._alone, self._unanswered = float(most), True, 0
        self._inside, self._waiting = 0, deque[asyncio.Future[None]]()
        self._until, self._round = float("-inf"), 0

    @property
    def limit(self) -> int:
        """How many may be under way now."""
        return 1 if self._alone else int(self._limit)

    @property
    def pause_s(self) -> float:
        """How long nobody asks yet."""
        return max(0.0, self._until - self._clock.now())

    async def enter(self) -> int | None:
        """Wait for a turn, and for the end of a pause; the number of the round that the request belongs to.

        None: the pause is too long to wait for, and there is no turn.
        """
        if self.pause_s > LONGEST_PAUSE_S:
            return None
        if self._waiting or self._inside >= self.limit:
            waiter = asyncio.get_running_loop().create_future()
            self._waiting.append(waiter)
            try:
                await waiter
            except asyncio.CancelledError:
                if waiter.done() and not waiter.cancelled():
                    self.leave()
                raise
        else:
            self._inside += 1
        try:
            while 0 < self.pause_s <= LONGEST_PAUSE_S:
                await self._clock.sleep(self.pause_s)
        except BaseException:
            self.leave()
            raise
        if self.pause_s:
            self.leave()
            return None
        return self._round

    def leave(self) -> None:
        """Give the turn to the next."""
        self._inside -= 1
        self._admit()

    def heard(self) -> None:
        """The server is there: as many as may."""
        self._alone, self._unanswered, self.silent = False, 0, 0
        self._admit()

    def answered(self) -> None:
        """A request was answered: one more may come in a while."""
        self._limit = min(self._most, self._limit + 1 / self._limit)
        self.heard()

    def refused(self, round_: int, wait_s: float) -> None:
        """A request of that round was too much: nobody asks for so long. A round is slowed down once."""
        self._pause(wait_s)
        if round_ == self._round:
            self._limit = max(1.0, self._limit / 2)
            self._round += 1

    def unanswered(self, wait_s: float) -> None:
        """A request that is under way gets no answer, and the server may be dead. wait_s: until the next that goes
        alone."""
        self._unanswered += 1
        if not self._alone:
            self._alone = self._unanswered >= self.many
        elif self._inside == 1:
            self.silent += 1
            self._pause(wait_s)

    def _pause(self, wait_s: float) -> None:
        self._until = max(self._until, self._clock.now() + wait_s)

    def _admit(self) -> None:
        while self._waiting and self._inside < self.limit:
            waiter = self._waiting.popleft()
            if not waiter.done():
                self._inside += 1
                waiter.set_result(None)
