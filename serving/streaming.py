"""A body of JSON Lines: an item a line in, a score a line out, in order, as they come, in bounded memory.

A line at fault is answered by a line `{"error": …, "line": n}` in its place, and the rest goes on. Ids may occur twice,
since nobody remembers the lines that were answered: each line is a score of its own. Many clients send the whole body
before they read: what they do not read yet waits, in a file without a name once it is large.

A stream can be ended from without, when the service stops or another one needs its place: no more of it is read then,
what was read is answered, and the last line says why.
"""

import asyncio
import json
import logging
import time
import traceback
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from tempfile import SpooledTemporaryFile
from typing import Any, Protocol

import anyio
from starlette.requests import ClientDisconnect, Request
from starlette.types import Receive, Scope, Send

from serving.batcher import overloaded
from serving.bodies import LINES, too_slow
from serving.config import Limits
from serving.refusal import Refusal
from serving.threads import over

LOG = logging.getLogger("bentoml.polarscore")
ESCAPED, BESIDE = 6, 65_536  # bytes of a character in JSON at most; bytes of a line besides its text
STREAMS, UNDER_WAY = 16, 3  # streams at once; chunks of each
IN_MEMORY, ON_DISK = 2**20, 256 * 2**20  # bytes of answers that a client has not read yet
AT_ONCE = 65_536  # bytes sent
IDLE_S = 5.0  # after which a stream that brings nothing leaves its place to another one, if there is none left
STOPPING_S = 5.0  # that a stream may take to end when the service stops; less than the batcher waits for it

Line = tuple[int, bytes | None]
"""A line and its number, from 1; None in place of one that is too long."""


class Scores(Protocol):
    """How lines are scored."""

    def chunks(self, lines: list[Line]) -> list[list[Line]]:
        """Lines in chunks of about what goes into one pass."""

    async def lines(self, chunk: Sequence[Line]) -> bytes:
        """A line for each of the lines of a chunk."""


class Streams:
    """The streams that are under way, which take memory each: so many, and no more."""

    def __init__(self, most: int = STREAMS):
        self._most = most
        self._under_way: list[LineResponse] = []

    def admit(self) -> None:
        """See to it that there is a place for a further stream: an idle one is ended where all are taken.

        Raises:
            Refusal: all are taken, and none is idle.
        """
        if len(self._under_way) < self._most:
            return
        idle = max((each for each in self._under_way if not each.ending), key=lambda each: each.idle_s, default=None)
        if idle is None or idle.idle_s < IDLE_S or len(self._under_way) >= 2 * self._most:
            raise overloaded(f"{self._most} streams are under way", 10)
        idle.end(Refusal("too_slow", "no line has come for a while, and another stream needs the place", status=408))

    @contextmanager
    def place(self, stream: "LineResponse") -> Iterator[None]:
        """The context of a stream."""
        self._under_way.append(stream)
        try:
            yield
        finally:
            self._under_way.remove(stream)


def longest(limits: Limits) -> int:
    """Bytes that one line may have."""
    return ESCAPED * limits.text + BESIDE


async def lines_of(body: AsyncIterator[bytes], most: int) -> AsyncIterator[list[Line]]:
    """The lines of a body, as many together as have come in; blank ones are counted, not given. most: bytes of one."""
    number, rest, skipping = 0, b"", False
    async for data in body:
        *whole, rest = (rest + data).split(b"\n") if not skipping else data.split(b"\n")
        found: list[Line] = []
        for line in whole:
            number += 1
            if skipping or len(line) > most:
                found.append((number, None))
            elif line.strip():
                found.append((number, line))
            skipping = False
        if len(rest) > most or skipping:
            rest, skipping = b"", True
        if found:
            yield found
    if skipping or rest.strip():
        yield [(number + 1, None if skipping else rest)]


def error_line(refusal: Refusal, number: int) -> bytes:
    """What answers a line at fault."""
    return json.dumps({**refusal.body().model_dump(), "line": number}, ensure_ascii=False).encode() + b"\n"


class Outbox:
    """Bytes on their way to a client, first in first out: a little in memory, more in a file, and no more than that."""

    def __init__(self, in_memory: int = IN_MEMORY, most: int = ON_DISK):
        self._file = SpooledTemporaryFile(max_size=in_memory)  # noqa: SIM115
        self._most, self._read, self._written, self._ended = most, 0, 0, False
        self._changed = asyncio.Condition()

    async def put(self, data: bytes) -> None:
        """Add bytes, as soon as there is room."""
        async with self._changed:
            await self._changed.wait_for(lambda: self._written - self._read < self._most)
            self._file.seek(self._written)
            self._file.write(data)
            self._written += len(data)
            self._changed.notify_all()

    async def get(self) -> bytes:
        """The next bytes, as soon as there are some; none at the end."""
        async with self._changed:
            await self._changed.wait_for(lambda: self._written > self._read or self._ended)
            self._file.seek(self._read)
            data = self._file.read(AT_ONCE)
            self._read += len(data)
            if self._read == self._written:
                self._file.seek(0)
                self._file.truncate()
                self._read = self._written = 0
            self._changed.notify_all()
            return data

    async def end(self) -> None:
        """Nothing more will be put in."""
        async with self._changed:
            self._ended = True
            self._changed.notify_all()

    def close(self) -> None:
        """Throw away what is left."""
        self._file.close()


class LineResponse:
    """The answer to a body of JSON Lines; an ASGI app. admission: the context in which it is given."""

    def __init__(
        self, request: Request, scores: Scores, limits: Limits, admission: AbstractContextManager[None],
        streams: Streams,
    ):
        self._request, self._scores, self._limits = request, scores, limits
        self._admission, self._streams = admission, streams
        self._running: asyncio.Queue[asyncio.Task[bytes] | None] = asyncio.Queue()
        self._room = asyncio.Semaphore(UNDER_WAY)
        self._outbox = Outbox()
        self._all_in: float | None = None  # when the body had been read
        self._lively = time.monotonic()  # when a line came, or was answered
        self._chunks = 0  # that are being scored
        self._why: asyncio.Future[Refusal] = asyncio.get_running_loop().create_future()  # it is to end

    @property
    def idle_s(self) -> float:
        """How long no line has come, and there was none to answer."""
        return 0.0 if self._chunks else time.monotonic() - self._lively

    @property
    def ending(self) -> bool:
        """Whether it was told to end."""
        return self._why.done()

    def end(self, why: Refusal) -> None:
        """Read no more of the body, answer what was read, and say why in the last line."""
        if not self._why.done():
            self._why.set_result(why)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer; ends early, with what it has begun, when the client goes, or reads nothing for too long.

        Cancelled, as uvicorn does when the service stops, it ends as it would by `end`, or after a few seconds anyhow.
        """
        answering = asyncio.ensure_future(self._answer(send))
        try:
            await asyncio.shield(answering)
        except asyncio.CancelledError:
            self.end(Refusal("stopping", "the service stops; send this line and those after it again", status=503))
            try:
                with anyio.CancelScope(shield=True):
                    await asyncio.wait([answering], timeout=STOPPING_S)
            finally:
                answering.cancel()
                await over(answering)
            if answering.cancelled():
                raise

    async def _answer(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [
            (b"content-type", LINES.encode()), (b"connection", b"close")]})
        try:
            with self._admission, self._streams.place(self):
                async with asyncio.TaskGroup() as tasks:
                    tasks.create_task(self._read(tasks))
                    tasks.create_task(self._collect())
                    await self._send(send)
        except* (ClientDisconnect, TimeoutError):  # nobody is there to be told
            pass
        finally:
            self._outbox.close()

    async def _read(self, tasks: asyncio.TaskGroup) -> None:
        """Begin with chunk after chunk; at the end a line of what was wrong, if something was."""
        count = last = 0
        try:
            async for lines in lines_of(self._body(), longest(self._limits)):
                room, last = self._limits.stream - count, lines[-1][0]
                for chunk in self._scores.chunks(lines[:room]) if room else []:
                    await self._room.acquire()
                    if self._why.done():
                        last = chunk[0][0] - 1
                        raise self._why.result()
                    self._chunks += 1
                    self._running.put_nowait(tasks.create_task(self._scored(chunk)))
                count += len(lines)
                if len(lines) > room:
                    last = lines[room][0] - 1
                    raise Refusal("too_large", f"at most {self._limits.stream:,} items in one stream", status=413)
        except Refusal as refusal:
            line = error_line(refusal, last + 1)
            await self._room.acquire()
            self._running.put_nowait(tasks.create_task(_said(line)))
        self._all_in = time.monotonic()
        self._running.put_nowait(None)

    async def _body(self) -> AsyncIterator[bytes]:
        stream = self._request.stream()
        while True:
            coming = asyncio.ensure_future(anext(stream, None))
            either: list[asyncio.Future[Any]] = [coming, self._why]
            try:
                await asyncio.wait(either, timeout=self._limits.seconds, return_when=asyncio.FIRST_COMPLETED)
                if self._why.done():
                    raise self._why.result()
                if not coming.done():
                    raise too_slow(self._limits)
                data = coming.result()
            finally:
                coming.cancel()
            if data is None:
                return
            yield data

    async def _scored(self, chunk: Sequence[Line]) -> bytes:
        try:
            return await self._scores.lines(chunk)
        except Refusal as refusal:
            return b"".join(error_line(refusal, number) for number, _ in chunk)
        except Exception as error:  # its message may hold a text, so neither the log nor the client gets it
            LOG.error("%s in a stream\n%s", type(error).__name__, "".join(traceback.format_tb(error.__traceback__)))
            failed = Refusal("internal", "the service failed; its log says where", status=500)
            return b"".join(error_line(failed, number) for number, _ in chunk)
        finally:
            self._chunks -= 1
            self._lively = time.monotonic()

    async def _collect(self) -> None:
        """Put what has been scored into the outbox, in order."""
        while running := await self._running.get():
            await self._outbox.put(await running)
            self._room.release()
        await self._outbox.end()

    async def _send(self, send: Send) -> None:
        while data := await self._outbox.get():
            await self._sent(send, data)
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _sent(self, send: Send, data: bytes) -> None:
        """Send bytes. Raises TimeoutError if the client has sent everything and still does not read."""
        sending = asyncio.ensure_future(send({"type": "http.response.body", "body": data, "more_body": True}))
        began = time.monotonic()
        try:
            while not (await asyncio.wait([sending], timeout=self._limits.seconds))[0]:
                waited_from = max(began, self._all_in or time.monotonic())
                if time.monotonic() - waited_from >= self._limits.seconds:
                    raise TimeoutError
            sending.result()
        finally:
            sending.cancel()


async def _said(line: bytes) -> bytes:
    return line
