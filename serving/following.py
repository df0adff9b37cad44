"""Following the registry: the service takes over what is put into production, without missing a request.

So it does with a threshold that was lowered since.

Where a second version is wanted, it is looked for in the same way: the one in staging, or a fixed one.
"""

import logging
import math
import threading
import time
from collections.abc import Callable

from registry.chain import Entry
from registry.threshold import NOTHING, UNCHANGED, limit_of
from serving.desk import Desk
from serving.scorer import Scorer
from training.errors import PolarscoreError

LOG = logging.getLogger("bentoml.polarscore")
EVERY_S = 2.0  # how often it looks
AGAIN_S = (2.0, 60.0)  # how soon it tries again what it could not open: at first, doubling each time, and at most

FIRST_S = 3.0  # that the start waits for the first look
CLOSE_S = 1.0  # that a look may take to end
RETIRED_S = 120.0  # how long a version is kept that requests may still be prepared with

LookUp = Callable[[], Entry | None]
"""The log's entry for the version in a stage, None if there is none; whatever it raises, the log cannot be read."""

Opener = Callable[[str, str | None], Scorer]
"""The scorer of a version whose files have that digest, if known; whatever it raises, the version is not to be had."""


class Tries:
    """Opens versions, and tries less and less often what it could not open."""

    def __init__(self, opener: Opener, clock: Callable[[], float]):
        self._opener, self._clock = opener, clock
        self._failed, self._wait, self._again = "", AGAIN_S[0], 0.0

    def open(self, version: str, files: str | None) -> Scorer | str | None:
        """The scorer, warmed up; why it is not to be had; or None while it is too early to try again."""
        if version == self._failed and self._clock() < self._again:
            return None
        try:
            scorer = self._opener(version, files)
            scorer.warm_up()
        except Exception as error:  # whatever is wrong with it, what serves goes on
            self._wait = min(2 * self._wait, AGAIN_S[1]) if version == self._failed else AGAIN_S[0]
            self._failed, self._again = version, self._clock() + self._wait
            return why(error)
        self.forget()
        return scorer

    def forget(self) -> None:
        """Try at once what is asked for next."""
        self._failed = ""


class Follower:
    """Looks at the log in a thread of its own, and has the desk swap its scorers."""

    def __init__(
        self, desk: Desk, production: LookUp | None, opener: Opener, clock: Callable[[], float] = time.monotonic,
        staging: LookUp | None = None, threshold: LookUp | None = None,
    ):
        """Look yet at nothing. production, staging: None: that stage is not followed.

        threshold: the log's entry on the threshold of the version in production, if there is one; None: not followed.
        """
        self._desk, self._production, self._staging, self._threshold = desk, production, staging, threshold
        self._first, self._second = Tries(opener, clock), Tries(opener, clock)
        self._told: tuple[str | None, str | None] | None = None
        self._told_second: str | None = None
        self._clock = clock
        self._retired: list[tuple[float, Scorer]] = []
        self._retiring = threading.Lock()
        self._failure: str | None = None
        self._ended, self._looked = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run, name="following", daemon=True)

    def start(self) -> None:
        """Look every few seconds from now on. The first look is waited for, so that what it finds holds from the start.

        It may fail, as others may; one that takes long goes on alone.
        """
        self._thread.start()
        if not self._looked.wait(FIRST_S):
            LOG.warning("the log of stages has not been read within %g s; version %s serves until it is", FIRST_S,
                        self._desk.scorer.version)

    def close(self) -> None:
        """Look no more, and end what was retired. A version that is being opened is not waited for."""
        self._ended.set()
        if self._thread.is_alive():
            self._thread.join(CLOSE_S)
        self._end_retired(math.inf)

    def look(self) -> None:
        """Look once, and serve the versions in the stages that are followed, as far as they are to be had."""
        if self._production:
            self._look_first(self._production)
        if self._staging:
            self._look_second(self._staging)
        self._end_retired(self._clock())

    def _look_first(self, production: LookUp) -> None:
        try:
            found = production()
            changed = self._threshold() if self._threshold and found else None
            limit = limit_of(changed)
            if self._threshold and found and not _same(production(), found):
                return None  # changed in between: the next look sees it
        except Exception as error:  # a database that is away, or not as expected; it may come back
            return self._tell(None, f"the log of stages cannot be read: {why(error)}")
        if found is None:
            return self._tell(None, "no version is in production")
        wanted = str(found.version)
        self._limit(wanted, limit)
        if _is(self._desk.scorer, found):
            self._first.forget()
            return self._tell(wanted, None)
        second = self._desk.second
        opened = second if second and _is(second, found) else self._first.open(wanted, found.files)
        if isinstance(opened, str):
            return self._tell(wanted, opened)
        if opened and not self._ended.is_set():
            before = self._desk.scorer
            self._desk.swap(opened)
            self._retire(before)
            self._desk.watched = self._told = (wanted, None)
            LOG.info("version %s of %s is in production and serves now, signed by key %s, in place of version %s",
                     wanted, opened.name, opened.proof.signed_by, before.version)
        return None

    def _limit(self, version: str, limit: float) -> None:
        """Before a version serves, so that it never accepts what it should not."""
        if self._desk.limit(version, limit):
            what = ("accepts by its own threshold again" if limit == UNCHANGED else
                    "accepts nothing" if limit == NOTHING else f"accepts no risk above {limit:.4g}")
            LOG.warning("version %s %s from now on, as the log of stages says", version, what)

    def _look_second(self, staging: LookUp) -> None:
        try:
            found = staging()
        except Exception as error:
            return self._tell_second(f"the log of stages cannot be read: {why(error)}")
        if found is None or _is(self._desk.scorer, found):
            if self._desk.second:
                LOG.info("version %s leaves the place beside the first", self._desk.second.version)
                self._retire(self._desk.second)
            reason = "no version is in staging" if found is None else f"version {found.version} is the first one"
            self._desk.seat(None, reason)
            return self._tell_second(reason)
        second = self._desk.second
        if second and _is(second, found):
            self._second.forget()
            self._desk.seat(second)
            return self._tell_second(None)
        opened = self._second.open(str(found.version), found.files)
        if isinstance(opened, str):
            return self._tell_second(f"version {found.version} is in staging: {opened}")
        if opened and not self._ended.is_set():
            self._desk.seat(opened)
            self._told_second = None
            if second:
                self._retire(second)
            LOG.info("version %s of %s is in staging and scores beside version %s now, signed by key %s",
                     opened.version, opened.name, self._desk.scorer.version, opened.proof.signed_by)
        return None

    def _retire(self, scorer: Scorer) -> None:
        """Have a version that was taken out end once no request can still be prepared with it."""
        with self._retiring:
            self._retired.append((self._clock() + RETIRED_S, scorer))

    def _end_retired(self, now: float) -> None:
        with self._retiring:
            due = [scorer for at, scorer in self._retired if at <= now]
            self._retired = [entry for entry in self._retired if entry[0] > now]
        for scorer in due:
            if scorer not in (self._desk.scorer, self._desk.second):
                scorer.close()

    def _tell(self, production: str | None, reason: str | None) -> None:
        """What `/version` says; the log says it once, until something else is to be said."""
        self._desk.watched = (production, reason)
        if self._desk.watched != self._told:
            self._told = self._desk.watched
            if reason:
                what = "nothing to follow" if production is None else f"version {production} should serve"
                LOG.warning("%s; version %s goes on: %s", what, self._desk.scorer.version, reason)

    def _tell_second(self, reason: str | None) -> None:
        """What `/version` says of the second version; the log says it once."""
        self._desk.beside = reason
        if reason != self._told_second:
            self._told_second = reason
            if reason:
                LOG.warning("beside version %s: %s", self._desk.scorer.version, reason)

    def _run(self) -> None:
        while not self._ended.is_set():
            try:
                self.look()
                self._failure = None
            except Exception as error:  # of ours; its message may hold anything, and the next look may go well
                if why(error) != self._failure:
                    self._failure = why(error)
                    LOG.error("following failed: %s; version %s goes on", self._failure, self._desk.scorer.version)
            self._looked.set()
            self._ended.wait(EVERY_S)


def seat_fixed(desk: Desk, version: str, opener: Opener) -> None:
    """Open a fixed second version and warm it up, once; if it is not to be had, `/version` and the log say why."""
    found: Scorer | str | None = f"version {version} is the first one"
    if version != desk.scorer.version:
        found = Tries(opener, time.monotonic).open(version, None)
    if isinstance(found, str):
        desk.seat(None, found)
        LOG.warning("beside version %s: %s", desk.scorer.version, found)
    else:
        desk.seat(found)


def why(error: Exception) -> str:
    """Our own errors in their words; of others only the kind, since their message may hold anything."""
    return str(error).rstrip(".") if isinstance(error, PolarscoreError) else type(error).__name__


def _same(entry: Entry | None, other: Entry) -> bool:
    return entry is not None and (entry.seq, entry.version) == (other.seq, other.version)


def _is(scorer: Scorer, entry: Entry) -> bool:
    return scorer.version == str(entry.version) and entry.files in (None, scorer.digest)
