import math

import pytest

from serving.llm.cache import Cache
from serving.llm.client import ask_all
from serving.llm.exchange import Failed, Message, Prompt, Reply
from serving.llm.settings import Endpoint
from tests.llm_servers import smollm_server  # noqa: F401 - a fixture

pytestmark = pytest.mark.slow


def prompt(text, **settings):
    return Prompt((Message("system", "Answer with one word: spam or ham."), Message("user", text)), **settings)


@pytest.fixture
def endpoint(smollm_server):  # noqa: F811
    return Endpoint(name="smol", url=smollm_server, model="smollm2", in_flight=2, timeout_s=300)


@pytest.fixture
def cache(tmp_path):
    with Cache(tmp_path / "llm.db") as opened:
        yield opened


def test_a_real_llm_answers_with_log_probabilities_and_once(endpoint, cache):
    prompts = [prompt(f"Subscribe to my channel, {name}!", logprobs=True, max_tokens=4) for name in ("Ann", "Bob")]
    spent = []
    replies = ask_all(endpoint, prompts, cache, spent=spent.append)
    for reply in replies:
        assert isinstance(reply, Reply)
        assert reply.text == "".join(token.text for token in reply.tokens)
        assert 1 <= len(reply.tokens) <= 4
        assert all(math.isfinite(token.logprob) and token.logprob <= 0 for token in reply.tokens)
        assert reply.tokens_in > 10 and reply.tokens_out >= len(reply.tokens) and reply.finish in ("stop", "length")
    assert (spent[0].asked, spent[0].tokens_in) == (2, sum(reply.tokens_in for reply in replies))
    again = ask_all(endpoint, prompts, cache, spent=spent.append)
    assert all(reply.cached for reply in again) and spent[1].asked == 0
    assert [reply.tokens for reply in again] == [reply.tokens for reply in replies]


def test_a_prompt_beyond_the_context_is_told_from_others(endpoint, cache):
    outcomes = ask_all(endpoint, [prompt("word " * 6000), prompt("Hello", max_tokens=2)], cache)
    assert isinstance(outcomes[0], Failed) and outcomes[0].kind == "too_long" and "word" not in outcomes[0].detail
    assert isinstance(outcomes[1], Reply)


def test_samples_differ_by_their_number_and_can_be_had_again(endpoint, cache, tmp_path):
    samples = [prompt("Tell me a story.", temperature=1.5, max_tokens=6, sample=number) for number in range(3)]
    replies = ask_all(endpoint, samples, cache)
    assert len({reply.text for reply in replies}) > 1
    with Cache(tmp_path / "other.db") as other:
        again = ask_all(endpoint.model_copy(update={"in_flight": 1}), samples[:1], other)
    assert isinstance(again[0], Reply) and again[0].text
