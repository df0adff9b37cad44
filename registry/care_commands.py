"""`polarscore registry verify / key / migrate / evidence`: is it whole, who signs, is the database of this version."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from registry.naming import AnyModels, WhichOption, WhoOption, once, only, user
from registry.stages import PRODUCTION, STAGING
from training.errors import CheckFailed, InputError
from training.printing import AsJson, err, print_json, say
from training.state import State

if TYPE_CHECKING:
    from registry.verification import Finding
    from registry.versions import Version, Versions

Promoted = Annotated[str | None, typer.Argument(
    metavar="VERSION", help="models:/NAME/VERSION, models:/NAME@ALIAS or a model's name; default: the version in "
                            "production, else that in staging.")]


def verify(
    model: AnyModels = None,
    repair: Annotated[bool, typer.Option("--repair", help="Finish or undo an interrupted change; put aliases and tags "
                                                          "back to what the log says.")] = False,
    who: WhoOption = None,
    as_json: AsJson = False,
) -> None:
    """Check log, aliases, files and evidence.

    Is the log of stages whole, do MLflow's aliases and tags agree with it, are files and evidence those that were
    signed? Exit code 1 if anything is off.
    """
    from registry.opening import Registry
    from registry.verification import repair as run_repair
    from registry.verification import verify as run_verification
    from registry.versions import model_name

    with Registry.open(State.from_environment()) as registry:
        names = [model_name(model)] if model else sorted({*registry.versions.models(), *registry.history.models()})
        done = [line for name in names for line in run_repair(registry, name, who or user())] if repair else []
        found = [finding for name in names for finding in run_verification(registry, name)]
    if as_json:
        print_json({"ok": not found, "repaired": done, "findings": [asdict(finding) for finding in found]})
    else:
        for line in [*done, *(finding.what for finding in found if len(found) > 1)]:
            say(line)
    if found:
        raise CheckFailed(_in_short(found))
    if not as_json:
        say(f"log, aliases, files and evidence agree: {', '.join(names)}" if names else "nothing is registered yet")


def key(as_json: AsJson = False) -> None:
    """Show the keys, or make a key pair.

    Who signs promotions on this machine, and who is trusted. If there is no private key, one is made; with a password,
    if POLARSCORE_KEY_PASSWORD is set.
    """
    from registry.keys import Keys

    keys = Keys.of(State.from_environment())
    made = not keys.private.exists()
    signer = keys.make() if made else keys.signer()
    if as_json:
        print_json({"key": signer.id, "path": signer.path, "made": made, "trusted": sorted(keys.trusted)})
        return
    say(f"{'made' if made else 'signs with'} {signer.path}, the key {signer.id}")
    say(f"trusted, in {keys.folder / 'trusted'}: {', '.join(sorted(keys.trusted)) or 'none'}")
    if signer.id not in keys.trusted:
        err.print(f"warning: the key {signer.id} is not trusted here, so it signs nothing: put its public key there",
                  highlight=False, soft_wrap=True)


def migrate(who: WhoOption = None, as_json: AsJson = False) -> None:
    """Migrate an older polarscore's database.

    Its tables are brought to this version, and a signature vouches for what was logged without any. Back it up first.
    """
    from registry.database import connect
    from registry.opening import Registry
    from registry.schema import CURRENT
    from registry.sealing import seal

    state = State.from_environment().prepare()
    connect(state.database_url, migrating=True).dispose()
    with Registry.open(state) as registry:
        logged, registered = registry.history.models(), registry.versions.models()
        gone = [name for name in logged if name not in registered]
        there = logged if gone == logged else [name for name in logged if name not in gone]
        sealed = [name for name in there if seal(registry, name, who or user())]
    for name in gone:
        err.print(f"warning: MLflow does not have the model '{name}', so its log is left as it is", highlight=False,
                  soft_wrap=True)
    if as_json:
        print_json({"schema": CURRENT, "sealed": sealed})
        return
    say(f"the database has schema {CURRENT}" + (f"; vouched for the log of {', '.join(sealed)}" if sealed else ""))


def evidence(
    which: Promoted = None,
    model: WhichOption = None,
    target: Annotated[Path | None, typer.Option("--out", help="A folder to copy it to.")] = None,
    as_json: AsJson = False,
) -> None:
    """Find the evidence of a promotion.

    Of the version's latest one: a folder with the gates' findings, figures, model card and signatures.
    """
    import shutil

    from registry.evidence import digest as digest_of
    from registry.evidence import fetch
    from registry.opening import Registry

    with Registry.open(State.from_environment()) as registry:
        version = _promoted(registry.versions, once(which, model))
        found = registry.history.evidence(version.model, version.version)
    if found is None:
        raise InputError(f"{version.uri} was never promoted to staging or production, so there is no evidence of it.")
    uri, digest = found
    folder = fetch(uri)
    if digest_of(folder) != digest:
        raise CheckFailed(f"the evidence {uri} is not what the log says: its digest is {digest_of(folder)}, and was "
                          f"{digest}. See: polarscore registry verify {version.model}")
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


def _promoted(versions: "Versions", which: str | None) -> "Version":
    """The version that a URI names; of a bare name, the one in production, else that in staging."""
    if which and set("/@") & set(which):
        return versions.get(which)
    name = only(versions, which)
    held = versions.holder(name, PRODUCTION) or versions.holder(name, STAGING)
    if held is None:
        raise InputError(f"no version of '{name}' is in staging or production. Name one: models:/{name}/VERSION.")
    return held


def _in_short(findings: "list[Finding]") -> str:
    """What is wrong, in a line, and what mends it, if a repair can."""
    first = findings[0]
    said = first.what if len(findings) == 1 else f"{len(findings)} things are not as they should be; {first.what}"
    kinds = {finding.kind for finding in findings if finding.model == first.model}
    if kinds & {"alias", "tag"} and not kinds & {"log", "interrupted"}:
        return f"{said}. To put it back, run: polarscore registry verify {first.model} --repair"
    return f"{said.rstrip('.')}."
