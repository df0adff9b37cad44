"""Replies of an LLM kept in memory alone, for a service that may keep nothing of a text on disk."""

import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from serving.llm.cache import Cache
from serving.llm.exchange import Reply

MOST = 16 * 2**20  # characters
BESIDE = 256  # of a reply, besides its text


class Memory(Cache):
    """A cache like the one on disk, gone with the process; the replies used least of late make room for new ones."""

    def __init__(self, most: int = MOST):
        """Remember nothing yet."""
        self.path = Path("memory")
        self._most, self._turn = most, threading.Lock()
        self._replies: OrderedDict[bytes, Reply] = OrderedDict()
        self._size = 0

    def get(self, key: bytes) -> Reply | None:
        """The reply kept by that key."""
        with self._turn:
            if found := self._replies.get(key):
                self._replies.move_to_end(key)
            return found

    def get_many(self, keys: Sequence[bytes]) -> dict[bytes, Reply]:
        """The replies kept by those keys, of those that are."""
        return {key: found for key in keys if (found := self.get(key))}

    def put_many(self, replies: Mapping[bytes, Reply]) -> None:
        """Keep several replies."""
        with self._turn:
            for key, reply in replies.items():
                self._size -= _size(self._replies.pop(key, None))
                self._replies[key] = replace(reply, cached=True)
                self._size += _size(reply)
            while self._size > self._most:
                self._size -= _size(self._replies.popitem(last=False)[1])

    def forget(self) -> None:
        """Remember nothing any more."""
        with self._turn:
            self._replies.clear()
            self._size = 0

    def close(self) -> None:
        """Nothing is open."""
        self.forget()


def _size(reply: Reply | None) -> int:
    return 0 if reply is None else BESIDE + len(reply.text) + len(reply.refusal or "")
