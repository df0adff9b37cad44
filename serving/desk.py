"""The service's work without its HTTP: score items and keep the scores, take feedback in, count both."""

import uuid
from collections.abc import Sequence

from prometheus_client import REGISTRY, CollectorRegistry, Counter, Histogram
from sqlalchemy.exc import SQLAlchemyError

from monitoring.store import Feedback, ScoredAnswer, Store
from registry.database import now
from serving.refusal import Refusal
from serving.schema import FeedbackRequest, FeedbackResponse, Item, Score, ScoreResponse, Version
from serving.scorer import Scored, Scorer
from training.errors import InputError

RISK_BUCKETS = [step / 20 for step in range(1, 21)]


class Meters:
    """What `/metrics` tells of a version beside BentoML's own: the risks given, answers scored, labels got."""

    def __init__(self, model: str, version: str, registry: CollectorRegistry = REGISTRY):
        """Register the meters; once a process and registry."""
        labels = {"model": model, "version": version}
        names = list(labels)
        self.risk = Histogram("polarscore_risk", "Risk of the answers scored", names,
                              buckets=RISK_BUCKETS, registry=registry).labels(**labels)
        self.scored = Counter("polarscore_scored_answers", "Answers scored, with a risk or without", names,
                              registry=registry).labels(**labels)
        self.feedback = Counter("polarscore_feedback", "Scores, of whichever version, that got a label by feedback",
                                ["model"], registry=registry).labels(model=model)


class Desk:
    """A scorer, the prediction store and the meters. Safe to use from several threads."""

    def __init__(self, scorer: Scorer, store: Store, meters: Meters):
        self._scorer, self._store, self._meters = scorer, store, meters

    def score(self, items: Sequence[Item]) -> ScoreResponse:
        """Score items; every score is in the store before it is given.

        Raises:
            Refusal: an item at fault, or the store cannot be written; nothing is kept then.
        """
        scored = self._scorer.score(items)
        batch = uuid.uuid4().hex
        ids = [f"{batch}-{place:03d}" for place in range(len(items))]
        self._keep(ids, items, scored)
        self._meters.scored.inc(len(scored))
        for each in scored:
            if each.risk is not None:
                self._meters.risk.observe(each.risk)
        scores = [
            Score(score_id=score_id, id=item.id, risk=each.risk, probabilities=each.probabilities,
                  answer=each.answer, harmonizer_answer=each.harmonizer_answer, votes_used=each.votes_used,
                  version=self._scorer.version)
            for score_id, item, each in zip(ids, items, scored, strict=True)
        ]
        return ScoreResponse(scores=scores, model=self._scorer.name, version=self._scorer.version)

    def feedback(self, request: FeedbackRequest) -> FeedbackResponse:
        """Label a score, or every score of an item.

        Raises:
            Refusal: the label is no class, or no such score of this model is kept.
        """
        label = self._scorer.class_name(request.label, "label")
        row = Feedback(label=label, score_id=request.score_id, id=request.id)
        try:
            labelled = self._store.add_feedback([row], model=self._scorer.name)
        except InputError as error:
            where = "score_id" if request.id is None else "id"
            raise Refusal("unknown_id", str(error).rstrip("."), where, status=404) from None
        except SQLAlchemyError as error:
            raise _away(error) from None
        self._meters.feedback.inc(labelled)
        return FeedbackResponse(labelled=labelled)

    def version(self) -> Version:
        """Which version scores here, and what it takes."""
        scorer = self._scorer
        return Version(model=scorer.name, version=scorer.version, digest=scorer.digest, device=scorer.device,
                       classes=list(scorer.classes), sources=list(scorer.sources), entities=scorer.entities)

    def _keep(self, ids: Sequence[str], items: Sequence[Item], scored: Sequence[Scored]) -> None:
        moment = now()
        rows = [
            ScoredAnswer(
                score_id=score_id, item_id=item.id or score_id, created_at=moment,
                model=self._scorer.name, version=self._scorer.version,
                answer=each.answer, harmonizer_answer=each.harmonizer_answer, risk=each.risk,
                probabilities=each.probabilities, votes=each.votes, votes_used=each.votes_used,
                text_length=len(item.text),
            )
            for score_id, item, each in zip(ids, items, scored, strict=True)
        ]
        try:
            self._store.add_scores(rows)
        except SQLAlchemyError as error:
            raise _away(error) from None


def _away(error: SQLAlchemyError) -> Refusal:
    return Refusal("store_unavailable", "the prediction store cannot be reached or written "
                   f"({type(error).__name__}). Nothing was kept; try again later", status=503)
