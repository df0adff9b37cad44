"""What the service takes and gives. JSON bodies are read into frozen models that refuse unknown keys."""

from typing import Annotated, Any, TypeVar

import pydantic_core
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    PlainValidator,
    ValidationError,
    WithJsonSchema,
    model_validator,
)

from serving.refusal import Refusal, refusal_of

MAX_TEXT = 100_000  # characters of a text
MAX_ITEMS = 1_000  # items of a request
MAX_ID = 256  # characters of an id
MAX_BODY = 32 * 2**20  # bytes of a body


def _printable(value: str) -> str:
    if not value.isprintable():
        raise ValueError("an id should have printable characters only")
    return value


def _not_blank(value: str) -> str:
    if not value.strip():
        raise ValueError("the text should have something in it. Found only white space, or nothing")
    return value


def _class(value: Any) -> int | str | None:
    if isinstance(value, bool) or not isinstance(value, int | str | None):
        raise ValueError("a class should be its name, its index, or null")
    return value


Id = Annotated[str, Field(min_length=1, max_length=MAX_ID), AfterValidator(_printable)]
Text = Annotated[str, Field(max_length=MAX_TEXT), AfterValidator(_not_blank)]
ClassRef = Annotated[
    int | str | None,
    PlainValidator(_class),
    WithJsonSchema({"anyOf": [{"type": "string"}, {"type": "integer"}, {"type": "null"}],
                    "description": "A class's name or its index; null or -1: none"}),
]
Offset = Annotated[int, Field(strict=True, ge=0, le=MAX_TEXT)]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Item(_Frozen):
    """One answer of the LLM to score.

    spans: [start, end) character offsets of the entities that the task marks, in the task's order.
    answer: null or -1 where the LLM gave none. votes: by source; a source that is not named abstains.
    """

    id: Id | None = None
    text: Text
    spans: tuple[tuple[Offset, Offset], ...] = ()
    answer: ClassRef
    votes: dict[str, ClassRef] = {}

    @model_validator(mode="after")
    def _spans_lie_in_the_text(self) -> "Item":
        for number, (start, end) in enumerate(self.spans):
            if not start < end <= len(self.text):
                raise ValueError(f"span {number}, [{start}, {end}], should be two offsets, start before end, "
                                 f"inside the text of {len(self.text)} characters")
        return self


class ScoreRequest(_Frozen):
    """The body of `POST /score`."""

    items: Annotated[tuple[Item, ...], Field(min_length=1, max_length=MAX_ITEMS)]


class FeedbackRequest(_Frozen):
    """The body of `POST /feedback`: the correct class of a score, or of every score of an item."""

    score_id: Id | None = None
    id: Id | None = None
    label: ClassRef

    @model_validator(mode="after")
    def _names_one(self) -> "FeedbackRequest":
        if (self.score_id is None) == (self.id is None):
            raise ValueError("feedback should name either a score_id or an id. "
                             f"Found {'neither' if self.id is None else 'both'}")
        return self


class Score(_Frozen):
    """One item's score. risk: the probability that the answer is wrong, null without an answer."""

    score_id: str
    id: str | None
    risk: Annotated[float, Field(ge=0, le=1)] | None
    probabilities: dict[str, float]
    answer: str | None
    harmonizer_answer: str
    votes_used: bool
    version: str


class ScoreResponse(_Frozen):
    """The answer of `POST /score`: one score an item, in the order of the items."""

    scores: list[Score]
    model: str
    version: str


class FeedbackResponse(_Frozen):
    """The answer of `POST /feedback`: how many scores now have this label."""

    labelled: int


class Following(_Frozen):
    """How the service stands to the registry's log. production: the version in production, null if there is none.

    reason: why that is not the one that it serves, null where it is.
    """

    production: str | None
    serving: str
    reason: str | None


class Version(_Frozen):
    """The answer of `GET /version`. digest: SHA-256 over the version's files. device: where it scores.

    signed_by: the key that signed the files, null if they are not signed. trusted: whether this machine trusts it;
    a key that only came with the files shows a changed byte, and not that everything was replaced.
    following: null unless the service follows the registry.
    """

    model: str
    version: str
    digest: str
    device: str
    classes: list[str]
    sources: list[str]
    entities: int
    signed_by: str | None
    trusted: bool
    following: Following | None


Request = TypeVar("Request", ScoreRequest, FeedbackRequest)


def read(body: bytes, kind: type[Request]) -> Request:
    """A body as the request that it should be.

    Raises:
        Refusal: no JSON (NaN is none), a key that is missing, unknown or wrong, ids that occur twice.
    """
    try:
        content = pydantic_core.from_json(body, allow_inf_nan=False)
    except ValueError as error:
        raise Refusal("invalid_json", f"the body is not JSON: {error}") from None
    try:
        request = kind.model_validate(content)
    except ValidationError as error:
        raise refusal_of(error) from None
    if isinstance(request, ScoreRequest):
        _refuse_repeats(request.items)
    return request


def _refuse_repeats(items: tuple[Item, ...]) -> None:
    seen: dict[str, int] = {}
    for place, item in enumerate(items):
        if item.id is not None and seen.setdefault(item.id, place) != place:
            raise Refusal("duplicate_id", f"the id is that of items.{seen[item.id]} too. "
                          "Ids of one request should be distinct", f"items.{place}.id")
