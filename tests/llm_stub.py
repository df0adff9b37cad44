"""A stub of a server of chat completions that speaks the real protocol over HTTP/1.1, as fast as asyncio allows.

In a thread of this process, with any functions (for tests):

    with stub(answer=lambda body: "spam", fault=lambda number, body: Fault(429, {"retry-after": "1"}) if number < 3
              else None) as server:
        server.url          # http://127.0.0.1:PORT/v1
        server.bodies       # the bodies of all requests, as dicts, in their order
        server.asked        # Counter: how often each prompt (the last message) was asked
        server.delivered    # Counter: how often its answer was written to the connection, all of it

`answer`: from a request's body to the text of the reply, or to a whole message as a dict. `fault`: from the number of
the request (0, 1, ...) and its body to a Fault, or None for an answer. `key`, `model`: 401 and 404 for another one.
`latency`: seconds between a request and its answer. `logprobs=False`: 400 for a request with `logprobs`. `tls`: speak
HTTPS, by that context.

In a process of its own, with faults by name (for benchmarks; the same counters by `counts()`):

    with stub_process(latency=0.05, faults="none") as server:
        server.url, server.counts()       # Counts
"""

import argparse
import asyncio
import json
import random
import ssl
import subprocess
import sys
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

Body = dict[str, Any]
WORDS = {200: "OK", 400: "Bad Request", 401: "Unauthorized", 404: "Not Found", 429: "Too Many Requests",
         500: "Internal Server Error", 503: "Service Unavailable"}
BUSY_EVERY_S, BUSY_S = 5.0, 1.0  # of the storm of 429


@dataclass(frozen=True)
class Fault:
    """What is sent instead of an answer. content: bytes as they are, or a value to send as JSON. how: `whole`; `half`
    of it, then the connection breaks; `drop`, nothing but that; `hang`, nothing at all; `trickle`, a byte at a time,
    never all."""

    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    content: Any = b""
    how: str = "whole"


@dataclass
class Counts:
    """asked, delivered: by prompt. most: requests under way at a time. refused: answered with a fault. waited: seconds
    from the whole of a request to its answer, of all together; later than `latency` where the machine is busy."""

    asked: Counter = field(default_factory=Counter)
    delivered: Counter = field(default_factory=Counter)
    most: int = 0
    refused: int = 0
    waited: float = 0.0


def prompt_of(body: Body) -> str:
    """What a prompt is counted by: its last message."""
    return body["messages"][-1]["content"]


def completion(body: Body, said: str | dict[str, Any], logprobs: bool = True) -> Body:
    """A whole completion around a text, or around a message."""
    message = {"role": "assistant", "content": said} if isinstance(said, str) else {"role": "assistant"} | said
    choice: Body = {"index": 0, "message": message, "finish_reason": "stop", "logprobs": None}
    if logprobs and body.get("logprobs"):
        choice["logprobs"] = {"content": [
            {"token": token, "logprob": -0.1, "bytes": None, "top_logprobs": []} for token in str(said).split(" ")]}
    used = [sum(len(str(each["content"]).split()) for each in body["messages"]), len(str(said).split())]
    return {"id": "stub", "object": "chat.completion", "created": 0, "model": body["model"], "choices": [choice],
            "usage": {"prompt_tokens": used[0], "completion_tokens": used[1], "total_tokens": sum(used)}}


def error(message: str, **more: Any) -> Body:
    """An error as OpenAI sends it."""
    return {"error": {"message": message, "type": "invalid_request_error", "param": None, "code": None} | more}


@dataclass
class Stub:
    """The server's settings and what it saw."""

    answer: Callable[[Body], str | dict[str, Any]] = lambda body: "ham"
    fault: Callable[[int, Body], Fault | None] = lambda number, body: None
    latency: float = 0.0
    key: str | None = None
    model: str | None = None
    logprobs: bool = True
    keep_bodies: bool = True
    tls: ssl.SSLContext | None = None
    url: str = ""
    bodies: list[Body] = field(default_factory=list)
    heads: list[str] = field(default_factory=list)
    counted: Counts = field(default_factory=Counts)
    under_way: int = 0
    number: int = 0
    connections: int = 0
    disconnect: Callable[[], None] = lambda: None  # everybody; done when it returns

    @property
    def asked(self) -> Counter:
        return self.counted.asked

    @property
    def delivered(self) -> Counter:
        return self.counted.delivered

    def reply(self, head: str, body: Body) -> Fault:
        """What is sent for a request."""
        number, self.number = self.number, self.number + 1
        self.counted.asked[prompt_of(body)] += 1
        if self.keep_bodies:
            self.bodies.append(body)
            self.heads.append(head)
        if self.key is not None and f"authorization: bearer {self.key}".lower() not in head.lower():
            return Fault(401, {}, error("Incorrect API key provided", code="invalid_api_key"))
        if self.model is not None and body["model"] != self.model:
            return Fault(404, {}, error("The model does not exist", code="model_not_found"))
        if not self.logprobs and "logprobs" in body:
            return Fault(400, {}, error("logprobs are not supported"))
        return self.fault(number, body) or Fault(content=completion(body, self.answer(body)))


class _Connection(asyncio.Protocol):
    """One connection: requests one after the other."""

    def __init__(self, stub: Stub, open_: set["_Connection"]):
        self.stub, self.buffer, self.open = stub, bytearray(), open_

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        self.open.add(self)
        self.stub.connections += 1

    def connection_lost(self, error: Exception | None) -> None:
        self.open.discard(self)

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        end = self.buffer.find(b"\r\n\r\n")
        if end < 0:
            return
        head = self.buffer[:end].decode("latin-1")
        place = head.lower().find("content-length:")
        length = int(head[place + 15 :].split("\r\n", 1)[0]) if place >= 0 else 0
        if len(self.buffer) < end + 4 + length:
            return
        content = bytes(self.buffer[end + 4 : end + 4 + length])
        del self.buffer[: end + 4 + length]
        if head.startswith("GET /counts"):
            self.send(Fault(content=vars(self.stub.counted)), None)
            return
        if not head.startswith("POST /v1/chat/completions "):
            self.send(Fault(404, {}, error("no such place")), None)
            return
        body = json.loads(content)
        self.stub.under_way += 1
        self.stub.counted.most = max(self.stub.counted.most, self.stub.under_way)
        reply = self.stub.reply(head, body)
        asyncio.get_running_loop().call_later(self.stub.latency, self.send, reply, body,
                                               time.perf_counter())

    def send(self, reply: Fault, body: Body | None, since: float = 0.0) -> None:
        if body is not None:
            self.stub.under_way -= 1
            self.stub.counted.waited += time.perf_counter() - since
        if self.transport.is_closing():
            return
        content = reply.content if isinstance(reply.content, bytes) else json.dumps(reply.content).encode()
        headers = {"content-type": "application/json"} | reply.headers
        if not {"content-length", "transfer-encoding"} & {name.lower() for name in headers}:
            headers["content-length"] = str(len(content))
        head = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        sent = f"HTTP/1.1 {reply.status} {WORDS.get(reply.status, 'Status')}\r\n{head}\r\n".encode() + content
        answers = reply.status == 200 and reply.how == "whole" and isinstance(reply.content, dict) and bool(
            reply.content.get("choices"))
        if body is not None and not answers:
            self.stub.counted.refused += 1
        if reply.how == "whole":
            self.transport.write(sent)
            if body is not None and answers:
                self.stub.delivered[prompt_of(body)] += 1
            if "content-length" not in headers:
                self.transport.close()
        elif reply.how == "half":
            self.transport.write(sent[: len(sent) - len(content) // 2])
            self.transport.close()
        elif reply.how == "drop":
            self.transport.abort()
        elif reply.how == "trickle":
            self.trickle(sent, 0)

    def trickle(self, sent: bytes, place: int) -> None:
        if place < len(sent) - 1 and not self.transport.is_closing():
            self.transport.write(sent[place : place + 1])
            asyncio.get_running_loop().call_later(0.005, self.trickle, sent, place + 1)


async def _serve(stub: Stub, ready: Callable[[], None], stop: asyncio.Event) -> None:
    connections: set[_Connection] = set()
    server = await asyncio.get_running_loop().create_server(
        lambda: _Connection(stub, connections), "127.0.0.1", 0, backlog=1024, ssl=stub.tls)
    stub.url = f"http{'s' if stub.tls else ''}://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
    loop = asyncio.get_running_loop()

    async def abort() -> None:
        for connection in list(connections):
            connection.transport.abort()
        await asyncio.sleep(0.01)

    stub.disconnect = lambda: asyncio.run_coroutine_threadsafe(abort(), loop).result()
    ready()
    await stop.wait()
    server.close()
    await abort()
    await server.wait_closed()


@contextmanager
def stub(**settings: Any) -> Iterator[Stub]:
    """A stub in a thread of this process; settings are those of `Stub`."""
    found, started = Stub(**settings), threading.Event()
    held: dict[str, Any] = {}

    async def run() -> None:
        held["loop"], held["stop"] = asyncio.get_running_loop(), asyncio.Event()
        await _serve(found, started.set, held["stop"])

    thread = threading.Thread(target=asyncio.run, args=(run(),), name="llm-stub")
    thread.start()
    started.wait()
    try:
        yield found
    finally:
        held["loop"].call_soon_threadsafe(held["stop"].set)
        thread.join()


class Storm429:
    """Of every five seconds, the server is too busy in one, and says so with `Retry-After`."""

    def __init__(self) -> None:
        self.began: float | None = None

    def __call__(self, number: int, body: Body) -> Fault | None:
        now = time.monotonic()
        self.began = now if self.began is None else self.began
        busy = (now - self.began) % BUSY_EVERY_S >= BUSY_EVERY_S - BUSY_S
        return Fault(429, {"retry-after": "1"}, error("Rate limit", code="rate_limit_exceeded")) if busy else None


def _some(share: float, *faults: Fault) -> Callable[[int, Body], Fault | None]:
    """One of the faults for that share of the requests."""
    chance = random.Random(0)
    return lambda number, body: chance.choice(faults) if chance.random() < share else None


HALF = Fault(content={"choices": [{"message": {"content": "half of it"}}]}, how="half")
FAULTS: dict[str, Callable[[], Callable[[int, Body], Fault | None]]] = {
    "none": lambda: lambda number, body: None,
    "429": Storm429,
    "500": lambda: _some(0.25, Fault(500, {}, error("something broke"))),
    "broken": lambda: _some(0.2, Fault(how="drop"), HALF),
}


@dataclass(frozen=True)
class Process:
    """A stub in a process of its own."""

    url: str

    def counts(self) -> Counts:
        with urllib.request.urlopen(self.url.removesuffix("/v1") + "/counts") as response:
            found = json.load(response)
        return Counts(Counter(found["asked"]), Counter(found["delivered"]), found["most"], found["refused"],
                      found["waited"])


@contextmanager
def stub_process(latency: float = 0.05, faults: str = "none") -> Iterator[Process]:
    """A stub in a process of its own, which ends with this block, or with this process."""
    command = [sys.executable, str(Path(__file__).resolve()), "--latency", str(latency), "--faults", faults]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield Process(process.stdout.readline().strip())
        finally:
            process.kill()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--latency", type=float, default=0.05)
    parser.add_argument("--faults", choices=list(FAULTS), default="none")
    chosen = parser.parse_args()
    served = Stub(fault=FAULTS[chosen.faults](), latency=chosen.latency, keep_bodies=False)

    async def run() -> None:
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        await loop.connect_read_pipe(lambda: _Parent(stop), sys.stdin)
        await _serve(served, lambda: print(served.url, flush=True), stop)

    class _Parent(asyncio.Protocol):
        """The pipe to whoever started this; it closes when that process ends."""

        def __init__(self, stop: asyncio.Event):
            self.stop = stop

        def connection_lost(self, error: Exception | None) -> None:
            self.stop.set()

    asyncio.run(run())


if __name__ == "__main__":
    main()
