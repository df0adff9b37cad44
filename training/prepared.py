"""Texts made ready for the device, by whoever asks, so that the device's own thread does nothing else.

`prepare` reads texts into tokens, from any number of threads; `beliefs` runs what several callers prepared in one
pass. There is one of these for each kind of harmonizer; `ready` picks it.
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from training.beliefs import Harmonizer, beliefs_in, refuse_other
from training.embeddings import EmbeddingCache, text_keys
from training.encoder import Encoder, locate, passages
from training.reading import Tokens, joined
from training.running import Runner
from training.spec import EncoderSpec
from training.transformer import TextHarmonizer

WARMING = ["warming up", "warming up " * 60]


@dataclass(frozen=True)
class Prepared:
    """n texts, read; a text that occurs twice is read once.

    keys: of the passages. tokens: of the u texts that the device has to read, None where there are none. places: (n,)
    which of those a text is; -1 where its vector is known. vectors: (n, width), defined where known. unread: (u,) the
    keys of the texts to read; erased: of the cache, when it was asked for them (`training.embeddings`). With a
    transformer there are no vectors.
    """

    keys: list[bytes]
    tokens: Tokens | None
    places: np.ndarray
    vectors: np.ndarray
    unread: list[bytes]
    erased: int = 0

    @property
    def work(self) -> int:
        """How many tokens the device has to read."""
        return 0 if self.tokens is None else int(self.tokens.lengths.sum())


class Ready(Protocol):
    """A harmonizer on its device.

    prepare: safe from any thread. beliefs: h(x) (n, K) of all parts, in their order; from one thread at a time, as
    warm_up. remember: what was made for parts, for later; where and if, the cache knows.
    """

    runner: Runner

    def prepare(self, texts: np.ndarray, spans: np.ndarray) -> Prepared: ...  # noqa: D102
    def beliefs(self, parts: Sequence[Prepared]) -> np.ndarray: ...  # noqa: D102
    def remember(self, parts: Sequence[Prepared]) -> None: ...  # noqa: D102
    def warm_up(self) -> None: ...  # noqa: D102


class OnVectors:
    """A small network on an encoder's vectors, each of which is made once."""

    def __init__(self, harmonizer: Harmonizer, encoder: Encoder, cache: EmbeddingCache):
        self._harmonizer, self._encoder, self._cache = harmonizer, encoder, cache
        self.runner = encoder.runner

    def prepare(self, texts: np.ndarray, spans: np.ndarray) -> Prepared:
        """texts: (n,). spans: (n, entities, 2)."""
        read = passages(texts, spans)
        keys = text_keys(self._cache.spec, read)
        vectors, known, erased = self._cache.found(keys)
        missing = np.flatnonzero(~known)
        first, which = _distinct([keys[row] for row in missing.tolist()])
        places = np.full(len(keys), -1)
        places[missing] = which
        rows = missing[first].tolist()
        tokens = self._encoder.read([read[row] for row in rows]) if rows else None
        return Prepared(keys, tokens, places, vectors, [keys[row] for row in rows], erased)

    def beliefs(self, parts: Sequence[Prepared]) -> np.ndarray:
        """What one part needs is not made again for another, nor what was made since it was prepared."""
        unread = [key for part in parts for key in part.unread]
        if not unread:
            return beliefs_in(self._harmonizer, np.concatenate([part.vectors for part in parts]))  # type: ignore[arg-type]
        made, known = self._cache.remembered(unread)
        first, which = _distinct(unread)
        fresh = first[~known[first]]
        if len(fresh):
            tokens = joined([part.tokens for part in parts if part.tokens is not None])
            made[fresh] = self._encoder.encode_tokens(tokens.take(fresh))
            self._cache.put([unread[row] for row in fresh.tolist()], made[fresh], min(part.erased for part in parts))
        made, done, vectors = made[first][which], 0, []
        for part in parts:
            own = made[done : done + len(part.unread)]
            vectors.append(np.where(part.places[:, None] < 0, part.vectors, own[part.places] if len(own) else 0))
            done += len(part.unread)
        return beliefs_in(self._harmonizer, np.concatenate(vectors))  # type: ignore[arg-type]

    def remember(self, parts: Sequence[Prepared]) -> None:
        """The vectors made for parts go into the cache's file, if it takes any: not at once."""
        if unread := [key for part in parts for key in part.unread]:
            self._cache.keep_later(unread, min(part.erased for part in parts))

    def warm_up(self) -> None:
        """Read a short and a long text, whatever is remembered."""
        self._encoder.encode(WARMING)


class OnTexts:
    """A transformer, which reads every text anew, and remembers nothing."""

    def __init__(self, harmonizer: TextHarmonizer, spec: EncoderSpec, pack_tokens: int | None = None):
        self._harmonizer, self._spec = harmonizer, spec
        self.runner = harmonizer.runner(pack_tokens)

    def prepare(self, texts: np.ndarray, spans: np.ndarray) -> Prepared:
        """texts: (n,). spans: (n, entities, 2)."""
        keys = text_keys(self._spec, passages(texts, spans))
        first, which = _distinct([(text, spans[row].tobytes()) for row, text in enumerate(texts)])
        tokens = self._harmonizer.reader(texts[first], spans[first]) if len(first) else None
        return Prepared(keys, tokens, which, np.empty((len(keys), 0), dtype=np.float32),
                        [keys[row] for row in first.tolist()])

    def beliefs(self, parts: Sequence[Prepared]) -> np.ndarray:
        """Each part's distinct texts are read once."""
        found = np.exp(self.runner(joined([part.tokens for part in parts if part.tokens is not None])))
        starts = np.cumsum([0, *(len(part.unread) for part in parts)])
        return found[np.concatenate([part.places + start for part, start in zip(parts, starts, strict=False)])]

    def remember(self, parts: Sequence[Prepared]) -> None:
        """Nothing."""

    def warm_up(self) -> None:
        """Read a short and a long text."""
        texts = np.array(WARMING, dtype=object)
        spans = np.tile([0, 7], (len(texts), self._harmonizer.network.entities, 1))
        self.beliefs([self.prepare(texts, spans)])


def _distinct(keys: Sequence[Hashable]) -> tuple[np.ndarray, np.ndarray]:
    """The rows (u,) where a key occurs first, and of every row (n,) which of them has its key."""
    numbers: dict[Hashable, int] = {}
    which = np.fromiter((numbers.setdefault(key, len(numbers)) for key in keys), dtype=np.int64, count=len(keys))
    return np.unique(which, return_index=True)[1], which


def ready(
    harmonizer: Harmonizer, spec: EncoderSpec, device: str, cache: EmbeddingCache | None = None,
    pack_tokens: int | None = None,
) -> Ready:
    """A harmonizer made ready on the device where its weights are.

    cache: of the vectors; in memory alone unless given. pack_tokens: of one pass; what suits the device, unless given.

    Raises:
        InputError: another encoder is installed than the one it was trained with, or none.
    """
    if isinstance(harmonizer, TextHarmonizer):
        refuse_other(EncoderSpec(spec.name, locate(spec.name)[1], spec.width), spec)
        return OnTexts(harmonizer, spec, pack_tokens)
    encoder = Encoder(spec.name, device, pack_tokens)
    refuse_other(encoder.spec, spec)
    return OnVectors(harmonizer, encoder, cache or EmbeddingCache(None, lambda: encoder, spec))
