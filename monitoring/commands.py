"""`polarscore monitor`: reports, alarms and samples, from the command line; and `polarscore forget`."""

from pathlib import Path
from typing import Annotated

import typer

from training.errors import CheckFailed, InputError
from training.printing import OPTIONS, AsJson, columns, err, figure, list_commands, moment, out, print_json, say
from training.state import State

app = typer.Typer(help="Do the risks still tell the truth?", callback=list_commands, **OPTIONS)

Watched = Annotated[str | None, typer.Option(
    "--model", help="models:/NAME/VERSION, models:/NAME@ALIAS or a model's name; default: the version in production, "
                    "else the newest that has scored.")]


@app.command("report")
def _report(
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
        print_json(written)
        return
    words = {
        "version": f"models:/{written['model']}/{written['version']}",
        "scores": f"{written['scores']}, of which {written['labelled']} with feedback",
        "report": written["html"], "as JSON": written["json"], "MLflow run": written["run_id"],
        "over time": "polarscore monitor ui",
    }
    for key, value in words.items():
        say(f"{key:>10}  {value}")


@app.command("check")
def _check(
    model: Watched = None,
    strict: Annotated[bool, typer.Option("--strict", help="Count what cannot be told as a failure.")] = False,
    as_json: AsJson = False,
) -> None:
    """Print what is off; exit with 1 if something is."""
    from monitoring.alarms import as_json as alarms_as_json
    from monitoring.watch import check

    alarms = check(State.from_environment(), model)
    found = alarms_as_json(alarms, strict)
    if as_json:
        print_json(found)
    else:
        table = columns("alarm", "state", "why")
        for alarm in alarms:
            since = "" if alarm.since is None else f"since {moment(alarm.since)} UTC: "
            table.add_row(alarm.name, alarm.state, since + alarm.reason)
        out.print(table)
    if not found["ok"]:
        states = ("alarm", "unknown") if strict else ("alarm",)
        off = {state: [alarm.name for alarm in alarms if alarm.state == state] for state in states}
        raise CheckFailed("; ".join(f"{state}: {', '.join(names)}" for state, names in off.items() if names) + ".")


@app.command("sample")
def _sample(
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
        print_json(chosen)
        return
    if not chosen:
        say("nothing is left to check")
        return
    table = columns("score_id", "id", "risk", "probability")
    for row in chosen:
        table.add_row(row["score_id"], row["id"], figure(row["risk"]), figure(row["probability"]))
    out.print(table)


@app.command("ui")
def _ui(
    port: Annotated[int, typer.Option(min=1, max=65535, help="On this machine.")] = 8000,
) -> None:
    """Show the reports, and the measures over time, in a browser.

    Evidently's own pages, on this machine alone, until interrupted.
    """
    from monitoring.watch import serve_reports

    serve_reports(State.from_environment(), port, lambda: say(f"http://127.0.0.1:{port}"))


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
