import json
import stat

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519

from registry import witness
from registry.keys import Keys, key_id
from training.errors import InputError
from training.state import State


@pytest.fixture
def fresh(tmp_path):
    return Keys(tmp_path / "keys")


def pem(key):
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8,
                             serialization.NoEncryption())


def test_a_key_pair_signs_and_proves(fresh):
    made = fresh.make()
    assert fresh.signer().id == made.id and list(fresh.trusted) == [made.id]
    signature = made.sign(b"a promotion")
    assert fresh.made_by(b"a promotion", signature, made.id)
    assert not fresh.made_by(b"another promotion", signature, made.id)
    assert not fresh.made_by(b"a promotion", signature, "0" * 16)
    assert not fresh.made_by(b"a promotion", "no signature", made.id)


def test_the_private_key_is_for_its_owner_alone(fresh):
    fresh.make()
    assert stat.S_IMODE(fresh.private.stat().st_mode) == 0o600


def test_a_key_is_never_overwritten(fresh):
    fresh.make()
    before = fresh.private.read_bytes()
    with pytest.raises(InputError, match="already"):
        fresh.make()
    assert fresh.private.read_bytes() == before and len(fresh.trusted_files) == 1


def test_a_password_locks_the_key(fresh):
    password = {"POLARSCORE_KEY_PASSWORD": "tulips"}
    fresh.make(password)
    assert b"ENCRYPTED" in fresh.private.read_bytes()
    assert fresh.signer(password).id in fresh.trusted
    with pytest.raises(InputError, match=r"has a password. Set POLARSCORE_KEY_PASSWORD"):
        fresh.signer({})
    with pytest.raises(InputError, match="is damaged, or POLARSCORE_KEY_PASSWORD is wrong") as refusal:
        fresh.signer({"POLARSCORE_KEY_PASSWORD": "roses"})
    assert "roses" not in str(refusal.value)


@pytest.mark.parametrize(("content", "message"), [
    (None, "there is no signing key at .*Make one: polarscore registry key"),
    (b"", "is damaged"),
    (b"-----BEGIN PRIVATE KEY-----\nnonsense\n-----END PRIVATE KEY-----\n", "is damaged"),
    (pem(ed25519.Ed25519PrivateKey.generate()), "should be of the curve P-256"),
    (pem(ec.generate_private_key(ec.SECP384R1())), "should be of the curve P-256"),
])
def test_a_key_that_is_missing_or_wrong_has_one_clear_line(fresh, content, message):
    if content is not None:
        fresh.folder.mkdir()
        fresh.private.write_bytes(content)
    with pytest.raises(InputError, match=message) as refusal:
        fresh.signer({})
    assert "\n" not in str(refusal.value)


def test_a_trusted_file_that_is_no_key_is_named(fresh):
    fresh.make()
    (fresh.folder / "trusted" / "bob.pem").write_text("hello")
    with pytest.raises(InputError, match=r"bob.pem is no public key"):
        _ = Keys(fresh.folder).trusted


def test_keys_never_lie_in_the_state_folder(tmp_path):
    state = State.from_environment({"POLARSCORE_HOME": str(tmp_path), "POLARSCORE_KEYS": str(tmp_path / "x" / "keys")})
    with pytest.raises(InputError, match="should not lie in the state folder"):
        Keys.of(state)


def test_where_keys_are_by_default():
    assert str(State.from_environment({"HOME": "/home/ada"}).keys) == "/home/ada/.config/polarscore"
    assert str(State.from_environment({"XDG_CONFIG_HOME": "/x"}).keys) == "/x/polarscore"


def test_the_id_of_a_key_is_that_which_model_signing_gives(fresh):
    import hashlib

    made = fresh.make()
    assert hashlib.sha256(fresh.trusted_files[0].read_bytes()).hexdigest().startswith(made.id)
    assert key_id(made.private.public_key()) == made.id


def test_a_witness_remembers_the_newest_head(tmp_path):
    path = tmp_path / "heads.json"
    assert witness.remembered(path, "mail") is None
    witness.remember(path, "mail", "2:aa")
    witness.remember(path, "mail", "1:bb")  # a slower process
    witness.remember(path, "spam", "9:cc")
    assert (witness.remembered(path, "mail"), witness.remembered(path, "spam")) == ("2:aa", "9:cc")


def test_a_damaged_witness_is_named(tmp_path):
    path = tmp_path / "heads.json"
    for content in ("{", "[]", json.dumps({"mail": 3})):
        path.write_text(content)
        with pytest.raises(InputError, match=r"heads.json is damaged"):
            witness.remembered(path, "mail")


def test_without_a_folder_of_keys_nothing_is_remembered(tmp_path):
    witness.remember(tmp_path / "none" / "heads.json", "mail", "1:aa")
    assert not (tmp_path / "none").exists()
