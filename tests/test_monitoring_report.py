import json
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from monitoring.drift import DRIFT_COLUMNS, write_report
from training.calibration import ece, measures, reliability
from training.errors import InputError

ID = "item-nobody-may-see"


def scores(n: int, seed: int = 0, labelled: int = 0, shift: float = 0.0) -> pd.DataFrame:
    """A table as `Store.frame` gives it, with a text that it never has."""
    generator = np.random.default_rng(seed)
    risk = generator.beta(2, 4, n)
    error = (generator.random(n) < np.clip(risk + shift, 0, 1)).astype(float)
    return pd.DataFrame({
        "score_id": [f"{ID}-{row}" for row in range(n)], "item_id": [f"{ID}-{row}" for row in range(n)],
        "created_at": pd.date_range("2025-03-01", periods=n, freq="min", tz="UTC"),
        "risk": risk, "answer": generator.choice(["spam", "ham"], n), "harmonizer_answer": "ham",
        "text_length": generator.integers(10, 500, n), "sources_voting": generator.integers(0, 9, n),
        "agreement": generator.random(n), "error": np.where(np.arange(n) < labelled, error, np.nan),
        "text": f"{ID} wrote this",
    })


def written(folder: Path, current: pd.DataFrame, reference: pd.DataFrame | None = None, name: str = "report"):
    files = write_report(scores(400, seed=1) if reference is None else reference, current, folder, name)
    return files.html.read_text(encoding="utf-8"), json.loads(files.json.read_text(encoding="utf-8"))


def metric(content: dict, name: str) -> float:
    return next(row["value"] for row in content["metrics"] if row["metric_name"].startswith(name + "("))


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """A report with 300 labels, written on a machine that cannot call out."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "connect", lambda *_: pytest.fail("a report called out"))
        return written(tmp_path_factory.mktemp("report"), scores(600, labelled=300, shift=0.3))


def test_the_measures_are_those_of_calibration(report):
    _, content = report
    frame = scores(600, labelled=300, shift=0.3)[:300]
    risk, error = frame["risk"].to_numpy(), frame["error"].to_numpy()
    assert content["measures"] == measures(risk, error)
    assert metric(content, "ExpectedCalibrationError") == ece(risk, error)
    assert metric(content, "MeanRisk") == pytest.approx(risk.mean())
    assert metric(content, "ErrorRate") == pytest.approx(error.mean())
    assert metric(content, "CalibrationGap") == pytest.approx(error.mean() - risk.mean())
    assert metric(content, "BrierScore") == pytest.approx(((risk - error) ** 2).mean())
    assert metric(content, "RiskAuroc") == content["measures"]["auroc"]
    assert content["reliability"] == reliability(risk, error).to_dict("records")
    assert content["scores"] == {"reference": 400, "current": 600, "without_risk": 0, "labelled": 300}


def test_the_default_test_of_the_calibration_error_fails_where_errors_are_more_than_predicted(report):
    _, content = report
    states = {test["description"].split(":")[0]: test["status"] for test in content["tests"]}
    assert states["Calibration error (ECE)"] == "FAIL"


def test_neither_text_nor_id_is_in_a_report(report):
    html, content = report
    assert ID not in html and ID not in json.dumps(content)
    assert "2025-03-01" not in html  # nor any row's moment


def test_a_report_says_what_it_found_in_words(report):
    html, content = report
    assert "<title>polarscore: report</title>" in html
    assert any("Of 300 answers that people checked" in sentence for sentence in content["summary"])
    assert "Distributed otherwise than in training: nothing that could be compared." in content["summary"]
    assert set(content["drift"]) == set(DRIFT_COLUMNS) and not content["not_compared"]


def test_without_feedback_a_report_says_so(tmp_path):
    html, content = written(tmp_path, scores(300, seed=2))
    assert content["measures"] is None and content["reliability"] == []
    assert any(sentence.startswith("No feedback yet") for sentence in content["summary"])
    assert "No feedback yet" in html and "ExpectedCalibrationError" not in json.dumps(content["metrics"])


DEGENERATE = {
    "no row": lambda frame: frame[:0],
    "one row": lambda frame: frame[:1],
    "one labelled row": lambda frame: frame.assign(error=[0.0] + [np.nan] * (len(frame) - 1)),
    "constant": lambda frame: frame.assign(risk=0.5, text_length=7, sources_voting=3, agreement=1.0, answer="a"),
    "risk 0 and 1": lambda frame: frame.assign(risk=np.arange(len(frame)) % 2, error=1.0),
    "no agreement": lambda frame: frame.assign(agreement=np.nan, sources_voting=0),
    "no answer": lambda frame: frame.assign(answer=None, risk=np.nan, agreement=np.nan, error=np.nan),
    "some answers": lambda frame: frame.assign(answer=["a", None] * (len(frame) // 2)),
    "all wrong": lambda frame: frame.assign(error=1.0),
    "all right": lambda frame: frame.assign(error=0.0),
    "new class": lambda frame: frame.assign(answer="</script><script>alert(1)</script>", error=1.0),
    "many classes": lambda frame: frame.assign(answer=[f"class {row % 40}" for row in range(len(frame))]),
    "missing columns": lambda frame: frame[["risk", "answer"]],
}


@pytest.mark.parametrize("case", DEGENERATE)
@pytest.mark.parametrize("side", ["current", "reference"])
def test_whatever_the_tables_hold_a_report_is_written_without_nan(tmp_path, case, side):
    odd, usual = DEGENERATE[case](scores(60, seed=3, labelled=10)), scores(60, seed=4)
    current, reference = (odd, usual) if side == "current" else (usual, odd)
    html, content = written(tmp_path, current, reference)
    assert "NaN" not in json.dumps(content) and ID not in html
    assert "<script>alert" not in html
    assert set(content["drift"]) | set(content["not_compared"]) == set(DRIFT_COLUMNS)


def test_feedback_of_one_kind_has_no_auroc_and_says_why(tmp_path):
    _, content = written(tmp_path, scores(60).assign(error=1.0))
    assert content["measures"]["auroc"] is None
    assert any(sentence.startswith("All of them were wrong") for sentence in content["summary"])


def test_drift_is_seen_where_it_is(tmp_path):
    _, content = written(tmp_path, scores(400, seed=5).assign(answer="ham"))
    assert [column for column, found in content["drift"].items() if found["drifted"]] == ["answer"]
    assert content["drift"]["answer"]["distance"] == pytest.approx(0.5, abs=0.1)


@pytest.mark.parametrize("name", ["", "../up", "a/b", "..", ".hidden"])
def test_a_name_that_is_no_file_name_is_refused(tmp_path, name):
    with pytest.raises(InputError, match="plain file name"):
        write_report(scores(3), scores(3), tmp_path, name)


def test_a_folder_that_cannot_be_written_is_an_input_error_and_leaves_nothing(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="cannot be written"):
        write_report(scores(3), scores(3), tmp_path / "file", "report")
    written(tmp_path / "deep" / "folder", scores(3))
    assert sorted(path.name for path in (tmp_path / "deep" / "folder").iterdir()) == ["report.html", "report.json"]


def test_evidently_is_imported_only_once_a_report_is_asked_for():
    program = "import sys, monitoring.drift, monitoring.alarms, monitoring.review; print('evidently' in sys.modules)"
    out = subprocess.run([sys.executable, "-c", program], cwd=Path(__file__).parents[1], capture_output=True)
    assert out.stdout.strip() == b"False", out
