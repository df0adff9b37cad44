"""Which heuristics to keep: those that find much of their class, and other texts than those kept already. Pure.

Snuba weighs the F1 of a heuristic with the Jaccard distance of its coverage to that of those kept so far. The same two
enter here, within each class k, as a product,

    gain · distance,    gain = (π − least_k) / (1 − least_k) · |new| / (b_k n),
    distance = 1 − |covered ∩ kept| / |covered ∪ kept|,    least_k = max(b_k + ½ (1 − b_k), 1/K + 0.4 (1 − 1/K)).

As F1, the gain wants precision π and recall, which is of the n texts those that are new, over the share b_k of the
class; it is 0 for a text found before. A heuristic of less than the least precision is not kept. That is half the way
from the share of its class to 1; and for two classes 0.7, where `training.worth` starts from for each source: there, a
rule right 6 times of 10 that often votes is believed too much. The classes take turns, or one that is easily found
would take every place.

Source: Varma and Ré, "Snuba: Automating weak supervision to label training data", VLDB 2019.
"""

import numpy as np
import scipy.sparse as sparse

from training.heuristics.estimates import Estimates

LIFT, BEYOND_CHANCE = 0.5, 0.4


def chosen(
    covers: sparse.csc_matrix, found: Estimates, balance: np.ndarray, most: int, allowed: np.ndarray
) -> list[int]:
    """The columns of covers (n, m) to keep, at most so many, the best first.

    balance: (K,) the shares of the classes. allowed: (K,) for which of them a heuristic may vote.
    """
    chance = 1 / len(balance)
    least = np.maximum(balance + LIFT * (1 - balance), chance + BEYOND_CHANCE * (1 - chance))
    places = np.flatnonzero((found.precision >= least[found.label]) & allowed[found.label])
    ours, label, count = covers[:, places].tocsc(), found.label[places], found.count[places]
    lift = (found.precision[places] - least[label] + 1e-6) / (1 - least[label])
    worth = lift / np.maximum(balance[label] * found.texts, 1)
    shared = np.zeros(len(places))  # texts of each that its class's kept ones cover
    kept, sizes = np.zeros((len(balance), found.texts), dtype=bool), np.zeros(len(balance))
    turns = np.zeros(len(balance))
    picked: list[int] = []
    left = np.ones(len(places), dtype=bool)
    while len(picked) < most and left.any():
        new = count - shared
        score = np.where(left, worth * new * (1 - shared / np.maximum(sizes[label] + new, 1)), 0.0)
        if not (score > 0).any():
            break
        turn = np.where(score > 0, turns[label], np.inf)
        best = int(np.where(turn == turn.min(), score, -1).argmax())
        turns[label[best]] += 1
        picked.append(int(places[best]))
        left[best] = False
        k = label[best]
        rows = ours.indices[ours.indptr[best] : ours.indptr[best + 1]]
        fresh = rows[~kept[k, rows]]
        kept[k, fresh] = True
        sizes[k] += len(fresh)
        shared += np.where(label == k, np.asarray(ours[fresh].sum(axis=0)).ravel(), 0)
    return picked
