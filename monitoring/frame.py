"""The table that monitoring works on: one row a score, with what is known about its answer. Never a text."""

from collections.abc import Mapping
from datetime import datetime

import pandas as pd
import sqlalchemy as sa

from monitoring.tables import FEEDBACK, SCORES

COLUMNS = (
    "score_id", "item_id", "created_at", "model", "version", "risk", "answer", "harmonizer_answer",
    "text_length", "sources_voting", "agreement", "votes_used", "label", "labelled_at", "error",
)
SERVING = "serving"
_KEPT = tuple(name for name in COLUMNS if name in SCORES.c)


def read_frame(
    connection: sa.Connection, model: str, version: str | None = None, since: datetime | None = None
) -> pd.DataFrame:
    """The scores of a model in the order of scoring; `Store.frame` says what each of `COLUMNS` is."""
    last = sa.func.max(FEEDBACK.c.feedback_id).label("id")
    latest = sa.select(last).group_by(FEEDBACK.c.score_id).subquery()
    known = (
        sa.select(FEEDBACK.c.score_id, FEEDBACK.c.label, FEEDBACK.c.created_at.label("labelled_at"))
        .join(latest, FEEDBACK.c.feedback_id == latest.c.id)
        .subquery()
    )
    query = (
        sa.select(*(SCORES.c[name] for name in _KEPT), SCORES.c.votes, known.c.label, known.c.labelled_at)
        .join_from(SCORES, known, sa.func.coalesce(SCORES.c.shadow_of, SCORES.c.score_id) == known.c.score_id,
                   isouter=True)
        .where(SCORES.c.model == model)
        .order_by(SCORES.c.created_at, SCORES.c.score_id)
    )
    query = query.where(SCORES.c.role == SERVING if version is None else SCORES.c.version == version)
    if since is not None:
        query = query.where(SCORES.c.created_at >= since)
    rows = connection.execute(query).all()
    return derive(pd.DataFrame(rows, columns=[*_KEPT, "votes", "label", "labelled_at"]))


def derive(frame: pd.DataFrame) -> pd.DataFrame:
    """Add sources_voting, agreement and error to rows numbered from 0. Types are the same without any row.

    An answer that was scored again and checked once is one checked answer: only its last score has the error.
    """
    votes: list[Mapping[str, str]] = frame["votes"].tolist()
    said = zip(votes, frame["answer"], strict=True)
    same = [sum(vote == answer for vote in cast.values()) for cast, answer in said]
    agreeing = pd.Series(same, dtype="float64")
    voting = pd.Series([len(cast) for cast in votes], dtype="int64")
    answered, labelled = frame["answer"].notna(), frame["label"].notna()
    names = ["score_id", "item_id", "model", "version", "harmonizer_answer"]
    frame = frame.astype(dict.fromkeys(names, "str")).assign(
        created_at=pd.to_datetime(frame["created_at"], utc=True).dt.as_unit("us"),
        labelled_at=pd.to_datetime(frame["labelled_at"], utc=True).dt.as_unit("us"),
        risk=frame["risk"].astype("float64"),
        answer=frame["answer"].astype("object").where(answered, None),
        label=frame["label"].astype("object").where(labelled, None),
        votes_used=frame["votes_used"].astype("bool"),
        text_length=frame["text_length"].astype("int64"),
        sources_voting=voting,
        agreement=(agreeing / voting).where(answered & (voting > 0)),
        error=(frame["label"] != frame["answer"]).astype("float64").where(answered & labelled),
    )
    again = frame[frame["error"].notna()].duplicated(["item_id", "version", "answer"], keep="last")
    frame.loc[again[again].index, "error"] = float("nan")
    return frame[list(COLUMNS)]
