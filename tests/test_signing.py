import json
import os
import shutil
import subprocess
import sys
from base64 import b64decode, b64encode
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from registry.keys import PASSWORD, Keys
from registry.signing import LEFT_OUT, changes, digests, sign, verify
from training.errors import CheckFailed, InputError

ROOT = Path(__file__).resolve().parent.parent
FILES = {
    "MLmodel": b"flavors: {}\n",
    "artifacts/weights.safetensors": bytes(range(256)) * 3,
    "artifacts/spec.json": b'{"name": "mail"}\n',
    "code/training/__init__.py": b"",
    ".gitignore": b"*.tmp\n",
}


def put(folder, files=FILES):
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


def seen(folder):
    return {path: (path.stat().st_mtime_ns, path.read_bytes() if path.is_file() else b"")
            for path in folder.rglob("*")}


@pytest.fixture
def pair(keys):
    """A key pair of the test's own."""
    pair = Keys(keys)
    pair.make({})
    return pair


@pytest.fixture
def signed(pair, tmp_path):
    """A folder and the signature over it."""
    folder = put(tmp_path / "model")
    sign(folder, tmp_path / "model.sig", pair)
    return folder, tmp_path / "model.sig"


def test_a_signature_names_the_key_that_made_it_and_the_folder_stays_as_it_was(pair, tmp_path, capfd):
    folder = put(tmp_path / "model")
    before = seen(folder)
    sign(folder, tmp_path / "model.sig", pair)
    assert verify(folder, tmp_path / "model.sig", pair) == pair.signer({}).id
    assert seen(folder) == before
    assert capfd.readouterr() == ("", "")
    bundle = json.loads((tmp_path / "model.sig").read_text())
    statement = json.loads(b64decode(bundle["dsseEnvelope"]["payload"]))
    assert [file["name"] for file in statement["predicate"]["resources"]] == sorted(FILES)


def test_a_copy_under_another_name_is_the_same(pair, signed, tmp_path):
    folder, signature = signed
    shutil.copytree(folder, tmp_path / "elsewhere" / "m")
    assert verify(tmp_path / "elsewhere" / "m", signature, pair)


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(name=st.sampled_from(sorted(name for name, content in FILES.items() if content)), place=st.integers(0),
       flip=st.integers(1, 255))
def test_any_changed_byte_of_any_file_is_found_and_the_file_named(pair, signed, name, place, flip):
    folder, signature = signed
    content = bytearray(FILES[name])
    content[place % len(content)] ^= flip
    (folder / name).write_bytes(content)
    with pytest.raises(CheckFailed, match=rf"changed: {name}\.$") as refusal:
        verify(folder, signature, pair)
    assert "\n" not in str(refusal.value) and refusal.value.exit_code == 1
    (folder / name).write_bytes(FILES[name])
    assert verify(folder, signature, pair)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(place=st.integers(0), flip=st.integers(1, 255))
def test_any_changed_byte_of_the_signature_does_no_harm_or_is_found(pair, signed, place, flip):
    folder, signature = signed
    content = bytearray(signature.read_bytes())
    content[place % len(content)] ^= flip
    other = signature.with_suffix(".other")
    other.write_bytes(content)
    said = pair.signer({}).id
    try:
        said = verify(folder, other, pair)
    except (CheckFailed, InputError) as error:
        refusal = str(error)
    else:
        refusal = ""
    assert said == pair.signer({}).id and "\n" not in refusal


@pytest.mark.parametrize(("harm", "words"), [
    (lambda folder: (folder / "code" / "late.py").write_text("import os"), r"new: code/late\.py\.$"),
    (lambda folder: (folder / ".git" / "hooks").mkdir(parents=True) or (folder / ".git" / "hooks" / "x").touch(),
     r"new: \.git/hooks/x\.$"),
    (lambda folder: (folder / "MLmodel").unlink(), r"missing: MLmodel\.$"),
    (lambda folder: (folder / "code/training/__init__.py").write_text("x"), r"changed: code/training/__init__\.py\.$"),
    (lambda folder: (folder / "MLmodel").rename(folder / "mlmodel"), r"missing: MLmodel; new: mlmodel\.$"),
    (lambda folder: (folder / "code" / LEFT_OUT).touch(), rf"new: code/{LEFT_OUT}\.$"),
    (lambda folder: [(folder / f"x{i}").touch() for i in range(8)], r"new: x0, x1, x2, x3, x4 and 3 more\.$"),
    (lambda folder: (folder / "a\nb").touch(), r"new: a\\nb\.$"),
    (lambda folder: (folder / "link").symlink_to(folder / "MLmodel"), "'link' in .* should be a plain file"),
    (lambda folder: (folder / "way").symlink_to("/etc"), "'way' in .* should be a plain file"),
    (lambda folder: (folder / LEFT_OUT).mkdir(), f"'{LEFT_OUT}' in .* should be a plain file"),
    (lambda folder: (folder / LEFT_OUT).symlink_to(folder / "MLmodel"), f"'{LEFT_OUT}' in .* should be a plain file"),
    (lambda folder: os.mkfifo(folder / "pipe"), "'pipe' in .* should be a plain file"),
    (lambda folder: shutil.rmtree(folder), "there is no folder"),
])
def test_what_is_added_taken_away_or_put_in_place_of_a_file_is_found(pair, signed, harm, words):
    folder, signature = signed
    harm(folder)
    with pytest.raises(CheckFailed, match=words):
        verify(folder, signature, pair)


def test_the_file_that_mlflow_writes_into_a_fetched_folder_is_left_out(pair, signed):
    folder, signature = signed
    (folder / LEFT_OUT).write_text("model_name: mail\n")
    assert verify(folder, signature, pair)
    assert LEFT_OUT not in digests(folder) and LEFT_OUT in digests(folder, but=None)


def test_pythons_caches_are_not_passed_over_and_the_remedy_is_named(pair, signed):
    folder, signature = signed
    put(folder, {"code/training/__pycache__/x.cpython-311.pyc": b"1", "__pycache__/model.cpython-311.pyc": b"2"})
    with pytest.raises(CheckFailed, match=r"new: __pycache__.* delete them: find ") as refusal:
        verify(folder, signature, pair)
    subprocess.run(str(refusal.value).split("delete them: ")[1], shell=True, check=True)
    assert verify(folder, signature, pair)
    put(folder, {"__pycache__/model.cpython-311.pyc": b"2", "code/late.py": b""})
    with pytest.raises(CheckFailed, match=r"new: __pycache__/model\.cpython-311\.pyc, code/late\.py\.$"):
        verify(folder, signature, pair)


def test_another_folder_is_not_what_was_signed(pair, signed, tmp_path):
    with pytest.raises(CheckFailed, match=r"changed: MLmodel\.$"):
        verify(put(tmp_path / "other", FILES | {"MLmodel": b"x"}), signed[1], pair)


def test_a_key_that_is_not_trusted_counts_for_nothing(signed, tmp_path):
    folder, signature = signed
    other = Keys(tmp_path / "others")
    with pytest.raises(InputError, match=r"no key is trusted in .*others/trusted"):
        verify(folder, signature, other)
    other.make({})
    with pytest.raises(InputError, match=r"was made by the key '[0-9a-f]{16}', which is not trusted here"):
        verify(folder, signature, Keys(other.folder))


def test_each_trusted_key_is_tried(pair, signed, tmp_path):
    folder, signature = signed
    shutil.copy(next((pair.folder / "trusted").glob("*.pem")), pair.folder / "trusted" / "0-again.pem")
    for other in ("before", "after"):
        Keys(tmp_path / other).make({})
        (made,) = (tmp_path / other / "trusted").glob("*.pem")
        shutil.copy(made, pair.folder / "trusted" / f"{other}.pem")
    pair = Keys(pair.folder)
    assert len(pair.trusted) == 3 and verify(folder, signature, pair) == pair.signer({}).id


def test_a_forger_who_claims_our_key_is_found(pair, signed, tmp_path):
    folder, signature = signed
    hint = json.loads(signature.read_text())["verificationMaterial"]["publicKey"]["hint"]
    forger = Keys(tmp_path / "forger")
    forger.make({})
    (folder / "MLmodel").write_bytes(b"forged")
    sign(folder, signature, forger)
    bundle = json.loads(signature.read_text())
    bundle["verificationMaterial"]["publicKey"]["hint"] = hint
    signature.write_text(json.dumps(bundle))
    with pytest.raises(CheckFailed, match="is damaged or forged"):
        verify(folder, signature, pair)


def test_a_statement_that_was_rewritten_is_found(pair, signed):
    folder, signature = signed
    (folder / "MLmodel").write_bytes(b"forged")
    bundle = json.loads(signature.read_text())
    statement = json.loads(b64decode(bundle["dsseEnvelope"]["payload"]))
    for file in statement["predicate"]["resources"]:
        file["digest"] = digests(folder)[file["name"]]
    bundle["dsseEnvelope"]["payload"] = b64encode(json.dumps(statement).encode()).decode()
    signature.write_text(json.dumps(bundle))
    with pytest.raises(CheckFailed, match="is damaged or forged"):
        verify(folder, signature, pair)


@pytest.mark.parametrize("content", ["", "{}", "[]", "null", '{"verificationMaterial": {"publicKey": {}}}', "\udcff"])
def test_a_signature_that_is_none_is_refused(pair, signed, content):
    folder, signature = signed
    signature.write_bytes(content.encode(errors="surrogateescape"))
    with pytest.raises(CheckFailed, match="is damaged or forged"):
        verify(folder, signature, pair)


def test_a_missing_signature_is_said_to_be_missing(pair, signed, tmp_path):
    with pytest.raises(InputError, match="there is no signature"):
        verify(signed[0], tmp_path / "none.sig", pair)


def test_a_signature_of_ours_that_leaves_files_out_is_refused(pair, tmp_path):
    from model_signing.hashing import Config as Hashing
    from model_signing.signing import Config

    folder = put(tmp_path / "model")
    Config().use_elliptic_key_signer(private_key=pair.private).set_hashing_config(
        Hashing().set_ignored_paths(paths=["code"], ignore_git_paths=True)).sign(folder, tmp_path / "model.sig")
    (folder / "code" / "late.py").touch()
    with pytest.raises(CheckFailed, match="does not cover all files"):
        verify(folder, tmp_path / "model.sig", pair)


def test_without_a_key_nothing_is_signed(tmp_path):
    with pytest.raises(InputError, match=r"there is no signing key at .*Make one: polarscore registry key"):
        sign(put(tmp_path / "model"), tmp_path / "model.sig", Keys(tmp_path / "own-keys"))
    assert not (tmp_path / "model.sig").exists()


def test_a_key_with_a_password_signs_with_it_alone(tmp_path, monkeypatch):
    keys = Keys(tmp_path / "own-keys")
    keys.make({PASSWORD: "sésame"})
    folder, signature = put(tmp_path / "model"), tmp_path / "model.sig"
    for wrong, words in ((None, "has a password"), ("open", "is wrong")):
        monkeypatch.delenv(PASSWORD, raising=False)
        if wrong:
            monkeypatch.setenv(PASSWORD, wrong)
        with pytest.raises(InputError, match=words):
            sign(folder, signature, keys)
    monkeypatch.setenv(PASSWORD, "sésame")
    sign(folder, signature, keys)
    monkeypatch.delenv(PASSWORD)
    assert verify(folder, signature, keys)


def test_what_cannot_be_signed_is_refused(pair, tmp_path):
    folder = put(tmp_path / "model")
    with pytest.raises(InputError, match="should not lie in the folder that it signs"):
        sign(folder, folder / "model.sig", pair)
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"there is no file in .*empty to sign"):
        sign(tmp_path / "empty", tmp_path / "model.sig", pair)
    with pytest.raises(InputError, match="there is no folder"):
        sign(tmp_path / "nowhere", tmp_path / "model.sig", pair)
    (folder / "link").symlink_to(folder / "MLmodel")
    with pytest.raises(InputError, match=r"'link' in .* should be a plain file"):
        sign(folder, tmp_path / "model.sig", pair)


def test_changes_are_named_by_kind():
    assert changes({"a": "1", "b": "1", "c": "1"}, {"a": "1", "b": "2", "d": "1"}) == (
        "changed: b; missing: c; new: d")
    assert changes({"a": "1"}, {"a": "1"}) == ""


@pytest.mark.slow
def test_the_tool_of_model_signing_agrees(pair, signed):
    folder, signature = signed
    (folder / LEFT_OUT).write_text("model_name: mail\n")
    command = [sys.executable, "-m", "model_signing", "verify", "key", str(folder), "--signature", str(signature),
               "--public_key", str(pair.trusted_files[0]), "--no-ignore-git-paths"]
    assert subprocess.run(command, cwd=ROOT, capture_output=True).returncode == 0
    (folder / "MLmodel").write_bytes(b"forged")
    assert subprocess.run(command, cwd=ROOT, capture_output=True).returncode != 0


def test_what_signs_is_loaded_late():
    code = "import sys, registry.signing; sys.exit('model_signing' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0
