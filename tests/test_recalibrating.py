import random
import shutil
import sqlite3
from dataclasses import replace
from pathlib import Path

import mlflow
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from monitoring.recalibrating import composed, cross_fitted, enough, moved, recalibrate, words
from monitoring.store import Feedback, ScoredAnswer, Store
from monitoring.watch import reference_measures
from registry.bundling import bundle
from registry.database import now
from registry.derived import FROM_TAG
from registry.keys import Keys
from registry.lowering import lower
from registry.opening import Registry
from registry.operation import requirements, try_out
from registry.threshold import NOTHING, UNCHANGED
from registry.verification import verify
from tests import registries
from training.audit_result import Guarantee, Recalibration
from training.calibration import ece
from training.errors import CheckFailed, InputError
from training.fit import FitConfig
from training.job import train
from training.recalibration import fit_recalibration
from training.state import State

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning:mlflow"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:pydantic"),
    pytest.mark.filterwarnings("ignore:GitWildMatchPattern:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:The `__get_pydantic_core_schema__` method:DeprecationWarning"),
]
PROMISE = Guarantee(0.1, 0.1, 0.3, 0.6, 0.09, 60, "accepting every answer with a risk of at most 0.3 keeps the rate.")
TEXT = "a text that nobody may read"


def labels(n=400, seed=0, worse=0.3):
    generator = np.random.default_rng(seed)
    risk = generator.beta(2, 4, n)
    return risk, (generator.random(n) < np.clip(risk + worse, 0, 1)).astype(float)


# ---- the map


scales = st.sampled_from([Recalibration(), fit_recalibration(*labels(200, 1, -0.2)), fit_recalibration(*labels(50, 2))])


@settings(max_examples=15)
@given(scales, st.floats(0.001, 0.999), st.integers(0, 9))
def test_the_same_answers_are_accepted_on_the_new_scale(own, raw, seed):
    generator = np.random.default_rng(seed)
    free = generator.random(300)  # label-free risks, of which the version shows own.apply
    stored = own.apply(free)
    error = (generator.random(300) < 0.8 * stored + 0.1).astype(float)
    scale = composed(own, fit_recalibration(stored, error), stored, error)
    before = replace(PROMISE, threshold=float(own.apply(np.array([raw]))[0]))
    after = moved(before, UNCHANGED, own, scale)
    near = np.abs(free - raw) < 1e-9
    assert (((own.apply(free) <= before.threshold) == (scale.apply(free) <= after.threshold)) | near).all()
    assert (np.diff(scale.apply(np.sort(free))) >= 0).all()
    assert (after.alpha, after.delta, after.labels, after.accepted, after.upper) == (0.1, 0.1, 60, 0.6, 0.09)


def test_one_map_after_the_other_is_one_map():
    free = np.linspace(0, 1, 300)
    own = fit_recalibration(*labels(200, 1, -0.2))
    risk, error = labels(400, 3)
    further = fit_recalibration(risk, error)
    scale = composed(own, further, risk, error)
    assert np.abs(scale.apply(free) - further.apply(own.apply(free))).max() < 5e-3
    assert scale.labels == 600 and scale.mean_risk == further.mean_risk
    assert all(low <= middle <= high for _, middle, low, high in scale.curve)
    plain = composed(Recalibration(), further, risk, error)
    assert np.allclose(plain.values, further.values) and np.allclose(plain.curve, further.curve)


def test_the_guarantee_says_where_its_threshold_lies_now():
    risk, error = labels()
    scale = composed(Recalibration(), fit_recalibration(risk, error), risk, error)
    after = moved(PROMISE, UNCHANGED, Recalibration(), scale)
    assert after.threshold > 0.4 and f"at most {after.threshold:.4g} keeps" in after.words
    assert moved(None, UNCHANGED, Recalibration(), scale) is None
    none = replace(PROMISE, threshold=None)
    assert moved(none, UNCHANGED, Recalibration(), scale) == none


def test_a_lowered_threshold_is_not_raised_again_by_recalibrating():
    risk, error = labels()
    scale = composed(Recalibration(), fit_recalibration(risk, error), risk, error)
    low = moved(PROMISE, 0.1, Recalibration(), scale)
    assert low.threshold == pytest.approx(scale.apply(np.array([0.1]))[0]) and low.words.startswith("accepting every")
    assert moved(PROMISE, NOTHING, Recalibration(), scale).threshold is None


def test_cross_fitting_shows_what_the_map_is_worth_to_new_answers():
    risk, error = labels(500)
    found = cross_fitted(risk, error)
    assert ece(found, error) < ece(risk, error) / 2
    assert (found != fit_recalibration(risk, error).apply(risk)).any()
    assert (cross_fitted(risk, error) == found).all()


# ---- what there is to learn from


def frame(n=40, **columns):
    rows = pd.DataFrame({
        "score_id": [f"s{i}" for i in range(n)], "item_id": [f"i{i}" for i in range(n)], "version": "1",
        "answer": "ham", "risk": np.linspace(0.1, 0.9, n), "error": 0.0, "chosen": "random", "probability": 0.1,
        "disputed": False, "created_at": pd.Timestamp("2026-11-26", tz="UTC"),
        "labelled_at": pd.Timestamp("2026-11-27", tz="UTC"),
    })
    return rows.assign(**columns)


@pytest.mark.parametrize(("rows", "message"), [
    (frame(0), r"takes 30 labels or more, of known choice, on answers with a risk. Found 0. To have some chosen: "),
    (frame(1), "Found 1. To have"), (frame(29), "Found 29"),
    (frame(chosen="unknown"), "Found 0; not counted: 40 chosen by a whim or in a way that was not said"),
    (frame(chosen="whim"), "Found 0; not counted: 40 chosen by a whim"),
    (frame(chosen="elsewhere"), "Found 0; not counted: 40 chosen by another version's risk"),
    (frame(again=True), "Found 0. To have some"),
    (frame(risk=0.25), "takes labels on answers of different risks. All 40 have the risk 0.250"),
], ids=["none", "one", "too few", "choice unknown", "whim", "elsewhere", "again", "one risk"])
def test_too_little_to_learn_from_is_one_clear_line(rows, message):
    with pytest.raises(InputError, match=message):
        enough(rows, 30, False, "models:/mail/1")


def test_labels_of_reviewers_alone():
    with pytest.raises(InputError, match="takes 30 labels of reviewers or more"):
        enough(frame(20), 30, True, "models:/mail/1")


# ---- the version


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A state with a version of `mail`, trained; no test changes it."""
    folder = tmp_path_factory.mktemp("recalibrating")
    chance = random.Random(0)
    rows = ["id,split,text,answer,label,vote:friend"]
    for i in range(60):
        gold = chance.choice(("ham", "spam"))
        said = [gold if chance.random() < 0.8 else chance.choice(("ham", "spam")) for _ in range(2)]
        rows.append(f"{i},{('train', 'train', 'valid')[i % 3]},{gold} mail {i % 7},{said[0]},{gold},{said[1]}")
    (folder / "task").mkdir()
    (folder / "task" / "rows.csv").write_text("\n".join(rows) + "\n")
    (folder / "task" / "task.toml").write_text(
        '[task]\nname = "mail"\nclasses = ["ham", "spam"]\n[data]\npath = "rows.csv"\nlabel = "label"\n'
        'split = "split"\n[[sources]]\nname = "friend"\n')
    state = State.from_environment({"POLARSCORE_HOME": str(folder / "state"), "POLARSCORE_KEYS": str(folder / "keys")})
    train(folder / "task", state, FitConfig(harmonizer="linear", epochs=1))
    return state


@pytest.fixture
def state(trained, tmp_path):
    shutil.copytree(trained.home, tmp_path / "state")
    with sqlite3.connect(tmp_path / "state" / "mlflow.db") as connection:
        for table, column in (("model_versions", "source"), ("model_versions", "storage_location"),
                              ("experiments", "artifact_location"), ("runs", "artifact_uri"),
                              ("logged_models", "artifact_location")):
            connection.execute(f"UPDATE {table} SET {column} = replace({column}, ?, ?)",
                               (str(trained.home), str(tmp_path / "state")))
    connection.close()
    return State.from_environment({"POLARSCORE_HOME": str(tmp_path / "state"),
                                   "POLARSCORE_KEYS": str(tmp_path / "keys")})


@pytest.fixture
def registry(state):
    with Registry.open(state) as opened:
        yield opened


@pytest.fixture
def store(state):
    with Store(state.database_url) as opened:
        yield opened


def keep(store, n=200, chosen="all"):
    risk, error = labels(n)
    store.add_scores([ScoredAnswer(
        score_id=f"s{i}", item_id=f"i{i}", model="mail", version="1", answer="ham", harmonizer_answer="ham",
        risk=float(r), probabilities={"ham": 1 - float(r), "spam": float(r)}, votes={}, votes_used=False,
        text_length=10, text=TEXT) for i, r in enumerate(risk)])
    store.add_feedback([Feedback(("ham", "spam")[int(e)], score_id=f"s{i}", chosen=chosen)
                        for i, e in enumerate(error)])
    return risk, error


def made(registry, store, **more):
    return recalibrate(registry, store, registry.versions.number("mail", 1), "ada", now(), **{"rows": 30} | more)


def test_a_recalibrated_version_is_one_like_any_other(registry, store, state):
    keep(store)
    one = registry.versions.number("mail", 1)
    found = made(registry, store)
    assert (found.version, found.made_from, found.labels) == (2, 1, 200)
    assert found.after["ece"] < found.before["ece"] and found.after["brier"] < found.before["brier"]
    two = registry.versions.get("models:/mail@candidate")
    assert two.version == 2 and two.stage == "candidate" and two.tags[FROM_TAG] == "models:/mail/1"
    assert registry.versions.holder("mail", "production") is None and registry.history.entries("mail") == []
    old, new = (registry.versions.folder(version) for version in (one, two))
    assert (old / "weights.safetensors").read_bytes() == (new / "weights.safetensors").read_bytes()
    before, after = (registry.versions.spec(version) for version in (one, two))
    assert before.model_copy(update={"recalibration": after.recalibration}) == after
    assert two.measures("feedback") == found.after and reference_measures(two) == found.after
    assert two.measures("valid") is None  # they were of the other scale
    rows = pd.DataFrame({"text": ["ham mail", "spam mail"], "answer": ["ham", "ham"]})
    risks = [mlflow.pyfunc.load_model(version.uri).predict(rows)["risk"].to_numpy(float) for version in (one, two)]
    assert np.allclose(after.recalibration.apply(risks[0]), risks[1])
    operation = try_out(registry.versions.folder(two).parent)
    assert (operation.load_error, operation.score_error, operation.differing) == (None, None, 0)
    assert operation.pickles == () and operation.signature
    assert operation.requirements == requirements(registry.versions.folder(one).parent)
    references = [registry.versions.reference(version) for version in (one, two)]
    assert np.allclose(after.recalibration.apply(references[0]["risk"].to_numpy(float)), references[1]["risk"])
    run = registry.versions.client.get_run(found.run_id)
    assert run.info.status == "FINISHED" and run.data.tags["who"] == "ada"
    evidence = mlflow.artifacts.load_dict(f"runs:/{found.run_id}/evidence.json")
    assert evidence["made_from"] == "models:/mail/1" and evidence["labels_by_choice"] == {"all": 200}
    assert evidence["before"] == found.before and evidence["after"] == found.after
    kept = [path.read_bytes() for path in state.artifacts.rglob("*") if path.is_file()]
    assert not any(secret in content for content in kept for secret in (TEXT.encode(), b'"s17"', b"i17,"))
    assert verify(registry, "mail") == []

    registries.promote(registry, two, "production", registries.yes, "ada", "truer risks")
    assert verify(registry, "mail") == [] and bundle(registry, registry.versions.number("mail", 2))
    further = recalibrate(registry, store, registry.versions.number("mail", 1), "bob", now(), rows=30)
    assert further.version == 3


def test_a_guarantee_moves_along_and_a_lowered_one_stays_low(registry, store, monkeypatch):
    keep(store)
    real = registry.versions.spec
    monkeypatch.setattr(registry.versions, "spec", lambda version: real(version).model_copy(
        update={"guarantee": PROMISE}) if version.version == 1 else real(version))
    found = made(registry, store)
    scale = registry.versions.spec(registry.versions.number("mail", 2)).recalibration
    assert found.threshold == (0.3, pytest.approx(scale.apply(np.array([0.3]))[0]))
    registries.promote(registry, registry.versions.number("mail", 1), "production", registries.yes, "ada", "")
    lower(registry, registry.versions.number("mail", 1), 0.1, "ada", "")
    found = made(registry, store)
    assert found.threshold == (0.1, pytest.approx(scale.apply(np.array([0.1]))[0]))
    assert words(found)[-1].startswith(f"threshold of the guarantee: 0.1 before, {found.threshold[1]:.4g} after")
    evidence = mlflow.artifacts.load_dict(f"runs:/{found.run_id}/evidence.json")["threshold"]
    assert evidence["before"] == evidence["lowered_to"] == 0.1
    lower(registry, registry.versions.number("mail", 1), NOTHING, "ada", "")
    assert made(registry, store).threshold == (None, None)


def nothing_came_of_it(registry):
    assert [version.version for version in registry.versions.list("mail")] == [1]
    assert registry.versions.aliases("mail") == {"candidate": 1}


def test_labels_of_unknown_choice_register_nothing(registry, store):
    keep(store, chosen="unknown")
    with pytest.raises(InputError, match="Found 0; not counted: 200 chosen by a whim or in a way that was not said"):
        made(registry, store)
    nothing_came_of_it(registry)


def test_a_version_whose_files_were_changed_is_refused(registry, store):
    keep(store)
    path = registry.versions.folder(registry.versions.number("mail", 1)) / "weights.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.raises(CheckFailed, match="are not those that were registered"):
        made(registry, store)
    nothing_came_of_it(registry)


class Killed(BaseException):
    pass


@pytest.mark.parametrize("step", ["mlflow.log_dict", "mlflow.pyfunc.log_model", "mlflow.register_model"])
def test_a_killed_process_leaves_no_half_registered_version(registry, store, monkeypatch, step):
    keep(store)

    def killed(*arguments, **more):
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(step, killed)
        with pytest.raises(Killed):
            made(registry, store)
    nothing_came_of_it(registry)
    assert verify(registry, "mail") == []
    assert made(registry, store).version == 2


def test_keys_are_not_needed_to_recalibrate(registry, store, state):
    keep(store)
    made(registry, store)
    assert not Path(Keys.of(state).private).exists()
