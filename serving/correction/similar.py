"""Rows that are like a row, and whose answers are likely right: what the way `similar` shows. Pure.

They are found by the cosine of the texts' embeddings among the rows whose risk is low, of all splits; no gold label
says which answers are right, and no row is shown to itself.
"""

import numpy as np

from training.audit_result import Guarantee

SHOWN = 3
LOW_RISK = 0.1
CELLS = 8_000_000  # cosines held at a time


def low_risk(guarantee: Guarantee | None) -> float:
    """The highest risk of a row that may be shown: the version's guaranteed threshold, or `LOW_RISK` without one."""
    threshold = guarantee.threshold if guarantee else None
    return LOW_RISK if threshold is None else threshold


def similar_rows(vectors: np.ndarray, rows: np.ndarray, trusted: np.ndarray, count: int = SHOWN) -> np.ndarray:
    """The indices (k, count) of the trusted rows that are most like the rows (k,), the likest first; -1 = no more.

    vectors: (n, width) of length 1. trusted: (n,) whether a row may be shown; none is, to itself.
    """
    pool = np.flatnonzero(trusted)
    found = np.full((len(rows), count), -1, dtype=np.int64)
    take = min(count + 1, len(pool))
    if not take or not count:
        return found
    step = max(1, CELLS // len(pool))
    for start in range(0, len(rows), step):
        chunk = rows[start : start + step]
        cosines = vectors[chunk] @ vectors[pool].T
        cosines[pool[None, :] == chunk[:, None]] = -np.inf
        best = np.argpartition(-cosines, take - 1, axis=1)[:, :take]
        score = np.take_along_axis(cosines, best, axis=1)
        order = np.lexsort((best, -score), axis=1)[:, :count]
        best, score = np.take_along_axis(best, order, axis=1), np.take_along_axis(score, order, axis=1)
        found[start : start + step, : best.shape[1]] = np.where(np.isinf(score), -1, pool[best])
    return found
