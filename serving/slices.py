"""A large request in slices, each about as much as one pass takes, so that it does not hold up all the others."""

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from serving.refusal import Refusal
from serving.schema import Item, Score

if TYPE_CHECKING:
    from monitoring.store import ScoredAnswer
    from serving.lineup import Lineup, Part, Ready

CHARACTERS = 4  # of a token, about
READ = 2_000  # characters of a text that an encoder reads at most, about
PLACE = re.compile(r"items\.(\d+)(?:\.(.+))?")

Each = TypeVar("Each")


@dataclass(frozen=True, eq=False)
class Told:
    """What is said of a request, or of a slice of it, before anything of it is kept. rows: what is to be kept."""

    lineup: "Lineup"
    parts: "tuple[Part, ...]"
    scores: list[Score]
    rows: "list[ScoredAnswer]"


@dataclass(frozen=True, eq=False)
class Slice:
    """A slice of a request, prepared. last: with it the whole request is kept; until then, nothing of it is.

    before: what was said of the slices before the last one.
    """

    ready: "Ready"
    before: tuple[Told, ...] = ()
    last: bool = False

    @property
    def tokens(self) -> int:
        """The work that it brings."""
        return self.ready.tokens

    def joined(self, told: Told) -> Told:
        """What is said of this slice, and of those before it."""
        every = (*self.before, told)
        return Told(told.lineup, tuple(part for each in every for part in each.parts),
                    [score for each in every for score in each.scores], [row for each in every for row in each.rows])


def cut(items: Sequence[Item], tokens: int) -> list[tuple[int, Sequence[Item]]]:
    """The items in slices of about so many tokens, each with the place of its first item."""
    sizes = (min(len(item.text), READ) for item in items)
    ends = list(ends_of(sizes, CHARACTERS * tokens))
    return [(start, items[start:end]) for start, end in zip([0, *ends[:-1]], ends, strict=True)]


def ends_of(sizes: Iterable[int], most: int, count: int | None = None) -> Iterator[int]:
    """Where slices end that hold no more than `most`, nor more than `count` pieces, and one piece at least."""
    total = start = end = 0
    for end, size in enumerate(sizes):
        if end > start and (total + size > most or end - start == count):
            yield end
            total, start = 0, end
        total += size
    yield end + 1


def placed(refusal: Refusal, start: int) -> Refusal:
    """A refusal of a slice, as one of the whole request, in which the slice begins at `start`."""
    found = PLACE.fullmatch(refusal.where or "")
    if not found or not start:
        return refusal
    rest = f".{found[2]}" if found[2] else ""
    return moved(refusal, f"items.{start + int(found[1])}{rest}")


def moved(refusal: Refusal, where: str | None) -> Refusal:
    """The same refusal, of another place."""
    return Refusal(refusal.kind, refusal.message, where, refusal.status)


def prepared(prepare: Callable[[Sequence[Item]], Each], start: int, items: Sequence[Item]) -> Each:
    """A slice, prepared.

    Raises:
        Refusal: an item is at fault; names its place in the whole request.
    """
    try:
        return prepare(items)
    except Refusal as refusal:
        raise placed(refusal, start) from None
