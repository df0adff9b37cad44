"""The key pair that signs promotions, and the public keys that are trusted: in a folder of their own, never in a store.

    POLARSCORE_KEYS/            default ~/.config/polarscore
      signing.pem               the private key (ECDSA on P-256), mode 600; missing where nobody promotes
      trusted/*.pem             public keys; what was signed by another one counts as forged
      heads.json                what this machine has seen of the stage logs (`registry.witness`)

A password on the private key is read from `POLARSCORE_KEY_PASSWORD`.
"""

import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from training.errors import InputError
from training.state import State

PASSWORD = "POLARSCORE_KEY_PASSWORD"
_ALGORITHM = ec.ECDSA(hashes.SHA256())


@dataclass(frozen=True)
class Signer:
    """A private key. id: of its public key."""

    private: ec.EllipticCurvePrivateKey
    id: str
    path: Path

    def sign(self, content: bytes) -> str:
        """The signature of some bytes, as hexadecimal digits."""
        return self.private.sign(content, _ALGORITHM).hex()


@dataclass(frozen=True)
class Keys:
    """The folder of keys of a machine."""

    folder: Path

    @classmethod
    def of(cls, state: State) -> "Keys":
        """The keys that a state is used with.

        Raises:
            InputError: they would lie in the state folder, where whoever can change a version could sign it.
        """
        if state.keys.resolve().is_relative_to(state.home.resolve()):
            raise InputError(f"the keys in {state.keys} should not lie in the state folder {state.home}. "
                             "Set POLARSCORE_KEYS to a folder elsewhere.")
        return cls(state.keys)

    @property
    def private(self) -> Path:
        """Where the private key is, or would be."""
        return self.folder / "signing.pem"

    @property
    def heads(self) -> Path:
        """What this machine has seen of the stage logs."""
        return self.folder / "heads.json"

    def signer(self, environ: Mapping[str, str] = os.environ) -> Signer:
        """The private key.

        Raises:
            InputError: there is none, it cannot be read, is of another kind, or its password is missing or wrong.
        """
        try:
            content = self.private.read_bytes()
        except FileNotFoundError:
            raise InputError(f"there is no signing key at {self.private}. Make one: polarscore registry key. "
                             "Or set POLARSCORE_KEYS to the folder that holds yours.") from None
        except OSError as error:
            raise InputError(f"the signing key {self.private} cannot be read: {error.strerror}.") from None
        password = environ.get(PASSWORD)
        try:
            private = serialization.load_pem_private_key(content, password.encode() if password else None)
        except TypeError:
            raise InputError(f"the signing key {self.private} " + (
                f"has no password. Unset {PASSWORD}." if password else f"has a password. Set {PASSWORD}.")) from None
        except ValueError:
            raise InputError(f"the signing key {self.private} is damaged, or {PASSWORD} is wrong.") from None
        if not isinstance(private, ec.EllipticCurvePrivateKey) or private.curve.name != "secp256r1":
            raise InputError(f"the signing key {self.private} should be of the curve P-256. "
                             "Make one: polarscore registry key.")
        return Signer(private, key_id(private.public_key()), self.private)

    @cached_property
    def trusted(self) -> dict[str, ec.EllipticCurvePublicKey]:
        """The public keys that are trusted, by id.

        Raises:
            InputError: a file among them is none.
        """
        return {key_id(key): key for key in map(_public_key, self.trusted_files)}

    @property
    def trusted_files(self) -> list[Path]:
        """The files of the trusted public keys."""
        return sorted((self.folder / "trusted").glob("*.pem"))

    def made_by(self, content: bytes, signature: str, key: str) -> bool:
        """Whether a trusted key of that id made the signature (hexadecimal) of the content."""
        if key not in self.trusted:
            return False
        try:
            self.trusted[key].verify(bytes.fromhex(signature), content, _ALGORITHM)
        except (InvalidSignature, ValueError):
            return False
        return True

    def make(self, environ: Mapping[str, str] = os.environ) -> Signer:
        """Make a key pair and trust it. With a password if `POLARSCORE_KEY_PASSWORD` is set.

        Raises:
            InputError: there is a private key already, or the folder cannot be written.
        """
        private = ec.generate_private_key(ec.SECP256R1())
        password = environ.get(PASSWORD)
        locked = serialization.BestAvailableEncryption(password.encode()) if password else serialization.NoEncryption()
        pem = private.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, locked)
        name = key_id(private.public_key())
        try:
            (self.folder / "trusted").mkdir(parents=True, exist_ok=True, mode=0o700)
            # trusted first: a private key whose public one is unknown would sign what nobody can check
            (self.folder / "trusted" / f"{name}.pem").write_bytes(_pem(private.public_key()))
            draft = self.folder / f".signing-{os.getpid()}"
            try:
                with open(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
                    file.write(pem)
                os.link(draft, self.private)  # in one step, and never over another key
            finally:
                draft.unlink(missing_ok=True)
        except FileExistsError:
            (self.folder / "trusted" / f"{name}.pem").unlink(missing_ok=True)
            raise InputError(f"there is a signing key at {self.private} already. To change keys, move it away; "
                             "leave its public key in trusted/, where it proves what it signed.") from None
        except OSError as error:
            raise InputError(f"no key can be made in {self.folder}: {error.strerror}. "
                             "Set POLARSCORE_KEYS to a folder that can be written.") from None
        self.__dict__.pop("trusted", None)  # read before the key was there
        return Signer(private, name, self.private)


def key_id(key: ec.EllipticCurvePublicKey) -> str:
    """16 hexadecimal digits that name a public key: the head of the SHA-256 of its PEM form."""
    return hashlib.sha256(_pem(key)).hexdigest()[:16]


def _pem(key: ec.EllipticCurvePublicKey) -> bytes:
    return key.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)


def _public_key(path: Path) -> ec.EllipticCurvePublicKey:
    try:
        key = serialization.load_pem_public_key(path.read_bytes())
    except (OSError, ValueError):
        raise InputError(f"{path} is no public key. Expected a PEM file.") from None
    if not isinstance(key, ec.EllipticCurvePublicKey):
        raise InputError(f"{path} should be a key of the curve P-256.")
    return key
