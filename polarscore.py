"""The command line. Each command reads its input, calls one room, and prints: a table, or JSON with `--json`.

Exit code 0 for success, 1 for a check that failed, 2 for bad input, with one clear line on standard error.
"""

import getpass
import json
import math
import os
import re
import socket
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, is_dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer
from rich import box
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table as Grid

from training.errors import CheckFailed, InputError, PolarscoreError
from training.state import State

for _name in ("DO_NOT_TRACK", "MLFLOW_DISABLE_TELEMETRY", "BENTOML_DO_NOT_TRACK"):
    os.environ[_name] = "True" if _name == "BENTOML_DO_NOT_TRACK" else "true"

# MLflow would try for minutes to reach a server that is not there.
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "3")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR", "1")

OPTIONS: dict[str, Any] = {
    "invoke_without_command": True, "add_completion": False, "pretty_exceptions_enable": False,
    "rich_markup_mode": None,
}
app = typer.Typer(help="Risk scores for the answers of large language models, without labelled data.", **OPTIONS)
registry_app = typer.Typer(help="Stages of the registered versions.", **OPTIONS)
monitor_app = typer.Typer(help="Do the risks still tell the truth?", **OPTIONS)
app.add_typer(registry_app, name="registry")
app.add_typer(monitor_app, name="monitor")

WIDE = None if sys.stdout.isatty() else 160  # in a file or a pipe, no table is squeezed
out, err = Console(width=WIDE, markup=False, emoji=False), Console(stderr=True, markup=False, emoji=False)

COLUMNS = {"n": "answers", "error_rate": "error rate", "mean_risk": "mean risk", "ece": "ECE", "r2": "R²",
           "auroc": "AUROC", "aurc": "AURC", "brier": "Brier"}
SOURCES_SHOWN, WEIGHTS_SHOWN = 40, 8

AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON, and nothing else.")]
TaskDir = Annotated[Path, typer.Argument(metavar="TASK_DIR", help="A folder with a task.toml.")]
ModelUri = Annotated[str, typer.Option("--model", help="models:/NAME/VERSION or models:/NAME@ALIAS.")]
AnyModel = Annotated[str | None, typer.Argument(
    metavar="MODEL", help="A model's name; may be left out where there is only one.")]
VERSION = "models:/NAME/VERSION or models:/NAME@ALIAS."
Which = Annotated[str | None, typer.Argument(
    metavar="VERSION", help="models:/NAME/VERSION, models:/NAME@ALIAS or a model's name; default: the candidate.")]
Promoted = Annotated[str | None, typer.Argument(
    metavar="VERSION", help="models:/NAME/VERSION, models:/NAME@ALIAS or a model's name; default: the candidate, "
                              "and to production the version in staging, if one is there.")]
Watched = Annotated[str | None, typer.Option(
    "--model", help="models:/NAME/VERSION, models:/NAME@ALIAS or a model's name; default: the version in production, "
                    "else the newest that has scored.")]
WhichOption = Annotated[str | None, typer.Option("--model", help="The same, as an option.")]
TaskOption = Annotated[Path | None, typer.Option("--task", help="The task to judge by; default: the training task.")]
SplitOption = Annotated[str, typer.Option("--split", help="Its split: train, valid or test.")]


def main() -> None:
    """Run the command line and exit."""
    try:
        code = app(prog_name="polarscore", standalone_mode=False)
        sys.stdout.flush()
    except typer.Abort:
        code = 130
    except typer.TyperException as error:  # the command itself is wrong: an unknown option, a missing argument
        context = getattr(error, "ctx", None)
        _fail(error.format_message().rstrip(".") + (f". See: {context.command_path} --help" if context else "."))
        code = 2
    except PolarscoreError as error:
        _fail(str(error))
        code = error.exit_code
    except BrokenPipeError:  # whoever read our output has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 0
    except Exception as error:  # a full disk, a store that went away: one line, too
        if os.environ.get("POLARSCORE_TRACEBACK"):
            raise
        _fail(f"{_cause(error)}. With POLARSCORE_TRACEBACK=1 it says where.")
        code = 2
    sys.exit(code if isinstance(code, int) else 0)


@app.callback()
@registry_app.callback()
@monitor_app.callback()
def _help(context: typer.Context) -> None:
    """Without a command: the list of them."""
    if context.invoked_subcommand is None:
        print(context.get_help(), file=sys.stderr)
        raise typer.Exit(2)


@app.command()
def demo(
    folder: Annotated[Path, typer.Argument(
        metavar="FOLDER", help="Where everything goes.")] = Path("polarscore-demo"),
    port: Annotated[int, typer.Option(help="Of the service; 0 takes a free one.")] = 0,
    as_json: AsJson = False,
) -> None:
    """Run the whole loop on the bundled film reviews, in one folder."""
    from serving.demo import run_demo

    result = run_demo(folder, port, say=lambda line: err.print(line, highlight=False, soft_wrap=True))
    if as_json:
        _print_json(result)
        return
    grid = _grid("what the demo found", "on the test split")
    for what, value in result["found"].items():
        grid.add_row(what, value)
    out.print(grid)
    for what, path in result["paths"].items():
        _say(f"{what:>28}  {path}")


@app.command()
def train(
    task_dir: TaskDir,
    harmonizer: Annotated[str, typer.Option(help="linear or mlp.")] = "mlp",
    scalariser: Annotated[str, typer.Option(help="linear, quadratic, euclidean or chebyshev.")] = "linear",
    weights: Annotated[str, typer.Option(
        help='Pareto weights: uniform; family, in which the LLM asked differently counts as one; or a JSON file, '
             '{"LLM": 1, "SOURCE": 0.5}.')] = "family",
    name: Annotated[str | None, typer.Option(help="The model's name; default: the task's.")] = None,
    epochs: Annotated[int, typer.Option(min=1, help="At most this many.")] = 30,
    learning_rate: Annotated[float, typer.Option(help="Of the optimiser, AdamW.")] = 1e-3,
    seed: Annotated[int, typer.Option(min=0, help="The same seed gives the same version again.")] = 0,
    as_json: AsJson = False,
) -> None:
    """Train a harmonizer on a task and register it as candidate.

    The run goes to MLflow. No gold label is used, except for the measures that are printed.
    """
    from training.fit import FitConfig
    from training.job import Progress as Told
    from training.job import read_weights
    from training.job import train as run_training

    if not (math.isfinite(learning_rate) and learning_rate > 0):
        raise InputError("--learning-rate should be a finite number above 0.")
    if name is not None and not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}", name):
        raise InputError("--name should be at most 100 letters, digits, '_', '.' and '-', the first a letter or digit. "
                         f"Found '{name[:100]}'.")
    config = FitConfig(harmonizer=harmonizer, scalariser=scalariser, epochs=epochs, learning_rate=learning_rate,
                       seed=seed)
    given = read_weights(Path(weights)) if weights.endswith(".json") else weights
    with _progress() as bars:
        encoding, fitting = bars.add_task("encoding", total=None), bars.add_task("training", total=epochs)
        trained = run_training(task_dir, State.from_environment(), config, name, given, Told(
            encoded=lambda done, of: bars.update(encoding, completed=done, total=of),
            epoch=lambda epoch, of: bars.update(
                fitting, completed=epoch.number, total=of,
                description=f"training, loss {epoch.loss:.4f}, held out {epoch.held_out_loss:.4f}"),
        ))
    if as_json:
        _print_json({"run_id": trained.run_id, "model": trained.model, "version": trained.version,
                     "measures": trained.measures})
        return
    _print_sources(trained.sources)
    _print_measures(trained.measures)
    _say(f"registered models:/{trained.model}/{trained.version}, now also models:/{trained.model}@candidate; "
         f"MLflow run {trained.run_id}")


@app.command()
def evaluate(task_dir: TaskDir, model: ModelUri, split: SplitOption = "test", as_json: AsJson = False) -> None:
    """Measure a registered version on a labelled task."""
    from registry.evaluation import evaluate as run_evaluation
    from registry.versions import Versions
    from training.job import embeddings
    from training.table import read_table
    from training.task import read_task

    state = State.from_environment()
    table = read_table(read_task(task_dir)).split(split)
    versions = Versions(state)
    version = versions.get(model)
    found = run_evaluation(versions, version, table, embeddings(state), split)
    if as_json:
        _print_json({"model": version.model, "version": version.version, "split": split, "measures": found})
        return
    _print_measures({split: found})


@app.command()
def score(
    what: Annotated[Path, typer.Argument(
        metavar="TASK_DIR_OR_FILE", help="A task's folder, or a file of rows: .jsonl, .csv, .parquet.")],
    model: ModelUri,
    target: Annotated[Path, typer.Option("--out", help="Where the risks go: .parquet or .jsonl.")],
    keep: Annotated[bool, typer.Option(
        "--keep/--no-keep", help="Keep the scores, for feedback and monitoring.")] = True,
    as_json: AsJson = False,
) -> None:
    """Write a risk for every row of a task or a file.

    With it go the class probabilities and the harmonizer's own answer, and a score_id that feedback can name.
    """
    from serving.batch import score_batch

    summary = score_batch(State.from_environment(), what, model, target, keep)
    if as_json:
        _print_json(summary)
        return
    mean = "none" if summary["mean_risk"] is None else f"{summary['mean_risk']:.3f}"
    _say(f"{summary['n']} rows scored by models:/{summary['model']}/{summary['version']}, mean risk {mean}, "
         f"written to {target}")


@app.command()
def bundle(model: ModelUri, as_json: AsJson = False) -> None:
    """Build a Bento from a registered version."""
    from registry.export import build
    from registry.versions import Versions

    state = State.from_environment()
    versions = Versions(state)
    version = versions.get(model)
    with err.status("building the Bento"):
        tag = build(versions.folder(version), version.model, str(version.version), {"stage": version.stage}, state)
    if as_json:
        _print_json({"bundle": tag, "model": version.model, "version": version.version})
        return
    _say(f"{tag}\nserve it: polarscore serve --bundle {tag}")


@app.command()
def serve(
    bundle_tag: Annotated[str | None, typer.Option("--bundle", help="NAME:TAG; default: the newest.")] = None,
    host: Annotated[str, typer.Option(help="Where it listens.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="Its port.")] = 3000,
) -> None:
    """Serve a bundle over HTTP until interrupted."""
    from serving.launch import serve as run_service

    run_service(bundle_tag, host, port, State.from_environment())


@app.command()
def feedback(
    file: Annotated[Path, typer.Argument(
        metavar="FILE", help="Rows of score_id or id, and label: .jsonl, .csv, .parquet.")],
    model: Annotated[str | None, typer.Option("--model", help="A name: look ids up among its scores only.")] = None,
    as_json: AsJson = False,
) -> None:
    """Join what people found out later to the scored answers.

    If one row is at fault, none counts.
    """
    from monitoring.feedback import read_feedback
    from monitoring.store import Store

    rows = read_feedback(file)
    with Store(State.from_environment().prepare().database_url) as store:
        labelled = store.add_feedback(rows, model)
    if as_json:
        _print_json({"rows": len(rows), "scores": labelled})
        return
    _say(f"{len(rows)} rows of feedback joined to {labelled} scores")


@registry_app.command("list")
def registry_list(model: AnyModel = None, as_json: AsJson = False) -> None:
    """All versions, the newest first, measured on the valid split."""
    versions = _versions()
    found = [{"model": version.model, "version": version.version, "stage": version.stage,
              "measures": version.measures("valid")} for version in versions.list(model)]
    if as_json:
        _print_json(found)
        return
    if not found:
        _say("no version is registered yet. See: polarscore train --help")
        return
    keys = [key for key in COLUMNS if key not in ("error_rate", "mean_risk")]
    grid = _grid("model", "version", "stage", *(COLUMNS[key] for key in keys))
    for row in found:
        measures = row["measures"] or {}
        grid.add_row(row["model"], str(row["version"]), row["stage"], *(_figure(measures.get(key)) for key in keys))
    out.print(grid)


@registry_app.command("show")
def registry_show(which: Which = None, model: WhichOption = None, as_json: AsJson = False) -> None:
    """One version: stage, measures, sources, Pareto weights."""
    versions = _versions()
    version = _version(versions, which or model)
    spec = versions.spec(version)
    shown = {
        "model": version.model, "version": version.version, "stage": version.stage, "aliases": version.aliases,
        "run_id": version.run_id, "created": version.created, "classes": spec.classes,
        "harmonizer": spec.harmonizer, "scalariser": spec.scalariser, "encoder": asdict(spec.encoder),
        "data_digest": spec.data_digest, "pareto_weights": spec.pareto_weights,
        "measures": {split: version.measures(split) for split in ("train", "valid", "test")},
    }
    if as_json:
        _print_json(shown)
        return
    weights = sorted(spec.pareto_weights.items(), key=lambda pair: -pair[1])
    more = f", and {len(weights) - WEIGHTS_SHOWN} more" if len(weights) > WEIGHTS_SHOWN else ""
    words = {
        "version": version.uri, "stage": version.stage, "aliases": ", ".join(version.aliases) or "none",
        "MLflow run": version.run_id, "created": f"{_moment(version.created)} UTC", "classes": ", ".join(spec.classes),
        "harmonizer": spec.harmonizer, "scalariser": spec.scalariser,
        "encoder": f"{spec.encoder.name} {spec.encoder.version}", "data": f"SHA-256 {spec.data_digest}",
        "Pareto weights": ", ".join(f"{name} {value:.3g}" for name, value in weights[:WEIGHTS_SHOWN]) + more,
    }
    for key, value in words.items():
        _say(f"{key:>15}  {value}")
    _print_measures(shown["measures"])


@registry_app.command("promote")
def registry_promote(
    to: Annotated[str, typer.Option("--to", help="staging or production.")],
    which: Promoted = None,
    model: WhichOption = None,
    why: Annotated[str, typer.Option(help="For the log.")] = "",
    who: Annotated[str | None, typer.Option(help="For the log; default: the user at this machine.")] = None,
    task: TaskOption = None,
    split: SplitOption = "valid",
    as_json: AsJson = False,
) -> None:
    """Move a version to staging or production.

    To production, it must be no worse than the version that is there now, by the gates.
    """
    from registry.promotion import check_target, promote

    check_target(to)
    state = State.from_environment()
    versions = _versions()
    version = _version(versions, which or model, to)
    change = promote(state, versions, version, to, _judge(state, versions, to, task, split), who or _user(), why)
    if as_json:
        _print_json(asdict(change))
        return
    _print_change(change)


@registry_app.command("gate")
def registry_gate(
    which: Promoted = None,
    model: WhichOption = None,
    to: Annotated[str, typer.Option("--to", help="staging or production.")] = "production",
    task: TaskOption = None,
    split: SplitOption = "valid",
    as_json: AsJson = False,
) -> None:
    """Show what the gates say of a promotion, without promoting."""
    from registry.promotion import check_target

    check_target(to)
    state = State.from_environment()
    versions = _versions()
    version = _version(versions, which or model, to)
    decision = _judge(state, versions, to, task, split)(version, versions.holder(version.model, to))
    if as_json:
        _print_json({"model": version.model, "version": version.version, "to": to, "allowed": decision.allowed,
                     "gates": [asdict(gate) for gate in decision.gates]})
    elif not decision.gates:
        _say(f"no gate stands before {to}: any version may go there")
    else:
        grid = _grid("gate", "state", "why")
        for gate in decision.gates:
            grid.add_row(gate.name, gate.state, gate.reason)
        out.print(grid)
        if decision.allowed:
            _say(f"{version.uri} may go to {to}")
    if not decision.allowed:
        raise CheckFailed(f"version {version.version} of '{version.model}' may not go to {to}. {decision.refusal}.")


@registry_app.command("rollback")
def registry_rollback(
    model: AnyModel = None,
    why: Annotated[str, typer.Option(help="For the log.")] = "",
    who: Annotated[str | None, typer.Option(help="For the log; default: the user at this machine.")] = None,
    as_json: AsJson = False,
) -> None:
    """Put back into production what was there before."""
    from registry.promotion import rollback

    versions = _versions()
    change = rollback(State.from_environment(), versions, _only(versions, model), who or _user(), why)
    if as_json:
        _print_json(asdict(change))
        return
    _print_change(change)


@registry_app.command("history")
def registry_history(model: AnyModel = None, as_json: AsJson = False) -> None:
    """Every change of stage: who, when, from, to, why."""
    from registry.history import History

    name = _only(_versions(), model)
    entries = History(State.from_environment().database_url).entries(name)
    if as_json:
        _print_json([{"at": e.at, "who": e.who, "action": e.action, "model": e.model, "version": e.version,
                      "from": e.from_stage, "to": e.to_stage, "replaced": e.replaced, "why": e.why, "gates": e.gates}
                     for e in entries])
        return
    if not entries:
        _say(f"no version of '{name}' has changed its stage yet")
        return
    grid = _grid("at (UTC)", "version", "change", "who", "why")
    for e in entries:
        place = "" if e.replaced is None else f", in place of {e.replaced}"
        undone = "rollback, " if e.action == "rollback" else ""
        grid.add_row(_moment(e.at), str(e.version), f"{undone}{e.from_stage} → {e.to_stage}{place}", e.who, e.why)
    out.print(grid)


@registry_app.command("at")
def registry_at(
    when: Annotated[str, typer.Argument(
        metavar="WHEN", help="A moment such as 2026-11-20T12:00, in UTC if it names no zone.")],
    model: AnyModel = None,
    as_json: AsJson = False,
) -> None:
    """Which version was in production at a moment."""
    from registry.promotion import at

    try:
        moment = datetime.fromisoformat(when)
    except ValueError:
        raise InputError(f"'{when}' is no moment. Expected a form such as 2026-11-20T12:00.") from None
    moment = moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment
    name = _only(_versions(), model)
    version = at(State.from_environment(), name, moment)
    if as_json:
        _print_json({"model": name, "at": moment, "version": version})
        return
    _say("none" if version is None else f"models:/{name}/{version}")


@registry_app.command("verify")
def registry_verify(model: AnyModel = None, as_json: AsJson = False) -> None:
    """Do MLflow's aliases agree with the log?"""
    from registry.promotion import disagreements

    versions = _versions()
    name = _only(versions, model)
    found = disagreements(State.from_environment(), versions, name)
    if as_json:
        _print_json({"model": name, "ok": not found, "disagreements": found})
    if found:
        raise CheckFailed("; ".join(found) + ".")
    if not as_json:
        _say(f"aliases and log of '{name}' agree")


@registry_app.command("diff")
def registry_diff(
    one: Annotated[str, typer.Argument(metavar="ONE", help=VERSION)],
    other: Annotated[str, typer.Argument(metavar="OTHER", help=VERSION)],
    as_json: AsJson = False,
) -> None:
    """What differs between two versions: measures, weights, data."""
    from registry.comparison import differences

    versions = _versions()
    found = differences(versions, versions.get(one), versions.get(other))
    if as_json:
        _print_json(found)
        return
    if not found:
        _say("no difference")
        return
    grid = _grid("what", one, other)
    for what, (left, right) in found.items():
        grid.add_row(what, _figure(left) or "-", _figure(right) or "-")
    out.print(grid)


@monitor_app.command("report")
def monitor_report(
    model: Watched = None,
    folder: Annotated[Path | None, typer.Option("--out", help="Where it goes; default: in the state folder.")] = None,
    as_json: AsJson = False,
) -> None:
    """Write an Evidently report on risks and inputs since training.

    Where feedback exists, it sets the risks against the observed errors.
    """
    from monitoring.watch import report

    with err.status("writing the report"):
        written = report(State.from_environment(), model, folder)
    if as_json:
        _print_json(written)
        return
    words = {
        "version": f"models:/{written['model']}/{written['version']}",
        "scores": f"{written['scores']}, of which {written['labelled']} with feedback",
        "report": written["html"], "as JSON": written["json"], "MLflow run": written["run_id"],
        "over time": "polarscore monitor ui",
    }
    for key, value in words.items():
        _say(f"{key:>10}  {value}")


@monitor_app.command("check")
def monitor_check(
    model: Watched = None,
    strict: Annotated[bool, typer.Option("--strict", help="Count what cannot be told as a failure.")] = False,
    as_json: AsJson = False,
) -> None:
    """Print what is off; exit with 1 if something is."""
    from monitoring.watch import check

    alarms = check(State.from_environment(), model)
    ok = all(alarm.state != "alarm" and not (strict and alarm.state == "unknown") for alarm in alarms)
    if as_json:
        _print_json({"ok": ok, "alarms": [asdict(alarm) for alarm in alarms]})
    else:
        grid = _grid("alarm", "state", "why")
        for alarm in alarms:
            since = "" if alarm.since is None else f"since {_moment(alarm.since)} UTC: "
            grid.add_row(alarm.name, alarm.state, since + alarm.reason)
        out.print(grid)
    if not ok:
        states = ("alarm", "unknown") if strict else ("alarm",)
        off = {state: [alarm.name for alarm in alarms if alarm.state == state] for state in states}
        raise CheckFailed("; ".join(f"{state}: {', '.join(names)}" for state, names in off.items() if names) + ".")


@monitor_app.command("sample")
def monitor_sample(
    budget: Annotated[int, typer.Option(min=1, help="How many answers people can check.")],
    model: Watched = None,
    seed: Annotated[int, typer.Option(min=0, help="The same seed draws the same answers again.")] = 0,
    as_json: AsJson = False,
) -> None:
    """Choose which answers people should check next.

    Each is drawn with a known probability, so that what they find can be weighted to hold for all answers.
    """
    from monitoring.watch import sample

    chosen = sample(State.from_environment(), model, budget, seed)
    if as_json:
        _print_json(chosen)
        return
    if not chosen:
        _say("nothing is left to check")
        return
    grid = _grid("score_id", "id", "risk", "probability")
    for row in chosen:
        grid.add_row(row["score_id"], row["id"], _figure(row["risk"]), _figure(row["probability"]))
    out.print(grid)


@monitor_app.command("ui")
def monitor_ui(
    port: Annotated[int, typer.Option(min=1, max=65535, help="On this machine.")] = 8000,
) -> None:
    """Show the reports, and the measures over time, in a browser.

    Evidently's own pages, on this machine alone, until interrupted.
    """
    from monitoring.watch import serve_reports

    serve_reports(State.from_environment(), port, lambda: _say(f"http://127.0.0.1:{port}"))


@app.command()
def bench(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A folder of tasks.")],
    seeds: Annotated[int, typer.Option(min=1, help="How many; measures are means over them.")] = 1,
    plot: Annotated[Path | None, typer.Option(help="Where the plot goes, a .png; it is in MLflow, too.")] = None,
    as_json: AsJson = False,
) -> None:
    """Run every task of a folder, ours beside the baselines.

    The measures are those of the test splits.
    """
    from training import bench as bench_run
    from training.figures import bench_figure
    from training.job import embeddings
    from training.tracking import log_bench

    state = State.from_environment()
    if plot and plot.suffix != ".png":
        raise InputError(f"--plot {plot} should end in .png.")
    tasks = bench_run.run(folder, embeddings(state), seeds,
                          done=lambda name, found: err.print(f"{name}: ECE {_figure(found['polarscore']['ece'])}, "
                                                             f"AUROC {_figure(found['polarscore']['auroc'])}"))
    mean = bench_run.mean_over_tasks(tasks)
    figure = bench_figure(tasks, mean)
    run_id = log_bench(state, tasks, mean, figure, seeds)
    if plot:
        figure.savefig(plot, dpi=150)
    if as_json:
        _print_json({"tasks": tasks, "mean": mean})
        return
    for name, found in {**tasks, f"mean over {len(tasks)} tasks": mean}.items():
        _say(f"\n{name}")
        _print_measures(found, "method")
    out.print(f"logged as run {run_id}", highlight=False, soft_wrap=True)


def _versions() -> Any:
    from registry.versions import Versions

    return Versions(State.from_environment())


def _only(versions: Any, model: str | None) -> str:
    """A model's name: the given one, or the only one there is."""
    if model is not None:
        versions.list(model)
        return model
    names = versions.models()
    if len(names) != 1:
        raise InputError(f"name a model. Registered: {', '.join(names) or 'none; train one first'}.")
    return str(names[0])


def _version(versions: Any, which: str | None, to: str = "") -> Any:
    """The version that a URI names; of a bare name, the one that the promotion to a stage would be about."""
    if which and which.startswith("models:"):
        return versions.get(which)
    name = _only(versions, which)
    staged = versions.holder(name, "staging") if to == "production" else None
    return staged or versions.get(f"models:/{name}@candidate")


def _judge(state: State, versions: Any, to: str, task: Path | None, split: str) -> Any:
    """The gate of a stage: to production, candidate and champion are compared on the same rows."""
    from registry.evaluation import compare, task_of
    from registry.gates import Decision, decide
    from training.job import embeddings

    def judge(candidate: Any, champion: Any) -> Decision:
        if to != "production":
            return Decision(())
        rows = task_of(versions, candidate, task).split(split)
        return decide(compare(versions, candidate, champion, rows, embeddings(state)))

    return judge


def _user() -> str:
    try:
        return f"{getpass.getuser()}@{socket.gethostname()}"
    except (OSError, KeyError):
        return "unknown"


def _progress() -> Progress:
    return Progress(TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
                    console=err, disable=not err.is_terminal)


def _print_measures(measures: Mapping[str, Mapping[str, Any] | None], rows: str = "split") -> None:
    grid = _grid(rows, *COLUMNS.values())
    for split, found in measures.items():
        grid.add_row(split, *(["none labelled"] if found is None else [_figure(found[key]) for key in COLUMNS]))
    out.print(grid)


def _print_sources(table: Any) -> None:
    grid = _grid("source", "family", "coverage", "overlaps", "conflicts", "like the LLM")
    for row in table.head(SOURCES_SHOWN).itertuples():
        grid.add_row(row.source[:60], row.family, f"{row.coverage:.1%}", f"{row.overlaps:.1%}",
                     f"{row.conflicts:.1%}", "" if math.isnan(row.agreement) else f"{row.agreement:.1%}")
    out.print(grid)
    if len(table) > SOURCES_SHOWN:
        _say(f"and {len(table) - SOURCES_SHOWN} more sources; all of them are in MLflow, sources.json")


def _print_change(change: Any) -> None:
    place = f", in place of version {change.replaced}" if change.replaced else ""
    _say(f"version {change.version} of '{change.model}': {change.from_stage} → {change.to_stage}{place}")


def _grid(*names: str) -> Grid:
    """A table that fits a narrow terminal; only words without a bound may take several lines."""
    grid = Grid(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    for name in names:
        grid.add_column(name, overflow="fold", no_wrap=name not in ("why", "who", "source"),
                        justify="right" if name in COLUMNS.values() else "left")
    return grid


def _say(text: str) -> None:
    out.print(text, highlight=False, soft_wrap=True)


def _moment(value: datetime) -> str:
    return f"{value.astimezone(UTC):%Y-%m-%d %H:%M}"


def _figure(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:.3f}" if isinstance(value, float) else str(value)


def _print_json(value: Any) -> None:
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


def _cause(error: Exception) -> str:
    """What went wrong, in a line: of a failed system call, what it was about; of a database, what it says itself."""
    cause = getattr(error, "orig", None) or error
    if isinstance(cause, OSError) and cause.strerror:
        return cause.strerror + (f": {cause.filename}" if cause.filename else "")
    lines = str(cause).strip().splitlines()
    kind = "MLflow" if type(cause).__module__.startswith("mlflow") else type(cause).__name__
    return kind + (f": {lines[0][:300].rstrip('.')}" if lines else "")


def _fail(message: str) -> None:
    print("polarscore: " + " ".join(message.split()), file=sys.stderr)


if __name__ == "__main__":
    main()
