"""Does monitoring ring when, and only when, something is wrong? Tasks replayed as production traffic.

`no drift`  labels drawn as Bernoulli(risk), 200 answers a day, 182 days, a look after every 50: how often the
            calibration alarm ever rings, beside a test that is fixed for one look and repeated daily. The same with
            the real labels, where the risks are as true as they are.
`errors`    the error rate up by half, unseen by the risks: how many labels it takes to notice, as a ratio to the
            fixed-sample likelihood-ratio test of that very shift, one-sided, at 80 % power and the same α.
`drifts`    real answers scored anew with drifts put in after 2,000 of them (class shift, new topics, a changed LLM,
            broken sources, a wrong threshold), 10 % labelled by a weekly draw, up to a week late: which alarm rings,
            how many answers after the change, and how often before it.

Run: python benchmarks/replay.py DIR [--only no-drift errors drifts] [--replays 1000] [--drifts 20] [--json FILE]
"""

import argparse
import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from rich.console import Console
from rich.table import Table as Grid
from scipy.stats import norm
from traffic import (
    A_DAY,
    BLOCK,
    START,
    Drift,
    Replayed,
    all_replayed,
    answers_until,
    blocks,
    broken_source,
    changed_llm,
    class_shift,
    errors_up,
    errors_up_unseen,
    new_topics,
    traffic,
)

from monitoring.alarms import ALARMS, Alarm, Context, decide
from monitoring.alarms_labelled import calibration
from monitoring.alarms_unlabelled import UNLABELLED
from monitoring.sampling import Draw, draw, total_probability
from monitoring.settings import AlarmSettings
from training.calibration import measures

TASKS = ["sms", "trec", "health_advice_gpt4", "health_advice_gpt35", "media_bias", "youtube"]
"""Those whose LLM is wrong in less than 40 % of its answers."""

ALPHA, POWER = 0.05, 0.8
DAYS = 182
BEFORE, AFTER = 2_000, 8_000
SHARE_LABELLED, LATEST_DAYS = 0.1, 7.0
PROMISED = 0.1


def labelled(risk: np.ndarray, error: np.ndarray, together: int = BLOCK) -> pd.DataFrame:
    """Risks and errors (n,) as labels that come in the order of the answers, `together` at a moment."""
    moments = pd.Timestamp(START) + pd.to_timedelta(np.arange(len(risk)) // together, "h")
    return pd.DataFrame({
        "score_id": [f"{place:07d}" for place in range(len(risk))], "risk": risk, "error": error, "chosen": "all",
        "probability": 1.0, "labelled_at": moments, "created_at": moments, "disputed": False, "label": "x",
        "answer": "x", "again": False})


def rings(risk: np.ndarray, error: np.ndarray, together: int = BLOCK, tolerance: float = 0.0) -> Alarm:
    """What the calibration alarm says of these labels."""
    return calibration(Context(AlarmSettings(alpha=ALPHA, tolerance=tolerance), labelled(risk, error, together)))


def daily(risk: np.ndarray, error: np.ndarray) -> tuple[bool, bool]:
    """Whether a two-sided z-test of error − risk at level α ever rejects: of all so far, and of each day by itself."""
    gap, spread = (error - risk).reshape(-1, A_DAY).sum(axis=1), (risk * (1 - risk)).reshape(-1, A_DAY).sum(axis=1)
    limit = norm.isf(ALPHA / 2)
    return (bool((np.abs(np.cumsum(gap)) > limit * np.sqrt(np.cumsum(spread))).any()),
            bool((np.abs(gap) > limit * np.sqrt(spread)).any()))


def no_drift(task: Replayed, replays: int, real: bool) -> dict[str, float]:
    """The share of replays in which each test ever rings."""
    rng, n = np.random.default_rng(1), DAYS * A_DAY
    rows = task.pool
    risk = task.model.judge(task.beliefs[rows], task.table.answers[rows], task.table.votes[rows]).risk
    errors = task.errors[rows]
    rung = np.zeros((replays, 3), dtype=bool)
    for place in range(replays):
        drawn = rng.integers(0, len(rows), n)
        error = errors[drawn] if real else (rng.random(n) < risk[drawn]).astype(float)
        rung[place] = (rings(risk[drawn], error).state == "alarm", *daily(risk[drawn], error))
    shares = dict(zip(("ours", "daily, all so far", "daily, that day's"), rung.mean(axis=0).tolist(), strict=True))
    return {"gap": float(errors.mean() - risk.mean()) if real else 0.0, **shares}


def shifted(risk: np.ndarray, factor: float) -> np.ndarray:
    """Risks with the odds times what makes their mean `factor` times as high."""
    low, high = 1.0, 1e4
    for _ in range(80):
        odds = np.sqrt(low * high)
        mean = (odds * risk / (1 - risk + odds * risk)).mean()
        low, high = (odds, high) if mean < factor * risk.mean() else (low, odds)
    return np.asarray(odds * risk / (1 - risk + odds * risk))


def fixed_sample(p: np.ndarray, q: np.ndarray) -> float:
    """Labels for the likelihood-ratio test of errors ~ Bernoulli(q) against Bernoulli(p) at level α and 80 % power."""
    wrong, right = np.log(q / p), np.log((1 - q) / (1 - p))
    moments = []
    for truth in (p, q):
        mean = truth * wrong + (1 - truth) * right
        square = truth * wrong**2 + (1 - truth) * right**2
        moments.append((mean.mean(), square.mean() - mean.mean() ** 2))
    (under, spread), (over, other) = moments
    return float(((norm.isf(ALPHA) * np.sqrt(spread) + norm.isf(1 - POWER) * np.sqrt(other)) / (over - under)) ** 2)


def errors_half_up(task: Replayed, replays: int, healthy: int) -> tuple[float, float, float]:
    """Median labels until noticed after the change, those of the fixed-sample test, and the share rung before it."""
    rng, rows, n = np.random.default_rng(2), task.pool, 4_000
    risk = task.model.judge(task.beliefs[rows], task.table.answers[rows], task.table.votes[rows]).risk
    risk = np.clip(risk, 0.005, 0.995)
    up = shifted(risk, 1.5)
    found, early = [], 0
    for _ in range(replays):
        drawn = rng.integers(0, len(rows), healthy + n)
        truth = np.where(np.arange(healthy + n) < healthy, risk[drawn], up[drawn])
        alarm = rings(risk[drawn], (rng.random(healthy + n) < truth).astype(float), 1, 0.02)
        noticed = np.inf if alarm.noticed is None else (alarm.noticed - START) / timedelta(hours=1) + 1 - healthy
        early += noticed <= 0
        found.append(noticed if noticed > 0 else np.nan)
    return float(np.nanmedian(found)), fixed_sample(risk, up), early / replays


def weekly_labels(frame: pd.DataFrame, rng: np.random.Generator) -> pd.DataFrame:
    """The rows that a weekly draw of 10 % has a person check, each up to a week later, as `Store.frame` gives them."""
    earlier: list[Draw] = []
    drawn = pd.Series(False, index=frame.index)
    week = pd.Timedelta(days=7)
    last = frame["created_at"].iloc[-1]
    moment = frame["created_at"].iloc[0] + week
    while moment <= last:
        inside = (frame["created_at"] < moment) & (frame["created_at"] >= moment - week)
        population = frame.loc[inside, ["score_id", "risk", "created_at"]].assign(
            item_id=lambda rows: rows["score_id"], drawn=False)
        made, chosen = draw(population, round(SHARE_LABELLED * int(inside.sum())), len(earlier), "m", "1",
                            moment.to_pydatetime(), population["created_at"].iloc[0].to_pydatetime(),
                            population["created_at"].iloc[-1].to_pydatetime(), earlier)
        earlier.append(made)
        drawn |= frame["score_id"].isin(set(chosen["score_id"]))
        moment += week
    rows = frame.loc[drawn].copy()
    ends = np.ceil((rows["created_at"] - frame["created_at"].iloc[0]) / week).clip(lower=1)
    rows["labelled_at"] = (frame["created_at"].iloc[0] + ends * week
                           + pd.to_timedelta(rng.integers(0, int(LATEST_DAYS * 86_400), len(rows)), "s"))
    rows["probability"] = total_probability(earlier, rows["risk"].to_numpy(float), rows["created_at"])
    return rows.assign(chosen="drawn", label="x", again=False).reset_index(drop=True)


DRIFTS: dict[str, Drift] = {
    "none": Drift(),
    "errors up by half, risks follow": Drift(errors_up(1.5)),
    "errors up by half, unseen": Drift(errors_up_unseen(1.5)),
    "changed LLM, half worse": Drift(change=changed_llm(1.5)),
    "class shift": Drift(class_shift),
    "new topics": Drift(new_topics),
    "source falls silent": Drift(change=broken_source("silent")),
    "source says one class": Drift(change=broken_source("one class")),
    "source votes at random": Drift(change=broken_source("random")),
}
WRONG_THRESHOLD = "threshold at twice the promise"


def threshold_at(task: Replayed, rate: float) -> float:
    """The largest threshold at which so many of the pool's accepted answers are wrong at most, in hindsight."""
    rows = task.pool
    risk = task.model.judge(task.beliefs[rows], task.table.answers[rows], task.table.votes[rows]).risk
    order = np.argsort(risk, kind="stable")
    held = np.flatnonzero(np.cumsum(task.errors[rows][order]) <= rate * np.arange(1, len(rows) + 1))
    return float(risk[order][held.max()]) if len(held) else 0.0


def drifted(task: Replayed, drift: Drift, replays: int, accepted_wrong: float) -> dict[str, dict[str, Any]]:
    """Of each alarm: how often it rang before the change, how often after, and the median answers until then."""
    rng = np.random.default_rng(3)
    threshold = threshold_at(task, accepted_wrong)
    rows = task.pool
    risk = task.model.judge(task.beliefs[rows], task.table.answers[rows], task.table.votes[rows]).risk
    before = measures(risk, task.errors[rows])
    moments: dict[str, list[float]] = {name: [] for name in ALARMS}
    for _ in range(replays):
        frame = traffic(task, BEFORE, AFTER, drift, rng)
        alarms = decide(Context(AlarmSettings(alpha=ALPHA), weekly_labels(frame, rng), blocks(frame), task.reference,
                                before, threshold, PROMISED,
                                accepted_risk=float(frame["risk"][frame["risk"] <= threshold].mean())))
        for alarm in alarms:
            seen = BLOCK - 1 if alarm.name in UNLABELLED else 0  # a block is looked at once it is over
            moments[alarm.name].append(answers_until(alarm.noticed) + seen - BEFORE)
    return {name: told(np.array(found)) for name, found in moments.items()}


def told(noticed: np.ndarray) -> dict[str, Any]:
    """noticed: (replays,), answers after the change, inf for never."""
    after = noticed[noticed > 0]
    return {"before": float((noticed <= 0).mean()), "after": float(np.isfinite(after).mean()) if len(after) else 0.0,
            "median": float(np.median(after)) if len(after) and np.isfinite(np.median(after)) else None}


def shown(found: dict[str, Any]) -> str:
    """A cell of the table of drifts: `340 (95 %)`, and in brackets how often it rang before the change."""
    early = f" [{found['before']:.0%}]" if found["before"] else ""
    if not found["after"]:
        return f"–{early}"
    median = "late" if found["median"] is None else f"{found['median']:,.0f}"
    return f"{median} ({found['after']:.0%}){early}"


def printed(console: Console, title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """One table."""
    grid = Grid(*columns, title=title)
    for row in rows:
        grid.add_row(*row)
    console.print(grid)


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, metavar="DIR")
    parser.add_argument("--only", nargs="+", choices=("no-drift", "errors", "drifts"),
                        default=["no-drift", "errors", "drifts"])
    parser.add_argument("--tasks", nargs="+", default=TASKS)
    parser.add_argument("--replays", type=int, default=1_000)
    parser.add_argument("--drifts", type=int, default=20, help="replays of each drift on each task")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    console, found = Console(width=200), dict[str, Any]()
    tasks = all_replayed(given.folder, given.tasks)
    parts: dict[str, Callable[[], Any]] = {
        "no-drift": lambda: _no_drift(console, tasks, given.replays),
        "errors": lambda: _errors(console, tasks, max(given.replays // 5, 10)),
        "drifts": lambda: _drifts(console, tasks, given.drifts),
    }
    for name in given.only:
        found[name] = parts[name]()
        if given.json:
            given.json.write_text(json.dumps(found, indent=1))


def _no_drift(console: Console, tasks: list[Replayed], replays: int) -> Any:
    each = -(-replays // len(tasks))
    found: dict[str, dict[str, float]] = {}
    for task in tasks:
        found[f"{task.name}, Bernoulli(risk)"] = no_drift(task, each, real=False)
        found[f"{task.name}, real labels"] = no_drift(task, max(each // 10, 5), real=True)
    drawn = pd.DataFrame([row for name, row in found.items() if name.endswith("(risk)")]).mean()
    found[f"all, Bernoulli(risk), {each * len(tasks)} replays"] = drawn.to_dict()
    bound = ALPHA + 2 * np.sqrt(ALPHA * (1 - ALPHA) / (each * len(tasks)))
    columns = [*next(iter(found.values()))][1:]
    printed(console, f"No drift: ever rung in {DAYS} days, α = {ALPHA} (at most {bound:.3f} by chance)",
            ["task", "error − risk", *columns],
            [[name, f"{row['gap']:+.3f}", *(f"{row[key]:.3f}" for key in columns)] for name, row in found.items()])
    return found


def _errors(console: Console, tasks: list[Replayed], replays: int) -> Any:
    rows, found = [], {}
    for task in tasks:
        for healthy in (0, 2_000):
            ours, fixed, early = errors_half_up(task, replays, healthy)
            found[f"{task.name}, {healthy}"] = {"ours": ours, "fixed": fixed, "early": early}
            rows.append([task.name, f"{healthy:,}", f"{ours:,.0f}", f"{fixed:,.0f}", f"{ours / fixed:.2f}",
                         f"{early:.1%}"])
    printed(console, f"Error rate up by half, {replays} replays: labels until noticed (median)",
            ["task", "healthy labels before", "ours", "fixed sample", "ratio", "rung before"], rows)
    return found


def _drifts(console: Console, tasks: list[Replayed], replays: int) -> Any:
    found: dict[str, Any] = {}
    for task in tasks:
        runs = {name: drifted(task, drift, replays, 0.8 * PROMISED) for name, drift in DRIFTS.items()}
        runs[WRONG_THRESHOLD] = drifted(task, replace(DRIFTS["none"]), replays, 2 * PROMISED)
        found[task.name] = runs
        printed(console, f"{task.name}, {replays} replays: answers until noticed after the change (share that noticed) "
                         "[share that rang before]",
                ["drift", *ALARMS], [[name, *(shown(run[key]) for key in ALARMS)] for name, run in runs.items()])
    return found


if __name__ == "__main__":
    main()
