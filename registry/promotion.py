"""Stages: promote a version, roll back, and say what was where. Aliases and tags on MLflow's registry, and a log."""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import datetime

from registry.gates import Decision, Gate
from registry.history import Entry, History, in_production
from registry.versions import ARCHIVED, PRODUCTION, STAGE_TAG, STAGING, Version, Versions
from training.errors import CheckFailed, InputError
from training.state import State

TARGETS = (STAGING, PRODUCTION)


@dataclass(frozen=True)
class Change:
    """A change of stage that took place, and what the gates before it found."""

    model: str
    version: int
    from_stage: str
    to_stage: str
    replaced: int | None
    gates: tuple[Gate, ...] = ()


Judge = Callable[[Version, Version | None], Decision]


def check_target(to: str) -> None:
    """Refuse a stage that no version can be promoted to.

    Raises:
        InputError: the stage is unknown.
    """
    if to not in TARGETS:
        raise InputError(f"stage '{to}' is unknown. Expected one of {', '.join(TARGETS)}.")


def promote(
    state: State, versions: Versions, candidate: Version, to: str, judge: Judge, who: str, why: str
) -> Change:
    """Move a version to a stage, in place of the version that holds it now.

    judge: decides from the candidate and the stage's present holder (the champion, None if there is none).

    Raises:
        InputError: an unknown stage, or the version is there already.
        CheckFailed: a gate refuses; nothing has changed.
    """
    check_target(to)
    champion = versions.holder(candidate.model, to)
    if champion and champion.version == candidate.version:
        raise InputError(f"version {candidate.version} of '{candidate.model}' is in {to} already.")
    if PRODUCTION in candidate.aliases:
        raise InputError(f"version {candidate.version} of '{candidate.model}' is in production. "
                         f"To take it out, promote another or run: polarscore registry rollback {candidate.model}")
    decision = judge(candidate, champion)
    if not decision.allowed:
        raise CheckFailed(f"version {candidate.version} of '{candidate.model}' stays in {candidate.stage}. "
                          f"{decision.refusal}.")
    return _change(state, versions, candidate, to, champion, "promote", who, why, decision)


def rollback(state: State, versions: Versions, model: str, who: str, why: str) -> Change:
    """Put back into production what was there before; a second rollback goes back one more.

    Raises:
        InputError: no such model, nothing was in production before, or what is there now is not what the log says.
    """
    versions.list(model)
    history = History(state.database_url)
    earlier = in_production(history.entries(model))
    history.close()
    present = versions.holder(model, PRODUCTION)
    if earlier and (present is None or present.version != earlier[-1]):
        holds = _named(present.version if present else None)
        raise InputError(f"the log says that version {earlier[-1]} of '{model}' is in production, and the alias "
                         f"points at {holds}. Promote the version that should be there.")
    if len(earlier) < 2:
        before = f"before version {earlier[0]}, no version was" if earlier else "no version has been"
        raise InputError(f"there is nothing to roll '{model}' back to: {before} in production.")
    return _change(state, versions, versions.number(model, earlier[-2]), PRODUCTION, present, "rollback", who, why)


def at(state: State, model: str, moment: datetime) -> int | None:
    """The version that was in production at a moment, by the log; None if none was."""
    history = History(state.database_url)
    stack = in_production(history.entries(model, until=moment))
    history.close()
    return stack[-1] if stack else None


def disagreements(state: State, versions: Versions, model: str) -> list[str]:
    """Where MLflow's aliases are not what the log says, one sentence each; none if all is well."""
    history = History(state.database_url)
    logged = _holders(history.entries(model))
    history.close()
    found = []
    for stage in TARGETS:
        holder = versions.holder(model, stage)
        has, says = (holder.version if holder else None), logged.get(stage)
        if has != says:
            found.append(f"the alias '{stage}' of '{model}' points at {_named(has)}, and the log says {_named(says)}")
    return found


def _change(
    state: State,
    versions: Versions,
    version: Version,
    to: str,
    replaced: Version | None,
    action: str,
    who: str,
    why: str,
    decision: Decision | None = None,
) -> Change:
    """Log the change and carry it out, one change of a model at a time; a change that fails is not logged."""
    history = History(state.database_url)
    try:
        with history.changing(version.model) as (_, append):
            holder = versions.holder(version.model, to)
            if (holder and holder.version) != (replaced and replaced.version):
                raise InputError(f"another process has changed {to} of '{version.model}' meanwhile. "
                                 "Look, and try again.")
            append(Entry(who, action, version.model, version.version, version.stage, to,
                         replaced.version if replaced else None, why,
                         [asdict(gate) for gate in decision.gates] if decision else []))
            _move_alias(versions, version, to)
    finally:
        history.close()
    _tag(versions, version, to, replaced)
    return Change(version.model, version.version, version.stage, to, replaced.version if replaced else None,
                  decision.gates if decision else ())


def _move_alias(versions: Versions, version: Version, to: str) -> None:
    """The alias alone decides who holds a stage, and it moves in one step."""
    versions.client.set_registered_model_alias(version.model, to, str(version.version))
    if STAGING in version.aliases and to == PRODUCTION:
        versions.client.delete_registered_model_alias(version.model, STAGING)


def _tag(versions: Versions, version: Version, to: str, replaced: Version | None) -> None:
    """Tags repeat the stages for people who look at MLflow's pages."""
    versions.client.set_model_version_tag(version.model, str(version.version), STAGE_TAG, to)
    if replaced:
        versions.client.set_model_version_tag(version.model, str(replaced.version), STAGE_TAG, ARCHIVED)


def _holders(entries: list[Entry]) -> dict[str, int]:
    """Which version holds which stage after these changes."""
    holders: dict[str, int] = {}
    for entry in entries:
        holders = {stage: version for stage, version in holders.items() if version != entry.version}
        holders[entry.to_stage] = entry.version
    return holders


def _named(version: int | None) -> str:
    return "no version" if version is None else f"version {version}"
