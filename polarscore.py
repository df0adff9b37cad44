"""The command line. Each command reads its input, calls one room, and prints: a table, or JSON with `--json`.

Exit code 0 for success, 1 for a check that failed, 2 for bad input, with one clear line on standard error.
"""

import getpass
import json
import math
import os
import socket
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, is_dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import click
import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table as Grid

from training.errors import CheckFailed, InputError, PolarscoreError
from training.state import State

for _name in ("DO_NOT_TRACK", "MLFLOW_DISABLE_TELEMETRY", "BENTOML_DO_NOT_TRACK"):
    os.environ[_name] = "True" if _name == "BENTOML_DO_NOT_TRACK" else "true"

OPTIONS: dict[str, Any] = {
    "no_args_is_help": True, "add_completion": False, "pretty_exceptions_enable": False, "rich_markup_mode": None,
}
app = typer.Typer(help="Risk scores for the answers of large language models, without labelled data.", **OPTIONS)
registry_app = typer.Typer(help="Stages of the registered versions.", **OPTIONS)
monitor_app = typer.Typer(help="Do the risks still tell the truth?", **OPTIONS)
app.add_typer(registry_app, name="registry")
app.add_typer(monitor_app, name="monitor")

out, err = Console(), Console(stderr=True)

AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON, and nothing else.")]
TaskDir = Annotated[Path, typer.Argument(help="A folder with a task.toml.")]
ModelUri = Annotated[str, typer.Option("--model", help="models:/NAME/VERSION or models:/NAME@ALIAS.")]
AnyModel = Annotated[str | None, typer.Argument(help="A model's name; may be left out where there is only one.")]
Which = Annotated[str | None, typer.Argument(help="models:/NAME/VERSION, models:/NAME@ALIAS or a model's name.")]
WhichOption = Annotated[str | None, typer.Option("--model", help="The same, as an option.")]
TaskOption = Annotated[Path | None, typer.Option("--task", help="The task to judge by; default: the training task.")]
SplitOption = Annotated[str, typer.Option("--split", help="Its split: train, valid or test.")]


def main() -> None:
    """Run the command line and exit."""
    try:
        code = app(standalone_mode=False)
    except click.exceptions.Abort:
        code = 130
    except click.ClickException as error:
        _fail(error.format_message())
        code = 2
    except PolarscoreError as error:
        _fail(str(error))
        code = error.exit_code
    except BrokenPipeError:
        sys.stdout = None
        code = 0
    sys.exit(code if isinstance(code, int) else 0)


@app.command()
def demo(
    folder: Annotated[Path, typer.Argument(help="Where everything goes.")] = Path("polarscore-demo"),
    port: Annotated[int, typer.Option(help="Of the service; 0 takes a free one.")] = 0,
    as_json: AsJson = False,
) -> None:
    """Run the whole loop on the bundled film reviews, in one folder."""
    from serving.demo import run_demo

    result = run_demo(folder, port, say=lambda line: err.print(line, highlight=False, soft_wrap=True))
    if as_json:
        _print_json(result)
        return
    grid = Grid("what", "on the test split", title="What the demo found", title_justify="left")
    for what, value in result["found"].items():
        grid.add_row(what, value)
    out.print(grid)
    for what, path in result["paths"].items():
        out.print(f"{what:>28}  {path}", highlight=False, soft_wrap=True)


@app.command()
def train(
    task_dir: TaskDir,
    harmonizer: Annotated[str, typer.Option(help="linear or mlp.")] = "mlp",
    scalariser: Annotated[str, typer.Option(help="linear, quadratic, euclidean or chebyshev.")] = "linear",
    weights: Annotated[Path | None, typer.Option(help="Pareto weights, a JSON file; default: uniform.")] = None,
    name: Annotated[str | None, typer.Option(help="The model's name; default: the task's.")] = None,
    epochs: Annotated[int, typer.Option(min=1, help="At most this many.")] = 30,
    learning_rate: Annotated[float, typer.Option(help="Of AdamW.")] = 1e-3,
    seed: Annotated[int, typer.Option(min=0, help="The same seed gives the same version twice.")] = 0,
    as_json: AsJson = False,
) -> None:
    """Train a harmonizer on a task, log it to MLflow, register it as candidate."""
    from training.fit import FitConfig
    from training.job import Progress as Told
    from training.job import read_weights
    from training.job import train as run_training

    if not (math.isfinite(learning_rate) and learning_rate > 0):
        raise InputError("--learning-rate should be a finite number above 0.")
    config = FitConfig(harmonizer=harmonizer, scalariser=scalariser, epochs=epochs, learning_rate=learning_rate,
                       seed=seed)
    given = read_weights(weights) if weights else None
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
    out.print(f"run {trained.run_id}\nversion models:/{trained.model}/{trained.version}, "
              f"alias models:/{trained.model}@candidate", highlight=False, soft_wrap=True)


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
    what: Annotated[Path, typer.Argument(metavar="TASK_DIR_OR_FILE", help="A task, or rows: .jsonl .csv .parquet")],
    model: ModelUri,
    target: Annotated[Path, typer.Option("--out", help="Where the risks go: .parquet or .jsonl.")],
    keep: Annotated[bool, typer.Option("--keep/--no-keep", help="Keep the scores, for feedback and monitoring.")] = True,
    as_json: AsJson = False,
) -> None:
    """Score every row in batch: a risk, class probabilities, the harmonizer's own answer."""
    from serving.batch import score_batch

    summary = score_batch(State.from_environment(), what, model, target, keep)
    if as_json:
        _print_json(summary)
        return
    mean = "none" if summary["mean_risk"] is None else f"{summary['mean_risk']:.3f}"
    out.print(f"{summary['n']} rows scored by {summary['model']} version {summary['version']}, mean risk {mean}, "
              f"written to {target}", highlight=False, soft_wrap=True)


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
    out.print(f"{tag}\nserve it: polarscore serve --bundle {tag}", highlight=False, soft_wrap=True)


@app.command()
def serve(
    bundle_tag: Annotated[str | None, typer.Option("--bundle", help="NAME:TAG; default: the newest.")] = None,
    host: Annotated[str, typer.Option(help="Where it listens.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535)] = 3000,
) -> None:
    """Serve a bundle over HTTP until interrupted."""
    from serving.launch import serve as run_service

    run_service(bundle_tag, host, port, State.from_environment())


@app.command()
def feedback(
    file: Annotated[Path, typer.Argument(help="Rows of score_id or id, and label: .jsonl, .csv, .parquet.")],
    model: Annotated[str | None, typer.Option("--model", help="A name: look ids up among its scores only.")] = None,
    as_json: AsJson = False,
) -> None:
    """Join what people found out later to the scored answers; all rows count, or none."""
    from monitoring.feedback import read_feedback
    from monitoring.store import Store

    rows = read_feedback(file)
    with Store(State.from_environment().prepare().database_url) as store:
        labelled = store.add_feedback(rows, model)
    if as_json:
        _print_json({"rows": len(rows), "scores": labelled})
        return
    out.print(f"{len(rows)} rows of feedback joined to {labelled} scores", highlight=False)


@registry_app.command("list")
def registry_list(model: AnyModel = None, as_json: AsJson = False) -> None:
    """All versions, the newest first, with their measures on the valid split."""
    versions = _versions()
    found = [{"model": version.model, "version": version.version, "stage": version.stage,
              "measures": version.measures("valid")} for version in versions.list(model)]
    if as_json:
        _print_json(found)
        return
    grid = Grid("model", "version", "stage", "ECE", "R²", "AUROC", "AURC", "Brier", "answers")
    for row in found:
        measures = row["measures"] or {}
        grid.add_row(row["model"], str(row["version"]), row["stage"],
                     *(_figure(measures.get(key)) for key in ("ece", "r2", "auroc", "aurc", "brier", "n")))
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
    for key, value in shown.items():
        if key not in ("measures", "pareto_weights"):
            text = ", ".join(map(str, value)) if isinstance(value, tuple) else str(value)
            out.print(f"{key:>15}  {text}", highlight=False, soft_wrap=True)
    weights = sorted(spec.pareto_weights.items(), key=lambda pair: -pair[1])
    out.print(f"{'Pareto weights':>15}  " + ", ".join(f"{name} {value:.3g}" for name, value in weights[:8])
              + (f", and {len(weights) - 8} more" if len(weights) > 8 else ""), highlight=False, soft_wrap=True)
    _print_measures(shown["measures"])


@registry_app.command("promote")
def registry_promote(
    to: Annotated[str, typer.Option("--to", help="staging or production.")],
    which: Which = None,
    model: WhichOption = None,
    why: Annotated[str, typer.Option(help="For the log.")] = "",
    who: Annotated[str | None, typer.Option(help="For the log; default: the user at this machine.")] = None,
    task: TaskOption = None,
    split: SplitOption = "valid",
    as_json: AsJson = False,
) -> None:
    """Move a version to a stage. To production, it must stand beside the version that is there now."""
    from registry.promotion import TARGETS, promote

    state = State.from_environment()
    versions = _versions()
    if to not in TARGETS:
        raise InputError(f"stage '{to}' is unknown. Expected one of {', '.join(TARGETS)}.")
    version = _version(versions, which or model, to)
    change = promote(state, versions, version, to, _judge(state, versions, to, task, split), who or _user(), why)
    if as_json:
        _print_json(asdict(change))
        return
    _print_change(change)


@registry_app.command("gate")
def registry_gate(
    which: Which = None,
    model: WhichOption = None,
    to: Annotated[str, typer.Option("--to", help="staging or production.")] = "production",
    task: TaskOption = None,
    split: SplitOption = "valid",
    as_json: AsJson = False,
) -> None:
    """Show what the gates say of a promotion, without promoting."""
    state = State.from_environment()
    versions = _versions()
    version = _version(versions, which or model, to)
    decision = _judge(state, versions, to, task, split)(version, versions.holder(version.model, to))
    if as_json:
        _print_json({"model": version.model, "version": version.version, "to": to, "allowed": decision.allowed,
                     "gates": [asdict(gate) for gate in decision.gates]})
    else:
        grid = Grid("gate", "state", "why")
        for gate in decision.gates:
            grid.add_row(gate.name, gate.state, gate.reason)
        out.print(grid)
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
    grid = Grid("at (UTC)", "who", "action", "version", "from", "to", "in place of", "why")
    for e in entries:
        grid.add_row(f"{e.at:%Y-%m-%d %H:%M:%S}", e.who, e.action, str(e.version), e.from_stage, e.to_stage,
                     "" if e.replaced is None else str(e.replaced), e.why)
    out.print(grid)


@registry_app.command("at")
def registry_at(
    when: Annotated[str, typer.Argument(help="A moment such as 2026-11-20T12:00, in UTC if it names no zone.")],
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
    out.print("none" if version is None else f"models:/{name}/{version}", highlight=False)


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
        out.print(f"aliases and log of '{name}' agree", highlight=False)


@registry_app.command("diff")
def registry_diff(one: str, other: str, as_json: AsJson = False) -> None:
    """What differs between two versions: measures, Pareto weights, sources, data."""
    from registry.comparison import differences

    versions = _versions()
    found = differences(versions, versions.get(one), versions.get(other))
    if as_json:
        _print_json(found)
        return
    grid = Grid("what", one, other)
    for what, (left, right) in found.items():
        grid.add_row(what, _figure(left), _figure(right))
    out.print(grid if found else "no difference")


@monitor_app.command("report")
def monitor_report(
    model: Annotated[str | None, typer.Option("--model", help="models:/NAME@ALIAS, or a model's name.")] = None,
    folder: Annotated[Path | None, typer.Option("--out", help="Where it goes; default: in the state folder.")] = None,
    as_json: AsJson = False,
) -> None:
    """Write an Evidently report: drift of risks and inputs, and risk against observed error."""
    from monitoring.watch import report

    with err.status("writing the report"):
        written = report(State.from_environment(), model, folder)
    if as_json:
        _print_json(written)
        return
    for key, value in written.items():
        out.print(f"{key:>10}  {value}", highlight=False, soft_wrap=True)


@monitor_app.command("check")
def monitor_check(
    model: Annotated[str | None, typer.Option("--model", help="models:/NAME@ALIAS, or a model's name.")] = None,
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
        grid = Grid("alarm", "state", "since", "size", "why")
        for alarm in alarms:
            grid.add_row(alarm.name, alarm.state, "" if alarm.since is None else str(alarm.since)[:19],
                         _figure(alarm.size), alarm.reason)
        out.print(grid)
    if not ok:
        off = [alarm.name for alarm in alarms if alarm.state == "alarm" or (strict and alarm.state == "unknown")]
        raise CheckFailed(f"off: {', '.join(off)}.")


@monitor_app.command("sample")
def monitor_sample(
    budget: Annotated[int, typer.Option(min=1, help="How many answers people can check.")],
    model: Annotated[str | None, typer.Option("--model", help="models:/NAME@ALIAS, or a model's name.")] = None,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    as_json: AsJson = False,
) -> None:
    """Choose which answers to check next, each with its known probability of being chosen."""
    from monitoring.watch import sample

    chosen = sample(State.from_environment(), model, budget, seed)
    if as_json:
        _print_json(chosen)
        return
    grid = Grid("score_id", "id", "risk", "probability")
    for row in chosen:
        grid.add_row(row["score_id"], row["id"], _figure(row["risk"]), _figure(row["probability"]))
    out.print(grid)


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
                    console=err, transient=not err.is_terminal)


def _print_measures(measures: Mapping[str, Mapping[str, Any] | None]) -> None:
    grid = Grid("split", "answers", "error rate", "mean risk", "ECE", "R²", "AUROC", "AURC", "Brier")
    for split, found in measures.items():
        keys = ("n", "error_rate", "mean_risk", "ece", "r2", "auroc", "aurc", "brier")
        grid.add_row(split, *(["no labels"] if found is None else [_figure(found[key]) for key in keys]))
    out.print(grid)


def _print_sources(table: Any) -> None:
    grid = Grid("source", "family", "coverage", "overlaps", "conflicts", "agrees with the LLM")
    for row in table.head(40).itertuples():
        grid.add_row(row.source[:60], row.family, f"{row.coverage:.1%}", f"{row.overlaps:.1%}",
                     f"{row.conflicts:.1%}", "" if math.isnan(row.agreement) else f"{row.agreement:.1%}")
    out.print(grid)
    if len(table) > 40:
        out.print(f"and {len(table) - 40} more sources; all of them are in MLflow, sources.json", highlight=False)


def _print_change(change: Any) -> None:
    place = f", in place of version {change.replaced}" if change.replaced else ""
    out.print(f"version {change.version} of '{change.model}': {change.from_stage} → {change.to_stage}{place}",
              highlight=False, soft_wrap=True)


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


def _fail(message: str) -> None:
    print("polarscore: " + " ".join(message.split()), file=sys.stderr)


if __name__ == "__main__":
    main()
