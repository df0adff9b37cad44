"""`polarscore registry verify / key / migrate / evidence`: is it whole, who signs, is the database of this version."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from registry.naming import AnyModel, Which, WhichOption, WhoOption, meant, once, user
from training.errors import CheckFailed, InputError
from training.printing import AsJson, print_json, say
from training.state import State


def verify(
    model: AnyModel = None,
    repair: Annotated[bool, typer.Option("--repair", help="Finish or undo an interrupted change; put aliases and tags "
                                                          "back to what the log says.")] = False,
    who: WhoOption = None,
    as_json: AsJson = False,
) -> None:
    """Is the log whole, do MLflow's aliases agree with it, are files and evidence those that were signed?

    Of one model, or of all. Exit code 1 if anything is off.
    """
    from registry.opening import Registry
    from registry.verification import repair as run_repair
    from registry.verification import verify as run_verification

    with Registry.open(State.from_environment()) as registry:
        names = [model] if model else sorted({*registry.versions.models(), *registry.history.models()})
        done = [line for name in names for line in run_repair(registry, name, who or user())] if repair else []
        found = [finding for name in names for finding in run_verification(registry, name)]
    if as_json:
        print_json({"ok": not found, "repaired": done, "findings": [asdict(finding) for finding in found]})
    else:
        for line in done:
            say(line)
    if found:
        raise CheckFailed("; ".join(finding.what for finding in found) + ".")
    if not as_json:
        say(f"whole: {', '.join(names)}" if names else "nothing is registered yet")


def key(as_json: AsJson = False) -> None:
    """Show who signs promotions here and who is trusted; make a key pair if there is none.

    With a password if POLARSCORE_KEY_PASSWORD is set.
    """
    from registry.keys import Keys

    keys = Keys.of(State.from_environment())
    made = not keys.private.exists()
    signer = keys.make() if made else keys.signer()
    if as_json:
        print_json({"key": signer.id, "path": signer.path, "made": made, "trusted": sorted(keys.trusted)})
        return
    say(f"{'made' if made else 'signs with'} {signer.path}, the key {signer.id}")
    say(f"trusted, in {keys.folder / 'trusted'}: {', '.join(sorted(keys.trusted))}")


def migrate(who: WhoOption = None, as_json: AsJson = False) -> None:
    """Bring the database of an older polarscore to this version, and vouch for what it logged without signatures.

    Back it up first.
    """
    from registry.database import connect
    from registry.opening import Registry
    from registry.schema import CURRENT
    from registry.sealing import seal

    state = State.from_environment().prepare()
    connect(state.database_url, migrating=True).dispose()
    with Registry.open(state) as registry:
        sealed = [name for name in registry.history.models() if seal(registry, name, who or user())]
    if as_json:
        print_json({"schema": CURRENT, "sealed": sealed})
        return
    say(f"the database has schema {CURRENT}" + (f"; vouched for the log of {', '.join(sealed)}" if sealed else ""))


def evidence(
    which: Which = None,
    model: WhichOption = None,
    target: Annotated[Path | None, typer.Option("--out", help="A folder to copy it to.")] = None,
    as_json: AsJson = False,
) -> None:
    """Where the evidence of a version's latest promotion is: gates, figures, model card, signatures."""
    import shutil

    from registry.evidence import fetch
    from registry.opening import Registry

    with Registry.open(State.from_environment()) as registry:
        version = meant(registry.versions, once(which, model))
        found = registry.history.evidence(version.model, version.version)
    if found is None:
        raise InputError(f"{version.uri} was never promoted to staging or production, so there is no evidence of it.")
    uri, digest = found
    folder = fetch(uri)
    if target is not None:
        if target.exists():
            raise InputError(f"--out {target} exists already. Name a new folder.")
        shutil.copytree(folder, target)
        folder = target
    if as_json:
        print_json({"model": version.model, "version": version.version, "uri": uri, "digest": digest,
                    "folder": folder.absolute()})
        return
    say(f"{uri}, SHA-256 {digest}\n{folder.absolute()}")
