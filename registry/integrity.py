"""Are a version's files those that were registered, and those that its promotion signed?"""

from registry.evidence import check
from registry.opening import Registry
from registry.versions import Version
from training.errors import CheckFailed, InputError
from training.model import digest
from training.tracking import DIGEST_TAG


def changes(registry: Registry, version: Version) -> list[str]:
    """What is not as it was registered or signed, a sentence each; none if all is well.

    A version that was promoted is compared with the evidence of its latest promotion: files by signature, tags by
    value. Another one with the digest that its training left as a tag.
    """
    found = registry.history.evidence(version.model, version.version)
    if found is not None:
        return check(registry.versions, version, *found, registry.keys)
    expected = version.tags.get(DIGEST_TAG)
    if expected is None:
        return [f"{version.uri} has no tag {DIGEST_TAG}, by which its files could be told: train it again"]
    try:
        present = digest(registry.versions.folder(version))
    except InputError as error:
        return [str(error).rstrip(".")]
    if present != expected:
        return [f"the files of {version.uri} are not those that were registered: their digest is {present[:12]}…, and "
                f"its tag {DIGEST_TAG} says {expected[:12]}…"]
    return []


def check_intact(registry: Registry, version: Version) -> None:
    """Refuse a version of which something has changed.

    Raises:
        CheckFailed: names what.
    """
    if found := changes(registry, version):
        raise CheckFailed(f"{'; '.join(found)}. Nothing was changed")
