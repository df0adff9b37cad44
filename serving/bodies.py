"""Reading what a client sends: of the right kind, bounded in bytes and in time, and all bodies together bounded too."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from starlette.requests import Request

from serving.batcher import overloaded
from serving.config import Limits
from serving.refusal import Refusal

JSON, LINES = "application/json", "application/x-ndjson"
AT_ONCE = 4  # bodies of the largest size that may be in memory together


def kind_of(request: Request, *expected: str) -> str:
    """Which of the expected media types a body has.

    Raises:
        Refusal: it has another one or none, or is compressed.
    """
    if request.headers.get("content-encoding", "").strip().lower() not in ("", "identity"):
        raise Refusal("unsupported_encoding", "send the body without compression", status=415)
    kind = request.headers.get("content-type", "").split(";")[0].strip().lower()
    if kind not in expected:
        raise Refusal("unsupported_media_type", f"the header content-type should be {' or '.join(expected)}. "
                      f"Found {'another one' if kind else 'none'}", status=415)
    return kind


class Bodies:
    """Reads bodies, and counts the bytes of those that are in memory."""

    def __init__(self) -> None:
        self._held = 0

    @asynccontextmanager
    async def body(self, request: Request, limits: Limits) -> AsyncIterator[bytes]:
        """The whole body, counted for as long as the context lasts.

        Raises:
            Refusal: it is too large or too slow to come, and the rest is not read then; or the others take too much.
            ClientDisconnect: the client is gone.
        """
        most, held = limits.body, 0
        too_large = Refusal("too_large", f"at most {most:,} bytes in one body", status=413)
        length = request.headers.get("content-length", "")
        if length.isdecimal() and int(length[:20]) > most:
            raise too_large
        chunks = []
        try:
            try:
                async with asyncio.timeout(limits.seconds):
                    async for chunk in request.stream():
                        if held + len(chunk) > most:
                            raise too_large
                        if self._held + len(chunk) > AT_ONCE * most:
                            raise overloaded("the bodies of other requests take all the memory for bodies", 1)
                        held += len(chunk)
                        self._held += len(chunk)
                        chunks.append(chunk)
            except TimeoutError:
                raise too_slow(limits) from None
            yield chunks[0] if len(chunks) == 1 else b"".join(chunks)
        finally:
            self._held -= held


def too_slow(limits: Limits) -> Refusal:
    """The refusal of a client that takes too long to send a body."""
    return Refusal("too_slow", f"the body should be sent within {limits.seconds:g} seconds", status=408)
