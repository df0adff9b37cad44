"""What may leave the registry as a Bento: the exact bytes that were signed, and what is known of them."""

import json
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from registry.envelope import NOBODY, PUBLIC_KEY, SIGNATURE, pem
from registry.keys import Keys
from registry.versions import PRODUCTION, STAGING, Version, Versions
from training.errors import CheckFailed, InputError
from training.spec import SOURCES, SPEC, WEIGHTS
from training.spec import digest as digest_of
from training.tracking import DIGEST_TAG

WORDS = {"pass": "passed", "fail": "failed", "unknown": "unknown"}


@dataclass(frozen=True)
class Released:
    """A version on its way to a Bento.

    folder: its own files and, if it is signed, the signature and the public key; nobody else writes there.
    labels: `stage`, `digest` of the files and `signed_by`; of a signed version `evidence` (its digest), `gates`.
    """

    folder: Path
    model: str
    version: str
    labels: dict[str, str]


@contextmanager
def release(
    versions: Versions, version: Version, evidence: tuple[str, str] | None, keys: Keys, allow_candidate: bool = False
) -> Iterator[Released]:
    """A copy of a version's files, checked against the evidence of its promotion; it goes away at the end.

    evidence: place and digest of the bundle that its latest promotion left, as the log says; None: no promotion.
    allow_candidate: also release what is neither in staging nor in production, without a signature if it has none.

    Raises:
        InputError: its stage, or the lack of evidence, forbids it; or its files cannot be fetched.
        CheckFailed: the evidence is not what was logged, or the files are not what was signed; names those changed.
    """
    if version.stage not in (STAGING, PRODUCTION) and not allow_candidate:
        raise InputError(f"{version.uri} should be in staging or production to be bundled. Found it in "
                         f"{version.stage}. Promote it: polarscore registry promote {version.uri} --to staging. "
                         "Or bundle it as it is: --allow-candidate.")
    if evidence is None and not allow_candidate:
        raise InputError(f"{version.uri} is in {version.stage}, and the log knows of no promotion with evidence. "
                         "An older polarscore promoted it. Promote a newer version, or bundle it as it is: "
                         "--allow-candidate.")
    with tempfile.TemporaryDirectory(prefix="polarscore-release-") as place:
        folder = Path(place) / "version"
        _copy(versions.folder(version), folder)
        labels = {"stage": version.stage, "digest": digest_of(folder)}
        if evidence is None:
            if version.tags.get(DIGEST_TAG, labels["digest"]) != labels["digest"]:
                raise CheckFailed(f"the files of {version.uri} are not those that were registered")
            labels |= {"signed_by": NOBODY}
        else:
            labels |= _prove(version, folder, *evidence, keys, Path(place))
        yield Released(folder, version.model, str(version.version), labels)


def _copy(source: Path, target: Path) -> None:
    target.mkdir()
    for name in (WEIGHTS, SPEC, SOURCES):
        if (source / name).is_file():
            shutil.copyfile(source / name, target / name)


def _prove(version: Version, folder: Path, uri: str, logged: str, keys: Keys, place: Path) -> dict[str, str]:
    """Check the folder by the evidence bundle, and add the signature and the key that made it."""
    from registry.evidence import digest, fetch
    from registry.signing import verify

    bundle = place / "evidence"
    shutil.copytree(fetch(uri), bundle)  # what is checked is what is read
    if digest(bundle) != logged:
        raise CheckFailed(f"the evidence of {version.uri}'s promotion at {uri} is not what the log says. "
                          "See: polarscore registry verify")
    facts = json.loads((bundle / "evidence.json").read_text(encoding="utf-8"))
    to = facts["promotion"]["to_stage"]
    if version.stage in (STAGING, PRODUCTION) and to != version.stage:
        raise CheckFailed(f"{version.uri} is in {version.stage} by its alias, and its latest promotion was to {to}. "
                          "See: polarscore registry verify")
    key = verify(folder, bundle / SIGNATURE, keys)
    shutil.copyfile(bundle / SIGNATURE, folder / SIGNATURE)
    (folder / PUBLIC_KEY).write_bytes(pem(keys.trusted[key]))
    return {"signed_by": key, "evidence": logged, "gates": summary(facts)}


def summary(facts: Mapping[str, Any]) -> str:
    """What the gates of a promotion decided, in a line: `production: 12 passed, 1 unknown`."""
    states = Counter(gate["state"] for gate in facts["decision"]["gates"])
    told = [f"{states[state]} {word}" for state, word in WORDS.items() if states[state]]
    return f"{facts['promotion']['to_stage']}: {', '.join(told) or 'no gates'}"
