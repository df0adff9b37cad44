"""Does asking again help? Answers that a real LLM gave when it was asked again, judged by models that saw no label.

Each task of DIR (or DIR itself) that has a column of follow-ups on its test split: three models, by seed, each way,
pilots of three sizes. Nothing is chosen by a gold label; they measure. `by risk` asks what the policy chooses and
keeps the better answer, `blind` takes the new answers of the same rows, `everybody` those of all rows.

Then how far it depends on what was set: the margin, a threshold in place of the expected gain, the draw of the pilot.

Run: python benchmarks/correction.py DIR [--seeds 3] [--robust]
"""

import argparse
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table as Grid

from serving.correction import course
from serving.correction.habits import expected_gain, learn, margin_of
from serving.correction.helped import Share
from serving.correction.judged import Judged
from serving.correction.measured import Measured, measured
from serving.correction.pilot import drawn
from serving.correction.policy import LEAST, Policy
from serving.correction.rerisk import corrected
from serving.correction.stored import Stored, read_stored
from training.encoder import passages
from training.errors import InputError
from training.fit import FitConfig
from training.job import embeddings
from training.learning import learn as train
from training.rows import read_rows
from training.state import State
from training.table import read_table
from training.task import read_task
from training.weighting import pareto_weights_of

PILOTS = (50, 100, 10**9)
MARGINS = (1.5, 2.0, 3.0)
DRAWS = 10


def cases(folder: Path, seeds: int) -> Iterator[tuple[Judged, np.ndarray, Stored]]:
    """What each seed's model believes of the test split, its labels, and its stored follow-ups."""
    task = read_task(folder)
    table = read_table(task)
    rows = np.flatnonzero(table.splits == "test")
    column = read_rows(task.data_path)[task.data.followup].iloc[rows]
    stored = read_stored(column, task.classes, table.ids[rows], task.data.path)
    vectors = embeddings(State.from_environment())(passages(table.texts, table.spans))
    for seed in range(seeds):
        _, model = train(task, table, vectors, pareto_weights_of("learned", task, table), FitConfig(seed=seed))
        beliefs = model.beliefs(table.texts, table.spans, lambda texts: vectors)[rows]
        answers, votes = table.answers[rows], table.votes[rows]
        scores = model.judge(beliefs, answers, votes)
        yield (Judged(table.ids[rows], answers.astype(np.int64), scores.risk, scores.probabilities, beliefs,
                      votes.astype(np.int64)),
               table.labels[rows], stored)


def run(
    judged: Judged, labels: np.ndarray, stored: Stored, way: str, pilot: int, seed: int, above: float | None = None
) -> tuple[Measured, course.Course]:
    """One correction, as `polarscore correct --stored` makes it."""
    plan = course.Plan(Policy(above=above), pilot, anyway=True, seed=seed)
    found = course.run(judged, [way], stored.held[way], stored, plan)
    every = corrected(judged, stored.answers[way], found.chosen.habits, found.chosen.margin)
    told = measured(judged, labels, every, found.asked, stored.held[way], None)
    assert told is not None
    return told, found


def at_margin(judged: Judged, labels: np.ndarray, stored: Stored, way: str, least: float, seed: int) -> float:
    """Accuracy with another least margin."""
    pilot = drawn(judged.ids, stored.held[way] & (judged.first >= 0), 100, seed)
    own, again = judged.rows(pilot), stored.answers[way]
    habits = learn(own.probabilities, own.first, again[pilot])
    margin = margin_of(habits, judged.probabilities, judged.first, least)
    asked = expected_gain(judged.probabilities, judged.first, habits, margin) > LEAST
    asked[pilot] = True
    found = corrected(judged, np.where(asked, again, -1), habits, margin)
    return float((found.kept == labels).mean())


def percent(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.1f}"


def interval(share: Share | None) -> str:
    return "" if share is None else f"{100 * share.value:.0f} ({100 * share.low:.0f}–{100 * share.high:.0f})"


def show(console: Console, folder: Path, found: list[tuple[Judged, np.ndarray, Stored]]) -> None:
    grid = Grid("way", "pilot", "seed", "asked %", "first", "by risk", "blind", "everybody", "hindsight", "harmonizer",
                "with votes", "majority", "kept right %", "mended %", "worth it",
                title=f"{folder.name}: right answers in %, test split")
    for way in found[0][2].answers:
        for pilot in PILOTS:
            for seed, (judged, labels, stored) in enumerate(found):
                told, made = run(judged, labels, stored, way, pilot, seed)
                grid.add_row(way, str(pilot) if pilot < len(judged) else "all", str(seed),
                             percent(told.by_risk.asked / told.n), percent(told.first), percent(told.by_risk.accuracy),
                             percent(told.blind.accuracy), percent(told.everybody and told.everybody.accuracy),
                             percent(told.hindsight), percent(told.harmonizer), percent(told.harmonizer_with_votes),
                             percent(told.majority), interval(told.by_risk.confidence_level),
                             interval(told.by_risk.critique_score), str(made.recommendation.recommended))
    console.print(grid)


def show_robustness(console: Console, folder: Path, found: list[tuple[Judged, np.ndarray, Stored]]) -> None:
    grid = Grid("way", "what", "right answers in %, mean (least to most)", title=f"{folder.name}: how far it depends")

    def add(way: str, what: str, values: list[float]) -> None:
        grid.add_row(way, what, f"{percent(float(np.mean(values)))} ({percent(min(values))} to {percent(max(values))})")

    for way in found[0][2].answers:
        for least in MARGINS:
            add(way, f"margin {least}, {DRAWS} pilots of 100 a seed",
                [at_margin(*one, way, least, draw) for one in found for draw in range(DRAWS)])
        for above in np.arange(0.1, 0.95, 0.1):
            told = [run(*one, way, 100, seed, float(above))[0] for seed, one in enumerate(found)]
            share = np.mean([one.by_risk.asked / one.n for one in told])
            add(way, f"--above {above:.1f}, {100 * share:.0f} % asked", [one.by_risk.accuracy for one in told])
    console.print(grid)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--robust", action="store_true", help="also margins, thresholds and draws of the pilot")
    arguments = parser.parse_args()
    console = Console(width=190)
    own = (arguments.folder / "task.toml").is_file()
    for folder in [arguments.folder] if own else sorted(path.parent for path in arguments.folder.glob("*/task.toml")):
        try:
            found = list(cases(folder, arguments.seeds))
        except (KeyError, InputError) as error:
            console.print(f"{folder.name}: no follow-ups on test ({error})", highlight=False)
            continue
        show(console, folder, found)
        if arguments.robust:
            show_robustness(console, folder, found)


if __name__ == "__main__":
    main()
