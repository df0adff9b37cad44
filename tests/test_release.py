import json
from dataclasses import replace
from datetime import UTC, datetime

import pytest
import yaml

from registry import evidence
from registry.envelope import NOBODY
from registry.export import build, export
from registry.keys import Keys
from registry.release import release, summary
from registry.signing import sign
from registry.versions import Version
from training.errors import CheckFailed, InputError
from training.spec import digest
from training.state import State

# BentoML, when first imported, uses old names of pathspec's and pydantic's.
pytestmark = [
    pytest.mark.filterwarnings("ignore:GitWildMatchPattern:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:The `__get_pydantic_core_schema__` method:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:mlflow"),
]

FILES = ("weights.safetensors", "spec.json", "sources.py")
GATES = [{"name": name, "state": state} for name, state in
         (("ece", "pass"), ("auroc", "pass"), ("latency", "unknown"))]


class Folders:
    """Versions whose files lie in one folder."""

    def __init__(self, folder):
        self._folder = folder

    def folder(self, version):
        return self._folder


@pytest.fixture
def own(keys):
    Keys(keys).make()
    return Keys(keys)


@pytest.fixture
def version():
    return Version("Mail", 3, "production", ("production",), "run", datetime.now(UTC), {})


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "artifacts"
    folder.mkdir()
    for name in FILES:
        (folder / name).write_text(f"# {name}")
    return folder


@pytest.fixture
def bundle(tmp_path, folder, own, monkeypatch):
    """An evidence bundle of the promotion, which is what `fetch` fetches."""
    bundle = tmp_path / "evidence"
    bundle.mkdir()
    facts = {"promotion": {"to_stage": "production"}, "decision": {"gates": GATES}}
    (bundle / "evidence.json").write_text(json.dumps(facts))
    sign(folder, bundle / "scorer.sig", own)
    monkeypatch.setattr(evidence, "fetch", lambda uri, into=None: bundle)
    return bundle


def logged(bundle):
    return "runs:/1/evidence", evidence.digest(bundle)


def test_the_signed_bytes_leave_with_signature_key_and_labels(version, folder, bundle, own):
    with release(Folders(folder), version, logged(bundle), own) as released:
        assert {path.name for path in released.folder.iterdir()} == {*FILES, "scorer.sig", "scorer.pem"}
        assert all((released.folder / name).read_bytes() == (folder / name).read_bytes() for name in FILES)
        (trusted,) = own.trusted_files
        assert (released.folder / "scorer.pem").read_bytes() == trusted.read_bytes()
        assert (released.model, released.version) == ("Mail", "3")
        assert released.labels == {
            "stage": "production", "digest": digest(folder), "signed_by": own.signer().id,
            "evidence": evidence.digest(bundle), "gates": "production: 2 passed, 1 unknown"}
        assert all(isinstance(value, str) and len(value) <= 64 for value in released.labels.values())
    assert not released.folder.exists()


def test_what_is_changed_after_the_check_does_not_leave(version, folder, bundle, own):
    before = {name: (folder / name).read_bytes() for name in FILES}
    with release(Folders(folder), version, logged(bundle), own) as released:
        for name in FILES:
            (folder / name).write_bytes(b"changed meanwhile")
        assert {name: (released.folder / name).read_bytes() for name in FILES} == before


@pytest.mark.parametrize("name", FILES)
def test_a_changed_byte_is_refused_and_its_file_named(version, folder, bundle, own, name):
    whole = (folder / name).read_bytes()
    (folder / name).write_bytes(bytes([whole[0] ^ 1]) + whole[1:])
    with pytest.raises(CheckFailed, match=name), release(Folders(folder), version, logged(bundle), own):
        pass
    (folder / name).unlink()
    with pytest.raises(CheckFailed, match=name), release(Folders(folder), version, logged(bundle), own):
        pass


@pytest.mark.parametrize("name", ["evidence.json", "scorer.sig"])
def test_changed_evidence_is_refused(version, folder, bundle, own, name):
    expected = logged(bundle)
    (bundle / name).write_bytes((bundle / name).read_bytes() + b" ")
    with pytest.raises(CheckFailed, match="not what the log says"), release(Folders(folder), version, expected, own):
        pass


def test_a_signature_by_a_key_that_is_not_trusted_is_refused(version, folder, bundle, own, tmp_path):
    other = Keys(tmp_path / "other")
    other.make()
    with pytest.raises(InputError, match="not trusted"), release(Folders(folder), version, logged(bundle), other):
        pass


@pytest.mark.parametrize("stage", ["candidate", "archived"])
def test_what_is_in_neither_stage_is_refused_unless_told(version, folder, own, stage):
    version = replace(version, stage=stage, aliases=())
    with pytest.raises(InputError, match=f"Found it in {stage}.*--allow-candidate"), release(
            Folders(folder), version, None, own):
        pass
    with release(Folders(folder), version, None, own, allow_candidate=True) as released:
        assert {path.name for path in released.folder.iterdir()} == set(FILES)
        assert released.labels == {"stage": stage, "digest": digest(folder), "signed_by": NOBODY}


def test_a_stage_without_evidence_or_with_that_of_another_is_refused(version, folder, bundle, own):
    with pytest.raises(InputError, match="no promotion with evidence"), release(Folders(folder), version, None, own):
        pass
    staged = replace(version, stage="staging")
    with pytest.raises(CheckFailed, match="latest promotion was to production"), release(
            Folders(folder), staged, logged(bundle), own):
        pass


def test_an_archived_version_keeps_its_proof(version, folder, bundle, own):
    archived = replace(version, stage="archived")
    with release(Folders(folder), archived, logged(bundle), own, allow_candidate=True) as released:
        assert released.labels["signed_by"] == own.signer().id


def test_no_gate_is_said_so():
    facts = {"promotion": {"to_stage": "staging"}, "decision": {"gates": []}}
    assert summary(facts) == "staging: no gates"
    assert summary(facts | {"decision": {"gates": [*GATES, {"state": "fail"}]}}) == (
        "staging: 2 passed, 1 failed, 1 unknown")


def test_the_store_gets_the_signature_and_says_who_signed(version, folder, bundle, own, tmp_path):
    state = State.from_environment({"POLARSCORE_HOME": str(tmp_path / "state")}).prepare()
    with release(Folders(folder), version, logged(bundle), own) as released:
        tag = export(released.folder, released.model, released.version, released.labels, state)
        kept = state.bento_home / "models" / tag.replace(":", "/")
        assert {path.name for path in kept.iterdir()} == {*FILES, "scorer.sig", "scorer.pem", "model.yaml"}
        facts = yaml.safe_load((kept / "model.yaml").read_text())
        assert facts["metadata"] == {"model": "Mail", "version": "3", "digest": digest(folder),
                                     "signed_by": own.signer().id}
        assert facts["labels"] == released.labels
        (kept / "scorer.sig").write_text("changed")
        export(released.folder, released.model, released.version, released.labels, state)
        assert (kept / "scorer.sig").read_bytes() == (bundle / "scorer.sig").read_bytes()
    with release(Folders(folder), replace(version, stage="candidate"), None, own, allow_candidate=True) as released:
        assert export(released.folder, released.model, released.version, released.labels, state) != tag


@pytest.mark.slow
def test_two_builds_of_a_version_are_equal_in_content(version, folder, bundle, own, tmp_path):
    built = []
    for name in ("one", "other/place"):
        state = State.from_environment({"POLARSCORE_HOME": str(tmp_path / name)}).prepare()
        with release(Folders(folder), version, logged(bundle), own) as released:
            built.append((build(released.folder, released.model, released.version, released.labels, state), {
                path.relative_to(state.bento_home).as_posix(): content(path)
                for path in state.bento_home.rglob("*") if path.is_file()}))
    assert built[0] == built[1]
    tag, files = built[0]
    made = yaml.safe_load(files[f"bentos/{tag.replace(':', '/')}/bento.yaml"])
    assert made["labels"]["gates"] == "production: 2 passed, 1 unknown"
    assert made["labels"]["signed_by"] == own.signer().id


def content(path):
    """A file's bytes, without the moments of creation in BentoML's own."""
    said = path.read_bytes()
    if path.name not in ("bento.yaml", "model.yaml"):
        return said
    return b"\n".join(line for line in said.split(b"\n") if not line.strip().startswith(b"creation_time:"))
