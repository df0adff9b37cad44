"""Answers that came together are kept together, in one commit."""

import asyncio
from concurrent.futures import ThreadPoolExecutor

from serving.llm.cache import Cache
from serving.llm.exchange import Reply


class Commits:
    """Writes into a cache. beside: in a thread, so that the event loop goes on; or else in it, which takes less."""

    def __init__(self, cache: Cache, beside: bool):
        self._cache = cache
        self._thread = ThreadPoolExecutor(1, "llm-cache") if beside else None
        self._next: dict[bytes, Reply] = {}
        self._written: asyncio.Future[None] | None = None
        self._writer: asyncio.Task[None] | None = None

    def kept(self, key: bytes) -> Reply | None:
        """The answer that is kept by now, by whomever; None, too, where the event loop has no time to look."""
        return None if self._thread else self._cache.get(key)

    async def keep(self, key: bytes, reply: Reply) -> None:
        """Keep an answer; on disk when this returns.

        Raises:
            InputError: the cache cannot be written.
        """
        self._next[key] = reply
        if self._written is None:
            self._written = asyncio.get_running_loop().create_future()
        written = self._written
        if self._writer is None or self._writer.done():
            self._writer = asyncio.create_task(self._write())
        await asyncio.shield(written)

    async def close(self) -> None:
        """Wait for what is being written."""
        if self._writer is not None:
            await self._writer
        if self._thread is not None:
            self._thread.shutdown()

    async def _write(self) -> None:
        while self._next:
            replies, self._next = self._next, {}
            written, self._written = self._written, None
            assert written is not None
            try:
                if self._thread is None:
                    self._cache.put_many(replies)
                else:
                    await asyncio.get_running_loop().run_in_executor(self._thread, self._cache.put_many, replies)
            except Exception as error:
                written.set_exception(error)
                written.exception()  # seen, even where nobody waits any more
            else:
                written.set_result(None)
