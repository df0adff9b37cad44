"""The queue for people: which answers to check next, drawn with known probabilities."""

import numpy as np
import pandas as pd

UNIFORM_SHARE = 0.3


def choose(frame: pd.DataFrame, budget: int, seed: int, uniform_share: float = UNIFORM_SHARE) -> pd.DataFrame:
    """Draw `budget` answers with a risk and without a label: score_id, item_id, risk, probability.

    probability: how likely the answer was to be drawn, so that an estimate over all unlabelled answers
    weighs each drawn one by 1/probability (Horvitz and Thompson). Risky answers are likelier, and every
    answer has a chance: probability ∝ uniform_share · 1/n + (1 − uniform_share) · risk/Σ risk, at most 1,
    in sum the budget.

    In random order, so that whoever stops early has drawn at random too. With too few answers, all of them.
    """
    if budget < 0:
        raise ValueError(f"budget should be 0 or more. Found {budget}.")
    if not 0 < uniform_share <= 1:
        raise ValueError(f"uniform_share should lie in (0, 1]. Found {uniform_share}.")
    open_rows = frame.loc[frame["label"].isna() & frame["risk"].notna(), ["score_id", "item_id", "risk"]]
    probability = inclusion(open_rows["risk"].to_numpy(float), budget, uniform_share)
    drawn = systematic(probability, np.random.default_rng(seed))
    return open_rows.iloc[drawn].assign(probability=probability[drawn]).reset_index(drop=True)


def inclusion(risk: np.ndarray, budget: int, uniform_share: float) -> np.ndarray:
    """The probability of each row to be drawn, (n,); in sum the budget, or n where that is less."""
    n = len(risk)
    if budget >= n:
        return np.ones(n)
    pull = uniform_share + (1 - uniform_share) * risk / (risk.mean() or 1.0)
    certain = np.zeros(n, dtype=bool)
    while True:  # rows that would get more than 1 get 1, and the rest share what is left
        left = budget - certain.sum()
        probability = np.where(certain, 1.0, left * pull / pull[~certain].sum())
        if not (probability > 1).any():
            return probability
        certain |= probability >= 1


def systematic(probability: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Rows drawn with the given probabilities, as many as they sum to, in random order.

    Every row covers a piece of a line as long as its probability, in random order; points at distance 1
    from each other, starting anywhere in [0, 1), mark the rows drawn (Madow).
    """
    order = generator.permutation(len(probability))
    ends = np.cumsum(probability[order])
    points = generator.random() + np.arange(round(probability.sum()))
    drawn = order[np.minimum(np.searchsorted(ends, points, side="right"), len(order) - 1)]
    return generator.permutation(drawn)
