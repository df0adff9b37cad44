"""MLflow's aliases and tags, moved to what an entry of the log says. Each step may be taken twice.

An entry's decisive step comes first: where it has been taken, the change has begun and can only be finished; where not,
nothing has happened at all.
"""

from collections.abc import Mapping
from typing import NamedTuple

from registry.chain import Entry
from registry.stages import ARCHIVED, CANDIDATE, MOVES, PRODUCTION, SINGLE, STAGING
from registry.versions import STAGE_TAG, Versions

HEAD_TAG = "polarscore.head"
"""Tag of a registered model: the head of its log, kept outside of the log's database."""
EVIDENCE_TAG = "evidence"
"""Tag of a version: where the evidence of its latest promotion is."""


class Astray(NamedTuple):
    """An alias that is not where the log says: the version that it should point at, and the matter in words."""

    alias: str
    version: int | None
    words: str


def begun(versions: Versions, entry: Entry) -> bool:
    """Whether the decisive step of a change has been taken."""
    if head(versions, entry.model) == entry.head:
        return True
    if entry.action not in MOVES:
        return False
    aliases = versions.aliases(entry.model)
    if entry.to_stage == ARCHIVED:
        if entry.from_stage == STAGING:
            return aliases.get(STAGING) != entry.version
        return versions.number(entry.model, entry.version).tags.get(STAGE_TAG) == ARCHIVED
    return aliases.get(entry.to_stage) == entry.version


def apply(versions: Versions, entry: Entry) -> None:
    """Move aliases and tags to where the entry says."""
    client, model, number = versions.client, entry.model, str(entry.version)
    if entry.action not in MOVES:
        client.set_registered_model_tag(model, HEAD_TAG, entry.head)
        return
    if entry.to_stage != ARCHIVED:
        client.set_registered_model_alias(model, entry.to_stage, number)
    elif entry.from_stage == STAGING:
        _without(versions, model, STAGING, entry.version)
    client.set_model_version_tag(model, number, STAGE_TAG, entry.to_stage)
    if entry.to_stage == PRODUCTION:
        _without(versions, model, STAGING, entry.version)
    if entry.to_stage == ARCHIVED:
        _without(versions, model, CANDIDATE, entry.version)
    if entry.replaced is not None and versions.has(model, entry.replaced):
        client.set_model_version_tag(model, str(entry.replaced), STAGE_TAG, ARCHIVED)
    if entry.evidence_uri:
        client.set_model_version_tag(model, number, EVIDENCE_TAG, entry.evidence_uri)
    client.set_registered_model_tag(model, HEAD_TAG, entry.head)


def head(versions: Versions, model: str) -> str | None:
    """The head of a model's log, as MLflow keeps it."""
    return versions.model_tags(model).get(HEAD_TAG)


def wanted(versions: Versions, model: str, held: Mapping[str, int]) -> dict[str, int | None]:
    """Where the aliases of the stages should point, given who holds them; nowhere, if that version was deleted."""
    return {stage: held[stage] if stage in held and versions.has(model, held[stage]) else None for stage in SINGLE}


def astray(versions: Versions, model: str, wanted: Mapping[str, int | None]) -> list[Astray]:
    """Which aliases point elsewhere than they should."""
    present = versions.aliases(model)
    return [Astray(alias, should, f"the alias '{alias}' of '{model}' points at {_named(present.get(alias))}, "
                                  f"and the log says {_named(should)}")
            for alias, should in wanted.items() if present.get(alias) != should]


def put_back(versions: Versions, model: str, astray: Astray) -> None:
    """Have an alias point where it should."""
    if astray.version is None:
        versions.client.delete_registered_model_alias(model, astray.alias)
    else:
        versions.client.set_registered_model_alias(model, astray.alias, str(astray.version))


def _named(version: int | None) -> str:
    return "no version" if version is None else f"version {version}"


def _without(versions: Versions, model: str, alias: str, version: int) -> None:
    if versions.aliases(model).get(alias) == version:
        versions.client.delete_registered_model_alias(model, alias)
