"""10,000 hostile inputs to a served Bento: does it fail, repeat a text, or grow?

    python benchmarks/service_hostile.py [--requests 10000] [--seed 0] [--quick]

A Bento of a small version is built and served on a loopback port. It gets what schemathesis makes of its own OpenAPI
description, mutated bodies, one of every kind of bad input that `tests/hostility.py` knows, the largest ones, bytes
that are no HTTP over a socket, and clients that are slow or never end, while somebody asks a probe. Nothing may be
answered with a 5xx, but for an overloaded 503; every error must be in the error format; no text may be in an error or
in the log. Prints what happened, the memory before and after, and how long a good, a wrong and an unknown API key take
to be checked. Exits with 1 if anything was wrong.
"""

import argparse
import socket
import sys
import tempfile
import threading
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import httpx
import numpy as np
import requests
from rich.console import Console
from rich.table import Table

from registry.export import build
from serving.access import issued, recognise
from serving.launch import running
from serving.probe import memory_mib, serving_on
from tests import hostility
from tests.test_serving import write_version
from training.state import State

BODY_S = 5.0  # that the service gives a client to send its body
IDLE = 200  # connections that say nothing
GROWTH_MIB = 64.0  # of the memory, from after one of everything to the end


class Tally:
    """What was sent of each group, and what was wrong."""

    def __init__(self) -> None:
        self.sent: Counter[str] = Counter()
        self.wrong: list[str] = []

    def add(self, group: str, name: str, problem: str | None) -> None:
        """Count one that was sent; problem: None, if nothing was wrong."""
        self.sent[group] += 1
        if problem is not None:
            self.wrong.append(f"{group}, {name}: {problem}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quick", action="store_true", help="no slow clients and none of the largest inputs")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    tally = Tally()
    with tempfile.TemporaryDirectory(prefix="polarscore-hostile-") as place:
        places = {"POLARSCORE_HOME": f"{place}/state", "POLARSCORE_KEYS": f"{place}/keys"}
        state = State.from_environment(places).prepare()
        tag = build(write_version(Path(place) / "version"), "Hostile", "1", {"stage": "production"}, state)
        config = Path(place) / "service.toml"
        config.write_text(f"[limits]\nseconds = {BODY_S}\n")
        with running(tag, state, config=config) as url:
            memory, livez_ms = attack(url, options, tally)
        logs = "".join(path.read_text(errors="replace") for path in (state.home / "logs").iterdir())
    if hostility.SECRET in logs:
        tally.wrong.append("the log repeats a text: " + next(
            line for line in logs.splitlines() if hostility.SECRET in line)[:200])
    return report(tally, memory, livez_ms, len(logs))


def attack(url: str, options: argparse.Namespace, tally: Tally) -> tuple[dict[str, float], float]:
    """Send everything; the memory at several moments, and the slowest answer of a probe meanwhile."""
    port = int(url.rsplit(":", 1)[1])
    host = url.removeprefix("http://")
    memory = {}
    with httpx.Client(base_url=url, timeout=120, trust_env=False) as client, watched(url) as slowest:
        def ask(group: str, many: Iterable[hostility.Sent]) -> None:
            for sent in many:
                try:
                    problem = hostility.send(client, sent)
                except httpx.HTTPError as error:  # the answer never came, or the connection broke off before
                    problem = f"{type(error).__name__}"
                tally.add(group, sent.name, problem)

        fifth = options.requests // 5
        ask("warm-up", (hostility.Sent("good", hostility._json()) for _ in range(200)))
        memory["at the beginning"] = memory_mib(serving_on(port))
        ask("mutated", hostility.mutated(fifth, options.seed))
        ask("one of each kind", hostility.light())
        if not options.quick:
            ask("the largest", hostility.heavy())
        memory["after one of everything"] = memory_mib(serving_on(port))
        description = client.get("/docs.json").json()
        with requests.Session() as session:
            session.trust_env = False
            done, wrong = hostility.from_schema(description, fifth * 2, lambda case: by_requests(case, url, session))
        tally.sent["schemathesis"] += done
        tally.wrong += [f"schemathesis, {problem}" for problem in wrong]
        with ThreadPoolExecutor(12) as pool:
            for pause in (0.0, 0.02):
                said = pool.map(lambda wire, pause=pause: (wire[0], hostility.speak(port, wire[1], pause)),
                                hostility.wires(host))
                for name, answer in said:
                    tally.add("bytes on a socket", name, hostility.wrong_on_the_wire(answer))
        if not options.quick:
            ask("the largest", hostility.heavy())
            memory["after the largest"] = memory_mib(serving_on(port))
            slow(port, host, tally)
        ask("mutated", hostility.mutated(max(0, options.requests - tally.sent.total()), options.seed + 1))
        ask("afterwards", (hostility.Sent("good", hostility._json()) for _ in range(20)))
        memory["at the end"] = memory_mib(serving_on(port))
        if memory["at the end"] - memory["after one of everything"] > GROWTH_MIB:
            tally.wrong.append(f"the memory has grown by more than {GROWTH_MIB:.0f} MiB")
    return memory, slowest[0] * 1000


def by_requests(case: Any, url: str, session: requests.Session) -> str | None:
    try:
        response = case.call(base_url=url, session=session, timeout=60)
    except (requests.RequestException, UnicodeError, ValueError) as error:  # it cannot even be sent
        return None if "header" in str(error).lower() or isinstance(error, UnicodeError) else type(error).__name__
    if case.method == "HEAD":
        return None if response.status_code < 500 else str(response.status_code)
    kind = (response.headers.get("content-type") or [""])[0]
    return hostility.wrong_with(response.status_code, response.content, kind)


def slow(port: int, host: str, tally: Tally) -> None:
    """Clients that take their time, all at once."""
    idle = [socket.create_connection(("127.0.0.1", port)) for _ in range(IDLE)]

    def trickle(every: float, body: bool) -> None:
        said, seconds = hostility.trickle(port, host, every, body)
        late = "is never given up" if seconds > hostility.PATIENCE_S - 1 else None
        tally.add("slow clients", "body" if body else "head", hostility.wrong_on_the_wire(said) or late)

    def endless(path: str) -> None:
        said, seconds, _ = hostility.endless(port, host, path)
        late = "is never given up" if seconds > hostility.PATIENCE_S - 1 else None
        tally.add("bodies without end", path, hostility.wrong_on_the_wire(said) or late)

    work: list[tuple[Callable[..., None], tuple[Any, ...]]] = [
        *((trickle, (0.5, body)) for body in (False, True) for _ in range(10)),
        *((endless, (path,)) for path in ("/score", "/feedback", "/nowhere", "/version"))]
    threads = [threading.Thread(target=what, args=words) for what, words in work]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for connection in idle:
        connection.settimeout(20)
        try:
            problem = None if connection.recv(1000) in (b"",) else "is answered"
        except TimeoutError:
            problem = "is never closed"
        except OSError:
            problem = None
        tally.add("idle connections", "says nothing", problem)
        connection.close()


class watched:
    """Asks a probe all the while; holds the slowest answer, in seconds."""

    def __init__(self, url: str):
        self._url, self._stop, self.slowest = url, threading.Event(), [0.0]

    def __enter__(self) -> list[float]:
        self._thread = threading.Thread(target=self._ask)
        self._thread.start()
        return self.slowest

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _ask(self) -> None:
        with httpx.Client(base_url=self._url, timeout=60, trust_env=False) as client:
            while not self._stop.wait(0.1):
                began = time.monotonic()
                client.get("/livez")
                self.slowest[0] = max(self.slowest[0], time.monotonic() - began)


def key_times(rounds: int = 20_000) -> dict[str, float]:
    """Median microseconds to check a key, the kinds taking turns."""
    now = datetime.now(UTC)
    made = [issued(f"k{n}", ["score"], now) for n in range(20)]
    keys, key = {each.id: each for each, _ in made}, made[7][1]
    tried = {"the good one": key, "a wrong secret": key[:20] + made[8][1][20:],
             "an unknown id": "ps_" + "0" * 16 + key[19:], "the right length, no key": "x" * len(key)}
    took = {name: np.empty(rounds) for name in tried}
    for place in range(rounds):
        for name, given in tried.items():
            began = time.perf_counter_ns()
            recognise(keys, given, now)
            took[name][place] = time.perf_counter_ns() - began
    return {name: float(np.median(each)) / 1000 for name, each in took.items()}


def report(tally: Tally, memory: dict[str, float], livez_ms: float, log: int) -> int:
    console = Console(width=None if sys.stdout.isatty() else 120)
    table = Table("inputs", "sent", "wrong")
    for group, count in tally.sent.items():
        table.add_row(group, f"{count:,}", str(sum(problem.startswith(f"{group},") for problem in tally.wrong)))
    table.add_row("all", f"{tally.sent.total():,}", str(len(tally.wrong)))
    console.print(table)
    for name, size in memory.items():
        console.print(f"memory {name}: {size:.0f} MiB")
    console.print(f"slowest answer of /livez meanwhile: {livez_ms:.0f} ms; the log has {log:,} characters")
    console.print("microseconds to check a key: " + ", ".join(f"{name} {us:.2f}" for name, us in key_times().items()))
    for problem, count in Counter(tally.wrong).most_common(60):
        console.print(f"WRONG, {count} times: {problem}", markup=False)
    return 1 if tally.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
