"""Connections that ask nothing: a bound on how many there are, how long they may take, and how much they may say.

uvicorn waits for the head of a request, and for a client that does not read, as long as it takes; here each has a time.
Requests that are no HTTP are refused in our error format. Built upon whichever protocol uvicorn has chosen.
"""

import asyncio
import resource
from typing import Any

from uvicorn import config as uvicorn
from uvicorn.protocols.http.auto import AutoHTTPProtocol

from serving.lingering import LITTLE
from serving.refusal import Refusal

HEAD_S = 10.0  # from the beginning of a connection, or of a further request, until its head is complete
STOP_S = 10  # that requests under way may still take when the service stops, unless uvicorn was told
READ_S = 60.0  # that a client may take until it reads on
HEAD_BYTES = 64 * 2**10
SPARED = 128  # file descriptors, for the journal, the store and the model

TOO_LARGE = Refusal("too_large", f"at most {HEAD_BYTES:,} bytes of headers", status=431)

_Chosen: Any = AutoHTTPProtocol


class Connection(_Chosen):
    """One connection."""

    def connection_made(self, transport: asyncio.Transport) -> None:
        """Begin to wait for a request, if there is room."""
        super().connection_made(transport)
        self.config.timeout_graceful_shutdown = self.config.timeout_graceful_shutdown or STOP_S
        self._late: asyncio.TimerHandle | None = None  # runs while no request is being answered
        self._blocked: asyncio.TimerHandle | None = None  # runs while the client does not read
        self._said = 0  # bytes since the last request
        self._headers = 0  # bytes of this request's headers and trailers
        if len(self.connections) > most_connections():
            self._refuse(Refusal("overloaded", "too many connections", status=503, headers={"Retry-After": "5"}))
        else:
            self._late = self.loop.call_later(HEAD_S, self._too_late)

    def data_received(self, data: bytes) -> None:
        """Take in what has come."""
        idle = self._idle()
        super().data_received(data)
        if not self._idle():
            self._said, self._late = 0, _cancelled(self._late)
            return
        self._late = self._late or self.loop.call_later(HEAD_S, self._too_late)
        self._said += len(data) if idle else 1  # what came with the end of a request may have been its body
        if self._said > (LITTLE if self._body_goes_on() else HEAD_BYTES):
            self._refuse(TOO_LARGE)

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection."""
        self._late, self._blocked = _cancelled(self._late), _cancelled(self._blocked)
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        """The client does not read."""
        super().pause_writing()
        self._blocked = self._blocked or self.loop.call_later(READ_S, self._stuck)

    def _stuck(self) -> None:
        if self.cycle is not None and self.cycle.more_body:  # it sends first and reads later
            self._blocked = self.loop.call_later(READ_S, self._stuck)
        else:
            self.transport.abort()

    def resume_writing(self) -> None:
        """It does again."""
        super().resume_writing()
        self._blocked = _cancelled(self._blocked)

    def on_message_begin(self) -> None:
        """A request begins; httptools says so."""
        super().on_message_begin()
        self._headers = 0

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header or a trailer; httptools says so, and keeps them all. h11 bounds them itself."""
        self._headers += len(name) + len(value)
        if self._headers > HEAD_BYTES:
            raise ValueError
        super().on_header(name, value)

    def send_400_response(self, msg: str) -> None:
        """What came is no HTTP."""
        self._refuse(TOO_LARGE if self._headers > HEAD_BYTES else
                     Refusal("invalid_http", "this is not HTTP as the service understands it"))

    def _unsupported_upgrade_warning(self) -> None:
        """No log for each client that would like another protocol."""

    def _idle(self) -> bool:
        return self.cycle is None or self.cycle.response_complete

    def _body_goes_on(self) -> bool:
        """Whether what comes may be the rest of a body that nobody reads."""
        return self.cycle is not None and self.cycle.more_body

    def _too_late(self) -> None:
        if self._said:
            self._refuse(Refusal("timeout", f"a request should be there within {HEAD_S:.0f} s", status=408))
        else:
            self.transport.close()

    def _refuse(self, refusal: Refusal) -> None:
        """Answer in place of the app and close; where an answer has been given or begun, only close."""
        if self.transport.is_closing():
            return
        if (self._idle() and not self._body_goes_on()) or (not self._idle() and not self.cycle.response_started):
            self.transport.write(_answer(refusal))
        elif not self._idle():
            self.transport.abort()
        self.transport.close()


def _answer(refusal: Refusal) -> bytes:
    body = refusal.body().model_dump_json().encode()
    headers = {"content-type": "application/json", "content-length": len(body), "connection": "close",
               "x-content-type-options": "nosniff", "cache-control": "no-store", **refusal.headers}
    lines = [f"HTTP/1.1 {refusal.status} {PHRASES[refusal.status]}", *(f"{k}: {v}" for k, v in headers.items())]
    return "\r\n".join([*lines, "", ""]).encode() + body


PHRASES = {400: "Bad Request", 408: "Request Timeout", 431: "Request Header Fields Too Large",
           503: "Service Unavailable"}


def most_connections() -> int:
    """How many connections there may be at once, by the number of files that the process may open."""
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return max(16, min(files - SPARED, 4096)) if files > 0 else 4096


def _cancelled(timer: asyncio.TimerHandle | None) -> asyncio.TimerHandle | None:
    if timer is not None:
        timer.cancel()
    return None


def install() -> None:
    """Have uvicorn use such connections, and no websockets, in servers that this process starts from now on."""
    uvicorn.HTTP_PROTOCOLS["auto"] = f"{__name__}:Connection"
    uvicorn.WS_PROTOCOLS["auto"] = None
