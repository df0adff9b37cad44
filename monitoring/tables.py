"""The tables of the prediction store, and what a row of each is."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

import sqlalchemy as sa

from registry.database import UtcDateTime, now

METADATA = sa.MetaData()


SCORES = sa.Table(
    "scores",
    METADATA,
    sa.Column("score_id", sa.Text, primary_key=True),
    sa.Column("item_id", sa.Text, nullable=False, index=True),
    sa.Column("created_at", UtcDateTime, nullable=False),
    sa.Column("model", sa.Text, nullable=False),
    sa.Column("version", sa.Text, nullable=False),
    sa.Column("answer", sa.Text),
    sa.Column("harmonizer_answer", sa.Text, nullable=False),
    sa.Column("risk", sa.Double),
    sa.Column("probabilities", sa.JSON, nullable=False),
    sa.Column("votes", sa.JSON, nullable=False),
    sa.Column("votes_used", sa.Boolean, nullable=False),
    sa.Column("text_length", sa.Integer, nullable=False),
    sa.Column("text", sa.Text),
    sa.Column("role", sa.Text, nullable=False, server_default="serving"),
    sa.Column("shadow_of", sa.Text, index=True),
    sa.Column("decision", sa.Text),
    sa.Column("text_hash", sa.Text),
    sa.Index("ix_scores_model_created_at", "model", "created_at"),
    sa.Index("ix_scores_created_at", "created_at"),
)

FEEDBACK = sa.Table(
    "feedback",
    METADATA,
    sa.Column("feedback_id", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True),
    sa.Column("score_id", sa.ForeignKey(SCORES.c.score_id), nullable=False, index=True),
    sa.Column("label", sa.Text, nullable=False),
    sa.Column("created_at", UtcDateTime, nullable=False),
    sa.Column("uid", sa.Text),
    sa.Index("ux_feedback_uid", "uid", unique=True),
)

FORGOTTEN = sa.Table(
    "forgotten",
    METADATA,
    sa.Column("key", sa.Text, primary_key=True),
    sa.Column("at", UtcDateTime, nullable=False),
)
"""SHA-256 of the ids that were forgotten of late, so that no score of before, still under way, comes back."""


@dataclass(frozen=True)
class ScoredAnswer:
    """One answer of the LLM with its risk, as kept. Classes are given by name.

    risk: probability that the answer is wrong, None exactly where there is no answer.
    probabilities: the harmonizer's, one a class, in the order of the task's classes.
    votes: what each source said, of the sources that voted. votes_used: whether they entered the risk.
    text: kept only if wanted; nothing here needs it. text_hash: the embedding cache's key of it, in hex, if kept.
    role: `serving`, or `shadow` where another version's score was served: then shadow_of is that one's score_id.
    decision: what the service advised to do with the answer.
    """

    score_id: str
    item_id: str
    model: str
    version: str
    answer: str | None
    harmonizer_answer: str
    risk: float | None
    probabilities: Mapping[str, float]
    votes: Mapping[str, str]
    votes_used: bool
    text_length: int
    text: str | None = field(default=None, repr=False)
    created_at: datetime = field(default_factory=now)
    role: str = "serving"
    shadow_of: str | None = None
    decision: str | None = None
    text_hash: str | None = None


@dataclass(frozen=True)
class Feedback:
    """The correct class, found out later. Names one score by `score_id`, or all scores of an item by `id`.

    label: a class's name or its index. A string that is a class's name means that class.
    """

    label: str | int
    score_id: str | None = None
    id: str | None = None


@dataclass(frozen=True)
class TakenFeedback:
    """Feedback that was accepted and is to be kept once: a label is told by its `uid`.

    model: ids are looked up among this model's scores only.
    """

    uid: str
    row: Feedback
    model: str
    created_at: datetime = field(default_factory=now)
