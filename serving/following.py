"""Following the registry: the service takes over the version that is put into production, without missing a request."""

import logging
import threading
import time
from collections.abc import Callable

from registry.chain import Entry
from serving.desk import Desk
from serving.scorer import Scorer
from training.errors import PolarscoreError

LOG = logging.getLogger("bentoml.polarscore")
EVERY_S = 2.0  # how often it looks
AGAIN_S = (2.0, 60.0)  # how soon it tries again what it could not open: at first, doubling each time, and at most


class Follower:
    """Looks at the log in a thread of its own, and has the desk swap its scorer."""

    def __init__(
        self,
        desk: Desk,
        production: Callable[[], Entry | None],
        opener: Callable[[str, str | None], Scorer],
        clock: Callable[[], float] = time.monotonic,
    ):
        """Look yet at nothing.

        production: the version in production, None if there is none; whatever it raises, the log cannot be read.
        opener: the scorer of a version whose files have that digest, if it is known; whatever it raises, the version
        is not to be had.
        """
        self._desk, self._production, self._opener, self._clock = desk, production, opener, clock
        self._told: tuple[str | None, str | None] | None = None
        self._failed, self._wait, self._again = "", AGAIN_S[0], 0.0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="following", daemon=True)

    def start(self) -> None:
        """Look every few seconds from now on."""
        self._thread.start()

    def close(self) -> None:
        """Look no more. A version that is being opened is not waited for."""
        self._ended.set()

    def look(self) -> None:
        """Look once, and serve the version in production if it is another one and is to be had."""
        try:
            found = self._production()
        except Exception as error:  # a database that is away, or not as expected; it may come back
            return self._tell(None, f"the log of stages cannot be read: {_why(error)}")
        if found is None:
            return self._tell(None, "no version is in production")
        wanted = str(found.version)
        if wanted == self._desk.scorer.version and found.files in (None, self._desk.scorer.digest):
            self._failed = ""
            return self._tell(wanted, None)
        if wanted == self._failed and self._clock() < self._again:
            return None
        try:
            scorer = self._opener(wanted, found.files)
            scorer.warm_up()
        except Exception as error:  # whatever is wrong with it, the present version goes on
            self._wait = min(2 * self._wait, AGAIN_S[1]) if wanted == self._failed else AGAIN_S[0]
            self._failed, self._again = wanted, self._clock() + self._wait
            return self._tell(wanted, _why(error))
        if not self._ended.is_set():
            before = self._desk.scorer
            self._desk.swap(scorer)
            self._desk.watched = (wanted, None)
            self._told, self._failed = self._desk.watched, ""
            LOG.info("version %s of %s is in production and serves now, signed by key %s, in place of version %s",
                     wanted, scorer.name, scorer.proof.signed_by, before.version)
        return None

    def _tell(self, production: str | None, reason: str | None) -> None:
        """What `/version` says; the log says it once, until something else is to be said."""
        self._desk.watched = (production, reason)
        if self._desk.watched != self._told:
            self._told = self._desk.watched
            if reason:
                what = "nothing to follow" if production is None else f"version {production} should serve"
                LOG.warning("%s; version %s goes on: %s", what, self._desk.scorer.version, reason)

    def _run(self) -> None:
        while not self._ended.is_set():
            self.look()
            self._ended.wait(EVERY_S)


def _why(error: Exception) -> str:
    """Our own errors in their words; of others only the kind, since their message may hold anything."""
    return str(error).rstrip(".") if isinstance(error, PolarscoreError) else type(error).__name__
