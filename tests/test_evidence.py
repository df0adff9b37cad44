import json
import os
import shutil
import stat
import subprocess
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from registry.environment import checkout, packages, surroundings
from registry.evidence import Occasion, check, digest, fetch, keep, write
from registry.facts import lasting, plain
from registry.gates import PASS, Compared, Decision, Gate
from registry.keys import Keys
from registry.signing import verify
from registry.versions import Versions
from training.audit_result import Guarantee
from training.errors import CheckFailed, InputError
from training.harmonizer import make_harmonizer
from training.model import RiskModel, save
from training.spec import EncoderSpec, Spec
from training.state import State
from training.task import Columns, Source
from training.tracking import open_run
from training.worth import Worth

SECRET = "my landlord keeps the deposit"
GUARANTEE = Guarantee(0.05, 0.1, 0.2, 0.4, 0.049, 100, "Under 5 % of them are wrong, with confidence 0.9.")
OCCASION = Occasion("promote", "candidate", "production", None, "ada", "it is better",
                    datetime(2026, 11, 26, 14, 3, 27, tzinfo=UTC))
TAGS = {"valid.n": "40", "valid.ece": "0.1", "valid.r2": "None", "warnings": '["few votes"]', "digest": "1" * 64}
PARTS = {"evidence.json", "card.md", "card.html", "model.sig", "scorer.sig"}
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:mlflow")


@dataclass(frozen=True)
class Judged:
    decision: Decision
    compared: Compared | None
    task: str | None
    task_digest: str | None
    split: str
    labelled: int
    measured: object = None


def judged(labelled=40):
    risk = np.random.default_rng(0).uniform(size=60)
    error = np.where(np.arange(60) < labelled, np.random.default_rng(1).uniform(size=60) < risk, np.nan)
    decision = Decision((Gate("ece", PASS, "0.050 beside 0.071", 0.05, float("nan")),))
    return Judged(decision, Compared(risk, None, error), "mail-audit", "2" * 64, "test", labelled)


BLIND = Judged(Decision(()), None, None, None, "valid", 0)


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    """A state with the model `mail`, its versions 1 and 2 made without training, of a run that has a commit."""
    home = tmp_path_factory.mktemp("evidence") / "state"
    state = State.from_environment({"POLARSCORE_HOME": str(home)}).prepare()
    client = Versions(state).client
    client.create_registered_model("mail")
    with open_run(state, "mail", []) as run:
        client.set_tag(run.run_id, "mlflow.source.git.commit", "3" * 40)
    for number in (1, 2):
        folder = home / "files" / str(number)
        spec = Spec(
            name="mail", classes=("ham", "spam"), sources=(Source(name="friend", family="people"),), stored_sources=1,
            columns=Columns(path="data.csv"), encoder=EncoderSpec("minilm", "0.1.0", 8), harmonizer="linear",
            scalariser="linear", pareto_weights={"LLM": 1.0, "friend": number / 2}, data_digest="0" * 64,
            sharpness=1.5, guarantee=GUARANTEE if number == 2 else None,
        )
        worth = Worth(np.full(2, 0.5), np.full((2, 2, 2), 0.5), np.zeros((2, 2)), np.ones((2, 2)))
        save(RiskModel(spec, make_harmonizer("linear", 8, 2, seed=number), worth), folder / "artifacts")
        (folder / "requirements.txt").write_text("mlflow==3.17.2\ntorch>=2\n--extra-index-url https://u:pw@host/x\n")
        (folder / "input_example.json").write_text(json.dumps({"columns": ["text"], "data": [[SECRET]]}))
        client.create_model_version("mail", folder.as_uri(), run.run_id, tags=TAGS)
    return home


@pytest.fixture
def state(template):
    return State.from_environment({"POLARSCORE_HOME": str(template)})


@pytest.fixture
def versions(state):
    return Versions(state)


@pytest.fixture
def pair(keys):
    """A key pair of the test's own."""
    pair = Keys(keys)
    pair.make({})
    return pair


@pytest.fixture
def files(versions):
    """The folder of version 1 in MLflow, put back as it was afterwards."""
    folder = versions.folder(versions.number("mail", 1)).parent
    kept = folder.with_name("kept")
    shutil.copytree(folder, kept)
    yield folder
    shutil.rmtree(folder)
    kept.rename(folder)


@pytest.fixture
def kept(state, versions, pair, tmp_path):
    """Version 1, the address of its evidence, and the digest."""
    version = versions.number("mail", 1)
    write(tmp_path / "bundle", versions, version, OCCASION, BLIND, pair)
    return version, keep(state, version, OCCASION, tmp_path / "bundle"), digest(tmp_path / "bundle")


def written(versions, pair, target, number=1, found=None, occasion=OCCASION):
    write(target, versions, versions.number("mail", number), occasion, found or judged(), pair)
    return json.loads((target / "evidence.json").read_text(encoding="utf-8"))


def test_the_bundle_holds_all_facts(versions, pair, tmp_path):
    facts = written(versions, pair, tmp_path / "bundle", 2, occasion=replace(OCCASION, replaced=1))
    assert {path.name for path in (tmp_path / "bundle").iterdir()} == PARTS | {"reliability.png"}
    assert facts["promotion"] == {"action": "promote", "from_stage": "candidate", "to_stage": "production",
                                  "replaced": 1, "who": "ada", "why": "it is better",
                                  "at": "2026-11-26T14:03:27+00:00"}
    assert (facts["model"], facts["version"], facts["uri"]) == ("mail", 2, "models:/mail/2")
    assert facts["run_id"] == versions.number("mail", 2).run_id
    assert facts["decision"]["allowed"] and facts["decision"]["gates"][0] == {
        "name": "ece", "state": "pass", "reason": "0.050 beside 0.071", "candidate": 0.05, "champion": None}
    assert facts["evaluation"] == {"task": "mail-audit", "digest": "2" * 64, "split": "test", "labelled": 40,
                                   "picture": True}
    assert facts["commits"]["training"] == "3" * 40
    assert facts["environment"]["packages"] == {"mlflow": "3.17.2", "torch": None}
    assert facts["pareto_weights"] == {"LLM": 1.0, "friend": 1.0} and facts["sharpness"] == 1.5
    assert facts["guarantee"] == asdict(GUARANTEE) and facts["recalibration"]["labels"] == 0
    assert facts["measures"]["valid"]["ece"] == 0.1 and facts["measures"]["test"] is None
    assert facts["tags"] == TAGS and facts["warnings"] == ["few votes"] and facts["data_digest"] == "0" * 64
    assert set(facts["files"]) == {"artifacts/spec.json", "artifacts/weights.safetensors", "requirements.txt",
                                   "input_example.json"}
    assert facts["signer"] == pair.signer({}).id
    card = (tmp_path / "bundle" / "card.md").read_text(encoding="utf-8")
    assert "mail, version 2" in card and "reliability.png" in card and "few votes" in card


def test_both_signatures_hold(versions, pair, tmp_path):
    written(versions, pair, tmp_path / "bundle")
    folder = versions.folder(versions.number("mail", 1))
    assert verify(folder.parent, tmp_path / "bundle" / "model.sig", pair) == pair.signer({}).id
    served = tmp_path / "bento"
    served.mkdir()
    for name in ("spec.json", "weights.safetensors"):
        shutil.copy(folder / name, served)
    assert verify(served, tmp_path / "bundle" / "scorer.sig", pair) == pair.signer({}).id
    (served / "sources.py").touch()
    with pytest.raises(CheckFailed, match=r"new: sources\.py"):
        verify(served, tmp_path / "bundle" / "scorer.sig", pair)


@pytest.mark.parametrize("found", [BLIND, judged(labelled=0)])
def test_without_labelled_answers_there_is_no_picture_and_the_card_says_so(versions, pair, tmp_path, found):
    facts = written(versions, pair, tmp_path / "bundle", found=found)
    assert {path.name for path in (tmp_path / "bundle").iterdir()} == PARTS
    assert facts["evaluation"]["picture"] is False
    for name in ("card.md", "card.html"):
        assert "There is no reliability plot" in (tmp_path / "bundle" / name).read_text(encoding="utf-8")


def test_no_text_and_no_secret_gets_into_the_bundle(versions, pair, tmp_path):
    written(versions, pair, tmp_path / "bundle")
    secrets = [SECRET, "u:pw", "host/x", str(pair.folder), pair.private.read_text().splitlines()[1],
               os.uname().nodename if len(os.uname().nodename) > 7 else SECRET]
    for path in (tmp_path / "bundle").iterdir():
        content = path.read_bytes()
        assert not [secret for secret in secrets if secret.encode() in content], path.name


def test_the_same_facts_make_the_same_bundle_but_for_the_signatures(versions, pair, tmp_path):
    for name in ("one", "two"):
        written(versions, pair, tmp_path / name)
    for part in (PARTS | {"reliability.png"}) - {"model.sig", "scorer.sig"}:
        assert (tmp_path / "one" / part).read_bytes() == (tmp_path / "two" / part).read_bytes(), part


def test_nothing_of_the_version_is_changed_by_writing(versions, pair, tmp_path):
    folder = versions.folder(versions.number("mail", 1)).parent
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    written(versions, pair, tmp_path / "bundle")
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before


def test_bundles_go_into_new_folders_and_want_a_key(versions, pair, keys, tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").touch()
    with pytest.raises(InputError, match="should go into a new folder"):
        written(versions, pair, tmp_path / "full")
    pair.private.unlink()
    with pytest.raises(InputError, match="there is no signing key"):
        written(versions, pair, tmp_path / "bundle")
    assert not (tmp_path / "bundle").exists()


@given(files=st.dictionaries(st.text("ab.", min_size=1).filter(lambda name: name.strip(".")), st.binary(max_size=9),
                             min_size=1, max_size=4))
@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_the_digest_is_of_names_and_contents_alone(tmp_path, files):
    digests = []
    for order in (1, -1):
        folder = tmp_path / "files"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        for name in list(files)[::order]:
            (folder / name).write_bytes(files[name])
        digests.append(digest(folder))
    changed = next(iter(files))
    (folder / changed).write_bytes(files[changed] + b"x")
    digests.append(digest(folder))
    (folder / changed).write_bytes(files[changed])
    (folder / changed).rename(folder / "c")
    digests.append(digest(folder))
    assert digests[0] == digests[1] and len(set(digests)) == 3


def test_the_digest_is_what_sha256sum_says_and_names_cannot_feign_files(tmp_path):
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "a").write_bytes(b"1")
    (tmp_path / "x" / "b c").write_bytes(b"2")
    said = subprocess.run("sha256sum * | sha256sum", shell=True, cwd=tmp_path / "x", capture_output=True, text=True)
    assert said.stdout.split()[0] == digest(tmp_path / "x")
    one, two = (subprocess.run(["sha256sum", name], cwd=tmp_path / "x", capture_output=True, text=True).stdout
                for name in ("a", "b c"))
    (tmp_path / "y").mkdir()
    (tmp_path / "y" / f"a\n{two.rstrip()}").write_bytes(b"1")
    assert one and digest(tmp_path / "y") != digest(tmp_path / "x")


def test_a_file_of_mlflows_name_counts_in_a_bundle(tmp_path):
    (tmp_path / "a").touch()
    before = digest(tmp_path)
    (tmp_path / "registered_model_meta").touch()
    assert digest(tmp_path) != before


def test_a_kept_bundle_comes_back_and_cannot_be_written(versions, kept):
    _, uri, expected = kept
    folder = fetch(uri)
    assert digest(folder) == expected
    assert {stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()} == {0o444}
    run = versions.client.get_run(uri.split("/")[1])
    assert uri == f"runs:/{run.info.run_id}/evidence" and run.info.status == "FINISHED"
    tags = {key: value for key, value in run.data.tags.items() if not key.startswith("mlflow.")}
    assert tags == {"kind": "promotion", "model": "mail", "version": "1", "stage": "production", "action": "promote"}
    assert run.info.experiment_id == versions.client.get_experiment_by_name("mail").experiment_id


def test_a_copy_can_be_asked_for(kept, tmp_path):
    _, uri, expected = kept
    copied = fetch(uri, tmp_path / "copy")
    assert copied.is_relative_to(tmp_path / "copy") and digest(copied) == expected


@pytest.mark.parametrize("uri", [f"runs:/{'0' * 32}/evidence", "runs:/x", "models:/mail/1", ""])
def test_evidence_that_is_not_there_is_said_in_one_line(versions, uri):
    with pytest.raises(InputError, match="the evidence ") as refusal:
        fetch(uri)
    assert "\n" not in str(refusal.value)


def test_evidence_whose_files_are_gone_is_said_in_one_line(versions, kept, pair):
    version, uri, expected = kept
    shutil.rmtree(fetch(uri))
    (said,) = check(versions, version, uri, expected, pair)
    assert said.startswith(f"version 1 of 'mail': the evidence {uri} cannot be fetched") and "\n" not in said


def test_all_is_well_after_a_promotion_and_what_the_registry_does_later(versions, kept, pair):
    version, uri, expected = kept
    assert check(versions, version, uri, expected, pair) == []
    for tag in ("stage", "evidence"):
        versions.client.set_model_version_tag("mail", "1", tag, "x")
    assert check(versions, versions.number("mail", 1), uri, expected, pair) == []
    for tag in ("stage", "evidence"):
        versions.client.delete_model_version_tag("mail", "1", tag)


@pytest.mark.parametrize(("harm", "words"), [
    (lambda folder: (folder / "artifacts" / "spec.json").write_text("{}"), r"changed: artifacts/spec\.json$"),
    (lambda folder: (folder / "requirements.txt").unlink(), r"missing: requirements\.txt$"),
    (lambda folder: (folder / "artifacts" / "sources.py").touch(), r"new: artifacts/sources\.py$"),
    (lambda folder: (folder / "artifacts" / "spec.json").unlink(), "it has no spec.json"),
])
def test_changed_files_of_the_version_are_named(versions, kept, pair, files, harm, words):
    version, uri, expected = kept
    harm(files)
    (said,) = check(versions, version, uri, expected, pair)
    assert said.startswith("version 1 of 'mail': ")
    with pytest.raises(AssertionError, match=words):
        raise AssertionError(said)


@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(place=st.integers(0), flip=st.integers(1, 255))
def test_any_changed_byte_of_the_weights_is_found(versions, kept, pair, files, place, flip):
    version, uri, expected = kept
    path = files / "artifacts" / "weights.safetensors"
    content = path.read_bytes()
    harmed = bytearray(content)
    harmed[place % len(content)] ^= flip
    path.write_bytes(harmed)
    (said,) = check(versions, version, uri, expected, pair)
    path.write_bytes(content)
    assert said.endswith("changed: artifacts/weights.safetensors")


@pytest.mark.parametrize("part", sorted(PARTS))
def test_a_changed_part_of_the_bundle_is_found(versions, kept, pair, part):
    version, uri, expected = kept
    path = fetch(uri) / part
    path.chmod(0o644)
    path.write_bytes(path.read_bytes() + b" ")
    said = check(versions, version, uri, expected, pair)
    assert f"the evidence {uri} is not what the log says: its digest is" in said[0] and expected in said[0]
    path.unlink()
    said = check(versions, version, uri, expected, pair)
    assert said[0].endswith(f"it lacks {part}")
    assert all("\n" not in sentence for sentence in said)


def test_an_added_part_of_the_bundle_is_found(versions, kept, pair):
    version, uri, expected = kept
    (fetch(uri) / "more.txt").touch()
    (said,) = check(versions, version, uri, expected, pair)
    assert "is not what the log says" in said


def test_changed_tags_and_another_run_are_named_with_now_and_then(versions, kept, pair):
    version, uri, expected = kept
    tags = {key: value for key, value in version.tags.items() if key != "valid.n"} | {"valid.ece": "0.01", "new": "x"}
    said = check(versions, replace(version, tags=tags, run_id="4" * 32), uri, expected, pair)
    assert [sentence.removeprefix("version 1 of 'mail': ") for sentence in said] == [
        f"its run is '{'4' * 32}' now, and was '{version.run_id}' at the promotion",
        "its tag 'valid.ece' is '0.01' now, and was '0.1' at the promotion",
        "its tag 'valid.n' is not there now, and was '40' at the promotion",
        "its tag 'new' is 'x' now, and was not there at the promotion",
    ]


def test_the_evidence_of_another_version_proves_nothing(versions, kept, pair):
    _, uri, expected = kept
    said = " ".join(check(versions, versions.number("mail", 2), uri, expected, pair))
    assert "changed: artifacts/spec.json, artifacts/weights.safetensors" in said


def test_a_key_that_is_not_trusted_any_more_is_told(versions, kept, keys):
    version, uri, expected = kept
    for path in (keys / "trusted").iterdir():
        path.unlink()
    (said,) = check(versions, version, uri, expected, Keys(keys))
    assert "no key is trusted in" in said


def test_a_check_loads_no_weights(versions, kept, pair, monkeypatch):
    version, uri, expected = kept
    monkeypatch.setattr("safetensors.torch.load_file", None)
    monkeypatch.setattr("training.model.load_file", None)
    assert check(versions, version, uri, expected, pair) == []


def test_the_registrys_own_tags_may_change():
    assert lasting({"valid.n": "1", "stage": "x", "evidence": "x", "stages": "2", "a": "1"}) == {
        "a": "1", "stages": "2", "valid.n": "1"}


def test_facts_are_plain_data():
    moment = datetime(2026, 11, 26, tzinfo=UTC)
    assert plain({"a": (np.float64("nan"), np.int64(3), float("inf")), "b": moment, "c": {"y", "x"},
                  "d": np.array([1.5]), 5: Path("/x")}) == {
        "a": [None, 3, None], "b": "2026-11-26T00:00:00+00:00", "c": ["x", "y"], "d": [1.5], "5": "/x"}


def test_the_checkout_and_its_surroundings(tmp_path):
    assert checkout(tmp_path).commit is None
    run = {"cwd": tmp_path, "check": True, "capture_output": True}
    subprocess.run(["git", "init", "-q"], **run)
    assert checkout(tmp_path).commit is None
    author = ["-c", "user.name=a", "-c", "user.email=a@b"]
    subprocess.run(["git", *author, "commit", "-q", "--allow-empty", "-m", "x"], **run)
    assert len(checkout(tmp_path).commit) == 40 and checkout(tmp_path).dirty is False
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "x").touch()
    assert checkout(tmp_path).dirty is True and checkout(tmp_path / "folder").commit is None
    assert set(surroundings()) == {"polarscore", "python", "platform", "machine"}


def test_a_machine_without_git_has_no_commit(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert checkout() == checkout(tmp_path) and checkout().commit is None


def test_packages_are_names_and_versions_alone(tmp_path):
    path = tmp_path / "requirements.txt"
    path.write_text("# pins\ntorch==2.13.0\nNumPy==2.4.6 ; python_version > '3'\nhttpx[http2]==0.28.1 # ok\n"
                    "pandas>=3\n"
                    "own @ https://u:pw@host/own.whl\ngit+https://tok@host/x\n-r more.txt\n--hash=sha256:0\n\n"
                    "wheels/x\n")
    assert packages(path) == {"httpx": "0.28.1", "NumPy": "2.4.6", "own": None, "pandas": None, "torch": "2.13.0"}
    assert packages(tmp_path / "none.txt") == {}
