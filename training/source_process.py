"""A version's labelling functions in a process of their own, with a limit on the time that each takes for each text.

It keeps a service going over hostile text: a regular expression that never ends, a function that raises, takes all the
memory or ends the process, then abstains. It is no sandbox: the code is as trusted as the version that it came with.
"""

import json
import os
import re
import select
import signal
import subprocess
import sys
import tempfile
import threading
import time
from array import array
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from training.errors import InputError
from training.source_worker import ENDED, PLACES, REASONS, SKIPPED, TOO_SLOW, Board
from training.task import ABSTAIN

START_S = 60.0
MARGIN_S = 0.5  # beyond its limit, after which a function that cannot be interrupted is ended
IN_A_ROW, REST_S = 10, 30.0  # texts on which a source was too slow; it is then left alone for a while
PRIVATE = re.compile(r"^(POLARSCORE|MLFLOW|BENTOML|AWS|AZURE|GOOGLE|PG)|KEY|TOKEN|SECRET|PASSW|CREDENTIAL|UR[LI]$|DSN",
                     re.IGNORECASE)
LOGIN = re.compile(r"://[^/\s]*@")


@dataclass(frozen=True)
class Votes:
    """What the functions said. votes: (n, functions) int16, -1 = abstains.

    failures: by function, on how many texts it abstained for which reason: it `raised`, named `no_class`, was
    `too_slow`, made the process end (`ended`), or was not asked after such things (`skipped`).
    """

    votes: np.ndarray
    failures: dict[str, dict[str, int]] = field(default_factory=dict)


class SourceProcess:
    """Asks the functions; from several threads, one call at a time. Close it, or use it in a `with`.

    code: of `sources.py`. names: of the functions to run, which read no more than text and spans; without any, there
    is no process. classes: of the task. seconds: for one function and one text.
    """

    def __init__(self, code: str, names: Sequence[str], classes: Sequence[str], seconds: float):
        """Start the process, if there is anything to run.

        Raises:
            InputError: the code cannot be run there.
        """
        self.names = tuple(names)
        self._seconds, self._turn = seconds, threading.Lock()
        self._setup = {"code": code, "names": list(self.names), "classes": list(classes), "seconds": seconds}
        self._link: _Link | None = None
        self._slow, self._rests = [0] * len(self.names), [0.0] * len(self.names)
        self._number, self._closed = 0, False
        if self.names:
            self._file = tempfile.TemporaryFile()  # noqa: SIM115
            self._file.truncate(Board.size())
            self._board = Board(self._file.fileno())
            why = self._start()
            if why:
                self.close()
                raise InputError(f"sources.py cannot be run in a process of its own: {why}.")

    def votes(self, texts: Sequence[str], spans: np.ndarray) -> Votes:
        """The votes on texts (n,) with spans (n, entities, 2), whatever the functions do.

        A call takes no longer than a few limits, some seconds, and a tenth of a limit for each text: what is not done
        then abstains.
        """
        width = len(self.names)
        if not width:
            return Votes(np.empty((len(texts), 0), dtype=np.int16))
        ends = time.monotonic() + 4 * (self._seconds + MARGIN_S) + len(texts) * self._seconds / 10
        step = max(1, PLACES // width)
        with self._turn:
            parts = [self._ask(list(texts[start : start + step]), spans[start : start + step], ends)
                     for start in range(0, len(texts), step)]
        codes, reasons = (np.concatenate([part[kind] for part in parts] or [np.empty(0, dtype=np.int16)])
                          .reshape(len(texts), width) for kind in (0, 1))
        return Votes(codes.astype(np.int16), {
            name: {str(REASONS[reason]): int(count) for reason, count in enumerate(np.bincount(column))
                   if reason and count}
            for name, column in zip(self.names, reasons.T, strict=True) if column.any()})

    def close(self) -> None:
        """End the process, after the call that goes on."""
        self._closed = True
        with self._turn:
            self._drop()
            if self.names:
                self._file.close()

    def __enter__(self) -> "SourceProcess":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def _ask(self, texts: list[str], spans: np.ndarray, ends: float) -> tuple[np.ndarray, np.ndarray]:
        """The codes (n · functions,) and the reasons, text by text."""
        count, done = len(texts) * len(self.names), 0
        board = self._board
        board.done[0] = 0
        while done < count:
            if time.monotonic() > ends or (self._link is None and (self._closed or self._start())):
                board.codes[done:count] = memoryview(array("h", [ABSTAIN]) * (count - done))
                board.reasons[done:count] = bytes([SKIPPED if self._link else ENDED]) * (count - done)
                break
            reason = self._converse(texts, spans, ends)
            if reason and board.done[0] < count:
                place = board.done[0]
                board.codes[place], board.reasons[place], board.done[0] = ABSTAIN, reason, place + 1
            done = board.done[0]
        codes, reasons = (np.array(part[:count]) for part in (board.codes, board.reasons))
        self._learn(reasons)
        return codes, reasons

    def _converse(self, texts: list[str], spans: np.ndarray, ends: float) -> int:
        """Send a request, wait until it is done; why it ended early, 0 if it did not."""
        assert self._link is not None
        self._number += 1
        now = time.monotonic()
        try:
            self._link.send({
                "id": self._number, "texts": texts, "spans": spans.tolist() if spans.shape[1] else [], "ends": ends,
                "skip": [number for number, until in enumerate(self._rests) if now < until],
            }, START_S)
            while True:
                seen = self._board.done[0]
                message = self._link.receive(2 * self._seconds + MARGIN_S)
                if message is None and seen == self._board.done[0]:  # a function that cannot be interrupted
                    self._link.end_worker()
                    self._wait_until_ready()
                    return TOO_SLOW if self._board.done[0] == seen else 0
                if message and "ended" in message:
                    self._wait_until_ready()
                    return ENDED
                if message and message.get("done") == self._number:
                    return 0
        except (OSError, ValueError):
            self._drop()
            return ENDED

    def _start(self) -> str | None:
        """Start the process; why it does not, None if it does."""
        self._link = _Link(self._file.fileno())
        try:
            self._link.send({**self._setup, "board": self._file.fileno()}, START_S)
        except OSError:
            self._drop()
            return "it does not start"
        return self._wait_until_ready()

    def _wait_until_ready(self) -> str | None:
        until = time.monotonic() + START_S
        while self._link and time.monotonic() < until:
            try:
                message = self._link.receive(until - time.monotonic())
            except (OSError, ValueError):
                break
            if message and "ready" in message:
                self._link.worker = message["ready"]
                return None
            if message and "failed" in message:
                self._drop()
                return str(message["failed"])
        self._drop()
        return "it does not start"

    def _drop(self) -> None:
        link, self._link = self._link, None
        if link:
            link.close()

    def _learn(self, reasons: np.ndarray) -> None:
        """Leave alone for a while a function that is too slow on text after text."""
        for number, column in enumerate(reasons.reshape(-1, len(self.names)).T):
            for reason in column[column != SKIPPED] if column.any() else [0]:
                self._slow[number] = self._slow[number] + 1 if reason in (TOO_SLOW, ENDED) else 0
                if self._slow[number] >= IN_A_ROW:
                    self._rests[number] = time.monotonic() + REST_S


class _Link:
    """The process and its two pipes."""

    def __init__(self, board: int) -> None:
        root = str(Path(__file__).resolve().parent.parent)
        path = os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH"))))
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "training.source_worker"], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL, cwd=tempfile.gettempdir(), start_new_session=True, pass_fds=[board],
            env=scrubbed(os.environ) | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"})
        assert self._process.stdin
        assert self._process.stdout
        self._in, self._out = self._process.stdin.fileno(), self._process.stdout.fileno()
        os.set_blocking(self._in, False)
        self._may_write, self._may_read = select.poll(), select.poll()
        self._may_write.register(self._in, select.POLLOUT)
        self._may_read.register(self._out, select.POLLIN)
        self._rest = b""
        self._lines: list[bytes] = []
        self.worker: int | None = None

    def send(self, message: dict[str, Any], seconds: float) -> None:
        """Write a line. Raises OSError where that does not go on for so many seconds."""
        data = memoryview(json.dumps(message).encode() + b"\n")
        while data:
            if not self._may_write.poll(1000 * seconds):
                raise TimeoutError
            data = data[os.write(self._in, data[:65_536]) :]

    def receive(self, seconds: float) -> dict[str, Any] | None:
        """The next line that is whole; None if there is none in time. Raises OSError at the end."""
        until = time.monotonic() + seconds
        while True:
            while self._lines:
                with suppress(ValueError):  # a part of a line, of a worker that was ended
                    return dict(json.loads(self._lines.pop(0)))
            if not self._may_read.poll(1000 * max(0.0, until - time.monotonic())):
                return None
            data = os.read(self._out, 2**20)
            if not data:
                raise BrokenPipeError
            *self._lines, self._rest = (self._rest + data).split(b"\n")

    def end_worker(self) -> None:
        if self.worker is not None:
            _kill(os.killpg, self.worker)

    def close(self) -> None:
        self.end_worker()
        _kill(os.killpg, self._process.pid)
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe:
                pipe.close()


def scrubbed(environment: Mapping[str, str]) -> dict[str, str]:
    """An environment without what a source has no business to know: secrets, addresses of databases, our settings."""
    return {name: value for name, value in environment.items()
            if not PRIVATE.search(name) and not LOGIN.search(value)}


def _kill(how: Callable[[int, int], None], number: int) -> None:
    with suppress(ProcessLookupError):
        how(number, signal.SIGKILL)
