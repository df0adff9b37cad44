"""Texts to batches of tokens that know which of them belong to the entities that a task marks."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from training.encoder import MAX_TOKENS


@dataclass(frozen=True)
class Batch:
    """Padded tokens. ids, mask: (n, length). pools: (n, 1 + entities, length), weights of which each row sums to 1."""

    ids: Tensor
    mask: Tensor
    pools: Tensor


@dataclass(frozen=True)
class Tokens:
    """n tokenised texts, not yet padded: ids, a list of token ids each; pools, an array (1 + entities, length) each."""

    ids: list[list[int]]
    pools: list[np.ndarray]

    @property
    def lengths(self) -> np.ndarray:
        """Tokens of each text, the special ones included: (n,)."""
        return np.fromiter(map(len, self.ids), dtype=np.int64, count=len(self.ids))

    def batch(self, rows: np.ndarray, device: str = "cpu") -> Batch:
        """These rows, padded to the longest of them."""
        ids = np.zeros((len(rows), self.lengths[rows].max()), dtype=np.int64)
        mask = np.zeros_like(ids)
        pools = np.zeros((len(rows), len(self.pools[0]), ids.shape[1]), dtype=np.float32)
        for place, row in enumerate(rows):
            length = len(self.ids[row])
            ids[place, :length], mask[place, :length], pools[place, :, :length] = self.ids[row], 1, self.pools[row]
        return Batch(*(torch.from_numpy(array).to(device) for array in (ids, mask, pools)))


class Reader:
    """Texts to tokens, cut at 256. Immutable, and safe to share between threads.

    tokenizer: a `tokenizers.Tokenizer`, which tells each token's place in the text.
    """

    def __init__(self, tokenizer: Any, most: int = MAX_TOKENS):
        self._tokenizer, self._most = tokenizer, most
        tokenizer.enable_truncation(most)
        tokenizer.no_padding()

    def __call__(self, texts: np.ndarray, spans: np.ndarray) -> Tokens:
        """texts: (n,) strings. spans: (n, entities, 2) character offsets; entities may be 0."""
        heads = [text[: self._most * 40].encode("utf-8", "replace").decode() for text in texts]
        found = self._tokenizer.encode_batch(heads)
        return Tokens([one.ids for one in found],
                      [pools(np.array(one.offsets), pairs) for one, pairs in zip(found, spans, strict=True)])


def pools(offsets: np.ndarray, spans: np.ndarray) -> np.ndarray:
    """What to average of a text's tokens: all of them, then those that touch each entity. Rows sum to 1.

    An entity that no token touches, since the text was cut before it, is given all tokens.
    offsets: (length, 2) characters [start, end) of each token, (0, 0) for a special one. spans: (entities, 2).
    Returns (1 + entities, length) float32.
    """
    start, end = offsets.T
    touches = (start < spans[:, 1:]) & (end > spans[:, :1]) & (end > start)
    touches |= ~touches.any(axis=1, keepdims=True)
    chosen = np.concatenate([np.ones((1, len(offsets))), touches])
    return (chosen / chosen.sum(axis=1, keepdims=True)).astype(np.float32)


def within(lengths: np.ndarray, budget: int) -> Iterator[np.ndarray]:
    """Rows in batches of similar length, each of at most `budget` tokens once padded, or of one row.

    lengths: (n,) tokens. Yields indices; every row occurs in one batch.
    """
    batch: list[int] = []
    for row in np.argsort(lengths, kind="stable"):  # ascending: a batch is padded to its last row
        if batch and (len(batch) + 1) * lengths[row] > budget:
            yield np.array(batch)
            batch = []
        batch.append(int(row))
    if batch:
        yield np.array(batch)
