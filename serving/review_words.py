"""What reviewers have said that the store may not have yet: it is known to the page all the same, at every browser."""

import threading
from collections import OrderedDict
from collections.abc import Mapping
from datetime import datetime

from monitoring.queue import Word
from serving.review_sessions import remember

MOST = 5_000  # words that are known, of all reviewers


class Words:
    """The last word of each reviewer on each score, until the store has it. Safe to use from several threads."""

    def __init__(self) -> None:
        """None yet."""
        self._turn = threading.Lock()
        self._known: OrderedDict[tuple[str, str], Word] = OrderedDict()

    def say(self, reviewer: str, score_id: str, label: str | None, at: datetime) -> None:
        """Know what a reviewer says, and since when; label None: that it is taken back."""
        with self._turn:
            remember(self._known, (reviewer, score_id), Word(label, at), MOST)

    def of(self, reviewer: str) -> dict[str, Word]:
        """By score_id."""
        with self._turn:
            return {score_id: word for (who, score_id), word in self._known.items() if who == reviewer}

    def settle(self, reviewer: str, stored: Mapping[str, Word]) -> bool:
        """Forget what the store has, or has something later for: whether there was any."""
        with self._turn:
            had = [(reviewer, score_id) for score_id, word in stored.items()
                   if (reviewer, score_id) in self._known and self._known[reviewer, score_id].at <= word.at]
            for key in had:
                del self._known[key]
            return bool(had)
