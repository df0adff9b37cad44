"""Which model, which version and which person is meant: what the commands of the registry take, and its defaults."""

import getpass
import socket
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from registry.stages import PRODUCTION, STAGING
from training.errors import InputError

if TYPE_CHECKING:
    from registry.versions import Version, Versions

AnyModel = Annotated[str | None, typer.Argument(
    metavar="MODEL", help="A model's name; may be left out where there is only one.")]
AnyModels = Annotated[str | None, typer.Argument(metavar="MODEL", help="A model's name; default: all models.")]
Which = Annotated[str | None, typer.Argument(
    metavar="VERSION", help="models:/NAME/VERSION, models:/NAME@ALIAS or a model's name; default: the candidate.")]
Promoted = Annotated[str | None, typer.Argument(
    metavar="VERSION", help="models:/NAME/VERSION, models:/NAME@ALIAS or a model's name; default: the candidate, "
                            "and to production the version in staging, if one is there.")]
WhichOption = Annotated[str | None, typer.Option("--model", help="The same, as an option.")]
WhyOption = Annotated[str, typer.Option("--why", help="The reason, for the log.")]
WhoOption = Annotated[str | None, typer.Option(
    "--who", help="Who it is, for the log; default: the user at this machine.")]
TaskOption = Annotated[Path | None, typer.Option("--task", help="The task to judge by; default: as the gates say.")]
SplitOption = Annotated[str | None, typer.Option("--split", help="Its split; default: as the gates say.")]
GatesOption = Annotated[Path | None, typer.Option(
    "--gates", metavar="FILE", help="The gates; default: gates.toml of the state folder, else the package's.")]


def only(versions: "Versions", model: str | None) -> str:
    """A model's name: the given one, that of a version's URI, or the only one there is.

    Raises:
        InputError: no such model; or none is named, and there are several, or none.
    """
    from registry.versions import model_name

    if model is not None:
        name = model_name(model)
        versions.known(name)
        return name
    names = versions.models()
    if len(names) != 1:
        raise InputError(f"name a model. Registered: {', '.join(names) or 'none; train one first'}.")
    return names[0]


def once(which: str | None, model: str | None) -> str | None:
    """The version that was named, as an argument or as an option.

    Raises:
        InputError: it was named twice.
    """
    if which and model:
        raise InputError(f"name the version once. Found '{which}' and --model '{model}'.")
    return which or model


def meant(versions: "Versions", which: str | None, to: str = "") -> "Version":
    """The version that a URI names; of a bare name, the one that a promotion to a stage would be about."""
    if which and set("/@") & set(which):
        return versions.get(which)
    name = only(versions, which)
    staged = versions.holder(name, STAGING) if to == PRODUCTION else None
    return staged or versions.get(f"models:/{name}@candidate")


def user() -> str:
    """Who sits at this machine."""
    try:
        return f"{getpass.getuser()}@{socket.gethostname()}"
    except (OSError, KeyError):
        return "unknown"
