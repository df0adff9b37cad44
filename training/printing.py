"""What the command line prints: tables for people, JSON for programs, everything else on standard error."""

import json
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, is_dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer
from rich import box
from rich.console import Console
from rich.table import Table as Grid

OPTIONS: dict[str, Any] = {
    "invoke_without_command": True, "add_completion": False, "pretty_exceptions_enable": False,
    "rich_markup_mode": None,
}
"""How every level of the command line behaves."""

WIDE = None if sys.stdout.isatty() else 160  # in a file or a pipe, no table is squeezed
out, err = Console(width=WIDE, markup=False, emoji=False), Console(stderr=True, markup=False, emoji=False)

COLUMNS = {"n": "answers", "error_rate": "error rate", "mean_risk": "mean risk", "ece": "ECE", "r2": "R²",
           "auroc": "AUROC", "aurc": "AURC", "brier": "Brier"}

WORDS = ("what happened", "gates", "who", "why", "source", "url", "told of")
"""The columns whose words may take several lines."""

AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON, and nothing else.")]


def list_commands(context: typer.Context) -> None:
    """Without a command: the list of them."""
    if context.invoked_subcommand is None:
        print(context.get_help(), file=sys.stderr)
        raise typer.Exit(2)


def say(text: str) -> None:
    """Print a line that is neither wrapped nor coloured."""
    out.print(text, highlight=False, soft_wrap=True)


def columns(*names: str) -> Grid:
    """A table that fits a narrow terminal; only words may take several lines."""
    table = Grid(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    for name in names:
        table.add_column(name, overflow="fold", no_wrap=name not in WORDS,
                        justify="right" if name in COLUMNS.values() else "left")
    return table


def print_measures(measures: Mapping[str, Mapping[str, Any] | None], rows: str = "split") -> None:
    """Print measures as a table, a row each; `rows` heads the first column."""
    table = columns(rows, *COLUMNS.values())
    for split, found in measures.items():
        table.add_row(split, *(["none labelled"] if found is None else [figure(found[key]) for key in COLUMNS]))
    out.print(table)


def moment(value: datetime) -> str:
    """A moment in UTC, to the minute."""
    return f"{value.astimezone(UTC):%Y-%m-%d %H:%M}"


def figure(value: Any) -> str:
    """A figure for a table; nothing where there is none."""
    if value is None:
        return ""
    return f"{value:.3f}" if isinstance(value, float) else str(value)


def print_json(value: Any) -> None:
    """Print a result as one line of JSON."""
    print(json.dumps(_plain(value), ensure_ascii=False, allow_nan=False))


def _plain(value: Any) -> Any:
    """JSON's own kinds; a figure that cannot be told (NaN) is null."""
    if is_dataclass(value) and not isinstance(value, type):
        value = asdict(value)
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_plain(item) for item in value]
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat()
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value.item() if hasattr(value, "item") else value
