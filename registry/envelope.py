"""A signature that model-signing wrote, checked by itself: the service needs neither model-signing nor Sigstore.

The file is a Sigstore bundle: a DSSE envelope (https://github.com/secure-systems-lab/dsse) around an in-toto statement
that lists the files with their SHA-256. Accepted is what model-signing 1 writes with an elliptic-curve key; what its
verifier also accepts for the sake of older signatures is refused.
"""

import base64
import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from training.errors import CheckFailed

SIGNATURE, PUBLIC_KEY = "scorer.sig", "scorer.pem"
"""The files beside a version's own: who signed them, and the key that tells."""

NOBODY = "none"
"""What `signed_by` says of a version that nobody signed."""

BUNDLE = "application/vnd.dev.sigstore.bundle.v0.3+json"
PAYLOAD = "application/vnd.in-toto+json"
STATEMENT = "https://in-toto.io/Statement/v1"
PREDICATE = "https://model_signing/signature/v1.0"

PublicKeys = Mapping[str, ec.EllipticCurvePublicKey]


@dataclass(frozen=True)
class Proof:
    """Who vouches for a version's files.

    signed_by: the id of the key, None if nobody signed. trusted: whether the key is one that this machine trusts,
    and not only the one that lies beside the files, which shows a changed byte and not that all was replaced.
    """

    signed_by: str | None = None
    trusted: bool = False


def verify(folder: Path, names: Iterable[str], signature: bytes, keys: PublicKeys) -> str:
    """The id of the key that signed exactly these files of a folder; those of the names that are there count.

    Raises:
        CheckFailed: the signature is damaged or another key's, or a file is changed, missing or new; names it.
    """
    key, signed = signed_digests(signature, keys)
    found = {name: _sha256(folder / name) for name in names if (folder / name).is_file()}
    changed = sorted(name for name in signed.keys() | found.keys() if signed.get(name) != found.get(name))
    if changed:
        raise CheckFailed(f"{' and '.join(changed)} should be as key {key} signed. Found something else")
    return key


def signed_digests(signature: bytes, keys: PublicKeys) -> tuple[str, dict[str, str]]:
    """The id of the key that signed, and the SHA-256 of every file that it signed, by name.

    Raises:
        CheckFailed: the signature is damaged, or not one by these keys.
    """
    try:
        bundle = json.loads(signature)
        hint, envelope = bundle["verificationMaterial"]["publicKey"]["hint"], bundle["dsseEnvelope"]
        payload, raw = envelope["payload"], envelope["signatures"][0]["sig"]
        if bundle != _bundle(hint, payload, raw):
            raise ValueError
        payload, raw = (base64.b64decode(text, validate=True) for text in (payload, raw))
    except (KeyError, IndexError, TypeError, ValueError, RecursionError):
        raise CheckFailed("the signature is damaged") from None
    key = next((key for key, public in keys.items() if hashlib.sha256(pem(public)).hexdigest() == hint), None)
    if key is None:
        raise CheckFailed(f"it should be signed by {' or '.join(sorted(keys)) or 'a trusted key'}. "
                          f"Found the signature of key {str(hint)[:16]!r}")
    try:
        keys[key].verify(raw, _authenticated(payload), ec.ECDSA(hashes.SHA256()))
        return key, _digests(json.loads(payload))
    except (InvalidSignature, KeyError, TypeError, ValueError):
        raise CheckFailed(f"the signature is damaged, or was not made by key {key}") from None


def pem(key: ec.EllipticCurvePublicKey) -> bytes:
    """A public key as a PEM file."""
    return key.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _bundle(hint: str, payload: str, raw: str) -> dict[str, Any]:
    """What model-signing writes around a payload and its signature, and nothing else."""
    return {
        "mediaType": BUNDLE,
        "verificationMaterial": {"publicKey": {"hint": hint}, "tlogEntries": []},
        "dsseEnvelope": {"payload": payload, "payloadType": PAYLOAD, "signatures": [{"sig": raw, "keyid": ""}]},
    }


def _authenticated(payload: bytes) -> bytes:
    """DSSE's pre-authentication encoding, which is what is signed."""
    return b"DSSEv1 %d %s %d %s" % (len(PAYLOAD), PAYLOAD.encode(), len(payload), payload)


def _digests(statement: Any) -> dict[str, str]:
    how = statement["predicate"]["serialization"]
    if (statement["_type"], statement["predicateType"], how["method"], how["hash_type"]) != (
            STATEMENT, PREDICATE, "files", "sha256"):
        raise ValueError
    return {file["name"]: file["digest"] for file in statement["predicate"]["resources"]}
