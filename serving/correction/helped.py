"""Did asking again help? Right answers kept, wrong ones mended, and accuracy by threshold. Pure, and measuring only.

As in Xie et al., "Confidence v.s. Critique" (arXiv 2412.19513): the confidence level is the share of right answers
that stay right, the critique score the share of wrong ones that become right; the first shows how an LLM holds on to
what it knows, the second how it finds what it does not. A row without a first answer is one that is wrong.
"""

from dataclasses import dataclass

import numpy as np

from training.calibration import TIE_DECIMALS, wilson


@dataclass(frozen=True)
class Share:
    """A share of n, with Wilson's 95 % interval."""

    value: float
    low: float
    high: float
    n: int


@dataclass(frozen=True)
class Effect:
    """What asking some rows again made of the answers.

    asked: how many. accuracy: of all rows, asked or not. confidence_level, critique_score: among those asked; None
    where there is none to tell by. mended, spoiled: wrong answers that became right, and the other way round.
    questions_per_mended, cost_per_mended: of one more right answer, net of those spoiled; None where there is none.
    """

    asked: int
    accuracy: float
    confidence_level: Share | None
    critique_score: Share | None
    mended: int
    spoiled: int
    questions_per_mended: float | None
    cost_per_mended: float | None


@dataclass(frozen=True)
class Curve:
    """Accuracy of all n rows if those with a risk above a threshold are asked, for every threshold: (t,) each.

    threshold: the lowest risk that is asked, falling; NaN, the first entry, asks nobody, and inf, where it is there,
    only the rows without an answer, which have no risk. share: of the rows, asked, rising from 0. kept: accuracy if the
    better answer is kept by risk. blind: if new answers replace the first.
    """

    threshold: np.ndarray
    share: np.ndarray
    kept: np.ndarray
    blind: np.ndarray


def effect(before: np.ndarray, after: np.ndarray, asked: np.ndarray, cost: float | None = None) -> Effect:
    """before, after: (n,) whether the answers are right. asked: (n,). cost: of one question, None = unknown."""
    mended, spoiled = int((~before & after).sum()), int((before & ~after).sum())
    net, questions = mended - spoiled, int(asked.sum())
    return Effect(
        asked=questions, accuracy=float(after.mean()),
        confidence_level=share(after[asked & before]), critique_score=share(after[asked & ~before]),
        mended=mended, spoiled=spoiled,
        questions_per_mended=questions / net if net > 0 else None,
        cost_per_mended=questions * cost / net if net > 0 and cost is not None else None,
    )


def share(hits: np.ndarray) -> Share | None:
    """The share of hits (n,); None without a row."""
    if not len(hits):
        return None
    value = float(hits.mean())
    low, high = wilson(np.array(value), np.array(len(hits)))
    return Share(value, float(low), float(high), len(hits))


def curve(risk: np.ndarray, before: np.ndarray, kept: np.ndarray, blind: np.ndarray, able: np.ndarray) -> Curve:
    """How accuracy goes as more rows are asked, the riskiest first.

    risk: (n,) NaN, no answer, comes first. before, kept, blind: (n,) 0 or 1, or how probable it is to be right, of the
    first answer, the one kept by risk if the row is asked, and the new one. able: (n,) the rows that can be asked.
    Rows of one risk are asked together.
    """
    n = len(risk)
    rows = np.flatnonzero(able)
    ranked = np.where(np.isnan(risk[rows]), np.inf, np.round(risk[rows], TIE_DECIMALS))
    order = np.argsort(-ranked, kind="stable")
    rows, ranked = rows[order], ranked[order]
    ends = np.flatnonzero(np.append(ranked[1:] != ranked[:-1], True)) if len(rows) else np.empty(0, dtype=np.int64)
    first = float(before.mean())

    def risen(after: np.ndarray) -> np.ndarray:
        gained = np.cumsum(after[rows].astype(np.float64) - before[rows]) / n
        return np.concatenate([[first], first + gained[ends]])

    return Curve(np.concatenate([[np.nan], ranked[ends]]), np.concatenate([[0.0], (ends + 1) / n]),
                 risen(kept), risen(blind))
