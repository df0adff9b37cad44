"""Work off a list with so many workers at a time; an error or a Ctrl-C ends it, and loses nothing under way."""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Collection, Sequence
from typing import TypeVar

Item = TypeVar("Item")


async def work_off(
    items: Sequence[Item], do: Callable[[Item], Awaitable[None]], at_once: int,
    spared: Callable[[], Collection[asyncio.Task[object]]],
) -> None:
    """Do something with each item, begun in their order. Raises the first error, once all workers have ended.

    At an error, and where the caller is cancelled, no item is begun any more, and all workers are cancelled but those
    spared: they end on their own.
    """
    left, errors = deque(items), list[BaseException]()

    def stop() -> None:
        left.clear()
        for worker in set(workers) - set(spared()):
            worker.cancel()

    async def work() -> None:
        try:
            while left:
                await do(left.popleft())
        except asyncio.CancelledError:
            raise
        except BaseException as error:
            errors.append(error)
            stop()  # here and now, before another worker goes on

    workers = [asyncio.create_task(work()) for _ in range(min(at_once, len(items)))]
    try:
        await asyncio.wait(workers)
    finally:
        stop()
        await asyncio.gather(*workers, return_exceptions=True)
    if errors:
        raise errors[0]
