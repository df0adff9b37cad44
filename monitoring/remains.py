"""What is left of labelled scores that were erased by their age: risk, error and moments, without id, text or class.

An alarm that never rings wrongly more often than it promises has to see all evidence that there ever was: of a window
that slides on, some stretch would ring by chance.
"""

from datetime import datetime
from typing import Any

import pandas as pd
import sqlalchemy as sa

from monitoring.reading import fetch
from monitoring.tables import EVIDENCE

_TOLD = ("model", "version", "role", "created_at", "labelled_at", "risk", "error", "chosen", "probability")
_LOST: dict[str, Any] = {
    "answer": None, "harmonizer_answer": "", "text_length": 0, "sources_voting": 0, "sources_agreeing": 0,
    "agreement": float("nan"), "votes_used": False, "decision": None, "label": None, "disputed": False, "reviewers": 0,
    "again": False,
}


def keep_remains(connection: sa.Connection, labelled: pd.DataFrame, trusted: bool) -> None:
    """Keep what remains of scores with errors, columns as in `Store.frame(trusted=...)`, and role."""
    rows = labelled[list(_TOLD)].astype(object)
    rows = rows.where(rows.notna(), None).assign(trusted=trusted)
    if len(rows):
        connection.execute(sa.insert(EVIDENCE), [{str(name): value for name, value in row.items()}
                                                 for row in rows.to_dict("records")])


def with_remains(
    connection: sa.Connection, frame: pd.DataFrame, model: str, version: str, trusted: bool,
    since: datetime | None, until: datetime | None,
) -> pd.DataFrame:
    """The labelled scores of a version and, as if they were scores, the remains of erased ones, in one order.

    Of these the risk, the error, how they were chosen and the moments are known; the score_id and the item_id are
    `erased-NUMBER`.
    """
    columns = [EVIDENCE.c.evidence_id, *(EVIDENCE.c[name] for name in _TOLD if name != "role")]
    query = sa.select(*columns).where(EVIDENCE.c.model == model, EVIDENCE.c.version == version,
                                      EVIDENCE.c.trusted.is_(trusted))
    if since is not None:
        query = query.where(EVIDENCE.c.created_at >= since)
    if until is not None:
        query = query.where(EVIDENCE.c.created_at <= until)
    rows = fetch(connection, query)
    if rows.empty:
        return frame
    name = "erased-" + rows["evidence_id"].astype(str)
    rows = rows.assign(score_id=name, item_id=name, **_LOST).reindex(columns=frame.columns).astype(frame.dtypes)
    found = pd.concat([rows, frame]).sort_values(["created_at", "score_id"], ignore_index=True)
    texts = [str(name) for name in found if found[name].dtype == object]
    return found.assign(**{name: found[name].where(found[name].notna(), None) for name in texts})
