"""`polarscore registry webhook`: to whom MLflow's server announces promotions."""

from dataclasses import asdict
from typing import Annotated

import typer

from training.printing import OPTIONS, AsJson, columns, list_commands, out, print_json, say
from training.state import State

app = typer.Typer(help="To whom MLflow's server announces promotions, signed.", callback=list_commands, **OPTIONS)

Name = Annotated[str, typer.Argument(metavar="NAME", help="The webhook's name.")]


@app.command("add")
def _add(
    name: Name,
    url: Annotated[str, typer.Argument(metavar="URL", help="Who is told, https://…")],
    as_json: AsJson = False,
) -> None:
    """Have each promotion and rollback announced to a URL.

    Signed by HMAC with the secret in POLARSCORE_WEBHOOK_SECRET.
    """
    from registry.webhooks import add

    made = add(State.from_environment(), url, name)
    if as_json:
        print_json(asdict(made))
        return
    say(f"'{made.name}' is told of promotions, at {made.url}")


@app.command("list")
def _list(as_json: AsJson = False) -> None:
    """The webhooks that announce promotions."""
    from registry.webhooks import listed

    found = listed(State.from_environment())
    if as_json:
        print_json([asdict(webhook) for webhook in found])
        return
    if not found:
        say("nobody is told of promotions. See: polarscore registry webhook add --help")
        return
    table = columns("name", "url", "told of", "active")
    for webhook in found:
        table.add_row(webhook.name, webhook.url, ", ".join(webhook.events), "yes" if webhook.active else "no")
    out.print(table)


@app.command("remove")
def _remove(name: Name, as_json: AsJson = False) -> None:
    """Announce promotions to it no more."""
    from registry.webhooks import remove

    remove(State.from_environment(), name)
    if as_json:
        print_json({"removed": name})
        return
    say(f"'{name}' is told no more")
