"""`polarscore registry`: the registered versions, from the command line. Here those commands that look at them."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from registry.care_commands import evidence, key, migrate, verify
from registry.naming import AnyModels, Which, WhichOption, meant, once, only
from registry.stage_commands import at, gate, history, promote, rollback, threshold
from registry.webhook_commands import app as webhook
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

if TYPE_CHECKING:
    from registry.versions import Version

app = typer.Typer(help="Registered versions: stages, gates, evidence.", callback=list_commands, **OPTIONS)

WEIGHTS_SHOWN, SOURCES_SHOWN, COMPARED, LISTED = 8, 20, 30, 100

VERSION = "models:/NAME/VERSION or models:/NAME@ALIAS."


@app.command("list")
def _list(
    model: AnyModels = None,
    limit: Annotated[int, typer.Option("--limit", min=1, help="Show the newest, at most this many, and those that an "
                                                              "alias points at.")] = LISTED,
    as_json: AsJson = False,
) -> None:
    """All versions, the newest first, measured on the valid split."""
    from registry.versions import Versions

    versions = Versions(State.from_environment())
    listed, others = versions.newest(only(versions, model) if model else None, limit)
    if as_json:
        print_json([{"model": version.model, "version": version.version, "stage": version.stage,
                     "measures": version.measures("valid")} for version in listed])
    elif not listed:
        say("no version is registered yet. See: polarscore train --help")
    else:
        _print_list(listed)
    if others:
        err.print(f"there are older versions, too; --limit N shows more than {limit:,}", highlight=False,
                  soft_wrap=True)


@app.command("show")
def _show(which: Which = None, model: WhichOption = None, as_json: AsJson = False) -> None:
    """One version: stage, measures, sources and their worth, audit."""
    from registry.versions import Versions
    from registry.worth import worth_of
    from training.tracking import WARNINGS_TAG

    versions = Versions(State.from_environment())
    version = meant(versions, once(which, model))
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
    for name, value in words.items():
        say(f"{name:>15}  {value}")
    for warning in warnings:
        say(f"{'warning':>15}  {warning}")
    print_measures(shown["measures"])
    _print_worth(shown["worth"])


@app.command("diff")
def _diff(
    one: Annotated[str, typer.Argument(metavar="ONE", help=VERSION)],
    other: Annotated[str, typer.Argument(metavar="OTHER", help=VERSION)],
    as_json: AsJson = False,
) -> None:
    """What differs between two versions.

    In measures, Pareto weights, sources and their worth, thresholds, data.
    """
    from registry.comparison import apart, differences
    from registry.versions import Versions

    versions = Versions(State.from_environment())
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
            table.add_row(what, *_unlike(left, right))
        out.print(table)
    for what, changed in by_source.items():
        table = columns(what, one, other, "change")
        for source, (left, right) in list(changed.items())[:COMPARED]:
            change = "" if None in (left, right) else f"{right - left:+.4f}"
            table.add_row(source[:60], *("-" if value is None else f"{value:.4f}" for value in (left, right)), change)
        out.print(table)
        if len(changed) > COMPARED:
            say(f"and {len(changed) - COMPARED} more, which changed less; --json has all of them")


def _unlike(left: Any, right: Any) -> tuple[str, str]:
    """Two values that differ, with as many digits as show it."""
    if isinstance(left, float) and isinstance(right, float) and figure(left) == figure(right):
        return f"{left:.6g}", f"{right:.6g}"
    return figure(left) or "-", figure(right) or "-"


def _recalibration(spec: Any) -> dict[str, Any] | None:
    summary = spec.recalibration.summary()
    return {"labels": spec.recalibration.labels, **summary} if summary else None


def _print_list(listed: Sequence["Version"]) -> None:
    shown = [name for name in COLUMNS if name not in ("error_rate", "mean_risk")]
    table = columns("model", "version", "stage", *(COLUMNS[name] for name in shown))
    for version in listed:
        measures: Mapping[str, Any] = version.measures("valid") or {}
        table.add_row(version.model, str(version.version), version.stage,
                      *(figure(measures.get(name)) for name in shown))
    out.print(table)


def _print_worth(sources: Sequence[Any]) -> None:
    table = columns("source", "family", "believed right", "coverage", "counts as")
    for row in sources[:SOURCES_SHOWN]:
        table.add_row(row.source[:60], row.family or "", f"{row.accuracy:.1%}",
                      "" if row.coverage is None else f"{row.coverage:.1%}",
                      "" if row.counts_as is None else f"{row.counts_as:.2f}")
    out.print(table)
    if len(sources) > SOURCES_SHOWN:
        say(f"and {len(sources) - SOURCES_SHOWN} more sources, believed less; --json has all of them")


app.add_typer(webhook, name="webhook")
for _command in (promote, gate, rollback, threshold, history, at, verify, evidence, key, migrate):
    app.command(_command.__name__)(_command)
