"""Who may ask what: the routes and the scopes they need, and when nobody needs a key. Pure, but for the keys' file.

Without a key one may ask only on the machine itself, and not even there if the configuration says so: the service was
told that it listens on a loopback address, the connection comes from one, and nothing says that the request came from
farther: neither a proxy in front, which adds a header, nor a page of some site in the browser. A proxy that adds none
and changes the Host cannot be told from a program on this machine.

The review page has a door of its own: whoever comes without a key is let through as a stranger, and finds a form to
sign in by.
"""

import ipaddress
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal
from urllib.parse import urlsplit

from starlette.datastructures import Headers

from serving.access import LOCAL, ApiKey, Scope
from serving.refusal import Refusal

LISTEN = "POLARSCORE_LISTEN"
"""The variable with the address that the service listens on; `serving.launch` sets it. Not set, all need a key."""

WhoNeeds = Literal["beyond loopback", "always"]
"""Who needs a key: those who come from beyond this machine, or everybody."""

PROBES = frozenset({"/livez", "/readyz", "/healthz"})
"""Open to everybody."""

ROUTES: dict[str, dict[str, Scope]] = {
    "/score": {"POST": "score"},
    "/explain": {"POST": "score"},
    "/correct": {"POST": "correct"},
    "/feedback": {"POST": "feedback"},
    "/forget": {"POST": "admin"},
    "/review": {"GET": "review"},
    "/review/plot.svg": {"GET": "review"},
    "/review/login": {"POST": "review"},
    "/review/logout": {"POST": "review"},
    "/review/label": {"POST": "review"},
    "/review/undo": {"POST": "review"},
    "/version": {"GET": "read"},
    "/metrics": {"GET": "read"},
    "/docs.json": {"GET": "read"},
    "/": {"GET": "read"},
    "/static_content/swagger-ui.css": {"GET": "read"},
    "/static_content/swagger-ui-bundle.js": {"GET": "read"},
    "/livez": {"GET": "read"},
    "/readyz": {"GET": "read"},
    "/healthz": {"GET": "read"},
}
"""Everything that the service answers, and the scope that each needs; where GET is, HEAD is too."""

REVIEW = frozenset(path for path in ROUTES if path.startswith("/review"))
"""Open to strangers, who find a form to sign in by, and nothing else."""

FORWARDED = ("forwarded", "via", "x-real-ip", "true-client-ip", "x-client-ip", "x-cluster-client-ip",
             "fastly-client-ip", "cdn-loop")
FORWARDED_PREFIXES = ("x-forwarded", "x-original-", "x-envoy-", "cf-", "x-amzn-", "x-azure-")
"""Headers that a proxy or a gateway adds."""

LOCALHOST = "localhost"
REMEMBERED = 1024  # addresses that need not be parsed again


@dataclass(frozen=True)
class Asked:
    """What of a request decides whether it may be made. client: the address that it comes from."""

    method: str
    path: str
    headers: Headers
    client: str | None


@dataclass(frozen=True)
class Visitor:
    """Who makes a request that may be made. key: the good one that came with it. local: needs none on this machine.

    With neither: a stranger, at a probe or at the door of the review page.
    """

    key: ApiKey | None = None
    local: bool = False

    @property
    def name(self) -> str | None:
        """By which labels are kept; None of a stranger."""
        return self.key.name if self.key else LOCAL if self.local else None

    @property
    def trusted(self) -> bool:
        """Whether it is a reviewer, whose labels may change what the service does."""
        return self.key is not None and self.key.allows("review")


def admitted(asked: Asked, listens: str | None, find: Callable[[str], ApiKey | None]) -> Visitor:
    """Who makes a request that may be made.

    listens: the address that the service was told it listens on. find: the usable key that was given, or None.

    Raises:
        Refusal: 401 without a good key, 404 for an unknown path, 405 for a wrong method, 403 if the scope lacks.
    """
    if asked.path in PROBES:
        method_of(asked)
        return Visitor()
    if asked.path in REVIEW and not _has_key(asked.headers) and not _is_here(asked, listens):
        method_of(asked)
        return Visitor()
    key = key_of(asked, listens, find)
    method = method_of(asked)
    scope = ROUTES[asked.path][method]
    if key is not None and not key.allows(scope):
        raise Refusal("forbidden", f"this needs a key with the scope {scope}", status=403)
    return Visitor(key, local=key is None)


def key_of(asked: Asked, listens: str | None, find: Callable[[str], ApiKey | None]) -> ApiKey | None:
    """The good key that a request brings, which is checked wherever it comes from; None: it may be made without.

    Raises:
        Refusal: 401.
    """
    bearers, own = asked.headers.getlist("authorization"), asked.headers.getlist("x-api-key")
    if len(bearers) + len(own) > 1:
        raise _unauthorized("send one API key, once")
    if bearers or own:
        key = find(own[0] if own else _bearer(bearers[0]))
        if key is None:
            raise _unauthorized("the API key is unknown, expired or revoked")
        return key
    if not _from_loopback(asked, listens):
        raise _unauthorized("send an API key, as Authorization: Bearer KEY")
    if forwarded := came_from_farther(asked.headers):
        raise _unauthorized(f"{forwarded}. Send an API key, as Authorization: Bearer KEY")
    return None


def framed(headers: Headers) -> None:
    """Refuse a body whose end two readers could see in two places, as a proxy in front and the service might.

    Raises:
        Refusal: 400; the connection should be closed.
    """
    encodings = headers.getlist("transfer-encoding")
    if encodings and (encodings != ["chunked"] or "content-length" in headers):
        raise Refusal("invalid_http", "send the body with a Content-Length, or with Transfer-Encoding: chunked",
                      headers={"Connection": "close"})


def method_of(asked: Asked) -> str:
    """The method, HEAD being GET, and OPTIONS whichever there is.

    Raises:
        Refusal: 404 for an unknown path, 405 for a method that it has not.
    """
    methods = ROUTES.get(asked.path)
    if methods is None:
        raise Refusal("not_found", "there is nothing at this path. See /docs.json", status=404)
    method = "GET" if asked.method == "HEAD" else next(iter(methods)) if asked.method == "OPTIONS" else asked.method
    if method not in methods:
        raise Refusal("method_not_allowed", f"use {', '.join(methods)}", status=405,
                      headers={"Allow": allow(asked.path)})
    return method


def allow(path: str) -> str:
    """What the Allow header of a path says."""
    return ", ".join([*ROUTES[path], *(["HEAD"] if "GET" in ROUTES[path] else []), "OPTIONS"])


def came_from_farther(headers: Headers) -> str | None:
    """What says that a request did not begin on this machine; None: nothing."""
    if any(name in FORWARDED or name.startswith(FORWARDED_PREFIXES) for name in headers):
        return "a proxy has forwarded this request"
    hosts, origins = headers.getlist("host"), headers.getlist("origin")
    if len(hosts) != 1 or not _is_local(f"//{hosts[0]}"):
        return "the Host should be this machine's, as 127.0.0.1 or localhost"
    if any(not _is_local(origin) for origin in origins) or from_another_site(headers):
        return "a page of another site has made this request"
    return None


def from_another_site(headers: Headers) -> bool:
    """Whether a page of another site led here, as a link in a chat does; a browser sends no cookie of ours then."""
    return headers.get("sec-fetch-site") == "cross-site"


def from_own_page(headers: Headers) -> bool:
    """Whether a form was sent from a page of this service, as far as the browser says from where.

    One that says nothing, since it is old or no browser, has to know the form's token all the same.
    """
    if site := headers.get("sec-fetch-site"):
        return site == "same-origin"
    origin = headers.get("origin")
    return origin is None or urlsplit(origin).netloc == headers.get("host")


def address_of(scope: Mapping[str, Any]) -> str | None:
    """The address that a request comes from; None: it has none, or a proxy gave a word that is none."""
    client = scope.get("client")
    return _as_address(client[0]) if client else None


def heard_on(keys: WhoNeeds, environ: Mapping[str, str]) -> str | None:
    """The address that the service listens on, as far as it excuses anybody from a key; None: it does not."""
    return None if keys == "always" else environ.get(LISTEN)


@lru_cache(REMEMBERED)
def _as_address(word: str) -> str | None:
    try:
        return str(ipaddress.ip_address(word))
    except ValueError:
        return None


@lru_cache(REMEMBERED)
def is_loopback(address: str | None) -> bool:
    """Whether an address is this machine's own loopback; no address, and a name, are not."""
    try:
        found = ipaddress.ip_address(address or "")
    except ValueError:
        return False
    mapped = getattr(found, "ipv4_mapped", None)
    return bool((mapped or found).is_loopback)


def _has_key(headers: Headers) -> bool:
    return "authorization" in headers or "x-api-key" in headers


def _is_here(asked: Asked, listens: str | None) -> bool:
    """Whether a request may be made without a key."""
    return _from_loopback(asked, listens) and came_from_farther(asked.headers) is None


def _from_loopback(asked: Asked, listens: str | None) -> bool:
    return is_loopback(listens) and is_loopback(asked.client)


def _is_local(url: str) -> bool:
    try:
        host = urlsplit(url).hostname or ""
    except ValueError:
        return False
    return host == LOCALHOST or host.endswith(f".{LOCALHOST}") or is_loopback(host)


def _bearer(value: str) -> str:
    scheme, _, key = value.strip().partition(" ")
    return key.strip() if scheme.lower() == "bearer" else ""


def _unauthorized(message: str) -> Refusal:
    return Refusal("unauthorized", message, status=401, headers={"WWW-Authenticate": 'Bearer realm="polarscore"'})
