"""What a killed process left is finished or undone; a log that is not whole is not built upon."""

from registry import aliases, witness
from registry.chain import Entry, content
from registry.history import Changing
from registry.opening import Registry
from registry.stages import holders
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
    """Refuse an intention that does not follow the log, that no trusted key signed, or that was logged once before.

    Raises:
        CheckFailed: says so.
    """
    follows = (entry.seq, entry.previous) == (last.seq + 1 if last else 1, last.hash if last else "")
    follows = follows and all(int(seen.split(":")[0]) < entry.seq for seen in remembered(registry, entry.model))
    if not follows or not registry.keys.made_by(content(entry), entry.signature or "", entry.key or ""):
        raise CheckFailed(f"the interrupted {entry.words} was not written by polarscore, or the log behind it has "
                          f"changed. Look at it: polarscore registry verify {entry.model}.")


def log_names(registry: Registry, model: str) -> list[str]:
    """The names under which a machine remembers a log: one by MLflow, where the age of a model can be changed; and one
    by its first entry, which nobody can write anew who lacks the key.
    """
    first = registry.history.first(model)
    return [registry.versions.log_name(model), *([f"{model}@{first}"] if first else [])]


def remembered(registry: Registry, model: str) -> list[str]:
    """The heads of a log as this machine has seen them."""
    found = [witness.remembered(registry.keys.heads, name) for name in log_names(registry, model)]
    return [head for head in found if head]


def was_signed(registry: Registry, model: str) -> bool:
    """Whether a log has been signed once, by what is kept outside of it."""
    return bool(aliases.head(registry.versions, model) or remembered(registry, model))


def check_whole(registry: Registry, model: str, last: Entry | None) -> None:
    """Refuse to build on a log that is not the one seen before, or on aliases that are not where it says. Quick: the
    whole chain is for `registry.verification`.

    Raises:
        CheckFailed: the log has lost entries, or has others.
        InputError: an alias was moved by hand, or the log was never signed; names the command that mends it.
    """
    see = f"See: polarscore registry verify {model}."
    if last and last.key is None and not was_signed(registry, model):
        raise InputError(f"the log of '{model}' ends in an entry without a signature. "
                         "To vouch for it, run: polarscore registry migrate")
    if (last.head if last else None) != aliases.head(registry.versions, model):
        raise CheckFailed(f"the log of '{model}' does not end where MLflow's tag {aliases.HEAD_TAG} says: entries were "
                          f"lost, or the tag was changed. {see}")
    if last and not registry.keys.made_by(content(last), last.signature or "", last.key or ""):
        raise CheckFailed(f"{last.words} is not as it was signed. {see}")
    for seen in remembered(registry, model):
        if int(seen.split(":")[0]) >= (last.seq if last else 0) and (last is None or seen != last.head):
            raise CheckFailed(f"the log of '{model}' does not hold entry {seen.split(':')[0]} as this machine has seen "
                              f"it. {see}")
    held = aliases.wanted(registry.versions, model, holders(registry.history.moves(model)))
    moved = aliases.astray(registry.versions, model, held)
    if moved:
        raise InputError("; ".join(each.words for each in moved)
                         + f". To put it back, run: polarscore registry verify {model} --repair")
