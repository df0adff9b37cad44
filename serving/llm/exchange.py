"""What goes to an LLM and what comes back, as plain values. Pure."""

from dataclasses import dataclass
from typing import Literal

Role = Literal["system", "user", "assistant"]
FailureKind = Literal["too_long", "rejected", "malformed", "timeout", "server", "budget"]
"""Why there is no reply: the prompt is beyond the context; the server refuses it; what it sends is no completion;
it takes too long; it fails, breaks off or is overloaded, however often it is tried; the budget is spent, so that
nobody asked."""


@dataclass(frozen=True)
class Message:
    """One message of a conversation."""

    role: Role
    content: str


@dataclass(frozen=True)
class Prompt:
    """One question. logprobs: ask for the probabilities of the reply's tokens.

    sample: its number among those of equal content; different samples are different questions, and are kept apart.
    """

    messages: tuple[Message, ...]
    temperature: float = 0.0
    max_tokens: int = 16
    logprobs: bool = False
    sample: int = 0


@dataclass(frozen=True)
class Token:
    """A token of a reply, and the natural logarithm of its probability."""

    text: str
    logprob: float


@dataclass(frozen=True)
class Reply:
    """What the LLM said. finish: why it ended, `stop`, `length` or `content_filter` as the server says.

    refusal: what it says where it refuses in a field of its own. tokens: empty where the server offers none.
    tokens_in, tokens_out: what it took; estimated where the server does not count. cached: kept from before, so that
    nobody was asked.
    """

    text: str
    finish: str = "stop"
    refusal: str | None = None
    tokens: tuple[Token, ...] = ()
    tokens_in: int = 0
    tokens_out: int = 0
    cached: bool = False


@dataclass(frozen=True)
class Failed:
    """Why there is no reply. detail: in words; neither text nor secret is in it."""

    kind: FailureKind
    detail: str


Outcome = Reply | Failed
