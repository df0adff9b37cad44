"""Is the registry whole? The log's chain, its heads, MLflow's aliases and tags, the versions' files, the evidence."""

from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import NamedTuple

from registry import aliases, evidence, witness
from registry.chain import Entry, faults, sealed
from registry.database import now
from registry.integrity import changes, logged
from registry.opening import Registry
from registry.promotion import said, signer_of
from registry.recovery import check_intention, log_names, recover, remembered
from registry.stages import ARCHIVED, CANDIDATE, MOVES, SINGLE, holders, stages_of
from registry.versions import STAGE_TAG, Version
from training.errors import CheckFailed, InputError
from training.tracking import DIGEST_TAG

REPAIR = "repair"
TRAINING = timedelta(seconds=10)  # between a version's registration and its alias there are seconds


@dataclass(frozen=True)
class Finding:
    """Something that is not as it should be.

    kind: `log`, `interrupted`, `alias`, `tag`, `version` or `evidence`. Aliases, tags of stages and interrupted changes
    can be repaired; the others need a backup, or a decision.
    """

    model: str
    kind: str
    what: str


def verify(registry: Registry, model: str) -> list[Finding]:
    """All that is not whole about a model; an empty list if all is well. Keeps the head that it saw.

    Raises:
        InputError: neither MLflow nor the log knows the model.
    """
    with registry.history.changing(model):  # so that no change is seen half done
        try:
            entries = logged(registry, model)
        except CheckFailed as error:
            return [Finding(model, "log", str(error))]
        if model not in registry.versions.models():
            if not entries:
                registry.versions.known(model)
            return [Finding(model, "version", f"the model '{model}' has {len(entries)} entries in the log, "
                                              "and is gone from MLflow")]
        found = [Finding(model, "log", fault) for fault in _log(registry, model, entries)]
        found += [Finding(model, "interrupted", fault) for fault in _interrupted(registry, model, entries)]
        versions = registry.versions.list(model)
        found += [Finding(model, "alias", each.words) for each in _astray(registry, model, entries, versions)]
        found += [Finding(model, "tag", each.words) for each in _tags(entries, versions)]
    found += _versions(registry, entries, versions)
    if not found and entries:
        _remember(registry, model, entries[-1])
    return found


def _remember(registry: Registry, model: str, last: Entry) -> None:
    """Keep the head that was found whole; a machine that checks alone may have a folder that it cannot write."""
    with suppress(InputError, OSError):
        for name in log_names(registry, model):
            witness.remember(registry.keys.heads, name, last.head)


def repair(registry: Registry, model: str, who: str) -> list[str]:
    """Finish or undo an interrupted change; put aliases and tags of stages back to what the log says, and log that.

    Gives a sentence for each thing done. A log that was tampered with is left as it is.

    Raises:
        CheckFailed: the log is not whole, so that it cannot say where the aliases should be.
        InputError: no key to sign with.
    """
    who, done = said(who, "--who"), []
    with registry.history.changing(model) as change:
        if settled := recover(registry, model, change):
            done.append(settled)
        entries = logged(registry, model)
        if broken := _log(registry, model, entries):
            raise CheckFailed(f"{broken[0]}. By such a log nothing is repaired: put the database back from a backup.")
        versions = registry.versions.list(model)
        moved, tags = _astray(registry, model, entries, versions), _tags(entries, versions)
        entry = None
        if (moved or tags) and entries:
            why = "; ".join([*(each.words for each in moved), *(tag.words for tag in tags)])
            last = entries[-1]
            entry = sealed(Entry(who, REPAIR, model, last.version, last.to_stage, last.to_stage, None, why), last,
                           signer_of(registry, model))
            change.intend(entry)
            aliases.apply(registry.versions, entry)  # from here on it has begun
        for each in moved:
            aliases.put_back(registry.versions, model, each)
            done.append(f"put back: {each.words}")
        for tag in tags:
            if tag.value is None:
                registry.versions.client.delete_model_version_tag(model, str(tag.version), tag.key)
            else:
                registry.versions.client.set_model_version_tag(model, str(tag.version), tag.key, tag.value)
            done.append(f"put back: {tag.words}")
        if entry:
            change.log(entry)
    return done


def _log(registry: Registry, model: str, entries: list[Entry]) -> list[str]:
    kept = aliases.head(registry.versions, model)
    found = faults(entries, registry.keys.made_by)
    end = entries[-1].head if entries else None
    try:
        under_way = registry.history.intention(model)
    except CheckFailed:
        under_way = None  # `_interrupted` says so
    if kept != end and not (under_way and kept == under_way.head):
        found.append(f"MLflow's tag {aliases.HEAD_TAG} of '{model}' says that the log ends in {_head(kept)}, and it "
                     f"ends in {_head(end)}: entries were cut off or put in, or the tag was changed")
    known = {entry.head for entry in entries}
    seen = next((seen for seen in remembered(registry, model) if seen not in known), None)
    if seen:
        found.append(f"this machine has seen the log of '{model}' with {_head(seen)}, which it does not hold: entries "
                     f"were cut off, or the log was written anew. If that is right, remove it in {registry.keys.heads}")
    return found


def _interrupted(registry: Registry, model: str, entries: list[Entry]) -> list[str]:
    try:
        entry = registry.history.intention(model)
        if entry is None:
            return []
        check_intention(registry, entry, entries[-1] if entries else None)
    except CheckFailed as error:
        return [str(error).rstrip(".")]
    return [f"a change was interrupted on {entry.at:%Y-%m-%d %H:%M} UTC: {entry.action} of version {entry.version} of "
            f"'{model}' to {entry.to_stage}, by {entry.who}. To finish or undo it, run: polarscore registry verify "
            f"{model} --repair"]


def _astray(
    registry: Registry, model: str, entries: list[Entry], versions: list[Version]
) -> list[aliases.Astray]:
    there = {version.version for version in versions}
    held = {stage: number for stage, number in holders(entries).items() if number in there}
    wanted = {stage: held.get(stage) for stage in SINGLE} | _candidate(registry, entries, versions)
    return aliases.astray(registry.versions, model, wanted)


def _candidate(registry: Registry, entries: list[Entry], versions: list[Version]) -> dict[str, int | None]:
    """Where the alias `candidate` should be: at what was trained last, or made a candidate again since.

    At no version if that one was archived by hand. Empty where nobody can tell: also while a training, which sets the
    alias last, may still be at it.
    """
    trained = max((version for version in versions if DIGEST_TAG in version.tags), default=None,
                  key=lambda version: version.version)
    moves = [entry for entry in reversed(entries) if entry.action in MOVES]
    again = next((entry for entry in moves if entry.to_stage == CANDIDATE), None)
    if trained is None and again is None:
        return {}
    if trained and now() - trained.created < TRAINING and registry.versions.aliases(trained.model).get(
            CANDIDATE, 0) < trained.version:
        return {}
    number = trained.version if trained else 0
    if again and (trained is None or again.at > trained.created):
        number = again.version
    latest = next((entry for entry in moves if entry.version == number), None)
    return {CANDIDATE: None if latest and latest.to_stage == ARCHIVED else number}


class _Tag(NamedTuple):
    """A tag of a version that is not as the log says: what it should be, None for none, and the matter in words."""

    version: int
    key: str
    value: str | None
    words: str


def _tags(entries: list[Entry], versions: list[Version]) -> list[_Tag]:
    """The tags `stage` and `evidence` that are wrong."""
    stages, proofs = stages_of(entries), {entry.version: entry.evidence_uri for entry in entries if entry.evidence_uri}
    found = []
    for version in versions:
        stage, proof = stages.get(version.version, CANDIDATE), proofs.get(version.version)
        for key, value, present in ((STAGE_TAG, stage, version.tags.get(STAGE_TAG, CANDIDATE)),
                                    (aliases.EVIDENCE_TAG, proof, version.tags.get(aliases.EVIDENCE_TAG))):
            if present != value:
                found.append(_Tag(version.version, key, value, f"the tag '{key}' of {version.uri} says "
                                  f"{present or 'nothing'}, and the log says {value or 'nothing'}"))
    return found


def _versions(registry: Registry, entries: list[Entry], versions: list[Version]) -> list[Finding]:
    """Versions that the log names and MLflow lacks, and those whose files, tags or evidence have changed."""
    there = {version.version: version for version in versions}
    found = []
    for number in dict.fromkeys(entry.version for entry in entries):
        if number not in there:
            found.append(Finding(entries[0].model, "version", f"version {number} of '{entries[0].model}', which "
                                                              "the log names, is gone from MLflow"))
    bundles = {entry.evidence_uri: entry for entry in entries if entry.evidence_uri}
    latest = {entry.version: uri for uri, entry in bundles.items()}
    for uri, entry in bundles.items():
        if version := there.get(entry.version):
            expected = str(entry.evidence)
            texts = (evidence.check(registry.versions, version, uri, expected, registry.keys)
                     if uri == latest[version.version] else evidence.check_bundle(version, uri, expected))
            found += [Finding(version.model, "evidence", text)
                      for text in [*texts, *_deleted(registry, version, uri)]]
    waiting = [version for version in versions if CANDIDATE in version.aliases
               and registry.history.evidence(version.model, version.version) is None]
    found += [Finding(version.model, "version", text) for version in waiting for text in changes(registry, version)]
    return list(dict.fromkeys(found))


def _deleted(registry: Registry, version: Version, uri: str) -> list[str]:
    """Says so if the run that keeps the evidence was deleted: MLflow keeps its files until the next `mlflow gc`."""
    from mlflow.exceptions import MlflowException

    run = uri.removeprefix("runs:/").partition("/")[0]
    try:
        if registry.versions.client.get_run(run).info.lifecycle_stage == "active":
            return []
    except MlflowException:
        return []  # `evidence.check` names what is not there at all
    return [f"version {version.version} of '{version.model}': the run of the evidence {uri} is deleted in MLflow, and "
            f"`mlflow gc` would remove it. To keep it, run: mlflow runs restore --run-id {run}"]


def _head(head: str | None) -> str:
    return "no entry" if head is None else f"entry {head.split(':')[0]} ({head.split(':')[-1][:12]}…)"


