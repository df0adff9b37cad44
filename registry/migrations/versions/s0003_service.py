"""What a service keeps: scores in the dark, decisions, hashes of texts; feedback told apart; what was forgotten."""

import sqlalchemy as sa
from alembic import op

revision, down_revision = "0003", "0002"


def upgrade() -> None:
    """Add columns: every score kept so far was served. Both databases do so in place."""
    op.add_column("scores", sa.Column("role", sa.Text, nullable=False, server_default="serving"))
    for name in ("shadow_of", "decision", "text_hash"):
        op.add_column("scores", sa.Column(name, sa.Text))
    op.create_index("ix_scores_shadow_of", "scores", ["shadow_of"])
    op.create_index("ix_scores_created_at", "scores", ["created_at"])
    op.add_column("feedback", sa.Column("uid", sa.Text))
    op.create_index("ux_feedback_uid", "feedback", ["uid"], unique=True)
    op.create_table("forgotten", sa.Column("key", sa.Text, primary_key=True),
                    sa.Column("at", sa.DateTime(timezone=True), nullable=False))
