"""What an answer over HTTP means: a reply, a failure, a reason to ask again, otherwise, or nobody any more. Pure.

What a server says in an error may quote the prompt: it is searched for what it names, and never repeated.
"""

import json
import re
from dataclasses import dataclass, replace
from typing import Any

from serving.llm.exchange import Failed, Prompt, Reply
from serving.llm.protocol import Answered, Dialect, Lost, is_cut, reply_of
from serving.llm.retrying import asked_wait_s
from serving.llm.settings import Endpoint

AGAIN = (408, 409, 425, 429)  # beside those from 500
TOO_MUCH = (429, 503, 529)
AT_FAULT = (400, 413, 422)
MALFORMED_TRIES = 2
TOO_LONG = re.compile(r"context[ _](length|size|window)|(prompt|input) is too long|max(imum)?[ _](input|model)[ _]len"
                      r"|maximum number of tokens allowed", re.IGNORECASE)
FLAGGED = re.compile(r"moderation|flagged|content[ _](filter|policy)", re.IGNORECASE)
USED_UP = re.compile(r"insufficient_quota|billing_hard_limit|insufficient[ _](balance|credits)", re.IGNORECASE)


@dataclass(frozen=True)
class Again:
    """Ask again, after a while. failed: what it is if that does not help. wait_s: how long the server asks to wait.
    too_much: the server is asked too much, or by too many at a time. dead: the server may be dead. most: so many tries
    again; None: as many as the endpoint's settings say."""

    failed: Failed
    wait_s: float | None = None
    too_much: bool = False
    dead: bool = False
    most: int | None = None


@dataclass(frozen=True)
class Otherwise:
    """Ask the same at once, in another dialect."""

    dialect: Dialect


@dataclass(frozen=True)
class Hopeless:
    """No question would fare better, as with a wrong key; unless others do, and then it is this one that failed."""

    why: str
    failed: Failed


Verdict = Reply | Failed | Again | Otherwise | Hopeless


def verdict(endpoint: Endpoint, prompt: Prompt, dialect: Dialect, found: Answered | Lost, date: float) -> Verdict:
    """What came back means. dialect: in which it was asked. date: seconds since 1970."""
    if isinstance(found, Lost):
        slow = found.kind == "timeout"
        return Again(Failed("timeout" if slow else "server", found.detail), 0.0 if slow else None, slow, dead=True)
    if 200 <= found.status < 300:
        return _success(found, prompt)
    error = _Error.of(found.content or b"")
    if found.status == 403 and FLAGGED.search(error.text):
        return Failed("rejected", "the server refuses what the request says (status 403)")
    why = _hopeless(endpoint, found.status, error)
    if why:
        return Hopeless(why, Failed("rejected" if found.status == 403 else "server",
                                    f"the server answered with status {found.status}"))
    if found.status in AGAIN or found.status >= 500:
        wait_s = asked_wait_s(found.headers, date)
        failed = Failed("server", f"the server answered with status {found.status}")
        return Again(failed, wait_s, wait_s is not None or found.status in TOO_MUCH,
                     dead=found.status >= 500 and wait_s is None)
    if found.status in AT_FAULT:
        other = _otherwise(dialect, error, prompt)
        if other is not None:
            return Otherwise(other)
        if TOO_LONG.search(error.text):
            return Failed("too_long", "the prompt and the answer together are beyond the model's context")
    return Failed("rejected", f"the server refuses the request (status {found.status})")


@dataclass(frozen=True)
class _Error:
    """What an error says. param: the field at fault. text: all else, to be searched and never shown."""

    param: str = ""
    text: str = ""

    @classmethod
    def of(cls, content: bytes) -> "_Error":
        try:
            body = json.loads(content)
        except (ValueError, RecursionError):
            return cls(text=content[:2000].decode(errors="replace"))
        body = body if isinstance(body, dict) else {}
        inner = body.get("error")
        error: dict[str, Any] = inner if isinstance(inner, dict) else body
        said = [error.get(name) for name in ("code", "type", "message", "error", "error_type")]
        detail: Any = body.get("detail")  # as FastAPI says it; it may hold the whole request as `input`
        for each in detail if isinstance(detail, list) else [detail]:
            if isinstance(each, dict):
                loc = each.get("loc")
                said += [each.get("msg"), *(loc if isinstance(loc, list) else ())]
            else:
                said.append(each)
        param = error.get("param")
        return cls(param if isinstance(param, str) else "", " ".join(word for word in said if isinstance(word, str)))


def _success(found: Answered, prompt: Prompt) -> Reply | Again:
    if found.content is None:
        return Again(Failed("malformed", "the answer is too long, or packed"), most=MALFORMED_TRIES)
    reply = reply_of(found.content, prompt)
    if reply is not None:
        return reply
    if is_cut(found.content):
        return Again(Failed("server", "half an answer came"), dead=True)
    return Again(Failed("malformed", "what came is no chat completion"), most=MALFORMED_TRIES)


def _otherwise(dialect: Dialect, error: _Error, prompt: Prompt) -> Dialect | None:
    """The dialect that the server asks for; None: it does not ask for another."""
    named = f"{error.param} {error.text}"
    if not dialect.completion_tokens and "max_completion_tokens" in named and "max_tokens" in named:
        return replace(dialect, completion_tokens=True)
    if dialect.logprobs and prompt.logprobs and "logprobs" in named:
        return replace(dialect, logprobs=False)
    if dialect.seed and prompt.temperature > 0 and error.param == "seed":
        return replace(dialect, seed=False)
    if dialect.temperature and error.param == "temperature":
        return replace(dialect, temperature=False)
    return None


def _hopeless(endpoint: Endpoint, status: int, error: _Error) -> str | None:
    """Why no question would be answered; None: another one may be."""
    said = f"the endpoint '{endpoint.name}' at {endpoint.url}"
    if status in (401, 403):
        return (f"{said} refuses the key in the variable {endpoint.key} (status {status})." if endpoint.key else
                f"{said} seems to need a key (status {status}). Name the variable that holds it: `key = \"VARIABLE\"`.")
    if status == 404:
        return (f"{said} does not know the model '{endpoint.model}', or is no such endpoint (status 404). Its URL "
                "usually ends with /v1.")
    if status == 402 or (status == 429 and USED_UP.search(error.text)):
        return f"{said} says that its quota is used up, or that money is missing (status {status})."
    if status == 405:
        return f"{said} takes no chat completions there (status 405). Its URL usually ends with /v1."
    if 300 <= status < 400:
        return (f"{said} sends requests elsewhere (status {status}), which is not followed. Set `url` to where it is.")
    return None
