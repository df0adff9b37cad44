import signal
import socket
import subprocess
import sys
import urllib.request
from datetime import date, timedelta
from os import environ
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from monitoring.checklist import sample
from monitoring.exposition import OF_VERSION
from monitoring.overview import figures
from monitoring.store import Feedback, ScoredAnswer, Store
from monitoring.watch import check, checked, exposed, report, scored_version, serve_reports
from registry.database import now
from registry.lowering import lower
from registry.opening import Registry
from registry.threshold import NOTHING, limit_of
from registry.versions import Versions
from tests import registries, test_notifying
from tests.commandline import runner
from training.audit_result import Guarantee
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
    """A state with three versions of `mail` and one of `news`, with the frames of their training answers.

    The audit of each promises an error rate of at most 0.1 up to a risk of 0.5.
    """
    home = tmp_path_factory.mktemp("watch") / "state"
    promise = Guarantee(0.1, 0.1, 0.5, 0.6, 0.09, 60, "words")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(registries, "SPEC", registries.SPEC.model_copy(update={"guarantee": promise}))
        registries.template(home, versions=3)
    client = Versions(State.from_environment({"POLARSCORE_HOME": str(home)})).client
    path = home / Path(REFERENCE).name
    frame(300, seed=0).to_parquet(path)
    run = client.get_model_version("mail", "1").run_id
    client.log_artifact(run, str(path), str(Path(REFERENCE).parent))
    client.create_registered_model("news")
    client.create_model_version("news", (home / "files" / "1").as_uri(), run_id=run)
    return home


@pytest.fixture
def state(template, tmp_path):
    """A copy of the template, which no test changes."""
    return registries.copied(template, tmp_path / "state")


@pytest.fixture
def run(state, monkeypatch, capfd):
    """What runs a command on the state."""
    monkeypatch.setenv("POLARSCORE_HOME", str(state.home))
    monkeypatch.setenv("POLARSCORE_KEYS", str(state.keys))
    for name in ("POLARSCORE_DATABASE_URL", "MLFLOW_TRACKING_URI"):
        monkeypatch.delenv(name, raising=False)
    return runner(monkeypatch, capfd)


def keep(state, version, n=200, model="mail", seed=1, **more):
    """Scores of a version, as if its risks were drawn anew; returns their ids."""
    rows = [
        ScoredAnswer(
            score_id=f"{model}-{version}-{i}", item_id=f"item {i}", model=model, version=version, answer=row.answer,
            harmonizer_answer="ham", risk=row.risk, probabilities={"ham": 1 - row.risk, "spam": row.risk},
            votes={"friend": row.answer}, votes_used=True, text_length=row.text_length, text=TEXT, **more)
        for i, row in enumerate(frame(n, seed).itertuples())
    ]
    with Store(state.database_url) as store:
        store.add_scores(rows)
    return [row.score_id for row in rows]


def chosen(state, which=None):
    with Store(state.database_url) as store:
        version = scored_version(Versions(state), store.models(), which)
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
    run = client.create_run(client.get_experiment_by_name("mail").experiment_id)
    client.create_model_version("news", (state.home / "files" / "1").as_uri(), run_id=run.info.run_id)
    keep(state, "2", model="news")
    with pytest.raises(InputError, match=r"the training answers of models:/news/2, .* cannot be fetched"):
        check(state, "news")


def states(alarms):
    return {alarm.name: alarm.state for alarm in alarms}


def test_a_shift_is_an_alarm_and_none_is_none(state):
    keep(state, "1", n=300)
    assert states(check(state, None))["risk_drift"] == "ok"
    with Store(state.database_url) as store:
        store.add_scores([
            ScoredAnswer(score_id=f"shifted {i}", item_id="x", model="mail", version="2", answer="spam",
                         harmonizer_answer="ham", risk=0.9 + i / 10_000, probabilities={"ham": 0.9, "spam": 0.1},
                         votes={}, votes_used=False, text_length=50) for i in range(300)])
    assert states(check(state, None))["risk_drift"] == "alarm"


def test_a_version_that_only_scored_in_the_dark_is_watched_there(state):
    keep(state, "1", n=300)
    with Store(state.database_url) as store:
        store.add_scores([
            ScoredAnswer(score_id=f"dark {i}", item_id=f"item {i}", model="mail", version="2", answer="spam",
                         harmonizer_answer="ham", risk=0.9 + i / 10_000, probabilities={"ham": 0.9, "spam": 0.1},
                         votes={}, votes_used=False, text_length=50, role="shadow", shadow_of=f"mail-1-{i}")
            for i in range(300)])
    found = {alarm.name: alarm for alarm in check(state, "models:/mail/2")}
    assert found["risk_drift"].state == "alarm" and found["risk_drift"].n == 300


def label(state, ids, wrong=lambda i: True, chosen="all", **more):
    """Have answers labelled: spam where they are wrong, for all answers of `only_ham` are ham."""
    with Store(state.database_url) as store:
        store.add_feedback([Feedback("spam" if wrong(i) else "ham", score_id=score_id, chosen=chosen, **more)
                            for i, score_id in enumerate(ids)])


def only_ham(state, version, n=300, name="h", moment=None, **more):
    """Answers of ham, of risks between 0 and 1."""
    rows = [ScoredAnswer(
        score_id=f"{name}{version}-{i}", item_id=f"{name}{i}", model="mail", version=version, answer="ham",
        harmonizer_answer="ham", risk=(i + 0.5) / n, probabilities={"ham": 0.6, "spam": 0.4}, votes={},
        votes_used=False, text_length=20, **({"created_at": moment} if moment else {}), **more) for i in range(n)]
    with Store(state.database_url) as store:
        store.add_scores(rows)
    return [row.score_id for row in rows]


def test_the_promise_is_that_of_the_audit_or_what_the_log_has_lowered_it_to(state):
    ids = only_ham(state, "1")
    label(state, ids, lambda i: i % 3 == 0)
    found = checked(state, None)
    assert found.threshold == 0.5 and states(found.alarms)["guarantee"] == "alarm" and found.acted is None
    with Registry.open(state) as registry:
        registries.move(registry, 1, "production")
        lower(registry, registry.versions.number("mail", 1), 0.03, "ada", "")
    found = checked(state, None)
    assert found.threshold == 0.03 and states(found.alarms)["guarantee"] != "alarm"
    with Registry.open(state) as registry:
        lower(registry, registry.versions.number("mail", 1), NOTHING, "ada", "")
    found = checked(state, None)
    assert found.threshold is None and "its threshold was lowered to nothing" in found.alarms[1].reason


def test_no_feedback_one_label_and_all_of_one_class_are_unknown_or_told(state):
    ids = only_ham(state, "1")
    for some in ([], ids[:1]):
        label(state, some)
        found = {alarm.name: alarm for alarm in check(state, None)}
        assert found["calibration"].state == found["guarantee"].state == "unknown"
        assert "no feedback yet" in found["calibration"].reason or "30 are needed" in found["calibration"].reason
    label(state, ids, lambda i: False)
    assert states(check(state, None))["calibration"] == "alarm"


# ---- what to check next


def test_a_sample_is_kept_and_no_answer_drawn_twice(state):
    ids = keep(state, "1")
    tried = sample(state, None, 10, 0, dry_run=True)
    with Store(state.database_url) as store:
        assert store.draws("mail") == [] and len(tried) == 10
        first, second = sample(state, None, 10, 0), sample(state, None, 10, 0)
        assert [draw.budget for draw in store.draws("mail", "1")] == [10, 10]
        assert store.drawn(store.draws("mail")[0].draw_id)["score_id"].tolist() == [row["score_id"] for row in first]
    assert all(set(row) == {"score_id", "id", "risk", "probability"} for row in first)
    drawn = {row["score_id"] for row in [*first, *second]}
    assert len(drawn) == 20 and drawn <= set(ids)
    assert all(0 < row["probability"] <= 1 for row in first)
    assert len(sample(state, None, 1000, 0)) == 180 and sample(state, None, 5, 0) == []


def test_a_sample_as_a_file_goes_out_and_comes_back(run, state, tmp_path):
    keep(state, "1")
    path = tmp_path / "check.csv"
    assert f"to fill in: {path}" in run("monitor", "sample", "--budget", 20, "--out", path, "--reviewer", "ada").out
    rows = pd.read_csv(path)
    assert list(rows.columns) == ["score_id", "id", "risk", "reviewer", "label"] and rows["label"].isna().all()
    assert TEXT not in path.read_text()
    rows.assign(label="spam").to_csv(path, index=False)
    assert run("feedback", path).out == "20 rows of feedback joined to 20 scores\n"
    with Store(state.database_url) as store:
        labelled = store.frame("mail", "1", labelled=True)
    assert (labelled["chosen"] == "drawn").all() and labelled["probability"].between(0, 1).all()
    for nowhere, why in [(tmp_path / "no" / "x.csv", "non-existent"), (path / "x.csv", "non-existent")]:
        line = run("monitor", "sample", "--budget", 5, "--out", nowhere).refused()
        assert "cannot be written to" in line and why in line and "None" not in line
    with Store(state.database_url) as store:
        assert len(store.draws("mail")) == 1
    assert run("monitor", "sample", "--budget", 5, "--since", "2100-01-01").out == "nothing is left to check\n"


# ---- figures


def test_figures_show_what_a_promotion_changed(run, state):
    moment = now().replace(hour=12, minute=0) - timedelta(days=14)
    label(state, only_ham(state, "1", moment=moment, decision="accept"), lambda i: i % 2 == 0)
    label(state, only_ham(state, "2", moment=moment + timedelta(days=7)), lambda i: i % 10 == 0, chosen="whim")
    with Registry.open(state) as registry:
        registries.move(registry, 2, "production")
        came = registry.history.production("mail").at
    one, two = figures(state, None, "version")
    assert (one["version"], two["version"]) == (1, 2) and one["scores"] == two["scores"] == 300
    assert one["error_rate"] == pytest.approx(0.5) and one["low"] <= 0.5 <= one["high"] and one["labels"] == 300
    assert one["gap"] == pytest.approx(0.5 - one["mean_risk"]) and one["accepted"] == 1.0
    assert one["accepted_error"] == pytest.approx(0.5) and one["in_production_since"] is None
    assert two["accepted"] == pytest.approx(0.5) and two["in_production_since"] == came
    assert (0 <= two["unlabelled"] <= 1 and "in 1 of 1 periods" in one["honesty"]) or "in 0 of 1" in one["honesty"]
    weeks = figures(state, "mail", "week")
    assert [row["version"] for row in weeks] == [1, 2] and weeks[0]["start"] < weeks[1]["start"]
    assert [row["version"] for row in figures(state, "models:/mail/2", "day")] == [2]
    assert [row["version"] for row in figures(state, None, "version", moment + timedelta(days=1))] == [2]
    ran = run("monitor", "figures")
    assert ran.code == 0 and "0.500 (" in ran.out and "version 2: " in ran.out
    assert "--by should be version, week or day" in run("monitor", "figures", "--by", "year").refused()


def test_two_versions_at_the_same_moment_and_one_that_was_deleted(state):
    moment = now() - timedelta(days=1)
    for version in ("2", "1", "9"):
        only_ham(state, version, n=30, moment=moment)
    rows = figures(state, "mail", "day")
    assert [row["version"] for row in rows] == [1, 2, 9]
    assert rows[2]["accepted"] is None and rows[0]["accepted"] == pytest.approx(0.5)
    assert all(row["error_rate"] is None and "cannot tell: no answer has a label yet" in row["reason"] for row in rows)


# ---- the command


def test_a_check_tells_who_wants_to_know(run, state, monkeypatch, tmp_path):
    monkeypatch.setenv("POLARSCORE_WEBHOOK_SECRET", test_notifying.SECRET)
    label(state, only_ham(state, "1"), lambda i: i % 10 == 0)
    inbox, file = test_notifying.Inbox(), tmp_path / "mail.prom"
    with inbox.open() as url:
        ran = run("monitor", "check", "--webhook", url, "--prometheus", file, "--json")
        assert ran.code == 1 and not ran.json()["ok"] and set(ran.json()) == {"ok", "alarms"}
        run("monitor", "check", "--webhook", url)
        run("monitor", "check", "--webhook", url, "--always")
    assert [bool(message["changed"]) for message in inbox.taken] == [True, False]
    assert TEXT not in str(inbox.taken) and "h1-" not in str(inbox.taken)
    found = test_notifying.samples(file)
    assert found["polarscore_alarm", "calibration"] == 1 and found["polarscore_threshold", None] == 0.5
    assert found["polarscore_error_rate_estimate", None] == pytest.approx(0.1)
    assert found["polarscore_scores", None] == 300
    assert set(exposed(state, checked(state, None))) == set(OF_VERSION)
    monkeypatch.setattr("monitoring.notifying.PAUSES_S", ())
    lost = run("monitor", "check", "--webhook", url, "--always", "--prometheus", tmp_path / "no" / "mail.prom")
    assert lost.code == 1 and "alarm" in lost.out
    assert [line.split(":")[0] for line in lost.err.splitlines()] == ["polarscore"] * 3
    assert "could not be delivered" in lost.err and "cannot be written to" in lost.err and "hunter2" not in lost.err


def test_settings_come_from_a_file_and_acting_needs_them(run, state, tmp_path):
    ids = only_ham(state, "1")
    with Registry.open(state) as registry:
        registries.move(registry, 1, "production")
    label(state, ids[0::2], lambda i: i % 3 == 0, reviewer="ada", trusted=True)
    label(state, ids[1::2], lambda i: i % 3 == 0, reviewer="bob", trusted=True)
    path = tmp_path / "monitoring.toml"
    assert "--act needs settings that name an action" in run("monitor", "check", "--act").refused()
    path.write_text("[action]\non_guaranty = 1\n")
    assert "on_guaranty" in run("monitor", "check", "--config", path).refused()
    path.write_text('[action]\non_guarantee = "lower threshold"\n[alarms]\nrows = 20\n')
    assert "done" not in run("monitor", "check", "--config", path).out
    file = tmp_path / "mail.prom"
    ran = run("monitor", "check", "--config", path, "--act", "--who", "ada", "--json", "--prometheus", file)
    assert ran.code == 1 and ran.json()["action"]["done"] and "done: threshold lowered" in ran.err
    with Registry.open(state) as registry:
        lowered = limit_of(registry.history.threshold("mail"))
    held = test_notifying.samples(file).get(("polarscore_threshold", None))
    assert held == (lowered if lowered > 0 else None) and held != 0.5
    ran = run("monitor", "check", "--config", path, "--act", "--json")
    assert not ran.json()["action"]["done"]
    assert "threshold lowered" in run("registry", "history", "mail").out
    assert run("registry", "history", "mail", "--json").json()[-1]["who"] == "ada"


def test_too_few_labels_recalibrate_nothing(run, state):
    label(state, only_ham(state, "1")[:5])
    assert "takes 30 labels or more, of known choice" in run("monitor", "recalibrate").refused()
    assert [version.version for version in Versions(state).list("mail")] == [3, 2, 1]


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
    second = report(state, None, None, "daily")
    keep(state, "2")
    third = report(state, "models:/mail/2", None, "comparison", against="1")
    assert set(first) == {"model", "version", "kind", "scores", "labelled", "html", "json", "run_id", "not_kept"}
    assert (first["model"], first["version"], first["scores"], first["labelled"]) == ("mail", 1, 200, 120)
    assert Path(first["html"]).parent == tmp_path / "reports" and Path(second["html"]).parent == state.reports
    assert [each["kind"] for each in (first, second, third)] == ["release", "daily", "comparison"]
    assert Versions(state).client.get_run(first["run_id"]).info.status == "FINISHED"
    for wrong, message in (({"kind": "yearly"}, "should be one of: daily, release, comparison"),
                           ({"kind": "comparison"}, "needs the version to compare with: --against"),
                           ({"against": "1"}, "--against is for a comparison"),
                           ({"day": date(2026, 1, 1)}, "--day is for a daily report"),
                           ({"kind": "daily", "day": date(2020, 1, 1)}, "scored nothing on 2020-01-01")):
        with pytest.raises(InputError, match=message):
            report(state, "models:/mail/1", None, **wrong)
    kept = sorted((state.reports / "workspace").rglob("snapshots/*.json"))
    assert len(kept) == 3
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
