"""Packs: texts of similar length that go through a network together, by a budget of tokens. Pure."""

from collections.abc import Iterator

import numpy as np


def packs(lengths: np.ndarray, budget: int) -> Iterator[np.ndarray]:
    """Rows in packs of at most `budget` tokens, or of one row; from the shortest to the longest, without padding.

    lengths: (n,) tokens, at least 1. Yields indices, sorted by length within a pack; every row occurs in one pack.
    """
    order = np.argsort(lengths, kind="stable")
    ends, start = np.cumsum(lengths[order]), 0
    while start < len(order):
        before = ends[start - 1] if start else 0
        stop = max(int(np.searchsorted(ends, before + budget, side="right")), start + 1)
        yield order[start:stop]
        start = stop


def padded(lengths: np.ndarray, budget: int) -> Iterator[np.ndarray]:
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


def runs(lengths: np.ndarray) -> Iterator[tuple[int, int, int]]:
    """Neighbours of equal length as (first token, texts, length).

    lengths: (n,) tokens of a pack's texts, in its order.
    """
    edges = np.flatnonzero(np.diff(lengths, prepend=-1, append=-1))
    starts = np.concatenate([[0], np.cumsum(lengths)])
    for first, last in zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True):
        yield int(starts[first]), last - first, int(lengths[first])
