"""The labels that an alarm may count, in the order in which they came. Pure."""

from dataclasses import dataclass

import numpy as np
import pandas as pd

CHOSEN_BLINDLY = ("all", "random", "risk", "drawn")
"""How answers may have been chosen for their labels to count: without a look at anything but their risk."""

ELSEWHERE = "elsewhere"
"""Chosen by the risk that another version gave, which says more of an answer than its own risk: counts if weighed."""

EVENLY = ("all", "random")
"""Chosen with no regard to the answer, so that each stands for as many."""

BY_DRAWS = ("drawn", ELSEWHERE)

NEEDED = ("score_id", "risk", "error", "chosen", "probability", "created_at", "labelled_at", "again")


@dataclass(frozen=True)
class Labels:
    """rows: risk, error, chosen, probability, moment, key; ascending by moment. left_out: why others do not count."""

    rows: pd.DataFrame
    left_out: str

    @property
    def counts(self) -> np.ndarray:
        """(n,): whether a row is the last one of its moment. Evidence is weighed only when all of a moment are in."""
        moment = self.rows["moment"].to_numpy()
        return np.append(moment[1:] != moment[:-1], True)[:len(moment)]

    def of(self, kept: pd.Series) -> "Labels":
        """Those of the rows where `kept` is true."""
        return Labels(self.rows[kept].reset_index(drop=True), self.left_out)


def usable(labelled: pd.DataFrame, weighed: bool) -> Labels:
    """The labels that count; columns as in `Store.frame`, and what is missing is unknown.

    weighed: only answers of which it is known how probable it was that they would be chosen. Of an answer that was
    scored again, the scores that the frame says so of do not count.
    """
    frame = labelled.reindex(columns=list(NEEDED))
    known = frame["error"].notna() & frame["risk"].notna() & ~frame["again"].eq(True)
    elsewhere = frame["chosen"].eq(ELSEWHERE)
    blind = frame["chosen"].isin(CHOSEN_BLINDLY) | elsewhere
    probability = pd.to_numeric(frame["probability"], errors="coerce").astype(float)
    countable = (probability > 0) & (probability <= 1) if weighed else ~elsewhere
    rows = pd.DataFrame({
        "risk": frame["risk"], "error": frame["error"], "chosen": frame["chosen"],
        "probability": probability if weighed else 1.0,
        "moment": pd.to_datetime(frame["labelled_at"].fillna(frame["created_at"]), utc=True), "key": frame["score_id"],
    })[known & blind & countable].sort_values(["moment", "key"], kind="stable").reset_index(drop=True)
    return Labels(rows.astype(dict.fromkeys(["risk", "error", "probability"], "float64")), _phrases(
        (int((known & ~blind).sum()), "chosen by a whim or in a way that was not said"),
        (int((known & blind & ~countable).sum()), "chosen with a probability that is not known" if weighed else
         "chosen by another version's risk"),
    ))


def weights(rows: pd.DataFrame, of_all: pd.DataFrame, least: float | None) -> np.ndarray:
    """(n,), at most 1: for how many answers each row stands, up to a factor that is the same for its way of choosing.

    rows, of_all: of `Labels`, some and all of them. least: the smallest probability with which the draws may choose an
    answer, None without any. Those chosen evenly weigh 1 each; of each other way the smallest probability there is, or
    where that is not known was seen, over each one's. So few that hardly had a chance silence no others.
    """
    chosen, probability = rows["chosen"], rows["probability"].to_numpy(float)
    found = np.ones(len(rows))
    for way in chosen[~chosen.isin(EVENLY)].unique():
        smallest = float(of_all.loc[of_all["chosen"] == way, "probability"].min())
        if way in BY_DRAWS and least is not None:
            smallest = min(smallest, least)
        mine = chosen.eq(way).to_numpy()
        found[mine] = smallest / probability[mine]
    return found


def _phrases(*counted: tuple[int, str]) -> str:
    said = [f"{n:,} {why}" for n, why in counted if n]
    return f"not counted: {', '.join(said)}" if said else ""
