"""What a hostile client may send, and what a service must make of it: used by the tests and by the benchmark.

Every text has SECRET in it, so that a log or an error that repeats one is found.
"""

import gzip
import json
import re
import socket
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np

SECRET = "Marzipan-Krokodil"
PATIENCE_S = 90  # longer than a service may take to give a client up


@dataclass(frozen=True)
class Sent:
    """A request. name: of its kind."""

    name: str
    content: bytes
    path: str = "/score"
    method: str = "POST"
    headers: tuple[tuple[str, str], ...] = (("content-type", "application/json"),)


def item(**changes: Any) -> dict[str, Any]:
    """An item as it should be, but for the changes."""
    return {"text": f"a film about {SECRET}", "answer": 1} | changes


def _json(**changes: Any) -> bytes:
    return json.dumps({"items": [item(**changes)]}).encode()


def _raw(text: str) -> bytes:
    return ('{"items": [{"text": "' + SECRET + '", ' + text + "}]}").encode()


def heavy() -> Iterator[Sent]:
    """The largest ones, each of which costs both sides something."""
    yield Sent("10 million characters", _json(text=SECRET + "x" * 10**7))
    yield Sent("10 million characters, wide", _json(text=SECRET + "\U0001f600" * 10**6))
    yield Sent("100,000 items", json.dumps({"items": [item()] * 100_000}).encode())
    yield Sent("100,000 empty items", b'{"items": [' + b"{}," * 99_999 + b"{}]}")
    yield Sent("100,000 votes", _json(votes={f"s{n}": 1 for n in range(100_000)}))
    yield Sent("100,000 spans", _json(spans=[[0, 3]] * 100_000))
    yield Sent("100,000 keys", _json(**{f"k{n}": 1 for n in range(100_000)}))
    yield Sent("a body of 40 MiB", b" " * (40 * 2**20))
    yield Sent("a number of 5 million digits", _raw('"answer": ' + "9" * 5_000_000))
    yield Sent("a million brackets", b"[" * 10**6)
    yield Sent("a million objects", b'{"items":' * 10**6)
    yield Sent("a gzip bomb", gzip.compress(b" " * 10**8, 1), headers=(
        ("content-type", "application/json"), ("content-encoding", "gzip")))
    yield Sent("a deflate bomb", zlib.compress(b" " * 10**8, 1), headers=(
        ("content-type", "application/json"), ("content-encoding", "deflate")))
    yield Sent("a gzip bomb that says nothing", gzip.compress(b" " * 10**8, 1))
    yield Sent("100,000 lines", (json.dumps(item()) + "\n").encode() * 100_000, headers=(
        ("content-type", "application/jsonl"),))
    yield Sent("a line of 10 million characters", _json(text="x" * 10**7), headers=(
        ("content-type", "application/jsonl"),))


def light() -> Iterator[Sent]:
    """One of each small kind."""
    texts = {"empty": "", "blank": " \t\n\u2003\u00a0", "only zero width": "\u200b\u2060", "null characters": "\0" * 50,
             "control characters": "".join(map(chr, range(32))) + SECRET, "one character": "x",
             "a bell": SECRET + "\x07", "right to left": "\u202e" + SECRET, "combining": "e" + "\u0301" * 5_000,
             "emoji": "\U0001f469\u200d" * 500, "noncharacter": SECRET + "\uffff\ufdd0",
             "html": f"<script>{SECRET}</script>", "regex": "a" * 5_000 + "!",
             "line ends": f"{SECRET}\r\nHTTP/1.1 200 OK\r\n\r\n", "format": "%s%n{0}" + SECRET,
             "longest": "x" * 100_000,
             "no spaces": SECRET * 3_000, "sql": f"'; DROP TABLE scores; -- {SECRET}"}
    for name, text in texts.items():
        yield Sent(f"text: {name}", _json(text=text))
        yield Sent(f"id: {name}", _json(id=text.replace(SECRET, "x")))  # an id is told back, and its place in errors
    for name, body in {
        "nothing": b"", "no items": b'{"items": []}', "null": b"null", "a list": b"[]", "a string": b'"x"',
        "half": b'{"it', "twice": b"{}{}", "a byte order mark": b"\xef\xbb\xbf" + _json(),
        "utf-16": _json().decode().encode("utf-16"), "no utf-8": _json()[:-4] + b"\xff\xfe",
        "overlong utf-8": b'{"items": [{"text": "\xc0\xaf", "answer": 1}]}',
        "lone surrogate": _raw('"id": "\\ud800", "answer": 1'), "a pair": _raw('"id": "\\ud83d\\ude00", "answer": 1'),
        "NaN": _raw('"answer": NaN'), "Infinity": _raw('"answer": -Infinity'), "1e999": _raw('"answer": 1e999'),
        "huge int": _raw('"answer": ' + "9" * 400), "many digits": _raw('"answer": ' + "9" * 5_000),
        "-0": _raw('"answer": -0'), "1.0": _raw('"answer": 1.0'), "true": _raw('"answer": true'),
        "deep": b"[" * 5_000 + b"]" * 5_000, "comments": b"/**/{}",
        "deep votes": _raw('"answer": 1, "votes": ' + '{"a":' * 200 + "1" + "}" * 200),
        "duplicate keys": _raw('"answer": 1, "answer": 0'), "__proto__": _json(__proto__={"x": 1}),
        "duplicate ids": json.dumps({"items": [item(id="a"), item(id="a")]}).encode(),
        "single quotes": b"{'items': []}", "trailing comma": b'{"items": [1,]}',
        "form": b"items=1&text=" + SECRET.encode(), "xml": b"<!ENTITY x SYSTEM 'file:///'>",
        "multipart": b"--x\r\ncontent-disposition: form-data; name=items\r\n\r\n1\r\n--x--",
        "pickle": b"\x80\x04\x95\x00", "yaml": b"items: !!python/object/apply:os.system [ls]",
    }.items():
        yield Sent(f"body: {name}", body)
        yield Sent(f"feedback: {name}", body, "/feedback")
        yield Sent(f"lines: {name}", body, headers=(("content-type", "application/jsonl"),))
    for value in ("purple", "", "x" * 10_000, 2, -2, 10**30, 1.5, [], {}, [SECRET], "\0", "negative\0"):
        yield Sent("an unknown class", _json(answer=value))
        yield Sent("an unknown vote", _json(votes={"friend": value}))
        yield Sent("an unknown label", json.dumps({"id": "a", "label": value}).encode(), "/feedback")
    for spans in ([[0, 10**9]], [[3, 3]], [[-1, 3]], [[5, 2]], [[0, 3], [2, 5]], [[0, 3, 4]], [[]], [[None, 1]], "0-3",
                  [["0", "3"]], [[0.5, 3]], [[10**30, 10**31]], [[0, 3]] * 1_000, {"0": 3}):
        yield Sent("spans", _json(spans=spans))
    for votes in ({"stranger": 1}, {"": 1}, {"x" * 10_000: 1}, {"friend": {"friend": 1}}, [], "friend", {"\0": 0}):
        yield Sent("votes", _json(votes=votes))
    for kind in ("text/plain", "application/xml", "", "application/json; charset=utf-16", "multipart/form-data",
                 "application/x-www-form-urlencoded", "x" * 5_000, "application/json, text/plain", "*/*", ";;;"):
        yield Sent("a content type", _json(), headers=(("content-type", kind),))
    for encoding in ("gzip", "br", "zstd", "deflate, gzip", "chunked", "identity, gzip", "x" * 1_000):
        yield Sent("a content encoding", _json(), headers=(("content-encoding", encoding),))
    for method in ("GET", "PUT", "DELETE", "PATCH", "OPTIONS", "HEAD", "TRACE", "PROPFIND"):
        yield Sent("a method", _json(), method=method)
        yield Sent("a method", b"", "/version", method)
    for path in ("/nowhere", "/score/", "/score?" + "a=b&" * 5_000, "/../../etc/passwd", "/%2e%2e/%2e%2e/etc/passwd",
                 "/static_content/..%2f..%2fetc/passwd", "/score%00", "/" + "x" * 10_000, "/score;x=1", "/SCORE",
                 "/%0a%0dX", "/static_content/" + SECRET, "/%ff%fe", "/score#x", "/*", "/.git/config", "/metrics/"):
        yield Sent("a path", _json(), path)
        yield Sent("a path", b"", path, "GET")
    for headers in ((("x-" + "h" * 5_000, "x"),), tuple((f"x-{n}", "x" * 100) for n in range(300)),
                    (("cookie", "x" * 30_000),), (("x-request-id", SECRET + " x"),),
                    (("x-forwarded-for", "127.0.0.1," * 500),),
                    (("authorization", "Bearer " + SECRET),), (("x-api-key", SECRET * 500),), (("range", "bytes=0-"),),
                    (("accept", "text/xml"),), (("origin", "https://evil.example"),), (("host", "evil.example"),),
                    (("te", "trailers"),)):
        yield Sent("headers", _json(), headers=(("content-type", "application/json"), *headers))


def mutated(count: int, seed: int = 0) -> Iterator[Sent]:
    """Good bodies with bytes changed, cut out, doubled and put in: most are no JSON any more, some are."""
    chance = np.random.default_rng(seed)
    good = [_json(id="a", votes={"friend": 0}, spans=[]), _json(answer=None),
            json.dumps({"id": "a", "label": 1}).encode()]
    telling = [b'"', b"\\", b"{", b"}", b"[", b"]", b",", b":", b"\\u", b"null", b"1e9", b"-", b"\0", b"\xff", b"NaN"]
    for _ in range(count):
        which = int(chance.integers(len(good)))
        body = bytearray(good[which])
        for _ in range(int(chance.integers(1, 6))):
            at = int(chance.integers(len(body) + 1))
            match int(chance.integers(4)):
                case 0:
                    body[at:at + 1] = bytes(chance.integers(0, 256, 1, dtype=np.uint8))
                case 1:
                    del body[at:at + int(chance.integers(1, 9))]
                case 2:
                    body[at:at] = body[at:at + int(chance.integers(1, 30))]
                case _:
                    body[at:at] = telling[int(chance.integers(len(telling)))]
        yield Sent("mutated", bytes(body), "/feedback" if which == 2 else "/score")


def wires(host: str) -> Iterator[tuple[str, list[bytes]]]:
    """What no HTTP client would send: bytes for a socket, in pieces between which it waits a moment."""
    head = f"POST /score HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\n".encode()
    good = _json()
    yield "no HTTP", [b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + SECRET.encode()]
    yield "nothing but line ends", [b"\r\n" * 5_000]
    yield "HTTP/0.9", [b"GET /\r\n\r\n"]
    yield "HTTP/9.9", [f"GET / HTTP/9.9\r\nHost: {host}\r\n\r\n".encode()]
    yield "the preface of HTTP/2", [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"]
    yield "an upgrade to HTTP/2", [head + b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n"
                                   b"HTTP2-Settings: AAMAAABkAAQAAP__\r\nContent-Length: 0\r\n\r\n"]
    yield "an upgrade to a websocket", [
        f"GET /score HTTP/1.1\r\nHost: {host}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
        "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n".encode()]
    yield "both lengths", [head + b"Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET /"
                           + SECRET.encode()]
    yield "two lengths", [head + b"Content-Length: 4\r\nContent-Length: 400\r\n\r\nabcd"]
    yield "a length below zero", [head + b"Content-Length: -4\r\n\r\nabcd"]
    yield "a length with a sign", [head + b"Content-Length: +4\r\n\r\nabcd"]
    yield "a length of 30 digits", [head + b"Content-Length: " + b"9" * 30 + b"\r\n\r\nabcd"]
    yield "a length in letters", [head + b"Content-Length: four\r\n\r\nabcd"]
    yield "an obscure encoding", [head + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n"]
    yield "two encodings", [head + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n"]
    yield "a space before the colon", [head + b"Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n"]
    yield "a folded header", [head + b"Transfer-Encoding:\r\n chunked\r\n\r\n0\r\n\r\n"]
    yield "bare line feeds", [(head + b"Content-Length: %d\r\n\r\n" % len(good)).replace(b"\r\n", b"\n") + good]
    yield "a control character in a header", [head + b"X: a\x01b\r\nContent-Length: 0\r\n\r\n"]
    yield "it expects what there is not", [head + b"Expect: 200-maybe\r\nContent-Length: 2\r\n\r\n{}"]
    yield "a null byte in a header", [head + b"X: a\0b\r\nContent-Length: 0\r\n\r\n"]
    yield "a header without a name", [head + b": x\r\nContent-Length: 0\r\n\r\n"]
    yield "a chunk size that is none", [head + b"Transfer-Encoding: chunked\r\n\r\nzz\r\nabc\r\n0\r\n\r\n"]
    yield "a chunk size of 20 digits", [head + b"Transfer-Encoding: chunked\r\n\r\n" + b"f" * 20 + b"\r\nabc"]
    yield "a chunk extension without end", [head + b"Transfer-Encoding: chunked\r\n\r\n1;" + b"x" * 100_000]
    yield "trailers without end", [head + b"Transfer-Encoding: chunked\r\n\r\n0\r\n", *[b"X: y\r\n" * 5_000] * 10]
    yield "headers without end", [head, *[b"X-Flood: " + b"y" * 50_000 + b"\r\n"] * 50]
    yield "100,000 short headers", [head, b"a:b\r\n" * 100_000, b"\r\n"]
    yield "a target without end", [b"GET /" + b"x" * 60_000] + [b"x" * 60_000] * 50
    yield "an absolute target", [f"GET http://evil.example/version HTTP/1.1\r\nHost: {host}\r\n\r\n".encode()]
    yield "a target of another scheme", [f"GET file:///etc/passwd HTTP/1.1\r\nHost: {host}\r\n\r\n".encode()]
    yield "a star", [f"OPTIONS * HTTP/1.1\r\nHost: {host}\r\n\r\n".encode()]
    yield "CONNECT", [f"CONNECT evil.example:443 HTTP/1.1\r\nHost: {host}\r\n\r\n".encode()]
    yield "two hosts", [f"GET /version HTTP/1.1\r\nHost: {host}\r\nHost: evil.example\r\n\r\n".encode()]
    yield "no host", [b"GET /version HTTP/1.1\r\n\r\n"]
    yield "100 requests at once", [f"GET /version HTTP/1.1\r\nHost: {host}\r\n\r\n".encode() * 100]
    yield "a request within a body", [head + b"Content-Length: 60\r\n\r\n"
                                      + f"GET /{SECRET} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode()]
    yield "more than was announced", [head + b"Content-Length: 2\r\n\r\n{}" + good]
    yield "it waits for 100 Continue", [head + b"Expect: 100-continue\r\nContent-Length: %d\r\n\r\n" % len(good), good]
    yield "it waits for 100 Continue, at another path", [
        head.replace(b"/score", b"/nowhere") + b"Expect: 100-continue\r\nContent-Length: 50000000\r\n\r\n"]


ANSWER = re.compile(rb"HTTP/1\.[01] (\d{3}) ")


def speak(port: int, parts: list[bytes], pause: float = 0.0, wait: float = 20.0) -> bytes:
    """Send the pieces, then read until the service closes or says nothing for a while; what it said."""
    said = b""
    with socket.create_connection(("127.0.0.1", port), timeout=wait) as connection:
        with suppress(OSError):  # it may have closed
            for part in parts:
                connection.sendall(part)
                if pause:
                    time.sleep(pause)
        with suppress(OSError):
            said = connection.recv(65536)
        return said + _rest(connection)


def _rest(connection: socket.socket) -> bytes:
    """What comes until the service closes or says nothing for a while: head and body of an answer may come apart."""
    said = b""
    connection.settimeout(0.5)
    with suppress(OSError):  # which a timeout is
        while chunk := connection.recv(65536):
            said += chunk
    return said


def endless(port: int, host: str, path: str = "/score") -> tuple[bytes, float, int]:
    """A chunked body that goes on for as long as it is let: the answer, the seconds, the bytes sent."""
    began, sent, said = time.monotonic(), 0, b""
    with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_S) as connection:
        connection.sendall(f"POST {path} HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\n"
                           "Transfer-Encoding: chunked\r\n\r\n".encode())
        with suppress(OSError):
            while time.monotonic() - began < PATIENCE_S:
                connection.sendall(b"10000\r\n" + b" " * 65536 + b"\r\n")
                sent += 65536
        said = _rest(connection)
    return said, time.monotonic() - began, sent


def trickle(port: int, host: str, every: float, body: bool) -> tuple[bytes, float]:
    """A request of which a byte comes now and then, in its head or in its body: the answer, and the seconds."""
    began = time.monotonic()
    head = f"POST /score HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\nContent-Length: 1000\r\n"
    with socket.create_connection(("127.0.0.1", port), timeout=every) as connection:
        connection.sendall(head.encode() + (b"\r\n" if body else b""))
        while time.monotonic() - began < PATIENCE_S:
            try:
                said = connection.recv(65536)
                return said + _rest(connection), time.monotonic() - began
            except TimeoutError:
                pass
            except OSError:
                break
            try:
                connection.sendall(b" " if body else b"x")
            except OSError:
                break
    return b"", time.monotonic() - began


def wrong_with(status: int, content: bytes, kind: str) -> str | None:
    """What is wrong with an answer; None: nothing. An overloaded service may say so."""
    if SECRET.encode() in content:
        return f"{status} repeats the text"
    if status < 400:
        return None
    try:
        error = json.loads(content)["error"]
        fits = set(error) == {"type", "message", "where"} and error["type"] and error["message"]
    except (ValueError, TypeError, KeyError):
        fits = False
    if not fits or not kind.startswith("application/json"):
        return f"{status} is not in the error format: {content[:80]!r}"
    if status >= 500 and not (status == 503 and error["type"] == "overloaded"):
        return f"{status} {error['type']}"
    return None


def wrong_on_the_wire(said: bytes) -> str | None:
    """What is wrong with what a socket said. Nothing at all is an answer, too: it has closed."""
    if SECRET.encode() in said:
        return "repeats the text"
    for found in ANSWER.finditer(said):
        status = int(found[1])
        if status >= 500 and b'"overloaded"' not in said:
            return f"{status}"
        if status >= 400 and b'{"error":{"type":' not in said[found.end():]:
            return f"{status} is not in the error format"
    return None if not said or ANSWER.match(said) else f"no HTTP: {said[:60]!r}"


def send(client: Any, sent: Sent) -> str | None:
    """Send a request by an httpx client; what is wrong with the answer, None: nothing."""
    headers = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in sent.headers]
    response = client.request(sent.method, sent.path, content=sent.content, headers=headers)
    if sent.method == "HEAD" and response.status_code < 500:
        return None
    return wrong_with(response.status_code, response.content, response.headers.get("content-type", ""))


def from_schema(description: dict[str, Any], count: int, ask: Callable[[Any], str | None]) -> tuple[int, list[str]]:
    """About so many requests that schemathesis makes of an OpenAPI description, half of them against it.

    ask: sends a case and says what is wrong. Gives how many were sent, and what was wrong.
    """
    import schemathesis
    from hypothesis import HealthCheck, Phase, given, settings

    operations = [found.ok() for found in schemathesis.openapi.from_dict(description).get_all_operations()]
    modes = (schemathesis.GenerationMode.POSITIVE, schemathesis.GenerationMode.NEGATIVE)
    done, wrong = 0, []
    for operation in operations:
        share = count * (9 if operation.method.upper() == "POST" else 1) // 10 // 2
        peers = sum((other.method.upper() == "POST") == (operation.method.upper() == "POST") for other in operations)
        for mode in modes:
            @settings(max_examples=max(1, share // peers), database=None, derandomize=True, deadline=None,
                      phases=[Phase.generate], suppress_health_check=list(HealthCheck))
            @given(operation.as_strategy(generation_mode=mode))
            def one(case: Any) -> None:
                nonlocal done
                done += 1
                if (problem := ask(case)) is not None:
                    wrong.append(f"{case.method} {case.path}: {problem}")

            try:
                one()
            except Exception as error:
                if type(error).__name__ not in ("Unsatisfiable", "SerializationNotPossible"):
                    raise
    return done, wrong
