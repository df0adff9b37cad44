"""`polarscore apikey`: who may ask the service, and what."""

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Any

import typer

from training.printing import OPTIONS, AsJson, columns, err, list_commands, moment, out, print_json
from training.state import State

if TYPE_CHECKING:
    from serving.access import ApiKey

app = typer.Typer(help="API keys of the service: who may ask it what.", callback=list_commands, **OPTIONS)

MOST_DAYS = 36_500

Name = Annotated[str, typer.Argument(metavar="NAME", help="Whose it is.")]


@app.command("create")
def _create(
    name: Name,
    scopes: Annotated[list[str] | None, typer.Option(
        "--scope", metavar="SCOPE", help="What it is good for: score, feedback, read, admin, which is these and to "
                                         "erase, correct, which has the LLM asked again, or review, which is a "
                                         "person's; may be given several times.")] = None,
    days: Annotated[float | None, typer.Option(
        "--days", min=0, max=MOST_DAYS, metavar="N", help="Good for so long; default: until it is revoked.")] = None,
    as_json: AsJson = False,
) -> None:
    """Make a key, and print it, this once.

    Only its hash is kept. A service that runs knows it at once.
    """
    from serving.access import added, issued
    from serving.keyfile import change_keys, keys_path

    now = datetime.now(UTC)
    kept, key = issued(name, scopes or [], now, None if days is None else timedelta(days=days))
    change_keys(keys_path(State.from_environment()), lambda keys: added(keys, kept, now))
    _hand_over(kept, key, as_json, "")


@app.command("list")
def _list(as_json: AsJson = False) -> None:
    """All keys, without their secrets."""
    from serving.keyfile import keys_path, read_keys

    now, path = datetime.now(UTC), keys_path(State.from_environment())
    keys = read_keys(path)
    if as_json:
        print_json([_shown(key, now) for key in keys])
        return
    if not keys:
        err.print("there is no key yet. See: polarscore apikey create --help", highlight=False, soft_wrap=True)
        return
    table = columns("name", "scopes", "state", "created", "expires", "id")
    for key in keys:
        table.add_row(key.name, ", ".join(key.scopes), key.state(now), moment(key.created),
                      moment(key.expires) if key.expires else "never", key.id)
    out.print(table)


@app.command("rotate")
def _rotate(
    name: Name,
    grace: Annotated[float | None, typer.Option(
        "--grace", min=0, max=24 * MOST_DAYS, metavar="HOURS",
        help="How long the old secret stays good; default: 24.")] = None,
    as_json: AsJson = False,
) -> None:
    """Give a key a new secret, and print it, this once.

    The old one stays good for a while, so that nobody is shut out meanwhile.
    """
    from serving.access import GRACE_H, rotated
    from serving.keyfile import change_keys, keys_path

    now, hours = datetime.now(UTC), GRACE_H if grace is None else grace
    made: list[tuple[ApiKey, str]] = []

    def change(keys: tuple["ApiKey", ...]) -> tuple["ApiKey", ...]:
        changed, kept, key = rotated(keys, name, now, timedelta(hours=hours))
        made.append((kept, key))
        return changed

    change_keys(keys_path(State.from_environment()), change)
    _hand_over(*made[0], as_json, f"; the old secret is good for {hours:g} h more" if hours else
               "; the old secret is good no more")


@app.command("revoke")
def _revoke(name: Name, as_json: AsJson = False) -> None:
    """Have a key open nothing any more, at once."""
    from serving.access import revoked
    from serving.keyfile import change_keys, keys_path

    now = datetime.now(UTC)
    change_keys(keys_path(State.from_environment()), lambda keys: revoked(keys, name, now))
    if as_json:
        print_json({"revoked": name})
        return
    err.print(f"'{name}' opens nothing any more", highlight=False, soft_wrap=True)


def _hand_over(kept: "ApiKey", key: str, as_json: bool, more: str) -> None:
    """The key alone on standard output."""
    if as_json:
        print_json(_shown(kept, kept.created) | {"key": key})
        return
    until = f", until {moment(kept.expires)} UTC" if kept.expires else ""
    err.print(f"'{kept.name}' is good for {', '.join(kept.scopes)}{until}{more}. The key is shown this once:",
              highlight=False, soft_wrap=True)
    print(key)


def _shown(key: "ApiKey", now: datetime) -> dict[str, Any]:
    return key.model_dump(exclude={"digest"}) | {"state": key.state(now)}
