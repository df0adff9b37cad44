"""The tables of the prediction store, and what a row of each is."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal

import sqlalchemy as sa

from registry.database import UtcDateTime, now

METADATA = sa.MetaData()
_KEY = sa.BigInteger().with_variant(sa.Integer, "sqlite")

Chosen = Literal["all", "random", "risk", "whim", "unknown"]
"""How an answer came to be labelled: as every answer of its time, in a random share, by its risk alone, by a reviewer's
whim; or it is not said."""

CHOSEN: tuple[Chosen, ...] = ("all", "random", "risk", "whim", "unknown")

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
    sa.Column("sources_voting", sa.Integer, nullable=False, server_default="0"),
    sa.Column("sources_agreeing", sa.Integer, nullable=False, server_default="0"),
    sa.Column("spans", sa.JSON(none_as_null=True)),
    sa.Index("ix_scores_model_created_at", "model", "created_at"),
    sa.Index("ix_scores_model_version_created_at", "model", "version", "created_at"),
    sa.Index("ix_scores_created_at", "created_at"),
)

FEEDBACK = sa.Table(
    "feedback",
    METADATA,
    sa.Column("feedback_id", _KEY, primary_key=True),
    sa.Column("score_id", sa.ForeignKey(SCORES.c.score_id), nullable=False, index=True),
    sa.Column("label", sa.Text, nullable=False),
    sa.Column("created_at", UtcDateTime, nullable=False),
    sa.Column("uid", sa.Text),
    sa.Column("reviewer", sa.Text),
    sa.Column("chosen", sa.Text, nullable=False, server_default="unknown"),
    sa.Column("probability", sa.Double),
    sa.Column("trusted", sa.Boolean, nullable=False, server_default=sa.false()),
    sa.Column("withdrawn", sa.Boolean, nullable=False, server_default=sa.false()),
    sa.Index("ux_feedback_uid", "uid", unique=True),
)
"""Rows are only ever added: a correction is one more, and so is a withdrawal, whose label is empty."""

DRAWS = sa.Table(
    "draws",
    METADATA,
    sa.Column("draw_id", sa.Text, primary_key=True),
    sa.Column("model", sa.Text, nullable=False),
    sa.Column("version", sa.Text, nullable=False),
    sa.Column("at", UtcDateTime, nullable=False),
    sa.Column("since", UtcDateTime),
    sa.Column("until", UtcDateTime, nullable=False),
    sa.Column("budget", sa.Integer, nullable=False),
    sa.Column("scale", sa.Double, nullable=False),
    sa.Column("uniform", sa.Double, nullable=False),
    sa.Column("seed", sa.BigInteger, nullable=False),
    sa.Index("ix_draws_model_version", "model", "version"),
)

DRAWN = sa.Table(
    "drawn",
    METADATA,
    sa.Column("draw_id", sa.ForeignKey(DRAWS.c.draw_id), primary_key=True),
    sa.Column("score_id", sa.ForeignKey(SCORES.c.score_id), primary_key=True, index=True),
    sa.Column("probability", sa.Double, nullable=False),
    sa.Column("position", sa.Integer, nullable=False),
)

TALLIES = sa.Table(
    "tallies",
    METADATA,
    sa.Column("model", sa.Text, primary_key=True),
    sa.Column("version", sa.Text, primary_key=True),
    sa.Column("role", sa.Text, primary_key=True),
    sa.Column("hour", UtcDateTime, primary_key=True),
    sa.Column("n", sa.Integer, nullable=False),
    sa.Column("erased", sa.Integer, nullable=False, server_default="0"),
    sa.Column("counts", sa.JSON, nullable=False),
)
"""An hour's tally of a version's scores: counts, which stay when scores are erased. erased: how many of n were."""

EVIDENCE = sa.Table(
    "evidence",
    METADATA,
    sa.Column("evidence_id", _KEY, primary_key=True),
    sa.Column("model", sa.Text, nullable=False),
    sa.Column("version", sa.Text, nullable=False),
    sa.Column("role", sa.Text, nullable=False),
    sa.Column("trusted", sa.Boolean, nullable=False),
    sa.Column("created_at", UtcDateTime, nullable=False),
    sa.Column("labelled_at", UtcDateTime, nullable=False),
    sa.Column("risk", sa.Double, nullable=False),
    sa.Column("error", sa.Double, nullable=False),
    sa.Column("chosen", sa.Text, nullable=False),
    sa.Column("probability", sa.Double),
    sa.Index("ix_evidence_model_version", "model", "version"),
)
"""What remains of a labelled score that was erased by its age. trusted: by labels of reviewers with keys alone; a score
that has such leaves two rows, one by these and one by all."""

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
    spans: of the entities in the text, [start, end) in characters; only where the text is kept.
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
    spans: tuple[tuple[int, int], ...] | None = field(default=None, repr=False)


@dataclass(frozen=True)
class Feedback:
    """The correct class, found out later. Names one score by `score_id`, or all scores of an item by `id`.

    label: a class's name or its index. A string that is a class's name means that class.
    reviewer: who says so, None: somebody. Of what one reviewer says of a score the latest counts.
    chosen: how the answer came to be labelled. probability: with which it did, where that is known; `random` has one,
    `all` has 1, and `whim` has none.
    trusted: it came with an API key of the scope `review`. withdrawn: this takes back what the reviewer said of the
    score, and the label means nothing.
    """

    label: str | int
    score_id: str | None = None
    id: str | None = None
    reviewer: str | None = None
    chosen: Chosen = "unknown"
    probability: float | None = None
    trusted: bool = False
    withdrawn: bool = False


@dataclass(frozen=True)
class TakenFeedback:
    """Feedback that was accepted and is to be kept once: a label is told by its `uid`.

    model: ids are looked up among this model's scores only.
    """

    uid: str
    row: Feedback
    model: str
    created_at: datetime = field(default_factory=now)
