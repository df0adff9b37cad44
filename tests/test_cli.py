import csv
import json
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import pandas as pd
import pytest

import polarscore
from registry import versions
from registry.versions import Versions
from tests.commandline import Ran, runner
from training.fit import FitConfig
from training.job import train
from training.state import State

ROOT = Path(__file__).resolve().parent.parent
SPLITS = ("train", "train", "train", "valid", "test")
MEASURES = {"n", "error_rate", "mean_risk", "ece", "r2", "auroc", "aurc", "brier"}
SAID = {
    "complaint": ("The parcel never came", "My order is broken", "Nobody answers"),
    "question": ("When do you open?", "Where is your shop?", "Do you ship to Norway?"),
    "thanks": ("Thank you, it works", "Thanks a lot", "I am grateful"),
}
TOML = """
[task]
name = "tickets"
classes = ["complaint", "question", "thanks"]
[data]
path = "rows.csv"
split = "split"
text = "body"
answer = "llm"
label = "gold"
[[sources]]
name = "other_llm"
family = "llm"
[[sources]]
name = "kb"
"""
CODE = """
from training.sources import ABSTAIN, labelling_function

@labelling_function()
def asks(row):
    return "question" if row.text.endswith("?") else ABSTAIN

@labelling_function(evidence="It says thanks.")
def says_thanks(row):
    return "thanks" if "thank" in row.text.lower() else ABSTAIN
"""
# MLflow's own imports and models, in this process.
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning:mlflow"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:pydantic"),
]


def write_rows(path, rows):
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def make_task(folder, n=120):
    chance = random.Random(1)
    rows = []
    for number in range(n):
        gold = chance.choice(list(SAID))
        said = [gold if chance.random() < share else chance.choice([*SAID, ""]) for share in (0.7, 0.8, 0.3)]
        rows.append({"id": f"t{number}", "split": SPLITS[number % 5], "body": chance.choice(SAID[gold]),
                     "llm": said[0], "gold": gold, "vote:other_llm": said[1], "vote:kb": said[2]})
    folder.mkdir()
    write_rows(folder / "rows.csv", rows)
    (folder / "task.toml").write_text(TOML)
    (folder / "sources.py").write_text(CODE)
    return rows


@pytest.fixture
def run(monkeypatch, capfd):
    return runner(monkeypatch, capfd)


def start(*arguments, cwd, **environment):
    """The command in a process of its own, as users start it."""
    return subprocess.Popen([sys.executable, "-m", "polarscore", *map(str, arguments)], cwd=cwd, text=True,
                            env=os.environ | {"PYTHONPATH": str(ROOT)} | environment,
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def finished(*arguments, cwd, **environment):
    with start(*arguments, cwd=cwd, **environment) as process:
        out, err = process.communicate(timeout=120)
    return Ran(process.returncode, out, err)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A folder with a task and a state in which it has been trained twice; no test changes it."""
    folder = tmp_path_factory.mktemp("world")
    rows = make_task(folder / "tickets")
    state = State.from_environment({"POLARSCORE_HOME": str(folder / ".polarscore")})
    for seed in (0, 1):
        train(folder / "tickets", state, FitConfig(epochs=4, seed=seed))
    return folder, rows


@pytest.fixture
def here(world, tmp_path, monkeypatch):
    """The current folder, with a copy of the world's databases; the versions' files stay where they are."""
    shutil.copytree(world[0], tmp_path / "here", ignore=shutil.ignore_patterns("artifacts"))
    monkeypatch.chdir(tmp_path / "here")
    for name in ("POLARSCORE_HOME", "POLARSCORE_DATABASE_URL", "MLFLOW_TRACKING_URI"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path / "here"


@pytest.fixture
def empty(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("POLARSCORE_HOME", "POLARSCORE_DATABASE_URL", "MLFLOW_TRACKING_URI"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


LEVELS = [[], ["registry"], ["monitor"], *([name] for name in (
    "demo", "train", "evaluate", "score", "explain", "bundle", "serve", "feedback", "bench", "ask",
    "correct", "sources")),
    *(["registry", name] for name in (
        "list", "show", "promote", "gate", "rollback", "threshold", "history", "at", "verify", "diff", "evidence",
        "key", "migrate", "webhook")),
    *(["registry", "webhook", name] for name in ("add", "list", "remove")),
    *(["monitor", name] for name in ("report", "check", "sample", "figures", "recalibrate", "ui"))]


@pytest.mark.parametrize("level", LEVELS, ids=" ".join)
def test_each_level_has_help_that_fits_a_terminal(run, empty, level):
    ran = run(*level, "--help")
    assert ran.code == 0 and ran.err == ""
    assert ran.out.startswith("Usage: " + " ".join(["polarscore", *level]))
    assert "..." not in ran.out.split("\n", 1)[1]  # no sentence is cut
    assert all(len(line) <= 80 for line in ran.out.splitlines())


@pytest.mark.parametrize("level", [[], ["registry"], ["registry", "webhook"], ["monitor"]], ids=" ".join)
def test_without_a_command_they_are_listed_on_standard_error(run, empty, level):
    ran = run(*level)
    assert ran.code == 2 and ran.out == "" and "Commands:" in ran.err and "Traceback" not in ran.err


@pytest.mark.parametrize(("arguments", "message"), [
    (["nope"], "No such command 'nope'. See: polarscore --help"),
    (["registry", "nope"], "No such command 'nope'. See: polarscore registry --help"),
    (["train"], "Missing argument 'TASK_DIR'. See: polarscore train --help"),
    (["train", ".", "--epochs", "x"], "Invalid value for '--epochs'"),
    (["train", ".", "--epochs", "0"], "Invalid value for '--epochs'"),
    (["train", ".", "--zigzag"], "No such option: --zigzag. See: polarscore train --help"),
    (["train", ".", "--learning-rate", "nan"], "--learning-rate should be a finite number above 0"),
    (["train", ".", "--name", "a/b"], "a model's name should be"),
    (["train", ".", "--name", "../../x"], "a model's name should be"),
    (["train", ".", "--name", ""], "a model's name should be"),
    (["score", "."], "Missing option '--"),
    (["registry", "promote"], "Missing option '--to'"),
    (["registry", "promote", "--to", "canary"], "stage 'canary' is unknown. Expected one of candidate,"),
    (["registry", "gate", "--to", "canary"], "stage 'canary' is unknown"),
    (["registry", "at", "yesterday"], "'yesterday' is no moment"),
    (["monitor", "sample"], "Missing option '--budget'"),
    (["monitor", "sample", "--budget", "0"], "Invalid value for '--budget'"),
    (["monitor", "ui"], "there is no report to show yet"),
    (["feedback", "nofile.csv"], "nofile.csv does not exist"),
    (["train", "."], "task.toml does not exist"),
    (["train", ".", "--audit", "ten"], "Invalid value for '--audit'"),
    (["train", ".", "--audit-file", "a.csv"], "--audit-file names the file of --audit N. Give both."),
    (["train", ".", "--alpha", "0.1"], "--alpha is for --audit or --audited. Give one of them."),
    (["train", ".", "--audit", "9", "--delta", "0.1"], "--delta is for --audited FILE. Give both."),
])
def test_a_wrong_command_ends_in_one_line_and_leaves_nothing(run, empty, arguments, message):
    assert message in run(*arguments).refused()
    assert list(empty.iterdir()) == []


def test_an_empty_registry_says_what_to_do(run, empty):
    assert "no version is registered yet" in run("registry", "list").out
    assert run("registry", "list", "--json").json() == []
    assert "Registered: none; train one first" in run("registry", "show").refused()
    assert "score something first" in run("monitor", "check").refused()


def test_versions_can_be_listed_and_shown(run, here):
    found = run("registry", "list", "--json").json()
    assert [(row["model"], row["version"], row["stage"]) for row in found] == [
        ("tickets", 2, "candidate"), ("tickets", 1, "candidate")]
    assert all(set(row) == {"model", "version", "stage", "measures"} for row in found)
    assert all(set(row["measures"]) == MEASURES for row in found)
    shown = run("registry", "show", "models:/tickets/1", "--json").json()
    assert shown["version"] == 1 and shown["classes"] == list(SAID) and set(shown["measures"]) == set(SPLITS)
    assert set(shown["pareto_weights"]) == {"LLM", "other_llm", "kb", "asks", "says_thanks"}
    assert (shown["recalibration"], shown["guarantee"], shown["warnings"]) == (None, None, [])
    assert shown["worth"][0]["source"] == "LLM" and len(shown["worth"]) == 5
    for row in shown["worth"][1:]:
        assert 0 < row["accuracy"] < 1 and 0 < row["coverage"] <= 1 and 0 < row["counts_as"] <= 1
    words = run("registry", "show").out
    assert "models:/tickets/2" in words and "…" not in words
    assert "candidate" in run("registry", "list").out


@pytest.fixture
def quick_gates(here):
    """Gates for which no version is loaded or served anew."""
    (here / ".polarscore" / "gates.toml").write_text("[production]\nmin_labelled = 10\n" + "".join(
        f"[production.gates.{name}]\n{margin}\n" for name, margin in (
            ("sound", ""), ("ece", "margin = 0.2"), ("auroc", "margin = 0.2"), ("aurc", "margin = 0.2"))))


def test_a_version_goes_to_production_and_back(run, here, quick_gates):
    gate = run("registry", "gate", "models:/tickets/1", "--json").json()
    assert set(gate) == {"model", "version", "to", "allowed", "gates"}
    assert gate["allowed"] and [found["name"] for found in gate["gates"]] == ["sound", "ece", "auroc", "aurc"]
    first = run("registry", "promote", "models:/tickets/1", "--to", "production", "--why", "first", "--json").json()
    assert first.pop("evidence").startswith("runs:/")
    assert first == {"model": "tickets", "version": 1, "from": "candidate", "to": "production", "replaced": None,
                     "gates": gate["gates"]}
    assert run("registry", "promote", "--to", "staging", "--json").json()["version"] == 2
    assert "candidate → staging" in run("registry", "history").out
    second = run("registry", "promote", "--to", "production", "--json").json()  # the one in staging
    assert (second["version"], second["replaced"]) == (2, 1)
    assert {row["version"]: row["stage"] for row in run("registry", "list", "--json").json()} == {
        1: "archived", 2: "production"}
    back = run("registry", "rollback", "--who", "bob", "--json").json()
    assert (back["version"], back["replaced"]) == (1, 2)
    log = run("registry", "history", "--json").json()
    assert [(entry["action"], entry["version"]) for entry in log] == [
        ("promote", 1), ("promote", 2), ("promote", 2), ("rollback", 1)]
    assert set(log[0]) == {"at", "who", "action", "model", "version", "from", "to", "replaced", "why", "gates", "files",
                           "evidence", "evidence_uri", "seq", "previous", "hash", "key", "signature"}
    assert log[0]["why"] == "first" and log[3]["who"] == "bob"
    assert run("registry", "at", log[2]["at"]).out == "models:/tickets/2\n"
    assert run("registry", "at", "2020-01-01", "--json").json()["version"] is None
    assert run("registry", "verify", "--json").json() == {"ok": True, "repaired": [], "findings": []}
    assert "before version 1" in run("registry", "rollback").refused()


def test_a_disagreement_and_a_refusal_exit_with_1(run, here, quick_gates):
    run("registry", "promote", "models:/tickets/1", "--to", "production")
    Versions(State.from_environment()).client.set_registered_model_alias("tickets", "production", "2")
    ran = run("registry", "verify", "--json")
    assert ran.json()["ok"] is False and "points at version 2" in ran.refused(1)
    Versions(State.from_environment()).client.set_registered_model_alias("tickets", "production", "1")
    Path("strict.toml").write_text("[production]\nmin_labelled = 10\n[production.gates.ece]\nmargin = 0.2\nlimit = 0\n")
    before = run("registry", "list", "--json").out
    for command in (["promote", "--to"], ["gate", "--to"]):
        ran = run("registry", *command, "production", "--gates", "strict.toml")
        assert "more than the limit of 0.000" in ran.refused(1)
    assert run("registry", "list", "--json").out == before
    assert len(run("registry", "history", "--json").json()) == 1


def test_labels_that_are_missing_are_unknown_and_block_if_asked_to(run, here):
    shutil.copytree("tickets", "unlabelled")
    frame = pd.read_csv("unlabelled/rows.csv", dtype=str, keep_default_na=False)
    frame.assign(gold="").to_csv("unlabelled/rows.csv", index=False)
    Path("gates.toml").write_text('[production]\nunknown = "block"\n[production.gates.auroc]\nmargin = 0.1\n')
    words = ("--gates", "gates.toml", "--task", "unlabelled", "--split", "test")
    for command in ("gate", "promote"):
        refused = run("registry", command, "models:/tickets/1", "--to", "production", *words).refused(1)
        assert "auroc, which cannot be judged and therefore blocks: 0 labelled answers, 30 needed" in refused
    assert run("registry", "history", "--json").json() == []
    Path("gates.toml").write_text("[production.gates.auroc]\nmargin = 0.1\n")
    gate = run("registry", "gate", "models:/tickets/1", *words, "--json").json()
    assert gate["allowed"] and [found["state"] for found in gate["gates"]] == ["unknown"]


def test_a_bento_is_built_of_what_was_promoted(run, here, quick_gates):
    assert "--allow-candidate" in run("bundle", "--model", "models:/tickets/1").refused()
    run("registry", "promote", "models:/tickets/1", "--to", "production")
    found = run("bundle", "--model", "models:/tickets@production", "--json").json()
    assert set(found) == {"bundle", "model", "version"} and found["bundle"].startswith("tickets:1-")
    assert found["bundle"] in run("bundle", "--model", "models:/tickets/1").out  # the same is built once


def test_two_versions_differ(run, here):
    found = run("registry", "diff", "models:/tickets/1", "models:/tickets/2", "--json").json()
    assert found and all(len(pair) == 2 for pair in found.values())
    assert "believed accuracy of LLM" in found and "checked answers" not in found
    assert "believed accuracy of" in run("registry", "diff", "models:/tickets/1", "models:/tickets/2").out
    assert run("registry", "diff", "models:/tickets/1", "models:/tickets/1", "--json").json() == {}
    assert run("registry", "diff", "models:/tickets/1", "models:/tickets/1").out == "no difference\n"


def test_a_version_is_evaluated(run, here):
    found = run("evaluate", "tickets", "--model", "models:/tickets@candidate", "--json").json()
    assert set(found) == {"model", "version", "split", "measures", "measures_without_votes"}
    assert set(found["measures"]) == set(found["measures_without_votes"]) == MEASURES
    assert found["measures"]["n"] == found["measures_without_votes"]["n"] and found["measures"] != found[
        "measures_without_votes"]
    assert (found["model"], found["version"], found["split"]) == ("tickets", 2, "test")
    for model, message in (("models:/tickets@nope", "has no alias 'nope'. It has: candidate."),
                           ("models:/tickets/9", "has no version 9"), ("models:/nope/1", "no model 'nope'"),
                           ("tickets", "names no version")):
        assert message in run("evaluate", "tickets", "--model", model).refused()
    assert "split 'all' is unknown" in run("evaluate", "tickets", "--model", "models:/tickets/1", "--split",
                                           "all").refused()


def test_scores_feedback_and_alarms_follow_each_other(run, here, world):
    columns = ["score_id", "id", "risk", "p_complaint", "p_question", "p_thanks", "answer", "harmonizer_answer",
               "version"]
    summary = run("score", "tickets", "--model", "models:/tickets/1", "--out", "risks.parquet", "--json").json()
    assert set(summary) == {"model", "version", "n", "out", "mean_risk"} and summary["n"] == 120
    scored = pd.read_parquet("risks.parquet")
    assert list(scored.columns) == columns and scored["id"].tolist() == [row["id"] for row in world[1]]
    assert set(scored["answer"].dropna()) <= set(SAID) and (scored["risk"].isna() == scored["answer"].isna()).all()
    gold = {row["id"]: row["gold"] for row in world[1]}
    write_rows(here / "by_id.csv", [{"id": i, "label": label} for i, label in gold.items()])
    write_rows(here / "by_score.csv", [{"score_id": s, "label": gold[i]}
                                       for s, i in zip(scored["score_id"][:90], scored["id"][:90], strict=True)])
    assert run("feedback", "by_score.csv", "--json").json() == {"rows": 90, "scores": 90}
    ran = run("monitor", "check", "--json")
    found = ran.json()
    assert set(found) == {"ok", "alarms"} and ran.code == (0 if found["ok"] else 1)
    assert all(set(alarm) >= {"name", "state", "since", "size", "reason"} for alarm in found["alarms"])
    assert {alarm["state"] for alarm in found["alarms"]} <= {"ok", "alarm", "unknown"}
    chosen = run("monitor", "sample", "--budget", "5", "--json").json()
    assert len(chosen) == 5 and set(chosen[0]) == {"score_id", "id", "risk", "probability"}
    assert run("feedback", "by_id.csv").out == "120 rows of feedback joined to 120 scores\n"
    run("monitor", "sample", "--budget", "200")
    assert run("monitor", "sample", "--budget", "5").out == "nothing is left to check\n"


def test_what_cannot_be_told_fails_a_strict_check_alone(run, here):
    run("score", "tickets", "--model", "models:/tickets/1", "--out", "risks.jsonl")
    ran = run("monitor", "check", "--json")
    states = {alarm["name"]: alarm["state"] for alarm in ran.json()["alarms"]}
    assert ran.code == 0 and states["calibration"] == "unknown"
    assert "unknown: calibration" in run("monitor", "check", "--strict").refused(1)


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.csv", "rows.parquet"])
def test_a_file_of_rows_is_scored_whatever_its_format(run, here, name):
    frame = pd.DataFrame({"text": ["Thanks a lot", "Where is it?"], "answer": ["complaint", None]})
    match name.rsplit(".")[-1]:
        case "jsonl":
            frame.to_json(name, orient="records", lines=True)
        case "csv":
            frame.to_csv(name, index=False)
        case _:
            frame.to_parquet(name)
    ran = run("score", name, "--model", "models:/tickets@candidate", "--out", "risks.jsonl", "--no-keep")
    assert ran.code == 0 and ran.out.startswith("2 rows scored by models:/tickets/2, mean risk 0.") and ran.err == ""
    rows = [json.loads(line) for line in Path("risks.jsonl").read_text().splitlines()]
    assert [row["id"] for row in rows] == ["1", "2"] and "score_id" not in rows[0]
    assert rows[0]["risk"] is not None and rows[1]["risk"] is None and rows[1]["answer"] is None
    assert "score something first" in run("monitor", "check").refused()


@pytest.mark.parametrize(("rows", "target", "message"), [
    ('{"text": " "}', "x.jsonl", "'text' should be a text"),
    ('{"text": "a", "answer": "rant"}', "x.jsonl", "row '1' is no class of this task: 'rant'"),
    ('{"words": "a"}', "x.jsonl", "lacks the column"),
    ('{"id": 1, "text": "a"}\n{"id": 1, "text": "b"}', "x.jsonl", "row '1' occurs more than once"),
    ('{"text": "a", "vote:nobody": 1}', "x.jsonl", "'vote:nobody'"),
    ("{", "x.jsonl", "line 1 is not valid JSON"),
    ("", "x.jsonl", "is empty"),
    ('{"text": "a"}', "x.xlsx", "should end in .parquet, .jsonl"),
    ('{"text": "a"}', "nowhere/x.jsonl", "there is no folder"),
])
def test_rows_at_fault_are_named_and_nothing_is_written(run, here, rows, target, message):
    Path("rows.jsonl").write_text(rows)
    before = sorted(os.listdir())
    assert message in run("score", "rows.jsonl", "--model", "models:/tickets/1", "--out", target).refused()
    assert sorted(os.listdir()) == before
    assert "score something first" in run("monitor", "check").refused()


@pytest.mark.parametrize(("content", "message"), [
    ("id,label\nt0,rant\n", "the feedback for the id 't0' says 'rant', which is no class"),
    ("id,label\nt0,thanks\nt999,thanks\n", "the id 't999', of which no score"),
    ("score_id,label\nx,thanks\n", "the score_id 'x', of which no score"),
    ("id,label\nt0,\n", "row 1 has no label"),
    ("ident,label\nt0,thanks\n", "should have the columns 'label' and 'score_id' or 'id'"),
    ("", "is empty"),
])
def test_feedback_at_fault_is_named_and_none_counts(run, here, content, message):
    run("score", "tickets", "--model", "models:/tickets/1", "--out", "risks.jsonl")
    Path("feedback.csv").write_text(content)
    assert message in run("feedback", "feedback.csv").refused()
    found = run("monitor", "check", "--json").json()["alarms"]
    assert next(alarm for alarm in found if alarm["name"] == "calibration")["state"] == "unknown"


def breaking(name, old, new):
    def change():
        path = Path("tickets", name)
        assert old in path.read_text()
        path.write_text(path.read_text().replace(old, new, 1))
    return change


def cut_gzip():
    Path("tickets/rows.csv.gz").write_bytes(b"\x1f\x8b\x08\x00 cut short")
    breaking("task.toml", "rows.csv", "rows.csv.gz")()


def silence():
    Path("tickets/sources.py").unlink()
    frame = pd.read_csv("tickets/rows.csv")
    frame.assign(**{"vote:other_llm": "", "vote:kb": ""}).to_csv("tickets/rows.csv", index=False)


@pytest.mark.parametrize(("change", "message"), [
    (breaking("task.toml", '"body"', '"words"'), "lacks the column 'words'"),
    (breaking("rows.csv", "\nt7,", "\nt8,"), "row 't8' occurs more than once"),
    (breaking("rows.csv", "vote:kb", "vote:wiki"), "'vote:wiki', which is no source of this task"),
    (breaking("task.toml", '["complaint", "question", "thanks"]', '["complaint", "thanks"]'), "is no class of this"),
    (breaking("task.toml", '["complaint", "question", "thanks"]', '["complaint"]'), "at least two classes. Found 1"),
    (breaking("task.toml", "[task]", "[task]\ncolour = 3"), "unknown key"),
    (breaking("sources.py", "ABSTAIN,", "ABSTAINS,"), "sources.py"),
    (lambda: Path("tickets/rows.csv").write_text(""), "rows.csv is empty"),
    (cut_gzip, "is not a whole gzip file"),
    (silence, "every source abstains on every row"),
])
def test_a_task_at_fault_is_named_and_no_version_appears(run, here, change, message):
    change()
    ran = run("train", "tickets", "--json")
    assert message in ran.refused() and ran.out == ""
    assert len(run("registry", "list", "--json").json()) == 2


@pytest.mark.parametrize(("options", "message"), [
    (["--scalariser", "cubic"], "scalariser 'cubic' is unknown"), (["--harmonizer", "oak"], "harmonizer 'oak'"),
    (["--weights", "best"], "Pareto weights 'best' are unknown"),
])
def test_a_wrong_setting_opens_no_run(run, here, options, message):
    from registry.versions import Versions

    assert message in run("train", "tickets", "--name", "other", *options).refused()
    client = Versions(State.from_environment({"POLARSCORE_HOME": str(here / ".polarscore")})).client
    assert client.get_experiment_by_name("other") is None


def test_a_file_that_cannot_be_written_leaves_no_scores(run, here):
    Path("folder.parquet").mkdir()
    ran = run("score", "tickets", "--model", "models:/tickets/1", "--out", "folder.parquet")
    assert "folder.parquet is a folder" in ran.refused()
    assert "score something first" in run("monitor", "check").refused()


def test_a_version_with_a_new_source_is_compared_with_one_that_lacks_it(run, here, quick_gates):
    run("registry", "promote", "models:/tickets/1", "--to", "production")
    with Path("tickets/sources.py").open("a") as file:
        file.write("\n@labelling_function\ndef new(row):\n    return 'thanks' if 'thank' in row.text else -1\n")
    assert run("train", "tickets", "--epochs", "4", "--json").json()["version"] == 3
    gate = run("registry", "gate", "models:/tickets/3", "--json").json()
    assert [found["name"] for found in gate["gates"]] == ["sound", "ece", "auroc", "aurc"]
    assert run("evaluate", "tickets", "--model", "models:/tickets/1", "--json").json()["measures"]["n"] > 0


@pytest.mark.slow
def test_a_few_answers_are_drawn_checked_and_used(run, here, world):
    options = ("train", "tickets", "--epochs", "4")
    drawn = run(*options, "--audit", "60")
    assert drawn.code == 0 and drawn.err == ""
    assert f"{here / 'tickets-audit.csv'} holds 60 answers to check: fill in the column 'label'" in drawn.out
    assert "polarscore train tickets --audited tickets-audit.csv" in drawn.out
    assert "tickets-audit.csv exists already, and may hold labels" in run(*options, "--audit", "60").refused()
    assert "has no label yet" in run(*options, "--audited", "tickets-audit.csv").refused()
    found = run(*options, "--audit", "5", "--audit-file", "few.csv", "--json").json()
    assert set(found) == {"run_id", "model", "version", "measures", "audit"}
    assert found["audit"] == {"file": "few.csv", "rows": 5}
    gold = {row["id"]: row["gold"] for row in world[1]}
    frame = pd.read_csv("tickets-audit.csv", dtype=str, keep_default_na=False)
    frame.assign(label=frame["id"].map(gold)).to_csv("tickets-audit.csv", index=False)
    used = run(*options, "--audited", "tickets-audit.csv", "--alpha", "0.3", "--json").json()
    audit = used["audit"]
    assert set(audit) == {"labels", "recalibration", "guarantee"} and audit["labels"] == 60
    assert set(audit["recalibration"]) == {"mean_risk", "interval", "curve"}
    low, high = audit["recalibration"]["interval"]
    assert low < audit["recalibration"]["mean_risk"] < high
    assert set(audit["guarantee"]) == {"alpha", "delta", "threshold", "accepted", "upper", "labels", "words"}
    assert (audit["guarantee"]["alpha"], audit["guarantee"]["delta"]) == (0.3, 0.1)
    words = run(*options, "--audited", "tickets-audit.csv", "--alpha", "0.3").out
    assert "recalibrated by 60 checked answers: the mean risk is" in words and audit["guarantee"]["words"] in words

    shown = run("registry", "show", "--json").json()
    assert shown["guarantee"] == audit["guarantee"]
    assert shown["recalibration"] == {"labels": 60, **audit["recalibration"]}
    assert audit["guarantee"]["words"] in run("registry", "show").out
    evaluated = run("evaluate", "tickets", "--model", "models:/tickets@candidate", "--json").json()
    assert set(evaluated["accepted"]) == {"threshold", "share", "error_rate"}
    assert evaluated["accepted"]["threshold"] == audit["guarantee"]["threshold"]
    changed = run("registry", "diff", "models:/tickets/3", f"models:/tickets/{used['version']}", "--json").json()
    assert changed["checked answers"] == [None, 60]
    assert "without votes" in run("evaluate", "tickets", "--model", "models:/tickets@candidate").out


@pytest.mark.slow
def test_a_reason_to_doubt_the_risk_is_told_and_kept(run, here):
    Path("tickets/sources.py").unlink()
    frame = pd.read_csv("tickets/rows.csv", dtype=str, keep_default_na=False)
    frame.assign(**{"vote:kb": "thanks"}).to_csv("tickets/rows.csv", index=False)
    ran = run("train", "tickets", "--epochs", "2", "--json")
    assert set(ran.json()) == {"run_id", "model", "version", "measures"}
    assert ran.err.startswith("warning: The LLM and the sources") and "--audit N" in ran.err
    (warning,) = run("registry", "show", "--json").json()["warnings"]
    assert f"warning: {warning}\n" == ran.err and warning in run("registry", "show").out


def test_a_model_is_named_by_the_uri_of_a_version_too(run, here):
    assert run("registry", "list", "models:/tickets/1", "--json").json() == run("registry", "list", "--json").json()
    assert run("registry", "history", "models:/tickets@candidate", "--json").json() == []
    assert "name the version once" in run("registry", "show", "models:/tickets/1", "--model", "tickets").refused()


def test_stores_that_cannot_be_opened_end_in_one_line_without_a_secret(run, here, monkeypatch):
    for url in ("rubbish", "mysql://ada:secret@host/x", "sqlite:////nowhere/x.db",
                "postgresql://ada:secret@127.0.0.1:9/x"):
        monkeypatch.setenv("POLARSCORE_DATABASE_URL", url)
        assert "secret" not in run("registry", "history").refused()
    monkeypatch.delenv("POLARSCORE_DATABASE_URL")
    Path("file").touch()
    monkeypatch.setenv("POLARSCORE_HOME", str(here / "file"))
    assert "file" in run("registry", "list").refused()
    monkeypatch.setenv("POLARSCORE_HOME", str(here / "broken"))
    Path("broken").mkdir()
    Path("broken/mlflow.db").write_bytes(os.urandom(20_000))
    assert "file is not a database" in run("registry", "list").refused()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "nonsense://x")
    assert "nonsense" in run("registry", "list").refused()


def test_what_nobody_expected_is_one_line_too(run, here, monkeypatch):
    def fail(*arguments):
        raise RuntimeError("the moon\nis full")

    monkeypatch.setattr(versions, "Versions", fail)
    assert run("registry", "list").refused() == (
        "polarscore: RuntimeError: the moon. With POLARSCORE_TRACEBACK=1 it says where.\n")
    monkeypatch.setenv("POLARSCORE_TRACEBACK", "1")
    monkeypatch.setattr(sys, "argv", ["polarscore", "registry", "list"])
    with pytest.raises(RuntimeError, match="moon"):
        polarscore.main()


def test_help_imports_nothing_heavy_and_is_quick(tmp_path):
    heavy = ["numpy", "pandas", "torch", "mlflow", "evidently", "bentoml", "sqlalchemy", "pydantic"]
    program = f"import sys, polarscore; print([name for name in {heavy} if name in sys.modules])"
    found = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert found.stdout == "[]\n"
    began = time.monotonic()
    assert finished("--help", cwd=tmp_path).code == 0
    assert time.monotonic() - began < 3  # usually 0.2 s


@pytest.mark.slow
def test_training_as_users_start_it_prints_json_alone_and_can_be_interrupted(here):
    ran = finished("train", "tickets", "--epochs", "2", "--seed", "5", "--json", cwd=here)
    assert ran.err == ""
    found = ran.json()
    assert set(found) == {"run_id", "model", "version", "measures"} and found["version"] == 3
    assert set(found["measures"]) == set(SPLITS) and set(found["measures"]["test"]) == MEASURES

    with closing(sqlite3.connect(here / ".polarscore" / "mlflow.db")) as database, \
            start("train", "tickets", "--epochs", "100000", "--json", cwd=here) as process:
        ends = time.monotonic() + 60
        while database.execute("SELECT count(*) FROM runs WHERE status = 'RUNNING'").fetchone() == (0,):
            assert process.poll() is None and time.monotonic() < ends
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        assert process.communicate(timeout=60) == ("", "")
        assert process.returncode in (130, -signal.SIGINT)  # a shell calls both 130
    found = Versions(State.from_environment())
    assert len(found.list("tickets")) == 3
    experiment = found.client.get_experiment_by_name("tickets").experiment_id
    states = [run.info.status for run in found.client.search_runs([experiment])]
    assert len(states) == 4 and "RUNNING" not in states


@pytest.mark.slow
def test_the_tables_of_a_pipe_are_whole(here):
    ran = finished("train", "tickets", "--epochs", "2", cwd=here, COLUMNS="40")
    assert ran.code == 0 and ran.err == "" and "…" not in ran.out
    assert "registered models:/tickets/3, now also models:/tickets@candidate" in ran.out
    assert "other_llm" in ran.out and "like the LLM" in ran.out
