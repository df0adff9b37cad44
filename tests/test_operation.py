import json
import pickle
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import save_file

from registry import operation
from registry.gate_facts import Operation
from registry.loading import differing
from registry.operation import has_signature, pickles, requirements, try_out
from training.encoder import default_spec
from training.harmonizer import make_harmonizer
from training.model import RiskModel, save
from training.spec import SPEC, WEIGHTS, Spec
from training.task import Columns, Source
from training.tracking import REQUIRED, pin
from training.worth import Worth

MODEL = """
import os
import mlflow
import pandas as pd

class Scorer(mlflow.pyfunc.PythonModel):
    def load_context(self, context):
        {load}

    def predict(self, context, model_input, params=None):
        {predict}

mlflow.models.set_model(Scorer())
"""
CONSTANT = 'return pd.DataFrame({"risk": [0.5] * len(model_input), "answer": [None] * len(model_input)})'


@pytest.fixture
def make(tmp_path):
    """Write an MLflow model whose code is given; its folder."""

    def write(load="pass", predict=CONSTANT, example=True):
        folder = tmp_path / "model"
        folder.mkdir()
        (folder / "code.py").write_text(MODEL.format(load=load, predict=predict))
        info = "saved_input_example_info:\n  artifact_path: input_example.json\n  type: dataframe\n" \
               "  pandas_orient: split\n"
        (folder / "MLmodel").write_text(
            "flavors:\n  python_function:\n    env: {virtualenv: python_env.yaml}\n    model_code_path: code.py\n"
            "    loader_module: mlflow.pyfunc.loaders.code_model\n" + (info if example else ""))
        (folder / "input_example.json").write_text('{"columns": ["text"], "data": [["made up"], ["also"]]}')
        return folder

    return write


@pytest.fixture(scope="module")
def version(tmp_path_factory):
    """A version as `polarscore train` logs it, but for the training."""
    import mlflow
    from mlflow.models import infer_signature

    from training import pyfunc

    home = tmp_path_factory.mktemp("version")
    spec = Spec(
        name="mail", classes=("ham", "spam"), sources=(Source(name="friend"),), stored_sources=1,
        columns=Columns(path="data.csv"), encoder=default_spec(), harmonizer="linear", scalariser="linear",
        pareto_weights={"LLM": 1.0, "friend": 1.0}, data_digest="0" * 64, sharpness=1.0,
    )
    worth = Worth(np.full(2, 0.5), np.full((2, 2, 2), 0.5), np.zeros((2, 2)), np.ones((2, 2)))
    save(RiskModel(spec, make_harmonizer("linear", 384, 2, seed=1), worth), home / "files")
    example = pd.DataFrame([{"text": "made up", "answer": "ham"}])
    mlflow.pyfunc.save_model(
        str(home / "model"), python_model=pyfunc.__file__, pip_requirements=pin(REQUIRED),
        artifacts={name: str(home / "files" / name) for name in (WEIGHTS, SPEC)},
        code_paths=[str(Path(pyfunc.__file__).parent)],
        signature=infer_signature(example, pd.DataFrame({"risk": [0.5]})), input_example=example)
    return home / "model"


def snapshot(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning", "ignore::FutureWarning")
def test_a_version_is_tried_out_and_left_as_it_was(version):
    before = snapshot(version)
    found = try_out(version)
    assert found == Operation(differing=0, signature=True, requirements=tuple(pin(REQUIRED)))
    assert snapshot(version) == before
    (version / "artifacts" / WEIGHTS).write_bytes(b"no weights")
    try:
        assert "weights.safetensors is missing or damaged" in try_out(version).load_error
    finally:
        (version / "artifacts" / WEIGHTS).write_bytes(before[f"artifacts/{WEIGHTS}"])


@pytest.mark.slow
@pytest.mark.parametrize(("load", "predict", "expected"), [
    ("pass", CONSTANT, (None, None, 0)),
    ("print('chatter'); os.system('echo more')", CONSTANT, (None, None, 0)),
    ("pass", "import random; return pd.DataFrame({'risk': [random.random(), 0.5]})", (None, None, 1)),
    ("pass", "raise ValueError('holds a text')", (None, "ValueError", None)),
    ("raise OSError('no such file')", CONSTANT, ("OSError: no such file", None, None)),
    ("os._exit(3)", CONSTANT, ("the process ended with 3 while loading", None, None)),
])
def test_what_a_version_does_when_it_is_loaded(make, load, predict, expected):
    folder = make(load, predict)
    before = snapshot(folder)
    found = try_out(folder)
    assert (found.load_error, found.score_error, found.differing) == expected
    assert snapshot(folder) == before and not found.signature and found.requirements == ()


@pytest.mark.slow
def test_a_versions_code_sees_no_secret_and_knows_pickle_is_off(make, tmp_path, monkeypatch):
    monkeypatch.setenv("POLARSCORE_KEY_PASSWORD", "secret")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "secret")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    seen = tmp_path / "seen.json"
    found = try_out(make(f"import json; open({str(seen)!r}, 'w').write(json.dumps(dict(os.environ)))", example=False))
    assert found.load_error is None and found.differing is None
    environment = json.loads(seen.read_text())
    assert "secret" not in environment.values()
    assert environment["MLFLOW_ALLOW_PICKLE_DESERIALIZATION"] == "false"
    assert environment["MLFLOW_DISABLE_TELEMETRY"] == "true"


@pytest.mark.slow
def test_a_load_that_does_not_end_is_ended(make, monkeypatch):
    monkeypatch.setattr(operation, "LOAD_S", 0.5)
    assert try_out(make()).load_error == "it took longer than 0.5 s"


def test_a_folder_that_is_no_mlflow_model_has_nothing(tmp_path):
    assert not has_signature(tmp_path) and requirements(tmp_path) == () and pickles(tmp_path) == ()
    (tmp_path / "MLmodel").write_text(": : :")
    (tmp_path / "requirements.txt").write_bytes(b"\xff")
    assert not has_signature(tmp_path) and requirements(tmp_path) == ()


@pytest.mark.parametrize(("signature", "there"), [
    ("", False),
    ("signature: null\n", False),
    ("signature: {inputs: 'broken', outputs: null}\n", False),
    ("signature: {inputs: '[{\"type\": \"string\", \"name\": \"text\", \"required\": true}]', outputs: null}\n", False),
    ("signature: {inputs: '[{\"type\": \"string\", \"name\": \"text\", \"required\": true}]', "
     "outputs: '[{\"type\": \"double\", \"name\": \"risk\", \"required\": true}]', params: null}\n", True),
])
def test_a_signature_says_what_goes_in_and_what_comes_out(tmp_path, signature, there):
    (tmp_path / "MLmodel").write_text("flavors: {}\n" + signature)
    assert has_signature(tmp_path) is there


def test_requirements_are_read_without_comments(tmp_path):
    (tmp_path / "requirements.txt").write_text("# ours\ntorch==2.13.0  # a build\n\n  numpy==2.4.6\n-r more.txt\n")
    assert requirements(tmp_path) == ("torch==2.13.0", "numpy==2.4.6", "-r more.txt")


def test_pickles_are_found_by_name_and_by_content(tmp_path):
    (tmp_path / "deep").mkdir()
    (tmp_path / "a.pkl").write_bytes(b"")
    (tmp_path / "B.PT").write_bytes(b"anything")
    for protocol in range(2, pickle.HIGHEST_PROTOCOL + 1):
        (tmp_path / "deep" / f"data{protocol}").write_bytes(pickle.dumps({"a": [1, 2.0, "x"]}, protocol) + b"more")
    torch.save({"w": torch.zeros(3)}, tmp_path / "weights.bin")
    with zipfile.ZipFile(tmp_path / "plain.zip", "w") as archive:
        archive.writestr("readme.txt", "no pickle")
    (tmp_path / "spec.json").write_text("{}")
    (tmp_path / "short").write_bytes(b"\x80\x04")
    (tmp_path / "looks").write_bytes(b"\x80\x02" + bytes(6) + b"{}.")
    save_file({"w": torch.zeros(3)}, tmp_path / "weights.safetensors")
    assert pickles(tmp_path) == ("B.PT", "a.pkl", "deep/data2", "deep/data3", "deep/data4", "deep/data5", "weights.bin")


@pytest.mark.parametrize("length", range(0x280 - 16, 0x580, 16))
def test_safetensors_whose_header_has_the_length_of_a_pickles_beginning_are_none(tmp_path, length):
    name = "n" * length
    save_file({name: torch.frombuffer(bytearray(b"." * 8), dtype=torch.uint8)}, tmp_path / "weights.safetensors")
    assert pickles(tmp_path) == ()


def test_cells_that_differ_are_counted():
    one = pd.DataFrame({"a": [1.0, np.nan, 2.0], "b": ["x", None, "y"]})
    assert differing(one, one.copy()) == 0
    assert differing(one, one.assign(a=[1.0, np.nan, np.nextafter(2, 3)])) == 1
    assert differing(one, one.assign(a=[1.0, 0.0, 2.0], b=["x", "z", "y"])) == 2
    assert differing(one, one.rename(columns={"a": "c"})) == 6
    assert differing(one, one.iloc[:2]) == 6
