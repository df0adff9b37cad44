import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from training import job, weighting
from training import model as files
from training.encoder import Encoder
from training.errors import InputError
from training.fit import FitConfig
from training.learning import learn
from training.model import load
from training.pareto import uniform_weights
from training.scoring import score_rows
from training.state import State
from training.table import read_table
from training.task import LLM, read_task

# MLflow uses an old loader of SQLAlchemy's when first imported, and an old way to pick columns in log_table.
pytestmark = [
    pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated"),
    pytest.mark.filterwarnings("ignore:For backward compatibility, 'str' dtypes are included by select_dtypes"),
]

SECRET = "Marzipan-Krokodil"  # a word of every text of the task
CONFIG = FitConfig(epochs=4, batch_size=16)
RULES = '''
import numpy as np

from training.sources import ABSTAIN, labelling_function


@labelling_function(evidence="It gives something away.")
def free(row):
    return "spam" if "free" in row.text else ABSTAIN


@labelling_function()
def polite(row):
    return "ham" if "thanks" in row.text else ABSTAIN


@labelling_function(columns=("text", "author"))
def author(row):
    return int(np.int64(row.author == "eve"))
'''
SOURCES = ("friend", "other model", "free", "polite", "author")


def rows(n=100):
    random = np.random.default_rng(0)
    made = []
    for i in range(n):
        spam = bool(random.random() < 0.4)
        said = random.choice(["win a free prize", "free money now"] if spam else ["thanks for lunch", "see you later"])
        noisy = [int(spam ^ bool(random.random() < wrong)) for wrong in (0.1, 0.2, 0.3)]
        made.append({"id": f"i{i}", "text": f"{said}, {SECRET} {i}", "answer": noisy[0] if i % 20 else -1,
                     "votes": [noisy[1], noisy[2] if i % 3 else -1], "author": ["bob", "eve"][spam],
                     "label": int(spam)})
    return made


def write_task(folder, made):
    folder.mkdir(exist_ok=True)
    (folder / "task.toml").write_text(
        '[task]\nname = "mail"\nclasses = ["ham", "spam"]\n[data]\npath = "data.jsonl"\nlabel = "label"\n'
        '[[sources]]\nname = "friend"\n[[sources]]\nname = "other model"\nfamily = "models"\n')
    (folder / "data.jsonl").write_text("\n".join(map(json.dumps, made)))
    (folder / "sources.py").write_text(RULES)
    return folder


def state_in(folder):
    return State.from_environment({"POLARSCORE_HOME": str(folder)})


def learned(folder, into):
    """A version learned from a task's folder, with made-up vectors, saved; and its risks."""
    task = read_task(folder)
    table = read_table(task)
    vectors = np.random.default_rng(1).normal(size=(len(table), 384)).astype(np.float32)
    weights = dict(zip((LLM, *SOURCES), uniform_weights(6).tolist(), strict=True))
    _, model = learn(task, table, vectors, weights, CONFIG)
    files.save(model, into, task.sources_path)
    return model, model.score(vectors, table.answers, table.votes).risk


def shuffled(made, key):
    values = np.random.default_rng(2).permutation([row[key] for row in made]).tolist()
    assert values != [row[key] for row in made]
    return [row | {key: value} for row, value in zip(made, values, strict=True)]


def test_shuffling_the_gold_labels_changes_no_bit(tmp_path):
    made = rows()
    first, risks = learned(write_task(tmp_path / "a", made), tmp_path / "one")
    second, others = learned(write_task(tmp_path / "b", shuffled(made, "label")), tmp_path / "two")
    assert risks.tobytes() == others.tobytes()
    assert (tmp_path / "one" / files.WEIGHTS).read_bytes() == (tmp_path / "two" / files.WEIGHTS).read_bytes()
    assert first.spec.data_digest != second.spec.data_digest  # the file differs, and nothing else
    assert first.spec == second.spec.model_copy(update={"data_digest": first.spec.data_digest})
    _, others = learned(write_task(tmp_path / "c", shuffled(made, "answer")), tmp_path / "three")
    assert risks.tobytes() != others.tobytes()


def test_without_a_label_column_the_same_version_is_learned(tmp_path):
    _, risks = learned(write_task(tmp_path / "a", rows()), tmp_path / "one")
    folder = write_task(tmp_path / "b", [{key: row[key] for key in row if key != "label"} for row in rows()])
    toml = folder / "task.toml"
    toml.write_text(toml.read_text().replace('label = "label"\n', ""))
    assert learned(folder, tmp_path / "two")[1].tobytes() == risks.tobytes()


def weights_of(given, folder):
    task = read_task(write_task(folder, rows()))
    return weighting.pareto_weights_of(given, task, read_table(task))


def test_weights_are_uniform_by_family_or_given(tmp_path):
    given = {name: 1.0 for name in (LLM, *SOURCES)}
    assert weights_of(given, tmp_path / "a") == given
    assert set(weights_of("uniform", tmp_path / "a").values()) == {1 / 6}
    assert weights_of("family", tmp_path / "a") == weights_of("uniform", tmp_path / "a")  # none is of the LLM's family


@pytest.mark.parametrize(
    ("given", "found"),
    [("best", "'best' are unknown"), ({"stranger": 1.0}, "name the source 'stranger'"),
     ({LLM: 1.0}, "lack the source 'friend'"), (dict.fromkeys((LLM, *SOURCES), 0.0), "are all 0")],
)
def test_weights_that_do_not_fit_are_refused(tmp_path, given, found):
    with pytest.raises(InputError, match=found):
        weights_of(given, tmp_path / "task")


@pytest.mark.parametrize("content", ["{", "[]", '{"a": -1}', '{"a": true}', '{"a": "1"}', '{"a": NaN}', b"\xff", "["])
def test_a_bad_weights_file_is_refused(tmp_path, content):
    path = tmp_path / "weights.json"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(InputError, match=r"weights\.json"):
        weighting.read_weights(path)
    with pytest.raises(InputError, match="cannot be read"):
        weighting.read_weights(tmp_path / "nowhere.json")


def test_a_split_without_labels_has_no_measures(tmp_path):
    table = read_table(read_task(write_task(tmp_path / "task", rows())))
    risk = np.full(len(table), 0.5)
    assert job.labelled_measures(table, risk, "valid")["n"] > 0
    assert job.labelled_measures(replace(table, labels=np.full(len(table), -1)), risk, "valid") is None
    assert job.labelled_measures(replace(table, answers=np.full(len(table), -1)), risk, "valid") is None


def test_a_state_folder_that_cannot_be_written_is_refused_before_anything_is_encoded(tmp_path, monkeypatch):
    folder = write_task(tmp_path / "task", rows())
    (tmp_path / "file").touch()
    monkeypatch.setattr(job, "embeddings", lambda state: pytest.fail("it went on"))
    for home in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(InputError, match=r"the state folder .* cannot be created"):
            job.train(folder, state_in(home), CONFIG)
    for name in ("a%20b", "a?b"):
        with pytest.raises(InputError, match=r"has a % or \? in its path"):
            job.train(folder, state_in(tmp_path / name), CONFIG)
        assert not (tmp_path / name).exists()
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(InputError, match=r"is read-only\. Set POLARSCORE_HOME"):
        job.train(folder, state_in(tmp_path / "state"), CONFIG)


READ_ONLY = """
set -e
mount -t tmpfs none "$1"
mount -o remount,ro "$1"
exec "$2" -c '
import sys
from pathlib import Path
from training.errors import InputError
from training.state import State
for home in (sys.argv[1], sys.argv[1] + "/new"):
    try:
        State.from_environment({"POLARSCORE_HOME": home}).prepare()
    except InputError as error:
        print("refused:", error)
' "$1"
"""


def test_a_read_only_mount_is_refused(tmp_path):
    can = subprocess.run(["unshare", "-m", "true"], capture_output=True, check=False)
    if can.returncode:
        pytest.skip("a mount of its own needs rights that this user has not")
    said = subprocess.run(["unshare", "-m", "bash", "-c", READ_ONLY, "-", str(tmp_path), sys.executable],
                          cwd=Path(__file__).parents[1], capture_output=True, text=True)
    if "mount" in said.stderr:
        pytest.skip("a mount of its own needs rights that this user has not")
    assert said.stdout.count("refused: the state folder") == 2, said


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A tiny task trained into a state of its own: the task's folder, the state, the result, MLflow's client."""
    from training.tracking import connect

    folder = write_task(tmp_path_factory.mktemp("task"), rows())
    state = state_in(tmp_path_factory.mktemp("state"))
    result = job.train(folder, state, CONFIG)
    return folder, state, result, connect(state)


@pytest.mark.slow
def test_a_run_keeps_what_went_in_and_what_happened(trained):
    folder, _, result, client = trained
    run = client.get_run(result.run_id)
    assert run.info.status == "FINISHED"
    assert {"task": "mail", "harmonizer": "mlp", "scalariser": "linear", "epochs": "4", "seed": "0",
            "sources": "5"}.items() <= run.data.params.items()
    digest = read_table(read_task(folder)).digest
    (data,) = run.inputs.dataset_inputs
    assert digest.startswith(data.dataset.digest) and data.dataset.name == "mail"
    for name in ("loss", "held_out.loss", *(f"source_loss.{name}" for name in (LLM, *SOURCES)),
                 *(f"held_out.source_loss.{name}" for name in (LLM, *SOURCES))):
        steps = [metric.step for metric in client.get_metric_history(result.run_id, name)]
        assert steps and steps == list(range(1, len(steps) + 1)), name
    found = {key.removeprefix("valid."): value for key, value in run.data.metrics.items() if key.startswith("valid.")}
    assert found == {key: value for key, value in result.measures["valid"].items() if value is not None}


@pytest.mark.slow
def test_a_run_keeps_its_weights_sources_measures_and_pictures(trained, tmp_path):
    _, _, result, client = trained
    place = Path(client.download_artifacts(result.run_id, "", str(tmp_path)))
    weights = json.loads((place / "pareto/weights.json").read_text())
    assert set(weights) == {LLM, *SOURCES} and sum(weights.values()) == pytest.approx(1)
    assert set(json.loads((place / "pareto/source_losses.json").read_text())) == {LLM, *SOURCES}
    sources = json.loads((place / "sources.json").read_text())
    table = pd.DataFrame(sources["data"], columns=sources["columns"])
    assert table["source"].tolist() == list(SOURCES) and table["coverage"].between(0, 1).all()
    assert table["accuracy"].between(0, 1).all() and table["counts_as"].between(0, 1).all()
    assert json.loads((place / "measures.json").read_text()) == result.measures
    pictures = {f"figures/{split}_{kind}.png" for split in ("valid", "test")
                for kind in ("reliability", "risk_histogram", "risk_coverage")} | {"pareto/weights.png"}
    for picture in pictures:
        assert (place / picture).read_bytes().startswith(b"\x89PNG"), picture
    reference = pd.read_parquet(place / "monitoring/reference.parquet")
    assert "text" not in reference.columns and len(reference) > 50


@pytest.mark.slow
def test_the_version_is_registered_as_the_candidate(trained):
    _, _, result, client = trained
    version = client.get_model_version_by_alias("mail", "candidate")
    assert (version.name, int(version.version), version.run_id) == ("mail", result.version, result.run_id)
    assert float(version.tags["valid.ece"]) == result.measures["valid"]["ece"]


def to_score():
    return pd.DataFrame([
        {"id": "x", "text": "free prize", "answer": "spam", "votes": {"friend": "spam"}},
        {"id": "y", "text": "thanks", "answer": 1, "votes": {}},
        {"id": "z", "text": "see you", "answer": None, "votes": None},
    ])


@pytest.mark.slow
def test_the_pyfunc_says_what_the_model_says_with_pickle_turned_off(trained, tmp_path, monkeypatch):
    import mlflow

    monkeypatch.setenv("MLFLOW_ALLOW_PICKLE_DESERIALIZATION", "false")
    pyfunc = mlflow.pyfunc.load_model("models:/mail@candidate")
    local = mlflow.artifacts.download_artifacts("models:/mail@candidate", dst_path=str(tmp_path / "version"))
    (spec,) = Path(local).rglob("spec.json")
    model = load(spec.parent)
    expected = score_rows(model, Encoder().encode, to_score(), "the rows")
    found = pyfunc.predict(to_score())
    pd.testing.assert_frame_equal(found, expected)
    assert found["risk"].isna().tolist() == [False, False, True] and found["id"].tolist() == ["x", "y", "z"]
    assert found[["p_ham", "p_spam"]].sum(axis=1).to_numpy() == pytest.approx(1.0)
    assert found["risk"][0] == pytest.approx(found["p_ham"][0])


@pytest.mark.slow
def test_no_pickle_and_no_text_of_the_user_is_kept(trained):
    _, state, _, _ = trained
    kept = [path for path in state.home.rglob("*") if path.is_file()]
    assert any(path.suffix == ".safetensors" for path in kept) and any(path.name == "mlflow.db" for path in kept)
    for path in kept:
        content = path.read_bytes()
        assert path.suffix not in (".pkl", ".pickle", ".joblib", ".pt", ".pth", ".bin"), path
        assert not content.startswith((b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")), path
        assert SECRET.encode() not in content, path


@pytest.mark.slow
def test_training_again_is_a_second_version_with_the_same_bits(trained):
    import mlflow

    folder, state, result, _ = trained
    seen: list[tuple[int, int]] = []
    again = job.train(folder, state, CONFIG, progress=job.Progress(encoded=lambda done, of: seen.append((done, of))))
    assert again.version == result.version + 1 and again.measures == result.measures and seen[-1] == (100, 100)
    both = [Path(mlflow.artifacts.download_artifacts(f"models:/mail/{version}"))
            for version in (result.version, again.version)]
    for name in ("weights.safetensors", "spec.json", "sources.py"):
        first, second = (next(place.rglob(name)).read_bytes() for place in both)
        assert first == second, name


@pytest.mark.slow
@pytest.mark.parametrize("broken", ["_figures", "monitoring_frame", "source_table"])
def test_a_run_that_fails_midway_leaves_no_version(trained, tmp_path, monkeypatch, broken):
    folder, state, _, client = trained
    before = {(version.version, tuple(version.aliases)) for version in client.search_model_versions("name='mail'")}

    def fail(*args, **kwargs):
        raise ZeroDivisionError

    monkeypatch.setattr(job, broken, fail)
    with pytest.raises(ZeroDivisionError):
        job.train(folder, state, CONFIG)
    after = {(version.version, tuple(version.aliases)) for version in client.search_model_versions("name='mail'")}
    assert after == before
    experiment = client.get_experiment_by_name("mail").experiment_id
    assert client.search_runs([experiment], max_results=1)[0].info.status == "FAILED"


ELSEWHERE = '''
import sys, warnings
assert not any("polarscore" in path for path in sys.path), sys.path
try:
    import training
except ImportError:
    pass
else:
    raise SystemExit("the repository is importable here")
import mlflow, pandas as pd
mlflow.set_tracking_uri(sys.argv[1])
found = mlflow.pyfunc.load_model("models:/mail@candidate").predict(
    pd.DataFrame([{"id": "x", "text": "free prize", "answer": "spam", "votes": {"friend": "spam"}}]))
import training.model
print("from", training.model.__file__)
print("risk", repr(float(found["risk"][0])))
'''


@pytest.mark.slow
def test_the_model_brings_its_own_code(trained, tmp_path):
    """In an environment that has the installed packages and not polarscore."""
    _, state, _, _ = trained
    site = Path(np.__file__).parents[1]
    environment = tmp_path / "environment"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(environment)], check=True)
    (own,) = environment.glob("lib/python*/site-packages")
    (own / "others.pth").write_text(str(site) + "\n")  # the folder alone: .pth files in it are not read
    environ = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
               "MLFLOW_DISABLE_TELEMETRY": "true"}
    said = subprocess.run([str(environment / "bin" / "python"), "-I", "-c", ELSEWHERE, state.tracking_uri],
                          cwd=tmp_path, env=environ, capture_output=True, text=True)
    assert said.returncode == 0, said.stderr
    printed = dict(line.split(" ", 1) for line in said.stdout.splitlines() if " " in line)
    assert str(Path(__file__).parents[1]) not in printed["from"].replace(str(state.home), "")
    version = next(state.artifacts.rglob("spec.json")).parent  # each has the same bits
    row = pd.DataFrame([{"id": "x", "text": "free prize", "answer": "spam", "votes": {"friend": "spam"}}])
    assert float(printed["risk"]) == pytest.approx(score_rows(load(version), Encoder().encode, row, "")["risk"][0])
