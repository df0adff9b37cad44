"""A large request in slices, each about as much as one pass takes, so that it does not hold up all the others."""

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TypeVar

from serving.refusal import Refusal
from serving.schema import Item, ScoreResponse

CHARACTERS = 4  # of a token, about
READ = 2_000  # characters of a text that an encoder reads at most, about
PLACE = re.compile(r"items\.(\d+)(?:\.(.+))?")

Each = TypeVar("Each")


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


def merged(responses: Sequence[ScoreResponse]) -> ScoreResponse:
    """What is answered to the whole request."""
    first, *others = responses
    if not others:
        return first
    return first.model_copy(update={"scores": [score for response in responses for score in response.scores]})
