"""Which items the LLM is asked again about, with what, and what its two answers come to. Pure.

With a new answer, what goes out are the probabilities p' of the classes, both answers of the LLM being known
(`serving.correction.habits`); the risk is 1 − p' of the answer that is kept. An item that was asked about is accepted
only where the service is told so, since no audit has looked at such answers.
"""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from monitoring.store import ScoredAnswer
from serving.correction.habits import Habits, expected_gain, kept, weighed
from serving.correction.ways import evidence_of, prompt_again
from serving.llm.exchange import Prompt
from serving.policy import decide
from serving.schema import Corrected, CorrectResponse, Decision, Item, Policy, ScoreResponse, Took
from serving.slices import Told
from training.asking import Ask
from training.task import ABSTAIN


@dataclass(frozen=True)
class Again:
    """What came of asking again about an item. answer: the new one, None where there is none, for a reason.

    risk: that the new one is wrong, both being known. replaces: it is kept in place of the first.
    """

    answer: str | None
    reason: str | None
    risk: float | None = None
    replaces: bool = False


def asked_of(told: Told, habits: Habits, margin: float, least_gain: float) -> list[int]:
    """The places of the items that are asked again: of those that are not accepted, where more than that is gained."""
    places = [place for place, score in enumerate(told.scores) if score.decision != "accept"]
    if not places:
        return []
    classes, scores = told.lineup.first.classes, [told.scores[place] for place in places]
    first = _codes([score.answer for score in scores], classes)
    gains = expected_gain(_table([score.probabilities for score in scores], classes), first, habits, margin)
    return [place for place, gain in zip(places, gains.tolist(), strict=True) if gain > least_gain]


def questions_of(
    way: str, items: Sequence[Item], told: Told, places: Sequence[int]
) -> list[tuple[Prompt, tuple[str, ...]]]:
    """The question about the item at each place, and what of it is data, in which nobody may give orders.

    It is asked as the first version says; the evidence is that of the sources that voted, as the version knows them
    that scored the item.
    """
    first, second = told.lineup.first, told.lineup.second
    ask, votes_of = first.model.spec.ask or Ask(), {row.score_id: row.votes for row in told.rows}
    found = []
    for place in places:
        item, score, said = items[place], told.scores[place], list[str]()
        if way == "explain":
            scorer, votes = second if second and second.version == score.version else first, votes_of[score.score_id]
            codes = _codes([votes.get(name) for name in scorer.sources], scorer.classes)
            said = evidence_of(scorer.model.spec.sources, codes, scorer.classes)
        prompt = prompt_again(way, ask, first.classes, item.text, item.spans, score.answer, said)
        found.append((prompt, (item.text, *said)))
    return found


def corrected(
    told: Told, places: Sequence[int], new: Sequence[int], reasons: Sequence[str | None], habits: Habits, margin: float
) -> tuple[Told, dict[int, Again]]:
    """What is said of a request after its questions, and what came of each, by the places of the items.

    new: classes by index, -1 = none, for a reason. In the dark, the second version judges the answer that is kept, too;
    where its classes are others, so that it cannot, nothing of it is left of the item.
    """
    classes, code_of = told.lineup.first.classes, {
        told.scores[place].score_id: code for place, code in zip(places, new, strict=True) if code != ABSTAIN}
    rows = [row for row in told.rows if _served(row) in code_of and row.probabilities.keys() == set(classes)]
    if not rows:
        return told, {place: Again(None, reason) for place, reason in zip(places, reasons, strict=True)}
    first = _codes([row.answer for row in rows], classes)
    again = np.array([code_of[_served(row)] for row in rows])
    after = weighed(_table([row.probabilities for row in rows], classes), first, again, habits)
    best = {row.score_id: code for row, code in zip(rows, kept(after, first, again, margin).tolist(), strict=True)}
    risks = {row.score_id: _risk(p, code) for row, p, code in zip(rows, after, again.tolist(), strict=True)}
    weighed_rows = {row.score_id: _judged(row, p, best[_served(row)], classes)
                    for row, p in zip(rows, after, strict=True)}
    scores, found = list(told.scores), dict[int, Again]()
    for place, code, reason in zip(places, new, reasons, strict=True):
        found[place], before = Again(None, reason), scores[place]
        if row := weighed_rows.get(before.score_id):
            replaces = row.answer != before.answer
            found[place] = Again(classes[code], None, risks[before.score_id], replaces)
            scores[place] = before.model_copy(update={
                "answer": row.answer, "risk": row.risk, "probabilities": row.probabilities})
    left = [weighed_rows.get(row.score_id, row) for row in told.rows
            if row.score_id in weighed_rows or _served(row) not in code_of]
    return replace(told, scores=scores, rows=left), found


def decided(told: Told, policies: Mapping[str, Policy], unsure: Collection[str]) -> Told:
    """What is to be done with the answers: accepted, as the policy of the version says, or shown to a person.

    None is to be asked again, since whoever does that has just chosen. policies: by version. unsure: the score_ids of
    what is not accepted, whatever its risk.
    """
    decisions: dict[str, Decision] = {}
    for version, policy in policies.items():
        rows = [row for row in told.rows if row.version == version]
        for row, decision in zip(rows, decide(policy, np.array([row.risk for row in rows], float)), strict=True):
            accepted = decision == "accept" and _served(row) not in unsure
            decisions[row.score_id] = "accept" if accepted else "review"
    return replace(
        told, rows=[replace(row, decision=decisions[row.score_id]) for row in told.rows],
        scores=[score.model_copy(update={"decision": decisions[score.score_id]}) for score in told.scores])


def reply_of(
    response: ScoreResponse, first: Told, again: Mapping[int, Again], way: str, margin: float, took: Took
) -> CorrectResponse:
    """What `POST /correct` answers: what is kept, and beside each item what was said first and what came of asking."""
    scores = []
    for place, (score, before) in enumerate(zip(response.scores, first.scores, strict=True)):
        came = again.get(place, Again(None, None))
        scores.append(Corrected.model_validate({
            **score.model_dump(), "asked": place in again, "way": way if place in again else None,
            "first_answer": before.answer, "first_risk": before.risk, "new_answer": came.answer, "new_risk": came.risk,
            "kept": "new" if came.replaces else "first", "abstained": came.reason}))
    return CorrectResponse(
        scores=scores, model=response.model, version=response.version, policy=response.policy, beside=response.beside,
        asked=len(again), changed=sum(each.replaces for each in again.values()),
        abstained=dict(Counter(each.reason for each in again.values() if each.reason)), margin=margin, took=took)


def _served(row: ScoredAnswer) -> str:
    """The score_id of the score that goes out."""
    return row.shadow_of or row.score_id


def _judged(row: ScoredAnswer, p: np.ndarray, code: int, classes: Sequence[str]) -> ScoredAnswer:
    said = dict(zip(classes, p.tolist(), strict=True))
    return replace(row, answer=classes[code], risk=_risk(p, code),
                   probabilities={name: said[name] for name in row.probabilities})


def _risk(p: np.ndarray, code: int) -> float:
    return float(np.clip(1 - p[code], 0, 1))


def _codes(answers: Sequence[str | None], classes: Sequence[str]) -> np.ndarray:
    return np.array([ABSTAIN if answer is None else classes.index(answer) for answer in answers], dtype=np.int64)


def _table(probabilities: Sequence[Mapping[str, float]], classes: Sequence[str]) -> np.ndarray:
    return np.array([[each[name] for name in classes] for each in probabilities])
