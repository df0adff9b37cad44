"""How fast the client of the LLM asks, what a kill leaves, and what storms do to it.

Run: python benchmarks/llm_speed.py [--answers 10000] [--in-flight 8 16 32] [--kills 5] [--json]   (4 minutes at most)

The server is a stub in a process of its own (`tests/llm_stub.py`): it speaks the protocol over real connections, and
answers each request after 50 ms. `--answers` are those asked for with 16 in flight; with others, as many as take the
same time. Beside the rates stands the bound: as many requests as may be under way, one after the other, each 50 ms.
Storms: `429`, the server refuses all in one of every five seconds, with `Retry-After`; `500`, it fails a quarter of the
requests; `broken`, it drops the connection of every tenth, and sends half an answer to another tenth. Kills: a process
that asks is ended by `kill -9` after a random time, again and again, until one is let finish.
"""

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from serving.llm.cache import Cache, key_of  # noqa: E402
from serving.llm.client import ask_all  # noqa: E402
from serving.llm.exchange import Message, Outcome, Prompt, Reply  # noqa: E402
from serving.llm.settings import Endpoint  # noqa: E402
from tests.llm_stub import stub_process  # noqa: E402

LATENCY_S = 0.05
IN_FLIGHT = (8, 16, 32)
STORMS = ("429", "500", "broken")
KILLED_AT, STORMS_AT = 16, 16
SAID = Console(stderr=True)


@dataclass(frozen=True)
class Speed:
    """rate: answers a second; bound: what the limit allows. stub_ms: what the stub took for an answer in fact. cpu_ms:
    of this process, for an answer. cached_s: to look all of them up again."""

    in_flight: int
    answers: int
    rate: float
    bound: float
    stub_ms: float
    cpu_ms: float
    cached_s: float

    @property
    def share(self) -> float:
        """Of the bound."""
        return self.rate / self.bound


@dataclass(frozen=True)
class Storm:
    """requests: sent in all. refused: got no answer. twice: answers that had arrived whole and were asked for again.
    most: under way at a time."""

    kind: str
    answers: int
    answered: int
    seconds: float
    requests: int
    refused: int
    twice: int
    most: int


@dataclass(frozen=True)
class Kills:
    """lost: answers told that were not kept. unread: written by the server, and not kept at the kill. again: questions
    that the server got a second time, all of them under way at a kill."""

    kills: int
    answers: int
    answered: int
    told: int
    lost: int
    unread: int
    again: int
    most_again: int


def prompts(count: int) -> list[Prompt]:
    system = Message("system", "Is the comment spam or ham? Answer with one word.")
    words = " ".join(f"word{number}" for number in range(40))
    return [Prompt((system, Message("user", f"{number}: {words}"))) for number in range(count)]


def endpoint(url: str, in_flight: int) -> Endpoint:
    return Endpoint(name="stub", url=url, model="stub", in_flight=in_flight)


def answered(outcomes: list[Outcome]) -> int:
    return sum(isinstance(outcome, Reply) for outcome in outcomes)


def speed(count: int, in_flight: int, folder: Path) -> Speed:
    """The rate at which new questions are answered, and how long kept ones take."""
    asked = prompts(count)
    with stub_process(LATENCY_S) as server, Cache(folder / f"speed-{in_flight}.db") as cache:
        where = endpoint(server.url, in_flight)
        began, cpu = time.perf_counter(), time.process_time()
        outcomes = ask_all(where, asked, cache)
        seconds, cpu = time.perf_counter() - began, time.process_time() - cpu
        seen = server.counts()
        assert answered(outcomes) == count
        assert seen.most <= in_flight
        began = time.perf_counter()
        assert all(isinstance(each, Reply) and each.cached for each in ask_all(where, asked, cache))
        cached = time.perf_counter() - began
    return Speed(in_flight, count, count / seconds, in_flight / LATENCY_S, 1000 * seen.waited / count,
                 1000 * cpu / count, cached)


def storm(kind: str, count: int, folder: Path) -> Storm:
    with stub_process(LATENCY_S, kind) as server, Cache(folder / f"storm-{kind}.db") as cache:
        began = time.perf_counter()
        outcomes = ask_all(endpoint(server.url, STORMS_AT), prompts(count), cache)
        seconds, seen = time.perf_counter() - began, server.counts()
    twice = sum(times - 1 for times in seen.delivered.values())
    return Storm(kind, count, answered(outcomes), seconds, seen.asked.total(), seen.refused, twice, seen.most)


def kills(number: int, count: int, folder: Path) -> Kills:
    """Ask in a process that is killed, again and again; then ask for what is left."""
    path, asked = folder / "kills.db", prompts(count)
    told: set[int] = set()
    lost, unread, again = 0, 0, []
    with stub_process(LATENCY_S) as server:
        where = endpoint(server.url, KILLED_AT)
        keys = [key_of(where, prompt) for prompt in asked]
        for _ in range(number):
            before = server.counts()
            told |= _killed(server.url, path, count, random.uniform(0.3, 0.6 * count * LATENCY_S / KILLED_AT / number))
            seen = server.counts()
            again.append(_twice(seen.asked) - _twice(before.asked))
            with Cache(path) as cache:
                kept = cache.get_many(keys)
            lost += sum(keys[place] not in kept for place in told)
            unread = len(seen.delivered) - len(kept)
        with Cache(path) as cache:
            outcomes = ask_all(where, asked, cache)
        final = server.counts()
        again.append(_twice(final.asked) - _twice(seen.asked))
    return Kills(number, count, answered(outcomes), len(told), lost, unread, sum(again), max(again))


def _twice(asked: Counter) -> int:
    return sum(times - 1 for times in asked.values())


def _killed(url: str, path: Path, count: int, seconds: float) -> set[int]:
    """The places of the answers that a process told until it was killed, so long after its first one."""
    command = [sys.executable, str(Path(__file__).resolve()), "--ask", url, str(path), str(count)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        first = process.stdout.readline()
        time.sleep(seconds)
        process.kill()
        lines = [first, *process.stdout.read().splitlines(keepends=True)]
    return {int(line) for line in lines if line.endswith("\n")}


def _ask(url: str, path: Path, count: int) -> None:
    """What the killed process does: ask, and say which answers it has."""
    with Cache(path) as cache:
        ask_all(endpoint(url, KILLED_AT), prompts(count), cache,
                told=lambda place, outcome: os.write(1, f"{place}\n".encode()) and None)


def table(title: str, rows: list[dict[str, object]]) -> Table:
    made = Table(title=title, title_justify="left")
    for name in rows[0]:
        made.add_column(name.replace("_", " "), justify="right")
    for row in rows:
        made.add_row(*(f"{value:,.2f}" if isinstance(value, float) else f"{value:,}" if isinstance(value, int)
                       else str(value) for value in row.values()))
    return made


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--answers", type=int, default=10_000)
    parser.add_argument("--in-flight", type=int, nargs="+", default=IN_FLIGHT)
    parser.add_argument("--kills", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--ask", nargs=3, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.ask:
        url, path, count = chosen.ask
        _ask(url, Path(path), int(count))
        return
    found: dict[str, list[dict[str, object]]] = {"speed": [], "storms": [], "kills": []}
    with tempfile.TemporaryDirectory() as name:
        for in_flight in chosen.in_flight:
            SAID.print(f"speed, {in_flight} in flight ...")
            fast = speed(chosen.answers * in_flight // 16, in_flight, Path(name))
            found["speed"].append(asdict(fast) | {"share": fast.share})
        for kind in STORMS:
            SAID.print(f"storm of {kind} ...")
            found["storms"].append(asdict(storm(kind, chosen.answers // 5, Path(name))))
        SAID.print("kills ...")
        found["kills"].append(asdict(kills(chosen.kills, chosen.answers // 4, Path(name))))
    if chosen.json:
        print(json.dumps(found))
        return
    for title, rows in found.items():
        Console().print(table(f"{title}, {1000 * LATENCY_S:.0f} ms, load {os.getloadavg()[0]:.1f}", rows))


if __name__ == "__main__":
    main()
