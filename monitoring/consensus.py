"""What people say of a score, together. Pure.

Rows of feedback are only ever added. Of each reviewer, nobody in particular being one of them, the latest row counts,
and none where that withdraws what was said. The label is what most reviewers say. With as many for another, the score
is disputed, and the label stands that was said first of these: asking again only where an error was found would
otherwise take errors away and never add one.
"""

import numpy as np
import pandas as pd

from monitoring.tables import CHOSEN


def consensus(said: pd.DataFrame) -> pd.DataFrame:
    """One row a score of which something stands, by score_id.

    said: in the order of coming, score_id, reviewer, label, chosen, probability, withdrawn, created_at.

    disputed: whether as many reviewers say something else. reviewers: how many distinct ones whose label stands.
    labelled_at: when the first label came that was not withdrawn. chosen, probability: how the answer came to be
    labelled, as each reviewer said last; of several reviewers it is the most likely known way, `all` before the others.
    probability: NaN where it is not known.
    """
    score, ids = pd.factorize(said["score_id"])
    standing = _standing(said.assign(score=score, who=pd.factorize(said["reviewer"])[0]))
    found = _plurality(standing).join(_chosen(standing))
    return pd.DataFrame({
        "label": found["label"].astype(object),
        "disputed": found["disputed"].astype(bool),
        "reviewers": found["reviewers"].astype("int64"),
        "chosen": found["chosen"].astype(object),
        "probability": found["probability"].astype("float64"),
        "labelled_at": standing.groupby("score")["created_at"].min(),
    }).set_index(ids.take(found.index).rename("score_id"))


def _standing(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows that came after the reviewer's last withdrawal."""
    if not rows["withdrawn"].any():
        return rows
    order = np.arange(len(rows))
    gone = pd.Series(np.where(rows["withdrawn"], order, -1), index=rows.index)
    return rows[order > gone.groupby([rows["score"], rows["who"]]).transform("max").to_numpy()]


def _plurality(standing: pd.DataFrame) -> pd.DataFrame:
    """By score: the label that most reviewers give, disputed where as many give another; and how many reviewers.

    When a reviewer said a label is when it was first said of those that stand: to say it again makes it no later.
    """
    latest = standing.drop_duplicates(["score", "who"], keep="last")[["score", "who", "label"]]
    first = standing.assign(order=np.arange(len(standing))).merge(latest, on=["score", "who", "label"])
    votes = first.groupby(["score", "label"]).agg(votes=("who", "nunique"), order=("order", "min")).reset_index()
    most = votes[votes["votes"] == votes.groupby("score")["votes"].transform("max")]
    return pd.DataFrame({
        "reviewers": latest.groupby("score").size(),
        "label": most.sort_values("order").drop_duplicates("score").set_index("score")["label"],
        "disputed": most.groupby("score").size() > 1,
    })


def _chosen(standing: pd.DataFrame) -> pd.DataFrame:
    """By score: how it was chosen, and with which probability."""
    says = standing["chosen"] != "unknown"
    latest = pd.concat([standing[~says], standing[says]]).drop_duplicates(["score", "who"], keep="last")
    known = latest["probability"].where(latest["chosen"].isin(["random", "risk"]))
    latest = latest.assign(probability=known.mask(latest["chosen"] == "all", 1.0),
                           place=latest["chosen"].map({name: place for place, name in enumerate(CHOSEN)}))
    latest = latest.sort_values(["score", "probability", "place"], ascending=[True, False, True], na_position="last")
    return latest.drop_duplicates("score").set_index("score")[["chosen", "probability"]]
