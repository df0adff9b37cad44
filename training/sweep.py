"""A sweep of preferences: small fits that trace the Pareto front between groups of sources.

A preference λ over the G groups becomes Pareto weights under which every vote of a group counts the same, so that
`linear` minimises Σ_g λ_g L_g, L_g being the group's mean loss a vote. Its value is measured on held-out rows, by
agreement with the sources alone.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import nn

from training.aggregation import objectives_of
from training.fit import FitConfig, Voted, fit
from training.front import Front, directions, front_of
from training.pareto import source_losses
from training.task import ABSTAIN

LLM_AND_SOURCES, FAMILIES = "llm_and_sources", "families"
CHOSEN_ON = LLM_AND_SOURCES
EPOCHS = 15
ROWS = 10_000


def fronts(families: Sequence[str], train: Voted, held_out: Voted, classes: int, config: FitConfig) -> dict[str, Front]:
    """`llm_and_sources`, between the LLM's family and all others; and `families`, between all, if there are three.

    families: (m,) of the sources, the LLM first. A front that has fewer than two objectives with a vote is left out.
    """
    own = np.array([int(family != families[0]) for family in families])
    found = {LLM_AND_SOURCES: trace(own, ("LLM", "other sources"), train, held_out, classes, config)}
    apart = objectives_of(families)
    if apart.max() > 1:
        found[FAMILIES] = trace(apart, tuple(dict.fromkeys(families)), train, held_out, classes, config)
    return {name: front for name, front in found.items() if front is not None}


def trace(
    objectives: np.ndarray, names: Sequence[str], train: Voted, held_out: Voted, classes: int, config: FitConfig
) -> Front | None:
    """One fit for each of at most 16 preferences, with at most 10,000 rows and 15 epochs; None without two objectives.

    An objective without a vote to train on is left out, and its sources get the weight 0; one without a held-out
    vote is measured on the rows trained on. objectives: (m,) numbers, from 0, of the `names`.
    """
    train, held_out = _some(train, config.seed), _some(held_out, config.seed)
    members = np.stack([objectives == kind for kind in range(len(names))]).astype(float)  # (G, m)
    heard = members @ _votes(train) > 0
    if heard.sum() < 2:
        return None
    members, names = members[heard], [name for name, kept in zip(names, heard, strict=True) if kept]
    preferences = directions(len(names))
    weights = preferences @ (members / (members @ _votes(train))[:, None])
    weights /= weights.sum(axis=1, keepdims=True)
    quick = replace(config, scalariser="linear", epochs=min(config.epochs, EPOCHS))
    losses = np.stack([_losses(fit(train, held_out, classes, each, quick).harmonizer, members, train, held_out)
                       for each in weights])
    return front_of(names, preferences, weights, losses, classes)


def _losses(harmonizer: nn.Module, members: np.ndarray, train: Voted, held_out: Voted) -> np.ndarray:
    """Each objective's mean loss a vote: (G,)."""
    found = []
    for rows in (held_out, train):
        with torch.inference_mode():
            log_h = harmonizer(torch.from_numpy(rows.vectors)).numpy()
        votes = members @ _votes(rows)
        total = members @ source_losses(rows.votes, log_h) * len(rows.votes)
        found.append(np.divide(total, votes, out=np.full(len(votes), np.nan), where=votes > 0))
    return np.where(np.isnan(found[0]), found[1], found[0])


def _votes(rows: Voted) -> np.ndarray:
    return (rows.votes != ABSTAIN).sum(axis=0)


def _some(rows: Voted, seed: int) -> Voted:
    if len(rows.votes) <= ROWS:
        return rows
    kept = np.sort(np.random.default_rng(seed).choice(len(rows.votes), ROWS, replace=False))
    return Voted(rows.vectors[kept], rows.votes[kept])
