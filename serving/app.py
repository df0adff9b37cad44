"""The HTTP side of the service: bodies in, JSON out, one error format, and no text in a log.

A request is let in before its body is read, prepared in a thread, and scored with others in one pass. What needs the
database, and explanations, have threads of their own: however slow they are, scoring goes on.
"""

import logging
import os
import traceback
from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp

from serving import schema
from serving.bodies import JSON, LINES, Bodies, kind_of
from serving.config import ServiceConfig
from serving.correcting import Corrector, not_configured
from serving.entry import Asked, Visitor, heard_on, is_loopback
from serving.guard import ADMITTED, REQUEST_ID
from serving.openapi import PAGE, openapi
from serving.refusal import Refusal
from serving.review_routes import review_routes
from serving.scoring import Scoring, while_there
from serving.streaming import LineResponse, Streams
from serving.threads import Threads

if TYPE_CHECKING:
    from serving.desk import Desk

LOG = logging.getLogger("bentoml.polarscore")
PREPARING = max(2, min(8, os.cpu_count() or 1))  # threads
FOR_DATABASE, FOR_EXPLAINING = 4, 1  # threads
WAITING = 64  # requests for one of those two
CLOSES = (408, 413)  # the rest of the body is not read, so the connection cannot be used again

Endpoint = Callable[[Request], Awaitable[ASGIApp]]


def make_app() -> Starlette:
    """The app; it answers once `app.state` has a `desk`, a `batcher` and, if not the default one, a `config`.

    It corrects once it has a `corrector`, too.
    """
    bodies, preparing = Bodies(), Threads(PREPARING, most=4_096)
    waiting = Bodies()  # for an LLM, however long that takes; those of `/score` have their own room
    streams = Streams()
    database, explaining = Threads(FOR_DATABASE, WAITING), Threads(FOR_EXPLAINING, WAITING)

    async def score(request: Request) -> ASGIApp:
        state, limits = request.app.state, request.app.state.config.limits
        kind = kind_of(request, JSON, LINES)
        scoring = Scoring(state.desk, state.batcher, preparing, limits)
        if kind == LINES:
            admission = scoring.admitted(patient=True)
            streams.admit()
            return LineResponse(request, scoring, limits, admission, streams)
        with scoring.admitted():
            async with bodies.body(request, limits) as body:
                scoring.admitted()  # others may have come while it was read
                return _json(await while_there(request, scoring.whole(body)))

    async def correct(request: Request) -> Response:
        state, limits = request.app.state, request.app.state.config.limits
        kind_of(request, JSON)
        corrector: Corrector | None = state.corrector
        if corrector is None:
            raise not_configured()
        corrector.questions.admit()
        scoring = Scoring(state.desk, state.batcher, preparing, limits)
        with scoring.admitted():
            async with waiting.body(request, limits) as body:
                scoring.admitted()
                return _json(await while_there(request, corrector.corrected(scoring, body)))

    async def asked(
        request: Request, kind: type[schema.Request], threads: Threads,
        answer: "Callable[[Desk, schema.Request], BaseModel]",
    ) -> Response:
        kind_of(request, JSON)
        desk, limits = request.app.state.desk, request.app.state.config.limits
        async with bodies.body(request, limits) as body:
            return _json(await threads.run(lambda: answer(desk, schema.read(body, kind, limits))))

    async def feedback(request: Request) -> Response:
        visitor: Visitor = request.scope.get(ADMITTED, Visitor())
        return await asked(request, schema.FeedbackRequest, database,
                           lambda desk, each: desk.feedback(each, visitor.name, visitor.trusted))

    async def explain(request: Request) -> Response:
        return await asked(request, schema.ExplainRequest, explaining, lambda desk, each: desk.explain(each.item))

    async def forget(request: Request) -> Response:
        try:
            return await asked(request, schema.ForgetRequest, database, lambda desk, each: desk.forget(each.id))
        finally:  # a reply may quote a text of which nothing else is kept, or not yet
            if request.app.state.corrector:
                request.app.state.corrector.forget()

    async def version(request: Request) -> Response:
        return _json(request.app.state.desk.version())

    async def docs(request: Request) -> Response:
        state = request.app.state
        keys = not is_loopback(heard_on(state.config.keys, os.environ))
        asks = state.config.correction
        most = asks.items if asks else state.config.limits.items
        return JSONResponse(openapi(state.desk.version(), state.config.limits, keys, most))

    async def page(request: Request) -> Response:
        return HTMLResponse(PAGE)

    posts = {"/score": score, "/correct": correct, "/feedback": feedback, "/explain": explain, "/forget": forget}
    gets = {"/version": version, "/docs.json": docs, "/": page}
    app = Starlette(
        routes=[*(Route(path, _guarded(endpoint), methods=[method])
                  for method, endpoints in (("POST", posts), ("GET", gets)) for path, endpoint in endpoints.items()),
                *review_routes(bodies, _guarded, refused)],
        exception_handlers={HTTPException: _no_such_thing},
    )
    app.state.config, app.state.corrector = ServiceConfig(), None
    return app


def room(app: Starlette, asked: Asked) -> None:
    """Refuse what the app would refuse as soon as it had it.

    Raises:
        Refusal: too much is waiting (`Batcher.admit`).
    """
    batcher = getattr(app.state, "batcher", None)
    lines = asked.headers.get("content-type", "").startswith(LINES)  # which wait
    if batcher and asked.method == "POST" and asked.path in ("/score", "/correct") and not lines:
        batcher.admit()


def _guarded(
    endpoint: Endpoint, told: "Callable[[Refusal], Response] | None" = None
) -> Callable[[Request], Awaitable[Any]]:
    """Every failure of an endpoint as `told`, by default in the error format; the log gets where, not what."""
    told = told or refused

    async def answer(request: Request) -> ASGIApp:
        try:
            return await endpoint(request)
        except Refusal as refusal:
            return told(refusal)
        except ClientDisconnect:
            return Response(status_code=400)
        except Exception as error:  # its message may hold a text, so neither the log nor the client gets it
            frames = "".join(traceback.format_tb(error.__traceback__))
            LOG.error("%s in %s, request %s\n%s", type(error).__name__, request.url.path, REQUEST_ID.get(), frames)
            return told(Refusal("internal", "the service failed; its log says where", status=500))

    return answer


def refused(refusal: Refusal, headers: Mapping[str, str] | None = None) -> Response:
    """The answer to a request that is refused."""
    closes = {"connection": "close"} if refusal.status in CLOSES else {}
    return _json(refusal.body(), refusal.status, {**refusal.headers, **(headers or {}), **closes})


def _json(content: BaseModel, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    return Response(content.model_dump_json(), status, headers, media_type=JSON)


async def _no_such_thing(request: Request, error: Any) -> Response:
    kind = {404: "not_found", 405: "method_not_allowed"}.get(error.status_code, "refused")
    return refused(Refusal(kind, error.detail, status=error.status_code), error.headers)
