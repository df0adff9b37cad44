"""The stage log becomes a chain: numbers, hashes, signatures and evidence; and what a change intends, beside it.

What is logged already gets its numbers and hashes, and no signature.
"""

import hashlib
import json
from datetime import UTC
from typing import Any

import sqlalchemy as sa
from alembic import op

revision, down_revision = "0002", "0001"


def upgrade() -> None:
    """Add columns, fill them in, then forbid their absence."""
    op.add_column("stage_log", sa.Column("seq", sa.Integer))
    for name in ("files", "evidence", "evidence_uri", "previous", "hash", "key", "signature"):
        op.add_column("stage_log", sa.Column(name, sa.Text))
    _link(op.get_bind())
    with op.batch_alter_table("stage_log") as table:
        for name, kind in (("seq", sa.Integer), ("previous", sa.Text), ("hash", sa.Text)):
            table.alter_column(name, existing_type=kind(), nullable=False)
    op.create_index("ux_stage_log_model_seq", "stage_log", ["model", "seq"], unique=True)
    op.create_table("stage_intentions", sa.Column("model", sa.Text, primary_key=True),
                    sa.Column("entry", sa.JSON, nullable=False))


def _link(connection: sa.Connection) -> None:
    log = sa.Table("stage_log", sa.MetaData(), autoload_with=connection)
    log.c.at.type, log.c.gates.type = sa.DateTime(timezone=True), sa.JSON()
    last: dict[str, tuple[int, str]] = {}
    for row in connection.execute(sa.select(log).order_by(log.c.entry)).mappings().all():
        seq, previous = last.get(row["model"], (0, ""))
        sha = hashlib.sha256(_content(row, seq + 1, previous)).hexdigest()
        last[row["model"]] = seq + 1, sha
        connection.execute(sa.update(log).where(log.c.entry == row["entry"]),
                           {"seq": seq + 1, "previous": previous, "hash": sha})


def _content(row: Any, seq: int, previous: str) -> bytes:
    """What `registry.chain.content` makes of it."""
    at = row["at"].replace(tzinfo=UTC) if row["at"].tzinfo is None else row["at"].astimezone(UTC)
    said = {key: row[key] for key in ("who", "action", "model", "version", "from_stage", "to_stage", "replaced", "why",
                                      "gates")}
    said |= dict.fromkeys(("files", "evidence", "evidence_uri"))
    said |= {"at": at.isoformat(timespec="microseconds"), "seq": seq, "previous": previous}
    return json.dumps(said, sort_keys=True, ensure_ascii=True, separators=(",", ":"), allow_nan=False).encode()
