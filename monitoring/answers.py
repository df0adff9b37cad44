"""The answers that a report is about: what it may read of them, and the labelled ones with their weights. Pure."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

SMALLEST = 5
"""No figure is shown of fewer answers than these: it would be a figure of single answers."""

READ = (
    "risk", "answer", "harmonizer_answer", "text_length", "sources_voting", "agreement", "decision", "error",
    "probability", "created_at", "version",
)
"""The columns of `Store.frame` that a report reads by itself. None of them names a row."""

NAMES = ("answer", "harmonizer_answer", "decision", "version")
NUMBERS = ("risk", "text_length", "sources_voting", "agreement", "error", "probability")


@dataclass(frozen=True)
class Labelled:
    """The labelled answers that measures rest on, (n,) each.

    rows: where they stand in the frame. weight: 1/probability, of mean 1. known: whether those probabilities are known,
    so that what is measured holds for all answers; else it holds for the labelled ones alone, and weights are equal.
    left_out: labelled answers of unknown probability, beside those that are known.
    """

    rows: np.ndarray
    risk: np.ndarray
    error: np.ndarray
    weight: np.ndarray
    known: bool
    left_out: int

    def __len__(self) -> int:
        return len(self.rows)


def safe(frame: pd.DataFrame, also: tuple[str, ...] = ()) -> pd.DataFrame:
    """What a report may read of a frame, numbered anew; a column that is missing counts as unknown."""
    kept = frame.reindex(columns=list(dict.fromkeys([*READ, *also]))).reset_index(drop=True)
    kept["created_at"] = pd.to_datetime(kept["created_at"], utc=True)
    return kept.astype({column: "float64" for column in NUMBERS} | dict.fromkeys(NAMES, "category"))


def labelled(frame: pd.DataFrame, enough: int) -> Labelled:
    """The labelled answers of a frame.

    If every answer with a risk is labelled, all count alike and hold for all. Else those whose sampling probability is
    known count, if they are `enough` or there are no others: they hold for all answers, too. Otherwise all labelled
    ones count alike, and hold for themselves alone.
    """
    risk, error, probability = (frame[name].to_numpy(float) for name in ("risk", "error", "probability"))
    told = ~np.isnan(risk) & ~np.isnan(error)
    sure = told & (probability > 0)
    every = bool(told.any()) and told.sum() == (~np.isnan(risk)).sum()
    known = every or (bool(sure.any()) and (sure.sum() >= enough or sure.sum() == told.sum()))
    rows = np.flatnonzero(told if every or not known else sure)
    weight = 1 / np.minimum(probability[rows], 1.0) if known and not every else np.ones(len(rows))
    return Labelled(rows, risk[rows], error[rows], weight / weight.mean() if len(rows) else weight, known,
                    int(told.sum() - len(rows)))


def plain(text: Any) -> str:
    """A name that cannot be read as markup in a page."""
    return str(text).translate(_PLAIN)


_PLAIN = str.maketrans({
    "<": "‹", ">": "›", "&": "＆", "`": "ˋ", "[": "［", "]": "］", "*": "∗", "_": "＿", "|": "¦", "#": "＃", "\\": "＼",
    "\n": " ", "\r": " ",
})
