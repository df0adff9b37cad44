"""An audit through the training job: answers drawn, checked, and used; and data that teaches little."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from training import job
from training import model as files
from training.audit import COLUMNS, write_audit
from training.audit_plan import Plan, audited_model, drawn, prepare
from training.errors import InputError
from training.fit import FitConfig
from training.learning import learn
from training.state import State
from training.table import read_table
from training.task import ABSTAIN, read_task
from training.weighting import pareto_weights_of

pytestmark = [
    pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated"),
    pytest.mark.filterwarnings("ignore:For backward compatibility, 'str' dtypes are included by select_dtypes"),
]

SECRET = "Marzipan-Krokodil"  # a word of every text of the task
CONFIG = FitConfig(epochs=3, batch_size=64)
KEYS = 'label = "label"\nsplit = "split"'


def rows(n=600):
    """Mail on which the LLM and two sources err now and then, by themselves."""
    random = np.random.default_rng(0)
    made = []
    for i in range(n):
        gold = int(random.random() < 0.5)
        said = [gold ^ int(random.random() < wrong) for wrong in (0.1, 0.2, 0.2)]
        made.append({"id": f"i{i}", "text": f"{SECRET} {i}", "answer": said[0] if i % 20 else -1, "votes": said[1:],
                     "split": ["train", "valid", "test"][i % 3], "label": gold})
    return made


@pytest.fixture(autouse=True)
def made_up_vectors(monkeypatch):
    """The same vector for the same text, and no encoder."""
    def encode(texts, progress=None):
        seeds = [sum(text.encode()) for text in texts]
        return np.stack([np.random.default_rng(seed).normal(size=384).astype(np.float32) for seed in seeds])

    monkeypatch.setattr(job, "embeddings", lambda state: encode)


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return tmp_path_factory.mktemp("state")


@pytest.fixture
def state(home):
    return State.from_environment({"POLARSCORE_HOME": str(home)})


@pytest.fixture
def folder(write_task):
    return write_task(rows(), data_keys=KEYS)


def train(folder, state, name, **plan):
    return job.train(folder, state, CONFIG, name, plan=Plan(**plan))


def version(state, trained):
    from registry.versions import Versions

    versions = Versions(state)
    return files.load(versions.folder(versions.number(trained.model, trained.version)))


def count(state):
    from registry.versions import Versions

    return len(Versions(state).list())


def filled(path, made):
    """The file with the labels that a person would give."""
    gold = {row["id"]: ["ham", "spam"][row["label"]] for row in made}
    frame = pd.read_csv(path, dtype=str, keep_default_na=False)
    frame["label"] = frame["id"].map(gold)
    frame.to_csv(path, index=False)
    return path


def learned(folder):
    """A label-free version, made without MLflow; its table and its scores."""
    task = read_task(folder)
    table = read_table(task)
    vectors = job.embeddings(None)(list(table.texts))
    model = learn(task, table, vectors, pareto_weights_of("learned", task, table), CONFIG)[1]
    return model, table, model.score(vectors, table.answers, table.votes)


@pytest.fixture
def checked(folder, tmp_path):
    """A file of 60 answers, drawn by the risks of the very version and checked."""
    _, table, scores = learned(folder)
    plan = Plan(draw=60, target=tmp_path / "checked.csv")
    write_audit(plan.target, table, drawn(plan, scores.risk, table, CONFIG.seed))
    return filled(plan.target, rows())


@pytest.mark.slow
def test_an_audit_goes_there_and_back(folder, state, tmp_path):
    target = tmp_path / "to check.csv"
    plain, first = train(folder, state, "there"), train(folder, state, "there", draw=80, target=target)
    assert version(state, plain).spec == version(state, first).spec  # a draw changes nothing
    assert first.to_check == 80 and first.guarantee is None and first.measures == plain.measures
    assert tuple(pd.read_csv(target).columns) == COLUMNS and len(pd.read_csv(target)) == 80
    found = train(folder, state, "there", checked=filled(target, rows()), alpha=0.2)
    spec = version(state, found).spec
    assert (spec.recalibration, spec.guarantee) == (found.recalibration, found.guarantee)
    assert found.recalibration.labels == 80 and found.guarantee.threshold is not None
    assert found.guarantee.alpha == 0.2 and f"{found.guarantee.threshold:.4g}" in found.guarantee.words
    assert found.measures["test"]["auroc"] == pytest.approx(plain.measures["test"]["auroc"])
    assert found.measures["test"]["ece"] != plain.measures["test"]["ece"]


@pytest.mark.slow
def test_a_run_keeps_the_figures_of_an_audit_and_no_text(folder, state, checked, tmp_path):
    from training.tracking import connect

    found = train(folder, state, "kept", checked=checked)
    client = connect(state)
    place = Path(client.download_artifacts(found.run_id, "", str(tmp_path)))
    assert json.loads((place / "audit/recalibration.json").read_text())["labels"] == 60
    assert json.loads((place / "audit/guarantee.json").read_text())["words"] == found.guarantee.words
    assert (place / "audit/recalibration.png").read_bytes().startswith(b"\x89PNG")
    metrics = client.get_run(found.run_id).data.metrics
    assert metrics["audit.mean_risk_low"] < metrics["audit.mean_risk"] < metrics["audit.mean_risk_high"]
    first = train(folder, state, "kept", draw=30, target=tmp_path / "drawn.csv")
    assert client.get_run(first.run_id).data.params["audit_to_check"] == "30"
    for path in state.home.rglob("*"):
        assert not path.is_file() or SECRET.encode() not in path.read_bytes(), path


def test_the_threshold_accepts_what_was_guaranteed(folder, checked):
    model, table, scores = learned(folder)
    plan = Plan(checked=checked, alpha=0.3)
    model = audited_model(plan, prepare(plan, table, "mail"), model, scores.risk, table)
    after = model.score(job.embeddings(None)(list(table.texts)), table.answers, table.votes)
    assert (after.risk[table.answers != ABSTAIN] == pytest.approx(
        model.spec.recalibration.apply(scores.risk[table.answers != ABSTAIN])))
    valid = (table.splits == "valid") & (table.answers != ABSTAIN)
    found = model.spec.guarantee
    assert found.threshold is not None
    assert (after.risk[valid] <= found.threshold).mean() == pytest.approx(found.accepted)
    assert (np.argsort(after.risk[valid], kind="stable") == np.argsort(scores.risk[valid], kind="stable")).all()


def test_no_label_of_the_data_has_a_say(folder, checked, write_task):
    def audited(place):
        model, table, scores = learned(place)
        plan = Plan(checked=checked)
        model = audited_model(plan, prepare(plan, table, "mail"), model, scores.risk, table)
        return model, model.score(job.embeddings(None)(list(table.texts)), table.answers, table.votes)

    first, risks = audited(folder)
    labels = np.random.default_rng(3).permutation([row["label"] for row in rows()]).tolist()
    write_task([row | {"label": label} for row, label in zip(rows(), labels, strict=True)], data_keys=KEYS)
    second, others = audited(folder)
    assert risks.risk.tobytes() == others.risk.tobytes() and first.spec.data_digest != second.spec.data_digest
    assert first.spec == second.spec.model_copy(update={"data_digest": first.spec.data_digest})


def test_another_training_cannot_keep_the_promise(folder, checked):
    model, table, scores = learned(folder)
    plan = Plan(checked=checked)
    other = np.where(table.answers == ABSTAIN, np.nan, np.nan_to_num(scores.risk[::-1], nan=0.5))
    found = audited_model(plan, prepare(plan, table, "mail"), model, other, table)
    assert found.spec.guarantee.threshold is None and "rank the answers otherwise" in found.spec.guarantee.words
    assert found.spec.recalibration.labels == 60


def edited(path, column, value):
    frame = pd.read_csv(path, dtype=str, keep_default_na=False)
    frame.loc[0, column] = value
    frame.to_csv(path, index=False)


def repeated(path):
    frame = pd.read_csv(path, dtype=str, keep_default_na=False)
    other = frame.iloc[:1].assign(label="spam" if frame["label"][0] == "ham" else "ham")
    pd.concat([frame, other]).to_csv(path, index=False)


@pytest.mark.parametrize(("change", "plan", "message"), [
    (None, {"draw": 0}, "from 1 to 380, the answers in splits train and valid. Found 0"),
    (None, {"draw": 381}, "from 1 to 380"),
    (None, {"draw": 10, "target": Path("checked.csv")}, "exists already, and may hold labels"),
    (None, {"draw": 10, "target": Path("file.txt")}, r"should end in \.csv"),
    (None, {"draw": 10, "target": Path("nowhere/file.csv")}, "there is no folder nowhere"),
    (None, {"draw": 10, "checked": Path("checked.csv")}, "Give one of them"),
    (None, {"draw": 10, "alpha": 0.0}, "--alpha should lie between 0 and 1"),
    (None, {"checked": Path("checked.csv"), "delta": 1.0}, "--delta should lie between 0 and 1"),
    (None, {"checked": Path("nowhere.csv")}, r"nowhere\.csv does not exist"),
    (lambda path: edited(path, "id", "i9999"), {"checked": Path("checked.csv")}, "'i9999' is not in the data"),
    (lambda path: edited(path, "label", "eggs"), {"checked": Path("checked.csv")}, "is no class of this task"),
    (lambda path: edited(path, slice(None), ""), {"checked": Path("checked.csv")}, "is not in the data"),
    (repeated, {"checked": Path("checked.csv")}, "has two different labels"),
    (lambda path: path.write_text(",".join(COLUMNS) + "\n"), {"checked": Path("checked.csv")}, "has no label yet"),
])
def test_what_makes_no_sense_is_refused_before_anything_is_done(
    folder, checked, state, monkeypatch, tmp_path, change, plan, message
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(job, "embeddings", lambda state: pytest.fail("it went on"))
    if change:
        change(checked)
    before = sorted(tmp_path.iterdir())
    with pytest.raises(InputError, match=message) as caught:
        train(folder, state, "refused", **plan)
    assert "\n" not in str(caught.value) and SECRET not in str(caught.value)
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize("broken", ["_figures", "source_table"])
def test_a_run_that_fails_leaves_no_file_to_check(folder, state, tmp_path, monkeypatch, broken):
    before = count(state)

    def fail(*arguments):
        raise ZeroDivisionError

    monkeypatch.setattr(job, broken, fail)
    with pytest.raises(ZeroDivisionError):
        train(folder, state, "failed", draw=10, target=tmp_path / "drawn.csv")
    assert not (tmp_path / "drawn.csv").exists() and count(state) == before


def silent(row, keep):
    return row | {"votes": [vote if keep(row, j) else -1 for j, vote in enumerate(row["votes"])]}


ODD = {
    "no two votes on one row": [silent(row, lambda row, j: int(row["id"][1:]) // 3 % 2 == j) for row in rows()],
    "votes only where the LLM is silent": [silent(row, lambda row, j: row["answer"] == -1) for row in rows()],
    "a source that says one class": [row | {"votes": [1, row["votes"][1]]} for row in rows()],
    "all say one class": [row | {"answer": 1, "votes": [1, 1]} for row in rows()],
    "one source that says one class": [silent(row | {"votes": [1, -1]}, lambda row, j: True) for row in rows()],
    "one source": [silent(row, lambda row, j: j == 0) for row in rows()],
    "one vote": [silent(row, lambda row, j: row["id"] == "i3" and j == 0) for row in rows()],
    "the LLM is always contradicted": [row | {"votes": [1 - row["answer"]] * 2} if row["answer"] >= 0 else row
                                       for row in rows()],
    "three rows": [row | {"id": f"x{i}", "split": "train"} for i, row in enumerate(rows()[1:4])],
    "no row of split valid": [row | {"split": "train" if row["split"] == "valid" else row["split"]} for row in rows()],
}


@pytest.mark.parametrize("name", ODD)
def test_data_that_teaches_little_gives_a_sound_version(name, write_task, tmp_path):
    folder = write_task(ODD[name], data_keys=KEYS)
    model, table, scores = learned(folder)
    sound(folder, model)
    plan = Plan(draw=min(20, int((table.answers != ABSTAIN).sum())), target=tmp_path / "drawn.csv")
    write_audit(plan.target, table, drawn(plan, scores.risk, table, 0))
    plan = Plan(checked=filled(plan.target, ODD[name]))
    found = audited_model(plan, prepare(plan, table, "mail"), model, scores.risk, table)
    sound(folder, found)
    assert 0 < found.spec.recalibration.labels <= 20 and found.spec.guarantee.words


@pytest.mark.slow
@pytest.mark.parametrize("name", ["one vote", "all say one class", "three rows", "no row of split valid"])
def test_data_that_teaches_little_trains_as_well(name, write_task, state, tmp_path):
    folder = write_task(ODD[name], data_keys=KEYS)
    found = train(folder, state, "odd", draw=2, target=tmp_path / "drawn.csv")
    assert bool(found.warnings) == (name != "no row of split valid")
    back = train(folder, state, "odd", checked=filled(tmp_path / "drawn.csv", ODD[name]))
    sound(folder, version(state, back))
    figures = [value for measures in back.measures.values() for value in (measures or {}).values()]
    assert not any(isinstance(value, float) and np.isnan(value) for value in figures)


def test_a_class_that_no_source_names_gives_a_sound_version(write_task, state):
    toml = ('[task]\nname = "mail"\nclasses = ["ham", "spam", "eggs"]\n[data]\npath = "data.jsonl"\n' + KEYS
            + '\n[[sources]]\nname = "s1"\n[[sources]]\nname = "s2"\n')
    folder = write_task(rows(), toml=toml)
    model = version(state, train(folder, state, "odd"))
    sound(folder, model)
    assert "eggs" in model.spec.classes


def sound(folder, model):
    """Finite numbers wherever there is an answer, classes that sum to 1, and a worth for each source."""
    table = read_table(read_task(folder))
    vectors = job.embeddings(None)(list(table.texts))
    for votes in (table.votes, np.full_like(table.votes, ABSTAIN)):
        scores = model.score(vectors, table.answers, votes)
        assert (np.isnan(scores.risk) == (table.answers == ABSTAIN)).all()
        assert ((scores.risk >= 0) & (scores.risk <= 1))[table.answers != ABSTAIN].all()
        assert scores.probabilities.sum(axis=1) == pytest.approx(1) and (scores.probabilities >= 0).all()
    assert all(np.isfinite(getattr(model.worth, name)).all() for name in ("accuracy", "evidence", "dependence"))
