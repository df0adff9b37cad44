"""Signatures over the files of a folder, made and checked offline by model-signing with the keys of `registry.keys`.

A signature is a sigstore bundle (JSON): an in-toto statement that names every file with its SHA-256, signed by ECDSA on
P-256. One file is left out: `registered_model_meta`, which MLflow writes into whatever folder it fetches.
"""

import base64
import hashlib
import json
import os
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from registry.keys import PASSWORD, Keys, key_id
from training.errors import CheckFailed, InputError

LEFT_OUT = "registered_model_meta"
_CACHE = "__pycache__"
_MOST_NAMED = 5
_MALFORMED = (ValueError, KeyError, TypeError, IndexError, AttributeError, InvalidSignature)


def sign(folder: Path, target: Path, keys: Keys) -> None:
    """Write the signature over all files of a folder to a file outside of it.

    Raises:
        InputError: no key to sign with, or the folder is missing, is empty, or holds what is no plain file.
    """
    signer = keys.signer()
    if target.resolve().is_relative_to(folder.resolve()):
        raise InputError(f"the signature {target} should not lie in the folder that it signs.")
    if not listed(folder):
        raise InputError(f"there is no file in {folder} to sign.")
    from model_signing.signing import Config

    password = os.environ.get(PASSWORD)
    config = Config().use_elliptic_key_signer(
        private_key=signer.path,
        password=password.encode() if password else None)  # type: ignore[arg-type]  # goes to cryptography as it is
    try:
        config.set_hashing_config(_hashing()).sign(folder, target)
    except (OSError, ValueError) as error:
        raise InputError(f"{folder} cannot be signed: {str(error).splitlines()[0]}") from None


def verify(folder: Path, signature: Path, keys: Keys) -> str:
    """Check that the files of a folder are those that were signed. Gives the id of the trusted key that signed them.

    Raises:
        CheckFailed: a file is changed, missing or new; names it. Or the signature is damaged or forged.
        InputError: there is no signature, or its key is not trusted here.
    """
    hint, statement = _read(signature)
    public = _trusted(hint, signature, keys)
    from model_signing.verifying import Config

    try:
        present = listed(folder)
    except InputError as error:
        raise CheckFailed(str(error)) from None
    try:
        Config().use_elliptic_key_verifier(public_key=public).set_hashing_config(_hashing()).verify(folder, signature)
    except OSError as error:
        raise InputError(f"{folder} cannot be read: {error.strerror}.") from None
    except _MALFORMED as error:
        if not str(error).startswith("Signature mismatch"):
            raise CheckFailed(f"the signature {signature} is damaged or forged.") from None
        signed = {entry["name"]: entry["digest"] for entry in statement["predicate"]["resources"]}
        found = changes(signed, {name: _sha256(path) for name, path in present.items()})
        raise CheckFailed(f"the files in {folder} are not those that were signed: {found}.{_remedy(folder, found)}"
                          ) from None
    if set(statement["predicate"]["serialization"].get("ignore_paths", ())) != {LEFT_OUT}:
        raise CheckFailed(f"the signature {signature} does not cover all files: it was made in another way.")
    return hint[:16]


def digests(folder: Path, but: str | None = LEFT_OUT) -> dict[str, str]:
    """SHA-256 of each file of a folder, by its path in it, sorted; `but` one that is left out, as in a signature.

    Raises:
        InputError: the folder is missing, or holds what is no plain file.
    """
    return {name: _sha256(path) for name, path in listed(folder, but).items()}


def listed(folder: Path, but: str | None = LEFT_OUT) -> dict[str, Path]:
    """The files of a folder by their paths in it, sorted; `but` one that is left out, as in a signature.

    Raises:
        InputError: the folder is missing, or holds what is no plain file, a symbolic link for one.
    """
    if not folder.is_dir():
        raise InputError(f"there is no folder {folder}.")
    found = {}
    paths = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*")}
    for name, path in sorted(paths.items()):
        if path.is_symlink() or not (path.is_file() or (path.is_dir() and name != but)):
            raise InputError(f"'{name}' in {folder} should be a plain file. Links and the like are not signed.")
        if path.is_file() and name != but:
            found[name] = path
    return found


def changes(then: Mapping[str, str], now: Mapping[str, str]) -> str:
    """Which files differ, given their digests: `changed: a; missing: b; new: c, d`. Empty if none does."""
    kinds = {
        "changed": [name for name in then if name in now and then[name] != now[name]],
        "missing": [name for name in then if name not in now],
        "new": [name for name in now if name not in then],
    }
    return "; ".join(f"{kind}: {_few(names)}" for kind, names in kinds.items() if names)


def _remedy(folder: Path, found: str) -> str:
    """Python leaves compiled code beside code that is loaded in place. It would be run, so it is not passed over."""
    if not found.startswith("new: ") or any(_CACHE not in name for name in found.split(", ")):
        return ""
    return (f" Python leaves these where a version is loaded in place; delete them: "
            f"find {shlex.quote(str(folder))} -name {_CACHE} -exec rm -r {{}} +")


def _few(names: list[str]) -> str:
    more = f" and {len(names) - _MOST_NAMED} more" if len(names) > _MOST_NAMED else ""
    return ", ".join(name.encode("unicode_escape").decode() for name in sorted(names)[:_MOST_NAMED]) + more


def _hashing() -> Any:
    from model_signing.hashing import Config

    return Config().set_ignored_paths(paths=[LEFT_OUT], ignore_git_paths=False)


def _read(signature: Path) -> tuple[str, dict[str, Any]]:
    """What a signature says, before it is checked: the SHA-256 of its public key, and its statement."""
    try:
        content = json.loads(signature.read_text(encoding="utf-8"))
        hint = content["verificationMaterial"]["publicKey"]["hint"]
        statement = json.loads(base64.b64decode(content["dsseEnvelope"]["payload"]))
        if not isinstance(hint, str) or not isinstance(statement, dict):
            raise TypeError
    except FileNotFoundError:
        raise InputError(f"there is no signature {signature}.") from None
    except OSError as error:
        raise InputError(f"the signature {signature} cannot be read: {error.strerror}.") from None
    except _MALFORMED:
        raise CheckFailed(f"the signature {signature} is damaged or forged.") from None
    return hint, statement


def _trusted(hint: str, signature: Path, keys: Keys) -> Path:
    """The file of the trusted key that a signature names."""
    if not keys.trusted:
        raise InputError(f"no key is trusted in {keys.folder / 'trusted'}, so no signature can be checked. "
                         "Put the public keys there that you trust, or set POLARSCORE_KEYS.")
    if hint[:16] not in keys.trusted:
        raise InputError(f"the signature {signature} was made by the key '{hint[:16]}', which is not trusted here. "
                         f"If you trust it, put its public key into {keys.folder / 'trusted'}.")
    return next(path for path in keys.trusted_files
                if key_id(cast("Any", load_pem_public_key(path.read_bytes()))) == hint[:16])


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
