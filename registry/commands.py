"""`polarscore registry`: the stages of registered versions, from the command line."""

import getpass
import json
import socket
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from training.errors import CheckFailed, InputError
from training.printing import (
    COLUMNS,
    OPTIONS,
    AsJson,
    columns,
    err,
    figure,
    list_commands,
    moment,
    out,
    print_json,
    print_measures,
    say,
)
from training.state import State

app = typer.Typer(help="Stages of the registered versions.", callback=list_commands, **OPTIONS)

WEIGHTS_SHOWN, SOURCES_SHOWN, COMPARED = 8, 20, 30

AnyModel = Annotated[str | None, typer.Argument(
    metavar="MODEL", help="A model's name; may be left out where there is only one.")]
VERSION = "models:/NAME/VERSION or models:/NAME@ALIAS."
Which = Annotated[str | None, typer.Argument(
    metavar="VERSION", help="models:/NAME/VERSION, models:/NAME@ALIAS or a model's name; default: the candidate.")]
Promoted = Annotated[str | None, typer.Argument(
    metavar="VERSION", help="models:/NAME/VERSION, models:/NAME@ALIAS or a model's name; default: the candidate, "
                              "and to production the version in staging, if one is there.")]
WhichOption = Annotated[str | None, typer.Option("--model", help="The same, as an option.")]
TaskOption = Annotated[Path | None, typer.Option("--task", help="The task to judge by; default: the training task.")]
SplitOption = Annotated[str, typer.Option("--split", help="Its split: train, valid or test.")]


@app.command("list")
def _list(model: AnyModel = None, as_json: AsJson = False) -> None:
    """All versions, the newest first, measured on the valid split."""
    versions = _versions()
    listed = versions.list(_only(versions, model) if model else None)
    found = [{"model": version.model, "version": version.version, "stage": version.stage,
              "measures": version.measures("valid")} for version in listed]
    if as_json:
        print_json(found)
        return
    if not found:
        say("no version is registered yet. See: polarscore train --help")
        return
    keys = [key for key in COLUMNS if key not in ("error_rate", "mean_risk")]
    table = columns("model", "version", "stage", *(COLUMNS[key] for key in keys))
    for row in found:
        measures = row["measures"] or {}
        table.add_row(row["model"], str(row["version"]), row["stage"], *(figure(measures.get(key)) for key in keys))
    out.print(table)


@app.command("show")
def _show(which: Which = None, model: WhichOption = None, as_json: AsJson = False) -> None:
    """One version: stage, measures, sources and their worth, audit."""
    from registry.worth import worth_of
    from training.tracking import WARNINGS_TAG

    versions = _versions()
    version = _version(versions, _one(which, model))
    spec = versions.spec(version)
    warnings = json.loads(version.tags.get(WARNINGS_TAG, "[]"))
    shown = {
        "model": version.model, "version": version.version, "stage": version.stage, "aliases": version.aliases,
        "run_id": version.run_id, "created": version.created, "classes": spec.classes,
        "harmonizer": spec.harmonizer, "scalariser": spec.scalariser, "encoder": asdict(spec.encoder),
        "data_digest": spec.data_digest, "sources": [source.name for source in spec.sources],
        "pareto_weights": spec.pareto_weights,
        "measures": {split: version.measures(split) for split in ("train", "valid", "test")},
        "recalibration": _recalibration(spec), "guarantee": spec.guarantee, "warnings": warnings,
        "worth": worth_of(versions, version),
    }
    if as_json:
        print_json(shown)
        return
    weights = sorted(spec.pareto_weights.items(), key=lambda pair: -pair[1])
    more = f", and {len(weights) - WEIGHTS_SHOWN} more" if len(weights) > WEIGHTS_SHOWN else ""
    words = {
        "version": version.uri, "stage": version.stage, "aliases": ", ".join(version.aliases) or "none",
        "MLflow run": version.run_id, "created": f"{moment(version.created)} UTC", "classes": ", ".join(spec.classes),
        "harmonizer": spec.harmonizer, "scalariser": spec.scalariser,
        "encoder": f"{spec.encoder.name} {spec.encoder.version}", "data": f"SHA-256 {spec.data_digest}",
        "Pareto weights": ", ".join(f"{name} {value:.3g}" for name, value in weights[:WEIGHTS_SHOWN]) + more,
        "audit": f"{spec.recalibration.words}; {spec.guarantee.words}" if spec.guarantee else "none",
    }
    for key, value in words.items():
        say(f"{key:>15}  {value}")
    for warning in warnings:
        say(f"{'warning':>15}  {warning}")
    print_measures(shown["measures"])
    _print_worth(shown["worth"])


@app.command("promote")
def _promote(
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
    version = _version(versions, _one(which, model), to)
    change = promote(state, versions, version, to, _judge(state, versions, to, task, split), who or _user(), why)
    if as_json:
        print_json(_change_as_json(change))
        return
    _print_change(change)


@app.command("gate")
def _gate(
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
    version = _version(versions, _one(which, model), to)
    decision = _judge(state, versions, to, task, split)(version, versions.holder(version.model, to))
    if as_json:
        print_json({"model": version.model, "version": version.version, "to": to, "allowed": decision.allowed,
                     "gates": [asdict(gate) for gate in decision.gates]})
    elif not decision.gates:
        say(f"no gate stands before {to}: any version may go there")
    else:
        table = columns("gate", "state", "why")
        for gate in decision.gates:
            table.add_row(gate.name, gate.state, gate.reason)
        out.print(table)
        if decision.allowed:
            say(f"{version.uri} may go to {to}")
    if not decision.allowed:
        raise CheckFailed(f"version {version.version} of '{version.model}' may not go to {to}. {decision.refusal}.")


@app.command("rollback")
def _rollback(
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
        print_json(_change_as_json(change))
        return
    _print_change(change)


@app.command("history")
def _history(model: AnyModel = None, as_json: AsJson = False) -> None:
    """Every change of stage: who, when, from, to, why."""
    from registry.history import History

    name = _only(_versions(), model)
    entries = History(State.from_environment().database_url).entries(name)
    if as_json:
        print_json([{"at": e.at, "who": e.who, "action": e.action, "model": e.model, "version": e.version,
                      "from": e.from_stage, "to": e.to_stage, "replaced": e.replaced, "why": e.why, "gates": e.gates}
                     for e in entries])
        return
    if not entries:
        say(f"no version of '{name}' has changed its stage yet")
        return
    table = columns("at (UTC)", "version", "change", "who", "why")
    for e in entries:
        place = "" if e.replaced is None else f", in place of {e.replaced}"
        undone = "rollback, " if e.action == "rollback" else ""
        table.add_row(moment(e.at), str(e.version), f"{undone}{e.from_stage} → {e.to_stage}{place}", e.who, e.why)
    out.print(table)


@app.command("at")
def _at(
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
        print_json({"model": name, "at": moment, "version": version})
        return
    say("none" if version is None else f"models:/{name}/{version}")


@app.command("verify")
def _verify(model: AnyModel = None, as_json: AsJson = False) -> None:
    """Do MLflow's aliases agree with the log?"""
    from registry.promotion import disagreements

    versions = _versions()
    name = _only(versions, model)
    found = disagreements(State.from_environment(), versions, name)
    if as_json:
        print_json({"model": name, "ok": not found, "disagreements": found})
    if found:
        raise CheckFailed("; ".join(found) + ".")
    if not as_json:
        say(f"aliases and log of '{name}' agree")


@app.command("diff")
def _diff(
    one: Annotated[str, typer.Argument(metavar="ONE", help=VERSION)],
    other: Annotated[str, typer.Argument(metavar="OTHER", help=VERSION)],
    as_json: AsJson = False,
) -> None:
    """What differs between two versions: measures, weights, data."""
    from registry.comparison import apart, differences

    versions = _versions()
    found = differences(versions, versions.get(one), versions.get(other))
    if as_json:
        print_json(found)
        return
    if not found:
        say("no difference")
        return
    facts, by_source = apart(found)
    if facts:
        table = columns("what", one, other)
        for what, (left, right) in facts.items():
            table.add_row(what, figure(left) or "-", figure(right) or "-")
        out.print(table)
    for what, changed in by_source.items():
        table = columns(what, one, other, "change")
        for source, (left, right) in list(changed.items())[:COMPARED]:
            change = "" if None in (left, right) else f"{right - left:+.4f}"
            table.add_row(source[:60], *("-" if value is None else f"{value:.4f}" for value in (left, right)), change)
        out.print(table)
        if len(changed) > COMPARED:
            say(f"and {len(changed) - COMPARED} more, which changed less; --json has all of them")


def _recalibration(spec: Any) -> dict[str, Any] | None:
    summary = spec.recalibration.summary()
    return {"labels": spec.recalibration.labels, **summary} if summary else None


def _print_worth(sources: Sequence[Any]) -> None:
    table = columns("source", "family", "believed right", "coverage", "counts as")
    for row in sources[:SOURCES_SHOWN]:
        table.add_row(row.source[:60], row.family or "", f"{row.accuracy:.1%}",
                      "" if row.coverage is None else f"{row.coverage:.1%}",
                      "" if row.counts_as is None else f"{row.counts_as:.2f}")
    out.print(table)
    if len(sources) > SOURCES_SHOWN:
        say(f"and {len(sources) - SOURCES_SHOWN} more sources, believed less; --json has all of them")


def _versions() -> Any:
    from registry.versions import Versions

    return Versions(State.from_environment())


def _only(versions: Any, model: str | None) -> str:
    """A model's name: the given one, that of a version's URI, or the only one there is."""
    if model is not None:
        from registry.versions import model_name

        versions.list(model_name(model))
        return model_name(model)
    names = versions.models()
    if len(names) != 1:
        raise InputError(f"name a model. Registered: {', '.join(names) or 'none; train one first'}.")
    return str(names[0])


def _one(which: str | None, model: str | None) -> str | None:
    if which and model:
        raise InputError(f"name the version once. Found '{which}' and --model '{model}'.")
    return which or model


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


def _change_as_json(change: Any) -> dict[str, Any]:
    return {"model": change.model, "version": change.version, "from": change.from_stage, "to": change.to_stage,
            "replaced": change.replaced, "gates": [asdict(gate) for gate in change.gates]}


def _print_change(change: Any) -> None:
    place = f", in place of version {change.replaced}" if change.replaced else ""
    say(f"version {change.version} of '{change.model}': {change.from_stage} → {change.to_stage}{place}")
    for gate in change.gates:
        if gate.state == "unknown":
            err.print(f"not judged, {gate.name}: {gate.reason}", highlight=False, soft_wrap=True)
