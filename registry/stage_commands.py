"""`polarscore registry promote / gate / rollback / threshold / history / at`: stages change, and what was where."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from registry.naming import (
    AnyModel,
    GatesOption,
    Promoted,
    SplitOption,
    TaskOption,
    WhichOption,
    WhoOption,
    WhyOption,
    meant,
    once,
    only,
    user,
)
from registry.stages import CANDIDATE, PRODUCTION, SINGLE, THRESHOLD, check_stage, check_way, stages_of
from registry.threshold import words
from training.errors import CheckFailed, InputError, PolarscoreError
from training.printing import AsJson, columns, err, moment, out, print_json, say
from training.state import State

if TYPE_CHECKING:
    from registry.chain import Entry
    from registry.gates import Gate, Measured
    from registry.opening import Registry
    from registry.promotion import Change, Judge
    from registry.versions import Version

Measure = Callable[["Registry", "Version"], "Measured"]
"""Bundles a version, serves it and measures that. It lies above this room, so the command line hands it in."""

MeasureOption = Annotated[bool, typer.Option(
    "--measure/--no-measure", help="To production: bundle and serve the version for its latency and memory.")]
ENTRIES = 100


def promote(
    context: typer.Context,
    to: Annotated[str, typer.Option("--to", help="staging, production, archived; or candidate, of an archived one.")],
    which: Promoted = None,
    model: WhichOption = None,
    why: WhyOption = "",
    who: WhoOption = None,
    task: TaskOption = None,
    split: SplitOption = None,
    gates: GatesOption = None,
    measure: MeasureOption = True,
    as_json: AsJson = False,
) -> None:
    """Move a version to another stage.

    To staging and production it must pass the gates: polarscore registry gate shows them. The change is signed and
    logged, with a bundle of evidence.
    """
    from registry.opening import Registry
    from registry.promotion import promote as run_promotion

    check_stage(to)
    if to not in SINGLE and (task or split or gates):
        raise InputError(f"no gate stands before '{to}'. --task, --split and --gates are for {' and '.join(SINGLE)}.")
    with Registry.open(State.from_environment()) as registry:
        version = meant(registry.versions, once(which, model), to)
        judge = _judge(registry, to, task, split, gates, context.obj if measure else None)
        change = run_promotion(registry, version, to, judge, who or user(), why, _tell)
        _offer(registry, change)
    if as_json:
        print_json(_change_as_json(change))
        return
    _print_change(change)


def gate(
    context: typer.Context,
    which: Promoted = None,
    model: WhichOption = None,
    to: Annotated[str, typer.Option("--to", help="staging or production.")] = PRODUCTION,
    task: TaskOption = None,
    split: SplitOption = None,
    gates: GatesOption = None,
    measure: MeasureOption = True,
    as_json: AsJson = False,
) -> None:
    """Show what the gates say of a promotion, without promoting."""
    from registry.integrity import check_intact
    from registry.opening import Registry
    from registry.recovery import check_whole

    check_stage(to)
    if to not in SINGLE:
        raise InputError(f"no gate stands before '{to}'. Expected one of {', '.join(SINGLE)}.")
    with Registry.open(State.from_environment()) as registry:
        version = meant(registry.versions, once(which, model), to)
        stage = stages_of(registry.history.moves(version.model)).get(version.version, CANDIDATE)
        check_way(version.model, version.version, stage, to)
        check_whole(registry, version.model, registry.history.last(version.model))
        check_intact(registry, version)  # nothing of a version is run that is not as it was registered
        judge = _judge(registry, to, task, split, gates, context.obj if measure else None)
        decision = judge(replace(version, stage=stage), registry.versions.holder(version.model, to)).decision
    if as_json:
        print_json({"model": version.model, "version": version.version, "to": to, "allowed": decision.allowed,
                    "gates": [asdict(gate) for gate in decision.gates]})
    else:
        _print_gates(decision.gates)
        if decision.allowed:
            say(f"{version.uri} may go to {to}")
    if not decision.allowed:
        raise CheckFailed(f"version {version.version} of '{version.model}' may not go to {to}. {decision.refusal}.")


def rollback(model: AnyModel = None, why: WhyOption = "", who: WhoOption = None, as_json: AsJson = False) -> None:
    """Put back into production what was there before.

    With its thresholds, Pareto weights and calibration, which are part of a version. Once more goes back one more.
    """
    from registry.opening import Registry
    from registry.promotion import rollback as run_rollback

    with Registry.open(State.from_environment()) as registry:
        change = run_rollback(registry, only(registry.versions, model), who or user(), why, _tell)
        _offer(registry, change)
    if as_json:
        print_json(_change_as_json(change))
        return
    _print_change(change)


def threshold(
    model: AnyModel = None,
    lower: Annotated[float | None, typer.Option(
        "--lower", min=0, max=1, help="Accept at most answers of this risk from now on.")] = None,
    lift: Annotated[bool, typer.Option("--lift", help="Have the version's own threshold hold again.")] = False,
    why: WhyOption = "",
    who: WhoOption = None,
    as_json: AsJson = False,
) -> None:
    """Lower the threshold in production, or lift that again.

    Signed and logged. A service that follows the registry takes it over within seconds.
    """
    from registry.lowering import lift as run_lift
    from registry.lowering import lower as run_lower
    from registry.opening import Registry

    if (lower is None) == (not lift):
        raise InputError("expected either --lower RISK or --lift.")
    with Registry.open(State.from_environment()) as registry:
        name = only(registry.versions, model)
        held = registry.history.production(name)
        if held is None:
            raise InputError(f"no version of '{name}' is in production.")
        version = registry.versions.number(name, held.version)
        entry = (run_lift(registry, version, who or user(), why, _tell) if lower is None
                 else run_lower(registry, version, lower, who or user(), why, _tell))
    if as_json:
        print_json(_entry_as_json(entry))
        return
    say(f"version {entry.version} of '{entry.model}': {words(entry)}")


def history(
    model: AnyModel = None,
    limit: Annotated[int, typer.Option("--limit", min=1, help="Show the newest entries, at most this many.")] = ENTRIES,
    as_json: AsJson = False,
) -> None:
    """Every change of stage or threshold, the oldest first.

    Who, when, from, to, and why; with --json also each entry's evidence, hash and signature.
    """
    from registry.history import History
    from registry.versions import Versions

    state = State.from_environment()
    name = only(Versions(state), model)
    with History(state.database_url) as log:
        entries, earlier = log.entries(name, limit), log.count(name) - limit
    if as_json:
        print_json([_entry_as_json(entry) for entry in entries])
    elif not entries:
        say(f"no version of '{name}' has changed its stage yet")
    else:
        table = columns("entry", "at (UTC)", "version", "what happened", "gates", "who", "why")
        for entry in entries:
            table.add_row(str(entry.seq), moment(entry.at), str(entry.version), _way(entry), _tally(entry.gates),
                          entry.who, entry.why)
        out.print(table)
    if earlier > 0:
        _tell(f"and {earlier:,} earlier entries: --limit {earlier + limit} shows all")


def at(
    when: Annotated[str, typer.Argument(
        metavar="WHEN", help="A moment such as 2026-11-20T12:00, in UTC if it names no zone.")],
    model: AnyModel = None,
    as_json: AsJson = False,
) -> None:
    """Which version was in production at a moment."""
    asked = _moment(when)
    from registry.opening import Registry
    from registry.promotion import at as version_at

    with Registry.open(State.from_environment()) as registry:
        name = only(registry.versions, model)
        version = version_at(registry, name, asked)
    if as_json:
        print_json({"model": name, "at": asked, "version": version})
        return
    say("none" if version is None else f"models:/{name}/{version}")


def _judge(
    registry: "Registry", to: str, task: Path | None, split: str | None, gates: Path | None, measure: Measure | None
) -> "Judge":
    """The judge of a promotion to a stage, by the gates' file."""
    from registry.gate_config import gates_file, read_gates
    from registry.judging import Judged, judge

    config = read_gates(gates or gates_file(registry.state))
    costly = {"latency", "memory"} & set(config.production.gates.standing) if to == PRODUCTION else set()

    def decide(candidate: "Version", champion: "Version | None") -> Judged:
        # side by side: by the time that the bundle answers, the version's own trial, which takes a core, has ended
        with err.status("judging; bundling and serving it" if costly else "judging"), ThreadPoolExecutor(1) as beside:
            measured = beside.submit(measure, registry, candidate).result if measure and costly else None
            return judge(registry.state, registry.versions, candidate, champion, to, config, task, split, measured)

    return decide


def _offer(registry: "Registry", change: "Change") -> None:
    """Have a service on this machine that follows the registry find what is now in production."""
    from registry.bundling import offer

    if change.to_stage != PRODUCTION:
        return
    try:
        offer(registry, registry.versions.number(change.model, change.version))
    except (PolarscoreError, OSError) as error:  # the change is done; it can be bundled later
        _tell(f"warning: a service that follows cannot have version {change.version} yet: {str(error).rstrip('.')}")


def _moment(when: str) -> datetime:
    """What a person calls a moment, which has come.

    Raises:
        InputError: it is none, or lies in the future.
    """
    try:
        asked = datetime.fromisoformat(when)
        asked = asked.replace(tzinfo=UTC) if asked.tzinfo is None else asked.astimezone(UTC)
    except (ValueError, OverflowError):
        raise InputError(f"'{when}' is no moment. Expected a form such as 2026-11-20T12:00.") from None
    if asked > datetime.now(UTC):
        raise InputError(f"{moment(asked)} UTC has not come yet. What is in production now: polarscore registry list")
    return asked


def _tell(line: str) -> None:
    err.print(line, highlight=False, soft_wrap=True)


def _way(entry: "Entry") -> str:
    if entry.action == "seal":
        return "vouched for the entries before"
    if entry.action == "repair":
        return "put aliases back"
    if entry.action == THRESHOLD:
        return words(entry)
    place = "" if entry.replaced is None else f", in place of {entry.replaced}"
    return f"{'rollback, ' if entry.action == 'rollback' else ''}{entry.from_stage} → {entry.to_stage}{place}"


def _tally(gates: list[dict[str, Any]]) -> str:
    states = [gate.get("state") for gate in gates]
    return ", ".join(f"{states.count(state)} {word}" for state, word in
                     (("pass", "passed"), ("fail", "failed"), ("unknown", "unknown")) if state in states)


def _entry_as_json(entry: "Entry") -> dict[str, Any]:
    said = asdict(entry)
    return {"from" if key == "from_stage" else "to" if key == "to_stage" else key: said[key] for key in said}


def _change_as_json(change: "Change") -> dict[str, Any]:
    return {"model": change.model, "version": change.version, "from": change.from_stage, "to": change.to_stage,
            "replaced": change.replaced, "gates": [asdict(gate) for gate in change.gates], "evidence": change.evidence}


def _print_change(change: "Change") -> None:
    place = f", in place of version {change.replaced}" if change.replaced else ""
    say(f"version {change.version} of '{change.model}': {change.from_stage} → {change.to_stage}{place}")
    if change.evidence:
        say(f"evidence: {change.evidence}; to read it: polarscore registry evidence "
            f"models:/{change.model}/{change.version}")
    for found in change.gates:
        if found.state == "unknown":
            _tell(f"not judged, {found.name}: {found.reason}")


def _print_gates(gates: "tuple[Gate, ...]") -> None:
    table = columns("gate", "state", "why")
    for found in gates:
        table.add_row(found.name, found.state, found.reason)
    out.print(table)
