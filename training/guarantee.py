"""A threshold with a guarantee: accept every answer with risk ≤ t, and the error rate among them is under α. Pure.

It rests on the k cells of equal size s of `training.audit`: the k·s safest answers of split valid, in the order of
their label-free risk, one drawn at random from each cell, so that of the answers below the border of cell j exactly
j are checked. That order was learned from votes, not from labels. A recalibration never changes it, so the same
labels may serve the recalibration as well. The threshold is given on the recalibrated scale, between the risks on
both sides of its border.

At the border of cell j suppose that more than α·j·s of the answers below it are wrong, E = ⌊α·j·s⌋ + 1 or more. The
number found wrong is a sum of j independent draws, wrong with probabilities E_i / s, Σ E_i = E. Of all ways to spread
E errors over the cells, the most even one makes small numbers found most likely, up to numbers of E / s − 2: moving
an error from a fuller to an emptier cell changes P(X ≤ c) by a positive multiple of P(Y = c) − P(Y = c − 1), Y being
the sum over the other cells, and the probabilities of such a sum rise up to its mean (the argument of Hoeffding 1956;
Darroch 1964 for the mode). So

    p_j = P(A + B ≤ found),    A ~ Binomial(j − e, q / s),    B ~ Binomial(e, (q + 1) / s),    E = q·j + e

is a p-value, exact for a finite number of answers; for large cells it is that of a plain binomial test. The borders
are tested in order, the safest first, each at level δ, until one fails (fixed-sequence testing; Angelopoulos et al.,
"Learn then Test", arXiv 2110.01052): the first border that breaks the promise passes with a probability of δ at most,
so t, the last that passed, keeps it with confidence 1 − δ. Nothing is assumed about what the risk is worth. To lose
no power early, only borders at which one more wrong label begins to be allowed are tested, and the last one.

It speaks of the answers it was drawn from. For later ones it holds as far as these resemble them.
"""

import math
from dataclasses import dataclass

import numpy as np
from scipy.stats import binom

from training.audit import Audited, order
from training.audit_result import UNCHANGED, Guarantee, Recalibration
from training.errors import InputError

FIRST = 0.3
APART = 1e-12  # risks that differ by less are equal once they have been rounded
NO_CELLS = ("no threshold: a guarantee rests on rows drawn at random from split valid, and the audit has none. Draw "
            "one with polarscore train --audit, from data that has such a split.")
MOVED = ("no threshold: the risks rank the answers otherwise than when the rows were drawn. Train with the same data "
         "and configuration as then, or draw a new audit.")


@dataclass(frozen=True)
class Look:
    """A border to test: after how many cells, and how many labels may be wrong below it."""

    cells: int
    allowed: int


def p_value(found: np.ndarray, cells: int, size: int, errors: int) -> np.ndarray:
    """P(A + B ≤ found) for numbers found wrong (n,) in one draw from each of the cells of `size` answers: (n,).

    errors: E, the fewest that break the promise. Where `found` is too near its mean for the proof, 1.
    """
    if errors > cells * size:
        return np.zeros(len(found))
    each, extra = divmod(errors, cells)
    top = min(cells, errors // size)  # the proof and the tests need no more of the tail
    few = binom.pmf(np.arange(min(cells - extra, top) + 1), cells - extra, each / size)
    more = binom.pmf(np.arange(min(extra, top) + 1), extra, min((each + 1) / size, 1.0))
    tail = np.minimum(np.cumsum(np.convolve(few, more)), 1)
    return np.where(found <= errors / size - 2, tail[np.minimum(found, top)], 1.0)


def looks(size: int, alpha: float, delta: float, borders: np.ndarray) -> list[Look]:
    """The borders to test, in order: where one more may be wrong, from 0.3 of the cells on, and the last one.

    borders: (cells,) whether there is a border after that cell, i.e. no tie of risks across it.
    """
    found, before, last = [], -1, None
    for cells in np.flatnonzero(borders) + 1:
        errors = _fewest(alpha, int(cells) * size)
        allowed = int((p_value(np.arange(errors // size + 1), int(cells), size, errors) <= delta).sum()) - 1
        last = Look(int(cells), allowed)
        if allowed > before:
            found.append(last)
        before = max(before, allowed)
    found = [look for look in found if look.cells >= FIRST * len(borders)]
    return [*found, last] if last and last.allowed >= 0 and last not in found else found


def passed(wrong: np.ndarray, tested: list[Look]) -> np.ndarray:
    """How many of the looks pass, in order, until one fails. wrong: (trials, cells) of 0 and 1. Returns (trials,)."""
    if not tested:
        return np.zeros(len(wrong), dtype=np.int64)
    found = np.cumsum(wrong, axis=1)[:, [look.cells - 1 for look in tested]]
    return np.logical_and.accumulate(found <= np.array([look.allowed for look in tested]), axis=1).sum(axis=1)


def guarantee(
    risk: np.ndarray, splits: np.ndarray, answers: np.ndarray, audited: Audited, alpha: float = 0.10,
    delta: float = 0.10, recalibration: Recalibration = UNCHANGED,
) -> Guarantee:
    """The threshold that the checked rows allow. A row not yet checked counts as wrong, so that none can be left out.

    risk: (rows,) label-free, NaN where there is no answer, as at the draw. splits, answers: (rows,).
    recalibration: whose scale the threshold is to be on.

    Raises:
        InputError: alpha or delta is not between 0 and 1.
    """
    for name, value in (("alpha", alpha), ("delta", delta)):
        if not 0 < value < 1:
            raise InputError(f"{name} should lie between 0 and 1. Found {value}.")
    pool = np.flatnonzero((splits == "valid") & ~np.isnan(risk))
    used = np.flatnonzero(audited.cell >= 0)
    if not len(used):
        return Guarantee(alpha, delta, None, 0.0, 1.0, 0, NO_CELLS)
    labels, size = int(audited.checked[used].sum()), round(1 / audited.probability[used[0]])
    ranked = pool[order(risk[pool])]
    cells = int(audited.cell[used].max()) + 1
    if not _as_drawn(ranked, audited, used, size, cells):
        return Guarantee(alpha, delta, None, 0.0, 1.0, labels, MOVED)
    wrong = np.ones(cells, dtype=np.int64)
    right = audited.checked[used] & (audited.labels[used] == answers[audited.rows[used]])
    wrong[audited.cell[used][right]] = 0
    ordered = np.append(risk[ranked], np.inf)
    shown = np.append(recalibration.apply(risk[ranked]), np.inf)
    ends = np.arange(1, cells + 1) * size
    tested = looks(size, alpha, delta, ordered[ends - 1] < ordered[ends])
    kept = [look.cells for look in tested[: int(passed(wrong[None], tested)[0])]
            if shown[look.cells * size - 1] + APART < shown[look.cells * size]]
    if not kept:
        return Guarantee(alpha, delta, None, 0.0, 1.0, labels, _none(wrong, tested, alpha, delta))
    taken = kept[-1]
    below, above = shown[taken * size - 1], shown[taken * size]
    threshold = min(float(below + (APART if above == np.inf else (above - below) / 2)), 1.0)
    upper = _upper(int(wrong[:taken].sum()), taken, size, delta)
    accepted = taken * size / len(pool)
    return Guarantee(alpha, delta, threshold, accepted, upper, labels, (
        f"accepting every answer with a risk of at most {threshold:.4g} keeps the error rate among the accepted at or "
        f"under {alpha:g} with confidence {1 - delta:g}. It accepts {accepted:.0%} of the answers of split valid; "
        f"{int(wrong[:taken].sum())} of {taken} rows drawn from these were wrong or not checked."))


def _as_drawn(ranked: np.ndarray, audited: Audited, used: np.ndarray, size: int, cells: int) -> bool:
    """Whether each row lies in its cell, one a cell, all drawn with probability 1 / size."""
    places = np.full(int(max(ranked.max(initial=0), audited.rows.max())) + 1, -1)
    places[ranked] = np.arange(len(ranked))
    return bool((places[audited.rows[used]] // size == audited.cell[used]).all()
                and np.allclose(audited.probability[used] * size, 1, atol=1e-6)
                and len(set(audited.cell[used])) == len(used) and cells * size <= len(ranked))


def _fewest(alpha: float, answers: int) -> int:
    """The fewest errors among so many answers that are more than a share alpha of them."""
    return math.floor(alpha * answers + 1e-9) + 1


def _upper(found: int, cells: int, size: int, delta: float) -> float:
    """The largest error rate that a level-δ test does not reject, by bisection over whole numbers of errors."""
    low, high = found, cells * size + 1  # high is rejected
    while high - low > 1:
        middle = (low + high) // 2
        rejected = p_value(np.array([found]), cells, size, middle)[0] <= delta
        low, high = (low, middle) if rejected else (middle, high)
    return low / (cells * size)


def _none(wrong: np.ndarray, tested: list[Look], alpha: float, delta: float) -> str:
    if not tested:
        return (f"no threshold: {len(wrong)} rows drawn at random are too few to promise an error rate of {alpha:g} "
                f"with confidence {1 - delta:g}, however they turn out, or too many risks are equal.")
    first = tested[0]
    return (f"no threshold: of the {first.cells} rows drawn from the safest answers, {int(wrong[: first.cells].sum())} "
            f"were wrong or not checked. At most {first.allowed} would do for an error rate of {alpha:g}.")
