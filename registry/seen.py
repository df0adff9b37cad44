"""What a version makes of rows, and what of it can be seen without labels. Pure, given the encoder."""

import numpy as np

from registry.gate_facts import Seen
from training.beliefs import Encode
from training.model import RiskModel
from training.scoring import fitted, known_to
from training.sources import ABSTAIN
from training.table import Table

MOST_VOTES = 200_000
"""How many votes are taken away, one after the other; of more, those of some rows, drawn by chance."""


def seen_by(model: RiskModel, table: Table, encode: Encode, alone: bool) -> tuple[np.ndarray, Seen]:
    """The risks (n,) that a version gives a task's answers, NaN without one, and what it makes of the rows.

    Sources that are new to the version are left out of its risks, and are asked whether the harmonizer agrees all the
    same, so that two versions are compared on the same votes. alone: also find who decides alone.

    Raises:
        InputError: the task's classes or entities are not the version's.
    """
    rows = fitted(model, known_to(model, table))
    beliefs = model.beliefs(rows.texts, rows.spans, encode)
    scores = model.judge(beliefs, rows.answers, rows.votes)
    cast = np.column_stack([table.answers, table.votes])
    voted = cast != ABSTAIN
    agreed = (cast == scores.harmonizer_answers[:, None])[voted]
    known = rows.votes != ABSTAIN
    return scores.risk, Seen(
        agreement=float(agreed.mean()) if len(agreed) else None,
        coverage=float(known.any(axis=1).mean()) if len(known) else None,
        sources=tuple(source.name for source in rows.sources),
        decided_alone=decided_alone(model, beliefs, rows.answers, rows.votes, scores.risk)
        if alone and len(rows.sources) > 1 else None,
    )


def decided_alone(
    model: RiskModel, beliefs: np.ndarray, answers: np.ndarray, votes: np.ndarray, risk: np.ndarray
) -> np.ndarray:
    """Whether a row's risk crosses 1/2 if one vote is taken away and nothing else: (rows, m), False where none is.

    beliefs (n, K), answers (n,), votes (n, m), and the risk (n,) by all of them. The row is judged anew without the
    vote, so the other votes count as more where they had repeated it. Of at most `MOST_VOTES` votes.
    """
    voted = votes != ABSTAIN
    if voted.sum() > MOST_VOTES:
        order = np.random.default_rng(0).permutation(len(votes))
        some = np.sort(order[voted[order].sum(axis=1).cumsum() <= MOST_VOTES])
        beliefs, answers, votes, risk, voted = beliefs[some], answers[some], votes[some], risk[some], voted[some]
    row, source = np.nonzero(voted)
    without = votes[row]
    without[np.arange(len(row)), source] = ABSTAIN
    after = model.judge(beliefs[row], answers[row], without).risk
    found = np.zeros(votes.shape, dtype=bool)
    found[row, source] = (after > 0.5) != (risk[row] > 0.5)
    return found
