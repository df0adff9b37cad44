"""Stages change here: promote a version, or roll back. A change is a decision with evidence, signed and logged."""

import tempfile
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from registry import aliases, evidence, witness
from registry.chain import Entry, sealed
from registry.database import now
from registry.gates import Gate
from registry.history import Changing
from registry.integrity import check_intact
from registry.keys import Signer
from registry.opening import Registry
from registry.recovery import check_whole, log_names, recover
from registry.signing import digests, verify
from registry.stages import (
    CANDIDATE,
    PRODUCTION,
    PROMOTE,
    ROLLBACK,
    SINGLE,
    check_way,
    holders,
    in_production,
    stages_of,
)
from registry.versions import Version
from training.errors import CheckFailed, InputError
from training.spec import digest

if TYPE_CHECKING:
    from registry.judging import Judged

LONGEST = 2_000  # characters of who and why

Judge = Callable[[Version, Version | None], "Judged"]
"""Decides from the candidate and the champion, the stage's present holder; None: there is none."""
Tell = Callable[[str], None]
"""Is told what a person should know, a line each."""


class Overtaken(InputError):
    """What was decided by a log that has changed since."""


@dataclass(frozen=True)
class Change:
    """A change of stage that took place, what the gates before it found, and where its evidence is."""

    model: str
    version: int
    from_stage: str
    to_stage: str
    replaced: int | None
    gates: tuple[Gate, ...] = ()
    evidence: str | None = None


def promote(
    registry: Registry, candidate: Version, to: str, judge: Judge, who: str, why: str,
    tell: Tell = lambda line: None,
) -> Change:
    """Move a version to a stage, in place of the version that holds it now.

    To staging and production it needs the gates' leave, and its files must be those that were registered or signed.

    Raises:
        InputError: no such stage or way to it, no key to sign with, aliases that are not where the log says, or another
            process was quicker.
        CheckFailed: a gate refuses, or files or log have been changed. Nothing has happened, then.
    """
    model = candidate.model
    with registry.history.changing(model) as change:
        prepare(registry, model, change, tell)
    stage = _stage(registry, candidate)
    check_way(model, candidate.version, stage, to)
    draft = Entry(said(who, "--who"), PROMOTE, model, candidate.version, stage, to, None, said(why, "--why"))
    held = _held(registry, model, to) if to in SINGLE else None
    champion = _champion(registry, model, to, held, tell)
    gates: tuple[Gate, ...] = ()
    check_signer(registry, model)  # before the gates take their time
    if to in SINGLE:
        check_intact(registry, candidate)
        files = digests(registry.versions.folder(candidate).parent)
        judged = judge(replace(candidate, stage=stage), champion)
        gates = judged.decision.gates
        if not judged.decision.allowed:
            raise CheckFailed(f"version {candidate.version} of '{model}' stays in {stage}. {judged.decision.refusal}.")
    signer = signer_of(registry, model, tell)
    if to in SINGLE:
        draft = replace(draft, replaced=held, gates=[asdict(gate) for gate in gates])
        draft = _with_evidence(registry, candidate, draft, judged, files)
    with registry.history.changing(model) as change:
        prepare(registry, model, change, tell)
        if _stage(registry, candidate) != stage or (to in SINGLE and _held(registry, model, to) != held):
            raise InputError(f"another process has changed the stages of '{model}' meanwhile. Look, and try again.")
        entry = carry_out(registry, change, draft, signer)
    remember(registry, entry, tell)
    return _told(entry, gates)


def rollback(
    registry: Registry, model: str, who: str, why: str, tell: Tell = lambda line: None, seen: str | None = None
) -> Change:
    """Put back into production what was there before; a second rollback goes back one more.

    The version's files hold its weights, thresholds, Pareto weights and calibration, so all go back together. They must
    be those that its promotion signed.

    seen: the head of the log by which this was decided; None: whatever it is.

    Raises:
        InputError: no such model, nothing was in production before, or as for `promote`.
        Overtaken: the log has another head by now.
        CheckFailed: files or log have been changed. Nothing has happened, then.
    """
    registry.versions.known(model)
    who, why = said(who, "--who"), said(why, "--why")
    check_signer(registry, model)
    with registry.history.changing(model) as change:
        prepare(registry, model, change, tell, seen)
        stack = in_production(registry.history.moves(model))
        if len(stack) < 2:
            before = f"before version {stack[0]}, no version was" if stack else "no version has been"
            raise InputError(f"there is nothing to roll '{model}' back to: {before} in production.")
        version = registry.versions.number(model, stack[-2])
        check_intact(registry, version)
        uri, bundle = registry.history.evidence(model, version.version, PRODUCTION) or (None, None)
        draft = Entry(who, ROLLBACK, model, version.version, _stage(registry, version), PRODUCTION, stack[-1], why,
                      files=digest(registry.versions.folder(version)), evidence=bundle, evidence_uri=uri)
        entry = carry_out(registry, change, draft, signer_of(registry, model, tell))
    remember(registry, entry, tell)
    return _told(entry)


def at(registry: Registry, model: str, moment: datetime) -> int | None:
    """The version that was in production at a moment, by the log; None if none was."""
    stack = in_production(registry.history.moves(model, until=moment))
    return stack[-1] if stack else None


def _stage(registry: Registry, version: Version) -> str:
    """Where a version is, by the log; MLflow's tags only repeat it."""
    return stages_of(registry.history.moves(version.model)).get(version.version, CANDIDATE)


def _held(registry: Registry, model: str, to: str) -> int | None:
    """Which version holds a stage, by the log."""
    return holders(registry.history.moves(model)).get(to)


def _champion(registry: Registry, model: str, to: str, held: int | None, tell: Tell) -> Version | None:
    """The version that holds a stage; None if none does, or if it was deleted."""
    if held is None or registry.versions.has(model, held):
        return registry.versions.number(model, held) if held else None
    tell(f"warning: version {held} of '{model}', in {to} by the log, is gone from MLflow: nothing to compare with")
    return None


def prepare(registry: Registry, model: str, change: Changing, tell: Tell, seen: str | None = None) -> None:
    """Settle what a killed process left; refuse to build on a log or aliases that are not whole.

    seen: the head of the log by which the change was decided; None: whatever it is.

    Raises:
        Overtaken: the log has another head by now.
    """
    if settled := recover(registry, model, change):
        tell(settled)
    last = change.last
    check_whole(registry, model, last)
    if seen is not None and seen != (last.head if last else ""):
        raise Overtaken(f"another process has changed the log of '{model}' meanwhile. Look, and try again.")


def carry_out(registry: Registry, change: Changing, draft: Entry, signer: Signer) -> Entry:
    """Write down what is intended, move aliases and tags, then log it; nothing, if MLflow fails at the first step."""
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    last = change.last
    entry = sealed(replace(draft, at=max(now(), last.at) if last else now()), last, signer)
    change.intend(entry)
    try:
        aliases.apply(registry.versions, entry)
    except (MlflowException, SQLAlchemyError, OSError, InputError) as error:
        try:
            moved = aliases.begun(registry.versions, entry)
        except (MlflowException, SQLAlchemyError, OSError, InputError):
            moved = True  # nobody knows
        if not moved:
            change.drop()
            raise
        raise InputError(f"MLflow failed in the middle of the change: {str(error).splitlines()[0][:200]}. "
                         f"To finish it, run: polarscore registry verify {entry.model} --repair") from error
    change.log(entry)
    return entry


def _with_evidence(
    registry: Registry, version: Version, draft: Entry, judged: "Judged", files: Mapping[str, str]
) -> Entry:
    """Write the bundle and keep it, before anything changes. files: digests of those that were judged.

    Raises:
        CheckFailed: the files have changed while they were judged.
    """
    occasion = evidence.Occasion(action=draft.action, from_stage=draft.from_stage, to_stage=draft.to_stage,
                                 replaced=draft.replaced, who=draft.who, why=draft.why, at=draft.at)
    with tempfile.TemporaryDirectory(prefix="polarscore-evidence-") as folder:
        bundle = Path(folder) / "evidence"
        evidence.write(bundle, registry.versions, version, occasion, judged, registry.keys)
        if digests(registry.versions.folder(version).parent) != files:
            raise CheckFailed(f"the files of {version.uri} have changed while they were judged. Nothing was changed")
        verify(registry.versions.folder(version).parent, bundle / evidence.MODEL_SIGNATURE, registry.keys)
        return replace(draft, files=digest(registry.versions.folder(version)), evidence=evidence.digest(bundle),
                       evidence_uri=evidence.keep(registry.state, version, occasion, bundle))


def check_signer(registry: Registry, model: str) -> None:
    """Refuse early what `signer_of` would refuse; makes no key.

    Raises:
        InputError: as there.
    """
    last = registry.history.last(model)
    if registry.keys.private.exists() or registry.keys.trusted or (last and last.key):
        signer_of(registry, model)


def signer_of(registry: Registry, model: str, tell: Tell = lambda line: None) -> Signer:
    """The private key; on a machine without any key, a new one for a log that nobody has signed yet.

    Raises:
        InputError: there is none, or the log or the key itself is not trusted here.
    """
    last, keys = registry.history.last(model), registry.keys
    if last and last.key and last.key not in keys.trusted:
        raise InputError(f"the log of '{model}' is signed by the key {last.key}, which is not among those trusted in "
                         f"{keys.folder / 'trusted'}. Put its public key there.")
    if not keys.private.exists() and not keys.trusted:
        signer = keys.make()
        tell(f"made a key that signs promotions: {signer.path}, and its public key in trusted/ beside it. Keep it safe")
        return signer
    signer = keys.signer()
    if signer.id not in keys.trusted:
        raise InputError(f"the signing key {keys.private} is not trusted here: its public key {signer.id} is missing "
                         f"in {keys.folder / 'trusted'}.")
    return signer


def remember(registry: Registry, entry: Entry, tell: Tell) -> None:
    """Keep the head on this machine. The change is done: where that fails, it is only said."""
    try:
        for name in log_names(registry, entry.model):
            witness.remember(registry.keys.heads, name, entry.head)
    except (InputError, OSError) as error:
        tell(f"warning: this machine does not remember the log's new end: {str(error).rstrip('.')}")


def _told(entry: Entry, gates: tuple[Gate, ...] = ()) -> Change:
    return Change(entry.model, entry.version, entry.from_stage, entry.to_stage, entry.replaced, gates,
                  entry.evidence_uri)


def said(words: str, option: str) -> str:
    """What a person gives for the log: one line of printable text, not too long."""
    strange = any(not c.isprintable() for c in words)
    if len(words) > LONGEST or strange:
        raise InputError(f"{option} should be one line of printable text of at most {LONGEST:,} characters. Found "
                         + ("a line break or a control character." if strange else f"{len(words):,} characters."))
    return words
