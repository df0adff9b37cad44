import asyncio
import datetime
import ipaddress
import json
import logging
import signal
import sqlite3
import ssl
import stat
import subprocess
import sys
import threading
import time
from collections import Counter
from contextlib import closing
from email.utils import formatdate
from pathlib import Path

import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from hypothesis import given
from hypothesis import strategies as st

from serving.llm.budget import Account, Budget
from serving.llm.cache import Cache, key_of
from serving.llm.client import Client, Session, ask_all
from serving.llm.exchange import Failed, Message, Prompt, Reply, Token
from serving.llm.protocol import Dialect, body_of, is_cut, most_tokens_in, reply_of
from serving.llm.retrying import LONGEST_PAUSE_S, Clock, asked_wait_s, backoff_s
from serving.llm.settings import Endpoint, read_settings
from serving.llm.throttle import Throttle
from serving.llm.usage import Usage
from tests.llm_stub import HALF, Fault, completion, error, stub, stub_process
from training.errors import InputError

SECRET = "sk-Marzipan-Krokodil"
TEXT = "Zimtstern"
ROOT = Path(__file__).parents[1]


def prompt(text=TEXT, **settings):
    return Prompt((Message("system", "spam or ham?"), Message("user", text)), **settings)


def prompts(count):
    return [prompt(f"{TEXT} {number}") for number in range(count)]


class Time:
    """A clock whose sleepers do not wait; it goes on when they sleep."""

    def __init__(self, chance=0.5):
        self.at, self.chance, self.slept = 1000.0, chance, []

    async def sleep(self, seconds):
        self.slept.append(seconds)
        until = self.at + seconds
        await asyncio.sleep(0)
        self.at = max(self.at, until)

    def clock(self):
        return Clock(now=lambda: self.at, date=lambda: self.at, sleep=self.sleep, chance=lambda: self.chance)


class Replay(httpx.AsyncBaseTransport):
    """Plays what was recorded: answers in turn, the last one over and over. An answer is (status, body, headers), an
    exception, or a function of the request's body."""

    def __init__(self, *answers, time=None):
        self.answers, self.time, self.bodies, self.requests, self.times, self.closed = answers, time, [], [], [], False

    async def handle_async_request(self, request):
        body = json.loads(await request.aread())
        answer = self.answers[min(len(self.bodies), len(self.answers) - 1)]
        self.bodies.append(body)
        self.requests.append(request)
        self.times.append(self.time.at if self.time else None)
        await asyncio.sleep(0)
        answer = answer(body) if callable(answer) and not isinstance(answer, type) else answer
        if isinstance(answer, Exception):
            raise answer
        status, content, *headers = answer
        content = content if isinstance(content, bytes) else json.dumps(content).encode()
        return httpx.Response(status, content=content, headers=headers[0] if headers else {})

    async def aclose(self):
        self.closed = True


def said(body, text="ham"):
    return 200, completion(body, text)


def endpoint(**settings):
    return Endpoint(**{"name": "near", "url": "http://127.0.0.1:9/v1", "model": "m", "in_flight": 4} | settings)


@pytest.fixture
def cache(tmp_path):
    with Cache(tmp_path / "llm.db") as opened:
        yield opened


def ask(cache, replay, questions, time=None, where=None, **settings):
    time = time or Time()
    return ask_all(where or endpoint(), questions, cache, transport=replay, clock=time.clock(), **settings)


# what comes back


def test_answers_come_in_order_told_as_they_come_and_kept_before(cache, tmp_path):
    replay, told = Replay(lambda body: said(body, body["messages"][-1]["content"][::-1])), []
    asked = [*prompts(30), prompt(f"{TEXT} 3")]

    def tell(place, outcome):
        with sqlite3.connect(tmp_path / "llm.db") as other:
            (kept,) = other.execute("SELECT count(*) FROM answers WHERE key = ?",
                                    (key_of(endpoint(), asked[place]),)).fetchone()
        other.close()
        told.append((place, kept))

    outcomes = ask(cache, replay, asked, told=tell)
    assert [outcome.text for outcome in outcomes] == [each.messages[-1].content[::-1] for each in asked]
    assert sorted(told) == [(place, 1) for place in range(31)]
    assert len(replay.bodies) == 30 and replay.closed
    assert [outcome.cached for outcome in outcomes] == [False] * 30 + [True]


def test_what_is_kept_is_not_asked_again_nor_is_a_key_needed(cache, monkeypatch):
    spent = []
    first = ask(cache, Replay(said), prompts(5), spent=spent.append)
    far = endpoint(key="NO_SUCH_KEY")
    again = ask(cache, None, prompts(5), where=far, spent=spent.append)
    assert [reply.text for reply in again] == [reply.text for reply in first]
    assert all(reply.cached for reply in again)
    assert spent[0].asked == 5 and spent[0].tokens_in == sum(reply.tokens_in for reply in first)
    assert spent[1] == Usage(cached=5)
    total = spent[0] + spent[1]
    assert (total.asked, total.cached, total.tokens_out) == (5, 5, 5)


@pytest.mark.parametrize("change", [
    {"temperature": 0.5}, {"max_tokens": 17}, {"logprobs": True}, {"sample": 1},
])
def test_another_question_is_another_key(change):
    assert key_of(endpoint(), prompt(**change)) != key_of(endpoint(), prompt())
    assert key_of(endpoint(), prompt()) != key_of(endpoint(model="n"), prompt())
    assert key_of(endpoint(), prompt()) != key_of(endpoint(url="http://127.0.0.1:8/v1"), prompt())
    assert key_of(endpoint(), prompt()) != key_of(endpoint(version="Q4"), prompt())
    assert key_of(endpoint(), prompt()) == key_of(endpoint(name="far", key="A", price_in=1), prompt())


def test_the_request_is_the_protocols(cache):
    replay = Replay(said)
    ask(cache, replay, [prompt(temperature=0.7, sample=3, logprobs=True, max_tokens=5)])
    assert replay.bodies[0] == {
        "model": "m", "messages": [{"role": "system", "content": "spam or ham?"}, {"role": "user", "content": TEXT}],
        "max_tokens": 5, "temperature": 0.7, "logprobs": True, "top_logprobs": 1, "seed": 3,
    }
    assert str(replay.requests[0].url) == "http://127.0.0.1:9/v1/chat/completions"
    assert "seed" not in json.loads(body_of("m", prompt(sample=3), Dialect()))


@pytest.mark.parametrize(("message", "more", "reply"), [
    ({"content": "ham"}, {}, Reply("ham")),
    ({"content": None}, {}, Reply("")),
    ({}, {}, Reply("")),
    ({"content": None, "refusal": "I cannot."}, {}, Reply("", refusal="I cannot.")),
    ({"content": [{"type": "text", "text": "h"}, {"type": "image"}, {"type": "text", "text": "am"}]}, {}, Reply("ham")),
    ({"content": "ham"}, {"finish_reason": "length"}, Reply("ham", "length")),
    ({"content": "ham"}, {"finish_reason": None}, Reply("ham")),
    ({"content": "h\ud800m"}, {}, Reply("h?m")),
    ({"content": "ham"}, {"logprobs": {"content": [{"token": "ham", "logprob": -0.5}]}},
     Reply("ham", tokens=(Token("ham", -0.5),))),
    ({"content": "ham"}, {"logprobs": {"tokens": ["ham"], "token_logprobs": [-0.5]}},
     Reply("ham", tokens=(Token("ham", -0.5),))),
    ({"content": "ham"}, {"logprobs": {"content": [{"token": "ham", "logprob": None}]}}, Reply("ham")),
    ({"content": "ham"}, {"logprobs": {"content": [{"token": "ham", "logprob": float("nan")}]}}, Reply("ham")),
    ({"content": "ham"}, {"logprobs": "none"}, Reply("ham")),
])
def test_replies_are_read(message, more, reply):
    body = {"choices": [{"message": message, **more}], "usage": {"prompt_tokens": 7, "completion_tokens": 2}}
    assert reply_of(json.dumps(body).encode(), prompt(logprobs=True)) == Reply(
        reply.text, reply.finish, reply.refusal, reply.tokens, tokens_in=7, tokens_out=2)


@pytest.mark.parametrize("usage", [None, {}, {"prompt_tokens": -1, "completion_tokens": True}, "much"])
def test_tokens_are_estimated_where_the_server_does_not_count(usage):
    reply = reply_of(json.dumps({"choices": [{"message": {"content": "hams"}}], "usage": usage}).encode(), prompt())
    assert (reply.tokens_in, reply.tokens_out) == (7, 2)
    assert reply.tokens_in < most_tokens_in(prompt())


@given(st.one_of(st.binary(), st.recursive(
    st.none() | st.booleans() | st.integers() | st.text() | st.sampled_from(["choices", "message", "content"]),
    lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from(
        ["choices", "message", "content", "usage", "logprobs", "type", "text"]), inner)).map(
            lambda value: json.dumps(value).encode())))
def test_no_body_breaks_the_reading(content):
    reply = reply_of(content, prompt(logprobs=True))
    assert reply is None or isinstance(reply.text, str)


# what goes wrong


@pytest.mark.parametrize(("body", "headers"), [
    (b"<html>Sign in to the network</html>", {}), (b"", {}), ([], {}), ({}, {}), ({"choices": []}, {}),
    ({"choices": [{"message": {"content": 7}}]}, {}), (b'data: {"choices": []}\n\n', {}), (b"[" * 100_000, {}),
    (b" " * (9 * 2**20), {}), (b"packed", {"content-encoding": "br"}), ({"error": {"message": TEXT}}, {}),
], ids=range(11))
def test_what_is_no_completion_is_tried_twice_again(cache, body, headers):
    if headers:
        class Packed(Replay):
            async def handle_async_request(self, request):
                response = await super().handle_async_request(request)
                response.headers.update(headers)
                return response
        replay = Packed((200, body))
    else:
        replay = Replay((200, body))
    spent = []
    (outcome,) = ask(cache, replay, [prompt()], spent=spent.append)
    assert isinstance(outcome, Failed) and outcome.kind == "malformed" and TEXT not in outcome.detail
    assert len(replay.bodies) == 3
    assert spent[0].failed == {"malformed": 1} and spent[0].asked == 1
    assert ask(cache, Replay((200, body), said), [prompt()])[0].text == "ham"


HALF_A_BODY = json.dumps(completion({"messages": [], "model": "m"}, "ham")).encode()[:-20]


def test_half_an_answer_is_tried_again_like_a_broken_connection(cache):
    assert ask(cache, Replay(*[(200, HALF_A_BODY)] * 6, said), [prompt()])[0].text == "ham"


@pytest.mark.parametrize(("content", "cut"), [
    (HALF_A_BODY, True), (b"{", True), (b"", False), (b"[1", False), (b"{}", False), (b"<html>", False),
    (b'{"response": "ham"}\n{"response": "", "done": true}\n', False),
])
def test_what_did_not_all_come_is_told_from_what_is_no_completion(content, cut):
    assert is_cut(content) is cut


@pytest.mark.parametrize(("status", "body"), [
    (400, error("This model's maximum context length is 8192 tokens.", code="context_length_exceeded")),
    (400, {"error": {"code": 400, "message": "the request exceeds the available context size, try increasing it",
                     "type": "exceed_context_size_error", "n_prompt_tokens": 6002, "n_ctx": 2048}}),
    (400, {"object": "error", "message": "This model's maximum context length is 4096 tokens. However, you requested "
           "5000 tokens", "type": "BadRequestError", "param": None, "code": 400}),
    (413, error("prompt is too long: 210000 tokens > 200000 maximum")),
    (422, {"error": "`inputs` must have less than max_input_length tokens", "error_type": "validation"}),
    (400, {"detail": "Input exceeds the context window"}),
])
def test_a_prompt_beyond_the_context_is_not_tried_again(cache, status, body):
    replay = Replay((status, body))
    (outcome,) = ask(cache, replay, [prompt()])
    assert outcome.kind == "too_long" and len(replay.bodies) == 1


@pytest.mark.parametrize(("status", "body"), [
    (400, error(f"I do not like '{TEXT}'")), (422, {"detail": [{"loc": ["body", "messages"], "msg": TEXT}]}),
    (400, TEXT.encode()), (413, b""), (400, [TEXT]), (451, {}), (400, {"error": [TEXT], "detail": {"loc": 3}}),
    (422, {"detail": [{"loc": ["body"], "msg": "bad", "input": {"logprobs": True, "context_length": 3}}]}),
])
def test_a_refused_prompt_is_not_tried_again_nor_repeated(cache, status, body):
    replay = Replay((status, body), said)
    first, second = ask(cache, replay, [prompt(logprobs=True), prompt("other")], where=endpoint(in_flight=1))
    assert first.kind == "rejected" and TEXT not in first.detail and str(status) in first.detail
    assert len(replay.bodies) == 2 and isinstance(second, Reply)


def test_an_endpoint_that_refuses_the_first_twenty_is_at_fault(cache):
    replay = Replay((400, error(f"no {TEXT}")))
    with pytest.raises(InputError, match="answers none of the first 20 questions") as caught:
        ask(cache, replay, prompts(100))
    assert 20 <= len(replay.bodies) <= 23 and TEXT not in str(caught.value)
    outcomes = ask(cache, Replay(said, (400, error("no"))), prompts(100), where=endpoint(in_flight=1))
    assert Counter(type(outcome) for outcome in outcomes) == {Reply: 1, Failed: 99}


@pytest.mark.parametrize(("status", "body", "key", "found"), [
    (401, error(f"Incorrect API key: {SECRET}"), "STUB_KEY", "refuses the key in the variable STUB_KEY"),
    (403, b"", "STUB_KEY", "STUB_KEY"),
    (401, {}, None, "seems to need a key"),
    (404, error("no such model"), None, "model 'm'"),
    (402, {}, None, "money"),
    (429, error("You exceeded your current quota", code="insufficient_quota"), None, "quota"),
    (405, b"", None, "/v1"),
    (307, b"", None, "sends requests elsewhere"),
])
def test_what_no_question_would_get_past_is_said_at_once_in_one_line(cache, monkeypatch, status, body, key, found):
    monkeypatch.setenv("STUB_KEY", SECRET)
    replay = Replay((status, body, {"location": "http://elsewhere.example/"}))
    with pytest.raises(InputError, match=found) as caught:
        ask(cache, replay, prompts(100), where=endpoint(key=key))
    assert len(replay.bodies) == 1
    assert SECRET not in str(caught.value) and "\n" not in str(caught.value) and "'near'" in str(caught.value)


def test_answers_that_came_before_a_wrong_key_are_kept(cache):
    with pytest.raises(InputError):
        ask(cache, Replay(*[said] * 10, (401, {})), prompts(30), where=endpoint(in_flight=1))
    replay = Replay(said)
    assert all(isinstance(outcome, Reply) for outcome in ask(cache, replay, prompts(30)))
    assert len(replay.bodies) == 20


@pytest.mark.parametrize(("status", "body"), [
    (401, {}), (402, {}), (404, error("no such model")), (429, error("x", code="insufficient_quota")), (307, b""),
])
def test_a_refusal_that_others_do_not_meet_ends_nothing(cache, status, body):
    replay = Replay(said, (status, body), (status, body), said)
    outcomes = ask(cache, replay, prompts(30), where=endpoint(in_flight=1))
    assert [outcome.kind for outcome in outcomes if isinstance(outcome, Failed)] == ["server"] * 2
    assert ask(cache, Replay(said), prompts(30)) != outcomes
    with pytest.raises(InputError):
        ask(cache, Replay(said, *[(status, body)] * 3, said), [prompt(f"new {number}") for number in range(30)],
            where=endpoint(in_flight=1))


def test_a_prompt_that_is_forbidden_is_refused_and_a_later_run_is_not_stuck_at_it(cache):
    def moderated(body):
        return (403, error("no")) if body["messages"][-1]["content"].endswith(" 7") else said(body)

    replay = Replay(moderated)
    for _ in range(2):
        outcomes = ask(cache, replay, prompts(20))
        assert [place for place, outcome in enumerate(outcomes) if isinstance(outcome, Failed)] == [7]
        assert outcomes[7].kind == "rejected"
    assert len(replay.bodies) == 20
    flagged = Replay((403, error("Your input was flagged", code=403)), said)
    assert [type(outcome) for outcome in ask(cache, flagged, [prompt("a"), prompt("b")])] == [Failed, Reply]


def test_a_key_that_is_withdrawn_ends_it_even_if_the_server_says_forbidden(cache):
    replay = Replay(*[said] * 5, (403, b""))
    with pytest.raises(InputError, match="need a key"):
        ask(cache, replay, prompts(100))
    assert len(replay.bodies) <= 5 + 20 + 3


def test_a_sign_in_page_in_place_of_all_answers_ends_it(cache):
    replay = Replay((200, b"<html>Sign in</html>"))
    with pytest.raises(InputError, match="no chat completion"):
        ask(cache, replay, prompts(1000))
    assert len(replay.bodies) <= 3 * 4 * 8
    replay = Replay(said, (200, b"<html>Sign in</html>"))
    with pytest.raises(InputError, match="does not answer any more: what came is no chat completion"):
        ask(cache, replay, prompts(1000))


def test_a_key_that_is_not_there_is_named(cache, monkeypatch):
    monkeypatch.delenv("STUB_KEY", raising=False)
    with pytest.raises(InputError, match="set the variable STUB_KEY"):
        ask(cache, Replay(said), [prompt()], where=endpoint(key="STUB_KEY"))


# trying again


@pytest.mark.parametrize("trouble", [
    *[(status, b"") for status in (408, 409, 425, 429, 500, 502, 503, 504, 529, 599)],
    httpx.ConnectError("refused"), httpx.ReadError("reset"), httpx.RemoteProtocolError("half"),
    httpx.ReadTimeout("slow"), httpx.ConnectTimeout("slow"), httpx.WriteError("gone"),
], ids=str)
def test_trouble_is_got_over(cache, trouble):
    replay, time = Replay(said, *[trouble] * 6, said), Time()
    outcomes = ask(cache, replay, prompts(3), time)
    assert [type(outcome) for outcome in outcomes] == [Reply] * 3
    assert len(replay.bodies) == 9 and time.slept


@pytest.mark.parametrize(("trouble", "kind"), [
    ((500, TEXT.encode()), "server"), ((429, b""), "server"), (httpx.ConnectError(TEXT), "server"),
    (httpx.ReadTimeout(TEXT), "timeout"), (httpx.RemoteProtocolError(TEXT), "server"),
    ((200, HALF_A_BODY), "server"),
])
def test_trouble_that_lasts_is_a_failure(cache, trouble, kind):
    replay = Replay(said, trouble)
    first, second = ask(cache, replay, prompts(2), where=endpoint(retries=3, in_flight=1))
    assert isinstance(first, Reply) and second.kind == kind and TEXT not in second.detail
    assert len(replay.bodies) == 1 + 4


@pytest.mark.parametrize("trouble", [httpx.ConnectError("refused"), httpx.ReadTimeout("slow"),
                                     httpx.ConnectTimeout("slow"), httpx.RemoteProtocolError("no HTTP")])
def test_an_endpoint_that_never_answered_is_at_fault(cache, trouble):
    replay = Replay(trouble)
    with pytest.raises(InputError, match=r"does not answer: .* Is it running"):
        ask(cache, replay, prompts(100))
    assert len(replay.bodies) == (7 if isinstance(trouble, httpx.RemoteProtocolError) else 3)


@pytest.mark.parametrize("trouble", [
    httpx.RemoteProtocolError("dropped"), httpx.ConnectError("gone"), httpx.ReadTimeout("slow"), (500, b""),
    (503, b""), (200, HALF_A_BODY),
], ids=str)
def test_an_endpoint_that_died_costs_a_few_requests_and_is_said(cache, trouble):
    replay, told = Replay(*[said] * 50, trouble), []
    with pytest.raises(InputError, match=r"does not answer any more: .*The same command|the same command goes on"):
        ask(cache, replay, prompts(300), where=endpoint(in_flight=16),
            told=lambda place, outcome: told.append(outcome))
    assert len(replay.bodies) <= 50 + 16 + 16 + 8 + 16 + 16
    kinds = Counter(outcome.kind for outcome in told if isinstance(outcome, Failed))
    assert set(kinds) <= {"server", "timeout"} and kinds.total() < 16
    again = Replay(said)
    assert all(isinstance(outcome, Reply) for outcome in ask(cache, again, prompts(300)))
    assert len(again.bodies) == 250


def test_an_endpoint_that_comes_back_is_asked_on_and_one_request_at_a_time_tries(cache):
    class Away(Replay):
        """Is away from 1000.2 to 1100 on the clock, and counts who tries meanwhile, at first and later."""

        under_way, tried, most = 0, 0, Counter()

        async def handle_async_request(self, request):
            self.under_way += 1
            away = 1000.2 <= self.time.at < 1100
            self.tried += away
            later = away and self.time.at > 1005
            self.most[later] = max(self.most[later], self.under_way)
            self.time.at += 0.01
            try:
                response = await super().handle_async_request(request)
            finally:
                self.under_way -= 1
            if away:
                raise httpx.ConnectError("away")
            return response

    time = Time()
    replay = Away(said, time=time)
    outcomes = ask(cache, replay, prompts(300), time, where=endpoint(in_flight=16))
    assert replay.tried < 16 + 16 + 16 + 20 and replay.most[True] == 1 and replay.most[False] > 8
    assert sum(isinstance(outcome, Reply) for outcome in outcomes) > 290 and time.at > 1100


def test_questions_that_fail_alone_do_not_end_it(cache):
    def some(body):
        number = int(body["messages"][-1]["content"].split()[-1])
        return (500, b"") if 20 <= number < 24 or number % 10 == 3 else said(body)

    for in_flight in (1, 4):
        where = endpoint(in_flight=in_flight, version=str(in_flight))
        outcomes = ask(cache, Replay(some), prompts(60), where=where)
        failed = [place for place, outcome in enumerate(outcomes) if isinstance(outcome, Failed)]
        assert failed == sorted({*range(20, 24), *range(3, 60, 10)})


def test_backoff_doubles_at_random_up_to_a_limit():
    assert [backoff_s(tries, 1.0) for tries in (1, 2, 3, 7, 100)] == [0.5, 1.0, 2.0, 30.0, 30.0]
    assert backoff_s(5, 0.0) == 0.0 and backoff_s(3, 0.25) == 0.5


@pytest.mark.parametrize(("headers", "wait"), [
    ({}, None), ({"retry-after": "7"}, 7), ({"retry-after": "1.5"}, 1.5), ({"retry-after": "0"}, 0),
    ({"retry-after": formatdate(1030, usegmt=True)}, 30), ({"retry-after": formatdate(900, usegmt=True)}, 0),
    ({"retry-after-ms": "250", "retry-after": "7"}, 0.25), ({"retry-after": "soon"}, None),
    ({"retry-after": "-3"}, None),
    ({"retry-after": "nan"}, None), ({"x-ratelimit-reset-requests": "6m0s"}, 360),
    ({"x-ratelimit-reset-requests": "1h2m3.5s", "x-ratelimit-remaining-requests": "0",
      "x-ratelimit-reset-tokens": "20ms", "x-ratelimit-remaining-tokens": "50"}, 3723.5),
    ({"x-ratelimit-reset-requests": "2s", "x-ratelimit-reset-tokens": "20ms"}, 0.02),
    ({"x-ratelimit-reset": "12"}, 12), ({"x-ratelimit-reset-tokens": "soon"}, None),
])
def test_a_server_is_understood_when_it_says_how_long(headers, wait):
    found = asked_wait_s(headers, 1000.0)
    assert found == wait if wait is None else found == pytest.approx(wait)


@pytest.mark.parametrize("reset", ["1800000012", "1800000012000"])
def test_a_reset_may_be_a_date(reset):
    assert asked_wait_s({"x-ratelimit-reset": reset}, 1.8e9) == pytest.approx(12)


def test_all_wait_when_the_server_says_wait(cache):
    time = Time(chance=0.0)
    replay = Replay(said, (429, b"", {"retry-after": "20"}), said, time=time)
    outcomes = ask(cache, replay, prompts(40), time)
    assert all(isinstance(outcome, Reply) for outcome in outcomes)
    under_way = [at for at in replay.times[1:] if at < 1020.0]
    assert len(under_way) <= 4 and len(replay.times) == 41
    assert all(at >= 1020.0 for at in replay.times[5:])


def test_a_pause_too_long_is_not_waited_for(cache):
    replay = Replay(said, (429, b"", {"retry-after": "86400"}))
    outcomes = ask(cache, replay, prompts(50), where=endpoint(in_flight=1))
    assert [outcome.kind for outcome in outcomes[1:]] == ["server"] * 49
    assert "asks to wait" in outcomes[1].detail and len(replay.bodies) == 2


def test_fewer_are_under_way_after_a_refusal_and_more_again():
    async def run():
        throttle = Throttle(16, Time().clock())
        assert throttle.limit == 1  # alone, until something is known of the server
        rounds = [await throttle.enter()]
        others = [asyncio.create_task(throttle.enter()) for _ in range(20)]
        await asyncio.sleep(0)
        assert not any(task.done() for task in others)
        throttle.answered()
        await asyncio.sleep(0)
        assert sum(task.done() for task in others) == 15
        for _ in range(16):  # of one round: it is slowed down once
            throttle.refused(rounds[0], 1.0)
        assert throttle.limit == 8
        throttle.refused(rounds[0] + 1, 1.0)
        assert throttle.limit == 4
        for _ in range(60):
            throttle.refused(rounds[0] + 2, 0.0)
        assert throttle.limit == 2
        for _ in range(200):
            throttle.answered()
        assert throttle.limit == 16
        others[-1].cancel()
        await asyncio.sleep(0)
        for _ in range(20):
            throttle.leave()
        await asyncio.gather(*others, return_exceptions=True)

    asyncio.run(run())


def test_a_turn_given_to_one_who_left_goes_to_the_next():
    async def run():
        throttle = Throttle(1, Time().clock())
        await throttle.enter()
        leaving, next_ = asyncio.create_task(throttle.enter()), asyncio.create_task(throttle.enter())
        await asyncio.sleep(0)
        throttle.leave()
        leaving.cancel()
        assert await next_ == 0
        throttle.leave()
        assert await throttle.enter() == 0
        throttle.refused(0, LONGEST_PAUSE_S + 1)
        assert await throttle.enter() is None

    asyncio.run(run())


# dialects


@pytest.mark.parametrize(("refusal", "before", "after"), [
    (error("logprobs are not supported by this model"), "logprobs", None),
    ({"detail": [{"loc": ["body", "top_logprobs"], "msg": "extra fields not permitted"}]}, "logprobs", None),
    (error("Unsupported parameter: 'max_tokens' is not supported with this model. Use 'max_completion_tokens' instead.",
           param="max_tokens"), "max_tokens", "max_completion_tokens"),
    (error("Unsupported value", param="temperature"), "temperature", None),
    (error("Unknown parameter", param="seed"), "seed", None),
])
def test_a_server_that_refuses_a_field_is_asked_without_once_and_for_all(cache, refusal, before, after):
    replay = Replay(lambda body: (400, refusal) if before in body else said(body))
    questions = [prompt(str(number), temperature=1.0, logprobs=True) for number in range(20)]
    assert all(isinstance(outcome, Reply) for outcome in ask(cache, replay, questions))
    assert [before in body for body in replay.bodies] == [True] + [False] * 20
    assert after is None or all(body[after] == 16 for body in replay.bodies[1:])


# budgets


@pytest.mark.parametrize("budget", [Budget(tokens=0), Budget(money=0.0), Budget(tokens=0, money=5.0)])
def test_a_budget_of_zero_asks_nobody_and_says_so(cache, budget):
    ask(cache, Replay(said), prompts(1))
    replay, spent = Replay(said), []
    kept, *others = ask(cache, replay, prompts(4), budget=budget, spent=spent.append)
    assert isinstance(kept, Reply) and replay.bodies == []
    assert {(outcome.kind, outcome.detail) for outcome in others} == {
        ("budget", "the budget is zero, so nobody is asked")}
    assert spent[0].failed == {"budget": 3} and spent[0].asked == 0 and spent[0].cached == 1


def counting(tokens_in, tokens_out):
    return lambda body: (200, completion(body, "ham") | {
        "usage": {"prompt_tokens": tokens_in, "completion_tokens": tokens_out}})


@given(st.integers(1, 3000), st.integers(1, 90), st.integers(0, 16), st.integers(1, 8))
def test_a_budget_is_never_exceeded_and_used_up(tmp_path_factory, tokens, tokens_in, tokens_out, in_flight):
    used, most = tokens_in + tokens_out, most_tokens_in(prompt("00")) + 16
    with Cache(tmp_path_factory.mktemp("budget") / "llm.db") as cache:
        replay, spent = Replay(counting(tokens_in, tokens_out)), []
        questions = [prompt(f"{number:02}") for number in range(40)]
        outcomes = ask(cache, replay, questions, budget=Budget(tokens=tokens), spent=spent.append,
                       where=endpoint(in_flight=in_flight))
        assert len(replay.bodies) * used <= tokens
        assert spent[0].tokens_in + spent[0].tokens_out == len(replay.bodies) * used
        answered = sum(isinstance(outcome, Reply) for outcome in outcomes)
        assert answered == min(40, max(0, (tokens - most) // used + 1) if tokens >= most else 0)
        more = Replay(said)
        assert all(isinstance(outcome, Reply) for outcome in ask(cache, more, questions))
        assert len(more.bodies) == 40 - answered


def test_money_is_counted_by_the_prices_and_an_account_goes_on(cache):
    dear = endpoint(price_in=1e6, price_out=2e6, in_flight=1)
    account, spent = Account(Budget(money=800.0)), []
    outcomes = ask(cache, Replay(counting(10, 5)), prompts(100), where=dear, budget=account, spent=spent.append)
    answered = sum(isinstance(outcome, Reply) for outcome in outcomes)
    assert account.spent.money == spent[0].money == answered * 20.0 <= 800.0
    assert answered > 25 and "800" in outcomes[-1].detail
    assert ask(cache, Replay(said), [prompt("new")], budget=account)[0].kind == "budget"


def test_what_may_have_been_paid_for_nothing_counts_as_the_most_it_can_be(cache):
    most, spent = most_tokens_in(prompt()) + 16, []
    ask(cache, Replay((500, b""), httpx.ConnectError("x"), (200, b"none"), httpx.ReadTimeout("x"), counting(3, 1)),
        [prompt()], spent=spent.append)
    assert spent[0].tokens_in + spent[0].tokens_out == 2 * most + 4


def test_a_server_that_writes_more_than_it_was_let_is_reckoned_with(cache):
    account, replay = Account(Budget(tokens=3000)), Replay(counting(10, 500))
    outcomes = ask(cache, replay, prompts(60), budget=account, where=endpoint(in_flight=16))
    assert account.spent.tokens == 510 * len(replay.bodies) <= 3000
    assert Counter(type(outcome) for outcome in outcomes)[Reply] == len(replay.bodies) >= 4


def test_once_a_request_took_more_than_was_put_aside_they_go_one_by_one(cache):
    class Grows(Replay):
        under_way, most = 0, 0

        async def handle_async_request(self, request):
            self.under_way += 1
            self.most = max(self.most, self.under_way) if len(self.bodies) > 24 else 0
            for _ in range(3):
                await asyncio.sleep(0)
            self.under_way -= 1
            return await super().handle_async_request(request)

    most, grown = most_tokens_in(prompt("00")) + 16, []

    def grows(body):
        grown.append(1 if len(grown) < 10 else most + 10 * len(grown))
        return counting(grown[-1], 1)(body)

    account, replay = Account(Budget(tokens=30_000)), Grows(grows)
    ask(cache, replay, [prompt(f"{number:02}") for number in range(90)], budget=account, where=endpoint(in_flight=8))
    assert replay.most == 1 and account.stopped and 29_000 < account.spent.tokens <= 30_010
    unlimited = Grows(lambda body: counting(most * len(unlimited.bodies), 1)(body))
    ask(cache, unlimited, [prompt(f"{number:02} ") for number in range(90)], where=endpoint(in_flight=8))
    assert unlimited.most > 4


def test_a_template_that_adds_more_than_thought_is_reckoned_with(cache):
    replay, account = Replay(counting(1000, 1)), Account(Budget(tokens=5500))
    ask(cache, replay, prompts(20), budget=account, where=endpoint(in_flight=1))
    assert account.spent.tokens == len(replay.bodies) * 1001 <= 5500


@pytest.mark.parametrize("wrong", [{"tokens": -1}, {"money": -0.1}, {"money": float("nan")}, {"money": float("inf")}])
def test_a_budget_is_a_number(wrong):
    with pytest.raises(InputError, match="should be zero or more"):
        Budget(**wrong)


def test_a_budget_in_money_needs_prices_of_an_endpoint_elsewhere(cache):
    far = endpoint(url="https://api.example.com/v1", allow=True)
    with pytest.raises(InputError, match="price_in"):
        ask(cache, Replay(said), [prompt()], where=far, budget=Budget(money=1.0))


# secrets and texts


def test_a_secret_is_sent_and_nowhere_else(cache, monkeypatch, caplog, tmp_path):
    monkeypatch.setenv("STUB_KEY", SECRET)
    caplog.set_level(logging.DEBUG)
    with stub(key=SECRET, fault=lambda number, body: Fault(500, {}, error(f"{SECRET} {TEXT}")) if number == 0
              else None) as server:
        known = endpoint(url=server.url, key="STUB_KEY")
        outcomes = ask_all(known, [prompt()], cache, clock=Time().clock())
        client = Client(known, cache)
        shown = [repr(each) for each in (outcomes, known, client, vars(client), vars(client._wire))]
        asyncio.run(client.close())
        monkeypatch.setenv("STUB_KEY", "another")
        with pytest.raises(InputError) as caught:
            ask_all(known, [prompt("other")], cache)
    assert f"Bearer {SECRET}" in server.heads[0]
    kept = b"".join(path.read_bytes() for path in tmp_path.iterdir())
    for place in [*shown, caplog.text, str(caught.value), kept.decode("latin-1")]:
        assert SECRET not in place and TEXT not in place


def test_no_proxy_and_no_netrc_gets_texts(cache, monkeypatch, tmp_path):
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login me password other")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    with stub() as server, stub() as proxy:
        for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
            monkeypatch.setenv(name, proxy.url)
            monkeypatch.setenv(name.lower(), proxy.url)
        monkeypatch.delenv("NO_PROXY", raising=False)
        assert isinstance(ask_all(endpoint(url=server.url), [prompt()], cache)[0], Reply)
    assert proxy.number == 0 and "authorization" not in server.heads[0].lower()


# over real connections


def test_storms_and_broken_connections_are_survived(cache):
    faults = [Fault(429, {"retry-after": "0.05"}), Fault(500), Fault(how="drop"), HALF,
              Fault(503, {"retry-after-ms": "5"}), Fault(502, content=b"<html>"), Fault(how="drop"), Fault(429)]

    def fault(number, body):
        return faults[number // 3 % 8] if number % 3 == 1 else None

    with stub(answer=lambda body: body["messages"][-1]["content"], fault=fault) as server:
        where = endpoint(url=server.url, in_flight=8, retries=50)
        outcomes = ask_all(where, prompts(300), cache, clock=Clock(chance=lambda: 0.01))
    assert [outcome.text for outcome in outcomes] == [f"{TEXT} {number}" for number in range(300)]
    assert server.counted.most <= 8 and server.counted.refused > 100
    assert set(server.delivered.values()) == {1}


@pytest.mark.parametrize("how", ["hang", "trickle"])
def test_an_endpoint_that_hangs_is_given_up(cache, how):
    slow = Fault(content=b"x" * 100_000, how=how)
    with stub(fault=lambda number, body: slow if number else None) as server:
        where = endpoint(url=server.url, timeout_s=0.1, retries=2, in_flight=1)
        first, second = ask_all(where, prompts(2), cache, clock=Time().clock())
        assert isinstance(first, Reply) and second.kind == "timeout" and server.number == 4
        with pytest.raises(InputError, match=r"no answer within 0.1 s"):
            ask_all(where, [prompt("new")], cache, clock=Time().clock())


def test_tls_is_checked_and_an_authority_of_this_machine_trusted(cache, tmp_path, monkeypatch):
    key, name = ec.generate_private_key(ec.SECP256R1()), x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "stub")])
    today = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key()).serial_number(1)
        .not_valid_before(today - datetime.timedelta(1)).not_valid_after(today + datetime.timedelta(1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), False)
        .add_extension(x509.BasicConstraints(True, None), True).sign(key, hashes.SHA256()))
    pem = certificate.public_bytes(serialization.Encoding.PEM)
    own, authority = tmp_path / "server.pem", tmp_path / "authority.pem"
    own.write_bytes(pem + key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()))
    authority.write_bytes(pem)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(own)
    with stub(tls=context) as server:
        assert server.url.startswith("https://")
        with pytest.raises(InputError, match="its certificate is not trusted"):
            ask_all(endpoint(url=server.url), [prompt()], cache, clock=Time().clock())
        monkeypatch.setenv("SSL_CERT_FILE", str(authority))
        assert all(isinstance(each, Reply) for each in ask_all(endpoint(url=server.url), prompts(20), cache))


def test_nobody_there_is_said(cache):
    with stub() as server:
        pass
    with pytest.raises(InputError, match="refuses the connection"):
        ask_all(endpoint(url=server.url), prompts(50), cache, clock=Time().clock())


def test_connections_are_used_again_and_no_more_than_may(cache):
    with stub(latency=0.002) as server:
        ask_all(endpoint(url=server.url, in_flight=5), prompts(200), cache)
        assert server.counted.most == 5


KILLED = """
import sys
from pathlib import Path
from serving.llm.cache import Cache
from serving.llm.client import ask_all
from serving.llm.settings import Endpoint, read_settings
from tests.test_llm_client import prompts

with Cache(Path(sys.argv[1])) as cache:
    where = Endpoint(name="stub", url=sys.argv[2], model="m", in_flight=8)
    ask_all(where, prompts(400), cache, told=lambda place, outcome: print(place, flush=True))
"""


def test_a_kill_loses_no_answer_and_none_that_came_is_asked_again(tmp_path):
    path = tmp_path / "llm.db"
    with stub_process(latency=0.01) as server:
        command = [sys.executable, "-c", KILLED, str(path), server.url]
        for until in (20, 60):
            with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as asking:
                told = [int(asking.stdout.readline()) for _ in range(until)]
                asking.kill()
                told += [int(line) for line in asking.stdout.read().splitlines() if line.isdigit()]
        before = server.counts()
        with Cache(path) as cache:
            where = endpoint(url=server.url, in_flight=8)
            kept = cache.get_many([key_of(where, each) for each in prompts(400)])
            assert {key_of(where, prompts(400)[place]) for place in told} <= set(kept)
            spent = []
            outcomes = ask_all(where, prompts(400), cache, spent=spent.append)
        after = server.counts()
    assert all(isinstance(outcome, Reply) for outcome in outcomes)
    assert spent[0].cached == len(kept) and spent[0].asked == 400 - len(kept)
    assert sum(count - 1 for count in after.asked.values()) <= 2 * 8  # what was under way at the two kills
    assert sum(before.delivered.values()) - len(kept) <= 2 * 8


def test_ctrl_c_ends_it_and_keeps_what_came(cache):
    class Stop(BaseException):
        pass

    def tell(place, outcome):
        if place == 5:
            raise Stop

    replay = Replay(said)
    with pytest.raises(Stop):
        ask(cache, replay, prompts(100), told=tell, where=endpoint(in_flight=1))
    assert replay.closed
    kept = cache.get_many([key_of(endpoint(), each) for each in prompts(100)])
    assert 6 <= len(kept) <= 8


def test_an_error_waits_for_the_answers_that_are_under_way_and_keeps_them(cache):
    told = []
    with stub(latency=0.2, fault=lambda number, body: Fault(405) if 20 <= number < 23 else None) as server:
        with pytest.raises(InputError, match="405"):
            ask_all(endpoint(url=server.url, in_flight=8), prompts(60), cache,
                    told=lambda place, outcome: told.append(place))
        assert 20 < server.delivered.total() == server.number - 3 < 40
    kept = cache.get_many([key_of(endpoint(url=server.url), each) for each in prompts(60)])
    assert len(kept) == server.delivered.total() and len(told) == len(kept) + 2


INTERRUPTED = """
import sys
from pathlib import Path
from serving.llm.cache import Cache
from serving.llm.client import ask_all
from serving.llm.settings import Endpoint
from tests.test_llm_client import prompts

with Cache(Path(sys.argv[1])) as cache:
    where = Endpoint(name="stub", url=sys.argv[2], model="m", in_flight=8, timeout_s=60)
    try:
        ask_all(where, prompts(400), cache, told=lambda place, outcome: print(place, flush=True))
    except KeyboardInterrupt:
        print("interrupted", flush=True)
"""


@pytest.mark.parametrize("hangs", [False, True])
def test_ctrl_c_waits_for_what_is_under_way_and_a_second_one_does_not(tmp_path, hangs):
    path = tmp_path / "llm.db"

    def fault(number, body):
        return Fault(how="hang") if hangs and number == 60 else None

    with stub(latency=0.3, fault=fault) as server:
        command = [sys.executable, "-c", INTERRUPTED, str(path), server.url]
        with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as asking:
            told = [asking.stdout.readline() for _ in range(20)]
            while hangs and server.number <= 60:
                time.sleep(0.01)
            asking.send_signal(signal.SIGINT)
            if hangs:
                time.sleep(1.0)
                assert asking.poll() is None
                asking.send_signal(signal.SIGINT)
            told += asking.stdout.read().splitlines()
        assert asking.returncode == 0 and told.pop() == "interrupted"
        with Cache(path) as cache:
            kept = cache.get_many([key_of(endpoint(url=server.url), each) for each in prompts(400)])
        assert len(told) == len(kept) == server.delivered.total() < 100


def test_a_session_remembers_what_it_learned(cache):
    with stub(logprobs=False, latency=0.005) as server, Session(cache, clock=Time().clock()) as session:
        where, spent = endpoint(url=server.url), []
        for batch in range(3):
            outcomes = session.ask_all(where, [prompt(f"{batch} {number}", logprobs=True) for number in range(20)],
                                       spent=spent.append)
            assert all(isinstance(outcome, Reply) for outcome in outcomes)
        assert server.counted.refused == 1 and [usage.asked for usage in spent] == [20] * 3
        assert server.connections == 4
        server.key = "another"
        with pytest.raises(InputError, match="need a key"):
            session.ask_all(where, prompts(20))
        server.key = None
        assert session.ask_all(where, prompts(20))[0].text == "ham"
        assert session.ask_all(where, prompts(20), spent=spent.append)[0].cached and spent[-1].cached == 20


def test_a_session_whose_connections_broke_meanwhile_goes_on(cache):
    with stub() as server, Session(cache) as session:
        where = endpoint(url=server.url, retries=0, in_flight=16)
        for batch in range(3):
            asked = [prompt(f"{batch} {number}") for number in range(40)]
            assert all(isinstance(outcome, Reply) for outcome in session.ask_all(where, asked))
            server.disconnect()


def test_what_another_process_was_answered_meanwhile_is_not_asked(tmp_path):
    path, spent = tmp_path / "llm.db", []
    with Cache(path) as cache, Cache(path) as other:
        keys = {key_of(endpoint(), each): Reply("spam") for each in prompts(100)[60:]}
        replay = Replay(said)
        outcomes = ask(cache, replay, prompts(100), spent=spent.append,
                       told=lambda place, outcome: other.put_many(keys) if place == 10 else None)
        assert [outcome.text for outcome in outcomes] == ["ham"] * 60 + ["spam"] * 40
        assert len(replay.bodies) == spent[0].asked == 60 and spent[0].cached == 40
        assert all(outcome.cached for outcome in outcomes[60:])


def test_two_processes_seldom_ask_the_same(tmp_path):
    path = tmp_path / "llm.db"
    with stub(latency=0.05) as server:
        command = [sys.executable, "-c", KILLED, str(path), server.url]
        running = [subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL) for _ in range(2)]
        assert [process.wait() for process in running] == [0, 0]
        assert len(server.asked) == 400 and server.asked.total() < 480


# the client of a running service


def test_a_service_asks_in_its_own_loop(cache):
    async def run():
        replay = Replay(said, (405, {}))
        client = Client(endpoint(), cache, transport=replay, clock=Time().clock())
        key = key_of(endpoint(), prompt())
        reply = await client.fetch(key, prompt())
        assert cache.get(key).text == reply.text == "ham" and not reply.cached
        assert client.again(reply).cached
        found = await asyncio.gather(*(client.fetch(bytes([place]), prompt(str(place))) for place in range(8)),
                                     return_exceptions=True)
        assert sum(isinstance(each, InputError) for each in found) == 6
        assert (client.usage.asked, client.usage.cached, client.usage.failed) == (9, 1, {"server": 2})
        await client.close()
        assert replay.closed

    asyncio.run(run())


def test_a_full_disk_stops_the_asking(cache, monkeypatch):
    def full(replies):
        raise InputError("llm.db cannot be written: disk full")

    monkeypatch.setattr(cache, "put_many", full)
    replay = Replay(said)
    with pytest.raises(InputError, match="disk full"):
        ask(cache, replay, prompts(100))
    assert len(replay.bodies) <= 1 + 2 * 4  # those under way, and as many that began while the write failed


# the cache


REPLY = Reply("spam", "length", "no", (Token("sp", -0.1), Token("am", -2.0)), 7, 2)


def test_the_cache_gives_back_what_was_put(tmp_path):
    path = tmp_path / "llm.db"
    with Cache(path) as cache, Cache(path) as other:
        cache.put_many({b"a": REPLY})
        assert other.get(b"a") == Reply("spam", "length", "no", REPLY.tokens, 7, 2, cached=True)
        other.put_many({b"b": Reply("b")})
        assert {key: reply.text for key, reply in cache.get_many([b"a", b"b", b"c"] * 4000).items()} == {
            b"a": "spam", b"b": "b"}
        assert cache.get(b"c") is None and cache.get_many([]) == {}
        cache.put_refused({b"r": Failed("rejected", "why")})
        assert other.refused([b"a", b"r"]) == {b"r": Failed("rejected", "why")} and other.get(b"r") is None
        assert {stat.S_IMODE(file.stat().st_mode) for file in tmp_path.glob("llm.db*") if "lock" not in file.name} == {
            0o600}


def test_a_file_that_is_no_cache_is_refused(tmp_path):
    path = tmp_path / "llm.db"
    path.write_bytes(b"no database at all, but long enough to look at" * 10)
    with pytest.raises(InputError, match="damaged"):
        Cache(path)
    with pytest.raises(InputError, match="cannot be opened"):
        Cache(tmp_path / "missing" / "llm.db")
    path.unlink()
    with closing(sqlite3.connect(path)) as other:
        other.execute("PRAGMA user_version = 9")
    with pytest.raises(InputError, match="format 9"):
        Cache(path)
    path.unlink()
    with closing(sqlite3.connect(path)) as other:
        other.execute("CREATE TABLE answers (x)")
    with Cache(path) as cache, pytest.raises(InputError, match="damaged"):
        cache.get(b"a")


def test_a_file_that_is_damaged_is_said_when_it_is_read(tmp_path):
    path = tmp_path / "llm.db"
    with Cache(path) as cache:
        cache.put_many({bytes([number]): Reply("x" * 1000) for number in range(200)})
    content = bytearray(path.read_bytes())
    content[8192:] = b"Z" * (len(content) - 8192)
    path.write_bytes(content)
    with Cache(path) as cache:
        for look in (lambda: cache.get(b"\x99"), lambda: cache.get_many([bytes([each]) for each in range(200)])):
            with pytest.raises(InputError, match=r"llm.db, .* is damaged .* Move it away") as caught:
                look()
            assert "\n" not in str(caught.value)


@pytest.mark.parametrize("row", ["[1,2", "[]", '["ham","stop",null,[],"x",1]', "[[[", '["ham","stop",null,[[1]],1,1]',
                                 b"\xff\xfe", "7"])
def test_a_row_that_cannot_be_read_is_asked_again_and_mended(cache, row):
    key = key_of(endpoint(), prompt())
    cache.put_many({key: Reply("spam"), b"other": Reply("ham")})
    cache._writer.execute("UPDATE answers SET reply = ? WHERE key = ?", (row, key))
    assert cache.get(key) is None and set(cache.get_many([key, b"other"])) == {b"other"}
    replay = Replay(said)
    assert [ask(cache, replay, [prompt()])[0].text for _ in range(2)] == ["ham"] * 2 and len(replay.bodies) == 1


def test_a_file_that_another_holds_and_a_disk_that_is_full_are_named(cache, monkeypatch):
    monkeypatch.setattr("serving.llm.cache.WAIT_S", 0.05)
    path = cache.path
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with Cache(path) as second:
            assert second.get(b"a") is None and second.get_many([b"a"]) == {}  # who reads waits for nobody
            with pytest.raises(InputError, match="held by another process"):
                second.put_many({b"a": REPLY})
        other.execute("ROLLBACK")
        assert cache.get(b"a") is None
    pages = cache._writer.execute("PRAGMA page_count").fetchone()[0]
    cache._writer.execute(f"PRAGMA max_page_count = {pages}")
    with pytest.raises(InputError, match="the disk is full"):
        ask(cache, Replay(lambda body: said(body, "long " * 10_000)), prompts(20))


def test_who_looks_up_waits_for_no_writer(cache):
    cache.put_many({b"a": REPLY})
    with closing(sqlite3.connect(cache.path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        writing = threading.Thread(target=cache.put_many, args=({b"b": REPLY},))
        writing.start()
        time.sleep(0.05)
        began = time.perf_counter()
        assert cache.get(b"a") and cache.get_many([b"a", b"b"]) and time.perf_counter() - began < 1.0
        assert writing.is_alive()
        other.execute("ROLLBACK")
        writing.join()
    assert cache.get(b"b")


def test_several_processes_share_a_cache(tmp_path):
    path = tmp_path / "llm.db"
    code = ("import sys; from pathlib import Path; from serving.llm.cache import Cache; from serving.llm.exchange "
            "import Reply\nwith Cache(Path(sys.argv[1])) as cache:\n for number in range(200): "
            "cache.put_many({bytes([number, int(sys.argv[2])]): Reply(str(number))})")
    running = [subprocess.Popen([sys.executable, "-c", code, str(path), str(number)], cwd=ROOT) for number in range(3)]
    assert [process.wait() for process in running] == [0, 0, 0]
    with Cache(path) as cache:
        assert len(cache.get_many([bytes([a, b]) for a in range(200) for b in range(3)])) == 600


# settings


@pytest.mark.parametrize("url", [
    "http://127.0.0.1:99999/v1", "http://127.0.0.1:x/v1", "http://127.0.0.1:0/v1", "http://[::1/v1", "http://a..b/v1",
    "http://a b/v1", "http://ü.de/v1", "http://xn--/v1", "ftp://a/v1", "http://me:secret@a/v1", "http:///v1",
    "http://a/v1?x=1",
])
def test_a_url_that_is_none_is_refused_in_one_line(tmp_path, url):
    (tmp_path / "llm.toml").write_text(f'[endpoints.near]\nurl = "{url}"\nmodel = "m"\n', encoding="utf-8")
    with pytest.raises(InputError, match="url") as caught:
        read_settings(tmp_path / "llm.toml")
    assert "\n" not in str(caught.value) and "secret" not in str(caught.value)


def test_usages_add_up():
    total = Usage(1, 2, {"server": 1}, 3, 4, 0.5, 1.0) + Usage(1, 0, {"server": 1, "budget": 2}, 1, 1, 0.25, 2.0)
    assert total == Usage(2, 2, {"server": 2, "budget": 2}, 4, 5, 0.75, 3.0)
    assert total - Usage(1, 0, {"budget": 2}, 1, 1, 0.25, 2.0) == Usage(1, 2, {"server": 2}, 3, 4, 0.5, 1.0)
