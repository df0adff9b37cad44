"""What people should look at next, read from the store: the sample, the riskiest, and where people disagree.

Every query goes by an index and looks at a bounded number of rows, however many are kept: the newest scores, the newest
labels, or what was drawn last. A database that would rather read a whole table is kept from it: whether a score has a
label is asked of each score by itself (`OFFSET 0`, which PostgreSQL does not turn into a join), and rows are looked up
by their keys, a part at a time. Nothing here writes.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Literal

import pandas as pd
import sqlalchemy as sa

from monitoring.reading import among, unindexed
from monitoring.tables import DRAWN, DRAWS, FEEDBACK, SCORES, TALLIES

SERVING = "serving"
LOCAL = "local"  # by which the labels of whoever needs no key are kept
NEWEST, DAYS = 20_000, 30  # scores, and days, among which the riskiest are looked for
LABELS = 2_000  # reviewers' labels of a model, the newest, among which a second opinion may be due
BY_REVIEWERS, ROWS = 20_000, 200_000  # labels of all models by reviewers, and by anybody, among which those are
DRAWN_AT_MOST = 10_000  # answers of the sample, of the draws made last; a single draw may be larger
PART = 200  # scores that are looked up at once

QueueName = Literal["sample", "riskiest", "second"]


@dataclass(frozen=True)
class Wanted:
    """Which answers of a model: of a version, where the LLM said `answer`, with a risk from `least` to `most`."""

    model: str
    version: str | None = None
    answer: str | None = None
    least: float = 0.0
    most: float = 1.0

    def holds(self, scores: Any) -> list[sa.ColumnElement[bool]]:
        """The conditions on rows of scores that are found by something else; an answer without a risk is none."""
        found = [scores.c.risk.between(self.least, self.most)]
        if self.version is not None:
            found.append(unindexed(scores.c.version) == self.version)
        if self.answer is not None:
            found.append(scores.c.answer == self.answer)
        return found


@dataclass(frozen=True)
class Answer:
    """An answer of the LLM as it is kept, for a person to look at. probabilities: in the order of the classes."""

    score_id: str
    item_id: str
    created_at: datetime
    version: str
    answer: str | None
    harmonizer_answer: str
    risk: float | None
    decision: str | None
    probabilities: Mapping[str, float]
    votes: Mapping[str, str]
    text_length: int
    text: str | None
    spans: tuple[tuple[int, int], ...] | None


def sample(connection: sa.Connection, wanted: Wanted, reviewer: str | None, now: datetime, most: int) -> list[str]:
    """Drawn and not labelled yet, in the order in which they were drawn, the oldest draw first."""
    return _held(connection, waiting(connection, wanted.model, wanted.version), wanted, most)


def waiting(connection: sa.Connection, model: str, version: str | None = None) -> list[str]:
    """The sample of a model, or of one version, whatever else is wanted: all of it that has no label yet."""
    draws = sa.select(DRAWS.c.draw_id, DRAWS.c.budget).where(DRAWS.c.model == model)
    if version is not None:
        draws = draws.where(DRAWS.c.version == version)
    latest, room = list[str](), DRAWN_AT_MOST
    for draw_id, budget in connection.execute(draws.order_by(DRAWS.c.at.desc(), DRAWS.c.draw_id.desc())):
        if latest and budget > room:
            break
        latest.append(draw_id)
        room -= budget
    found = list[str]()
    for draw_id in reversed(latest):
        drawn = sa.select(DRAWN.c.score_id).where(DRAWN.c.draw_id == draw_id, ~_labelled(DRAWN.c.score_id))
        found += connection.execute(drawn.order_by(DRAWN.c.position).limit(DRAWN_AT_MOST - len(found))).scalars()
    return found


def left_of(connection: sa.Connection, model: str, reviewer: str | None, score_ids: Sequence[str]) -> set[str]:
    """Those of a few scores that would be left of the sample if this reviewer said nothing of them."""
    query = (
        sa.select(DRAWN.c.score_id).join(DRAWS, DRAWS.c.draw_id == DRAWN.c.draw_id)
        .where(among(connection, DRAWN.c.score_id, score_ids), unindexed(DRAWS.c.model) == model,
               ~_labelled(DRAWN.c.score_id, but=reviewer))
    )
    return set(connection.execute(query).scalars()) if score_ids else set()


def riskiest(connection: sa.Connection, wanted: Wanted, reviewer: str | None, now: datetime, most: int) -> list[str]:
    """Not labelled yet, the highest risk first, among the newest scores of the model."""
    newest = (
        sa.select(SCORES.c.score_id, SCORES.c.version, SCORES.c.answer, SCORES.c.risk)
        .where(SCORES.c.model == wanted.model, SCORES.c.created_at >= now - timedelta(days=DAYS),
               SCORES.c.role == SERVING,
               *([] if wanted.version is None else [SCORES.c.version == wanted.version]))
        .order_by(SCORES.c.created_at.desc()).limit(NEWEST).cte("newest").prefix_with("MATERIALIZED")
    )
    ranked = sa.select(newest.c.score_id).where(*wanted.holds(newest)).order_by(newest.c.risk.desc(), newest.c.score_id)
    return _unlabelled(connection, connection.execute(ranked).scalars().all(), most)


def second(connection: sa.Connection, wanted: Wanted, reviewer: str | None, now: datetime, most: int) -> list[str]:
    """Labelled by reviewers of late, where one more opinion tells: some disagree, or one is against the harmonizer.

    Disagreements first, then the newest. Where two agree, nobody else is asked.
    """
    said = _standing(connection, wanted)
    if said.empty:
        return []
    mine = said.loc[_by(said, reviewer), "score_id"]
    said = said[~said["score_id"].isin(mine)]
    counts = said.groupby(["score_id", "label"], as_index=False).agg(
        n=("label", "size"), last=("feedback_id", "max"), against=("against", "max"))
    counts["top"] = counts["n"] == counts.groupby("score_id")["n"].transform("max")
    scores = counts.groupby("score_id", as_index=False).agg(
        n=("n", "sum"), tops=("top", "sum"), last=("last", "max"), against=("against", "max"))
    scores["disputed"] = scores["tops"] > 1
    due = scores[scores["disputed"] | ((scores["n"] == 1) & scores["against"])]
    return due.sort_values(["disputed", "last"], ascending=False)["score_id"].head(most).tolist()


Queue = Callable[[sa.Connection, Wanted, "str | None", datetime, int], list[str]]

QUEUES: dict[QueueName, Queue] = {"sample": sample, "riskiest": riskiest, "second": second}
"""By name: the score_ids that a reviewer should look at, in order, at most so many."""


@dataclass(frozen=True)
class Progress:
    """Answers with a label since a moment, by anybody and by one reviewer; of reviewers' newest `LABELS` labels."""

    checked: frozenset[str]
    mine: frozenset[str]


def progress(connection: sa.Connection, model: str, reviewer: str | None, since: datetime) -> Progress:
    """How far the people are."""
    said = _standing(connection, Wanted(model), since)
    said = said[said["created_at"] >= since] if len(said) else said
    return Progress(frozenset(said["score_id"]), frozenset(said.loc[_by(said, reviewer), "score_id"]))


def answer(connection: sa.Connection, model: str, score_id: str) -> Answer | None:
    """The served answer with that score_id; None: no such one of the model is kept."""
    columns = [SCORES.c[name] for name in Answer.__dataclass_fields__]
    row = connection.execute(sa.select(*columns).where(
        SCORES.c.score_id == score_id, SCORES.c.model == model, SCORES.c.role == SERVING)).one_or_none()
    if row is None:
        return None
    spans = None if row.spans is None else tuple((int(start), int(end)) for start, end in row.spans)
    return Answer(**{**row._mapping, "spans": spans})


@dataclass(frozen=True)
class Word:
    """What a reviewer said of a score last, and when. label: None where that took back what was said before."""

    label: str | None
    at: datetime


def own_words(connection: sa.Connection, score_ids: Sequence[str], reviewer: str | None) -> dict[str, Word]:
    """What a reviewer said of each of a few scores; nothing of those of which that is nothing."""
    if not score_ids:
        return {}
    query = (
        sa.select(FEEDBACK.c.score_id, FEEDBACK.c.label, FEEDBACK.c.withdrawn, FEEDBACK.c.created_at)
        .where(among(connection, FEEDBACK.c.score_id, score_ids), FEEDBACK.c.reviewer.is_not_distinct_from(reviewer))
        .order_by(FEEDBACK.c.feedback_id)
    )
    return {row.score_id: Word(None if row.withdrawn else row.label, row.created_at)
            for row in connection.execute(query)}


def versions(connection: sa.Connection, model: str) -> list[str]:
    """The versions of the model that have served, the newest first."""
    query = sa.select(TALLIES.c.version).distinct().where(TALLIES.c.model == model, TALLIES.c.role == SERVING)
    found = list(connection.execute(query).scalars())
    return sorted(found, key=lambda version: (len(version), version), reverse=True)


def _parts(score_ids: Sequence[str]) -> Iterator[Sequence[str]]:
    """Parts of them, the first one small, as it often is enough."""
    start, size = 0, PART // 4
    while start < len(score_ids):
        yield score_ids[start : start + size]
        start, size = start + size, PART


def _held(connection: sa.Connection, score_ids: Sequence[str], wanted: Wanted, most: int) -> list[str]:
    """The first scores, at most so many, that are wanted; each is looked up by its key."""
    if wanted.answer is None and wanted.least <= 0 and wanted.most >= 1:
        return list(score_ids[:most])  # what was drawn has a risk
    found = list[str]()
    for part in _parts(score_ids):
        held = sa.select(SCORES.c.score_id).where(among(connection, SCORES.c.score_id, part), *wanted.holds(SCORES))
        kept = set(connection.execute(held).scalars())
        found += [score_id for score_id in part if score_id in kept]
        if len(found) >= most:
            break
    return found[:most]


def _unlabelled(connection: sa.Connection, score_ids: Sequence[str], most: int) -> list[str]:
    """The first scores, at most so many, without a label; only as many are asked about as it takes."""
    found = list[str]()
    for part in _parts(score_ids):
        said = sa.select(FEEDBACK.c.score_id).where(among(connection, FEEDBACK.c.score_id, part), _stands(FEEDBACK))
        labelled = set(connection.execute(said).scalars())
        found += [score_id for score_id in part if score_id not in labelled]
        if len(found) >= most:
            break
    return found[:most]


def _stands(said: Any) -> sa.ColumnElement[bool]:
    """Whether a row is a label, and the latest word of its reviewer on the score."""
    later = FEEDBACK.alias("later")
    newer = (sa.select(sa.literal(1)).where(
        later.c.score_id == said.c.score_id, later.c.feedback_id > said.c.feedback_id,
        later.c.reviewer.is_not_distinct_from(said.c.reviewer)).correlate(said).offset(0))
    return sa.and_(~said.c.withdrawn, ~newer.exists())


def _labelled(score_id: sa.Column[str], but: str | Literal[False] | None = False) -> sa.ColumnElement[bool]:
    """Whether any reviewer's latest word on a score is a label. but: the word of this one aside."""
    said = FEEDBACK.alias("said")
    query = sa.select(sa.literal(1)).where(said.c.score_id == score_id, _stands(said))
    if but is not False:
        query = query.where(said.c.reviewer.is_distinct_from(but))
    return query.correlate(score_id.table).offset(0).exists()


def _standing(connection: sa.Connection, wanted: Wanted, since: datetime | None = None) -> pd.DataFrame:
    """What each reviewer says, as it stands, of the scores that have one of the newest labels by reviewers.

    A reviewer is who has a key of the scope `review`, or needs none; what applications feed does not crowd these out.
    since: those that came since then. Columns: score_id, reviewer, label, created_at, feedback_id, against (the
    harmonizer).
    """
    names: Sequence[str] = ("score_id", "reviewer", "label", "created_at", "feedback_id", "withdrawn")
    columns = [*(FEEDBACK.c[name] for name in names), SCORES.c.harmonizer_answer]
    rows = list[Any]()
    ids = _reviewed(connection, wanted, since)
    for start in range(0, len(ids), PART):
        query = sa.select(*columns).join(SCORES, SCORES.c.score_id == FEEDBACK.c.score_id).where(
            among(connection, FEEDBACK.c.score_id, ids[start : start + PART]), *wanted.holds(SCORES))
        rows += connection.execute(query).all()
    found = pd.DataFrame(rows, columns=[*names, "harmonizer_answer"]).sort_values("feedback_id")
    found["reviewer"] = found["reviewer"].astype("object").where(found["reviewer"].notna(), None)
    latest = found.drop_duplicates(["score_id", "reviewer"], keep="last")
    latest = latest[~latest["withdrawn"].astype(bool)]
    return latest.assign(against=latest["label"] != latest["harmonizer_answer"]).drop(
        columns=["withdrawn", "harmonizer_answer"])


def _reviewed(connection: sa.Connection, wanted: Wanted, since: datetime | None) -> list[str]:
    """The scores of the model that have one of the newest `LABELS` labels by reviewers."""
    last = connection.execute(sa.select(sa.func.max(FEEDBACK.c.feedback_id))).scalar() or 0
    newest = (
        sa.select(FEEDBACK.c.feedback_id, FEEDBACK.c.score_id)
        .where(FEEDBACK.c.feedback_id > last - ROWS, FEEDBACK.c.trusted | (FEEDBACK.c.reviewer == LOCAL),
               *([] if since is None else [FEEDBACK.c.created_at >= since]))
        .order_by(FEEDBACK.c.feedback_id.desc()).limit(BY_REVIEWERS).subquery("newest")
    )
    of_model = sa.select(sa.literal(1)).where(
        SCORES.c.score_id == newest.c.score_id, unindexed(SCORES.c.model) == wanted.model).correlate(newest)
    query = sa.select(newest.c.score_id).where(of_model.offset(0).exists()).limit(LABELS)  # in that order, one by one
    return list(dict.fromkeys(connection.execute(query).scalars()))


def _by(said: pd.DataFrame, reviewer: str | None) -> "pd.Series[bool]":
    return said["reviewer"].isna() if reviewer is None else said["reviewer"] == reviewer
