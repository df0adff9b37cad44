"""What a reviewer sees and says: the next answer of a queue, a label, and a label taken back.

A form carries the answer's score_id and what the reviewer had said of it when it was shown. A form that comes twice
finds its label in place and changes nothing; one that is out of date changes nothing and is shown again.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import datetime
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import urlencode

import sqlalchemy as sa

from monitoring.journal import StoreAway
from monitoring.patience import Patience
from monitoring.queue import (
    QUEUES,
    Answer,
    Progress,
    QueueName,
    Wanted,
    Word,
    answer,
    left_of,
    own_words,
    progress,
    versions,
    waiting,
)
from monitoring.tables import Feedback
from registry.database import now
from serving.refusal import Refusal
from serving.review_asking import Asking
from serving.review_bins import Plots, bins_of
from serving.review_page import View, Vote
from serving.review_plot import Bin
from serving.review_sessions import UNDOABLE, Given, Session, remember
from serving.review_text import shown
from serving.review_words import Words
from serving.schema import Chosen

if TYPE_CHECKING:
    from serving.desk import Desk

QUICKEST_S = 0.3  # from when an answer is shown to a label that can be meant for it
ASK_S = 10.0  # that the store may take
CHOSEN: Mapping[str, Chosen] = {"sample": "risk", "riskiest": "risk", "second": "whim"}
"""How an answer of a queue came to be labelled; that it was drawn, the store knows by itself."""

HOLD_S = 120.0  # that others are not shown the answer that one reviewer looks at
SO_FAR_S = 3.0  # that the counts of progress are kept
PLOT_S = 2.0  # that a picture of the plot waits for the first one


class Reviews:
    """What reviewers of one desk see and say. Safe to use from several threads."""

    def __init__(self, desk: "Desk", clock: Callable[[], float] = time.monotonic,
                 today: Callable[[], datetime] = now, quickest: float = QUICKEST_S, ask_s: float = ASK_S):
        self.desk, self._clock, self._today, self._quickest = desk, clock, today, quickest
        self._patience: Patience[Any] = Patience(ask_s)
        self._plots, self._words = Plots(self._found, clock), Words()
        self._looked_at: dict[str, tuple[str, float]] = {}  # by reviewer: which answer, and since when
        self._so_far: dict[str, tuple[float, Progress, frozenset[str]]] = {}  # by reviewer: until when, and what

    def look(self, session: Session, asking: Asking, signed_in: bool) -> View:
        """The page.

        Raises:
            Refusal: the store cannot be asked now.
        """
        view, queue = self._ask(lambda connection: self._view(connection, session, asking, signed_in))
        version = view.filters["plotted"]
        if view.answer is not None:
            chosen: Chosen = "whim" if asking.score or asking.answer else CHOSEN[queue]
            self._looked_at[session.reviewer] = (view.answer.score_id, self._clock())
            with session.turn:
                if view.answer.score_id not in session.shown:
                    remember(session.shown, view.answer.score_id, (self._clock(), chosen))
        return replace(view, notice=session.take_notice(), bins=self._plots.last(version))

    def label(self, session: Session, form: Mapping[str, str]) -> Asking:
        """Take in a form; where to go on. What there is to be told, the session has as its notice.

        Raises:
            Refusal: the store cannot be asked or the label not be kept; nothing was then.
        """
        asking, score_id = Asking.of(form), form.get("score_id", "")
        onwards = replace(asking, score=None)
        if form.get("skip"):
            with session.turn:
                if form["skip"] == "none":
                    session.skipped.clear()
                elif score_id:
                    remember(session.skipped, score_id, None)
            return onwards
        with session.turn:
            again = replace(asking, score=score_id)
            found, own = self._ask(lambda connection: self._own(connection, session, score_id))
            if found is None:
                session.notice = "This answer is not kept any more, so there is nothing to label."
                return onwards
            label = _label(found, form)
            if label is None:
                session.notice = f"{_no_class(form)} Nothing was saved."
                return again
            if own == label:
                return onwards
            since, chosen = session.shown.get(score_id, (None, None))
            if since is None or chosen is None or form.get("seen", "") != _seen(found, own):
                session.notice = "This page was out of date, so nothing was saved. Choose again."
                return again
            if self._clock() - since < self._quickest:
                session.notice = "That came sooner than this answer could be read, so nothing was saved. Choose again."
                return again
            at, until = self._keep(session, score_id, label, chosen)
            session.given = [*session.given, Given(score_id, label, own, chosen, at, until)][-UNDOABLE:]
            session.skipped.pop(score_id, None)
            session.notice = f"Saved: “{label}”."
            return onwards

    def undo(self, session: Session, form: Mapping[str, str]) -> Asking:
        """Take the last label of a session back, if it is the one that the form names; its answer is shown again.

        What the same reviewer said of the answer since, at another browser, stays as it is.

        Raises:
            Refusal: it cannot be kept now.
        """
        asking = Asking.of(form)
        with session.turn:
            if not session.given or session.given[-1].score_id != form.get("score_id"):
                return replace(asking, score=None)
            last = session.given[-1]
            word = self._ask(lambda connection: self._word(connection, session.reviewer, last.score_id))
            session.given = session.given[:-1]
            if word is None or word.label != last.label or not last.at <= word.at <= last.until:
                session.notice = "You have labelled this answer elsewhere since, so nothing was taken back."
                return replace(asking, score=last.score_id)
            try:
                at, until = self._keep(session, last.score_id, last.before, last.chosen, instead_of=last.label)
            except Refusal:
                session.given = [*session.given, last]
                raise
            if earlier := [each for each in session.given if each.score_id == last.score_id][-1:]:
                session.given = [replace(each, at=at, until=until) if each is earlier[0] else each
                                 for each in session.given]
            session.notice = f"Taken back: “{last.label}”."
            return replace(asking, score=last.score_id)

    def leave(self, session: Session) -> None:
        """Others may be shown what was shown in the session that ends."""
        self._looked_at.pop(session.reviewer, None)

    def reliability(self, version: str) -> tuple[Bin, ...]:
        """Of a version, on the newest labels whose choice is known; some moments old where it takes long to find.

        Raises:
            Refusal: this service keeps nothing.
        """
        _ = self._store
        return self._plots.soon(version, PLOT_S) or ()

    def _found(self, version: str) -> tuple[Bin, ...]:
        with self._store.engine.connect() as connection:
            return bins_of(connection, self.desk.scorer.name, version)

    @property
    def _store(self) -> Any:
        if self.desk.store is None:
            raise Refusal("unavailable", "this service keeps nothing that could be reviewed", status=503)
        return self.desk.store

    def _ask(self, question: Callable[[sa.Connection], Any]) -> Any:
        def asked() -> Any:
            with self._store.engine.connect() as connection:
                return question(connection)

        return self._patiently(asked)

    def _patiently(self, question: Callable[[], Any]) -> Any:
        try:
            return self._patience.ask(question)
        except (sa.exc.SQLAlchemyError, StoreAway, TimeoutError) as error:
            raise Refusal("store_unavailable", f"the prediction store cannot be reached now ({type(error).__name__}). "
                          "Try again later; what was saved before is kept", status=503) from None

    def _view(
        self, connection: sa.Connection, session: Session, asking: Asking, signed_in: bool
    ) -> tuple[View, QueueName]:
        model, moment = self.desk.scorer.name, self._today()
        said = self._unsettled(connection, session.reviewer)
        done = {score_id for score_id, word in said.items() if word.label is not None}
        undone = set(said) - done
        so_far, waits = self._progress(connection, session.reviewer, moment)
        left = (waits - done) | left_of(connection, model, session.reviewer, sorted(undone))
        queue = asking.queue or ("sample" if left else "riskiest")
        found = self._next(connection, session, replace(asking, queue=queue), moment, done)
        word = None if found is None else self._word(connection, session.reviewer, found.score_id)
        filters = {"version": asking.version or "", "class": asking.answer or "", "least": f"{asking.least:g}",
                   "most": f"{asking.most:g}", "plotted": asking.version or self.desk.scorer.version,
                   "any": "yes" if asking.narrows else ""}
        stay = replace(asking, queue=queue)
        return View(
            reviewer=session.reviewer, trusted=session.trusted, signed_in=signed_in, model=model, queue=queue,
            links={name: replace(asking, queue=name, score=None).address for name in QUEUES},
            hidden=stay.fields, checked=len(so_far.checked | done), mine=len((so_far.mine - undone) | done),
            left=len(left), answer=found, own=word.label if word else None,
            text=None if found is None or found.text is None else shown(found.text, found.spans or ()),
            keeps_texts=self.desk.keeps_texts, votes=() if found is None else self._votes(found),
            undo=session.given[-1].score_id if session.given else None, skipped=len(session.skipped),
            filters=filters, versions=versions(connection, model), classes=tuple(self.desk.scorer.classes),
            plotted=f"review/plot.svg?{urlencode({'version': filters['plotted'], 'n': len(so_far.checked | done)})}",
        ), queue

    def _next(
        self, connection: sa.Connection, session: Session, asking: Asking, moment: datetime, done: set[str]
    ) -> Answer | None:
        model = self.desk.scorer.name
        if asking.score is not None:
            return answer(connection, model, asking.score)
        passed, held = done | set(session.skipped), self._held(session.reviewer)
        wanted = Wanted(model, asking.version, asking.answer, asking.least, asking.most)
        found = QUEUES[cast(QueueName, asking.queue)](
            connection, wanted, session.reviewer, moment, len(passed) + len(held) + 1)
        fresh = [score_id for score_id in found if score_id not in passed]
        free = [score_id for score_id in fresh if score_id not in held] or fresh
        return answer(connection, model, free[0]) if free else None

    def _held(self, reviewer: str) -> set[str]:
        """The answers that other reviewers look at now, which this one is shown only if nothing else waits."""
        now = self._clock()
        return {score_id for who, (score_id, since) in list(self._looked_at.items())
                if who != reviewer and now - since < HOLD_S}

    def _progress(
        self, connection: sa.Connection, reviewer: str, moment: datetime
    ) -> tuple[Progress, frozenset[str]]:
        """How far the people are today, and what is left of the sample, as of some moments ago."""
        until, so_far, left = self._so_far.get(reviewer, (-1.0, None, frozenset[str]()))
        if so_far is None or self._clock() >= until:
            midnight = moment.replace(hour=0, minute=0, second=0, microsecond=0)
            so_far = progress(connection, self.desk.scorer.name, reviewer, midnight)
            left = frozenset(waiting(connection, self.desk.scorer.name))
            self._so_far[reviewer] = (self._clock() + SO_FAR_S, so_far, left)
        return so_far, left

    def _unsettled(self, connection: sa.Connection, reviewer: str) -> dict[str, Word]:
        """What the reviewer said that the store does not have yet; what was counted before it had it, no longer counts.
        """
        if self._words.settle(reviewer, own_words(connection, list(self._words.of(reviewer)), reviewer)):
            self._so_far.clear()
        return self._words.of(reviewer)

    def _own(self, connection: sa.Connection, session: Session, score_id: str) -> tuple[Answer | None, str | None]:
        found = answer(connection, self.desk.scorer.name, score_id)
        word = self._word(connection, session.reviewer, score_id)
        return found, word.label if word else None

    def _word(self, connection: sa.Connection, reviewer: str, score_id: str) -> Word | None:
        """The reviewer's last word on a score, whether the store has it or not."""
        stored = own_words(connection, [score_id], reviewer).get(score_id)
        said = self._words.of(reviewer).get(score_id)
        return said if said and not (stored and stored.at >= said.at) else stored

    def _keep(
        self, session: Session, score_id: str, label: str | None, chosen: Chosen, instead_of: str = ""
    ) -> tuple[datetime, datetime]:
        """Keep a label; None: that `instead_of` is taken back. Between which moments that was."""
        at = now()
        self.desk.label(Feedback(
            label=label or instead_of, score_id=score_id, reviewer=session.reviewer, chosen=chosen,
            trusted=session.trusted, withdrawn=label is None))
        self._words.say(session.reviewer, score_id, label, at)
        return at, now()

    def _votes(self, found: Answer) -> tuple[Vote, ...]:
        """Those that agree with the LLM first; why, and how often they are right, if the version is one that serves."""
        votes = [Vote(source, vote, None if found.answer is None else vote == found.answer,
                      *self._worth(found, source, vote)) for source, vote in found.votes.items()]
        return tuple(sorted(votes, key=lambda each: not each.agrees))

    def _worth(self, found: Answer, source: str, vote: str) -> tuple[float | None, str]:
        """How often such a vote is right, and what it rests on, as the version that scored has it."""
        for scorer in (self.desk.scorer, self.desk.second):
            if scorer is None or scorer.version != found.version:
                continue
            for place, each in enumerate(scorer.model.spec.sources, 1):
                if each.name == source:
                    code = list(found.probabilities).index(vote)
                    return float(scorer.model.worth.precision[place, code, code]), " ".join(each.evidence.split())
        return None, ""


def _label(found: Answer, form: Mapping[str, str]) -> str | None:
    """The class that a form names: by its number, or typed; None where it names none, or two."""
    classes, number, typed = list(found.probabilities), form.get("said", ""), form.get("other", "").strip()
    said = classes[int(number)] if number.isdecimal() and len(number) < 6 and int(number) < len(classes) else None
    other = next((name for name in classes if name.strip() == typed), None) if typed else None
    if number and typed:
        return said if said == other else None
    return said if number else other


def _no_class(form: Mapping[str, str]) -> str:
    """Why a form names no class."""
    if not form.get("other"):
        return "No class was chosen."
    return "Two classes were chosen." if form.get("said") else f"“{form['other'][:60]}” is no class."


def _seen(found: Answer, own: str | None) -> str:
    """How the page says what the reviewer had said."""
    classes = list(found.probabilities)
    return str(classes.index(own)) if own in classes else ""
