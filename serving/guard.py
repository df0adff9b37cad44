"""The guard in front of the whole service, BentoML's own routes included: keys, rates, ids, headers, one error format.

It is given to BentoML as a middleware. BentoML puts those inside of its own ones; as the service starts, the guard goes
outside of them, so that a request that is refused touches neither their counters, of which they keep one a path, nor
their logs, and their errors are put into our format. Inside it stays as well, and lets pass only what it has admitted.
"""

import logging
import os
import re
import secrets
import traceback
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cache
from typing import Any

from prometheus_client import Counter
from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from serving.access import ApiKey
from serving.config import config_from
from serving.entry import PROBES, ROUTES, Asked, Visitor, address_of, admitted, allow, framed, heard_on
from serving.keyfile import Keyring, keys_path
from serving.lingering import Heard
from serving.rates import Rates
from serving.refusal import Refusal
from serving.reply import Reply, in_our_words
from training.state import State

REQUEST_ID: ContextVar[str] = ContextVar("request_id", default="-")
"""The id of the request that is being answered."""

LOG = logging.getLogger("bentoml.polarscore")
ADMITTED = "polarscore.admitted"
"""In the scope of a request that was let in: by whom it is made, a `Visitor`."""

RULES = "polarscore.rules"
"""In its scope, too: by which."""

PLAIN = re.compile(r"[A-Za-z0-9._:+/=-]{1,64}")


@dataclass(frozen=True)
class Rules:
    """What the guard goes by. find: the usable key that was given. listens: where, if that excuses from a key.

    count: told of refusals. still: the usable key with an id.
    """

    find: Callable[[str], ApiKey | None]
    rates: Rates
    listens: str | None = None
    count: Callable[[str], None] = lambda kind: None
    still: Callable[[str], ApiKey | None] = lambda identity: None

    @classmethod
    def from_environment(cls, environ: Mapping[str, str] = os.environ) -> "Rules":
        """Those of this process; each refusal is counted in its metrics.

        Raises:
            InputError: the file of the keys or the configuration is at fault.
        """
        ring = Keyring(keys_path(State.from_environment(environ), environ))
        config = config_from(environ)
        return cls(ring.find, Rates(config.limits.requests_per_minute), heard_on(config.keys, environ),
                   lambda kind: _refused().labels(type=kind).inc(), ring.still)


class Guard:
    """The middleware. Without rules: those of the process, read as the service starts.

    room: raises a Refusal of a request that there is no room for; asked here, before all else that a request costs.
    """

    def __init__(self, app: ASGIApp, rules: Rules | None = None, room: Callable[[Asked], None] = lambda asked: None):
        self._app, self._rules, self._room = app, rules or Rules.from_environment(), room

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, or have the app answer what is admitted."""
        match scope["type"]:
            case "lifespan":
                self._stand_outside(scope.get("app"))
                await self._app(scope, receive, send)
            case "http" if scope.get(ADMITTED):
                await self._app(scope, receive, send)
            case "http":
                await self._answer(scope, receive, send)
            case _:  # a websocket, of which the service has none
                await receive()
                await send({"type": "websocket.close", "code": 1008, "reason": ""})

    def _stand_outside(self, app: Any) -> None:
        stack = getattr(app, "middleware_stack", None)
        if stack is not None:
            app.middleware_stack = Guard(without_timeout(stack), self._rules, self._room)
            logging.getLogger("bentoml.access").addFilter(with_id)

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        client = address_of(scope)
        asked = Asked(scope["method"], scope["path"], Headers(scope=scope), client)
        name = request_id(asked.headers)
        REQUEST_ID.set(name)
        route = asked.path if asked.path in ROUTES else "an unknown path"
        heard = Heard(receive, asked.headers)
        reply = Reply(send, heard, asked.path, name, scope["scheme"] == "https")
        try:
            framed(asked.headers)
            visitor = await self._admit(asked)
            self._room(asked)
            if asked.method == "OPTIONS":
                await Response(status_code=204, headers={"Allow": allow(asked.path)})(scope, heard, reply)
            else:
                inner = {**scope, "client": scope["client"] if client else None, ADMITTED: visitor, RULES: self._rules}
                await self._app(inner, heard, reply)
        except Refusal as refusal:
            self._rules.count(refusal.kind)
            LOG.info("refused %s: %d %s, from %s [%s]", route, refusal.status, refusal.kind, client or "nowhere", name)
            await reply.refuse(refusal)
        except ClientDisconnect:
            pass
        except Exception as error:  # its message may hold a text, so neither the log nor the client gets it
            frames = "".join(traceback.format_tb(error.__traceback__))
            LOG.error("%s in %s [%s]\n%s", type(error).__name__, route, name, frames)
            await reply.refuse(in_our_words(500, {}))

    async def _admit(self, asked: Asked) -> Visitor:
        """Let a request pass, and say whose it is.

        Raises:
            Refusal: it may not be made, or not so often.
        """
        try:
            visitor = admitted(asked, self._rules.listens, self._rules.find)
        except Refusal as refusal:
            if refusal.status == 401:
                await self._rules.rates.failure(asked.client)
            raise
        if asked.path not in PROBES:
            await self._rules.rates.request(visitor.key.id if visitor.key else None, asked.client)
        return visitor


def request_id(headers: Headers) -> str:
    """The one that the client gave, if it is short and plain, or a new one."""
    given = headers.get("x-request-id", "")
    return given if PLAIN.fullmatch(given) else secrets.token_hex(8)


def with_id(record: logging.LogRecord) -> bool:
    """Add the id of the request to a line of the log."""
    record.msg = f"{record.msg} [{REQUEST_ID.get()}]"
    return True


def without_timeout(stack: ASGIApp) -> ASGIApp:
    """The layers without BentoML's time-out, which leaves a timer of its length behind for every request that comes.

    The service bounds by itself what a request may take.
    """
    layer: Any = stack
    while (inner := getattr(layer, "app", None)) is not None:
        if type(inner).__name__ == "TimeoutMiddleware":
            layer.app = inner.app
        else:
            layer = inner
    return stack


@cache
def _refused() -> Counter:
    return Counter("polarscore_guard_refusals", "Requests that the guard refused, by the type of the error", ["type"])
