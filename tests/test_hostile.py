import threading
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from registry.export import build
from serving import launch
from tests import hostility
from tests.test_serving import write_version
from training.state import State

# BentoML, when first imported, uses old names of pathspec's and pydantic's.
pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:GitWildMatchPattern:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:The `__get_pydantic_core_schema__` method:DeprecationWarning"),
]


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """A Bento that is served: a client, its port, and its log. It gives a client 3 seconds to send a body."""
    folder, place = tmp_path_factory.mktemp("hostile"), tmp_path_factory.mktemp("state")
    state = State.from_environment({"POLARSCORE_HOME": str(place),
                                    "POLARSCORE_KEYS": str(tmp_path_factory.mktemp("keys"))}).prepare()
    tag = build(write_version(folder / "v"), "Hostile", "1", {"stage": "production"}, state)
    (folder / "service.toml").write_text("[limits]\nseconds = 3\n")
    with (launch.running(tag, state, config=folder / "service.toml") as url,
          httpx.Client(base_url=url, timeout=60, trust_env=False) as client):
        yield client, int(url.rsplit(":", 1)[1]), state.home / "logs"


@pytest.fixture(autouse=True)
def _goes_on(served):
    """After each test the service scores as before, and no text is in its log."""
    client, _, logs = served
    yield
    assert client.post("/score", json={"items": [hostility.item()]}).status_code == 200
    assert not any(hostility.SECRET in path.read_text(errors="replace") for path in logs.iterdir())


def problems(client, many):
    found = [(sent.name, hostility.send(client, sent)) for sent in many]
    assert found
    return [(name, problem) for name, problem in found if problem is not None]


def test_bad_bodies_paths_methods_and_headers_are_told_in_the_error_format(served):
    assert problems(served[0], hostility.light()) == []


def test_mutated_bodies_are_scored_or_refused(served):
    assert problems(served[0], hostility.mutated(300)) == []


def test_the_largest_bodies_are_refused(served):
    assert problems(served[0], hostility.heavy()) == []


def test_what_no_client_would_send_is_refused_or_closed(served):
    client, port, _ = served
    host = f"127.0.0.1:{port}"
    with ThreadPoolExecutor(12) as pool:
        said = list(pool.map(lambda wire: (wire[0], hostility.speak(port, wire[1])), hostility.wires(host)))
    problems = {name: hostility.wrong_on_the_wire(answer) for name, answer in said}
    assert {name: problem for name, problem in problems.items() if problem is not None} == {}
    assert client.get("/livez").is_success


def test_slow_and_endless_clients_are_given_up_while_others_are_answered(served):
    client, port, _ = served
    host, ended = f"127.0.0.1:{port}", []

    def note(ask, *words):
        said, seconds, *_ = ask(port, host, *words)
        ended.append((words, hostility.wrong_on_the_wire(said), seconds))

    threads = [threading.Thread(target=note, args=words) for words in (
        (hostility.trickle, 0.5, False), (hostility.trickle, 0.5, True), (hostility.endless, "/score"),
        (hostility.endless, "/nowhere"))]
    for thread in threads:
        thread.start()
    waited = []
    while any(thread.is_alive() for thread in threads):
        began = time.monotonic()
        assert client.get("/livez", timeout=20).is_success
        waited.append(time.monotonic() - began)
        time.sleep(0.2)
    assert [problem for _, problem, _ in ended if problem] == []
    assert all(seconds < 60 for *_, seconds in ended) and sorted(waited)[len(waited) // 2] < 1


def test_what_the_description_allows_and_what_it_does_not_is_answered(served):
    client, *_ = served

    def ask(case):
        words = case.as_transport_kwargs(base_url=str(client.base_url))
        try:
            data = words.get("data")
            request = client.build_request(words["method"], words["url"], json=words.get("json"),
                                           params=words.get("params"),
                                           content=data if isinstance(data, bytes | str) else None)
        except (ValueError, UnicodeError, TypeError):
            return None  # it is nothing that JSON can say
        response = client.send(request)
        return hostility.wrong_with(response.status_code, response.content, response.headers.get("content-type", ""))

    done, wrong = hostility.from_schema(client.get("/docs.json").json(), 200, ask)
    assert done > 50 and wrong == []
