import shutil
import signal
import socket
import subprocess
import sys
import urllib.request
from os import environ
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from monitoring.store import Feedback, ScoredAnswer, Store
from monitoring.watch import check, report, sample, serve_reports, watched
from registry.versions import Versions
from training.errors import InputError
from training.state import State
from training.tracking import REFERENCE

ROOT = Path(__file__).resolve().parent.parent
TEXT = "a text that nobody may read"
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:mlflow")


def frame(n, seed):
    generator = np.random.default_rng(seed)
    return pd.DataFrame({
        "risk": generator.beta(2, 4, n), "answer": generator.choice(["spam", "ham"], n), "harmonizer_answer": "ham",
        "text_length": generator.integers(10, 90, n), "sources_voting": 1, "agreement": 1.0,
    })


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    """A state with three versions of `mail` and one of `news`, with the frames of their training answers."""
    home = tmp_path_factory.mktemp("watch") / "state"
    client = Versions(State.from_environment({"POLARSCORE_HOME": str(home)}).prepare()).client
    path = home / Path(REFERENCE).name
    frame(300, seed=0).to_parquet(path)
    for model, count in (("mail", 3), ("news", 1)):
        client.create_registered_model(model)
        run = client.create_run(client.create_experiment(model, artifact_location=(home / "runs" / model).as_uri()))
        client.log_artifact(run.info.run_id, str(path), str(Path(REFERENCE).parent))
        for _ in range(count):
            client.create_model_version(model, "file:///nowhere", run_id=run.info.run_id)
    return home


@pytest.fixture
def state(template, tmp_path):
    """The template, which no test changes, with a prediction store of the test's own."""
    shutil.copytree(template, tmp_path / "state", ignore=shutil.ignore_patterns("runs"))
    return State.from_environment({"POLARSCORE_HOME": str(tmp_path / "state")})


def keep(state, version, n=200, model="mail", seed=1):
    """Scores of a version, as if its risks were drawn anew; returns their ids."""
    rows = [
        ScoredAnswer(
            score_id=f"{model}-{version}-{i}", item_id=f"item {i}", model=model, version=version, answer=row.answer,
            harmonizer_answer="ham", risk=row.risk, probabilities={"ham": 1 - row.risk, "spam": row.risk},
            votes={"friend": row.answer}, votes_used=True, text_length=row.text_length, text=TEXT)
        for i, row in enumerate(frame(n, seed).itertuples())
    ]
    with Store(state.database_url) as store:
        store.add_scores(rows)
    return [row.score_id for row in rows]


def chosen(state, which=None):
    version = watched(state, which).version
    return version.model, version.version


def test_without_scores_there_is_nothing_to_watch(state):
    with pytest.raises(InputError, match="Scores are kept of: none; score something first"):
        check(state, None)
    with pytest.raises(InputError, match="nothing that a model 'mail' scored is kept"):
        check(state, "mail")
    with pytest.raises(InputError, match="nothing that models:/mail/1 scored is kept yet"):
        check(state, "models:/mail/1")


def test_the_version_in_production_is_watched_if_it_has_scored_and_else_the_newest_that_has(state):
    keep(state, "1")
    keep(state, "2")
    assert chosen(state) == chosen(state, "mail") == ("mail", 2)
    client = Versions(state).client
    client.set_registered_model_alias("mail", "production", "1")
    assert chosen(state) == ("mail", 1)
    client.set_registered_model_alias("mail", "production", "3")  # which has scored nothing
    assert chosen(state) == ("mail", 2)
    assert chosen(state, "models:/mail/1") == ("mail", 1)
    with pytest.raises(InputError, match="nothing that models:/mail/3 scored is kept"):
        chosen(state, "models:/mail@production")


def test_one_of_several_models_is_to_be_named(state):
    keep(state, "1")
    keep(state, "1", model="news")
    with pytest.raises(InputError, match=r"name a model. Scores are kept of: mail, news"):
        chosen(state)
    assert chosen(state, "news") == ("news", 1)


def test_scores_of_a_version_that_mlflow_does_not_know_are_an_input_error(state):
    keep(state, "9")
    with pytest.raises(InputError, match="model 'mail' has no version 9"):
        check(state, None)
    keep(state, "1", model="gone")
    with pytest.raises(InputError, match=r"no model 'gone' is registered|model 'gone' has no version 1"):
        check(state, "gone")


def test_a_run_whose_files_are_gone_is_an_input_error(state):
    client = Versions(state).client
    run = client.create_run(client.get_experiment_by_name("news").experiment_id)
    client.create_model_version("news", "file:///nowhere", run_id=run.info.run_id)
    keep(state, "2", model="news")
    with pytest.raises(InputError, match=r"the training answers of models:/news/2, .* cannot be fetched"):
        check(state, "news")


def test_the_scores_of_the_version_alone_are_compared_with_its_training_answers(state):
    keep(state, "1", n=50)
    keep(state, "2", n=70)
    seen = watched(state, "models:/mail/1")
    assert len(seen.reference) == 300 and len(seen.current) == 50
    assert TEXT not in seen.current.to_csv()


def test_a_shift_is_an_alarm_and_none_is_none(state):
    keep(state, "1", n=300)
    assert {alarm.name: alarm.state for alarm in check(state, None)}["risk_drift"] == "ok"
    with Store(state.database_url) as store:
        store.add_scores([
            ScoredAnswer(score_id=f"shifted {i}", item_id="x", model="mail", version="2", answer="spam",
                         harmonizer_answer="ham", risk=0.9 + i / 10_000, probabilities={"ham": 0.9, "spam": 0.1},
                         votes={}, votes_used=False, text_length=50) for i in range(300)])
    assert {alarm.name: alarm.state for alarm in check(state, None)}["risk_drift"] == "alarm"


def test_a_sample_names_scores_and_is_the_same_for_a_seed(state):
    ids = keep(state, "1")
    rows = sample(state, None, 10, 0)
    assert len(rows) == 10 and rows == sample(state, None, 10, 0) != sample(state, None, 10, 1)
    assert all(set(row) == {"score_id", "id", "risk", "probability"} for row in rows)
    assert {row["score_id"] for row in rows} <= set(ids)
    assert all(0 < row["probability"] <= 1 for row in rows)


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def test_without_a_report_there_are_no_pages(state):
    with pytest.raises(InputError, match=r"no report to show yet. Write one: polarscore monitor report"):
        serve_reports(state, free_port(), ready=lambda: pytest.fail("is ready"))


@pytest.mark.slow
def test_reports_are_written_logged_and_gathered_in_the_pages(state, tmp_path):
    ids = keep(state, "1")
    with Store(state.database_url) as store:
        store.add_feedback([Feedback("spam", score_id=score_id) for score_id in ids[:120]])
    first = report(state, None, tmp_path / "reports")
    second = report(state, None, None)
    assert set(first) == {"model", "version", "scores", "labelled", "html", "json", "run_id"}
    assert (first["model"], first["version"], first["scores"], first["labelled"]) == ("mail", 1, 200, 120)
    assert Path(first["html"]).parent == tmp_path / "reports" and Path(second["html"]).parent == state.reports
    assert Versions(state).client.get_run(first["run_id"]).info.status == "FINISHED"
    kept = sorted((state.reports / "workspace").rglob("snapshots/*.json"))
    assert len(kept) == 2
    assert not any(secret in path.read_text() for path in kept for secret in (TEXT, ids[0], "item 1"))
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(InputError, match=r"cannot be used: Address already in use. Choose another with --port"):
            serve_reports(state, taken.getsockname()[1], ready=lambda: pytest.fail("is ready"))

    port = free_port()
    command = [sys.executable, "-m", "polarscore", "monitor", "ui", "--port", str(port)]
    home = {"POLARSCORE_HOME": str(state.home), "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(command, cwd=ROOT, env=environ | home, text=True, stdout=subprocess.PIPE,
                          stderr=subprocess.PIPE) as process:
        try:
            assert process.stdout.readline() == f"http://127.0.0.1:{port}\n"
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/api/projects", timeout=60) as answer:
                assert b'"name":"mail"' in answer.read()
            process.send_signal(signal.SIGINT)
            assert process.communicate(timeout=60) == ("", "") and process.returncode == 130
        finally:
            process.kill()
