"""`polarscore monitor`: reports, alarms and what follows from them, from the command line; and `polarscore forget`."""

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from monitoring.check_commands import Config, Since, Watched, check, recalibrate, warn
from training.errors import InputError
from training.printing import OPTIONS, AsJson, columns, err, figure, list_commands, moment, out, print_json, say
from training.state import State

if TYPE_CHECKING:
    from monitoring.findings import Kind
    from monitoring.overview import By

app = typer.Typer(help="Do the risks still tell the truth?", callback=list_commands, **OPTIONS)
app.command()(check)
app.command()(recalibrate)


@app.command("report")
def _report(
    model: Watched = None,
    kind: Annotated[str, typer.Option(
        "--kind", help="daily: a day beside training and the week before; release: the version since its promotion; "
                       "comparison: beside another version.")] = "release",
    day: Annotated[datetime | None, typer.Option(
        "--day", formats=["%Y-%m-%d"], metavar="YYYY-MM-DD",
        help="Of a daily report, in UTC; default: the last day with scores.")] = None,
    against: Annotated[str | None, typer.Option(
        "--against", metavar="VERSION", help="What to compare with: a number, or models:/….")] = None,
    slices: Annotated[list[str] | None, typer.Option(
        "--slice", metavar="COLUMN", help="Also show the measures by this column; may be given again.")] = None,
    folder: Annotated[Path | None, typer.Option("--out", help="Where it goes; default: in the state folder.")] = None,
    config: Config = None,
    as_json: AsJson = False,
) -> None:
    """Write an Evidently report on risks and inputs.

    Where feedback exists, it sets the risks against the observed errors. It holds no text and no id.
    """
    from monitoring.settings import read_settings
    from monitoring.watch import report

    with err.status("writing the report"):
        written = report(State.from_environment(), model, folder, cast("Kind", kind), day.date() if day else None,
                         against, slices or (), read_settings(config))
    if written["not_kept"]:
        warn(f"the pages of polarscore monitor ui lack the report: {written['not_kept']}")
    if as_json:
        print_json({key: value for key, value in written.items() if key != "not_kept"})
        return
    words = {
        "version": f"models:/{written['model']}/{written['version']}",
        "scores": f"{written['scores']}, of which {written['labelled']} with feedback",
        "report": written["html"], "as JSON": written["json"], "MLflow run": written["run_id"],
        "over time": "polarscore monitor ui",
    }
    for key, value in words.items():
        say(f"{key:>10}  {value}")


@app.command("sample")
def _sample(
    budget: Annotated[int, typer.Option(min=1, help="How many answers people can check.")],
    model: Watched = None,
    since: Since = None,
    seed: Annotated[int, typer.Option(min=0, help="The same seed draws the same answers of the same scores.")] = 0,
    reviewer: Annotated[str | None, typer.Option("--reviewer", help="Who checks them, for the file.")] = None,
    file: Annotated[Path | None, typer.Option(
        "--out", metavar="FILE", help="Also write them to a .csv with a column to fill in, which polarscore feedback "
                                      "takes back.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show them, and keep nothing of the draw.")] = False,
    as_json: AsJson = False,
) -> None:
    """Choose which answers people should check next.

    Each is drawn with a known probability, which is kept, so that what they find can be weighted to hold for all
    answers.
    """
    from monitoring.checklist import sample

    chosen = sample(State.from_environment(), model, budget, seed, since and since.replace(tzinfo=UTC), reviewer, file,
                    dry_run)
    if as_json:
        print_json(chosen)
        return
    if not chosen:
        say("nothing is left to check")
        return
    table = columns("score_id", "id", "risk", "probability")
    for row in chosen:
        table.add_row(row["score_id"], row["id"], figure(row["risk"]), figure(row["probability"]))
    out.print(table)
    if file:
        say(f"to fill in: {file}; then run: polarscore feedback {file}")


@app.command("figures")
def _figures(
    model: Watched = None,
    by: Annotated[str, typer.Option("--by", help="version; or week or day, of each version.")] = "version",
    since: Since = None,
    as_json: AsJson = False,
) -> None:
    """Show the figures of each version.

    Over all answers served, by the labels of known choice, with intervals of 95 %; and without any label.
    """
    from monitoring.overview import figures

    if by not in ("version", "week", "day"):
        raise InputError(f"--by should be version, week or day. Found '{by[:20]}'.")
    rows = figures(State.from_environment(), model, cast("By", by), since and since.replace(tzinfo=UTC))
    if as_json:
        print_json(rows)
        return
    table = columns(*(["from"] if by != "version" else []), "version", "in production since", "scores", "labels",
                    "error rate", "mean risk", "gap", "accepted", "their errors", "without labels")
    for row in rows:
        table.add_row(
            *([f"{row['start']:%Y-%m-%d}"] if by != "version" else []), str(row["version"]),
            moment(row["in_production_since"]) if row["in_production_since"] else "", f"{row['scores']:,}",
            str(row["labels"]), _between(row, "error_rate", "low", "high"), figure(row["mean_risk"]),
            _between(row, "gap", "gap_low", "gap_high"), figure(row["accepted"]),
            _between(row, "accepted_error", "accepted_low", "accepted_high"), figure(row["unlabelled"]))
    out.print(table)
    for version, told in {row["version"]: row["honesty"] for row in rows}.items():
        say(f"version {version}: {told}")


def _between(row: dict[str, Any], value: str, low: str, high: str) -> str:
    return "" if row[value] is None else f"{row[value]:.3f} ({row[low]:.3f}–{row[high]:.3f})"


@app.command("ui")
def _ui(
    port: Annotated[int, typer.Option(min=1, max=65535, help="On this machine.")] = 8000,
) -> None:
    """Show the reports, and the measures over time, in a browser.

    Evidently's own pages, on this machine alone, until interrupted.
    """
    from monitoring.watch import serve_reports

    serve_reports(State.from_environment(), port, lambda: say(f"http://127.0.0.1:{port}"),
                  lambda line: err.print(line, highlight=False, soft_wrap=True))


def forget(
    ids: Annotated[list[str] | None, typer.Argument(
        metavar="[ID]…", help="Ids of items, or score_ids.", show_default=False)] = None,
    file: Annotated[Path | None, typer.Option(
        "--file", metavar="FILE", help="Also those in its column id or score_id: .jsonl, .csv, .parquet.")] = None,
    older_than: Annotated[float | None, typer.Option(
        "--older-than", metavar="DAYS", min=0, help="Also every score made more than so many days ago.")] = None,
    as_json: AsJson = False,
) -> None:
    """Erase scores for good, with labels and texts.

    From the prediction store, the journal of a service and the embedding cache of this state folder.
    """
    from monitoring.forgetting import Places, journal_of, read_ids
    from monitoring.forgetting import forget as run_forget
    from monitoring.store import Store

    names = [*(ids or []), *(read_ids(file) if file else [])]
    if not names and older_than is None:
        raise InputError("name what to forget: ids, --file FILE or --older-than DAYS.")
    if older_than is not None and not older_than < 36_500:
        raise InputError("--older-than should be a number of days below 36500.")
    state = State.from_environment().prepare()
    with Store(state.database_url) as store, err.status("erasing"):
        done = run_forget(names, Places(store, journal_of(state), state.embeddings), older_than)
    if as_json:
        print_json(done.as_json())
        return
    say(f"erased {done.scores} scores, {done.labels} labels and {done.vectors} vectors of texts")
    if done.all_vectors:
        say("of some scores neither text nor hash was kept, so it cannot be told which vectors were theirs: the whole "
            "embedding cache is erased, and texts are encoded again when they come")
