"""The service's work without its HTTP: score items and keep the scores, take feedback in, explain, forget, count."""

import logging
import threading
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import cast

import numpy as np

from monitoring.feedback import NoClass
from monitoring.forgetting import Forgotten
from monitoring.journal import Journal
from monitoring.store import Feedback, ScoredAnswer, Store
from registry.database import now
from registry.threshold import UNCHANGED
from serving import schema
from serving.config import ServiceConfig
from serving.explaining import explained
from serving.keeping import kept, row_of, shadow_of
from serving.lineup import By, Lineup, Part, Ready, run
from serving.meters import Meters
from serving.policy import decide, policy_of
from serving.refusal import Refusal
from serving.schema import Decision, Item, Policy, Score, ScoreResponse
from serving.scorer import Scorer
from serving.slices import Slice, Told
from training.errors import InputError, PolarscoreError

LOG = logging.getLogger("bentoml.polarscore")
DEFAULTS = ServiceConfig()
SHADOW = "its classes or entities are not those of the first, so it answers nothing and scores in the dark"


class Desk:
    """The versions that score, the journal of what they said, and the meters. Safe to use from several threads.

    watched: the version in production and why another one scores here; None where nobody looks. beside: why there is
    no second version, or not the one that should be there; None if all is well.
    """

    def __init__(
        self, lineup: Lineup, journal: Journal, meters: Meters, config: ServiceConfig = DEFAULTS,
        erase: Callable[[Sequence[str]], Forgotten] | None = None, store: Store | None = None,
    ):
        """`erase` forgets items by their ids, wherever something of them is kept. store: what reviewers look at."""
        self._lineup, self._journal, self._meters, self._config, self._erase = lineup, journal, meters, config, erase
        self.store = store
        self._changing = threading.Lock()
        self._told: set[tuple[str, str]] = set()
        self._limits: dict[str, float] = {}
        self.watched: tuple[str | None, str | None] | None = None
        self.beside: str | None = None

    @property
    def scorer(self) -> Scorer:
        """The version that scores now; of two, the first."""
        return self._lineup.first

    @property
    def second(self) -> Scorer | None:
        """The version beside it."""
        return self._lineup.second

    @property
    def keeps_texts(self) -> bool:
        """Whether the texts of what is scored are kept."""
        return self._config.keeping.text == "keep"

    def swap(self, scorer: Scorer) -> None:
        """Have another version score from now on; what is being scored is finished by the one that began it."""
        with self._changing:
            self._lineup = self._lineup.led_by(scorer)

    def seat(self, second: Scorer | None, reason: str | None = None) -> None:
        """Have another version score beside the first from now on, or none for a reason."""
        with self._changing:
            self._lineup, self.beside = self._lineup.beside(second), reason

    def limit(self, version: str, risk: float) -> bool:
        """Have a version accept no answer above a risk from now on (`registry.threshold`): whether that is news."""
        known = self._limits.get(version, UNCHANGED)
        self._limits = {**self._limits, version: risk}
        return risk != known

    def close(self) -> None:
        """End the processes of the versions that score."""
        for scorer in (self.scorer, self.second):
            if scorer:
                scorer.close()

    def prepare(self, items: Sequence[Item]) -> Ready:
        """Check items and make them ready to be scored; `tokens` of the result is the work that they bring.

        Raises:
            Refusal: an item is at fault.
        """
        return self.preparer()(items)

    def preparer(self) -> Callable[[Sequence[Item]], Ready]:
        """`prepare`, for the parts of one request: whatever is swapped meanwhile, the same versions score them all."""
        return partial(self._lineup.prepare, failed=self._second_failed)

    def finish(self, requests: Sequence[Ready | Slice]) -> list[ScoreResponse | Told]:
        """Score prepared requests, in one pass; every score is in the journal before it is given.

        Of a slice that is not the last of its request nothing is kept yet, and so only what was said of it is given.

        Raises:
            Refusal: the scores cannot be kept; nothing of the requests is kept then.
        """
        scored = self._scored([each.ready if isinstance(each, Slice) else each for each in requests])
        told = [each.joined(said) if isinstance(each, Slice) else said
                for each, said in zip(requests, scored, strict=True)]
        whole = [not isinstance(each, Slice) or each.last for each in requests]
        self._keep([said for said, is_whole in zip(told, whole, strict=True) if is_whole])
        return [self._response(said) if is_whole else said for said, is_whole in zip(told, whole, strict=True)]

    def _scored(self, requests: Sequence[Ready]) -> list[Told]:
        found = run(requests, self._second_failed)
        decisions = self._decided(by for each in found for by in (*each.answers.values(), *each.shadow.values()))
        told = list[Told]()
        keep = partial(row_of, moment=now(), keeping=self._config.keeping)
        for ready, each in zip(requests, found, strict=True):
            batch, scores, rows = uuid.uuid4().hex, list[Score](), list[ScoredAnswer]()
            for place, item in enumerate(ready.items):
                by, score_id = each.answers[place], f"{batch}-{place:03d}"
                scores.append(_score(score_id, item, by, decisions[by]))
                rows.append(keep(score_id, item, by, decisions[by]))
                if dark := each.shadow.get(place):
                    rows.append(shadow_of(rows[-1], keep(score_id, item, dark, decisions[dark])))
            told.append(Told(ready.lineup, ready.parts, scores, rows))
        return told

    def _keep(self, told: Sequence[Told]) -> None:
        """Keep all of it, or raise a Refusal; what is kept is counted."""
        rows = [row for each in told for row in each.rows]
        if not rows:
            return
        with kept():
            self._journal.add_scores(rows)
        parts = [part for each in told for part in each.parts]
        try:
            self._count(rows, parts)
            for part in parts:
                part.scorer.remember([part.prepared])
        except Exception as error:  # the scores are kept, and so they are given all the same
            LOG.error("%s while scores were counted; /metrics lacks them", type(error).__name__)

    def keep(self, told: Told, decided: Callable[[Told, Mapping[str, Policy]], Told]) -> ScoreResponse:
        """Keep what was said of a request of which nothing is kept yet, and give it.

        decided: what is to be done with its answers, by the policies as they are now, by version.

        Raises:
            Refusal: it cannot be kept.
        """
        versions = [scorer for scorer in (told.lineup.first, told.lineup.second) if scorer]
        told = decided(told, {scorer.version: self._policy(scorer) for scorer in versions})
        self._keep([told])
        return self._response(told)

    def score(self, items: Sequence[Item]) -> ScoreResponse:
        """`prepare`, then `finish`."""
        return cast(ScoreResponse, self.finish([self.prepare(items)])[0])

    def feedback(
        self, request: schema.FeedbackRequest, reviewer: str | None = None, trusted: bool = False
    ) -> schema.FeedbackResponse:
        """Label a score, or every score of an item. reviewer: who says so; trusted: by a key of the scope `review`.

        Raises:
            Refusal: the label is no class, no such score of this model is kept, or the label cannot be kept now.
        """
        label = self.scorer.class_name(request.label, "label")
        said = request.model_dump() | {"label": label, "reviewer": reviewer, "trusted": trusted}
        return self.label(Feedback(**said))

    def label(self, row: Feedback) -> schema.FeedbackResponse:
        """Keep a label by its name. Raises what `feedback` does."""
        scorer = self.scorer
        with kept():
            try:
                labelled = self._journal.add_feedback(row, model=scorer.name)
            except NoClass as error:  # another version scored, which has other classes
                raise Refusal("unknown_class", str(error).rstrip("."), "label") from None
            except InputError as error:
                where = "score_id" if row.id is None else "id"
                raise Refusal("unknown_id", str(error).rstrip("."), where, status=404) from None
        self._meters.labelled(scorer.name, labelled)
        return schema.FeedbackResponse(labelled=labelled)

    def explain(self, item: Item) -> schema.ExplainResponse:
        """Why an answer has its risk, by the version that would answer it; nothing is kept.

        Raises:
            Refusal: the item is at fault.
        """
        lineup = self._lineup
        scorer = lineup.answers(item)
        return explained(scorer, self._policy(scorer), lineup.as_seen_by(scorer, item))

    def forget(self, item_id: str) -> schema.ForgetResponse:
        """Erase the scores of an item, or the one with that score_id, their labels and the texts' embeddings.

        Raises:
            Refusal: nothing of it is kept, or not all can be erased now.
        """
        if self._erase is None:
            raise Refusal("unavailable", "this service cannot erase. Run: polarscore forget", status=503)
        try:
            found = self._erase([item_id])
        except InputError:
            raise Refusal("unknown_id", "of this id no score is kept", "id", status=404) from None
        except PolarscoreError as error:
            raise Refusal("store_unavailable", str(error).rstrip("."), status=503) from None
        return schema.ForgetResponse(**vars(found))

    def version(self) -> schema.Version:
        """Which version scores here, by which policy, and what it takes."""
        lineup, watched = self._lineup, self.watched
        scorer, second = lineup.first, lineup.second
        following = watched and schema.Following(production=watched[0], serving=scorer.version, reason=watched[1])
        return schema.Version(
            model=scorer.name, version=scorer.version, digest=scorer.digest, device=scorer.device,
            precision=scorer.precision, pack_tokens=self._config.batching.tokens or scorer.pack_tokens,
            classes=list(scorer.classes), sources=list(scorer.sources), entities=scorer.entities,
            policy=self._policy(scorer), signed_by=scorer.proof.signed_by, trusted=scorer.proof.trusted,
            following=following or None,
            beside=schema.Beside(
                version=second.version if second else None, percent=lineup.percent if lineup.splits else 0,
                reason=self.beside or (SHADOW if second and lineup.percent and not lineup.splits else None),
            ) if second or self.beside else None,
        )

    def _response(self, told: Told) -> ScoreResponse:
        lineup = told.lineup
        first, second = lineup.first, lineup.second if lineup.splits else None
        beside = second and schema.SecondPolicy(version=second.version, policy=self._policy(second))
        return ScoreResponse(scores=told.scores, model=first.name, version=first.version, policy=self._policy(first),
                             beside=beside or None)

    def _policy(self, scorer: Scorer) -> Policy:
        return policy_of(scorer.model.spec.guarantee, self._config.thresholds,
                         self._limits.get(scorer.version, UNCHANGED))

    def _decided(self, found: Iterable[By]) -> dict[By, Decision]:
        """What to do with each answer, by the policy of the version that scored it."""
        groups: dict[Scorer, list[By]] = {}
        for by in found:
            groups.setdefault(by.scorer, []).append(by)
        return {by: decision for scorer, group in groups.items() for by, decision in zip(
            group, decide(self._policy(scorer), np.array([by.scored.risk for by in group], dtype=np.float64)),
            strict=True)}

    def _count(self, rows: Sequence[ScoredAnswer], parts: Iterable[Part]) -> None:
        groups: dict[tuple[str, str, str], list[ScoredAnswer]] = {}
        for row in rows:
            groups.setdefault((row.model, row.version, row.role), []).append(row)
        for key, group in groups.items():
            self._meters.scored(*key, [row.risk for row in group], [row.decision or "" for row in group])
        for part in parts:
            for (source, reason), votes in part.prepared.failures.items():
                self._meters.sources_failed(part.scorer.name, part.scorer.version, source, reason, votes)

    def _second_failed(self, scorer: Scorer, kind: str, items: int) -> None:
        """Count what a second version could not score; the log says it once for each kind."""
        self._meters.second_failed(scorer.name, scorer.version, kind, items)
        if (scorer.version, kind) not in self._told:
            self._told.add((scorer.version, kind))
            LOG.warning("version %s, beside version %s, cannot score everything: %s. /metrics counts how often",
                        scorer.version, self.scorer.version, kind)


def _score(score_id: str, item: Item, by: By, decision: Decision) -> Score:
    scored = by.scored
    return Score(score_id=score_id, id=item.id, risk=scored.risk, decision=decision, probabilities=scored.probabilities,
                 answer=scored.answer, harmonizer_answer=scored.harmonizer_answer, votes_used=scored.votes_used,
                 version=by.scorer.version)
