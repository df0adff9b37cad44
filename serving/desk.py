"""The service's work without its HTTP: score items and keep the scores, take feedback in, count both."""

import uuid
from collections.abc import Sequence
from dataclasses import dataclass

from prometheus_client import REGISTRY, CollectorRegistry, Counter, Histogram
from sqlalchemy.exc import SQLAlchemyError

from monitoring.store import Feedback, ScoredAnswer, Store
from registry.database import now
from serving.refusal import Refusal
from serving.schema import FeedbackRequest, FeedbackResponse, Following, Item, Score, ScoreResponse, Version
from serving.scorer import Scored, Scorer
from training.errors import InputError

RISK_BUCKETS = [step / 20 for step in range(1, 21)]


@dataclass(frozen=True)
class VersionMeters:
    """The meters of one version."""

    risk: Histogram
    scored: Counter
    feedback: Counter


class Meters:
    """What `/metrics` tells beside BentoML's own: the risks given, answers scored, labels got."""

    def __init__(self, registry: CollectorRegistry = REGISTRY):
        """Register the meters; once a process and registry."""
        names = ["model", "version"]
        self._risk = Histogram("polarscore_risk", "Risk of the answers scored", names,
                               buckets=RISK_BUCKETS, registry=registry)
        self._scored = Counter("polarscore_scored_answers", "Answers scored, with a risk or without", names,
                               registry=registry)
        self._feedback = Counter("polarscore_feedback", "Scores, of whichever version, that got a label by feedback",
                                 ["model"], registry=registry)

    def of(self, model: str, version: str) -> VersionMeters:
        """Those of a version, the same ones every time."""
        labels = {"model": model, "version": version}
        return VersionMeters(self._risk.labels(**labels), self._scored.labels(**labels),
                             self._feedback.labels(model=model))


@dataclass(frozen=True)
class Duty:
    """Who scores, and where it is counted. A request keeps the one that it began with."""

    scorer: Scorer
    meters: VersionMeters


class Desk:
    """A scorer, the prediction store and the meters. Safe to use from several threads.

    watched: the version in production and why another one scores here; None where nobody looks.
    """

    def __init__(self, scorer: Scorer, store: Store, meters: Meters):
        self._store, self._meters = store, meters
        self.watched: tuple[str | None, str | None] | None = None
        self.swap(scorer)

    def swap(self, scorer: Scorer) -> None:
        """Have another version score from now on; what is being scored is finished by the one that began it."""
        self._duty = Duty(scorer, self._meters.of(scorer.name, scorer.version))

    @property
    def scorer(self) -> Scorer:
        """The version that scores now."""
        return self._duty.scorer

    def score(self, items: Sequence[Item]) -> ScoreResponse:
        """Score items; every score is in the store before it is given.

        Raises:
            Refusal: an item at fault, or the store cannot be written; nothing is kept then.
        """
        duty = self._duty
        scored = duty.scorer.score(items)
        batch = uuid.uuid4().hex
        ids = [f"{batch}-{place:03d}" for place in range(len(items))]
        self._keep(duty.scorer, ids, items, scored)
        duty.meters.scored.inc(len(scored))
        for each in scored:
            if each.risk is not None:
                duty.meters.risk.observe(each.risk)
        scores = [
            Score(score_id=score_id, id=item.id, risk=each.risk, probabilities=each.probabilities,
                  answer=each.answer, harmonizer_answer=each.harmonizer_answer, votes_used=each.votes_used,
                  version=duty.scorer.version)
            for score_id, item, each in zip(ids, items, scored, strict=True)
        ]
        return ScoreResponse(scores=scores, model=duty.scorer.name, version=duty.scorer.version)

    def feedback(self, request: FeedbackRequest) -> FeedbackResponse:
        """Label a score, or every score of an item.

        Raises:
            Refusal: the label is no class, or no such score of this model is kept.
        """
        duty = self._duty
        label = duty.scorer.class_name(request.label, "label")
        row = Feedback(label=label, score_id=request.score_id, id=request.id)
        try:
            labelled = self._store.add_feedback([row], model=duty.scorer.name)
        except InputError as error:
            where = "score_id" if request.id is None else "id"
            raise Refusal("unknown_id", str(error).rstrip("."), where, status=404) from None
        except SQLAlchemyError as error:
            raise _away(error) from None
        duty.meters.feedback.inc(labelled)
        return FeedbackResponse(labelled=labelled)

    def version(self) -> Version:
        """Which version scores here, and what it takes."""
        scorer, watched = self._duty.scorer, self.watched
        following = watched and Following(production=watched[0], serving=scorer.version, reason=watched[1])
        return Version(model=scorer.name, version=scorer.version, digest=scorer.digest, device=scorer.device,
                       classes=list(scorer.classes), sources=list(scorer.sources), entities=scorer.entities,
                       signed_by=scorer.proof.signed_by, trusted=scorer.proof.trusted, following=following)

    def _keep(self, scorer: Scorer, ids: Sequence[str], items: Sequence[Item], scored: Sequence[Scored]) -> None:
        moment = now()
        rows = [
            ScoredAnswer(
                score_id=score_id, item_id=item.id or score_id, created_at=moment,
                model=scorer.name, version=scorer.version,
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
