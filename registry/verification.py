"""Is the registry whole? The log's chain, its heads, MLflow's aliases and tags, the versions' files, the evidence."""

from dataclasses import dataclass

from registry import aliases, evidence, witness
from registry.chain import Entry, faults, sealed
from registry.integrity import changes
from registry.opening import Registry
from registry.recovery import check_intention, recover
from registry.stages import ARCHIVED, CANDIDATE, MOVES, SINGLE, holders, stages_of
from registry.versions import STAGE_TAG, Version
from training.errors import CheckFailed
from training.tracking import DIGEST_TAG

REPAIR = "repair"


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
    entries = registry.history.entries(model)
    if model not in registry.versions.models():
        if not entries:
            registry.versions.known(model)
        return [Finding(model, "version", f"the model '{model}' has {len(entries)} entries in the log, "
                                          "and is gone from MLflow")]
    found = [Finding(model, "log", fault) for fault in _log(registry, model, entries)]
    found += [Finding(model, "interrupted", fault) for fault in _interrupted(registry, model, entries)]
    versions = registry.versions.list(model)
    found += [Finding(model, "alias", each.words) for each in _astray(registry, model, entries, versions)]
    found += [Finding(model, "tag", text) for text, _, _ in _tags(entries, versions)]
    found += _versions(registry, entries, versions)
    if not found and entries:
        witness.remember(registry.keys.heads, registry.versions.log_name(model), entries[-1].head)
    return found


def repair(registry: Registry, model: str, who: str) -> list[str]:
    """Finish or undo an interrupted change; put aliases and tags of stages back to what the log says, and log that.

    Gives a sentence for each thing done. A log that was tampered with is left as it is.

    Raises:
        CheckFailed: the log is not whole, so that it cannot say where the aliases should be.
        InputError: no key to sign with.
    """
    done = []
    with registry.history.changing(model) as change:
        if settled := recover(registry, model, change):
            done.append(settled)
        entries = registry.history.entries(model)
        if broken := _log(registry, model, entries):
            raise CheckFailed(f"{broken[0]}. By such a log nothing is repaired: put the database back from a backup.")
        versions = registry.versions.list(model)
        moved = _astray(registry, model, entries, versions)
        entry = None
        if moved and entries:
            why = "; ".join(each.words for each in moved)
            last = entries[-1]
            entry = sealed(Entry(who, REPAIR, model, last.version, last.to_stage, last.to_stage, None, why), last,
                           registry.keys.signer())
            change.intend(entry)
        for each in moved:
            aliases.put_back(registry.versions, model, each)
            done.append(f"put back: {each.words}")
        if entry:
            aliases.apply(registry.versions, entry)
            change.log(entry)
        for text, number, stage in _tags(entries, versions):
            registry.versions.client.set_model_version_tag(model, str(number), STAGE_TAG, stage)
            done.append(f"put back: {text}")
    return done


def _log(registry: Registry, model: str, entries: list[Entry]) -> list[str]:
    kept = aliases.head(registry.versions, model)
    found = faults(entries, [], registry.keys.made_by)
    end = entries[-1].head if entries else None
    under_way = registry.history.intention(model)
    if kept != end and not (under_way and kept == under_way.head):
        found.append(f"MLflow's tag {aliases.HEAD_TAG} of '{model}' says that the log ends in {_head(kept)}, and it "
                     f"ends in {_head(end)}: entries were cut off or put in, or the tag was changed")
    seen = witness.remembered(registry.keys.heads, registry.versions.log_name(model))
    if seen and seen not in {entry.head for entry in entries}:
        found.append(f"this machine has seen the log of '{model}' with {_head(seen)}, which it does not hold: entries "
                     f"were cut off, or the log was written anew. If that is right, remove it in {registry.keys.heads}")
    return found


def _interrupted(registry: Registry, model: str, entries: list[Entry]) -> list[str]:
    entry = registry.history.intention(model)
    if entry is None:
        return []
    try:
        check_intention(registry, entry, entries[-1] if entries else None)
    except CheckFailed as error:
        return [str(error).rstrip(".")]
    return [f"a change was interrupted on {entry.at:%Y-%m-%d %H:%M} UTC: {entry.action} of version {entry.version} of "
            f"'{model}' to {entry.to_stage}, by {entry.who}. To finish or undo it, run: polarscore registry verify "
            f"{model} --repair"]


def _astray(
    registry: Registry, model: str, entries: list[Entry], versions: list[Version]
) -> list[aliases.Astray]:
    held = holders(entries)
    wanted = {stage: held.get(stage) for stage in SINGLE} | _candidate(entries, versions)
    return aliases.astray(registry.versions, model, wanted)


def _candidate(entries: list[Entry], versions: list[Version]) -> dict[str, int | None]:
    """Where the alias `candidate` should be: at what was trained last, or made a candidate again since.

    At no version if that one was archived by hand. Empty where nobody can tell.
    """
    trained = max((version for version in versions if DIGEST_TAG in version.tags), default=None,
                  key=lambda version: version.version)
    moves = [entry for entry in reversed(entries) if entry.action in MOVES]
    again = next((entry for entry in moves if entry.to_stage == CANDIDATE), None)
    if trained is None and again is None:
        return {}
    number = trained.version if trained else 0
    if again and (trained is None or again.at > trained.created):
        number = again.version
    latest = next((entry for entry in moves if entry.version == number), None)
    return {CANDIDATE: None if latest and latest.to_stage == ARCHIVED else number}


def _tags(entries: list[Entry], versions: list[Version]) -> list[tuple[str, int, str]]:
    """What each tag `stage` that is wrong says, its version, and what it should say."""
    stages = stages_of(entries)
    return [(f"the tag '{STAGE_TAG}' of {version.uri} says {version.tags.get(STAGE_TAG, CANDIDATE)}, and the log says "
             f"{stages.get(version.version, CANDIDATE)}", version.version, stages.get(version.version, CANDIDATE))
            for version in versions
            if version.tags.get(STAGE_TAG, CANDIDATE) != stages.get(version.version, CANDIDATE)]


def _versions(registry: Registry, entries: list[Entry], versions: list[Version]) -> list[Finding]:
    """Versions that the log names and MLflow lacks, and those whose files, tags or evidence have changed."""
    there = {version.version: version for version in versions}
    found = []
    for number in dict.fromkeys(entry.version for entry in entries):
        if number not in there:
            found.append(Finding(entries[0].model, "version", f"version {number} of '{entries[0].model}', which "
                                                              "the log names, is gone from MLflow"))
    checked = {(entry.evidence_uri, entry.evidence, entry.version) for entry in entries if entry.evidence_uri}
    for uri, digest, number in sorted(checked, key=str):
        if version := there.get(number):
            found += [Finding(version.model, "evidence", text)
                      for text in evidence.check(registry.versions, version, str(uri), str(digest), registry.keys)]
    waiting = [version for version in versions if CANDIDATE in version.aliases
               and registry.history.evidence(version.model, version.version) is None]
    found += [Finding(version.model, "version", text) for version in waiting for text in changes(registry, version)]
    return list(dict.fromkeys(found))


def _head(head: str | None) -> str:
    return "no entry" if head is None else f"entry {head.split(':')[0]} ({head.split(':')[-1][:12]}…)"


