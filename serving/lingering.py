"""An answer to a request whose body has not been read to its end, so that the client gets it all the same.

Who closes a connection on which bytes still come resets it, and the client, which writes before it reads, may never see
the answer. So the answer is sent, what comes is thrown away for a moment, and then the connection is closed.
"""

import time

import anyio
from starlette.datastructures import Headers
from starlette.types import Message, Receive, Send

SECONDS, BYTES = 1.0, 32 * 2**20  # that are thrown away
LITTLE = 2**20  # bytes for which no connection is closed


class Heard:
    """The `receive` of a request; knows how far its body was read."""

    def __init__(self, receive: Receive, headers: Headers):
        self._receive = receive
        length = headers.get("content-length", "0")
        self._chunked = "transfer-encoding" in headers
        self._left = int(length) if length.isdecimal() and len(length) < 20 else 0
        self._over = not (self._chunked or self._left)
        self._waits = "expect" in headers  # with the body, until it is asked for

    @property
    def much_left(self) -> bool:
        """Whether more of the body may come than is worth waiting for."""
        return not self._over and (self._chunked or self._left > LITTLE)

    async def __call__(self) -> Message:
        """The next message."""
        message = await self._receive()
        self._left -= len(message.get("body", b""))
        self._over = self._over or message["type"] != "http.request" or not message.get("more_body", False)
        return message

    async def end(self, message: Message, send: Send) -> None:
        """Send a part of the answer; the last one in such a way that it arrives."""
        if message.get("more_body", False) or not self.much_left or self._waits:
            await send(message)
            return
        await send({**message, "more_body": True})
        await self._throw_away()
        await send({"type": "http.response.body", "body": b""})

    async def _throw_away(self) -> None:
        began, seen = time.monotonic(), 0
        with anyio.move_on_after(SECONDS):
            while not self._over and seen < BYTES and time.monotonic() - began < SECONDS:
                seen += len((await self()).get("body", b""))
