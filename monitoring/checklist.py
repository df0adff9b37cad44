"""What people should check next: a draw of answers, kept in the store, and as a file to fill in."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import Any

import pandas as pd

from monitoring.sampling import draw
from monitoring.store import Store
from monitoring.watch import scored_version
from registry.database import now
from registry.versions import Versions
from training.errors import InputError
from training.state import State


def sample(
    state: State, which: str | None, budget: int, seed: int, since: datetime | None = None,
    reviewer: str | None = None, out: Path | None = None, dry_run: bool = False,
) -> list[dict[str, Any]]:
    """Draw answers to check next, and keep the draw: score_id, id, risk, and the probability to be drawn by now.

    out: also write them there, with an empty column `label` that `polarscore feedback` takes once it is filled in: as
    a draft first, without which nothing is kept, and in place once the draw is kept. reviewer: whose labels they will
    be. dry_run: keep nothing.

    Raises:
        InputError: as `check`; or the file cannot be written.
    """
    with Store(state.database_url) as store, _draft(out) as draft:
        version = scored_version(Versions(state), store.models(), which)
        model, number, at = version.model, str(version.version), now()
        with store.drawing(model, number) as drawing:
            population = drawing.population(since, at)
            until = at if population.empty else population["created_at"].max().to_pydatetime()  # journals may hold more
            made, drawn = draw(population, budget, seed, model=model, version=number, at=at,
                               since=since, until=until, earlier=drawing.draws())
            rows = drawn.sort_values("position").rename(columns={"item_id": "id"})
            to_check = rows[~rows["label"].astype(bool)]
            if len(to_check) and draft:
                _write_csv(draft, out, to_check, reviewer)
            if len(to_check) and not dry_run:
                drawing.add(made, rows["score_id"].tolist(), rows["probability"].to_numpy(float))
        if len(to_check) and draft and out:
            _put_in_place(draft, out, "" if dry_run else f"The draw {made.draw_id} is kept; ")
    return list(to_check[["score_id", "id", "risk", "probability"]].to_dict("records"))


@contextmanager
def _draft(path: Path | None) -> Iterator[Path | None]:
    """Where the file is until it is in place; gone if what follows fails before."""
    draft = path and path.with_name(f".{path.name}.{os.getpid()}")
    try:
        yield draft
    except _OutOfPlace:
        raise
    except BaseException:  # an interruption, too, leaves no draft behind
        with suppress(OSError):
            if draft:
                draft.unlink(missing_ok=True)
        raise


class _OutOfPlace(InputError):
    """A file that is whole, and not where it should be."""


def _write_csv(draft: Path, path: Path | None, rows: pd.DataFrame, reviewer: str | None) -> None:
    """Its probabilities are those of the draw, which the store keeps."""
    named = {"reviewer": reviewer} if reviewer else {}
    try:
        rows[["score_id", "id", "risk"]].assign(**named, label="").to_csv(draft, index=False)
    except OSError as error:
        raise InputError(f"the sample cannot be written to {path}: {_why(error)}. Nothing was drawn.") from None


def _put_in_place(draft: Path, path: Path, kept: str) -> None:
    try:
        draft.replace(path)
    except OSError as error:
        raise _OutOfPlace(f"the sample cannot be written to {path}: {_why(error)}. "
                          f"{kept}the answers to check are in {draft}.") from None


def _why(error: OSError) -> str:
    return str(error.strerror or error).rstrip(".")
