"""A table of points for phrases that says what the opinion says, as far as words can: fitted, rounded, readable. Pure.

Ridge regression of the centred log-beliefs on the presence of all phrases, and again on that of those that weigh most
there. It weighs many weak words where the other heuristics go by one strong phrase.
"""

import numpy as np
import scipy.sparse as sparse
from sklearn.linear_model import Ridge

from training.heuristics.estimates import PRIOR_LABELS, Estimate, estimate
from training.heuristics.opinion import FOLDS, Opinion
from training.heuristics.stumps import Points
from training.task import ABSTAIN

PHRASES = 150
LEAST = 1e-3
PENALTY = 5.0
LEADS = (0, 5, 10, 15, 20)
"""In points, tenths of a natural log: with 10, e times as believed."""


def fitted(covers: sparse.csc_matrix, beliefs: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Which columns of covers (n, m), p of them, their points (p, K) and the base (K,): whole numbers from 0."""
    target = np.log(np.maximum(beliefs, LEAST))
    target = target - target.mean(axis=1, keepdims=True)
    count = np.asarray(covers.sum(axis=0)).ravel()
    whole = Ridge(PENALTY, solver="sparse_cg", tol=1e-6).fit(covers.tocsr(), target)
    telling = np.linalg.norm(whole.coef_.reshape(-1, covers.shape[1]), axis=0) * np.sqrt(count)
    columns = np.sort(np.argsort(-np.round(telling, 3), kind="stable")[:PHRASES])
    ours = covers[:, columns].tocsr()
    means = count[columns] / len(beliefs)
    gram = (ours.T @ ours).toarray().astype(np.float64) - len(beliefs) * np.outer(means, means)
    points = np.linalg.solve(gram + PENALTY * np.eye(len(columns)), ours.T @ (target - target.mean(axis=0)))
    base = target.mean(axis=0) - means @ points
    return columns, _whole(points), _whole(base[None])[0]


def votes(
    covers: sparse.csc_matrix, columns: np.ndarray, points: np.ndarray, base: np.ndarray, lead: int
) -> np.ndarray:
    """The votes (n,) of such a table where the first class leads by at least so much."""
    ours = covers[:, columns]
    total = np.rint(ours @ points.astype(np.float64)).astype(np.int64) + base
    ordered = np.sort(total, axis=1)
    said = np.asarray(ours[:, points.any(axis=1)].sum(axis=1)).ravel() > 0
    return np.where(said & (ordered[:, -1] - ordered[:, -2] >= lead), total.argmax(axis=1), ABSTAIN).astype(np.int16)


def _whole(logits: np.ndarray) -> np.ndarray:
    """Tenths, the least of each row 0."""
    tenths = np.rint(10 * logits).astype(np.int64)
    return tenths - tenths.min(axis=1, keepdims=True)


def card_of(
    covers: sparse.csc_matrix, phrases: list[str], opinion: Opinion, rows: np.ndarray, labels: np.ndarray
) -> tuple[Points, Estimate] | None:
    """The table with the lead that is best by F1 out of fold; None where no phrase has points. phrases: m names."""
    if not phrases:
        return None
    parts = [fitted(covers, opinion.without[fold]) for fold in range(FOLDS)]
    whole = fitted(covers, opinion.beliefs)
    best: tuple[float, int, Estimate] | None = None
    for lead in LEADS:
        said = votes(covers, *whole, lead)
        voted = said != ABSTAIN
        if not voted.any():
            continue
        told = np.stack([votes(covers[rows], *part, lead) for part in parts])[opinion.folds, np.arange(len(rows))]
        right, seen = int((told == labels).sum()), int((told != ABSTAIN).sum())
        believed = float(opinion.beliefs[voted, said[voted]].mean())
        precision = (right + PRIOR_LABELS * believed) / (seen + PRIOR_LABELS)
        f1 = 2 * precision / (1 + 1 / float(voted.mean()))  # of precision, and of precision · coverage as the recall
        if best is None or f1 > best[0]:
            best = f1, lead, estimate(int(voted.sum()), len(said), right, seen, believed)
    if best is None:
        return None
    columns, points, base = whole
    table = {phrases[column]: {k: int(value) for k, value in enumerate(each) if value}
             for column, each in zip(columns, points, strict=True) if each.any()}
    return Points(tuple(map(int, base)), table, best[1]), best[2]
