"""`polarscore correct`: have the LLM answer again where the risk says so, and keep the better answer."""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from serving.target import FORMATS, check_target
from training.errors import InputError
from training.printing import AsJson, err, print_json
from training.state import State

if TYPE_CHECKING:
    from serving.correction.course import Plan
    from serving.correction.job import Correction, Rows


def correct(
    task_dir: Annotated[Path, typer.Argument(metavar="TASK_DIR", help="A folder with a task.toml.")],
    model: Annotated[str, typer.Option("--model", help="models:/NAME/VERSION or models:/NAME@ALIAS.")],
    split: Annotated[str, typer.Option("--split", help="Its split: train, valid or test.")] = "test",
    way: Annotated[str, typer.Option(
        help="How to ask: reask, whether it is sure; explain, with the evidence of the sources that voted; similar, "
             "with similar rows of low risk; auto, whichever gains most for its cost in the pilot.")] = "auto",
    above: Annotated[float | None, typer.Option(
        metavar="RISK", help="Ask all answers with a higher risk; default: by the expected gain.")] = None,
    worth: Annotated[float | None, typer.Option(
        metavar="MONEY", help="What one more right answer is worth, in the money of the prices: an answer is asked "
                              "again if its expected gain is worth more than the question costs. Default: if it is "
                              "above 0.01 right answers.")] = None,
    pilot: Annotated[int, typer.Option(
        metavar="N", min=1, help="So many are drawn at random and asked first, to learn what asking does.")] = 100,
    anyway: Annotated[bool, typer.Option(
        "--anyway", help="Go on after the pilot though asking again is not recommended.")] = False,
    stored: Annotated[bool, typer.Option(
        "--stored", help="Take what the LLM said when asked again from the data's column of follow-ups; nobody is "
                         "asked.")] = False,
    price: Annotated[float | None, typer.Option(
        metavar="MONEY", help="With --stored: what a question would have cost.")] = None,
    llm: Annotated[Path | None, typer.Option(
        metavar="FILE", help="The endpoints, a .toml; default: llm.toml in the state folder.")] = None,
    endpoint: Annotated[str | None, typer.Option(metavar="NAME", help="Which of them.")] = None,
    tokens: Annotated[int | None, typer.Option(help="Stop before more tokens are spent.")] = None,
    money: Annotated[float | None, typer.Option(help="Stop before more money is spent.")] = None,
    target: Annotated[Path | None, typer.Option(
        "--out", metavar="FILE", help="Where the answers go, a row each: .parquet or .jsonl.")] = None,
    habits: Annotated[Path | None, typer.Option(
        metavar="FILE", help="Where to write what was learned of asking again, a .json: a service that asks again "
                             "goes by it.")] = None,
    plot: Annotated[Path | None, typer.Option(
        metavar="FILE", help="Where the plot goes, a .png; it is in MLflow, too.")] = None,
    as_json: AsJson = False,
) -> None:
    """Have the LLM answer again where the risk says so.

    The better answer is kept by risk. A pilot shows, without labels, what asking again does; it goes on only where that
    beats what costs nothing, the harmonizer's own answers and the majority of the sources. Gold labels, where there are
    any, measure and no more.
    """
    from serving.correction.course import Plan
    from serving.correction.endpoint import INTERRUPTED
    from serving.correction.job import read
    from serving.correction.policy import Policy
    from serving.correction.results import draw, keep, show, warn

    _check(above, worth, price, stored)
    files = {"--out": (target, FORMATS), "--plot": (plot, (".png",)), "--habits": (habits, (".json",))}
    for name, (file, endings) in files.items():
        if file:
            check_target(name, file, endings)
    where = _Where(llm, endpoint, tokens, money)
    if stored:
        _check_stored(where, way, anyway, habits)
    plan = Plan(Policy(above, worth), pilot, anyway or stored)
    state = State.from_environment()
    rows = read(task_dir, model, split, state)
    found, spent = (_stored(rows, split, way, plan, price) if stored else _asking(rows, split, way, plan, where))
    content, drawn = keep(state, found, target, habits)
    if as_json:
        print_json(content | {"spent": spent})
    else:
        show(content)
    warn(found)
    if plot:
        draw(drawn, plot)
    if found.trouble == INTERRUPTED:
        raise typer.Exit(130)


@dataclass(frozen=True)
class _Where:
    """Which endpoint, and how much it may take."""

    file: Path | None
    name: str | None
    tokens: int | None
    money: float | None


def _check(above: float | None, worth: float | None, price: float | None, stored: bool) -> None:
    if above is not None and not 0 <= above <= 1:
        raise InputError(f"--above should be a risk, from 0 to 1. Found {above}.")
    if above is not None and worth is not None:
        raise InputError("--above asks whatever it gains, --worth by what it gains. Give one of them.")
    for name, value in (("--worth", worth), ("--price", price)):
        if value is not None and not (math.isfinite(value) and value >= 0):
            raise InputError(f"{name} should be an amount of money, 0 or more. Found {value}.")
    if price is not None and not stored:
        raise InputError("--price goes with --stored. Of an endpoint, its prices say what a question costs.")


def _check_stored(where: _Where, way: str, anyway: bool, habits: Path | None) -> None:
    from serving.correction.job import AUTO
    from serving.correction.results import no_way
    from serving.correction.ways import WAYS

    if where != _Where(None, None, None, None):
        raise InputError("--stored asks nobody. Leave --llm, --endpoint, --tokens and --money out.")
    if anyway:
        raise InputError("--stored goes on whether it is recommended or not, as it costs nothing. Leave --anyway out.")
    if habits and way not in (AUTO, *WAYS):
        raise InputError(f"--habits {habits}: {no_way(way)}")


def _stored(
    rows: "Rows", split: str, way: str, plan: "Plan", price: float | None
) -> tuple["Correction", dict[str, float] | None]:
    from serving.correction.job import correct_stored

    return correct_stored(rows, split, way, plan, price or 0.0), None


def _asking(
    rows: "Rows", split: str, way: str, plan: "Plan", where: _Where
) -> tuple["Correction", dict[str, float] | None]:
    """The correction, and what this run spent; what is kept from before costs nothing again."""
    from serving.correction.endpoint import EndpointAsker
    from serving.correction.job import correct_asking
    from serving.llm.budget import Account, Budget
    from serving.llm.cache import FILE, Cache
    from serving.llm.client import Session
    from serving.llm.settings import settings_of

    account = Account(Budget(where.tokens, where.money))
    chosen = settings_of(rows.state, where.file).endpoint(where.name)
    chosen.secret()  # a key that is missing is told before anything is read or encoded
    with (Cache(rows.state.prepare().home / FILE) as cache, Session(cache, budget=account) as session,
          _progress() as progress):
        found = correct_asking(
            rows, split, way, plan,
            lambda material: EndpointAsker(
                material, chosen,
                lambda prompts, told: session.ask_all(chosen, prompts, told=told), progress),
            chosen.model, priced=chosen.price_in > 0 or chosen.price_out > 0,
        )
    spent = account.spent
    return found, {"tokens_in": spent.tokens_in, "tokens_out": spent.tokens_out, "money": spent.money}


@contextmanager
def _progress() -> Iterator[Callable[[int, int], None]]:
    with Progress(TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
                  console=err, disable=not err.is_terminal) as bars:
        bar = bars.add_task("asking again", total=None)
        yield lambda done, of: bars.update(bar, completed=done, total=of)
