"""The process in which a version's labelling functions run; `training.source_process` starts it and speaks with it.

It reads lines of JSON and writes lines of JSON. Its first line holds the code of `sources.py`. It forks a worker, which
runs the code and answers; when the worker ends, or is killed, it forks the next, so that what was imported stays.
What the functions print goes nowhere: it may hold a text.
"""

import json
import mmap
import os
import resource
import select
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import Any, BinaryIO

from training.errors import InputError
from training.sources import ABSTAIN, LabellingFunction, Row, class_codes, load_labelling_functions

REASONS = (None, "raised", "no_class", "too_slow", "ended", "skipped")
RAISED, NO_CLASS, TOO_SLOW, ENDED, SKIPPED = range(1, 6)
PLACES = 65_536  # of a board
SLOW = 3  # texts of one request on which a source may be too slow; it is not asked about the others
MEMORY = 2**30  # bytes that the functions may take


class Board:
    """Memory in which the worker writes what it found, so that it is there however the worker ends.

    A place is a text and a function, text by text. done: [how many places are]. codes: the class, or -1. reasons: why
    there is none, an index into `REASONS`.
    """

    def __init__(self, descriptor: int):
        self._memory = mmap.mmap(descriptor, self.size())
        view = memoryview(self._memory)
        self.done = view[:8].cast("q")
        self.codes = view[8 : 8 + 2 * PLACES].cast("h")
        self.reasons = view[8 + 2 * PLACES :]

    @staticmethod
    def size() -> int:
        """Bytes of it."""
        return 8 + 3 * PLACES


class _TooSlowError(BaseException):
    """Raised inside of a function that takes too long; no `except Exception` holds it up."""


class Clock:
    """Interrupts a function that takes longer than it may: `began` is when it began, 0 while none runs."""

    def __init__(self, seconds: float):
        self.seconds, self.began = seconds, 0.0
        signal.signal(signal.SIGALRM, self._tick)

    def run(self, on: bool) -> None:
        """Tick from now on, or no more."""
        tick = self.seconds / 5 if on else 0
        signal.setitimer(signal.ITIMER_REAL, tick, tick)

    def _tick(self, number: int, frame: FrameType | None) -> None:
        if self.began and time.monotonic() - self.began > self.seconds:
            raise _TooSlowError


class Worker:
    """Runs the functions."""

    def __init__(self, functions: Sequence[LabellingFunction], classes: Sequence[str], seconds: float):
        self._functions, self._codes, self._clock = functions, class_codes(classes), Clock(seconds)

    def answer(self, request: dict[str, Any], board: Board) -> None:
        """Fill in the board, from the place on that is to be the next. skip: functions not to ask. ends: when to."""
        texts, spans, width = request["texts"], request["spans"], len(self._functions)
        slow, skipped = [0] * width, set(request["skip"])
        self._clock.run(on=True)
        for place in range(board.done[0], len(texts) * width):
            row, number = divmod(place, width)
            found = ABSTAIN, SKIPPED
            if number not in skipped and time.monotonic() < request["ends"]:
                values = {"text": texts[row], "spans": tuple(map(tuple, spans[row])) if spans else ()}
                function = self._functions[number]
                found = self._vote(function, Row({column: values[column] for column in function.columns}))
                if found[1] == TOO_SLOW:
                    slow[number] += 1
                    if slow[number] == SLOW:
                        skipped.add(number)
            board.codes[place], board.reasons[place] = found
            board.done[0] = place + 1
        self._clock.run(on=False)

    def _vote(self, function: LabellingFunction, row: Row) -> tuple[int, int]:
        clock = self._clock
        try:
            clock.began = time.monotonic()
            vote = function(row)
            clock.began = 0.0
        except _TooSlowError:
            clock.began = 0.0
            return ABSTAIN, TOO_SLOW
        except (Exception, SystemExit):  # whatever a function raises is that function's fault
            clock.began = 0.0
            return ABSTAIN, RAISED
        return self._code(vote)

    def _code(self, vote: Any) -> tuple[int, int]:
        """As `training.sources.encode_classes` has it."""
        try:
            code = None if isinstance(vote, bool) else self._codes.get(vote)
            if code is None and not _missing(vote):
                return ABSTAIN, NO_CLASS
        except Exception:  # a list, an object of its own kind
            return ABSTAIN, NO_CLASS
        return (ABSTAIN if code is None else code), 0


def _missing(vote: Any) -> bool:
    import pandas as pd  # `training.sources` has imported it

    return pd.api.types.is_scalar(vote) and bool(pd.isna(vote))


def say(out: BinaryIO, message: dict[str, Any]) -> None:
    """Write a line."""
    out.write(json.dumps(message, separators=(",", ":")).encode() + b"\n")
    out.flush()


def work(setup: dict[str, Any], board: Board, asked: BinaryIO, out: BinaryIO) -> None:
    """Run the code, say that it is ready, answer until nobody asks any more."""
    taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize() if _LINUX else None
    if taken is not None:
        resource.setrlimit(resource.RLIMIT_AS, (taken + MEMORY, resource.RLIM_INFINITY))
    with tempfile.TemporaryDirectory(prefix="polarscore-sources-") as folder:
        file = Path(folder) / "sources.py"
        file.write_text(setup["code"], encoding="utf-8")
        try:
            functions = {each.name: each for each in load_labelling_functions(file)}
            worker = Worker([functions[name] for name in setup["names"]], setup["classes"], setup["seconds"])
        except (InputError, KeyError) as error:
            say(out, {"failed": type(error.__cause__ or error).__name__})
            return
    os.setpgrp()  # from here on it can be ended alone, with what it starts
    say(out, {"ready": os.getpid()})
    for line in asked:
        request = json.loads(line)
        worker.answer(request, board)
        say(out, {"done": request["id"]})


def main() -> None:
    """Keep a worker until the parent is gone."""
    asked, out = os.fdopen(os.dup(0), "rb", buffering=0), os.fdopen(os.dup(1), "wb")
    nothing = os.open(os.devnull, os.O_RDWR)
    for number in (0, 1, 2):
        os.dup2(nothing, number)
    setup = json.loads(_line(asked))
    board = Board(setup["board"])
    bell, rung = os.pipe()
    for end in (bell, rung):
        os.set_blocking(end, False)
    signal.signal(signal.SIGCHLD, lambda number, frame: None)
    signal.set_wakeup_fd(rung, warn_on_full_buffer=False)
    poll = select.poll()
    poll.register(asked, 0)  # tells when the parent is gone
    poll.register(bell, select.POLLIN)
    while True:
        worker = os.fork()
        if worker == 0:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            os._exit(_alone(setup, board, asked, out))
        while not (ended := os.waitpid(worker, os.WNOHANG))[0]:
            if any(descriptor == asked.fileno() for descriptor, _ in poll.poll()):
                os.kill(worker, signal.SIGKILL)
                return
            os.read(bell, 4096)
        if os.waitstatus_to_exitcode(ended[1]) == _OVER:
            return
        out.write(b"\n")  # after whatever part of a line the worker has left
        say(out, {"ended": worker})


def _alone(setup: dict[str, Any], board: Board, asked: BinaryIO, out: BinaryIO) -> int:
    """What a worker does; it ends with `_OVER` only when nobody asks any more."""
    try:
        work(setup, board, os.fdopen(os.dup(asked.fileno()), "rb"), out)
    except BaseException:  # a signal, a full disk: the next one may fare better
        return 1
    return _OVER


def _line(file: BinaryIO) -> bytes:
    """The first line, and not a byte more."""
    parts = []
    while (part := file.read(1)) not in (b"", b"\n"):
        parts.append(part)
    return b"".join(parts)


_OVER = 17
_LINUX = sys.platform == "linux"

if __name__ == "__main__":
    main()
