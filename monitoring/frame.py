"""The table that monitoring works on: one row a score, with what is known about its answer. Never a text."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

import pandas as pd
import sqlalchemy as sa

from monitoring.draws import SERVING, drawn_scores
from monitoring.opinions import opinions
from monitoring.prefix import reached
from monitoring.reading import among, fetch, unindexed, votes_of
from monitoring.remains import with_remains
from monitoring.tables import SCORES

COLUMNS = (
    "score_id", "item_id", "created_at", "model", "version", "risk", "answer", "harmonizer_answer",
    "text_length", "sources_voting", "sources_agreeing", "agreement", "votes_used", "decision", "label", "labelled_at",
    "chosen", "probability", "disputed", "reviewers", "error", "again",
)
DRAWN = "drawn"
"""How an answer was chosen that a draw drew, whatever else was said of it, as far as the draw has been checked."""

ELSEWHERE = "elsewhere"
"""How an answer in the dark was chosen where another version's risk chose it, which is not blind to its own."""

_KEPT = tuple(name for name in COLUMNS if name in SCORES.c)


def read_frame(
    connection: sa.Connection, model: str, version: str | None = None, since: datetime | None = None,
    until: datetime | None = None, last: int | None = None, labelled: bool = False, votes: bool = False,
    trusted: bool = False,
) -> pd.DataFrame:
    """The scores of a model in the order of scoring; `Store.frame` says what is what."""
    columns = [SCORES.c[name] for name in (*_KEPT, "shadow_of", *(["votes"] if votes else []))]
    query = sa.select(*columns)
    if since is not None:
        query = query.where(SCORES.c.created_at >= since)
    if until is not None:
        query = query.where(SCORES.c.created_at <= until)
    drawn = drawn_scores(connection, model)
    if labelled:
        labels = opinions(connection, trusted=trusted)
        rows = _named(connection, query, model, version, labels.index.tolist())
    else:
        rows = _newest(connection, query, model, version, last)
        labels = opinions(connection, pd.concat([_served(rows), drawn.index.to_series()]), trusted)
    frame = derive(rows, labels, drawn)
    frame = frame.join(votes_of(rows["votes"])) if votes else frame
    if not labelled:
        return frame
    if version is not None:
        frame = with_remains(connection, frame, model, version, trusted, since, until)
    return frame if last is None else frame.tail(last).reset_index(drop=True)


def read_labelled(connection: sa.Connection, score_ids: Sequence[str], trusted: bool) -> pd.DataFrame:
    """Of these scores, of whatever model, those that an alarm may count: with an error, not again; and their role."""
    query = sa.select(*(SCORES.c[name] for name in (*_KEPT, "shadow_of", "role")))
    asked = fetch(connection, query.where(among(connection, SCORES.c.score_id, score_ids)))
    told = asked[_served(asked).isin(opinions(connection, _served(asked), trusted).index)]
    found = [pd.DataFrame(columns=[*COLUMNS, "role"]).astype({"error": float, "again": bool})]
    for model, group in told.groupby("model"):
        rows = fetch(connection, query.where(unindexed(SCORES.c.model) == model,
                                             among(connection, SCORES.c.item_id, group["item_id"].unique().tolist())))
        rows = rows.sort_values(["created_at", "score_id"], ignore_index=True)
        drawn = drawn_scores(connection, str(model))
        labels = opinions(connection, pd.concat([_served(rows), drawn.index.to_series()]), trusted)
        found.append(derive(rows, labels, drawn).assign(role=rows["role"]))
    frame = pd.concat(found[1:] or found, ignore_index=True)
    return frame[frame["score_id"].isin(score_ids) & frame["error"].notna() & ~frame["again"]]


def derive(rows: pd.DataFrame, labels: pd.DataFrame, drawn: pd.DataFrame) -> pd.DataFrame:
    """`COLUMNS` of scores: labels as `consensus` has them, drawn as `drawn_scores` has it, both by score_id.

    labels: of these scores, and of all that were drawn.
    """
    served, dark = _served(rows), rows["shadow_of"].notna()
    found = _matched(labels, served)
    since = reached(drawn.reset_index(drop=True), labels["labelled_at"].reindex(drawn.index))
    place = _matched(drawn[["chance"]].assign(since=since.set_axis(drawn.index)), served)
    is_drawn = place["since"].notna()
    chosen = found["chosen"].mask(is_drawn, DRAWN)
    answered, voting = rows["answer"].notna(), rows["sources_voting"]
    known = answered & found["label"].notna()
    frame = rows.assign(
        agreement=(rows["sources_agreeing"] / voting.where(voting > 0)).where(answered),
        label=found["label"],
        labelled_at=found["labelled_at"].mask(is_drawn, place["since"]),
        chosen=chosen.mask(dark & chosen.isin([DRAWN, "risk"]), ELSEWHERE),
        probability=found["probability"].mask(is_drawn, place["chance"]),
        disputed=found["disputed"].eq(True),
        reviewers=found["reviewers"].fillna(0).astype("int64"),
        error=(found["label"] != rows["answer"]).astype("float64").where(known),
    )
    standing = 4 * is_drawn + 2 * frame["probability"].notna() + chosen.isin(["all", "random", "risk"])
    checked = frame.loc[standing[known].sort_values(kind="stable").index, ["item_id", "version", "answer"]]
    frame["again"] = checked.duplicated(keep="last").reindex(frame.index, fill_value=False)
    return frame[list(COLUMNS)]


def _newest(
    connection: sa.Connection, query: sa.Select[Any], model: str, version: str | None, last: int | None
) -> pd.DataFrame:
    """The rows of a stretch of time, or the newest of them, along an index."""
    query = query.where(SCORES.c.model == model)
    query = query.where(SCORES.c.role == SERVING if version is None else SCORES.c.version == version)
    order = (SCORES.c.created_at, SCORES.c.score_id)
    if last is None:
        return fetch(connection, query.order_by(*order))
    newest = query.order_by(*(column.desc() for column in order)).limit(last)
    return fetch(connection, newest).iloc[::-1].reset_index(drop=True)


def _named(
    connection: sa.Connection, query: sa.Select[Any], model: str, version: str | None, score_ids: Sequence[str]
) -> pd.DataFrame:
    """The rows of these scores and, of a version, those in the dark beside them, by their keys."""
    query = query.where(unindexed(SCORES.c.model) == model)
    if version is None:
        query, columns = query.where(unindexed(SCORES.c.role) == SERVING), [SCORES.c.score_id]
    else:
        query = query.where(unindexed(SCORES.c.version) == version)
        columns = [SCORES.c.score_id, SCORES.c.shadow_of]
    rows = pd.concat([fetch(connection, query.where(among(connection, column, score_ids))) for column in columns])
    return rows.sort_values(["created_at", "score_id"], ignore_index=True)


def _served(rows: pd.DataFrame) -> pd.Series:
    """The score that was served, of each row: itself, or the one beside which it stood in the dark."""
    dark = rows["shadow_of"].notna()
    return rows["score_id"].mask(dark, rows["shadow_of"]) if dark.any() else rows["score_id"]


def _matched(table: pd.DataFrame, keys: pd.Series) -> pd.DataFrame:
    """The table's row of each key, as the keys are numbered; missing values, None in objects, where it has none."""
    place = table.index.get_indexer(pd.Index(keys))
    rows = table.reset_index(drop=True).reindex(pd.Index(place)).set_axis(keys.index)
    texts = rows.select_dtypes(object)
    return rows.assign(**{name: texts[name].where(texts[name].notna(), None) for name in texts})
