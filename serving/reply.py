"""What the service sends back: with its headers on everything, and every error in its format."""

import base64
import hashlib
import re
from collections.abc import MutableMapping
from typing import Any

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import Message, Send

from serving.entry import REVIEW
from serving.lingering import Heard
from serving.openapi import PAGE
from serving.refusal import Refusal
from serving.review_look import REVIEW_POLICY

HEADERS = {
    "X-Content-Type-Options": "nosniff", "X-Frame-Options": "DENY", "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store", "Cross-Origin-Resource-Policy": "same-origin",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
}
TLS_ONLY = b"max-age=31536000"  # seconds, of Strict-Transport-Security
KINDS = {
    404: ("not_found", "there is nothing at this path. See /docs.json"),
    405: ("method_not_allowed", "this path has no such method"),
    500: ("internal", "the service failed; its log says where"),
    503: ("unavailable", "the service is not ready"),
}
"""What an error is called that comes in no format of ours."""


class Reply:
    """The `send` of a request. path: of its page. name: its id. secure: it came by TLS."""

    def __init__(self, send: Send, heard: Heard, path: str, name: str, secure: bool):
        self._send, self._heard, self._name, self._secure = send, heard, name, secure
        self._started, self._replaced = False, False
        self._errors = ("application/json", "text/html") if path in REVIEW else ("application/json",)
        self._headers = ON_PAGE if path == "/" else ON_REVIEW if path in REVIEW else ON_ALL

    async def __call__(self, message: Message) -> None:
        """Send a message of the app's; of an error in another format, ours in its place."""
        if self._replaced:
            return
        if message["type"] != "http.response.start":
            await self._heard.end(message, self._send)
            return
        status, headers = message["status"], Headers(raw=message.get("headers", []))
        if status >= 400 and not headers.get("content-type", "").startswith(self._errors):
            kept = {name: headers[name] for name in ("allow", "retry-after") if name in headers}
            await self.refuse(in_our_words(status, kept))
            self._replaced = True
            return
        await self._start(dict(message))

    async def refuse(self, refusal: Refusal) -> None:
        """Send an error. An answer that has begun breaks off instead."""
        if self._started:
            return
        body = refusal.body().model_dump_json().encode()
        start: dict[str, Any] = {"type": "http.response.start", "status": refusal.status, "headers": []}
        MutableHeaders(scope=start).update(
            {"Content-Type": "application/json", "Content-Length": str(len(body)), **refusal.headers})
        await self._start(start)
        await self._heard.end({"type": "http.response.body", "body": body}, self._send)

    async def _start(self, start: MutableMapping[str, Any]) -> None:
        ours = {**self._headers, b"x-request-id": self._name.encode()}
        if self._secure:
            ours[b"strict-transport-security"] = TLS_ONLY
        if self._heard.much_left:
            ours[b"connection"] = b"close"
        start["headers"] = [pair for pair in start.get("headers", []) if pair[0] not in ours] + list(ours.items())
        self._started = True
        await self._send(start)


def in_our_words(status: int, headers: dict[str, str]) -> Refusal:
    """An error of that status."""
    kind, message = KINDS.get(status, KINDS[500] if status >= 500 else ("invalid_request", "it cannot be answered"))
    return Refusal(kind, message, status=status, headers=headers)


def page_policy(page: str) -> str:
    """The Content-Security-Policy of a page: its own script by its hash, and what comes from here."""
    scripts = " ".join(f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'"
                       for script in re.findall(r"<script>(.*?)</script>", page, re.DOTALL))
    return (f"default-src 'none'; script-src 'self' {scripts}; style-src 'self' 'unsafe-inline'; "
            "img-src 'self' data:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'")


PAGE_POLICY = page_policy(PAGE)
ON_ALL = {name.lower().encode(): value.encode() for name, value in HEADERS.items()}
ON_PAGE = ON_ALL | {b"content-security-policy": PAGE_POLICY.encode()}
ON_REVIEW = ON_ALL | {b"content-security-policy": REVIEW_POLICY.encode(), b"referrer-policy": b"same-origin"}
