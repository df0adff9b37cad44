"""Scoring in batch: a task or a file of rows to a file of risks, each kept in the prediction store if wanted."""

import os
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
import pandas as pd

from monitoring.store import ScoredAnswer, Store
from registry.versions import Versions
from serving.target import check_target, draft_of
from training.embeddings import text_keys
from training.encoder import default_spec, passages
from training.job import embeddings
from training.model import Scores, load
from training.rows import read_rows
from training.scoring import fitted, rows_of, score_table, scores_frame
from training.state import State
from training.table import Table, read_table
from training.task import read_task


def score_batch(state: State, what: Path, model: str, target: Path, keep: bool) -> dict[str, Any]:
    """Score the rows of a task's folder or of a file, and write `target`, in one step, by its ending.

    keep: also keep the scores, so that feedback can name them; the file then has their `score_id`.

    Raises:
        InputError: the rows, the version or the target is at fault; nothing is written then.
    """
    check_target("--out", target)
    versions = Versions(state)
    version = versions.get(model)
    riskmodel = load(versions.folder(version))
    table = (fitted(riskmodel, read_table(read_task(what))) if what.is_dir()
             else rows_of(riskmodel, read_rows(what), what.name))
    scores = score_table(riskmodel, embeddings(state), table)
    frame = scores_frame(table, scores).assign(version=version.version)
    if keep:
        frame.insert(0, "score_id", [uuid4().hex for _ in range(len(frame))])
    draft = draft_of(frame, target)
    try:
        if keep:
            with Store(state.database_url) as store:
                store.add_scores(_kept(frame, table, scores, version.model))
        os.replace(draft, target)
    finally:
        draft.unlink(missing_ok=True)
    told = frame["risk"].dropna()
    return {"model": version.model, "version": version.version, "n": len(frame), "out": str(target),
            "mean_risk": float(told.mean()) if len(told) else None}


def _kept(frame: pd.DataFrame, table: Table, scores: Scores, name: str) -> list[ScoredAnswer]:
    names = np.array([*table.classes, None], dtype=object)
    said, answers, own = names[table.votes], names[table.answers], names[scores.harmonizer_answers]
    sources = [source.name for source in table.sources]
    keys = text_keys(default_spec(), passages(table.texts, table.spans))  # so that the vectors can be forgotten
    return [
        ScoredAnswer(
            score_id=score_id, item_id=item_id, model=name, version=str(version), answer=answer,
            harmonizer_answer=harmonizer_answer, risk=None if answer is None else float(risk),
            probabilities=dict(zip(table.classes, map(float, p), strict=True)),
            votes={source: vote for source, vote in zip(sources, votes, strict=True) if vote is not None},
            votes_used=bool(used), text_length=len(text), text_hash=key.hex(),
        )
        for score_id, item_id, version, answer, harmonizer_answer, risk, p, votes, used, text, key in zip(
            frame["score_id"], frame["id"], frame["version"], answers, own, scores.risk, scores.probabilities, said,
            scores.votes_used, table.texts, keys, strict=True)
    ]
