import json
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from serving.client import Client, ServiceError
from serving.examples import Examples
from serving.schema import Item, Policy, Score, Version
from training.errors import PolarscoreError

SECRET = "Marzipan-Krokodil"
POLICY = Policy(accept=0.1, review=0.5, basis="risk", alpha=0.1, confidence=None)
VERSION = Version(
    model="Reviews", version="4", digest="0" * 64, device="cpu", precision="float32", pack_tokens=8192,
    classes=["negative", "positive"], sources=["friend"], entities=0, policy=POLICY, signed_by=None, trusted=False,
    following=None, beside=None,
)
EXAMPLES = Examples(VERSION)
ITEM = {"id": "a17", "text": SECRET, "answer": "positive"}


class Service:
    """Answers in turn with what it is given: a status and a body, or an exception."""

    def __init__(self, *answers):
        self.answers, self.asked, self.slept = list(answers), [], []

    def __call__(self, request):
        self.asked.append(request)
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        if callable(answer):
            return answer(request)
        status, body, *headers = answer
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        return httpx.Response(status, content=content, headers=headers[0] if headers else {})

    def client(self, **settings):
        return Client("http://service/under", transport=httpx.MockTransport(self), sleep=self.slept.append, **settings)


def error(kind="overloaded", message="too much", where=None):
    return {"error": {"type": kind, "message": message, "where": where}}


def echo(request):
    """Each line's id as a score; the line `bad` as an error."""
    lines = [json.loads(line) for line in request.content.splitlines()]
    found = [error("unknown_class", "no class", "answer") | {"line": number} if item["id"] == "bad"
             else EXAMPLES.score() | {"id": item["id"]} for number, item in enumerate(lines, 1)]
    return httpx.Response(200, content="".join(json.dumps(each) + "\n" for each in found))


def test_scores_come_typed_and_the_key_goes_along():
    service = Service((200, EXAMPLES.scores()))
    with service.client(key="ps_1") as client:
        found = client.score([ITEM, Item(text="x", answer=None, votes={"friend": 1})])
    (asked,) = service.asked
    assert found.scores[0].decision == "ask again" and found.policy == POLICY
    assert (asked.url.path, asked.headers["authorization"]) == ("/under/score", "Bearer ps_1")
    assert asked.headers["content-type"] == "application/json"
    assert json.loads(asked.content) == {"items": [ITEM, {"text": "x", "answer": None, "votes": {"friend": 1}}]}


def test_the_key_is_taken_from_the_environment(monkeypatch):
    service = Service((200, EXAMPLES.version()), (200, EXAMPLES.version()))
    monkeypatch.delenv("POLARSCORE_API_KEY", raising=False)
    with service.client() as client:
        assert client.version() == VERSION
    monkeypatch.setenv("POLARSCORE_API_KEY", "ps_2")
    with service.client() as client:
        client.version()
    assert ["authorization" in asked.headers for asked in service.asked] == [False, True]


def test_feedback_explanations_and_forgetting():
    service = Service((200, {"labelled": 2}), (200, {"labelled": 1}), (200, {"labelled": 1}),
                      (200, EXAMPLES.explanation()),
                      (200, {"scores": 1, "labels": 0, "vectors": 0, "all_vectors": False}))
    with service.client() as client:
        assert client.feedback("positive", id="a17") == 2
        assert client.feedback(1, score_id="s", chosen="random", probability=0.1) == 1
        assert client.feedback(1, score_id="s", withdrawn=True) == 1
        assert client.explain(ITEM).favoured == "negative"
        assert client.forget("a17").scores == 1
    bodies = [json.loads(asked.content) for asked in service.asked]
    assert bodies == [{"label": "positive", "id": "a17"}, *({"label": 1, "score_id": "s"} | more for more in (
        {"chosen": "random", "probability": 0.1}, {"withdrawn": True})), {"item": ITEM}, {"id": "a17"}]


def test_a_stream_goes_in_pieces_and_keeps_its_order():
    service = Service(echo, echo, echo)
    names = ["a", "bad", "b", "c", "d"]
    with service.client() as client:
        found = list(client.stream(({"id": name, "text": "x", "answer": 0} for name in names), at_once=2))
    said = [each.id if isinstance(each, Score) else each.type for each in found]
    assert said == ["a", "unknown_class", "b", "c", "d"]
    assert [len(asked.content.splitlines()) for asked in service.asked] == [2, 2, 1]
    assert {asked.headers["content-type"] for asked in service.asked} == {"application/x-ndjson"}
    assert found[1].where == "answer"


def test_a_stream_of_nothing_asks_nothing():
    service = Service()
    with service.client() as client:
        assert list(client.stream([])) == []


def test_a_stream_that_breaks_off_says_why():
    service = Service((200, json.dumps(error("too_slow") | {"line": 1}).encode() + b"\n"))
    with service.client() as client, pytest.raises(ServiceError) as failure:
        list(client.stream([ITEM, ITEM]))
    assert failure.value.type == "too_slow"


@pytest.mark.parametrize("status", [429, 503])
def test_a_busy_service_is_asked_again_when_it_says(status):
    service = Service((status, error(), {"retry-after": "7"}), (status, error()), (200, EXAMPLES.scores()))
    with service.client() as client:
        assert client.score([ITEM]).version == "4"
    assert service.slept == [7, 0.5] and len(service.asked) == 3


def test_patience_has_an_end():
    service = Service(*[(503, error(), {"retry-after": "2"})] * 9)
    with service.client(patience=5) as client, pytest.raises(ServiceError) as failure:
        client.score([ITEM])
    assert service.slept == [2, 2] and failure.value.status == 503
    service = Service((429, error(), {"retry-after": "9999999"}))
    with service.client() as client, pytest.raises(ServiceError):
        client.score([ITEM])
    assert service.slept == []


@pytest.mark.parametrize(("answer", "status", "kind", "where"), [
    ((400, error("unknown_class", "'x' is no class", "items.0.answer")), 400, "unknown_class", "items.0.answer"),
    ((401, error("unauthorized")), 401, "unauthorized", None),
    ((500, error("internal")), 500, "internal", None),
    ((502, b"<html>" + SECRET.encode()), 502, "unexpected", None),
    ((200, b"<html>" + SECRET.encode()), 200, "unexpected", None),
    ((302, b""), 302, "unexpected", None),
    (httpx.ConnectError(SECRET), 0, "unreachable", None),
    (httpx.ReadTimeout(SECRET), 0, "unreachable", None),
])
def test_errors_are_one_class_and_hold_no_text(answer, status, kind, where):
    service = Service(answer)
    with service.client() as client, pytest.raises(ServiceError) as failure:
        client.score([ITEM])
    found = failure.value
    assert (found.status, found.type, found.where) == (status, kind, where)
    assert isinstance(found, PolarscoreError) and SECRET not in str(found) and len(service.asked) == 1
    assert found.__cause__ is None and (where is None or where in str(found))


def test_it_loads_nothing_heavy():
    code = ("import sys, serving.client; "
            "print([name for name in ('torch', 'bentoml', 'pandas', 'numpy', 'sqlalchemy') if name in sys.modules])")
    root = Path(__file__).resolve().parent.parent
    said = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert said.stdout.strip() == "[]"
