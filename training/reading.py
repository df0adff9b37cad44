"""Texts to tokens that know which of them belong to the entities that a task marks; not padded until asked for."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
import torch
from torch import Tensor

from training.wordpiece import WordPiece

MAX_TOKENS = 256


@dataclass(frozen=True)
class Batch:
    """Padded tokens. ids, mask: (n, length). pools: (n, 1 + entities, length), weights of which each row sums to 1."""

    ids: Tensor
    mask: Tensor
    pools: Tensor


@dataclass(frozen=True)
class Tokens:
    """n tokenised texts, one after the other, T tokens in all.

    ids: (T,) int32. lengths: (n,) tokens of each text, the special ones included. pools: (T, 1 + entities) float32,
    what a token weighs in the mean over its text and over each entity; sums to 1 over a text's tokens.
    """

    ids: np.ndarray
    lengths: np.ndarray
    pools: np.ndarray

    def take(self, rows: np.ndarray) -> "Tokens":
        """Those texts, in that order."""
        lengths = self.lengths[rows]
        places = np.arange(lengths.sum()) + np.repeat(_borders(self.lengths)[rows] - _borders(lengths)[:-1], lengths)
        return Tokens(self.ids[places], lengths, self.pools[places])

    def batch(self, rows: np.ndarray, device: str = "cpu") -> Batch:
        """These rows, padded to the longest of them."""
        taken = self.take(rows)
        mask = np.arange(taken.lengths.max()) < taken.lengths[:, None]
        ids = np.zeros(mask.shape, dtype=np.int64)
        pools = np.zeros((*mask.shape, self.pools.shape[1]), dtype=np.float32)
        ids[mask], pools[mask] = taken.ids, taken.pools
        arrays = ids, mask.astype(np.int64), np.ascontiguousarray(pools.transpose(0, 2, 1))
        return Batch(*(torch.from_numpy(array).to(device) for array in arrays))


def joined(parts: Sequence[Tokens]) -> Tokens:
    """The texts of all parts, at least one, in their order."""
    if len(parts) == 1:
        return parts[0]
    return Tokens(*(np.concatenate(arrays) for arrays in zip(*((p.ids, p.lengths, p.pools) for p in parts),
                                                             strict=True)))


class Reader:
    """Texts to tokens, cut at 256. Immutable, and safe to share between threads.

    tokenizer: a `tokenizers.Tokenizer`, which tells each token's place in the text.
    """

    def __init__(self, tokenizer: Any, most: int = MAX_TOKENS):
        tokenizer.enable_truncation(most)
        tokenizer.no_padding()
        self._tokenizer, self._most, self._plain = tokenizer, most, WordPiece.of(tokenizer, most)

    @property
    def vocabulary(self) -> list[str]:
        """The tokens that there are."""
        return list(self._tokenizer.get_vocab())

    def __call__(self, texts: Sequence[str] | np.ndarray, spans: np.ndarray | None = None) -> Tokens:
        """texts: n strings. spans: (n, entities, 2) character offsets; entities may be 0, as they are without any."""
        heads = [text[: self._most * 40] for text in texts]
        if spans is None or not spans.shape[1]:
            ids, lengths = self._ids(heads)
            return Tokens(ids, lengths, np.repeat(1 / lengths.astype(np.float32), lengths)[:, None])
        found = self._tokenizer.encode_batch(_whole(heads))
        ids, lengths = _flat([one.ids for one in found])
        offsets = np.fromiter(chain.from_iterable(chain.from_iterable(one.offsets for one in found)),
                              dtype=np.int64, count=2 * len(ids)).reshape(-1, 2)
        return Tokens(ids, lengths, pools(offsets, lengths, np.asarray(spans)))

    def _ids(self, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """Token ids (T,) int32, one text after the other, and the number of tokens of each (n,)."""
        if self._plain and self._plain.takes("\n".join(texts)):
            return self._plain(texts)
        plain = [self._plain is not None and self._plain.takes(text) for text in texts]
        others = [text for text, taken in zip(texts, plain, strict=True) if not taken]
        read = _flat([one.ids for one in self._tokenizer.encode_batch_fast(_whole(others))])
        if self._plain is None or len(others) == len(texts):
            return read
        taken = self._plain([text for text, taken in zip(texts, plain, strict=True) if taken])
        ids, lengths = (np.concatenate(each) for each in zip(taken, read, strict=True))
        both = Tokens(ids, lengths, np.empty((len(ids), 0), dtype=np.float32))
        ordered = both.take(np.argsort(np.argsort(~np.array(plain), kind="stable")))
        return ordered.ids, ordered.lengths


def _flat(lists: list[list[int]]) -> tuple[np.ndarray, np.ndarray]:
    lengths = np.fromiter(map(len, lists), dtype=np.int64, count=len(lists))
    return np.fromiter(chain.from_iterable(lists), dtype=np.int32, count=int(lengths.sum())), lengths


def _whole(texts: Sequence[str]) -> list[str]:
    """Texts whose lone surrogates are question marks: no character moves."""
    return [text.encode("utf-8", "replace").decode() for text in texts]


def pools(offsets: np.ndarray, lengths: np.ndarray, spans: np.ndarray) -> np.ndarray:
    """What to average of each text's tokens: all of them, then those that touch each entity.

    An entity that no token touches, since the text was cut before it, is given all tokens.
    offsets: (T, 2) characters [start, end) of each token, (0, 0) for a special one. lengths: (n,) of the texts, at
    least 1. spans: (n, entities, 2). Returns (T, 1 + entities) float32 that sums to 1 over a text's tokens.
    """
    (start, end), pairs = offsets.T[..., None], np.repeat(spans, lengths, axis=0)
    touches = (start < pairs[..., 1]) & (end > pairs[..., 0]) & (end > start)
    chosen = np.concatenate([np.ones((len(offsets), 1)), touches], axis=1)
    first = _borders(lengths)[:-1]
    chosen[np.repeat(np.add.reduceat(chosen, first) == 0, lengths, axis=0)] = 1
    return (chosen / np.repeat(np.add.reduceat(chosen, first), lengths, axis=0)).astype(np.float32)


def _borders(lengths: np.ndarray) -> np.ndarray:
    """Where each text begins, and the end: (n + 1,)."""
    return np.concatenate([[0], np.cumsum(lengths)])
