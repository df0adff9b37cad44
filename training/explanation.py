"""Why an answer has its risk: what the text and each vote add, for and against it. Pure.

The evidence is told for a class a, the LLM's answer, against its strongest rival r, the most probable of the others.
There it adds up, exactly, to the log-odds of the two by the text and the votes (`training.worth`):

    log p(a | x, votes) / p(r | x, votes) = log s[a] / s[r] + Σ_j w_j (L_j[λ_j, a] − L_j[λ_j, r])

s being the beliefs of the harmonizer, sharpened, and the LLM one of the sources j. Above 0 speaks for a. The risk takes
this sum with the reserve of `training.risk`, counts all classes, and is recalibrated where an audit allowed it.
Where the LLM gave no answer, there is no risk, and a is the most probable class.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from training.beliefs import Encode
from training.encoder import passages
from training.errors import InputError
from training.model import RiskModel
from training.risk import risk, sharpened, with_votes
from training.scoring import score_table
from training.table import Table
from training.task import ABSTAIN, LLM, Source
from training.worth import vote_weights

EXCERPT = 80


@dataclass(frozen=True)
class Said:
    """What one source says of a row.

    agrees: with the LLM's answer; None without one. accuracy: how often such a vote of it is believed to be right.
    counts_as: how many independent votes this one counts as, at most 1. log_odds: what it adds for a against r.
    evidence: what its votes rest on, as `sources.py` or `task.toml` says it in words; empty where they do not.
    """

    source: str
    family: str
    vote: str
    agrees: bool | None
    accuracy: float
    counts_as: float
    log_odds: float
    evidence: str


@dataclass(frozen=True)
class Similar:
    """Another row, by the cosine of the texts' embeddings. text: how it begins, None unless asked for."""

    id: str
    similarity: float
    answer: str | None
    risk: float | None
    text: str | None = None


@dataclass(frozen=True)
class Explanation:
    """One row explained; classes and sources by their names, absence as None.

    risk: that the LLM's answer is wrong; label_free_risk: the same before `checked_answers` recalibrated it.
    harmonizer_answer: by the text alone, and how probable it is to the harmonizer, not yet sharpened. probabilities:
    of the classes, as the risk has them. favoured, rival: a and r; log_odds, for a against r, is the sum of
    text_log_odds and the log_odds of the votes. votes: of all that voted, the LLM first, the others by how much they
    add. abstained: how many did not.
    """

    id: str
    answer: str | None
    risk: float | None
    label_free_risk: float | None
    checked_answers: int
    harmonizer_answer: str
    harmonizer_probability: float
    probabilities: dict[str, float]
    favoured: str
    rival: str
    log_odds: float
    text_log_odds: float
    votes: tuple[Said, ...]
    abstained: int
    similar: tuple[Similar, ...] = ()


def explain(model: RiskModel, beliefs: np.ndarray, answer: int, votes: np.ndarray, row: str = "") -> Explanation:
    """Explain a row by the harmonizer's beliefs (K,) in its text, the LLM's answer and the votes (m,), -1 = none.

    The risk is the one that `model.judge` gives the row. row: its id.
    """
    classes, worth, power = model.spec.classes, model.worth, model.spec.sharpness
    said = np.concatenate([[answer], votes]).astype(np.int64)
    voted = np.flatnonzero(said != ABSTAIN)
    weights = vote_weights(said[None], worth.dependence)[0, voted].astype(np.float64)
    by_text = np.log(np.maximum(sharpened(beliefs[None], power)[0], 1e-9))
    by_votes = weights[:, None] * worth.evidence[voted, said[voted]]
    total = by_text + by_votes.sum(axis=0)
    favoured = int(total.argmax()) if answer == ABSTAIN else int(answer)
    rival = int(np.where(np.arange(len(classes)) == favoured, -np.inf, total).argmax())
    own = np.array([answer])
    label_free = risk(with_votes(beliefs[None], own, votes[None], worth, power), own)
    scores = model.judge(beliefs[None], own, votes[None])
    return Explanation(
        id=row, answer=None if answer == ABSTAIN else classes[answer], risk=_told(scores.risk[0]),
        label_free_risk=_told(label_free[0]), checked_answers=model.spec.recalibration.labels,
        harmonizer_answer=classes[scores.harmonizer_answers[0]], harmonizer_probability=float(beliefs.max()),
        probabilities=dict(zip(classes, map(float, scores.probabilities[0]), strict=True)),
        favoured=classes[favoured], rival=classes[rival], log_odds=float(total[favoured] - total[rival]),
        text_log_odds=float(by_text[favoured] - by_text[rival]),
        votes=_votes(model, said, weights, by_votes[:, favoured] - by_votes[:, rival]),
        abstained=int((votes == ABSTAIN).sum()),
    )


def explain_row(
    model: RiskModel, encode: Encode, table: Table, row: str, similar: int = 0, excerpts: bool = False
) -> Explanation:
    """Explain the row with an id, of a table as `training.scoring.fitted` makes it, beside rows that are similar.

    similar: at most how many. excerpts: tell how the texts of these begin.

    Raises:
        InputError: the table has no such row.
    """
    places = np.flatnonzero(table.ids.astype(str) == row)
    if not len(places):
        raise InputError(f"no row has the id '{row}'. The data has {len(table)} rows, the first is '{table.ids[0]}'.")
    place = int(places[0])
    beliefs = model.beliefs(table.texts[places], table.spans[places], encode)[0]
    found = explain(model, beliefs, int(table.answers[place]), table.votes[place], row)
    if not similar or len(table) == 1:
        return found
    near, cosines = nearest(encode(passages(table.texts, table.spans)), place, similar)
    others = table.rows(near)
    risks = score_table(model, encode, others).risk
    names = [*table.classes, None]
    return replace(found, similar=tuple(
        Similar(str(i), float(cosine), names[answer], _told(r), _excerpt(text) if excerpts else None)
        for i, cosine, answer, r, text in zip(others.ids, cosines, others.answers, risks, others.texts, strict=True)))


def nearest(vectors: np.ndarray, row: int, count: int) -> tuple[np.ndarray, np.ndarray]:
    """The rows most like one of vectors (n, width), itself left out, and their cosines: at most `count`, best first."""
    lengths = np.linalg.norm(vectors, axis=1)
    cosines = vectors @ vectors[row] / np.maximum(lengths * lengths[row], 1e-12)
    order = np.argsort(-cosines, kind="stable")
    order = order[order != row][:count]
    return order, np.clip(cosines[order], -1, 1)


def in_words(found: Explanation) -> str:
    """An explanation as a paragraph, for somebody who has never seen one."""
    agree = [said.agrees for said in found.votes if said.source != LLM]
    if found.risk is None:
        lines = [f"Row '{found.id}': the LLM gave no answer, so there is no risk."]
        voters = f"{len(agree)} vote"
    else:
        before = (f", {found.label_free_risk:.3f} before {found.checked_answers} checked answers recalibrated it"
                  if found.checked_answers else "")
        lines = [f"Row '{found.id}': the LLM answers '{found.answer}'. The risk that this is wrong is "
                 f"{found.risk:.3f}{before}."]
        voters = f"{_count(agree, True)} with the LLM, {_count(agree, False)} against it"
    lines.append(f"By the text alone, the harmonizer says '{found.harmonizer_answer}' with probability "
                 f"{found.harmonizer_probability:.3f}. Of {len(agree) + found.abstained} sources, {voters}, "
                 f"{found.abstained} did not vote.")
    lines.append(f"The log-odds say how much the text and each vote speak for '{found.favoured}' (above 0) or for its "
                 f"strongest rival '{found.rival}' (below 0). They add up to {found.log_odds:+.2f}; the risk takes "
                 "that with some reserve, since sources share errors that no agreement shows.")
    return " ".join(lines)


def _votes(model: RiskModel, said: np.ndarray, weights: np.ndarray, odds: np.ndarray) -> tuple[Said, ...]:
    """said: (1 + m,) classes, the LLM's first. weights, odds: of those that voted."""
    sources, classes = (Source(name=LLM), *model.spec.sources), model.spec.classes
    found = [
        Said(sources[j].name, sources[j].family, classes[said[j]], bool(said[j] == said[0]) if said[0] >= 0 else None,
             float(model.worth.precision[j, said[j], said[j]]), float(weight), float(added),
             " ".join(sources[j].evidence.split()))
        for j, weight, added in zip(np.flatnonzero(said != ABSTAIN), weights, odds, strict=True)
    ]
    return tuple(sorted(found, key=lambda one: (one.source != LLM, -abs(one.log_odds))))


def _count(agree: Sequence[bool | None], wanted: bool) -> str:
    count = agree.count(wanted)
    return f"{count} {'votes' if count == 1 else 'vote'}"


def _excerpt(text: str) -> str:
    line = " ".join("".join(sign if sign.isprintable() else " " for sign in text[: 4 * EXCERPT]).split())
    return line if len(line) <= EXCERPT else line[: EXCERPT - 1] + "…"


def _told(value: float) -> float | None:
    return None if np.isnan(value) else float(value)
