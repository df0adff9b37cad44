"""A version's way out of the registry: the bytes that were signed, into a Bento or into the store beside it."""

from registry.export import build, export
from registry.integrity import check_held
from registry.opening import Registry
from registry.release import release
from registry.stages import SINGLE
from registry.versions import Version


def bundle(registry: Registry, version: Version, allow_candidate: bool = False) -> str:
    """Bundle a version; gives the Bento's tag.

    allow_candidate: also one that is neither in staging nor in production.

    Raises:
        InputError: its stage forbids it, or its `sources.py` imports what cannot travel.
        CheckFailed: its files or its evidence are not those that were signed.
        PolarscoreError: BentoML cannot build it.
    """
    check_held(registry, version)
    to = version.stage if version.stage in SINGLE else None
    evidence = registry.history.evidence(version.model, version.version, to)
    with release(registry.versions, version, evidence, registry.keys, allow_candidate) as out:
        return build(out.folder, out.model, out.version, out.labels, registry.state)


def offer(registry: Registry, version: Version) -> str:
    """Put a version into this machine's model store, where a service that follows the registry finds it. Its tag there.

    Raises:
        InputError, CheckFailed: as for `bundle`.
    """
    check_held(registry, version)
    evidence = registry.history.evidence(version.model, version.version, version.stage)
    with release(registry.versions, version, evidence, registry.keys) as out:
        return export(out.folder, out.model, out.version, out.labels, registry.state)
