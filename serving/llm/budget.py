"""Budgets: the most that asking may take, and the account that keeps it so.

The most that a request is thought to take is reserved before it is sent, and settled by what the server counted, so
that what is spent and what is still out never exceed the budget together. A request that takes more than that can
exceed it: once one did, they go one by one.
"""

import asyncio
import math
from dataclasses import dataclass

from training.errors import InputError


@dataclass(frozen=True)
class Budget:
    """The most that may be spent; None: no limit. tokens: read and written. money: by the endpoint's prices.

    Raises:
        InputError: a limit is negative, or no number.
    """

    tokens: int | None = None
    money: float | None = None

    def __post_init__(self) -> None:
        for name, limit in (("tokens", self.tokens), ("money", self.money)):
            if limit is not None and not (limit >= 0 and math.isfinite(limit)):
                raise InputError(f"the budget in {name} should be zero or more. Found {limit}.")


UNLIMITED = Budget()


@dataclass(frozen=True)
class Cost:
    """What a request takes."""

    tokens_in: int = 0
    tokens_out: int = 0
    money: float = 0.0

    @property
    def tokens(self) -> int:
        """Read and written."""
        return self.tokens_in + self.tokens_out

    def __add__(self, other: "Cost") -> "Cost":
        return Cost(self.tokens_in + other.tokens_in, self.tokens_out + other.tokens_out, self.money + other.money)

    def __sub__(self, other: "Cost") -> "Cost":
        return Cost(self.tokens_in - other.tokens_in, self.tokens_out - other.tokens_out, self.money - other.money)


class Account:
    """What was spent of a budget. Several clients may share one, one after the other or in one event loop.

    spent: so far. stopped: a request did not fit any more, so that nobody is asked from then on.
    """

    def __init__(self, budget: Budget = UNLIMITED):
        self.budget, self.spent, self.stopped = budget, Cost(), False
        self._reserved, self._out, self._at_once = Cost(), 0, math.inf
        self._waiting: list[asyncio.Future[None]] = []

    async def reserve(self, most: Cost) -> bool:
        """Put aside the most that a request can take; False: it does not fit, not even once all others are settled."""
        while not self.stopped:
            if self._out < self._at_once and self._fits(most):
                self._reserved, self._out = self._reserved + most, self._out + 1
                return True
            if not self._out:
                self.stopped = True
                break
            waiter = asyncio.get_running_loop().create_future()
            self._waiting.append(waiter)
            await waiter
        return False

    def settle(self, reserved: Cost, spent: Cost) -> None:
        """Give back what was reserved, and count what the request took."""
        self._out -= 1
        self._reserved = self._reserved - reserved if self._out else Cost()
        self.spent = self.spent + spent
        waiting, self._waiting = self._waiting, []
        for waiter in waiting:
            if not waiter.done():
                waiter.set_result(None)

    def one_by_one(self) -> None:
        """A request took more than was put aside: where there is a budget, one at a time from now on."""
        if self.budget != UNLIMITED:
            self._at_once = 1

    def why(self) -> str:
        """Why nobody is asked any more."""
        if 0 in (self.budget.tokens, self.budget.money):
            return "the budget is zero, so nobody is asked"
        used = [f"{self.spent.tokens:,} of {self.budget.tokens:,} tokens"] if self.budget.tokens is not None else []
        used += [f"{self.spent.money:.4g} of {self.budget.money:.4g} in money"] if self.budget.money is not None else []
        return f"the budget does not reach for another request: {' and '.join(used)} are spent"

    def _fits(self, most: Cost) -> bool:
        after = self.spent + self._reserved + most
        return all(limit is None or (limit > 0 and needed <= limit) for limit, needed in
                   ((self.budget.tokens, after.tokens), (self.budget.money, after.money)))
