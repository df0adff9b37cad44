import base64
import json
import random

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from registry.envelope import signed_digests, verify
from registry.keys import Keys, key_id
from registry.signing import sign
from registry.signing import verify as full_verify
from training.errors import CheckFailed, PolarscoreError

NAMES = ("weights.safetensors", "spec.json", "sources.py")
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


@pytest.fixture
def signed(tmp_path, keys):
    """A folder, its signature, and the keys that made it."""
    folder, own = tmp_path / "version", Keys(keys)
    own.make()
    folder.mkdir()
    for place, name in enumerate(NAMES):
        (folder / name).write_bytes(random.Random(place).randbytes(200))
    sign(folder, tmp_path / "scorer.sig", own)
    return folder, tmp_path / "scorer.sig", own


def ours(folder, signature, own):
    try:
        return verify(folder, NAMES, signature.read_bytes(), own.trusted)
    except CheckFailed:
        return None


def theirs(folder, signature, own):
    try:
        return full_verify(folder, signature, own)
    except PolarscoreError:
        return None


def test_what_model_signing_signed_is_accepted(signed):
    _folder, signature, own = signed
    assert ours(*signed) == theirs(*signed) == own.signer().id
    _, digests = signed_digests(signature.read_bytes(), own.trusted)
    assert sorted(digests) == sorted(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_a_changed_byte_or_a_missing_file_is_named_and_refused_by_both(signed, name):
    folder, signature, own = signed
    whole = (folder / name).read_bytes()
    for place in (0, 100, 199):
        (folder / name).write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1:])
        assert theirs(*signed) is None
        with pytest.raises(CheckFailed, match=name):
            verify(folder, NAMES, signature.read_bytes(), own.trusted)
    (folder / name).unlink()
    assert theirs(*signed) is None
    with pytest.raises(CheckFailed, match=name):
        verify(folder, NAMES, signature.read_bytes(), own.trusted)


def test_a_file_that_was_not_signed_is_refused_by_both(tmp_path, keys):
    folder, own = tmp_path / "v", Keys(keys)
    own.make()
    folder.mkdir()
    (folder / "spec.json").write_text("{}")
    sign(folder, tmp_path / "s", own)
    assert ours(folder, tmp_path / "s", own)
    (folder / "sources.py").write_text("new")
    assert ours(folder, tmp_path / "s", own) is theirs(folder, tmp_path / "s", own) is None


def test_no_changed_signature_is_accepted_that_model_signing_refuses(signed):
    _folder, signature, _own = signed
    whole, chance, accepted = signature.read_bytes(), random.Random(7), 0
    for _ in range(150):
        place = chance.randrange(len(whole))
        signature.write_bytes(whole[:place] + bytes([whole[place] ^ (1 << chance.randrange(8))]) + whole[place + 1:])
        if ours(*signed):
            accepted += 1
            assert theirs(*signed)
    assert accepted < 5  # the bits that base64 leaves open


def test_another_payload_under_the_same_signature_is_refused_by_both(signed):
    folder, signature, _own = signed
    (folder / "spec.json").write_text("forged")
    content = json.loads(signature.read_text())
    payload = json.loads(base64.b64decode(content["dsseEnvelope"]["payload"]))
    for entry in payload["predicate"]["resources"]:
        if entry["name"] == "spec.json":
            entry["digest"] = "0" * 64
    content["dsseEnvelope"]["payload"] = base64.b64encode(json.dumps(payload).encode()).decode()
    signature.write_text(json.dumps(content))
    assert ours(*signed) is theirs(*signed) is None


def test_another_key_is_refused_and_named(signed):
    folder, signature, own = signed
    other = ec.generate_private_key(ec.SECP256R1()).public_key()
    with pytest.raises(CheckFailed, match=f"by {key_id(other)}. Found the signature of key '{own.signer().id}'"):
        verify(folder, NAMES, signature.read_bytes(), {key_id(other): other})
    content = json.loads(signature.read_text())
    content["verificationMaterial"]["publicKey"]["hint"] = "0" * 64
    signature.write_text(json.dumps(content))
    assert ours(*signed) is theirs(*signed) is None


@pytest.mark.parametrize("content", [b"", b"{}", b"[]", b"null", b"\xff", b"[" * 100_000, b'{"dsseEnvelope": 1}'])
def test_what_is_no_signature_is_refused(signed, content):
    folder, signature, own = signed
    signature.write_bytes(content)
    with pytest.raises(CheckFailed, match="the signature is damaged"):
        verify(folder, NAMES, content, own.trusted)
