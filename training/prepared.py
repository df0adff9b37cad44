"""Texts made ready for the device, by whoever asks, so that the device's own thread does nothing else.

`prepare` reads texts into tokens, from any number of threads; `beliefs` runs what several callers prepared in one
pass. There is one of these for each kind of harmonizer; `ready` picks it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from training.beliefs import Harmonizer, beliefs_in, refuse_other
from training.embeddings import EmbeddingCache, text_keys
from training.encoder import Encoder, EncoderSpec, locate, passages
from training.reading import Tokens, joined
from training.running import Runner
from training.transformer import TextHarmonizer


@dataclass(frozen=True)
class Prepared:
    """n texts, read.

    tokens: of the texts that the device has to read, None where there are none. keys: of the passages. vectors: (n,
    width), defined where known (n,) says so. With a transformer there are no vectors, and all texts are read.
    erased: of the cache, when the vectors were looked for (`training.embeddings`).
    """

    keys: list[bytes]
    tokens: Tokens | None
    vectors: np.ndarray
    known: np.ndarray
    erased: int = 0

    @property
    def work(self) -> int:
        """How many tokens the device has to read."""
        return 0 if self.tokens is None else int(self.tokens.lengths.sum())


class Ready(Protocol):
    """A harmonizer on its device. prepare: safe from any thread; beliefs: from one at a time."""

    runner: Runner

    def prepare(self, texts: np.ndarray, spans: np.ndarray) -> Prepared: ...  # noqa: D102
    def beliefs(self, parts: Sequence[Prepared]) -> np.ndarray: ...  # noqa: D102


class OnVectors:
    """A small network on an encoder's vectors, each of which is made once and remembered."""

    def __init__(self, harmonizer: Harmonizer, encoder: Encoder, cache: EmbeddingCache):
        self._harmonizer, self._encoder, self._cache = harmonizer, encoder, cache
        self.runner = encoder.runner

    def prepare(self, texts: np.ndarray, spans: np.ndarray) -> Prepared:
        """texts: (n,). spans: (n, entities, 2)."""
        read = passages(texts, spans)
        keys = text_keys(self._cache.spec, read)
        vectors, known, erased = self._cache.find(keys)
        missing = np.flatnonzero(~known).tolist()
        tokens = self._encoder.read([read[row] for row in missing]) if missing else None
        return Prepared(keys, tokens, vectors, known, erased)

    def beliefs(self, parts: Sequence[Prepared]) -> np.ndarray:
        """h(x) (n, K) of all parts, in their order."""
        vectors = np.concatenate([part.vectors for part in parts])
        if unread := [part.tokens for part in parts if part.tokens is not None]:
            rows = np.flatnonzero(~np.concatenate([part.known for part in parts]))
            vectors[rows] = self._encoder.encode_tokens(joined(unread))
            keys = [key for part in parts for key in part.keys]
            self._cache.keep([keys[row] for row in rows.tolist()], vectors[rows], min(part.erased for part in parts))
        return beliefs_in(self._harmonizer, vectors)  # type: ignore[arg-type]


class OnTexts:
    """A transformer, which reads every text anew."""

    def __init__(self, harmonizer: TextHarmonizer, spec: EncoderSpec, pack_tokens: int | None = None):
        self._harmonizer, self._spec = harmonizer, spec
        self.runner = harmonizer.runner(pack_tokens)

    def prepare(self, texts: np.ndarray, spans: np.ndarray) -> Prepared:
        """texts: (n,). spans: (n, entities, 2)."""
        n = len(texts)
        return Prepared(text_keys(self._spec, passages(texts, spans)), self._harmonizer.reader(texts, spans),
                        np.empty((n, 0), dtype=np.float32), np.zeros(n, dtype=bool))

    def beliefs(self, parts: Sequence[Prepared]) -> np.ndarray:
        """h(x) (n, K) of all parts, in their order."""
        return np.exp(self.runner(joined([part.tokens for part in parts if part.tokens is not None])))


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
