"""A benchmark in words: tables of measures with their floors, R² beside its ceiling, where ours is behind, claims."""

from collections.abc import Mapping

from rich.table import Table as Grid

from training.bench import Bounds, TaskFound, mean_over_tasks
from training.calibration import Measures
from training.printing import columns, figure, out, print_measures, say
from training.verdict import claims, duels, mean_floors, scales


def print_bench(found: Mapping[str, TaskFound]) -> None:
    """Everything that a benchmark found, the verdict last."""
    for task, value in found.items():
        say(f"\n{task}")
        out.print(_measures(value.measures, value.bounds))
    say(f"\nmean over {len(found)} tasks")
    print_measures(mean_over_tasks({task: value.measures for task, value in found.items()}), "method")
    for title, grid in (
        ("mean ECE beside its floor; mean R² beside its ceiling on the tasks where the LLM errs on less than half",
         _bounds(found)),
        ("where ours is behind the best of majority vote, Dawid-Skene and the paper's best scalariser, in AUROC",
         _behind(found)),
        ("the verdict", _claims(found)),
    ):
        say(f"\n{title}")
        if grid.row_count:
            out.print(grid)
        else:
            say("nowhere" if duels(found) else "not measured")


def _measures(measures: Mapping[str, Measures], bounds: Mapping[str, Bounds]) -> Grid:
    """A method a row; beside its ECE and R², what a perfectly calibrated score would show."""
    grid = columns("method", "answers", "error rate", "mean risk", "ECE", "floor", "R²", "ceiling", "ratio", "AUROC",
                   "AURC", "Brier")
    for method, value in measures.items():
        floor, ceiling, r2 = bounds[method]["ece_floor"], bounds[method]["r2_ceiling"], value["r2"]
        ratio = r2 / ceiling if r2 is not None and ceiling else None
        cells = (value["n"], value["error_rate"], value["mean_risk"], value["ece"], floor, r2, ceiling, ratio,
                 value["auroc"], value["aurc"], value["brier"])
        grid.add_row(method, *map(figure, cells))
    return grid


def _bounds(found: Mapping[str, TaskFound]) -> Grid:
    """A method a row; the ratio is that of the two means, over the tasks that can tell both."""
    grid = columns("method", "ECE", "floor", "tasks", "R²", "ceiling", "ratio")
    mean, scale = mean_over_tasks({task: value.measures for task, value in found.items()}), scales(found)
    for method, floor in mean_floors(found).items():
        told = scale.get(method)
        cells = (told.tasks, told.r2, told.ceiling, told.ratio) if told else (0, None, None, None)
        grid.add_row(method, figure(mean[method]["ece"]), figure(floor), *map(figure, cells))
    return grid


def _behind(found: Mapping[str, TaskFound]) -> Grid:
    grid = columns("task", "behind", "AUROC", "theirs", "difference", "SE", "more than 0.01 + SE")
    for task, duel in duels(found).items():
        if duel.difference < 0:
            grid.add_row(task, duel.against, figure(duel.ours), figure(duel.theirs), figure(duel.difference),
                         figure(duel.standard_error), "yes" if duel.exceeds else "no")
    return grid


def _claims(found: Mapping[str, TaskFound]) -> Grid:
    grid = columns("claim", "best", "value", "aim", "holds")
    for claim in claims(found).values():
        holds = {True: "yes", False: "no", None: "not measured"}[claim.holds]
        grid.add_row(claim.what, claim.against or "", figure(claim.value), claim.aim, holds)
    return grid
