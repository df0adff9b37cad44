"""From a model of BentoML's store to a scorer: what is loaded is what was checked against its signature."""

import os
import shutil
import tempfile
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from registry.envelope import NOBODY, PUBLIC_KEY, SIGNATURE, Proof, verify
from registry.keys import Keys, key_id
from serving.scorer import BY_DEFAULT, How, Scorer
from training.errors import CheckFailed, InputError
from training.spec import SOURCES, SPEC, WEIGHTS, digest

ALLOW_UNSIGNED = "POLARSCORE_ALLOW_UNSIGNED"
FILES = (WEIGHTS, SPEC, SOURCES)


class Stored(NamedTuple):
    """A model of the store: its folder, what it says of itself, and when it came."""

    folder: Path
    facts: Mapping[str, Any]
    created: datetime


def stored(models: Path, model: str, version: str) -> list[Stored]:
    """What a store has of a version, the newest first: the same files may have been signed twice."""
    found = []
    for path in models.glob("*/*/model.yaml"):
        try:
            info = yaml.safe_load(path.read_text(encoding="utf-8"))
            each = Stored(path.parent, info["metadata"], datetime.fromisoformat(str(info["creation_time"])))
            if (each.facts["model"], str(each.facts["version"])) == (model, version):
                found.append(each)
        except (OSError, ValueError, KeyError, TypeError, yaml.YAMLError):
            continue  # another's model, or damaged
    return sorted(found, key=lambda each: each.created, reverse=True)


def open_signed(
    models: Path, model: str, version: str, keys: Keys, files: str | None = None, device: str | None = None,
    how: How = BY_DEFAULT,
) -> Scorer:
    """The scorer of a version that the store has, signed.

    files: the digest that its files must have, as the log of stages says; so no version passes for another one.

    Raises:
        InputError: the store does not have it, or it cannot be loaded here.
        CheckFailed: it has it, and the files are refused.
    """
    refused: CheckFailed | None = None
    for found in stored(models, model, version):
        try:
            if not (found.folder / SIGNATURE).is_file():
                raise CheckFailed(f"the files in {found.folder} are not signed")
            if files not in (None, found.facts["digest"]):
                raise CheckFailed(f"the files in {found.folder} are not those of version {version} that the log names")
            return open_scorer(found.folder, found.facts, keys, device, how)
        except CheckFailed as error:
            refused = refused or error
    if refused:
        raise refused
    raise InputError(f"version {version} is not in the model store of this machine. "
                     f"Bundle it here: polarscore bundle --model models:/{model}/{version}")


def open_scorer(
    folder: Path, facts: Mapping[str, Any], keys: Keys, device: str | None = None, how: How = BY_DEFAULT
) -> Scorer:
    """The scorer of a model's folder, if its files are those that were signed.

    facts: `model`, `version`, `digest` of the files and `signed_by`, as `registry.export` wrote them.

    Raises:
        InputError: a file is damaged, the encoder is missing, or a trusted key is none.
        CheckFailed: the files are not those that were signed or exported, or not signed by a trusted key.
    """
    with tempfile.TemporaryDirectory(prefix="polarscore-scorer-") as place:
        copy = Path(place)  # so that nobody changes what is checked before it is loaded
        try:
            for name in (*FILES, SIGNATURE, PUBLIC_KEY):
                if (folder / name).is_file():
                    shutil.copyfile(folder / name, copy / name)
        except OSError as error:
            raise InputError(f"the files in {folder} cannot be read: {error.strerror}.") from None
        try:
            proof = prove(copy, str(facts.get("signed_by", NOBODY)), keys)
            if digest(copy) != facts["digest"]:
                raise CheckFailed("they are not those that were exported")
        except CheckFailed as error:
            raise CheckFailed(f"the files in {folder} are refused: {error}. "
                              f"Bundle the version again: polarscore bundle --model …") from None
        return Scorer.from_folder(copy, str(facts["version"]), device, name=str(facts["model"]), proof=proof,
                                  how=how)


def prove(folder: Path, expected: str, keys: Keys) -> Proof:
    """Who signed a folder's files: by the keys that this machine trusts, where there are any, else by the one beside.

    expected: the id of the key that signed when they were exported, or `none`.

    Raises:
        InputError: a trusted key is none.
        CheckFailed: they are not those that were signed, or the signature is missing or not by such a key.
    """
    signature = folder / SIGNATURE
    if not signature.is_file():
        if expected != NOBODY:
            raise CheckFailed(f"they were signed by key {expected}, and {SIGNATURE} is missing")
        if keys.trusted and os.environ.get(ALLOW_UNSIGNED) != "1":
            raise CheckFailed(f"they are not signed, and this machine trusts only what is. Set {ALLOW_UNSIGNED}=1, or "
                              "serve with --allow-unsigned, to serve them all the same")
        return Proof()
    if keys.trusted:
        return Proof(verify(folder, FILES, signature.read_bytes(), keys.trusted), trusted=True)
    return Proof(verify(folder, FILES, signature.read_bytes(), _own_key(folder / PUBLIC_KEY)))


def _own_key(path: Path) -> dict[str, ec.EllipticCurvePublicKey]:
    try:
        key = serialization.load_pem_public_key(path.read_bytes())
    except (OSError, ValueError):
        key = None
    if not isinstance(key, ec.EllipticCurvePublicKey):
        raise CheckFailed(f"{PUBLIC_KEY} is missing or damaged")
    return {key_id(key): key}
