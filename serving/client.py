"""A client of the service, in a few lines for its users. It needs neither PyTorch nor BentoML.

    with Client("http://127.0.0.1:3000", key="…") as client:
        for score in client.score([{"id": "a17", "text": "…", "answer": "positive"}]).scores:
            print(score.id, score.risk, score.decision)
"""

import json
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from types import TracebackType
from typing import Any, TypeVar

import httpx
from pydantic import BaseModel, ValidationError

from serving.refusal import Error
from serving.schema import (
    Chosen,
    CorrectResponse,
    ExplainResponse,
    FeedbackResponse,
    ForgetResponse,
    Item,
    Score,
    ScoreResponse,
    Version,
)
from training.errors import PolarscoreError

KEY = "POLARSCORE_API_KEY"
LINES = "application/x-ndjson"
BUSY = (429, 503)  # worth asking again
CORRECT_S = 150.0  # a service may give an LLM 100, and has to score
FIRST_S = 0.25  # how long to wait where the service does not say, doubling each time

Answer = TypeVar("Answer", bound=BaseModel)


class ServiceError(PolarscoreError):
    """What the service refused, in its words, or that it cannot be reached (status 0). Never holds a text.

    status: that of the answer; 200 for a line at fault in a stream. type: a word for programs. where: the place in
    what was sent, as `items.3.answer`; None where it is all of it.
    """

    def __init__(self, status: int, type: str, message: str, where: str | None = None):
        super().__init__(f"{message}{f' ({where})' if where else ''} [{type}, status {status}]")
        self.status, self.type, self.message, self.where = status, type, message, where


class Client:
    """Talks to one service. Close it, or use it in a `with`."""

    def __init__(
        self, url: str, key: str | None = None, *, timeout: float = 60.0, patience: float = 30.0,
        transport: httpx.BaseTransport | None = None, sleep: Callable[[float], None] = time.sleep,
    ):
        """Connect to nothing yet.

        key: an API key; by default what the variable POLARSCORE_API_KEY holds, if anything. timeout: seconds without
        a sign of the service; `CORRECT_S` at least where it asks an LLM. patience: seconds to wait in all, for one
        call, while the service says that it is busy. transport: how requests travel.
        """
        key = key or os.environ.get(KEY)
        headers = {"authorization": f"Bearer {key}"} if key else {}
        self._client = httpx.Client(base_url=url, headers=headers, timeout=timeout, transport=transport)
        self._timeout, self._patience, self._sleep = timeout, patience, sleep

    def score(self, items: Sequence[Item | Mapping[str, Any]]) -> ScoreResponse:
        """Score answers.

        Raises:
            ServiceError: the service refuses, fails, or cannot be reached.
        """
        return self._ask("POST", "/score", ScoreResponse, {"items": [_plain(item) for item in items]})

    def correct(self, items: Sequence[Item | Mapping[str, Any]]) -> CorrectResponse:
        """Score answers, and have the LLM answer again where that is worth it; the better answer is kept.

        It takes as long as the LLM does, by default up to 30 seconds, and at most about 100. It needs a key with the
        scope `correct`.

        Raises:
            ServiceError: the service refuses, is not set up to ask an LLM, fails, or cannot be reached.
        """
        return self._ask("POST", "/correct", CorrectResponse, {"items": [_plain(item) for item in items]},
                         timeout=max(self._timeout, CORRECT_S))

    def stream(self, items: Iterable[Item | Mapping[str, Any]], at_once: int = 256) -> Iterator[Score | ServiceError]:
        """Score any number of answers as JSON Lines: for each item in turn its score, or why it has none.

        at_once: how many items are sent in one request; `items` is read as far as that ahead.

        Raises:
            ServiceError: the service refuses a whole request, fails, or cannot be reached.
        """
        left = iter(items)
        while lines := [json.dumps(_plain(item), allow_nan=False) for item in islice(left, at_once)]:
            response = self._send("POST", "/score", content="\n".join(lines).encode(), headers={"content-type": LINES})
            found = [_line(response, line) for line in response.content.split(b"\n") if line.strip()]
            if len(found) != len(lines):
                raise next((each for each in reversed(found) if isinstance(each, ServiceError)), _strange(response))
            yield from found

    def feedback(
        self, label: str | int, *, score_id: str | None = None, id: str | None = None, chosen: Chosen | None = None,
        probability: float | None = None, withdrawn: bool = False,
    ) -> int:
        """Say what the correct class of a score was, or of every score of an item; how many scores that labels.

        chosen, probability: how it came to be checked (`serving.schema.FeedbackRequest`). withdrawn: take back what was
        said with this key.

        Raises:
            ServiceError: the service refuses, fails, or cannot be reached.
        """
        given = {"score_id": score_id, "id": id, "chosen": chosen, "probability": probability,
                 "withdrawn": withdrawn or None}
        named = {key: value for key, value in given.items() if value is not None}
        return self._ask("POST", "/feedback", FeedbackResponse, {"label": label, **named}).labelled

    def explain(self, item: Item | Mapping[str, Any]) -> ExplainResponse:
        """Why an answer has its risk.

        Raises:
            ServiceError: the service refuses, fails, or cannot be reached.
        """
        return self._ask("POST", "/explain", ExplainResponse, {"item": _plain(item)})

    def forget(self, id: str) -> ForgetResponse:
        """Erase what is kept of an item; needs a key with the scope `admin`.

        Raises:
            ServiceError: the service refuses, fails, or cannot be reached.
        """
        return self._ask("POST", "/forget", ForgetResponse, {"id": id})

    def version(self) -> Version:
        """Which version scores there, and by which policy.

        Raises:
            ServiceError: the service refuses, fails, or cannot be reached.
        """
        return self._ask("GET", "/version", Version)

    def close(self) -> None:
        """Give the connections back."""
        self._client.close()

    def __enter__(self) -> "Client":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _ask(self, method: str, path: str, gives: type[Answer], body: Any = None, **how: float) -> Answer:
        content = {} if body is None else {"content": json.dumps(body, allow_nan=False).encode(),
                                           "headers": {"content-type": "application/json"}}
        response = self._send(method, path, **content, **how)
        try:
            return gives.model_validate_json(response.content)
        except ValidationError:
            raise _strange(response) from None

    def _send(self, method: str, path: str, **content: Any) -> httpx.Response:
        """The answer, once the service is not busy any more, or patience is at an end.

        Raises:
            ServiceError: it is an error, or there is none.
        """
        waited, pause = 0.0, FIRST_S
        while True:
            try:
                response = self._client.request(method, path, **content)
            except httpx.HTTPError as error:
                raise ServiceError(0, "unreachable", f"{self._client.base_url} does not answer "
                                   f"({type(error).__name__})") from None
            if response.is_success:
                return response
            wait = max(_retry_after(response), pause)
            if response.status_code not in BUSY or waited + wait > self._patience:
                raise _error(response)
            self._sleep(wait)
            waited, pause = waited + wait, 2 * pause


def _plain(item: Item | Mapping[str, Any]) -> dict[str, Any]:
    return item.model_dump(mode="json", exclude_defaults=True) if isinstance(item, Item) else dict(item)


def _retry_after(response: httpx.Response) -> float:
    """Seconds that the service asks for; 0 where it does not, or names a date."""
    said = response.headers.get("retry-after", "")
    return float(said) if said.isascii() and said.isdecimal() else 0.0


def _line(response: httpx.Response, line: bytes) -> Score | ServiceError:
    for read in (Score, Error):
        try:
            found = read.model_validate_json(line)
        except ValidationError:
            continue
        return found if isinstance(found, Score) else ServiceError(response.status_code, **found.error.model_dump())
    raise _strange(response)


def _error(response: httpx.Response) -> ServiceError:
    try:
        return ServiceError(response.status_code, **Error.model_validate_json(response.content).error.model_dump())
    except ValidationError:
        return _strange(response)


def _strange(response: httpx.Response) -> ServiceError:
    return ServiceError(response.status_code, "unexpected", f"{response.url.copy_with(query=None)} does not answer as "
                        "polarscore's service of this version does. Is it the right address?")
