"""`polarscore sources`: sources that write themselves, from a few labels."""

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from training.errors import InputError
from training.printing import AsJson, columns, out, print_json, say

if TYPE_CHECKING:
    import numpy as np

    from training.heuristics.finding import Found
    from training.heuristics.labels import Labelled
    from training.heuristics.writing import Written
    from training.table import Table
    from training.task import Task

KEEP = "It may hold somebody's work. Add --replace, or name another file with --out."
FILLED = "It may hold labels. Name another file with --out."


def sources(
    task_dir: Annotated[Path, typer.Argument(metavar="TASK_DIR", help="A folder with a task.toml.")],
    labels: Annotated[Path | None, typer.Option(
        "--labels", metavar="FILE", help="Labels that a person gave: a CSV or JSON Lines with the columns id and "
                                         "label, none of split test.")] = None,
    draw: Annotated[int | None, typer.Option(
        "--draw", metavar="N", help="Instead: draw N rows of train and valid into a .csv for a person to "
                                    "label.")] = None,
    balanced: Annotated[bool, typer.Option(
        "--balanced", help="With --draw: as many rows of each answer of the LLM, where a class is rare.")] = False,
    from_task: Annotated[int | None, typer.Option(
        "--from-task", metavar="N", help="Instead of --labels: N gold labels of the task's own, drawn from "
                                         "train.")] = None,
    to: Annotated[Path | None, typer.Option(
        "--out", metavar="FILE", help="What to write; default: TASK_DIR/sources.py, or NAME-labels.csv for "
                                      "--draw.")] = None,
    replace: Annotated[bool, typer.Option("--replace", help="Write over a sources.py that is there.")] = False,
    most: Annotated[int, typer.Option("--most", min=2, max=1000, help="Functions to write, at most.")] = 60,
    seed: Annotated[int, typer.Option(min=0, help="The same seed gives the same file again.")] = 0,
    as_json: AsJson = False,
) -> None:
    """Write a sources.py from a few labels.

    It holds labelling functions that a person can read and edit: phrases, counts and a table of points, each judged out
    of fold. No gold label of the task is used unless --from-task says how many.
    """
    from training.heuristics import placing
    from training.heuristics.labels import as_csv, drawn, own_labels, read_labels
    from training.rows import read_rows
    from training.table import rows_to_table
    from training.task import read_task

    if sum(given is not None for given in (labels, draw, from_task)) != 1:
        raise InputError("give one of --labels FILE, --from-task N, or --draw N for rows to label first.")
    if balanced and draw is None:
        raise InputError("--balanced says how --draw draws. Give --draw N, or leave it out.")
    task = read_task(task_dir)
    if draw is not None:
        file = to or Path(f"{task.name}-labels.csv")
        if file.suffix != ".csv":
            raise InputError(f"{file} should end in .csv, the format of the file to fill in.")
        placing.check_place(file, False, FILLED)
    else:
        file = to or task_dir / "sources.py"
        placing.check_place(file, replace, KEEP)
    table = rows_to_table(task, read_rows(task.data_path), task.data.path)
    if draw is not None:
        placing.place(file, as_csv(table, drawn(table, draw, seed, balanced)), False, FILLED)
        if as_json:
            print_json({"drawn": draw, "file": str(file)})
        else:
            say(f"{draw} rows to label are in {file}. Fill in the column label, then: "
                f"polarscore sources {task_dir} --labels {file}")
        return
    labelled = read_labels(labels, table) if labels is not None else own_labels(table, from_task or 0, seed)
    found, written, code = _written(task, table, labelled, most, seed)
    placing.place(file, code, replace, KEEP)
    if as_json:
        print_json(_as_json(file, found, written))
    else:
        _print(file, found, written)


def _written(
    task: "Task", table: "Table", labelled: "Labelled", most: int, seed: int
) -> "tuple[Found, list[Written], str]":
    from training.encoder import passages
    from training.heuristics.finding import Sample, found
    from training.heuristics.writing import named, source_code
    from training.job import embeddings
    from training.state import State
    from training.task import LLM

    encode = embeddings(State.from_environment())
    sample = Sample.of(table, encode(passages(table.texts, table.spans)), labelled, _lines(task, encode))
    seen = found(sample, most, seed)
    asked = task.ask.sources if task.ask else ()
    written = named(seen, {LLM, *(source.name for source in task.sources), *(source.name for source in asked)})
    return seen, written, source_code(task.name, seen, written)


def _lines(task: "Task", encode: "Callable[[list[str]], np.ndarray]") -> "np.ndarray":
    """The embeddings of the classes as `[ask.classes]` describes them, or of their names."""
    told = task.ask.classes if task.ask else {}
    return encode([f"{name}: {told[name]}" if name in told else name for name in task.classes])


def _as_json(file: Path, found: "Found", written: "list[Written]") -> dict[str, Any]:
    return {
        "file": str(file),
        "labels": dict(zip(found.classes, found.labels, strict=True)),
        "without": list(found.without),
        "learned_by": list(found.ways),
        "sources": [{"source": each.name, "class": _class(each, found), **asdict(each.heuristic.estimate),
                     "evidence": each.evidence} for each in written],
    }


def _print(file: Path, found: "Found", written: "list[Written]") -> None:
    table = columns("source", "class", "coverage", "right", "precision", "between", "why")
    for each in written:
        known = each.heuristic.estimate
        table.add_row(each.name, _class(each, found) or "any", f"{known.coverage:.3f}", f"{known.right}/{known.seen}",
                      f"{known.precision:.3f}", f"{known.low:.2f}–{known.high:.2f}", each.evidence)
    out.print(table)
    say("right: labels on which it was right, out of fold. precision: with the opinion that the labels give of all "
        "texts, as 6 labels more.")
    for name in found.without:
        say(f"No function votes for '{name}', which has fewer than 2 labels.")
    say(f"{len(written)} functions from {sum(found.labels)} labels are in {file}. Read them, edit them, then: "
        "polarscore train")


def _class(each: "Written", found: "Found") -> str | None:
    return None if each.heuristic.label is None else found.classes[each.heuristic.label]
