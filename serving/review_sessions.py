"""Who is signed in at the review page: sessions in memory, bounded in number and in time, gone when the service ends.

A browser holds a random id in a cookie; here only its SHA-256 is kept. The token that each form carries is an HMAC of
the id, under a key that this process alone has: it is bound to the session, and there is nothing more to keep.
"""

import hashlib
import hmac
import secrets
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from typing import TypeVar

from serving.access import LOCAL
from serving.entry import Visitor
from serving.schema import Chosen

Key = TypeVar("Key")
Known = TypeVar("Known")

IDLE_S, LONGEST_S = 3600.0, 12 * 3600.0  # that a session lasts without a request, and in all
MOST, MOST_EACH = 1024, 16  # sessions, of all and of one key
KEYLESS = "here-"  # with which the ids of sessions without a key begin
REMEMBERED, UNDOABLE = 500, 50  # answers that a session knows of, and labels that it can take back


@dataclass(frozen=True)
class Given:
    """A label that was given in a session. before: the reviewer's own one that it took the place of.

    at, until: between which moments it was kept, which tells its row from others.
    """

    score_id: str
    label: str
    before: str | None
    chosen: Chosen
    at: datetime
    until: datetime


@dataclass
class Session:
    """One reviewer at one browser. key: the id of the key; None: of this machine, without one.

    given: labels to take back, the last one last. skipped: score_ids. shown: when each answer was first shown, by the
    clock, and how it had come to be chosen. notice: to be told once.
    """

    reviewer: str
    key: str | None
    trusted: bool
    began: float
    seen: float
    given: list[Given] = field(default_factory=list)
    skipped: OrderedDict[str, None] = field(default_factory=OrderedDict)
    shown: OrderedDict[str, tuple[float, Chosen]] = field(default_factory=OrderedDict)
    notice: str | None = None
    turn: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def take_notice(self) -> str | None:
        """What is to be told, once."""
        notice, self.notice = self.notice, None
        return notice


def remember(known: OrderedDict[Key, Known], key: Key, value: Known, most: int = REMEMBERED) -> None:
    """Put something last; of too many, the first are forgotten."""
    known.pop(key, None)
    known[key] = value
    while len(known) > most:
        known.popitem(last=False)


class Sessions:
    """All of them. Used in one thread, the event loop's."""

    def __init__(self, clock: Callable[[], float] = time.monotonic, idle: float = IDLE_S, longest: float = LONGEST_S,
                 most: int = MOST, most_each: int = MOST_EACH):
        self._clock, self._idle, self._longest, self._most, self._most_each = clock, idle, longest, most, most_each
        self._secret = secrets.token_bytes(32)
        self._sessions: OrderedDict[bytes, Session] = OrderedDict()  # the one that was used last is last

    def __len__(self) -> int:
        return len(self._sessions)

    def begin(self, visitor: Visitor) -> tuple[str, Session]:
        """A session of a visitor with a name, and its id. Of too many, those not used for longest end."""
        session = self.passing(visitor)
        own = [digest for digest, each in self._sessions.items() if each.key == session.key]
        for digest in own[: max(0, len(own) - self._most_each + 1)]:
            del self._sessions[digest]
        while len(self._sessions) >= self._most:
            self._sessions.popitem(last=False)
        identity = new_id() if session.key else KEYLESS + new_id()
        self._sessions[_digest(identity)] = session
        return identity, session

    def passing(self, visitor: Visitor) -> Session:
        """A session for one request, to which nobody can come back."""
        now = self._clock()
        return Session(visitor.name or LOCAL, visitor.key.id if visitor.key else None, visitor.trusted, now, now)

    def find(self, identity: str, local: bool, still: Callable[[str], object | None]) -> Session | None:
        """The session with an id, as long as it lasts.

        local: whether the request needs no key, as the session of one without it must not either. still: whether a key
        is good, by its id.
        """
        digest = _digest(identity)
        session = self._sessions.get(digest)
        if session is None:
            return None
        now = self._clock()
        lasts = now - session.seen <= self._idle and now - session.began <= self._longest
        if not lasts or not (local if session.key is None else still(session.key)):
            del self._sessions[digest]
            return None
        session.seen = now
        self._sessions.move_to_end(digest)
        return session

    def end(self, identity: str) -> None:
        """End the session with an id, if there is one."""
        self._sessions.pop(_digest(identity), None)

    def token(self, identity: str) -> str:
        """What the forms carry that are shown to who has this id."""
        return hmac.new(self._secret, identity.encode("utf-8", "replace"), hashlib.sha256).hexdigest()

    def is_token(self, identity: str, given: str) -> bool:
        """Whether a form was shown to who has this id."""
        return bool(identity) and hmac.compare_digest(self.token(identity).encode(), given.encode("utf-8", "replace"))


def had_key(identity: str) -> bool:
    """Whether an id, though it is no session's any more, was that of one with a key."""
    return bool(identity) and not identity.startswith(KEYLESS)


def new_id() -> str:
    """An id that nobody can guess; before somebody signs in, it ties the form to the browser."""
    return secrets.token_urlsafe(32)


def _digest(identity: str) -> bytes:
    return hashlib.sha256(identity.encode("utf-8", "replace")).digest()
