"""The HTTP side of the service: bodies in, JSON out, one error format, and no text in a log."""

import logging
import traceback
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, TypeVar

import anyio.to_thread
from pydantic import BaseModel
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route

from serving.desk import Desk
from serving.openapi import PAGE, openapi
from serving.refusal import Refusal
from serving.schema import MAX_BODY, FeedbackRequest, ScoreRequest, read

LOG = logging.getLogger("bentoml.polarscore")
AT_ONCE = 8  # requests whose bodies are read, scored and kept at the same time; further ones wait

Endpoint = Callable[[Request, Desk], Awaitable[Response]]
Result = TypeVar("Result")


def make_app() -> Starlette:
    """The app; it answers once `app.state.desk` is set."""
    limiter = anyio.CapacityLimiter(AT_ONCE)

    async def score(request: Request, desk: Desk) -> Response:
        body = await _body(request)
        return await _in_thread(limiter, lambda: _json(desk.score(read(body, ScoreRequest).items)))

    async def feedback(request: Request, desk: Desk) -> Response:
        body = await _body(request)
        return await _in_thread(limiter, lambda: _json(desk.feedback(read(body, FeedbackRequest))))

    async def version(request: Request, desk: Desk) -> Response:
        return _json(desk.version())

    async def docs(request: Request, desk: Desk) -> Response:
        return JSONResponse(openapi(desk.version()))

    async def page(request: Request, desk: Desk) -> Response:
        return HTMLResponse(PAGE)

    return Starlette(
        routes=[
            Route("/score", _guarded(score), methods=["POST"]),
            Route("/feedback", _guarded(feedback), methods=["POST"]),
            Route("/version", _guarded(version), methods=["GET"]),
            Route("/docs.json", _guarded(docs), methods=["GET"]),
            Route("/", _guarded(page), methods=["GET"]),
        ],
        exception_handlers={HTTPException: _wrong_method},
    )


def _guarded(endpoint: Endpoint) -> Callable[[Request], Awaitable[Response]]:
    """Every failure of an endpoint in the error format; of an unforeseen one the log gets where, not what."""

    async def answer(request: Request) -> Response:
        try:
            return await endpoint(request, request.app.state.desk)
        except Refusal as refusal:
            return _json(refusal.body(), refusal.status)
        except ClientDisconnect:
            return Response(status_code=400)
        except Exception as error:  # its message may hold a text, so neither the log nor the client gets it
            frames = "".join(traceback.format_tb(error.__traceback__))
            LOG.error("%s in %s\n%s", type(error).__name__, request.url.path, frames)
            return _json(Refusal("internal", "the service failed; its log says where").body(), 500)

    return answer


async def _body(request: Request) -> bytes:
    """The whole body.

    Raises:
        Refusal: it is compressed, or larger than `MAX_BODY`; the rest is not read then.
    """
    if request.headers.get("content-encoding", "identity") != "identity":
        raise Refusal("unsupported_encoding", "send the body without compression", status=415)
    too_large = Refusal("too_large", f"at most {MAX_BODY:,} bytes in one body", status=413)
    length = request.headers.get("content-length", "")
    if length.isdecimal() and int(length[:20]) > MAX_BODY:
        raise too_large
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_BODY:
            raise too_large
    return bytes(body)


async def _in_thread(limiter: anyio.CapacityLimiter, work: Callable[[], Result]) -> Result:
    """Run blocking work beside the event loop, which goes on answering the probes."""
    return await anyio.to_thread.run_sync(partial(work), limiter=limiter)


def _json(content: BaseModel, status: int = 200) -> Response:
    return Response(content.model_dump_json(), status, media_type="application/json")


async def _wrong_method(request: Request, error: Any) -> Response:
    refusal = Refusal("method_not_allowed" if error.status_code == 405 else "not_found", error.detail,
                      status=error.status_code)
    return _json(refusal.body(), error.status_code)
