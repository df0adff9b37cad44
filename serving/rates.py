"""How often one may ask: so many requests a minute of each key, or address, and so many failed keys of each address.

Memory is bounded however many addresses ask: they share a fixed number of counters, by a hash that nobody outside can
foresee. What they share can only turn one refusal into another: a good key is counted by itself, and is never refused
for the failures of others at its address. Guessing a key of 256 bits needs no lock-out.
"""

import ipaddress
import math
import secrets
import time
from hashlib import blake2b

from limits import RateLimitItemPerMinute
from limits.aio.storage import MemoryStorage
from limits.aio.strategies import FixedWindowRateLimiter

from serving.refusal import Refusal

FAILURES = 30  # a minute, of one address
COUNTERS = 1024


class Rates:
    """The counters, of fixed windows of a minute, in memory. per_minute: None: any number of requests."""

    def __init__(self, per_minute: int | None, failures: int = FAILURES):
        self._requests = None if per_minute is None else RateLimitItemPerMinute(per_minute)
        self._failures = RateLimitItemPerMinute(failures)
        self._counters = FixedWindowRateLimiter(MemoryStorage())
        self._salt = secrets.token_bytes(16)

    async def request(self, key: str | None, address: str | None) -> None:
        """Count a request, by the id of its key or, without one, by its address.

        Raises:
            Refusal: 429, with the seconds to wait.
        """
        if self._requests is not None:
            await self._count(self._requests, f"key:{key}" if key else self.counter(address))

    async def failure(self, address: str | None) -> None:
        """Count a failed key.

        Raises:
            Refusal: 429, with the seconds to wait.
        """
        await self._count(self._failures, self.counter(address))

    def counter(self, address: str | None) -> str:
        """Which counter an address has; of IPv6, a network of 64 bits has one."""
        try:
            found = ipaddress.ip_address(address or "")
            packed = found.packed[:8] if found.version == 6 else found.packed
        except ValueError:
            packed = b""
        return f"address:{int.from_bytes(blake2b(packed, digest_size=8, key=self._salt).digest()) % COUNTERS}"

    async def _count(self, limit: RateLimitItemPerMinute, whose: str) -> None:
        if await self._counters.hit(limit, whose):
            return
        until = (await self._counters.get_window_stats(limit, whose)).reset_time
        wait = max(1, math.ceil(until - time.time()))
        raise Refusal("too_many_requests", f"at most {limit.amount:,} a minute. Try again in {wait} s", status=429,
                      headers={"Retry-After": str(wait)})
