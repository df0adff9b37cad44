import asyncio
import gzip
import json
import threading
import time
from dataclasses import dataclass

import httpx
import pytest
from starlette.datastructures import Headers

from serving import app as app_module
from serving import streaming
from serving.app import make_app, room
from serving.batcher import Batcher, overloaded
from serving.bodies import Bodies
from serving.config import Limits, ServiceConfig
from serving.entry import Asked
from serving.refusal import Refusal
from serving.schema import FeedbackResponse, ForgetResponse, Policy, Score, ScoreResponse
from serving.slices import Slice, Told, cut, ends_of, placed
from serving.streaming import Outbox, lines_of

SECRET = "Marzipan-Krokodil"
JSON, LINES = {"content-type": "application/json"}, {"content-type": "application/x-ndjson"}
POLICY = Policy(accept=None, review=0.5, basis="risk", alpha=None, confidence=None)


@dataclass
class Ready:
    items: list
    tokens: int


class Desk:
    """Scores by the length of a text; slow, full or broken where a test wants that."""

    def __init__(self, seconds=0.0):
        self.seconds, self.batches, self.hang, self.fail = seconds, [], threading.Event(), None
        self.kept, self.fail_from, self.said = [], None, []
        self.hang.set()

    def prepare(self, items):
        for place, item in enumerate(items):
            if item.answer not in ("ham", "spam", None):
                raise Refusal("unknown_class", "no class", f"items.{place}.answer")
        return Ready(list(items), sum(len(item.text) // 4 + 1 for item in items))

    def preparer(self):
        return self.prepare

    def finish(self, requests):
        readies = [each.ready if isinstance(each, Slice) else each for each in requests]
        self.batches.append([len(ready.items) for ready in readies])
        time.sleep(self.seconds * sum(ready.tokens for ready in readies))
        if self.fail and len(self.batches) >= (self.fail_from or 0):
            raise self.fail
        return [self._answer(each, [self._score(item) for item in ready.items])
                for each, ready in zip(requests, readies, strict=True)]

    def _answer(self, request, scores):
        told = Told(None, (), scores, [score.score_id for score in scores])
        if isinstance(request, Slice):
            if not request.last:
                return told
            told = request.joined(told)
        self.kept.append(told.rows)
        return ScoreResponse(scores=told.scores, model="mail", version="4", policy=POLICY)

    def _score(self, item):
        return Score(score_id=f"s-{item.id}", id=item.id, risk=len(item.text) % 100 / 100, decision="accept",
                     probabilities={"ham": 1.0}, answer=item.answer, harmonizer_answer="ham", votes_used=False,
                     version="4")

    def feedback(self, request, reviewer, trusted):
        self.said.append((request, reviewer, trusted))
        self.hang.wait(10)
        return FeedbackResponse(labelled=1)

    def forget(self, item_id):
        raise Refusal("unknown_id", "nothing of it is kept", "id", status=404)

    def explain(self, item):
        raise RuntimeError(item.text)


def played(desk, scene, budget=1_000, wait=2.0, **limits):
    """Run a scene with a client of the app, in process."""
    app = make_app()
    app.state.desk, app.state.config = desk, ServiceConfig(limits=Limits(**limits))
    app.state.batcher = Batcher(desk.finish, lambda ready: ready.tokens, budget, wait)

    async def run():
        transport = httpx.ASGITransport(app=app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://x", timeout=30) as client:
            return await asyncio.wait_for(scene(client, app), 30)

    try:
        return asyncio.run(run())
    finally:
        app.state.batcher.close()


def sent(desk, path, body, headers=JSON, method="POST", **limits):
    content = body if isinstance(body, bytes) else json.dumps(body).encode()

    async def scene(client, app):
        return await client.request(method, path, content=content, headers=headers)

    return played(desk, scene, **limits)


def item(text="buy now", **changes):
    return {"text": text, "answer": "spam"} | changes


def refused(response, status, kind, where=None):
    assert response.status_code == status and SECRET not in response.text
    assert response.json().keys() == {"error"}
    error = response.json()["error"]
    assert error.keys() == {"type", "message", "where"} and error["message"]
    assert (error["type"], error["where"]) == (kind, where)
    return response


# One request


def test_scores_come_back_in_order():
    response = sent(Desk(), "/score", {"items": [item("x" * n, id=str(n)) for n in range(1, 50)]})
    assert response.status_code == 200 and response.headers["content-type"] == "application/json"
    assert [score["id"] for score in response.json()["scores"]] == [str(n) for n in range(1, 50)]


def test_a_large_request_goes_through_in_slices_and_is_answered_as_one():
    desk = Desk()
    response = sent(desk, "/score", {"items": [item("x" * 400, id=str(n)) for n in range(95)]})
    assert [score["id"] for score in response.json()["scores"]] == [str(n) for n in range(95)]
    assert desk.batches == [[10]] * 9 + [[5]]
    assert [len(rows) for rows in desk.kept] == [95]  # in one write
    bad = sent(desk, "/score", {"items": [*[item("x" * 400)] * 94, item(answer="purple")]})
    refused(bad, 400, "unknown_class", "items.94.answer")
    assert len(desk.batches) == 10  # nothing of it was scored


@pytest.mark.parametrize("fail", [Refusal("journal_full", "full", status=503), RuntimeError()])
def test_of_a_large_request_that_fails_on_its_way_nothing_is_kept(fail):
    desk = Desk()
    desk.fail, desk.fail_from = fail, 4
    response = sent(desk, "/score", {"items": [item("x" * 400, id=str(n)) for n in range(95)]})
    assert response.status_code in (500, 503) and len(desk.batches) == 4 and desk.kept == []


def test_a_large_request_does_not_hold_up_a_small_one():
    async def scene(client, app):
        large = asyncio.ensure_future(client.post("/score", json={"items": [item("x" * 400)] * 200}))
        await asyncio.sleep(0.1)
        began = time.monotonic()
        small = await client.post("/score", json={"items": [item()]})
        assert small.status_code == 200 and not large.done()
        assert time.monotonic() - began < 0.6
        assert (await large).status_code == 200

    played(Desk(seconds=1e-4), scene)  # a slice takes 0.1 s


@pytest.mark.parametrize(("headers", "kind"), [
    ({}, "unsupported_media_type"), ({"content-type": "text/plain"}, "unsupported_media_type"),
    ({"content-type": "application/jsonl"}, "unsupported_media_type"),
    (JSON | {"content-encoding": "gzip"}, "unsupported_encoding"),
    (LINES | {"content-encoding": "br"}, "unsupported_encoding"),
])
@pytest.mark.parametrize("path", ["/score", "/correct", "/feedback", "/explain", "/forget"])
def test_bodies_of_another_kind_are_refused(path, headers, kind):
    refused(sent(Desk(), path, gzip.compress(SECRET.encode() * 1000), headers), 415, kind)


def test_a_charset_and_capitals_are_fine():
    body = {"items": [item()]}
    assert sent(Desk(), "/score", body, {"content-type": "Application/JSON; charset=utf-8"}).status_code == 200
    refused(sent(Desk(), "/feedback", b"{}", LINES), 415, "unsupported_media_type")


@pytest.mark.parametrize("path", ["/score", "/feedback", "/explain", "/forget"])
def test_a_body_that_is_too_large_is_not_read(path):
    read = []

    async def body():
        for _ in range(1000):
            read.append(1)
            yield b" " * 100

    async def scene(client, app):
        refused(await client.post(path, content=body(), headers=JSON), 413, "too_large")
        refused(await client.post(path, content=b" " * 1001, headers=JSON), 413, "too_large")

    played(Desk(), scene, body=1000)
    assert len(read) < 20


def test_a_client_that_is_too_slow_is_told_so():
    async def body():
        yield b"{"
        await asyncio.sleep(5)

    async def scene(client, app):
        began = time.monotonic()
        response = refused(await client.post("/score", content=body(), headers=JSON), 408, "too_slow")
        assert response.headers["connection"] == "close" and time.monotonic() - began < 2

    played(Desk(), scene, seconds=0.2)


@pytest.mark.parametrize(("method", "path", "status", "kind"), [
    ("GET", "/score", 405, "method_not_allowed"), ("POST", "/version", 405, "method_not_allowed"),
    ("GET", "/nothing", 404, "not_found"), ("DELETE", "/forget", 405, "method_not_allowed"),
])
def test_routes_that_are_none(method, path, status, kind):
    response = refused(sent(Desk(), path, b"", method=method), status, kind)
    assert ("allow" in response.headers) == (status == 405)


def test_the_other_routes_answer():
    assert sent(Desk(), "/feedback", {"id": "a", "label": 1}).json() == {"labelled": 1}
    refused(sent(Desk(), "/forget", {"id": "a"}), 404, "unknown_id", "id")
    refused(sent(Desk(), "/forget", {"id": ""}), 400, "invalid_request", "id")


def test_feedback_says_who_gives_it_and_how_the_answer_was_chosen():
    desk = Desk()
    for more in ({}, {"chosen": "random", "probability": 0.1}, {"chosen": "risk"}, {"withdrawn": True},
                 {"chosen": "all", "probability": 1}):
        assert sent(desk, "/feedback", {"id": "a", "label": 1} | more).status_code == 200
    asked = [(request.chosen, request.probability, request.withdrawn) for request, *_ in desk.said]
    assert asked == [("unknown", None, False), ("random", 0.1, False), ("risk", None, False), ("unknown", None, True),
                     ("all", 1.0, False)]
    assert desk.said[0][1:] == (None, False)  # no guard stands in front
    for more, words in [({"chosen": "random"}, "with which probability"), ({"probability": 0.5}, "Found unknown"),
                        ({"chosen": "whim", "probability": 0.5}, "Found whim"),
                        ({"chosen": "all", "probability": 0.5}, "Found all")]:
        response = refused(sent(desk, "/feedback", {"id": "a", "label": 1} | more), 400, "invalid_request")
        assert words in response.json()["error"]["message"]
    for more, where in [({"chosen": "luck"}, "chosen"), ({"chosen": "risk", "probability": 0}, "probability"),
                        ({"reviewer": "anna"}, "reviewer"), ({"trusted": True}, "trusted"),
                        ({"withdrawn": 1}, "withdrawn")]:
        refused(sent(desk, "/feedback", {"id": "a", "label": 1} | more), 400, "invalid_request", where)


def test_a_failure_of_ours_tells_neither_client_nor_log_the_text(caplog):
    desk = Desk()
    refused(sent(desk, "/explain", {"item": item(SECRET)}), 500, "internal")
    desk.fail = RuntimeError(SECRET)
    refused(sent(desk, "/score", {"items": [item(SECRET)]}), 500, "internal")
    answer = sent(desk, "/score", json.dumps(item(SECRET)).encode(), LINES)
    assert json.loads(answer.text)["error"]["type"] == "internal"
    assert "RuntimeError in /explain" in caplog.text and "in a stream" in caplog.text
    assert SECRET not in caplog.text and SECRET not in answer.text
    assert ForgetResponse


# Load


def test_too_much_work_is_refused_before_it_is_read():
    read = []

    async def body():
        read.append(1)
        yield json.dumps({"items": [item()]}).encode()

    async def scene(client, app):
        await client.post("/score", json={"items": [item()]})
        many = [asyncio.ensure_future(client.post("/score", json={"items": [item("x" * 1200)]})) for _ in range(30)]
        await asyncio.wait(many, return_when=asyncio.FIRST_COMPLETED)  # a refusal is the first
        began = time.monotonic()
        response = refused(await client.post("/score", content=body(), headers=JSON), 503, "overloaded")
        assert time.monotonic() - began < 0.1 and not read
        assert int(response.headers["retry-after"]) >= 1
        assert {each.status_code for each in await asyncio.gather(*many)} <= {200, 503}

    played(Desk(seconds=1e-3), scene, budget=150, wait=1)


def test_a_request_whose_client_went_is_not_scored():
    desk = Desk(seconds=1e-3)

    async def scene(client, app):
        first = asyncio.ensure_future(client.post("/score", json={"items": [item("x" * 1200)]}))
        await asyncio.sleep(0.1)
        sending = json.dumps({"items": [item()] * 7}).encode()
        messages = [{"type": "http.request", "body": sending, "more_body": False}]
        gone = asyncio.Event()

        async def receive():
            if messages:
                return messages.pop()
            await gone.wait()
            return {"type": "http.disconnect"}

        async def send(message):
            pass

        scope = {"type": "http", "method": "POST", "path": "/score", "query_string": b"", "root_path": "",
                 "headers": [(b"content-type", b"application/json")], "app": app, "state": {}}
        second = asyncio.ensure_future(app(scope, receive, send))
        await asyncio.sleep(0.1)
        assert app.state.batcher._count == 1
        gone.set()
        await second
        assert app.state.batcher._count == 0
        await first

    played(desk, scene)
    assert desk.batches == [[1]]


def test_what_a_request_holds_is_held_until_its_work_is_over(monkeypatch):
    desk, go, begun, bodies = Desk(), threading.Event(), threading.Event(), []

    def prepare(items):
        begun.set()
        go.wait(10)
        return Desk.prepare(desk, items)

    class Watched(Bodies):
        def __init__(self):
            super().__init__()
            bodies.append(self)

    monkeypatch.setattr(desk, "prepare", prepare)
    monkeypatch.setattr(app_module, "Bodies", Watched)

    async def scene(client, app):
        messages = asyncio.Queue()
        body = json.dumps({"items": [item()]}).encode()
        await messages.put({"type": "http.request", "body": body, "more_body": False})

        async def send(message):
            pass

        asked = scope(app) | {"headers": [(b"content-type", b"application/json")]}
        request = asyncio.ensure_future(app(asked, messages.get, send))
        while not begun.is_set():
            await asyncio.sleep(0.01)
        await messages.put({"type": "http.disconnect"})
        await asyncio.sleep(0.1)
        request.cancel()
        await asyncio.sleep(0.1)
        assert bodies[0]._held == len(body) and app.state.batcher._admitted == 1
        go.set()
        await asyncio.wait([request])
        assert bodies[0]._held == app.state.batcher._admitted == 0

    played(desk, scene)
    assert desk.batches == []


def test_a_database_that_hangs_stops_no_scoring():
    desk = Desk()
    desk.hang.clear()

    async def scene(client, app):
        stuck = [asyncio.ensure_future(client.post("/feedback", json={"id": "a", "label": 1})) for _ in range(80)]
        await asyncio.sleep(0.2)
        began = time.monotonic()
        assert (await client.post("/score", json={"items": [item()]})).status_code == 200
        assert time.monotonic() - began < 0.5
        desk.hang.set()
        answers = [each.status_code for each in await asyncio.gather(*stuck)]
        assert answers.count(200) == 64 and answers.count(503) == 16

    played(desk, scene)


# JSON Lines


def lines(*items):
    return b"".join(each if isinstance(each, bytes) else json.dumps(each).encode() + b"\n" for each in items)


def test_each_line_is_answered_in_its_place():
    body = lines(item(id="a"), b"\n", b"{\n", item(answer="purple"), b"[]\n", item(text=" "), item(id="a", colour=1),
                 item("x" * 101), b'{"text": "' + SECRET.encode() + b'", "answer": NaN}\n', b"\xff\n",
                 b" " * 70_000 + b"\n", b" " * 10 + json.dumps(item(id="a")).encode())
    response = sent(Desk(), "/score", body, LINES, text=100)
    assert response.status_code == 200 and response.headers["content-type"] == "application/x-ndjson"
    found = [json.loads(line) for line in response.text.splitlines()]
    assert [each.get("id") for each in (found[0], found[-1])] == ["a", "a"]
    assert [(each["line"], each["error"]["type"], each["error"]["where"]) for each in found[1:-1]] == [
        (3, "invalid_json", None), (4, "unknown_class", "answer"), (5, "invalid_request", None),
        (6, "invalid_request", "text"), (7, "invalid_request", "colour"), (8, "too_large", "text"),
        (9, "invalid_json", None), (10, "invalid_json", None), (11, "too_large", None)]
    assert SECRET not in response.text


def test_many_lines_are_answered_in_order_and_in_passes():
    desk = Desk()
    response = sent(desk, "/score", lines(*(item(id=f"i{n}") for n in range(3_000))), LINES)
    assert [json.loads(line)["id"] for line in response.text.splitlines()] == [f"i{n}" for n in range(3_000)]
    assert max(max(batch) for batch in desk.batches) <= 256 and len(desk.batches) < 400


def test_a_line_is_answered_before_the_next_one_is_sent():
    async def scene(client, app):
        messages, answers = asyncio.Queue(), asyncio.Queue()

        async def send(message):
            await answers.put(message)

        task = asyncio.ensure_future(app(scope(app), messages.get, send))
        assert (await answers.get())["status"] == 200
        for number in range(3):
            await messages.put({"type": "http.request", "body": lines(item(id=f"i{number}")), "more_body": True})
            assert json.loads((await answers.get())["body"])["id"] == f"i{number}"
        await messages.put({"type": "http.request", "body": b"", "more_body": False})
        assert (await answers.get())["more_body"] is False
        await task

    played(Desk(), scene)


def scope(app):
    return {"type": "http", "method": "POST", "path": "/score", "query_string": b"", "root_path": "", "app": app,
            "headers": [(b"content-type", b"application/x-ndjson")], "state": {}}


def test_a_client_that_goes_stops_the_work():
    desk = Desk(seconds=1e-4)

    async def scene(client, app):
        sent = 0

        async def receive():
            nonlocal sent
            sent += 1
            if sent > 10:
                return {"type": "http.disconnect"}
            return {"type": "http.request", "body": lines(*[item("x" * 400)] * 10), "more_body": True}

        async def send(message):
            pass

        await app(scope(app), receive, send)
        assert app.state.batcher._admitted == 0

    played(desk, scene)
    assert sum(map(sum, desk.batches)) < 110


def test_no_more_is_read_ahead_than_a_few_chunks():
    desk = Desk(seconds=2e-4)
    read = []

    async def body():
        for number in range(100):
            read.append(number)
            yield lines(*[item("x" * 400)] * 10)

    async def scene(client, app):
        task = asyncio.ensure_future(client.post("/score", content=body(), headers=LINES))
        await asyncio.sleep(1)
        assert len(read) <= sum(map(sum, desk.batches)) / 10 + 6
        task.cancel()

    played(desk, scene)


def test_an_overloaded_batcher_makes_a_stream_wait():
    async def scene(client, app):
        await client.post("/score", json={"items": [item()]})
        many = [asyncio.ensure_future(client.post("/score", json={"items": [item("x" * 1200)]})) for _ in range(20)]
        await asyncio.wait(many, return_when=asyncio.FIRST_COMPLETED)  # a refusal is the first
        refused(await client.post("/score", json={"items": [item()]}), 503, "overloaded")
        answer = await client.post("/score", content=lines(*[item(id=str(n)) for n in range(300)]), headers=LINES)
        assert [json.loads(line)["id"] for line in answer.text.splitlines()] == [str(n) for n in range(300)]
        await asyncio.gather(*many)

    played(Desk(seconds=1e-3), scene, budget=150, wait=1)


def test_what_cannot_be_kept_is_an_error_of_each_line():
    desk = Desk()
    desk.fail = Refusal("journal_full", "full", status=503)
    found = [json.loads(line) for line in sent(desk, "/score", lines(item(), item()), LINES).text.splitlines()]
    assert [(each["error"]["type"], each["line"]) for each in found] == [("journal_full", 1), ("journal_full", 2)]


def test_more_items_than_a_stream_may_have_end_it():
    found = sent(Desk(), "/score", lines(*[item()] * 3, b"\n", *[item()] * 3), LINES, stream=5).text.splitlines()
    assert len(found) == 6 and all("risk" in line for line in found[:5])
    assert json.loads(found[5])["error"]["type"] == "too_large" and json.loads(found[5])["line"] == 7
    assert len(sent(Desk(), "/score", lines(*[item()] * 5), LINES, stream=5).text.splitlines()) == 5


def test_a_stream_that_stalls_is_ended_with_a_line():
    async def body():
        yield lines(item(id="a"))
        await asyncio.sleep(5)

    async def scene(client, app):
        answer = await client.post("/score", content=body(), headers=LINES)
        first, last = map(json.loads, answer.text.splitlines())
        assert first["id"] == "a" and (last["error"]["type"], last["line"]) == ("too_slow", 2)

    played(Desk(), scene, seconds=0.2)


def test_a_client_that_does_not_read_is_left_once_it_has_sent_everything():
    async def scene(client, app):
        messages = [{"type": "http.request", "body": lines(item()), "more_body": False}]

        async def receive():
            return messages.pop() if messages else await asyncio.sleep(60)

        async def send(message):
            if message["type"] == "http.response.body":
                await asyncio.sleep(60)

        began = time.monotonic()
        await app(scope(app), receive, send)
        assert time.monotonic() - began < 3 and app.state.batcher._admitted == 0

    played(Desk(), scene, seconds=0.2)


def test_a_stream_that_is_cancelled_answers_what_it_has_read_and_says_why():
    desk = Desk(seconds=1e-3)

    async def scene(client, app):
        messages, answers = asyncio.Queue(), []

        async def send(message):
            answers.append(message)

        stream = asyncio.ensure_future(app(scope(app), messages.get, send))
        await messages.put({"type": "http.request", "body": lines(item("x" * 1200, id="a"), item(id="b")),
                            "more_body": True})
        await asyncio.sleep(0.1)
        assert len(answers) == 1  # it is being scored
        stream.cancel()
        await asyncio.wait([stream])
        *found, last = map(json.loads, b"".join(each["body"] for each in answers[1:]).splitlines())
        assert [each["id"] for each in found] == ["a", "b"]
        assert (last["error"]["type"], last["line"]) == ("stopping", 3)
        assert answers[-1]["more_body"] is False and app.state.batcher._admitted == 0

    played(desk, scene)
    assert desk.kept == [["s-a", "s-b"]]


def test_a_stream_whose_client_does_not_read_is_cut_short_when_it_is_cancelled(monkeypatch):
    monkeypatch.setattr(streaming, "STOPPING_S", 0.2)

    async def scene(client, app):
        messages = asyncio.Queue()

        async def send(message):
            if message["type"] == "http.response.body":
                await asyncio.sleep(60)

        stream = asyncio.ensure_future(app(scope(app), messages.get, send))
        await messages.put({"type": "http.request", "body": lines(item()), "more_body": True})
        await asyncio.sleep(0.1)
        stream.cancel()
        await asyncio.wait([stream], timeout=5)
        assert stream.cancelled() and app.state.batcher._admitted == 0

    played(Desk(), scene)


def test_a_stream_that_drips_leaves_its_place_to_another_one(monkeypatch):
    monkeypatch.setattr(streaming, "IDLE_S", 0.3)

    async def scene(client, app):
        async def dripping():
            yield lines(item())
            while True:
                yield b" "
                await asyncio.sleep(0.05)

        many = [asyncio.ensure_future(client.post("/score", content=dripping(), headers=LINES)) for _ in range(16)]
        await asyncio.sleep(0.1)
        refused(await client.post("/score", content=lines(item()), headers=LINES), 503, "overloaded")
        await asyncio.sleep(0.5)
        assert (await client.post("/score", content=lines(item()), headers=LINES)).status_code == 200
        (ended,), left = await asyncio.wait(many, return_when=asyncio.FIRST_COMPLETED)
        scored, last = map(json.loads, ended.result().text.splitlines())
        assert scored["answer"] == "spam" and (last["error"]["type"], last["line"]) == ("too_slow", 2)
        assert len(left) == 15
        for each in left:
            each.cancel()
        await asyncio.wait(left)

    played(Desk(), scene)


def test_so_many_streams_and_no_more(monkeypatch):
    async def scene(client, app):
        async def body():
            yield lines(item())
            await asyncio.sleep(0.5)

        many = [asyncio.ensure_future(client.post("/score", content=body(), headers=LINES)) for _ in range(16)]
        await asyncio.sleep(0.2)
        refused(await client.post("/score", content=lines(item()), headers=LINES), 503, "overloaded")
        assert {each.status_code for each in await asyncio.gather(*many)} == {200}
        assert (await client.post("/score", content=lines(item()), headers=LINES)).status_code == 200

    assert streaming.STREAMS == 16
    played(Desk(), scene)


# The parts


def test_lines_are_cut_wherever_the_chunks_fall():
    whole = b"one\n\ntwo\r\n" + b"y" * 50 + b"\nthree\n" + b"z" * 51

    async def found(size):
        async def body():
            for start in range(0, len(whole), size):
                yield whole[start : start + size]

        return [line async for lines in lines_of(body(), 20) for line in lines]

    for size in range(1, len(whole) + 1):
        assert asyncio.run(found(size)) == [(1, b"one"), (3, b"two\r"), (4, None), (5, b"three"), (6, None)]


def test_the_outbox_gives_what_was_put_in_whatever_its_size():
    async def scene():
        box, got = Outbox(in_memory=1_000, most=50_000), []
        sent = [bytes([n % 256]) * (n * 37 % 9_000) for n in range(300)]

        async def put():
            for data in sent:
                await box.put(data)
                assert box._written - box._read < 59_000
            await box.end()

        task = asyncio.ensure_future(put())
        while data := await box.get():
            got.append(data)
            if len(got) % 3 == 0:
                await asyncio.sleep(0.001)
        await task
        box.close()
        return b"".join(got) == b"".join(sent)

    assert asyncio.run(scene())


def test_slices_hold_every_item_once_and_places_are_those_of_the_request():
    class Text:
        def __init__(self, size):
            self.text = "x" * size

    items = [Text(n * 131 % 5_000) for n in range(200)]
    slices = cut(items, 1_000)
    assert [each for _, part in slices for each in part] == items
    assert [start for start, _ in slices] == [items.index(part[0]) for _, part in slices]
    assert all(sum(min(len(each.text), 2_000) for each in part) <= 4_000 for _, part in slices)
    assert list(ends_of([9, 9], 5)) == [1, 2] and list(ends_of([1] * 5, 100, 2)) == [2, 4, 5]
    moved = placed(Refusal("x", "y", "items.3.votes.a"), 40)
    assert moved.where == "items.43.votes.a" and placed(Refusal("x", "y", None), 40).where is None


def test_the_door_refuses_what_there_is_no_room_for_and_nothing_else():
    app = make_app()
    score = Asked("POST", "/score", Headers({"content-type": "application/json"}), None)
    stream = Asked("POST", "/score", Headers({"content-type": "application/x-ndjson"}), None)
    room(app, score)  # not started yet: the app says so itself

    class Full:
        def admit(self):
            raise overloaded("full", 1.0)

    app.state.batcher = Full()
    with pytest.raises(Refusal) as refused:
        room(app, score)
    assert refused.value.status == 503
    for other in (stream, Asked("GET", "/version", Headers({}), None)):
        room(app, other)
