import os
import subprocess
import sys
from contextlib import contextmanager
from dataclasses import replace

import httpx
import numpy as np
import psutil
import pytest

from monitoring.forgetting import journal_of
from registry.export import build
from serving import probe
from serving.probe import made_up, measure, memory_mib, serving_on
from serving.schema import ScoreRequest
from training.encoder import default_spec
from training.errors import InputError, PolarscoreError
from training.harmonizer import make_harmonizer
from training.model import RiskModel, save
from training.spec import Spec
from training.state import State
from training.task import Columns, Source
from training.worth import Worth

OURS = ("POLARSCORE_SERVICE", "POLARSCORE_API_KEYS")
SEARCHED = {"model": "mail", "classes": ["ham", "spam"], "sources": ["s1", "s2", "s3"], "entities": 0}


@pytest.fixture
def state(tmp_path):
    environment = {"POLARSCORE_HOME": str(tmp_path / "state"), "POLARSCORE_KEYS": str(tmp_path / "keys")}
    return State.from_environment(environment).prepare()


@pytest.fixture
def service(monkeypatch, state):
    """Stands in for a bundle's service: answers at once. Its requests, and the state that it was started with."""
    asked, started = [], []

    def answer(request):
        if request.url.path == "/version":
            return httpx.Response(200, json=SEARCHED)
        asked.append(ScoreRequest.model_validate_json(request.content).items)
        return httpx.Response(200, json={"scores": []})

    @contextmanager
    def running(tag, own, allow_unsigned):
        assert allow_unsigned
        started.append((tag, own, {name: os.environ.get(name) for name in OURS}))
        assert journal_of(own) != journal_of(state) and not own.home.is_relative_to(state.home)
        assert own.bento_home.resolve() == state.bento_home
        (own.home / "logs").mkdir()
        (own.home / "logs" / "serve-1234.log").write_text("started")
        yield "http://127.0.0.1:1234"

    client = httpx.Client
    monkeypatch.setattr(probe, "running", running)
    monkeypatch.setattr(probe, "serving_on", lambda port: psutil.Process())
    monkeypatch.setattr(probe, "SPENT_S", 0.05)
    monkeypatch.setattr(probe.httpx, "Client", lambda **keys: client(
        base_url=keys["base_url"], transport=httpx.MockTransport(lambda request: service.answer(request))))
    service = type("Service", (), {"asked": asked, "started": started, "answer": staticmethod(answer)})
    return service


def test_one_item_and_a_batch_are_timed_after_a_warm_up(service, state):
    found = measure("mail:1-abc", state)
    sizes = [len(items) for items in service.asked]
    assert set(sizes) == {1, 32} and sizes == sorted(sizes)
    assert all(sizes.count(size) >= probe.WARM_UP + probe.LEAST for size in (1, 32))
    assert 0 < found.median_one_ms <= found.latency_one_ms
    assert 0 < found.median_batch_ms <= found.latency_batch_ms
    assert 10 < found.memory_mib < 100_000 and found.start_s >= 0
    assert all(isinstance(value, float) for value in vars(found).values())


def test_the_users_prediction_store_is_left_alone_and_nothing_stays(service, state):
    measure("mail:1-abc", state)
    ((tag, own, _),) = service.started
    assert tag == "mail:1-abc" and own == replace(state, home=own.home, database_url=own.database_url)
    assert own.database_url != state.database_url and str(own.home) in own.database_url
    assert [path.name for path in state.home.rglob("*")] == [] and not own.home.exists()


def test_the_users_settings_are_left_alone(service, state, monkeypatch):
    for name in OURS:
        monkeypatch.setenv(name, f"/nowhere/{name}")
    measure("mail:1-abc", state)
    assert service.started[0][2] == dict.fromkeys(OURS)
    assert [os.environ[name] for name in OURS] == [f"/nowhere/{name}" for name in OURS]


def test_items_of_ones_own_are_asked_for(service, state):
    own = [{"text": f"a text {number}", "answer": "ham"} for number in range(3)]
    measure("mail:1-abc", state, own)
    texts = [item.text for items in service.asked for item in items]
    assert {text.rpartition(" ")[0] for text in texts} == {"a text 0", "a text 1", "a text 2"}
    assert texts[0].startswith("a text 0 ") and len(service.asked[-1]) == 32
    assert len(set(texts)) == len(texts)  # none is one that the service has encoded


def test_no_text_is_sent_twice_and_spans_hold(service, state):
    service.answer = lambda request, answer=service.answer: (
        httpx.Response(200, json=SEARCHED | {"entities": 2}) if request.url.path == "/version" else answer(request))
    measure("mail:1-abc", state)
    items = [item for items in service.asked for item in items]
    assert len({item.text for item in items}) == len(items) > 32 * probe.LEAST
    assert {tuple(item.text[start:end] for start, end in item.spans) for item in items} == {("The", "museum")}


def test_own_items_are_not_empty(service, state):
    with pytest.raises(ValueError, match="at least one item"):
        measure("mail:1-abc", state, [])


@pytest.mark.parametrize(("answer", "message"), [
    (lambda request: httpx.Response(503), "the service of mail:1-abc answers /version with status 503"),
    (lambda request: httpx.Response(200, json=SEARCHED) if request.url.path == "/version" else httpx.Response(500),
     "the service of mail:1-abc answers /score with status 500"),
])
def test_a_service_that_refuses_is_named(service, state, answer, message):
    service.answer = answer
    with pytest.raises(PolarscoreError, match=message):
        measure("mail:1-abc", state)


def test_a_service_that_went_away_is_named(service, state):
    def gone(request):
        raise httpx.ConnectError("secret text")

    service.answer = gone
    with pytest.raises(PolarscoreError, match=r"does not answer /version: ConnectError\.$"):
        measure("mail:1-abc", state)


def test_a_bundle_that_does_not_exist_is_named(state):
    with pytest.raises(InputError, match="the bundle 'mail:9' does not exist"):
        measure("mail:9", state)


@pytest.mark.parametrize("entities", [0, 1, 2, 3])
def test_what_is_made_up_is_what_the_service_takes(entities):
    items = made_up(SEARCHED | {"entities": entities}, 32)
    request = ScoreRequest.model_validate({"items": items})
    assert len({item.text for item in request.items}) == 32
    assert all(len(item.spans) == entities and set(item.votes) == {"s1", "s2", "s3"} for item in request.items)
    assert {item.answer for item in request.items} == {"ham", "spam"}


def test_the_process_that_serves_is_found_by_its_port():
    with subprocess.Popen([sys.executable, "-c", "input()", "--port", "4321"], stdin=subprocess.PIPE) as child:
        assert serving_on(4321).pid == child.pid
        with pytest.raises(PolarscoreError, match="the service on port 1234 has ended"):
            serving_on(1234)
        child.stdin.close()


def test_memory_is_that_of_the_whole_tree():
    grow = "data = bytearray(100 * 2**20); data[:] = b'x' * len(data); print(flush=True); input()"
    before = memory_mib(psutil.Process())
    with subprocess.Popen([sys.executable, "-c", grow], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        child.stdout.readline()
        assert 95 < memory_mib(psutil.Process()) - before < 400
        child.stdin.close()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:GitWildMatchPattern:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:The `__get_pydantic_core_schema__` method:DeprecationWarning")
def test_a_real_bundle_is_measured(state, tmp_path, monkeypatch):
    monkeypatch.setattr(probe, "SPENT_S", 0.2)
    spec = Spec(
        name="mail", classes=("ham", "spam"), sources=(Source(name="friend"),), stored_sources=1,
        columns=Columns(path="data.csv"), encoder=default_spec(), harmonizer="linear", scalariser="linear",
        pareto_weights={"LLM": 1.0, "friend": 1.0}, data_digest="0" * 64, sharpness=1.0,
    )
    worth = Worth(np.full(2, 0.5), np.full((2, 2, 2), 0.5), np.zeros((2, 2)), np.ones((2, 2)))
    save(RiskModel(spec, make_harmonizer("linear", 384, 2, seed=1), worth), tmp_path / "version")
    found = measure(build(tmp_path / "version", "mail", "1", {}, state), state)
    assert 100 < found.memory_mib < 8000 and 0 < found.start_s < 120
    assert 0 < found.latency_one_ms < 10_000 and 0 < found.latency_batch_ms < 60_000
    assert [path.name for path in state.home.iterdir() if not path.name.startswith("bentoml")] == []
