"""What a killed process left is finished or undone; a log that is not whole is not built upon."""

from registry import aliases, witness
from registry.chain import Entry, content
from registry.history import Changing
from registry.opening import Registry
from registry.stages import SINGLE, holders
from training.errors import CheckFailed, InputError


def recover(registry: Registry, model: str, change: Changing) -> str | None:
    """Finish a change that had begun, undo one that had not. Gives a sentence of what was done; None: nothing to do.

    Raises:
        CheckFailed: the intention is not one that polarscore wrote.
    """
    entry = change.intention
    if entry is None:
        return None
    check_intention(registry, entry, change.last)
    what = f"{entry.action} of version {entry.version} of '{model}' to {entry.to_stage}"
    if aliases.begun(registry.versions, entry):
        aliases.apply(registry.versions, entry)
        change.log(entry)
        return f"finished an interrupted change: {what}"
    change.drop()
    return f"undid an interrupted change that had not begun: {what}"


def check_intention(registry: Registry, entry: Entry, last: Entry | None) -> None:
    """Refuse an intention that does not follow the log, or that no trusted key signed.

    Raises:
        CheckFailed: says so.
    """
    follows = (entry.seq, entry.previous) == (last.seq + 1 if last else 1, last.hash if last else "")
    if not follows or not registry.keys.made_by(content(entry), entry.signature or "", entry.key or ""):
        raise CheckFailed(f"the interrupted {entry.words} was not written by polarscore, or the log behind it has "
                          f"changed. Look at it: polarscore registry verify {entry.model}.")


def check_whole(registry: Registry, model: str, last: Entry | None) -> None:
    """Refuse to build on a log that is not the one seen before, or on aliases that are not where it says. Quick: the
    whole chain is for `registry.verification`.

    Raises:
        CheckFailed: the log has lost entries, or has others.
        InputError: an alias was moved by hand, or the log was never signed; names the command that mends it.
    """
    see = f"See: polarscore registry verify {model}."
    if last and last.key is None:
        raise InputError(f"the log of '{model}' ends in an entry without a signature. "
                         "To vouch for it, run: polarscore registry migrate")
    if (last.head if last else None) != aliases.head(registry.versions, model):
        raise CheckFailed(f"the log of '{model}' does not end where MLflow's tag {aliases.HEAD_TAG} says: entries were "
                          f"lost, or the tag was changed. {see}")
    if last and not registry.keys.made_by(content(last), last.signature or "", last.key or ""):
        raise CheckFailed(f"{last.words} is not as it was signed. {see}")
    seen = witness.remembered(registry.keys.heads, registry.versions.log_name(model))
    if seen and int(seen.split(":")[0]) >= (last.seq if last else 0) and (last is None or seen != last.head):
        raise CheckFailed(f"the log of '{model}' does not hold entry {seen.split(':')[0]} as this machine has seen it. "
                          f"{see}")
    held = holders(registry.history.moves(model))
    moved = aliases.astray(registry.versions, model, {stage: held.get(stage) for stage in SINGLE})
    if moved:
        raise InputError("; ".join(each.words for each in moved)
                         + f". To put it back, run: polarscore registry verify {model} --repair")
