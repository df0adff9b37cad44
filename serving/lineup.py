"""Which version answers an item: the first, or a second one that is tried beside it.

In the shadow (percent 0), the first answers every item, and the second scores every item in the dark. In a split, the
second answers that percentage of the items, told apart by a hash of the item's id, or of its text where it has none:
an item is always answered by the same version. A second one with other classes stays in the shadow.

Nothing that the second does can fail a request: what it cannot score is reported, and in a split the first answers it.
What scores a request is settled when it is prepared, whoever takes over meanwhile. A vote may be of any source that
either version knows; each version is given those that it knows.
"""

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from serving.refusal import Refusal
from serving.schema import Item
from serving.scorer import Prepared, Scored, Scorer

Failed = Callable[[Scorer, str, int], None]
"""Is told of what a second version could not score: the version, the kind of error, how many items."""


@dataclass(frozen=True, eq=False)
class Part:
    """Some of a request's items, prepared by the version that is to score them. places: which of its items."""

    scorer: Scorer
    places: Sequence[int]
    prepared: Prepared

    @cached_property
    def text_hashes(self) -> list[str]:
        """Of each of its items, the key that the cache of embeddings has for the text, in hexadecimal."""
        return self.prepared.text_hashes()


Owed = tuple[int, Part]
"""A part, and the number of the request that it is of."""


@dataclass(frozen=True, eq=False)
class By:
    """What a version says of an item, the one with that number in a part."""

    part: Part
    number: int
    scored: Scored

    @property
    def scorer(self) -> Scorer:
        """Who says it."""
        return self.part.scorer

    @property
    def text_hash(self) -> str:
        """The key that the cache of embeddings has for the text, in hexadecimal."""
        return self.part.text_hashes[self.number]


@dataclass(frozen=True, eq=False)
class Ready:
    """A request, prepared. answering: parts that have each item once. shadow: what is scored in the dark."""

    lineup: "Lineup"
    items: Sequence[Item]
    answering: tuple[Part, ...]
    shadow: tuple[Part, ...] = ()

    @property
    def parts(self) -> tuple[Part, ...]:
        """All of them."""
        return (*self.answering, *self.shadow)

    @property
    def tokens(self) -> int:
        """The work that it brings, of both versions."""
        return sum(part.prepared.tokens for part in self.parts)


@dataclass
class Answered:
    """A request, scored: what is said of each item, by its place. shadow: in the dark, where the second could."""

    answers: dict[int, By] = field(default_factory=dict)
    shadow: dict[int, By] = field(default_factory=dict)


@dataclass(frozen=True)
class Lineup:
    """The version that answers, and the one beside it. percent: of the items that the second answers; 0: shadow."""

    first: Scorer
    second: Scorer | None = None
    percent: float = 0.0

    @property
    def splits(self) -> bool:
        """Whether the second one answers some of the items: an answer has to mean the same to both."""
        return (self.second is not None and self.percent > 0
                and (self.first.classes, self.first.entities) == (self.second.classes, self.second.entities))

    def led_by(self, first: Scorer) -> "Lineup":
        """The lineup with another first version; a second one that is the same leaves."""
        return Lineup(first, None if self.second is first else self.second, self.percent)

    def beside(self, second: Scorer | None) -> "Lineup":
        """The lineup with another second version, or none."""
        return Lineup(self.first, second, self.percent)

    def prepare(self, items: Sequence[Item], failed: Failed) -> Ready:
        """Check items, run the sources and make tokens of the texts.

        Raises:
            Refusal: an item is at fault, as the version sees it that is to answer it.
        """
        every = range(len(items))
        if self.second is None:
            return Ready(self, items, self._parts(self.first, items, every))
        if not self.splits:
            return Ready(self, items, self._parts(self.first, items, every), self._beside(items, every, failed))
        theirs = [place for place in every if self.answers(items[place]) is self.second]
        beside = self._beside(items, theirs, failed)
        taken = set(theirs) if beside else set()
        return Ready(self, items, self._parts(self.first, items, [p for p in every if p not in taken]) + beside)

    def answers(self, item: Item) -> Scorer:
        """The version that is to answer an item."""
        return self.second if self.second and self.splits and share(item) < self.percent else self.first

    def as_seen_by(self, scorer: Scorer, item: Item) -> Item:
        """An item without its votes of sources that only the other version knows."""
        other = self.second if scorer is self.first else self.first
        if other is None or all(source in scorer.sources for source in item.votes):
            return item
        strange = set(other.sources) - set(scorer.sources)
        return item.model_copy(update={"votes": {name: vote for name, vote in item.votes.items()
                                                 if name not in strange}})

    def instead(self, items: Sequence[Item], places: Sequence[int]) -> tuple[Part, ...]:
        """What the first version is to score, after the second has failed to."""
        return self._parts(self.first, items, places)

    def _beside(self, items: Sequence[Item], places: Sequence[int], failed: Failed) -> tuple[Part, ...]:
        assert self.second is not None
        try:
            return self._parts(self.second, items, places)
        except Exception as error:  # whatever is wrong with it, the first goes on
            failed(self.second, kind_of(error), len(places))
            return ()

    def _parts(self, scorer: Scorer, items: Sequence[Item], places: Sequence[int]) -> tuple[Part, ...]:
        """What a version is to score, in one part; none where it has nothing to score."""
        if not places:
            return ()
        try:
            return (Part(scorer, places, scorer.prepare([self.as_seen_by(scorer, items[place]) for place in places])),)
        except Refusal as refusal:
            raise _moved(refusal, places) from None


def run(requests: Sequence[Ready], failed: Failed) -> list[Answered]:
    """Score requests, all that a version has of them in one pass.

    Raises:
        Exception: whatever the first version raises; of a second one, nothing.
    """
    found = [Answered() for _ in requests]
    answers, shadow = [each.answers for each in found], [each.shadow for each in found]
    first: list[Owed] = []
    second: list[Owed] = []
    for number, ready in enumerate(requests):
        for part in ready.answering:
            (first if part.scorer is ready.lineup.first else second).append((number, part))
    for group in _by_scorer(second):
        if not _tried(group, answers, failed):
            first += [(number, again) for number, part in group
                      for again in requests[number].lineup.instead(requests[number].items, part.places)]
    for group in _by_scorer(first):
        _score(group, answers)
    for group in _by_scorer((number, part) for number, ready in enumerate(requests) for part in ready.shadow):
        _tried(group, shadow, failed)
    return found


def share(item: Item) -> float:
    """Where an item falls between 0 and 100, evenly, and always the same for an id, else for a text."""
    named = f"id {item.id}" if item.id is not None else f"text {item.text}"
    digest = hashlib.blake2b(named.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return 100 * int.from_bytes(digest, "big") / 2**64


def kind_of(error: Exception) -> str:
    """The kind of an error, in a word; its message may hold anything."""
    return error.kind if isinstance(error, Refusal) else type(error).__name__


def _by_scorer(owed: Iterable[Owed]) -> list[list[Owed]]:
    groups: dict[Scorer, list[Owed]] = {}
    for number, part in owed:
        groups.setdefault(part.scorer, []).append((number, part))
    return list(groups.values())


def _score(group: Sequence[Owed], into: Sequence[dict[int, By]]) -> None:
    """Have a version score parts; what it says goes to the requests that they are of, by the items' places."""
    results = group[0][1].scorer.run([part.prepared for _, part in group])
    for (request, part), scored in zip(group, results, strict=True):
        into[request].update({place: By(part, number, each)
                              for number, (place, each) in enumerate(zip(part.places, scored, strict=True))})


def _tried(group: Sequence[Owed], into: Sequence[dict[int, By]], failed: Failed) -> bool:
    """`_score` by a second version: whether it could."""
    try:
        _score(group, into)
    except Exception as error:  # whatever is wrong with it, the first goes on
        failed(group[0][1].scorer, kind_of(error), sum(len(part.places) for _, part in group))
        return False
    return True


def _moved(refusal: Refusal, places: Sequence[int]) -> Refusal:
    """The refusal, its place told in the request instead of the part."""
    head, *rest = (refusal.where or "").split(".")
    if head == "items" and rest and rest[0].isdecimal():
        refusal.where = ".".join(["items", str(places[int(rest[0])]), *rest[1:]])
    return refusal
