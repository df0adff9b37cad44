import json
import re
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from monitoring.drift import DRIFT_COLUMNS, Kind, write_report
from monitoring.estimation import accepted_error, error_rate
from monitoring.measured import surely
from monitoring.settings import AlarmSettings
from monitoring.smooth import smooth_ece
from training.calibration import ece, measures, reliability
from training.errors import InputError

ID = "item-nobody-may-see"


def scores(n: int, seed: int = 0, labelled: int = 0, shift: float = 0.0, known: bool = True) -> pd.DataFrame:
    """A table as `Store.frame` gives it, with a text that it never has; labels are a random share of known size."""
    generator = np.random.default_rng(seed)
    risk = generator.beta(2, 4, n)
    error = (generator.random(n) < np.clip(risk + shift, 0, 1)).astype(float)
    told = np.arange(n) < labelled
    return pd.DataFrame({
        "score_id": [f"{ID}-{row}" for row in range(n)], "item_id": [f"{ID}-{row}" for row in range(n)],
        "created_at": pd.date_range("2025-03-01", periods=n, freq="min", tz="UTC"), "version": "1",
        "risk": risk, "answer": generator.choice(["spam", "ham"], n), "harmonizer_answer": "ham",
        "text_length": generator.integers(10, 500, n), "sources_voting": generator.integers(0, 9, n),
        "agreement": generator.random(n), "decision": np.where(risk < 0.3, "accept", "review"),
        "error": np.where(told, error, np.nan),
        "probability": np.where(told & known, max(labelled, 1) / max(n, 1), np.nan),
        "text": f"{ID} wrote this",
    })


def written(
    folder: Path, current: pd.DataFrame, reference: pd.DataFrame | None = None, name: str = "report",
    kind: Kind = "release", **more: Any,
) -> tuple[str, dict[str, Any]]:
    training = scores(400, seed=1) if reference is None else reference
    files = write_report(kind, training, current, folder, name, **more)
    return files.html.read_text(encoding="utf-8"), json.loads(files.json.read_text(encoding="utf-8"))


def metric(content: dict, name: str) -> float:
    return next(row["value"] for row in content["metrics"] if row["metric_name"].startswith(name))


def states(content: dict) -> dict[str, str]:
    return {test["name"].split(":")[0]: test["status"] for test in content["tests"]}


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """A report with 300 labels, written on a machine that cannot call out."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "connect", lambda *_: pytest.fail("a report called out"))
        return written(tmp_path_factory.mktemp("report"), scores(600, labelled=300, shift=0.3), threshold=0.3,
                       promised=0.1)


def test_the_measures_are_those_of_calibration(report):
    _, content = report
    whole = scores(600, labelled=300, shift=0.3)
    risk, error = whole["risk"][:300].to_numpy(), whole["error"][:300].to_numpy()
    expected, found = measures(risk, error), content["measures"]
    for key in ("ece", "r2", "auroc", "aurc", "brier"):
        assert found[key]["value"] == pytest.approx(expected[key]), key
    assert metric(content, "ExpectedCalibrationError") == pytest.approx(ece(risk, error))
    assert metric(content, "SmoothCalibrationError") == pytest.approx(smooth_ece(risk, error))
    assert metric(content, "MeanRisk") == pytest.approx(whole["risk"].mean())  # of all answers, labelled or not
    assert metric(content, "ErrorRate") == pytest.approx(error_rate(whole).value)
    assert metric(content, "CalibrationGap") == pytest.approx(error.mean() - risk.mean())
    assert metric(content, "BrierScore") == pytest.approx(((risk - error) ** 2).mean())
    assert metric(content, "AcceptedShare") == pytest.approx((whole["risk"] <= 0.3).mean())
    assert metric(content, "AcceptedError") == pytest.approx(accepted_error(whole, 0.3).value)
    parts = [metric(content, f"Brier{part}") for part in ("Reliability", "Resolution", "Uncertainty", "Within")]
    assert parts[0] - parts[1] + parts[2] + parts[3] == pytest.approx(metric(content, "BrierScore"))
    bins = reliability(risk, error)
    shown = bins[bins["n"] >= 5]
    assert [row["n"] for row in content["reliability"]] == shown["n"].tolist()
    assert [row["error_rate"] for row in content["reliability"]] == pytest.approx(shown["error_rate"].tolist())
    assert content["scores"] == {"reference": 400, "current": 600, "before": 0, "without_risk": 0, "labelled": 300,
                                 "labelled_of_unknown_choice": 0}


def test_intervals_hold_their_measures(report):
    _, content = report
    told = {key: row for key, row in content["measures"].items() if row["low"] is not None}
    assert {"error_rate", "gap", "smooth_ece", "brier", "accepted_error"} == set(told)
    assert all(row["low"] <= row["value"] <= row["high"] for row in told.values())


def test_the_default_tests_fail_where_errors_are_more_than_predicted(report):
    _, content = report
    failed = {test["description"].split(":")[0] for test in content["tests"] if test["status"] == "FAIL"}
    assert {"Calibration error (ECE)", "Smooth calibration error"} <= failed
    assert states(content)["In no slice are answers wrong more, or less, often than their risks say"] == "FAIL"
    assert content["tests"] and states(content)["risk"] == "SUCCESS"


def test_neither_text_nor_id_is_in_a_report(report):
    html, content = report
    assert ID not in html and ID not in json.dumps(content)
    assert "2025-03-01T" not in html and "2025-03-01 0" not in html  # nor any row's moment
    assert not {f"{risk:.6f}" for risk in scores(600)["risk"]} & set(re.findall(r"0\.\d{6}", html))


def test_a_report_says_what_it_found_in_words(report):
    html, content = report
    assert "<title>polarscore: report</title>" in html
    assert any(sentence.startswith("Of all answers, ") and "by 300 that were drawn" in sentence
               for sentence in content["summary"])
    assert any("more than the 10.0% promised" in sentence for sentence in content["summary"])
    assert "Distributed otherwise than in training: no column that was compared." in content["summary"]
    assert set(content["drift"]) == set(DRIFT_COLUMNS) and not content["not_compared"]


def test_labels_of_unknown_choice_tell_nothing_of_the_others(tmp_path):
    _, content = written(tmp_path, scores(600, labelled=300, shift=0.3, known=False))
    said = " ".join(content["summary"])
    assert "Cannot tell for all answers" in said and "Of the 300 that were labelled" in said
    assert content["holds_for"] == "the labelled answers" and content["cannot_tell"]
    assert content["scores"]["labelled_of_unknown_choice"] == 300
    first = scores(600, labelled=300, shift=0.3)[:300]
    assert metric(content, "MeanRisk") == pytest.approx(first["risk"].mean())
    assert metric(content, "ErrorRate") == pytest.approx(first["error"].mean())


@pytest.mark.parametrize(("known", "words"), [
    (20, "only 20 labels are of known choice, 30 are needed"), (1, "only 1 label is of known choice, 30 are needed"),
    (0, "of 60 labels it is not known how the answers were chosen"),
])
def test_few_labels_of_known_choice_beside_others_are_the_reason(tmp_path, known, words):
    whole = scores(600, labelled=60)
    whole["probability"] = np.where(np.arange(600) < known, 0.1, np.nan)
    _, content = written(tmp_path, whole)
    assert content["cannot_tell"].startswith(words)
    assert any(sentence.startswith(f"Cannot tell for all answers: {words}") for sentence in content["summary"])


def test_of_fewer_than_five_answers_no_risk_is_shown(tmp_path):
    for n, words in [(1, "1 score of production"), (4, "4 scores of production")]:
        _, content = written(tmp_path, scores(n, labelled=1), settings=AlarmSettings(rows=1), threshold=0.3)
        assert set(content["measures"]) == {"answers", "labelled"} and not content["drift"]
        assert content["summary"][0].startswith(words)
        assert "Only 1 answer was checked: too few to show, or to tell anything." in content["summary"]
        assert "Whether anything is distributed otherwise than in training cannot be told: no column could be " \
            "compared." in content["summary"]
    assert "mean_risk" in written(tmp_path, scores(5))[1]["measures"]


def test_of_four_measures_that_did_not_change_one_seldom_seems_to():
    names = ["error_rate", "gap", "smooth_ece", "accepted_error"]
    z = np.random.default_rng(0).standard_normal((1000, 4))
    tables = [pd.DataFrame({"measure": names, "difference": row, "low": row - 1.96, "high": row + 1.96}) for row in z]
    assert np.mean([bool(surely(table, names)) for table in tables]) == pytest.approx(0.05, abs=0.02)
    changed = pd.DataFrame({"measure": names, "difference": [2.1, -9.0, 0.0, np.nan]}).assign(
        low=lambda table: table["difference"] - 1.96, high=lambda table: table["difference"] + 1.96)
    assert surely(changed, names) == ["gap"] and surely(changed, names[:1]) == ["error_rate"]
    assert surely(changed[:0], names) == []


def test_labels_drawn_by_risk_are_weighed(tmp_path):
    whole = scores(20_000, labelled=20_000, shift=0.1)
    probability = 0.02 + 0.5 * whole["risk"]
    drawn = np.random.default_rng(0).random(len(whole)) < probability
    _, content = written(tmp_path, whole.assign(error=whole["error"].where(drawn),
                                                probability=probability.where(drawn)))
    found, truth = content["measures"], measures(whole["risk"].to_numpy(), whole["error"].to_numpy())
    assert found["error_rate"]["low"] <= truth["error_rate"] <= found["error_rate"]["high"]
    assert found["brier"]["low"] <= truth["brier"] <= found["brier"]["high"]
    assert found["aurc"]["value"] == pytest.approx(truth["aurc"], abs=0.04)
    assert abs(whole["error"][drawn].mean() - truth["error_rate"]) > 0.08  # what the labels say by themselves


def test_without_feedback_a_report_says_so(tmp_path):
    html, content = written(tmp_path, scores(300, seed=2))
    assert set(content["measures"]) == {"answers", "labelled", "mean_risk"} and content["reliability"] == []
    assert any(sentence.startswith("No feedback yet") for sentence in content["summary"])
    assert "No feedback yet" in html and "ExpectedCalibrationError" not in json.dumps(content["metrics"])


def test_of_fewer_than_five_labels_no_error_is_shown(tmp_path):
    _, content = written(tmp_path, scores(300, seed=2, labelled=4))
    assert "error_rate" not in content["measures"] and content["scores"]["labelled"] == 4
    assert any(sentence.startswith("Only 4 answers were checked") for sentence in content["summary"])


def test_a_daily_report_sets_the_day_beside_the_days_before(tmp_path):
    html, content = written(
        tmp_path, scores(1000, seed=3, labelled=900, shift=0.3), kind="daily", threshold=0.3,
        before=scores(3000, seed=4, labelled=2000).assign(
            created_at=pd.date_range("2025-02-01", periods=3000, freq="10min", tz="UTC")),
    )
    assert content["compared_with"] == "the days before" and content["kind"] == "daily"
    rose = next(row for row in content["differences"] if row["measure"] == "gap")
    assert rose["low"] > 0.2 and rose["low"] < rose["difference"] < rose["high"]
    assert any(sentence.startswith("Since the days before, beyond chance: errors rose") for sentence in
               content["summary"])
    assert {row["side"] for row in content["over_time"]} == {"the days before", "the day"}
    assert set(content["drift_from_the_days_before"]) == set(DRIFT_COLUMNS)
    assert "All measures, beside those of the days before" in html


def test_a_comparison_sets_two_versions_side_by_side(tmp_path):
    html, content = written(
        tmp_path, scores(2000, seed=5, labelled=2000), scores(2000, seed=6, labelled=2000, shift=0.2),
        kind="comparison", sides=("version 3", "version <4>"), threshold=0.3, reference_threshold=0.1,
    )
    assert content["compared_with"] == "version 3" and content["sides"][1] == "version ‹4›" and "<4>" not in html
    row = {row["measure"]: row for row in content["differences"]}
    assert row["error_rate"]["before"] > row["error_rate"]["after"] and row["error_rate"]["high"] < 0
    assert row["accepted_share"]["before"] < row["accepted_share"]["after"]
    assert content["measures_compared"]["auroc"]["value"] == row["auroc"]["before"]
    assert any("errors fell by" in sentence for sentence in content["summary"])
    same = json.loads(write_report("comparison", *[scores(800, seed=7, labelled=800)] * 2, tmp_path, "same")
                      .json.read_text())
    assert any("no measure has changed beyond chance" in sentence for sentence in same["summary"])


def test_a_report_slices_by_any_column_that_names_no_row(tmp_path):
    group = np.where(np.arange(600) % 2, "even", "odd")
    _, content = written(tmp_path, scores(600, labelled=400).assign(group=group), slices=["group"])
    assert {row["value"] for row in content["slices"] if row["slice"] == "group"} == {"even", "odd"}
    assert metric(content, "SlicesOff") == sum(row["marked"] for row in content["slices"])
    with pytest.raises(InputError, match="no column 'colour'"):
        written(tmp_path, scores(60), slices=["colour"])
    many = scores(60).assign(**{f"vote:source {number}": "ham" for number in range(400)})
    with pytest.raises(InputError, match=r"no column 'vote:sorce 399'\. Slice by one of: vote:source 399, ") as refusal:
        written(tmp_path, many, slices=["vote:sorce 399"])
    assert len(str(refusal.value)) < 700 and str(refusal.value).endswith(", and 387 more.")
    with pytest.raises(InputError, match="single answers"):
        written(tmp_path, scores(60), slices=["item_id"])


def test_another_kind_is_refused(tmp_path):
    with pytest.raises(InputError, match="daily, release, comparison"):
        written(tmp_path, scores(60), kind="weekly")


def test_our_metrics_work_on_answers_in_any_report_of_evidentlys():
    from monitoring.pages import import_evidently

    evidently = import_evidently()
    from monitoring.metrics import MEASURES, ExpectedCalibrationError

    now, before = scores(400, labelled=400, shift=0.2), scores(400, seed=1, labelled=400)
    report = evidently.Report([metric() for key, metric in MEASURES.items() if "accepted" not in key],
                              include_tests=True)
    numbers = evidently.DataDefinition(numerical_columns=["risk", "error"])
    datasets = [evidently.Dataset.from_pandas(table[["risk", "error"]], numbers) for table in (now, before)]
    content = report.run(*datasets).dict()
    expected = measures(now["risk"].to_numpy(), now["error"].to_numpy())
    for name, key in (("ExpectedCalibrationError", "ece"), ("RiskAuroc", "auroc"), ("RiskR2", "r2"),
                      ("RiskAurc", "aurc"), ("BrierScore", "brier"), ("ErrorRate", "error_rate")):
        assert metric(content, name) == pytest.approx(expected[key])
    assert {test["status"] for test in content["tests"]} == {"FAIL"}
    empty = evidently.Dataset.from_pandas(now[["risk"]], evidently.DataDefinition(numerical_columns=["risk"]))
    with pytest.raises(InputError, match="cannot be told"):
        evidently.Report([ExpectedCalibrationError()]).run(empty, None)


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
    "labels all drawn by whim": lambda frame: frame.assign(probability=np.nan),
    "one moment": lambda frame: frame.assign(created_at=pd.Timestamp("2025-03-01", tz="UTC")),
    "clocks that jump": lambda frame: frame.assign(created_at=pd.to_datetime(
        np.where(np.arange(len(frame)) % 2, "1970-01-01", "2099-12-31"), utc=True)),
}


@pytest.mark.parametrize("case", DEGENERATE)
@pytest.mark.parametrize(("side", "kind"), [("current", "daily"), ("reference", "comparison")])
def test_whatever_the_tables_hold_a_report_is_written_without_nan(tmp_path, case, side, kind):
    odd, usual = DEGENERATE[case](scores(60, seed=3, labelled=10)), scores(60, seed=4)
    current, reference = (odd, usual) if side == "current" else (usual, odd)
    html, content = written(tmp_path, current, reference, kind=kind, before=usual, threshold=0.3, promised=0.1)
    assert "NaN" not in json.dumps(content) and ID not in html
    assert "<script>alert" not in html
    assert set(content["drift"]) | set(content["not_compared"]) == set(DRIFT_COLUMNS)


def test_feedback_of_one_kind_has_no_auroc_and_says_why(tmp_path):
    _, content = written(tmp_path, scores(60).assign(error=1.0))
    assert "auroc" not in content["measures"]
    assert any(sentence.startswith("All of them were wrong") for sentence in content["summary"])


def test_drift_is_seen_where_it_is(tmp_path):
    _, content = written(tmp_path, scores(400, seed=5).assign(answer="ham"))
    assert [column for column, found in content["drift"].items() if found["drifted"]] == ["answer"]
    assert content["drift"]["answer"]["distance"] == pytest.approx(0.5, abs=0.1)


@pytest.mark.parametrize("name", ["", "../up", "a/b", "..", ".hidden"])
def test_a_name_that_is_no_file_name_is_refused(tmp_path, name):
    with pytest.raises(InputError, match="plain file name"):
        write_report("release", scores(3), scores(3), tmp_path, name)


def test_a_folder_that_cannot_be_written_is_an_input_error_and_leaves_nothing(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="cannot be written"):
        write_report("release", scores(3), scores(3), tmp_path / "file", "report")
    written(tmp_path / "deep" / "folder", scores(3))
    assert sorted(path.name for path in (tmp_path / "deep" / "folder").iterdir()) == ["report.html", "report.json"]


def test_evidently_is_imported_only_once_a_report_is_asked_for():
    program = "import sys, monitoring.drift, monitoring.findings, monitoring.alarms; print('evidently' in sys.modules)"
    out = subprocess.run([sys.executable, "-c", program], cwd=Path(__file__).parents[1], capture_output=True)
    assert out.stdout.strip() == b"False", out
