"""Measuring a bundle while it serves: how long it takes to answer, and what it takes of the memory.

Its service runs for a few seconds on a loopback port, by the default configuration and with a state folder of its own,
which is thrown away: it opens neither the user's prediction store nor what waits for it, and finds no text encoded.
"""

import itertools
import os
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import numpy as np
import psutil

from registry.gate_facts import Measured
from serving.config import SERVICE
from serving.keyfile import API_KEYS
from serving.launch import running
from training.errors import PolarscoreError
from training.state import State

BATCH = 32
WARM_UP = 2  # requests of each kind that are not counted
SPENT_S = 1.5  # on requests of each kind
LEAST, MOST = 10, 400  # requests of each kind that are counted
TEXT = "The museum opens at nine, and the guided tour of the garden begins at ten."


def measure(tag: str, state: State, items: Sequence[dict[str, Any]] | None = None) -> Measured:
    """Start a bundle's service, ask it for scores for about three seconds, and stop it.

    items: what to score, as `POST /score` takes it; by default made-up texts on which every source votes. Each text is
    sent with a number behind it, so that it is new to the service.

    Raises:
        InputError: no such bundle.
        PolarscoreError: its service does not come up, or refuses what it is asked.
    """
    with tempfile.TemporaryDirectory(prefix="polarscore-probe-") as place:
        (Path(place) / state.bento_home.name).symlink_to(state.bento_home)
        own = replace(state, home=Path(place), database_url=f"sqlite:///{Path(place) / 'probe.db'}")
        began = time.monotonic()
        with (_without(SERVICE, API_KEYS), running(tag, own, allow_unsigned=True) as url,
              httpx.Client(base_url=url, timeout=120, trust_env=False) as client):
            start_s = time.monotonic() - began
            asked = list(items) if items is not None else made_up(_answer(client, tag, "/version"), BATCH)
            if not asked:
                raise ValueError("items should hold at least one item.")
            numbers = itertools.count()
            one = _timed(client, tag, asked[:1], numbers)
            batch = _timed(client, tag, [asked[place % len(asked)] for place in range(BATCH)], numbers)
            memory = memory_mib(serving_on(urlsplit(url).port or 0))
    return Measured(
        latency_one_ms=float(np.quantile(one, 0.95)), latency_batch_ms=float(np.quantile(batch, 0.95)),
        memory_mib=memory, start_s=start_s, median_one_ms=float(np.median(one)),
        median_batch_ms=float(np.median(batch)),
    )


def made_up(version: dict[str, Any], count: int) -> list[dict[str, Any]]:
    """Items of several lengths for a version, as `/version` describes it. Every source votes: more cannot be asked."""
    classes, sources, entities = version["classes"], version["sources"], version["entities"]
    spans = [[[0, 3], [4, 10]][entity % 2] for entity in range(entities)]
    return [{
        "text": " ".join([TEXT] * (1 + number % 4)) + f" Notice {number}.",
        "answer": classes[number % len(classes)],
        "spans": spans,
        "votes": {source: classes[(number + place) % len(classes)] for place, source in enumerate(sources)},
    } for number in range(count)]


def serving_on(port: int) -> psutil.Process:
    """The process, a child of this one, that serves on a port.

    Raises:
        PolarscoreError: there is none.
    """
    for child in psutil.Process().children():
        try:
            words = child.cmdline()
        except psutil.Error:
            continue
        if ["--port", str(port)] in (words[place : place + 2] for place in range(len(words))):
            return child
    raise PolarscoreError(f"the service on port {port} has ended while it was measured.")


def memory_mib(process: psutil.Process) -> float:
    """What a process and those below it take together, in MiB: each page that they share is counted once, on Linux.

    Elsewhere a shared page counts for each of them.
    """
    total = 0
    for each in (process, *process.children(recursive=True)):
        try:
            total += getattr(each.memory_full_info(), "pss", 0) or each.memory_info().rss
        except psutil.Error:  # ended, or of another user
            continue
    return total / 2**20


@contextmanager
def _without(*names: str) -> Iterator[None]:
    """The environment without some variables."""
    before = {name: os.environ.pop(name) for name in names if name in os.environ}
    try:
        yield
    finally:
        os.environ |= before


def _timed(client: httpx.Client, tag: str, items: list[dict[str, Any]], numbers: Iterator[int]) -> list[float]:
    """How long requests for these items take, in ms, one after the other. No text is sent twice."""
    def ask() -> float:
        body = {"items": [item | {"text": f"{item['text']} {next(numbers)}"} for item in items]}
        began = time.perf_counter()
        _answer(client, tag, "/score", body)
        return 1000 * (time.perf_counter() - began)

    for _ in range(WARM_UP):
        ask()
    taken: list[float] = []
    deadline = time.monotonic() + SPENT_S
    while len(taken) < LEAST or (time.monotonic() < deadline and len(taken) < MOST):
        taken.append(ask())
    return taken


def _answer(client: httpx.Client, tag: str, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
    try:
        found = client.get(path) if body is None else client.post(path, json=body)
    except httpx.HTTPError as error:
        raise PolarscoreError(f"the service of {tag} does not answer {path}: {type(error).__name__}.") from None
    if found.status_code != 200:
        raise PolarscoreError(f"the service of {tag} answers {path} with status {found.status_code}.")
    return dict(found.json())
