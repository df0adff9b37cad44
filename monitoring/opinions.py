"""Reading what people say of scores: their consensus, of all scores or of those in question."""

import pandas as pd
import sqlalchemy as sa

from monitoring.consensus import consensus
from monitoring.reading import among, fetch
from monitoring.tables import FEEDBACK

_SAID = ("feedback_id", "score_id", "label", "reviewer", "chosen", "probability", "withdrawn", "created_at")


def opinions(
    connection: sa.Connection, score_ids: pd.Series | None = None, trusted: bool = False
) -> pd.DataFrame:
    """The consensus, one row a score of which something stands, by score_id; score_ids None: of all.

    Of a few scores theirs are looked up; of many everything is read, and there may be more than asked for.
    trusted: of what came with an API key of the scope `review` alone, as if nothing else had been said.
    """
    query = sa.select(*(FEEDBACK.c[name] for name in _SAID))
    if trusted:
        query = query.where(FEEDBACK.c.trusted)
    most = connection.execute(sa.select(sa.func.max(FEEDBACK.c.feedback_id))).scalar() or 0
    if score_ids is None or len(score_ids) >= most:
        said = fetch(connection, query.order_by(FEEDBACK.c.feedback_id))
    else:
        said = fetch(connection, query.where(among(connection, FEEDBACK.c.score_id, score_ids.unique().tolist())))
    return consensus(said.sort_values("feedback_id", ignore_index=True))


def spoken_of(connection: sa.Connection) -> list[str]:
    """The score_ids of which something stands: a row that its reviewer has not withdrawn since."""
    later = FEEDBACK.alias()
    gone = sa.exists().where(
        later.c.score_id == FEEDBACK.c.score_id, later.c.reviewer.is_not_distinct_from(FEEDBACK.c.reviewer),
        later.c.withdrawn, later.c.feedback_id > FEEDBACK.c.feedback_id)
    query = sa.select(FEEDBACK.c.score_id).distinct().where(sa.not_(FEEDBACK.c.withdrawn), sa.not_(gone))
    return list(connection.execute(query).scalars().all())
