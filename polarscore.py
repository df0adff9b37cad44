"""The command line. Each command reads its input, calls one room, and prints: a table, or JSON with `--json`.

Exit code 0 for success, 1 for a check that failed, 2 for bad input, with one clear line on standard error.
"""

import _thread
import math
import os
import shlex
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from monitoring.commands import app as monitor_app
from monitoring.commands import forget
from registry.commands import app as registry_app
from serving.correction.correct_command import correct
from serving.key_commands import app as key_app
from serving.llm.ask_command import ask
from training.errors import InputError, PolarscoreError
from training.heuristics.sources_command import sources
from training.printing import (
    OPTIONS,
    AsJson,
    columns,
    err,
    figure,
    list_commands,
    out,
    print_json,
    print_measures,
    say,
)
from training.state import State

for _name in ("DO_NOT_TRACK", "MLFLOW_DISABLE_TELEMETRY", "BENTOML_DO_NOT_TRACK"):
    os.environ[_name] = "True" if _name == "BENTOML_DO_NOT_TRACK" else "true"

app = typer.Typer(help="Risk scores for the answers of large language models, without labelled data.",
                  callback=list_commands, **OPTIONS)
app.add_typer(registry_app, name="registry")
app.add_typer(monitor_app, name="monitor")
app.add_typer(key_app, name="apikey")

SOURCES_SHOWN = 40

TaskDir = Annotated[Path, typer.Argument(metavar="TASK_DIR", help="A folder with a task.toml.")]
ModelUri = Annotated[str, typer.Option("--model", help="models:/NAME/VERSION or models:/NAME@ALIAS.")]
SplitOption = Annotated[str, typer.Option("--split", help="Its split: train, valid or test.")]


def main() -> None:
    """Run the command line and exit."""
    try:
        with _interrupts_kept():
            code = app(prog_name="polarscore", standalone_mode=False, obj=_measure)
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
        print_json(result)
        return
    table = columns("what the demo found", "on the test split")
    for what, value in result["found"].items():
        table.add_row(what, value)
    out.print(table)
    for what, path in result["paths"].items():
        say(f"{what:>28}  {path}")


@app.command()
def train(
    task_dir: TaskDir,
    harmonizer: Annotated[str, typer.Option(
        help="linear or mlp, on embeddings; or transformer, which fine-tunes the encoder.")] = "mlp",
    scalariser: Annotated[str, typer.Option(
        help="linear, quadratic, euclidean or chebyshev; or by the gradients of the source families, mgda or "
             "upgrad.")] = "linear",
    weights: Annotated[str, typer.Option(
        help='Pareto weights: learned, by what each source is worth; uniform; family, in which the LLM asked '
             'differently counts as one; eigenvector or minimum_variance, from how the sources pull in a first fit; '
             'front, chosen on the Pareto front between the LLM and the sources; a JSON file, '
             '{"LLM": 1, "SOURCE": 0.5}; or models:/NAME/VERSION or models:/NAME@ALIAS, those of a registered '
             'version.')] = "learned",
    name: Annotated[str | None, typer.Option(help="The model's name; default: the task's.")] = None,
    epochs: Annotated[int, typer.Option(
        min=1, help="At most this many; a transformer passes over the rows 5 times at most.")] = 30,
    learning_rate: Annotated[float, typer.Option(
        help="Of the optimiser, AdamW; a transformer's encoder takes a tenth.")] = 1e-3,
    seed: Annotated[int, typer.Option(min=0, help="The same seed gives the same version again.")] = 0,
    audit: Annotated[int | None, typer.Option(
        metavar="N", help="Also draw N answers for a person to check, into a file.")] = None,
    audit_file: Annotated[Path | None, typer.Option(
        metavar="FILE", help="Where they go, a .csv; default: NAME-audit.csv.")] = None,
    audited: Annotated[Path | None, typer.Option(
        metavar="FILE", help="Such a file with labels filled in: recalibrates the risk by it, and finds a threshold "
                             "with a guarantee.")] = None,
    alpha: Annotated[float | None, typer.Option(
        help="The error rate to stay under among accepted answers; default: 0.1.")] = None,
    delta: Annotated[float | None, typer.Option(
        help="How often that may fail; default: 0.1, a confidence of 0.9.")] = None,
    as_json: AsJson = False,
) -> None:
    """Train a harmonizer on a task and register it as candidate.

    The run goes to MLflow. No gold label of the task is used, except for the measures that are printed; a few labels
    that a person gives, --audit and --audited, make the risk truer.
    """
    from training.encoder import best_device
    from training.fit import FitConfig
    from training.job import Progress as Told
    from training.job import train as run_training

    if not (math.isfinite(learning_rate) and learning_rate > 0):
        raise InputError("--learning-rate should be a finite number above 0.")
    config = FitConfig(harmonizer=harmonizer, scalariser=scalariser, epochs=epochs, learning_rate=learning_rate,
                       seed=seed, device=best_device())
    plan = _audit_plan(audit, audit_file, audited, alpha, delta)
    state = State.from_environment()
    given, origin = _pareto_weights(state, weights)
    with _progress() as bars:
        encoding, fitting = bars.add_task("encoding", total=None), bars.add_task("training", total=epochs)
        trained = run_training(task_dir, state, config, name, given, Told(
            encoded=lambda done, of: bars.update(encoding, completed=done, total=of),
            epoch=lambda epoch, of: bars.update(
                fitting, completed=epoch.number, total=of,
                description=f"training, loss {epoch.loss:.4f}, held out {epoch.held_out_loss:.4f}"),
            tell=lambda line: err.print(line, highlight=False, soft_wrap=True),
        ), origin, plan)
    for warning in trained.warnings:
        err.print(f"warning: {warning}", highlight=False, soft_wrap=True)
    to_check = plan.file(trained.model)
    if as_json:
        print_json({"run_id": trained.run_id, "model": trained.model, "version": trained.version,
                     "measures": trained.measures} | _audit_as_json(trained, to_check))
        return
    _print_sources(trained.sources)
    print_measures(trained.measures)
    if trained.guarantee:
        say(f"{trained.recalibration.words}\n{trained.guarantee.words}")
    say(f"registered models:/{trained.model}/{trained.version}, now also models:/{trained.model}@candidate; "
         f"MLflow run {trained.run_id}")
    if trained.to_check:
        say(f"{to_check.absolute()} holds {trained.to_check} answers to check: fill in the column 'label', then, with "
            f"the other options as now: polarscore train {shlex.quote(str(task_dir))} --audited "
            f"{shlex.quote(str(to_check))}")


@app.command()
def evaluate(task_dir: TaskDir, model: ModelUri, split: SplitOption = "test", as_json: AsJson = False) -> None:
    """Measure a registered version on a labelled task.

    With the sources' votes and without them. Of a version with a guaranteed threshold, also what it accepts.
    """
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
        print_json({"model": version.model, "version": version.version, "split": split, "measures": found.measures,
                    "measures_without_votes": found.without_votes}
                   | ({"accepted": found.accepted} if found.accepted else {}))
        return
    print_measures({split: found.measures, f"{split}, without votes": found.without_votes})
    if found.accepted:
        say(found.accepted.words)


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
        print_json(summary)
        return
    mean = "none" if summary["mean_risk"] is None else f"{summary['mean_risk']:.3f}"
    say(f"{summary['n']} rows scored by models:/{summary['model']}/{summary['version']}, mean risk {mean}, "
         f"written to {target}")


@app.command()
def bundle(
    model: ModelUri,
    allow_candidate: Annotated[bool, typer.Option(
        "--allow-candidate", help="Also bundle a version that is neither in staging nor in production.")] = False,
    as_json: AsJson = False,
) -> None:
    """Build a Bento from a registered version.

    Of the very bytes that its promotion signed.
    """
    from registry.bundling import bundle as run_bundling
    from registry.opening import Registry

    with Registry.open(State.from_environment()) as registry:
        version = registry.versions.get(model)
        with err.status("building the Bento"):
            tag = run_bundling(registry, version, allow_candidate)
    if as_json:
        print_json({"bundle": tag, "model": version.model, "version": version.version})
        return
    say(f"{tag}\nserve it: polarscore serve --bundle {tag}")


@app.command()
def serve(
    bundle_tag: Annotated[str | None, typer.Option("--bundle", help="NAME:TAG; default: the newest.")] = None,
    host: Annotated[str, typer.Option(help="Where it listens.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="Its port.")] = 3000,
    follow: Annotated[bool, typer.Option(
        "--follow", help="Take over the version that is put into production, or back into it, while it runs.")] = False,
    allow_unsigned: Annotated[bool, typer.Option(
        "--allow-unsigned", help="Also serve a candidate that no promotion has signed.")] = False,
    config: Annotated[Path | None, typer.Option(
        "--config", metavar="FILE", help="Limits, batching, what is kept, thresholds, a second version: a .toml; "
                                         "docs/service.md shows it.")] = None,
) -> None:
    """Serve a bundle over HTTP until interrupted.

    Beyond loopback every request needs an API key: see polarscore apikey.
    """
    from serving.launch import serve as run_service

    run_service(bundle_tag, host, port, State.from_environment(), follow, allow_unsigned, config)


@app.command()
def feedback(
    file: Annotated[Path, typer.Argument(
        metavar="FILE", help="Rows of score_id or id, and label: .jsonl, .csv, .parquet.")],
    model: Annotated[str | None, typer.Option("--model", help="A name: look ids up among its scores only.")] = None,
    chosen: Annotated[str | None, typer.Option(
        help="How the answers came to be checked, where the file has no such column: all, random, risk, whim or "
             "unknown. Answers that monitor sample drew are known by themselves.")] = None,
    probability: Annotated[float | None, typer.Option(
        help="With which each was chosen, likewise; random needs it.")] = None,
    reviewer: Annotated[str | None, typer.Option(help="Who checked them, likewise.")] = None,
    as_json: AsJson = False,
) -> None:
    """Join what people found out later to the scored answers.

    If one row is at fault, none counts. Rows without a label yet are left out.
    """
    from monitoring.feedback import read_feedback
    from monitoring.store import Store
    from registry.versions import model_name

    rows = read_feedback(file, reviewer, chosen, probability, blank=lambda n: err.print(
        f"{n} row{'s' * (n != 1)} without a label left out", highlight=False))
    with Store(State.from_environment().prepare().database_url) as store:
        labelled = store.add_feedback(rows, model_name(model) if model else None)
    if as_json:
        print_json({"rows": len(rows), "scores": labelled})
        return
    say(f"{len(rows)} rows of feedback joined to {labelled} scores")


for _command in (forget, ask, correct, sources):
    app.command()(_command)


@app.command()
def bench(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A folder of tasks.")],
    seeds: Annotated[int, typer.Option(min=1, help="How many; measures are means over them.")] = 1,
    methods: Annotated[str | None, typer.Option(help="Only these, separated by commas; default: all.")] = None,
    transformer: Annotated[bool, typer.Option(
        "--transformer", help="Fine-tune transformers, too; that takes long.")] = False,
    fresh: Annotated[bool, typer.Option(
        "--fresh", help="Compute all risks again, those kept by an earlier bench, too.")] = False,
    plot: Annotated[Path | None, typer.Option(help="Where the plot goes, a .png; it is in MLflow, too.")] = None,
    as_json: AsJson = False,
) -> None:
    """Run every task of a folder, ours beside the baselines.

    The measures are those of the test splits. A bench that was stopped goes on where it was.
    """
    from training import bench as bench_run
    from training.bench_methods import chosen
    from training.bench_tables import print_bench
    from training.figures import bench_figure
    from training.job import embeddings
    from training.tracking import log_bench
    from training.verdict import as_json as as_content

    state = State.from_environment()
    if plot and plot.suffix != ".png":
        raise InputError(f"--plot {plot} should end in .png.")
    wanted = chosen([name.strip() for name in methods.split(",")] if methods is not None else None, transformer)
    found = bench_run.run(folder, embeddings(state), seeds, wanted, bench_run.Kept(state.home / "bench", fresh),
                          tell=lambda line: err.print(line, highlight=False, soft_wrap=True))
    content = as_content(found)
    drawn = bench_figure(content["tasks"], content["mean"], content["bounds"])
    if plot:
        drawn.savefig(plot, dpi=150)
    run_id = log_bench(state, content, drawn, seeds)
    if as_json:
        print_json(content)
        return
    print_bench(found)
    out.print(f"logged as run {run_id}", highlight=False, soft_wrap=True)


@app.command()
def explain(
    what: Annotated[Path, typer.Argument(
        metavar="TASK_DIR_OR_FILE", help="A task's folder, or a file of rows: .jsonl, .csv, .parquet.")],
    model: ModelUri,
    row: Annotated[str, typer.Option("--id", help="Whose answer: the row's id.")],
    similar: Annotated[int, typer.Option(min=0, help="Show at most this many rows with similar texts.")] = 5,
    texts: Annotated[bool, typer.Option("--texts", help="Show how their texts begin, too.")] = False,
    as_json: AsJson = False,
) -> None:
    """Tell why an answer has its risk.

    With it go rows with similar texts, of the same task or file, and their risks.
    """
    from registry.versions import Versions
    from training.explanation import explain_row
    from training.job import embeddings
    from training.model import load
    from training.rows import read_rows
    from training.scoring import fitted, rows_of
    from training.table import read_table
    from training.task import read_task

    state = State.from_environment()
    versions = Versions(state)
    version = versions.get(model)
    riskmodel = load(versions.folder(version))
    table = (fitted(riskmodel, read_table(read_task(what))) if what.is_dir()
             else rows_of(riskmodel, read_rows(what), what.name))
    found = explain_row(riskmodel, embeddings(state), table, row, similar, texts)
    if as_json:
        print_json({"model": version.model, "version": version.version, **vars(found)})
        return
    _print_explanation(found)


def _measure(registry: Any, version: Any) -> Any:
    """Bundle a version, serve it and measure that: what the registry's gates of latency and memory judge by."""
    import tempfile
    from dataclasses import replace

    from registry.bundling import bundle as run_bundling
    from serving.probe import measure

    with tempfile.TemporaryDirectory(prefix="polarscore-measure-") as place:  # no bundle of it stays
        own = replace(registry, state=replace(registry.state, home=Path(place)))
        return measure(run_bundling(own, version, allow_candidate=True), own.state)


def _pareto_weights(state: State, given: str) -> tuple[Mapping[str, float] | str, str]:
    """The Pareto weights of a file or of a registered version, by source, or the name of a rule; and their origin."""
    if given.startswith("models:"):
        from registry.versions import Versions

        versions = Versions(state)
        version = versions.get(given)
        return versions.spec(version).pareto_weights, version.uri
    if given.endswith(".json"):
        from training.weighting import read_weights

        return read_weights(Path(given)), "given"
    return given, given


def _audit_plan(
    draw: int | None, target: Path | None, checked: Path | None, alpha: float | None, delta: float | None
) -> Any:
    """What --audit and its companions ask for; one that would change nothing is refused."""
    from training.audit_plan import ALPHA, DELTA, Plan

    if target is not None and draw is None:
        raise InputError("--audit-file names the file of --audit N. Give both.")
    if alpha is not None and draw is None and checked is None:
        raise InputError("--alpha is for --audit or --audited. Give one of them.")
    if delta is not None and checked is None:
        raise InputError("--delta is for --audited FILE. Give both.")
    return Plan(draw, target, checked, ALPHA if alpha is None else alpha, DELTA if delta is None else delta)


def _audit_as_json(trained: Any, to_check: Path) -> dict[str, Any]:
    if trained.to_check:
        return {"audit": {"file": to_check, "rows": trained.to_check}}
    if trained.guarantee:
        return {"audit": {"labels": trained.recalibration.labels, "recalibration": trained.recalibration.summary(),
                          "guarantee": trained.guarantee}}
    return {}


@contextmanager
def _interrupts_kept() -> Iterator[None]:
    """Python loses a Ctrl-C that falls into a finaliser, of which our libraries have many: here it comes again."""
    usual = sys.unraisablehook

    def hook(unraisable: Any) -> None:
        if unraisable.exc_type is KeyboardInterrupt:
            threading.Timer(0.05, _thread.interrupt_main).start()
        else:
            usual(unraisable)

    sys.unraisablehook = hook
    try:
        yield
    finally:
        sys.unraisablehook = usual


def _progress() -> Progress:
    return Progress(TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
                    console=err, disable=not err.is_terminal)


def _print_sources(sources: Any) -> None:
    table = columns("source", "family", "coverage", "overlaps", "conflicts", "like the LLM", "believed right",
                    "counts as")
    for row in sources.head(SOURCES_SHOWN).itertuples():
        table.add_row(row.source[:60], row.family, f"{row.coverage:.1%}", f"{row.overlaps:.1%}",
                     f"{row.conflicts:.1%}", "" if math.isnan(row.agreement) else f"{row.agreement:.1%}",
                     f"{row.accuracy:.1%}", "" if math.isnan(row.counts_as) else f"{row.counts_as:.2f}")
    out.print(table)
    if len(sources) > SOURCES_SHOWN:
        say(f"and {len(sources) - SOURCES_SHOWN} more sources; all of them are in MLflow, sources.json")


def _print_explanation(found: Any) -> None:
    from training.explanation import in_words

    say(in_words(found) + "\n")
    table = columns("source", "family", "votes", "agrees", "accuracy", "counts as", "log-odds", "why")
    table.add_row("the text", "", found.harmonizer_answer, _agrees(found.harmonizer_answer, found.answer), "", "",
                  f"{found.text_log_odds:+.2f}", "what the harmonizer says")
    for said in found.votes:
        table.add_row(said.source[:60], said.family, said.vote, _agrees(said.vote, found.answer),
                      f"{said.accuracy:.2f}", f"{said.counts_as:.2f}", f"{said.log_odds:+.2f}", said.evidence)
    table.add_row("together", "", "", "", "", "", f"{found.log_odds:+.2f}", "")
    out.print(table)
    if not found.similar:
        return
    table = columns("similar row", "similarity", "answer", "risk")
    if any(other.text for other in found.similar):
        table.add_column("its text begins")
    for other in found.similar:
        table.add_row(other.id, f"{other.similarity:.2f}", other.answer or "", figure(other.risk), other.text)
    out.print(table)


def _agrees(vote: str, answer: str | None) -> str:
    return "" if answer is None else "yes" if vote == answer else "no"


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
