"""The protocol of OpenAI's chat completions, as its many servers speak it: requests made, and replies read. Pure."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from serving.llm.exchange import Prompt, Reply, Token

PATH = "/chat/completions"
LONGEST_FINISH = 40
SLIGHTLY = 1e-3  # above 0 a log-probability may be, by rounding
BYTES_A_TOKEN = 3  # about, where a server does not count
AROUND_ALL, AROUND_EACH = 64, 16  # tokens that a server's template puts around a conversation and each message, at most


@dataclass(frozen=True)
class Answered:
    """What a server sent. headers: whatever their case. content: None where it is too long, or packed."""

    status: int
    headers: Mapping[str, str]
    content: bytes | None


@dataclass(frozen=True)
class Lost:
    """No answer came, or half of one. away: there was no connection. detail: in words; nothing of the request."""

    kind: Literal["away", "timeout", "cut"]
    detail: str


@dataclass(frozen=True)
class Dialect:
    """What a server understands. logprobs, seed, temperature: it takes these fields. completion_tokens: it limits an
    answer by `max_completion_tokens`, not `max_tokens`."""

    logprobs: bool = True
    seed: bool = True
    temperature: bool = True
    completion_tokens: bool = False


def body_of(model: str, prompt: Prompt, dialect: Dialect) -> bytes:
    """The body of the request for a prompt. A sample's number is its seed where chance has a part in the answer."""
    body: dict[str, Any] = {
        "model": model,
        "messages": [{"role": message.role, "content": message.content} for message in prompt.messages],
        "max_completion_tokens" if dialect.completion_tokens else "max_tokens": prompt.max_tokens,
    }
    if dialect.temperature:
        body["temperature"] = prompt.temperature
    if dialect.logprobs and prompt.logprobs:
        body |= {"logprobs": True, "top_logprobs": 1}
    if dialect.seed and prompt.temperature > 0:
        body["seed"] = prompt.sample
    return json.dumps(body).encode()


def most_tokens_in(prompt: Prompt) -> int:
    """More tokens than the prompt can be: no token is less than a byte long."""
    return _bytes(prompt) + AROUND_EACH * len(prompt.messages) + AROUND_ALL


def reply_of(content: bytes, prompt: Prompt) -> Reply | None:
    """The reply in the body of an answer; None: it is no completion."""
    try:
        body = json.loads(content)
        choice = body["choices"][0]
        message = choice["message"]
        text, refusal = _text(message.get("content")), message.get("refusal")
    except (ValueError, RecursionError, LookupError, TypeError, AttributeError):
        return None
    if text is None:
        return None
    usage = body.get("usage")
    finish = choice.get("finish_reason")
    return Reply(
        text=text,
        finish=_clean(finish) if isinstance(finish, str) and 0 < len(finish) <= LONGEST_FINISH else "stop",
        refusal=_clean(refusal) if isinstance(refusal, str) and refusal else None,
        tokens=_tokens(choice.get("logprobs")) if prompt.logprobs else (),
        tokens_in=_count(usage, "prompt_tokens", -(-_bytes(prompt) // BYTES_A_TOKEN)),
        tokens_out=_count(usage, "completion_tokens", min(prompt.max_tokens, -(-len(text.encode()) // BYTES_A_TOKEN))),
    )


def is_cut(content: bytes) -> bool:
    """Whether a body begins as an object of JSON that does not end: the rest did not come."""
    begins = content.decode(errors="replace").lstrip()
    if not begins.startswith("{"):
        return False
    try:
        json.JSONDecoder().raw_decode(begins)
    except (ValueError, RecursionError):
        return True
    return False


def _bytes(prompt: Prompt) -> int:
    return sum(len(message.content.encode(errors="surrogatepass")) for message in prompt.messages)


def _clean(text: str) -> str:
    """A text that UTF-8 can hold."""
    return text.encode(errors="replace").decode()


def _text(content: Any) -> str | None:
    """The text of a message: a string, parts of which some are text, or nothing; None: something else."""
    if content is None:
        return ""
    if isinstance(content, list):
        parts = [part["text"] for part in content if part.get("type", "text") == "text"]
        content = "".join(parts)
    return _clean(content) if isinstance(content, str) else None


def _tokens(logprobs: Any) -> tuple[Token, ...]:
    """The tokens of a reply, in either form that servers give them; none where one of them is not whole."""
    try:
        if "content" in logprobs:
            pairs = [(token["token"], token["logprob"]) for token in logprobs["content"]]
        else:
            pairs = list(zip(logprobs["tokens"], logprobs["token_logprobs"], strict=True))
        found = tuple(Token(_clean(text), float(logprob)) for text, logprob in pairs)
    except (LookupError, TypeError, ValueError, AttributeError, OverflowError):
        return ()
    return found if all(math.isfinite(token.logprob) and token.logprob <= SLIGHTLY for token in found) else ()


def _count(usage: Any, name: str, otherwise: int) -> int:
    found = usage.get(name) if isinstance(usage, Mapping) else None
    return found if isinstance(found, int) and not isinstance(found, bool) and 0 <= found < 2**40 else otherwise
