"""Scores, feedback and the stage log, as polarscore 0.2.0 and older made them."""

import sqlalchemy as sa
from alembic import op

revision, down_revision = "0001", None

_KEY = sa.BigInteger().with_variant(sa.Integer, "sqlite")
_MOMENT = sa.DateTime(timezone=True)


def upgrade() -> None:
    """Make those tables that are not there: an older polarscore made them one by one."""
    there = set(sa.inspect(op.get_bind()).get_table_names())
    if "scores" not in there:
        op.create_table(
            "scores",
            sa.Column("score_id", sa.Text, primary_key=True),
            sa.Column("item_id", sa.Text, nullable=False, index=True),
            sa.Column("created_at", _MOMENT, nullable=False),
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
            sa.Index("ix_scores_model_created_at", "model", "created_at"),
        )
    if "feedback" not in there:
        op.create_table(
            "feedback",
            sa.Column("feedback_id", _KEY, primary_key=True),
            sa.Column("score_id", sa.Text, sa.ForeignKey("scores.score_id"), nullable=False, index=True),
            sa.Column("label", sa.Text, nullable=False),
            sa.Column("created_at", _MOMENT, nullable=False),
        )
    if "stage_log" not in there:
        op.create_table(
            "stage_log",
            sa.Column("entry", _KEY, primary_key=True),
            sa.Column("at", _MOMENT, nullable=False),
            sa.Column("who", sa.Text, nullable=False),
            sa.Column("action", sa.Text, nullable=False),
            sa.Column("model", sa.Text, nullable=False, index=True),
            sa.Column("version", sa.Integer, nullable=False),
            sa.Column("from_stage", sa.Text, nullable=False),
            sa.Column("to_stage", sa.Text, nullable=False),
            sa.Column("replaced", sa.Integer),
            sa.Column("why", sa.Text, nullable=False),
            sa.Column("gates", sa.JSON, nullable=False),
        )
