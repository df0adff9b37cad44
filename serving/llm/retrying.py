"""When to ask again: what a server says about it, and how long to wait where it does not. Pure but for the clock."""

import asyncio
import math
import random
import re
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime

FIRST_S, LONGEST_S = 0.5, 30.0
LONGEST_PAUSE_S = 600.0  # that a server may ask for; beyond it, nobody waits
EPOCH = 1e9  # a number of seconds beyond this is a date
UNITS = {"ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
PART = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)")
LIMITS = ("requests", "tokens", "")


@dataclass(frozen=True)
class Clock:
    """Time and chance. now: seconds that never go back. date: seconds since 1970. sleep: waits so many seconds.
    chance: a number between 0 and 1."""

    now: Callable[[], float] = time.monotonic
    date: Callable[[], float] = time.time
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
    chance: Callable[[], float] = random.random


CLOCK = Clock()


def backoff_s(tries: int, chance: float) -> float:
    """How long to wait after so many tries, 1 or more: between nothing and twice as much each time, at random.

    chance * min(LONGEST_S, FIRST_S * 2^(tries - 1)); "full jitter" in Brooker, "Exponential Backoff And Jitter" (2015).
    """
    return chance * min(LONGEST_S, FIRST_S * 2.0 ** min(tries - 1, 30))


def asked_wait_s(headers: Mapping[str, str], date: float) -> float | None:
    """How long a server that refuses for now asks to wait, by its headers (names in lower case); None: it does not say.

    `retry-after-ms`; `retry-after`, in seconds or as a date; `x-ratelimit-reset-requests`, `-tokens` or without either,
    of those the limit of which is used up, or else the earliest. date: seconds since 1970.
    """
    milliseconds = _number(headers.get("retry-after-ms"))
    if milliseconds is not None:
        return milliseconds / 1000
    if "retry-after" in headers:
        found = _number(headers["retry-after"])
        return found if found is not None else _until(headers["retry-after"], date)
    used_up: list[float] = []
    others: list[float] = []
    for limit in LIMITS:
        end = f"-{limit}" if limit else ""
        wait = _duration(headers.get(f"x-ratelimit-reset{end}"), date)
        if wait is not None:
            (used_up if _number(headers.get(f"x-ratelimit-remaining{end}")) == 0 else others).append(wait)
    return max(used_up) if used_up else min(others, default=None)


def _number(said: str | None) -> float | None:
    try:
        found = float(said or "")
    except ValueError:
        return None
    return found if math.isfinite(found) and found >= 0 else None


def _until(said: str, date: float) -> float | None:
    try:
        return max(0.0, parsedate_to_datetime(said).timestamp() - date)
    except (ValueError, OverflowError):
        return None


def _duration(said: str | None, date: float) -> float | None:
    """Seconds, from a number of them, a date as a number of seconds or milliseconds, or as in `6m0s`, `120ms`."""
    number = _number(said)
    if number is not None:
        return number if number < EPOCH else max(0.0, (number if number < 1e3 * EPOCH else number / 1e3) - date)
    parts = PART.findall(said or "")
    if not parts or "".join(amount + unit for amount, unit in parts) != said:
        return None
    return sum(float(amount) * UNITS[unit] for amount, unit in parts)
