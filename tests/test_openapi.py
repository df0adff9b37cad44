"""The service against its own description: schemathesis makes requests that conform to it, and some that do not."""

import anyio
import httpx
import numpy as np
import pytest
import schemathesis.openapi
from hypothesis import HealthCheck, given, settings
from prometheus_client import CollectorRegistry
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi import checks

from monitoring.journal import Journal
from monitoring.store import Store
from serving.app import make_app
from serving.batcher import Batcher
from serving.config import Correction, Limits, ServiceConfig
from serving.correct_means import Means
from serving.correcting import open_corrector
from serving.correction.habits import Habits
from serving.correction.habits_file import Learned
from serving.desk import Desk
from serving.entry import PROBES, ROUTES
from serving.lineup import Lineup
from serving.llm.settings import Endpoint
from serving.meters import CorrectMeters, Meters
from serving.openapi import ERRORS, openapi
from serving.refusal import Error
from serving.schema import CorrectResponse, ExplainResponse, Score, ScoreResponse
from tests.scorers import CLASSES, fake_scorer, write_version
from training.state import State

CHECKS = [not_a_server_error, checks.status_code_conformance, checks.content_type_conformance,
          checks.response_schema_conformance, checks.negative_data_rejection, checks.positive_data_acceptance]


@pytest.fixture(scope="module")
def desk(tmp_path_factory):
    place = tmp_path_factory.mktemp("openapi")
    scorer = fake_scorer(write_version(place / "v"), "Reviews")
    with Store(f"sqlite:///{place / 'store.db'}") as store:
        journal = Journal(place / "journal.db", store)
        desk = Desk(Lineup(scorer), journal, Meters(CollectorRegistry()))
        yield desk
        journal.close()
    desk.close()


def says_positive(request):
    return httpx.Response(200, json={"choices": [{"message": {"content": "positive"}, "finish_reason": "stop"}]})


@pytest.fixture(scope="module")
def app(desk, tmp_path_factory):
    app, config = make_app(), ServiceConfig(correction=Correction(habits="habits.json"))
    state = State.from_environment({"POLARSCORE_HOME": str(tmp_path_factory.mktemp("state"))})
    learned = Learned("explain", Habits(0.95, 0.9, 0.1, np.array([0.5, 0.5]), 500), CLASSES, 2.0, "Reviews", "4", "m")
    means = Means(config.correction, Endpoint(name="local", url="http://127.0.0.1:9/v1", model="m"), learned)
    app.state.corrector = open_corrector(means, config, state, CorrectMeters(CollectorRegistry()),
                                         httpx.MockTransport(says_positive))
    app.state.desk = desk
    app.state.batcher = Batcher(desk.finish, lambda ready: ready.tokens, 2048, 60.0)
    yield app
    app.state.batcher.close()


@pytest.fixture(scope="module")
def api(app):
    """The description without the keys, which the guard looks at, outside of the app."""
    said = openapi(app.state.desk.version())
    for methods in said["paths"].values():
        for each in methods.values():
            each["security"] = []
    config = schemathesis.Config.from_dict({"checks": {  # by default, 413 is none of them
        "negative_data_rejection": {"expected-statuses": ["4xx", "5xx"]}}})
    api = schemathesis.openapi.from_dict(said, config=config)
    api.app = app
    return api


def distinct(case):
    """Whether the ids are, which no schema can ask for."""
    items = case.body.get("items") if isinstance(case.body, dict) else None
    ids = [each["id"] for each in items or [] if isinstance(each, dict) and isinstance(each.get("id"), str)]
    return len(ids) == len(set(ids))


@pytest.mark.parametrize("mode", GenerationMode)
@pytest.mark.parametrize("path", ["/score", "/correct", "/feedback", "/explain"])
def test_the_service_is_as_it_describes_itself(api, path, mode):
    @settings(max_examples=40, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
    @given(api[path]["POST"].as_strategy(generation_mode=mode).filter(distinct))
    def asked(case):
        case.call_and_validate(checks=CHECKS)

    asked()


def ask(app, method, path, **content):
    async def send():
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://x") as client:
            return await client.request(method, path, **content)

    return anyio.run(send)


def test_every_example_may_be_sent_as_it_is(app):
    paths = ask(app, "GET", "/docs.json").json()["paths"]
    score = paths["/score"]["post"]["requestBody"]["content"]
    response = ask(app, "POST", "/score", json=score["application/json"]["example"])
    assert response.status_code == 200 and ScoreResponse.model_validate_json(response.content)
    response = ask(app, "POST", "/score", content=score["application/x-ndjson"]["example"].encode(),
                   headers={"content-type": "application/x-ndjson"})
    assert [Score.model_validate_json(line).id for line in response.content.splitlines()] == ["a17", "a18"]
    for path in ("/correct", "/explain", "/feedback"):
        body = paths[path]["post"]["requestBody"]["content"]["application/json"]["example"]
        assert ask(app, "POST", path, json=body).status_code == 200


def test_examples_of_answers_are_such_answers(desk):
    paths = openapi(desk.version())["paths"]
    for path, model in (("/score", ScoreResponse), ("/correct", CorrectResponse), ("/explain", ExplainResponse)):
        responses = paths[path]["post"]["responses"]
        model.model_validate(responses["200"]["content"]["application/json"]["example"])
        for status in set(responses) - {"200"}:
            Error.model_validate(responses[status]["content"]["application/json"]["example"])


def test_every_route_is_described_with_what_its_keys_must_be_for(desk):
    paths = openapi(desk.version())["paths"]
    for path, post in ((path, methods["post"]) for path, methods in paths.items() if "post" in methods):
        assert post["security"] == [{"key": [ROUTES[path]["POST"]]}]
        assert {"400", "401", "403", "405", "408", "413", "415", "429", "500", "503"} <= post["responses"].keys()
        assert all("Retry-After" in post["responses"][status]["headers"] for status in ("429", "503"))
    for path, get in ((path, methods["get"]) for path, methods in paths.items() if "get" in methods):
        assert get["security"] == ([] if path in PROBES else [{"key": ["read"]}])
    assert openapi(desk.version(), keys=False)["paths"]["/score"]["post"]["security"] == [{"key": ["score"]}, {}]
    assert set(ERRORS) >= {int(status) for methods in paths.values() for each in methods.values()
                           for status in each["responses"]} - {200}


def test_it_tells_the_classes_the_sources_and_the_limits(desk):
    schemas = openapi(desk.version(), Limits(items=7, text=99), corrected=5)["components"]["schemas"]
    assert schemas["CorrectRequest"]["properties"]["items"]["maxItems"] == 5
    item = schemas["Item"]["properties"]
    assert schemas["ScoreRequest"]["properties"]["items"]["maxItems"] == 7 and item["text"]["maxLength"] == 99
    assert item["answer"]["enum"][:2] == ["negative", "positive"] and None in item["answer"]["enum"]
    assert set(item["votes"]["properties"]) == {"friend", "says_good", "knows_the_author"}
    assert None not in schemas["FeedbackRequest"]["properties"]["label"]["enum"]
