"""Are a version's files those that were registered, and those that its promotion signed? Is the log whole that says so?
"""

from registry.chain import Entry, faults
from registry.evidence import check
from registry.opening import Registry
from registry.signing import listed
from registry.stages import SINGLE, holders
from registry.versions import Version
from training.errors import CheckFailed, InputError
from training.spec import digest
from training.tracking import DATA_TAG, DIGEST_TAG


def changes(registry: Registry, version: Version) -> list[str]:
    """What is not as it was registered or signed, a sentence each; none if all is well.

    A version that was promoted is compared with the evidence of its latest promotion: files by signature, the tags
    that training left by value. Another one with the digest that its training left as a tag.
    """
    found = registry.history.evidence(version.model, version.version)
    if found is not None:
        return check(registry.versions, version, *found, registry.keys, binding=True)
    expected = version.tags.get(DIGEST_TAG)
    if expected is None:
        return [f"{version.uri} has no tag {DIGEST_TAG}, by which its files could be told: train it again"]
    try:
        folder = registry.versions.folder(version)
        listed(folder.parent)  # a link may lead elsewhere tomorrow
        present = digest(folder)
        if present != expected:
            return [f"the files of {version.uri} are not those that were registered: their digest is {present[:12]}…, "
                    f"and its tag {DIGEST_TAG} says {expected[:12]}…"]
        data = registry.versions.spec(version).data_digest
    except InputError as error:
        return [str(error).rstrip(".")]
    told = version.tags.get(DATA_TAG, data)
    return [] if told == data else [f"{version.uri} was trained on data with the digest {data[:12]}…, and its tag "
                                    f"{DATA_TAG} says {told[:12]}…"]


def check_intact(registry: Registry, version: Version) -> None:
    """Refuse a version of which something has changed, or whose log has.

    Raises:
        CheckFailed: names what.
    """
    check_log(registry, version.model)
    if found := changes(registry, version):
        raise CheckFailed(f"{'; '.join(found)}. Nothing was changed")


def check_log(registry: Registry, model: str) -> None:
    """Refuse a log in which an entry is not as it was written.

    Quick: the last entry's signature covers, by the hashes, all before it. Theirs are for `registry.verification`.

    Raises:
        CheckFailed: names the first one.
    """
    entries = logged(registry, model)
    last = entries[-1].signature if entries else None

    def made_by(said: bytes, signature: str, key: str) -> bool:
        return signature != last or registry.keys.made_by(said, signature, key)

    if found := faults(entries, made_by):
        raise CheckFailed(f"{found[0]}. Nothing was changed. See: polarscore registry verify {model}")


def check_held(registry: Registry, version: Version) -> None:
    """Refuse a version that has a stage by its alias, and not by the log.

    Raises:
        CheckFailed: says so, or the log is not as it was written.
    """
    check_log(registry, version.model)
    holder = holders(registry.history.moves(version.model)).get(version.stage)
    if version.stage in SINGLE and holder != version.version:
        raise CheckFailed(f"{version.uri} is in {version.stage} by its alias, and the log says "
                          f"{'no version' if holder is None else f'version {holder}'}. "
                          f"To put the alias back, run: polarscore registry verify {version.model} --repair")


def logged(registry: Registry, model: str) -> list[Entry]:
    """A model's entries, the oldest first.

    Raises:
        CheckFailed: a row holds what polarscore does not write, so that they cannot be read.
    """
    try:
        return registry.history.entries(model)
    except (TypeError, ValueError) as error:
        raise CheckFailed(f"the log of '{model}' holds a row that polarscore did not write, and cannot be read: {error}"
                          ) from None
