"""How long a report over a million scored answers takes, and how much memory.

Run: python benchmarks/report_speed.py [--rows 1000000] [--labelled 0.25]

Each kind of report is written by a process of its own, from frames as the store gives them; seconds and peak memory
are the whole process's but for making the frames: the import of Evidently, the figures, the page, the JSON and the
copy for `polarscore monitor ui`. A daily report has as many answers in the days before as in the day, and a comparison
on either side, so that there are two million.
"""

import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated

import numpy as np
import pandas as pd
import typer
from rich.console import Console
from rich.table import Table as Grid

CLASSES = np.array(["business", "politics", "science", "sports", "other"], dtype=object)


def frame(rows: int, labelled: float, seed: int, start: str, days: int, shift: float = 0.0) -> pd.DataFrame:
    """As `Store.frame`: risks with ties, errors that come by the risks and some more, labels drawn by risk."""
    generator = np.random.default_rng(seed)
    risk = np.round(generator.beta(2, 4, rows), 6)
    error = (generator.random(rows) < np.clip(risk + shift, 0, 1)).astype(float)
    probability = np.clip(labelled * (0.5 + 1.5 * risk), 0, 1)
    drawn = generator.random(rows) < probability
    voting = generator.integers(0, 9, rows)
    with np.errstate(invalid="ignore"):
        agreement = generator.binomial(voting, 0.7) / voting
    moments = pd.Timestamp(start, tz="UTC") + pd.to_timedelta(np.sort(generator.random(rows)) * days, unit="D")
    names = pd.Series(np.arange(rows)).astype("str")
    return pd.DataFrame({
        "score_id": names, "item_id": names, "created_at": moments, "model": "news", "version": "3", "risk": risk,
        "answer": CLASSES[generator.integers(0, 5, rows)],
        "harmonizer_answer": pd.Series(CLASSES[generator.integers(0, 5, rows)]).astype("str"),
        "text_length": generator.lognormal(5, 0.8, rows).astype(int), "sources_voting": voting, "agreement": agreement,
        "decision": np.where(risk < 0.2, "accept", "review").astype(object),
        "error": np.where(drawn, error, np.nan), "probability": np.where(drawn, probability, np.nan),
    })


def measure(kind: str, rows: int, labelled: float) -> dict[str, float]:
    """Write one report in this process: its seconds, and the process's peak memory in MiB."""
    from monitoring.drift import Pages, write_report

    reference = frame(rows // 5, 0.0, 0, "2026-01-01", 1).drop(columns=["probability", "error", "created_at"])
    current = frame(rows, labelled, 1, "2026-03-02", 1 if kind == "daily" else 90, shift=0.05)
    other = frame(rows, labelled, 2, "2026-02-01", 29) if kind != "release" else None
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        write_report(
            kind, other if kind == "comparison" else reference, current, Path(folder), kind,
            before=other if kind == "daily" else None, threshold=0.2, reference_threshold=0.2, promised=0.1,
            pages=Pages(Path(folder) / "workspace", "news"),
        )
        seconds = time.perf_counter() - began
    return {"seconds": seconds, "mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}


def main(
    rows: Annotated[int, typer.Option(min=1000)] = 1_000_000,
    labelled: Annotated[float, typer.Option(min=0, max=1, help="The share of the answers that is labelled.")] = 0.25,
    only: Annotated[str | None, typer.Option(hidden=True)] = None,
) -> None:
    if only:
        print(json.dumps(measure(only, rows, labelled)))
        return
    grid = Grid("report", "answers", "seconds", "peak memory, MiB")
    for kind, sides in (("daily", 2), ("release", 1), ("comparison", 2)):
        command = [sys.executable, __file__, "--rows", str(rows), "--labelled", str(labelled), "--only", kind]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        found = json.loads(done.stdout.splitlines()[-1])
        grid.add_row(kind, f"{sides * rows:,}", f"{found['seconds']:.1f}", f"{found['mib']:,.0f}")
    Console().print(grid)


if __name__ == "__main__":
    typer.run(main)
