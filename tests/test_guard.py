import asyncio
import base64
import hashlib
import logging
import re
import socket
import time
import tracemalloc
from contextlib import ExitStack, suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import anyio
import httpx
import pytest
import uvicorn
from hypothesis import given
from hypothesis import strategies as st
from starlette.applications import Starlette
from starlette.datastructures import Headers
from starlette.middleware import Middleware
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse
from starlette.routing import Route

from registry.export import build
from serving import batcher, connections, following, launch, lingering, streaming
from serving.access import SCOPES, issued, revoked, rotated
from serving.app import make_app
from serving.entry import PROBES, REVIEW, ROUTES, Asked, Visitor, admitted, framed, is_loopback, key_of
from serving.guard import ADMITTED, Guard, Rules, without_timeout
from serving.keyfile import API_KEYS, change_keys, keys_path
from serving.rates import COUNTERS, Rates
from serving.refusal import Refusal
from serving.reply import PAGE_POLICY, page_policy
from tests.test_serving import write_version
from training.errors import InputError
from training.state import State

# BentoML, when first imported, uses old names of pathspec's and pydantic's.
pytestmark = [
    pytest.mark.filterwarnings("ignore:GitWildMatchPattern:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:The `__get_pydantic_core_schema__` method:DeprecationWarning"),
]

SECRET = "Marzipan-Krokodil"
LOCAL = {"host": "127.0.0.1:3000"}
MADE = {scope: issued(scope, [scope], datetime.now(UTC)) for scope in SCOPES}
KEYS = {key: kept for kept, key in MADE.values()}
KEY = {scope: {"Authorization": f"Bearer {key}"} for scope, (_, key) in MADE.items()}
ASKED = sorted((method, path) for path, methods in ROUTES.items() for method in methods if path not in PROBES)
STRANGERS = [(None, "127.0.0.1"), ("0.0.0.0", "127.0.0.1"), ("127.0.0.1", "10.0.0.8"), ("::", "::1"),
             ("127.0.0.1", "proxy")]


async def everything(scope, receive, send):
    """An app that answers whatever reaches it."""
    await JSONResponse({"reached": scope["path"]})(scope, receive, send)


def ask(method, path, *, headers=None, app=everything, listens=None, client="127.0.0.1", rates=None, content=None,
        base="http://127.0.0.1:3000"):
    guard = Guard(app, Rules(KEYS.get, rates or Rates(None), listens))

    async def send():
        transport = httpx.ASGITransport(app=guard, client=(client, 5), raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url=base) as asking:
            return await asking.request(method, path, headers=headers, content=content)

    return anyio.run(send)


def assert_refused(response, status, kind):
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/json"
    assert set(response.json()) == {"error"} and set(response.json()["error"]) == {"type", "message", "where"}
    assert response.json()["error"]["type"] == kind
    assert response.headers["x-content-type-options"] == "nosniff" and response.headers["x-request-id"]


# Who may ask what


def test_every_route_of_the_app_is_in_the_table():
    routes = {(method, route.path) for route in make_app().routes for method in route.methods - {"HEAD"}}
    assert routes <= {(method, path) for path, methods in ROUTES.items() for method in methods}


@pytest.mark.parametrize(("method", "path"), [each for each in ASKED if each[1] not in REVIEW])
def test_no_route_is_answered_without_a_key(method, path):
    for listens, client in STRANGERS:
        response = ask(method, path, listens=listens, client=client)
        assert_refused(response, 401, "unauthorized")
        assert response.headers["www-authenticate"].startswith("Bearer")
    assert ask(method, path, listens="127.0.0.1").status_code == 200
    assert ask(method, path, listens="::1", client="::1", base="http://[::1]:3000").status_code == 200


@pytest.mark.parametrize(("method", "path"), ASKED)
def test_a_key_does_what_its_scope_says(method, path):
    needed = ROUTES[path][method]
    for scope in SCOPES:
        response = ask(method, path, headers=KEY[scope])
        if scope == needed or (scope == "admin" and needed not in ("review", "correct")):
            assert response.json() == {"reached": path}
        else:
            assert_refused(response, 403, "forbidden")
            assert response.json()["error"]["message"] == f"this needs a key with the scope {needed}"
    assert ask(method, path, headers={"X-API-Key": MADE[needed][1]}).status_code == 200
    assert ask(method, path, headers=KEY[needed] | {"X-Forwarded-For": "1.1.1.1"}).status_code == 200


@pytest.mark.parametrize(("method", "path"), [each for each in ASKED if each[1] in REVIEW])
def test_the_review_page_knows_who_comes_and_opens_itself_to_whom_it_wants(method, path):
    seen = []

    async def page(scope, receive, send):
        seen.append(scope[ADMITTED])
        await everything(scope, receive, send)

    for listens, client in STRANGERS:
        assert ask(method, path, app=page, listens=listens, client=client).status_code == 200
        assert seen.pop() == Visitor() and Visitor().name is None
    for headers in ({"X-Forwarded-For": "1.1.1.1"}, {"Host": "evil.example"}, {"Sec-Fetch-Site": "cross-site"}):
        assert ask(method, path, app=page, listens="127.0.0.1", headers=LOCAL | headers).status_code == 200
        assert seen.pop() == Visitor()
    ask(method, path, app=page, listens="127.0.0.1")
    local = seen.pop()
    assert (local.name, local.trusted) == ("local", False)
    ask(method, path, app=page, headers=KEY["review"])
    reviewer = seen.pop()
    assert (reviewer.name, reviewer.trusted) == ("review", True)
    assert_refused(ask(method, path, headers={"X-API-Key": "wrong"}, listens="127.0.0.1"), 401, "unauthorized")
    assert_refused(ask("DELETE", path), 405, "method_not_allowed")


@pytest.mark.parametrize("path", sorted(REVIEW))
def test_errors_of_the_review_page_may_be_pages(path):
    async def says(scope, receive, send):
        await HTMLResponse("<p>no", 503)(scope, receive, send)

    assert ask("GET" if "GET" in ROUTES[path] else "POST", path, app=says).text == "<p>no"
    assert_refused(ask("GET", "/version", app=says, headers=KEY["read"]), 503, "unavailable")
    policy = ask("GET", "/review", app=says).headers["content-security-policy"]
    assert "unsafe" not in policy and "default-src 'none'" in policy and "form-action 'self'" in policy


@pytest.mark.parametrize("probe", sorted(PROBES))
def test_the_probes_are_open(probe):
    assert ask("GET", probe).status_code == ask("HEAD", probe).status_code == 200
    assert ask("GET", probe, headers={"Host": "10.1.2.3", "X-Forwarded-For": "x"}, client="10.0.0.1").is_success
    assert_refused(ask("POST", probe), 405, "method_not_allowed")


@pytest.mark.parametrize("headers", [
    {"Authorization": "Bearer " + MADE["read"][1][:-1]}, {"Authorization": "Bearer"}, {"Authorization": ""},
    {"Authorization": MADE["read"][1]}, {"Authorization": "Basic " + MADE["read"][1]}, {"X-API-Key": ""},
    {"X-API-Key": "wrong", "Authorization": KEY["admin"]["Authorization"]}, {"X-API-Key": "\xff".encode("latin-1")},
    [("X-API-Key", MADE["read"][1]), ("X-API-Key", MADE["read"][1])],
])
def test_a_key_that_is_given_is_checked_on_loopback_too(headers):
    assert_refused(ask("GET", "/version", headers=headers, listens="127.0.0.1"), 401, "unauthorized")


@pytest.mark.parametrize("header", [
    "X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto", "X-Forwarded", "Forwarded", "X-Real-IP", "Via",
    "CF-Connecting-IP", "CF-Ray", "True-Client-IP", "X-Client-IP", "X-Original-URL", "X-Envoy-External-Address",
])
def test_what_a_proxy_forwards_needs_a_key_on_loopback(header):
    for value in ("127.0.0.1", ""):
        assert_refused(ask("POST", "/score", headers={header: value}, listens="127.0.0.1"), 401, "unauthorized")
    assert ask("POST", "/score", headers={header: "1.2.3.4"} | KEY["score"], listens="127.0.0.1").is_success


@pytest.mark.parametrize("host", ["evil.example", "evil.example:3000", "127.0.0.1.evil.example", "localhost.evil",
                                  "10.0.0.1", "", "[::1", "0.0.0.0", "127.0.0.1, evil.example", "\t"])
def test_another_name_for_this_machine_needs_a_key(host):
    assert_refused(ask("GET", "/version", headers={"Host": host}, listens="127.0.0.1"), 401, "unauthorized")
    assert ask("GET", "/version", headers={"Host": host} | KEY["read"], listens="127.0.0.1").is_success


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:80", "127.0.0.1", "127.9.8.7:1", "[::1]:3000", "a.localhost"])
def test_the_names_of_this_machine_need_none(host):
    headers = {"Host": host, "Origin": f"http://{host}", "Sec-Fetch-Site": "same-origin"}
    assert ask("POST", "/score", headers=headers, listens="127.0.0.1").is_success


@pytest.mark.parametrize("headers", [{"Origin": "https://evil.example"}, {"Origin": "null"}, {"Origin": "file://"},
                                     {"Sec-Fetch-Site": "cross-site"}])
def test_a_page_of_another_site_needs_a_key(headers):
    assert_refused(ask("POST", "/feedback", headers=headers, listens="127.0.0.1"), 401, "unauthorized")


def test_a_request_without_one_host_needs_a_key():
    for raw in ([], [(b"host", b"localhost"), (b"host", b"localhost")]):
        with pytest.raises(Refusal, match="the Host should be"):
            key_of(Asked("GET", "/", Headers(raw=raw), "127.0.0.1"), "127.0.0.1", KEYS.get)


@given(st.text(), st.text(), st.none() | st.text(), st.none() | st.text(),
       st.lists(st.tuples(st.sampled_from(["host", "authorization", "x-api-key", "via", "origin"]), st.text())))
def test_whatever_is_asked_is_refused_or_let_in(method, path, client, listens, headers):
    asked = Asked(method, path, Headers(raw=[(k.encode(), v.encode("latin-1", "replace")) for k, v in headers]), client)
    status = 200
    try:
        admitted(asked, listens, KEYS.get)
    except Refusal as refusal:
        status = refusal.status
    assert status in (401, 403, 404, 405) or (method in ("GET", "HEAD", "OPTIONS") and path in PROBES) or path in REVIEW


@pytest.mark.parametrize(("address", "is_it"), [
    ("127.0.0.1", True), ("127.255.0.9", True), ("::1", True), ("::ffff:127.0.0.1", True), ("0.0.0.0", False),
    ("::", False), ("10.0.0.1", False), ("", False), (None, False), ("localhost", False), ("::ffff:10.0.0.1", False),
])
def test_loopback_is_by_address(address, is_it):
    assert is_loopback(address) is is_it


def test_an_unknown_path_and_a_wrong_method_are_told_to_who_may_ask():
    for path in ("/nowhere", "/score/", "/score//", "/static_content/x", "/schema.json", "/SCORE", "/%00",
                 "/static_content/../x"):
        assert_refused(ask("GET", path), 401, "unauthorized")
        assert_refused(ask("GET", path, headers=KEY["read"]), 404, "not_found")
    response = ask("GET", "/score", headers=KEY["read"])
    assert_refused(response, 405, "method_not_allowed")
    assert response.headers["allow"] == "POST, OPTIONS"
    assert_refused(ask("DELETE", "/version", listens="127.0.0.1"), 405, "method_not_allowed")


def test_head_is_get_and_options_say_what_there_is():
    assert ask("HEAD", "/version", headers=KEY["read"]).status_code == 200
    assert ask("HEAD", "/version", headers=KEY["score"]).status_code == 403
    options = ask("OPTIONS", "/version", headers=KEY["read"])
    assert (options.status_code, options.headers["allow"], options.content) == (204, "GET, HEAD, OPTIONS", b"")
    assert_refused(ask("OPTIONS", "/version", headers=KEY["feedback"]), 403, "forbidden")
    assert_refused(ask("OPTIONS", "/version"), 401, "unauthorized")


@pytest.mark.parametrize("headers", [
    [(b"transfer-encoding", b"chunked"), (b"content-length", b"4")], [(b"transfer-encoding", b"xchunked")],
    [(b"transfer-encoding", b"chunked"), (b"transfer-encoding", b"identity")],
    [(b"transfer-encoding", b"gzip, chunked")],
])
def test_a_body_that_ends_in_two_places_is_refused(headers):
    with pytest.raises(Refusal) as refused:
        framed(Headers(raw=headers))
    assert (refused.value.status, refused.value.headers) == (400, {"Connection": "close"})
    framed(Headers(raw=[(b"transfer-encoding", b"chunked")]))
    framed(Headers(raw=[(b"content-length", b"4")]))


def test_a_websocket_is_refused():
    sent = []

    async def receive():
        return {"type": "websocket.connect"}

    async def send(message):
        sent.append(message)

    scope = {"type": "websocket", "path": "/score", "headers": []}
    anyio.run(Guard(everything, Rules(KEYS.get, Rates(None), "127.0.0.1")), scope, receive, send)
    assert [message["type"] for message in sent] == ["websocket.close"]


# How often


def many(count, rates, headers=(), client="127.0.0.1", listens="127.0.0.1"):
    guard = Guard(everything, Rules(KEYS.get, rates, listens))

    async def send():
        transport = httpx.ASGITransport(app=guard, client=(client, 5))
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as asking:
            return [await asking.get("/version", headers=dict(headers)) for _ in range(count)]

    return anyio.run(send)


def test_so_many_requests_a_minute_of_a_key_or_an_address():
    rates = Rates(3)
    for headers in ({}, KEY["read"], KEY["admin"]):
        *good, last = many(4, rates, headers)
        assert [response.status_code for response in good] == [200] * 3
        assert_refused(last, 429, "too_many_requests")
        assert 1 <= int(last.headers["retry-after"]) <= 60
    assert many(1, rates, KEY["read"], client="10.0.0.9")[0].status_code == 429  # by the key, from anywhere
    assert ask("GET", "/livez", rates=rates).is_success


def test_so_many_failed_keys_of_an_address_and_never_a_good_one_refused_for_them():
    rates = Rates(None, failures=5)
    *failed, last = many(6, rates, {"X-API-Key": "wrong"}, client="10.0.0.9", listens=None)
    assert [response.status_code for response in failed] == [401] * 5 and last.status_code == 429
    assert many(1, rates, KEY["read"], client="10.0.0.9", listens=None)[0].is_success


def test_a_million_addresses_take_no_memory():
    rates = Rates(1)

    async def come(count, base):
        for n in range(count):
            with suppress(Refusal):
                await rates.failure(f"2001:db8:{(base + n) >> 16:x}:{(base + n) & 0xffff:x}::1")

    anyio.run(come, 3_000, 0)
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        anyio.run(come, 3_000, 3_000)
        assert tracemalloc.get_traced_memory()[0] - before < 500_000
    finally:
        tracemalloc.stop()
    addresses = [f"10.{n >> 16}.{n >> 8 & 255}.{n & 255}" for n in range(20_000)]
    assert len({rates.counter(address) for address in addresses}) <= COUNTERS
    assert rates.counter("2001:db8::1") == rates.counter("2001:db8::2") != rates.counter("2001:db8:0:1::1")


# What is sent back


def test_every_answer_has_the_headers_and_an_id():
    for response in (ask("GET", "/version", headers=KEY["read"]), ask("GET", "/version"), ask("GET", "/livez")):
        assert response.headers["x-content-type-options"] == "nosniff"
        assert response.headers["referrer-policy"] == "no-referrer" and response.headers["cache-control"] == "no-store"
        assert "frame-ancestors 'none'" in response.headers["content-security-policy"]
        assert re.fullmatch(r"[0-9a-f]{16}", response.headers["x-request-id"])
        assert "strict-transport-security" not in response.headers
    assert "strict-transport-security" in ask("GET", "/livez", base="https://x").headers
    for given_id, taken in (("a17:b/c", True), ("a b", False), ("x" * 65, False), ("", False), ("a\tb", False)):
        response = ask("GET", "/livez", headers={"X-Request-ID": given_id})
        assert (response.headers["x-request-id"] == given_id) is taken


def test_the_page_runs_its_own_script_and_no_other():
    assert ask("GET", "/", headers=KEY["read"]).headers["content-security-policy"] == PAGE_POLICY
    policy = page_policy("<script src='x'></script><script>go()</script>")
    assert base64.b64encode(hashlib.sha256(b"go()").digest()).decode() in policy
    assert "script-src 'self' 'sha256-" in policy and "unsafe-inline" not in policy.split("style-src")[0]


async def fails(scope, receive, send):
    raise RuntimeError(SECRET)


async def says_503(scope, receive, send):
    await PlainTextResponse(f"not yet, {SECRET}", 503, {"Retry-After": "7"})(scope, receive, send)


async def breaks_off(scope, receive, send):
    await send({"type": "http.response.start", "status": 200, "headers": []})
    raise RuntimeError(SECRET)


def test_what_fails_inside_is_told_in_the_error_format_and_without_a_text(caplog):
    assert_refused(ask("GET", "/version", headers=KEY["read"], app=fails), 500, "internal")
    assert "RuntimeError in /version" in caplog.text
    response = ask("GET", "/readyz", app=says_503)
    assert_refused(response, 503, "unavailable")
    assert response.headers["retry-after"] == "7" and SECRET not in response.text
    sent = []

    async def send(message):
        sent.append(message)

    scope = {"type": "http", "method": "GET", "path": "/livez", "scheme": "http", "client": None, "headers": []}
    anyio.run(Guard(breaks_off, Rules(KEYS.get, Rates(None))), scope, None, send)
    assert [message["status"] for message in sent] == [200]  # nothing is added to what has begun
    starlette = Starlette(routes=[Route("/version", fails)])
    assert_refused(ask("GET", "/version", headers=KEY["read"], app=starlette), 500, "internal")
    assert SECRET not in caplog.text


def test_no_key_no_path_and_no_forged_address_comes_into_the_log(caplog):
    caplog.set_level(logging.DEBUG)
    for headers in ({"Authorization": f"Bearer {SECRET}"}, KEY["read"]):
        ask("GET", f"/{SECRET}%0aFAKE", headers=headers)
        ask("POST", f"/score?{SECRET}", headers=headers, client=SECRET)
    assert "refused an unknown path: 404 not_found" in caplog.text and "from nowhere" in caplog.text
    assert SECRET not in "".join(record.getMessage() for record in caplog.records if "polarscore" in record.name)
    assert MADE["read"][1] not in caplog.text


# How it is put in front


class Outer:
    seen = ()

    def __init__(self, app):
        self.app = app

    async def __call__(self, scope, receive, send):
        Outer.seen += (scope["type"],)
        await self.app(scope, receive, send)


class TimeoutMiddleware(Outer):
    pass


def test_the_guard_goes_outside_of_what_it_was_put_into():
    async def version(request):
        return JSONResponse({})

    rules = Rules(KEYS.get, Rates(None), None)
    app = Starlette(routes=[Route("/version", version)], middleware=[
        Middleware(Outer), Middleware(TimeoutMiddleware), Middleware(Guard, rules=rules)])

    async def run():
        started, messages = [], iter([{"type": "lifespan.startup"}, {"type": "lifespan.shutdown"}])

        async def receive():
            return next(messages)

        async def send(message):
            started.append(message["type"])

        await app({"type": "lifespan", "app": app}, receive, send)
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://x") as client:
            return [(await client.get("/version", headers=headers)).status_code for headers in ({}, KEY["read"])]

    Outer.seen = ()
    assert anyio.run(run) == [401, 200]
    assert Outer.seen == ("lifespan", "lifespan", "http")  # the other is gone, and what is refused does not come to it


def test_inside_it_lets_pass_only_what_was_admitted():
    assert_refused(ask("GET", "/version", app=Guard(everything, Rules(KEYS.get, Rates(None)))), 401, "unauthorized")
    inner = Guard(everything, Rules(lambda given: None, Rates(None)))
    assert ask("GET", "/version", headers=KEY["read"], app=inner).status_code == 200


def test_the_layers_stay_but_for_the_timeout():
    inner = Outer(everything)
    assert without_timeout(Outer(TimeoutMiddleware(TimeoutMiddleware(inner)))).app is inner


def test_an_answer_to_a_body_that_is_not_read_closes_and_arrives():
    sent, read = [], []

    async def receive():
        read.append(1)
        return {"type": "http.request", "body": b"x" * 1000, "more_body": len(read) < 5}

    async def send(message):
        sent.append(message)

    def scope(length):
        return {"type": "http", "method": "POST", "path": "/nowhere", "scheme": "http", "client": None,
                "headers": [(b"content-length", length)]}

    guard = Guard(everything, Rules(KEYS.get, Rates(None)))
    anyio.run(guard, scope(b"%d" % (10 * lingering.LITTLE)), receive, send)
    assert (b"connection", b"close") in sent[0]["headers"] and len(read) == 5
    assert [message.get("more_body", False) for message in sent[1:]] == [True, False]
    sent.clear(), read.clear()
    anyio.run(guard, scope(b"5000"), receive, send)
    assert len(sent) == 2 and not read and (b"connection", b"close") not in sent[0]["headers"]


# A service that is started


@pytest.fixture(scope="module")
def bundled(tmp_path_factory):
    """A state with a bundle that nobody signed, and its tag."""
    folder = write_version(tmp_path_factory.mktemp("guarded") / "v")
    state = State.from_environment({"POLARSCORE_HOME": str(tmp_path_factory.mktemp("state")),
                                    "POLARSCORE_KEYS": str(tmp_path_factory.mktemp("keys"))}).prepare()
    return state, build(folder, "Reviews", "4", {"stage": "production"}, state)


@pytest.fixture(scope="module")
def served(bundled):
    """The same, served as in a container: nobody told it where it listens. Gives a key of each scope, too."""
    state, tag = bundled
    keys = keys_path(state, {})
    now = datetime.now(UTC)
    made = {scope: issued(scope, [scope], now) for scope in SCOPES}
    change_keys(keys, lambda _: tuple(kept for kept, _ in made.values()))
    with ExitStack() as stack:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(launch, "LISTEN", "POLARSCORE_UNHEARD")
            patch.delenv("POLARSCORE_LISTEN", raising=False)
            patch.delenv(API_KEYS, raising=False)
            url = stack.enter_context(launch.running(tag, state))
        client = stack.enter_context(httpx.Client(base_url=url, timeout=30, trust_env=False))
        yield client, {scope: key for scope, (_, key) in made.items()}, keys, state


@pytest.mark.slow
def test_a_served_bento_answers_no_route_without_a_key(served):
    client, keys, _, _ = served
    for path in [*ROUTES, "/schema.json", "/static_content/main.css", "/nowhere"]:
        for method in ("GET", "POST", "PUT", "HEAD", "OPTIONS"):
            response = client.request(method, path)
            if path in PROBES:
                assert response.status_code == {"GET": 200, "HEAD": 200, "OPTIONS": 204}.get(method, 405)
                continue
            if path in REVIEW:
                here = method in ROUTES[path] or (method == "HEAD" and "GET" in ROUTES[path])
                expected = {"/review": (401,), "/review/plot.svg": (401,)}.get(path, (415,))
                assert response.status_code in ((204,) if method == "OPTIONS" else expected if here else (405,))
                continue
            assert response.status_code in (401, 429)  # so many failures of one address are told so
            if method != "HEAD":
                assert response.json()["error"]["type"] in ("unauthorized", "too_many_requests")
    for path in ("/version", "/metrics", "/docs.json", "/", "/static_content/swagger-ui.css"):
        assert client.get(path, headers={"X-API-Key": keys["read"]}).status_code == 200
        assert client.get(path, headers={"X-API-Key": keys["score"]}).status_code == 403
    scored = client.post("/score", json={"items": [{"text": "a good film", "answer": 1}]},
                         headers={"Authorization": f"Bearer {keys['score']}"})
    assert scored.status_code == 200 and scored.headers["x-request-id"]
    assert 'polarscore_guard_refusals_total{type="unauthorized"}' in client.get(
        "/metrics", headers={"X-API-Key": keys["read"]}).text


@pytest.mark.slow
def test_keys_of_a_served_bento_change_while_it_runs(served):
    client, keys, path, state = served
    now = datetime.now(UTC)
    fresh = {}

    def change(kept):
        changed, _, fresh["key"] = rotated(kept, "score", now, timedelta(hours=1))
        return revoked(changed, "feedback", now)

    change_keys(path, change)

    def status(key, route="/score"):
        headers = {"X-API-Key": key, "content-type": "application/json"}
        return client.post(route, content=b"{", headers=headers).status_code

    assert status(keys["score"]) == status(fresh["key"]) == 400  # both are let in
    assert status(keys["feedback"], "/feedback") in (401, 429)
    log = "".join(file.read_text() for file in (state.home / "logs").iterdir())
    assert f"the API keys were read again: {len(SCOPES) + 1}" in log
    assert not any(key[20:] in log for key in [*keys.values(), *fresh.values()])


@pytest.mark.slow
def test_what_is_no_http_is_told_so_in_the_error_format(served):
    client, *_ = served
    both = b"POST /score HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\nabc"
    for raw, status in ((b"nonsense\r\n\r\n", 400), (b"GET / HTTP/1.1\r\nX: " + b"a" * 400_000, 431), (both, 400),
                        (b"GET /score HTTP/1.1\r\nHost : x\r\n\r\n", 400),
                        (b"CONNECT a:1 HTTP/1.1\r\nHost: x\r\n\r\n", 400)):
        with socket.create_connection(("127.0.0.1", client.base_url.port), timeout=20) as connection:
            connection.sendall(raw)
            answer = connection.recv(4000)
        assert answer.startswith(b"HTTP/1.1 %d " % status), (raw[:60], answer)
        assert b'{"error":{"type":' in answer


def test_a_service_that_others_reach_needs_a_key_to_start(bundled, monkeypatch, tmp_path):
    state, _ = bundled
    monkeypatch.setenv(API_KEYS, str(tmp_path / "keys.json"))
    started = []
    monkeypatch.setattr(launch.os, "execve", lambda *words: started.append(words))
    for host in ("0.0.0.0", "::"):
        with pytest.raises(InputError, match=r"polarscore apikey create NAME --scope score\.$"):
            launch.serve(None, host, 3000, state)
    (tmp_path / "keys.json").write_text("{")
    with pytest.raises(InputError, match="are damaged"):
        launch.serve(None, "127.0.0.1", 3000, state)
    (tmp_path / "keys.json").unlink()
    kept, _ = issued("web", ["score"], datetime.now(UTC))
    change_keys(tmp_path / "keys.json", lambda keys: (kept,))
    monkeypatch.setattr(launch, "_refuse_taken", lambda host, port: None)
    launch.serve(None, "0.0.0.0", 3000, state)
    (_, _, environment), = started
    assert environment["POLARSCORE_LISTEN"] == "0.0.0.0" and environment[API_KEYS] == str(tmp_path / "keys.json")
    change_keys(tmp_path / "keys.json", lambda keys: revoked(keys, "web", datetime.now(UTC)))
    with pytest.raises(InputError, match="none that is usable"):
        launch.serve(None, "0.0.0.0", 3000, state)


def test_keys_may_be_needed_always(bundled, monkeypatch, tmp_path):
    state, _ = bundled
    monkeypatch.setenv(API_KEYS, str(tmp_path / "keys.json"))
    named, started = tmp_path / "service.toml", []
    named.write_text('keys = "always"\n')
    environment = {"POLARSCORE_HOME": str(tmp_path), "POLARSCORE_LISTEN": "127.0.0.1"}
    assert Rules.from_environment(environment).listens == "127.0.0.1"
    rules = Rules.from_environment(environment | {"POLARSCORE_SERVICE": str(named)})
    asked = Asked("GET", "/version", Headers({"host": "127.0.0.1"}), "127.0.0.1")
    assert admitted(asked, "127.0.0.1", rules.find) == Visitor(local=True)
    with pytest.raises(Refusal) as refusal:
        admitted(asked, rules.listens, rules.find)
    assert refusal.value.status == 401
    monkeypatch.setattr(launch.os, "execve", lambda *words: started.append(words))
    monkeypatch.setattr(launch, "_refuse_taken", lambda host, port: None)
    with pytest.raises(InputError, match=r'keys = "always", so every request needs an API key.*create NAME'):
        launch.serve(None, "127.0.0.1", 3000, state, config=named)
    monkeypatch.setenv("POLARSCORE_SERVICE", str(named))
    with pytest.raises(InputError, match='keys = "always"'):
        launch.serve(None, "127.0.0.1", 3000, state)
    kept, _ = issued("web", ["score"], datetime.now(UTC))
    change_keys(tmp_path / "keys.json", lambda keys: (kept,))
    launch.serve(None, "127.0.0.1", 3000, state)
    assert len(started) == 1
    named.write_text('keys = "sometimes"\n')
    with pytest.raises(InputError, match="keys"):
        launch.serve(None, "127.0.0.1", 3000, state)


def test_a_service_that_is_started_has_a_time_to_stop_and_threads_that_sleep(bundled, monkeypatch):
    from serving.service import DRAIN_S

    state, _ = bundled
    started = []
    monkeypatch.setattr(launch.os, "execve", lambda *words: started.append(words[1:]))
    monkeypatch.setattr(launch, "_refuse_taken", lambda host, port: None)
    for name in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT"):
        monkeypatch.delenv(name, raising=False)
    launch.serve(None, "127.0.0.1", 3000, state)
    monkeypatch.setenv("GOMP_SPINCOUNT", "5")
    launch.serve(None, "127.0.0.1", 3000, state)
    monkeypatch.setenv("OMP_WAIT_POLICY", "active")
    launch.serve(None, "127.0.0.1", 3000, state)
    assert [environment.get("OMP_WAIT_POLICY") for _, environment in started] == ["passive", None, "active"]
    command = started[0][0]
    assert command[command.index("--timeout-graceful-shutdown") + 1] == str(launch.ANSWER_S)
    assert launch.STOP_S > launch.ANSWER_S + batcher.CLOSE_S + following.CLOSE_S + DRAIN_S
    assert batcher.CLOSE_S > streaming.STOPPING_S


def test_a_configuration_is_checked_and_handed_over(bundled, monkeypatch, tmp_path):
    state, _ = bundled
    started = []
    monkeypatch.setattr(launch.os, "execve", lambda *words: started.append(words))
    monkeypatch.setattr(launch, "_refuse_taken", lambda host, port: None)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "service.toml").write_text("[limits]\nbodies = 3\n")
    with pytest.raises(InputError, match="bodies"):
        launch.serve(None, "127.0.0.1", 3000, state, config=tmp_path / "service.toml")
    (tmp_path / "service.toml").write_text("[limits]\nbody = 3\n")
    named = (tmp_path / "service.toml").relative_to(tmp_path)
    launch.serve(None, "127.0.0.1", 3000, state, config=named)
    monkeypatch.setenv("POLARSCORE_SERVICE", "service.toml")
    launch.serve(None, "127.0.0.1", 3000, state)
    assert [environment["POLARSCORE_SERVICE"] for *_, environment in started] == [str(tmp_path / "service.toml")] * 2
    assert started[0][2]["POLARSCORE_LISTEN"] == "127.0.0.1"
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    launch.serve(None, "127.0.0.1", 3000, state)
    assert started[2][2]["OMP_NUM_THREADS"] == "3"


# Connections


def test_a_connection_has_a_time_until_it_asks(monkeypatch):
    assert connections.most_connections() >= 16
    monkeypatch.setattr(connections, "HEAD_S", 0.3)
    seen = []

    async def serve(app_calls):
        async def app(scope, receive, send):
            if scope["type"] == "http":
                app_calls.append(scope["path"])
                await asyncio.sleep(0.5)  # longer than a head may take
                await JSONResponse({})(scope, receive, send)

        config = uvicorn.Config(app, http=connections.Connection, ws="none", lifespan="off", log_config=None)
        listening = socket.create_server(("127.0.0.1", 0))
        server = uvicorn.Server(config)
        running = asyncio.create_task(server.serve(sockets=[listening]))
        port = listening.getsockname()[1]
        while not server.started:
            await asyncio.sleep(0.01)
        for said in (b"", b"GET / HT", b"GET /whole HTTP/1.1\r\nHost: x\r\n\r\n"):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            began = time.monotonic()
            writer.write(said)
            first = await reader.readline()
            seen.append((first, time.monotonic() - began))
            writer.close()
        server.should_exit = True
        await running

    calls = []
    anyio.run(serve, calls)
    (silent, _), (half, waited), (whole, _) = seen
    assert silent == b"" and half.startswith(b"HTTP/1.1 408") and 0.2 < waited < 5
    assert whole.startswith(b"HTTP/1.1 200") and calls == ["/whole"]


def test_rules_are_those_of_the_process(tmp_path):
    rules = Rules.from_environment({"POLARSCORE_HOME": str(tmp_path), "POLARSCORE_LISTEN": "127.0.0.1"})
    assert rules.listens == "127.0.0.1" and rules.find("x") is None
    rules.count("unauthorized")
    assert replace(rules, listens=None).listens is None
    (tmp_path / "api-keys.json").write_text("{")
    with pytest.raises(InputError, match="damaged"):
        Rules.from_environment({"POLARSCORE_HOME": str(tmp_path)})
