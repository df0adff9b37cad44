"""`polarscore monitor check / recalibrate`: what is off, and what follows from it."""

from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from registry.naming import WhoOption, user
from training.errors import CheckFailed, InputError
from training.printing import AsJson, columns, err, out, print_json, say
from training.state import State

if TYPE_CHECKING:
    from monitoring.notifying import Receiver
    from monitoring.watch import Checked

Watched = Annotated[str | None, typer.Option(
    "--model", help="models:/NAME/VERSION, models:/NAME@ALIAS or a model's name; default: the version in production, "
                    "else the newest that has scored.")]
Config = Annotated[Path | None, typer.Option("--config", metavar="FILE", help="The settings, a TOML file.")]
Since = Annotated[datetime | None, typer.Option(
    "--since", formats=["%Y-%m-%d", "%Y-%m-%dT%H:%M"], metavar="MOMENT", help="Only scores from then on, in UTC.")]


def warn(line: str) -> None:
    """Say on standard error what went wrong beside the result."""
    err.print(f"polarscore: {line}", highlight=False, soft_wrap=True)


def check(
    model: Watched = None,
    config: Config = None,
    strict: Annotated[bool, typer.Option("--strict", help="Count what cannot be told as a failure.")] = False,
    webhook: Annotated[str | None, typer.Option(
        "--webhook", metavar="URL", help="Tell this server what has changed since the last check; signed with "
                                         "POLARSCORE_WEBHOOK_SECRET.")] = None,
    always: Annotated[bool, typer.Option("--always", help="Tell it also where nothing has changed.")] = False,
    prometheus: Annotated[Path | None, typer.Option(
        "--prometheus", metavar="FILE", help="Write the figures there, a .prom for node_exporter.")] = None,
    act: Annotated[bool, typer.Option(
        "--act", help="Do what the settings say of an alarm on the guarantee, by labels of reviewers alone.")] = False,
    who: WhoOption = None,
    as_json: AsJson = False,
) -> None:
    """Print what is off; exit with 1 if something is.

    A receiver that cannot be reached, or a file that cannot be written, is said and changes nothing about that.
    """
    from monitoring.alarm import as_json as alarms_as_json
    from monitoring.notifying import receiver
    from monitoring.settings import read_settings
    from monitoring.watch import checked

    settings = read_settings(config)
    url, file = webhook or settings.webhook, prometheus or settings.prometheus
    to = receiver(url) if url else None
    if act and settings.action.on_guarantee == "nothing":
        raise InputError("--act needs settings that name an action: --config FILE with on_guarantee = "
                         "'lower threshold' or 'roll back' in [action].")
    state = State.from_environment()
    seen = checked(state, model, settings, (who or user()) if act else None, warn)
    found = alarms_as_json(seen.alarms, strict)
    action = asdict(seen.acted) if seen.acted else None
    if as_json:
        print_json(found | ({"action": action} if action else {}))
    else:
        table = columns("alarm", "state", "why")
        for alarm in seen.alarms:
            table.add_row(alarm.name, alarm.state, alarm.reason)
        out.print(table)
        if seen.acted:
            say(f"{'done' if seen.acted.done else 'nothing done'}: {seen.acted.words}")
    _tell(state, seen, to, always, file)
    done = f"done: {seen.acted.words}" if seen.acted and seen.acted.done else ""
    if not found["ok"] or done:
        states = ("alarm", "unknown") if strict else ("alarm",)
        off = {state: [alarm.name for alarm in seen.alarms if alarm.state == state] for state in states}
        named = [f"{state}: {', '.join(names)}" for state, names in off.items() if names]
        raise CheckFailed("; ".join([*named, *([done] if done else [])]) + ".")


def _tell(state: State, seen: "Checked", to: "Receiver | None", always: bool, file: Path | None) -> None:
    """Tell those who wanted to know; what fails is said, and no more."""
    from monitoring.exposition import write_exposition
    from monitoring.notifying import notify
    from monitoring.watch import exposed

    model, version = seen.version.model, str(seen.version.version)
    action = asdict(seen.acted) if seen.acted and seen.acted.done else None
    if file:
        try:
            write_exposition(file, model, version, seen.alarms, exposed(state, seen), seen.at)
        except InputError as error:
            warn(str(error).rstrip("."))
    if to:
        kept = state.home / "monitoring" / f"{model}.json"
        for failure in notify(kept, to, model, version, seen.alarms, seen.at, always, action):
            warn(failure)


def recalibrate(
    model: Watched = None,
    trusted: Annotated[bool, typer.Option(
        "--trusted", help="Count only labels that came with API keys of the scope review.")] = False,
    since: Since = None,
    config: Config = None,
    who: WhoOption = None,
    as_json: AsJson = False,
) -> None:
    """Make a candidate, recalibrated by feedback.

    The order of the answers, and so what the guarantee accepts, stays. It is promoted by people alone: polarscore
    registry promote.
    """
    from monitoring.recalibrating import recalibrate as run_recalibration
    from monitoring.recalibrating import words
    from monitoring.settings import read_settings
    from monitoring.store import Store
    from monitoring.watch import scored_version
    from registry.database import now
    from registry.opening import Registry

    state, settings = State.from_environment(), read_settings(config)
    with Registry.open(state) as registry, Store(state.database_url) as store, err.status("recalibrating"):
        version = scored_version(registry.versions, store.models(), model)
        found = run_recalibration(registry, store, version, who or user(), now(), rows=settings.alarms.rows,
                                  trusted_only=trusted, since=since and since.replace(tzinfo=UTC))
    if as_json:
        print_json({"model": found.model, "version": found.version, "made_from": found.made_from,
                    "run_id": found.run_id, "labels": found.labels, "before": found.before, "after": found.after,
                    "threshold_before": found.threshold[0], "threshold_after": found.threshold[1]})
        return
    for sentence in words(found):
        say(sentence)
