"""What the service takes and gives. JSON bodies are read into frozen models that refuse unknown keys."""

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

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

if TYPE_CHECKING:
    from serving.config import Limits  # it brings what a client need not load

MAX_ID = 256  # characters of an id
ID = r"^[^\u0000-\u001f\u007f-\u009f\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\uffff]+$"
"""What an id may hold: it stands in logs and on one line, so nothing that controls, turns or hides what is shown."""

SOMETHING = r"[^\s\u001c-\u001f\u0085\ufeff]"
"""What a text has to hold; the same set in Python and in ECMAScript, which disagree on what white space is."""

_ID, _SOMETHING = re.compile(ID), re.compile(SOMETHING)


def _printable(value: str) -> str:
    if not _ID.fullmatch(value):
        raise ValueError("an id should have printable characters only")
    return value


def _not_blank(value: str) -> str:
    if not _SOMETHING.search(value):
        raise ValueError("the text should have something in it. Found only white space, or nothing")
    return value


def _class(value: Any) -> int | str | None:
    if isinstance(value, float) and value.is_integer():
        value = int(value)  # JSON knows one kind of numbers
    if isinstance(value, bool) or not isinstance(value, int | str | None):
        raise ValueError("a class should be its name, its index, or null")
    return value


Id = Annotated[str, Field(min_length=1, max_length=MAX_ID, json_schema_extra={"pattern": ID}),
               AfterValidator(_printable)]
Text = Annotated[str, Field(json_schema_extra={"pattern": SOMETHING}), AfterValidator(_not_blank)]
ClassRef = Annotated[
    int | str | None,
    PlainValidator(_class),
    WithJsonSchema({"anyOf": [{"type": "string"}, {"type": "integer"}, {"type": "null"}],
                    "description": "A class's name or its index; null or -1: none"}),
]
Offset = Annotated[int, Field(strict=True, ge=0)]
Probability = Annotated[float, Field(ge=0, le=1)]
Chance = Annotated[float, Field(gt=0, le=1)]
Chosen = Literal["all", "random", "risk", "whim", "unknown"]
Decision = Literal["accept", "ask again", "review"]


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

    items: Annotated[tuple[Item, ...], Field(min_length=1)]


class CorrectRequest(ScoreRequest):
    """The body of `POST /correct`."""


class ExplainRequest(_Frozen):
    """The body of `POST /explain`."""

    item: Item


class ForgetRequest(_Frozen):
    """The body of `POST /forget`: the id of an item, or a score_id."""

    id: Id


class FeedbackRequest(_Frozen):
    """The body of `POST /feedback`: the correct class of a score, or of every score of an item.

    chosen: how it came to be checked: every answer of its time was; a random share, with a known `probability`; by its
    risk alone, with a known probability or without; by a reviewer's whim. Without it, it counts as unknown, and no
    estimate over all answers goes by it. withdrawn: what this reviewer said before counts no more, whatever the label.
    """

    score_id: Id | None = None
    id: Id | None = None
    label: ClassRef
    chosen: Chosen = "unknown"
    probability: Chance | None = None
    withdrawn: Annotated[bool, Field(strict=True)] = False

    @model_validator(mode="after")
    def _says_how_it_was_chosen(self) -> "FeedbackRequest":
        if self.chosen == "random" and self.probability is None:
            raise ValueError("feedback on a random share should say with which probability an answer was in it")
        if self.probability is not None and self.chosen not in ("random", "risk") and (
                self.chosen, self.probability) != ("all", 1):
            raise ValueError("a probability should come with chosen: random or risk. "
                             f"Found {self.chosen}")
        return self

    @model_validator(mode="after")
    def _names_one(self) -> "FeedbackRequest":
        if (self.score_id is None) == (self.id is None):
            raise ValueError("feedback should name either a score_id or an id. "
                             f"Found {'neither' if self.id is None else 'both'}")
        return self


class Policy(_Frozen):
    """Where decisions change. Risks up to `accept` are accepted, null: none is; risks from `review` on are reviewed.

    basis: where `accept` comes from, `guarantee`, `configured` or `risk` (`serving.policy`). alpha: the error rate
    among the accepted that is promised with `confidence`; without confidence, the one that is expected.
    """

    accept: Probability | None
    review: Probability
    basis: Literal["guarantee", "configured", "risk"]
    alpha: Probability | None
    confidence: Probability | None


class Score(_Frozen):
    """One item's score. risk: the probability that the answer is wrong, null without an answer.

    decision: what to do with the answer, by the policy of `version`, which scored it.
    """

    score_id: str
    id: str | None
    risk: Probability | None
    decision: Decision
    probabilities: dict[str, float]
    answer: str | None
    harmonizer_answer: str
    votes_used: bool
    version: str


class SecondPolicy(_Frozen):
    """The policy of the second version, which answers some of the items."""

    version: str
    policy: Policy


class ScoreResponse(_Frozen):
    """The answer of `POST /score`: one score an item, in the order of the items.

    policy: that of `version`. beside: that of the second version, where one answers a share of the items.
    """

    scores: list[Score]
    model: str
    version: str
    policy: Policy
    beside: SecondPolicy | None = None


class Corrected(Score):
    """One item's score after the LLM was asked again, if it was: that of the answer that is kept.

    risk, probabilities: by the text, the votes and, where there are two, both answers of the LLM. way: how it was
    asked, null where it was not. first_answer, new_answer: the LLM's, null where it gave none. first_risk: what
    `/score` says of the first, before the second is known; new_risk: of the new one, both being known. kept: the new
    one replaced the first or did not. abstained: why there is no new answer, null where there is one or nobody was
    asked.
    """

    asked: bool
    way: Literal["explain", "reask"] | None
    first_answer: str | None
    first_risk: Probability | None
    new_answer: str | None
    new_risk: Probability | None
    kept: Literal["first", "new"]
    abstained: str | None


class Took(_Frozen):
    """What the questions of a request took. cached: replies that were known. money: by the prices of the endpoint."""

    cached: int
    tokens_in: int
    tokens_out: int
    money: float


class CorrectResponse(_Frozen):
    """The answer of `POST /correct`: one score an item, in the order of the items.

    asked: of how many items the LLM was asked again; changed: how many new answers replaced the first; abstained: by
    reason, how often there was no new answer. margin: how many times as probable as the first a new answer has to be to
    replace it. policy, beside: as of `/score`.
    """

    scores: list[Corrected]
    model: str
    version: str
    policy: Policy
    beside: SecondPolicy | None = None
    asked: int
    changed: int
    abstained: dict[str, int]
    margin: float
    took: Took


class Said(_Frozen):
    """What one source says of an answer, the LLM among them.

    agrees: with the LLM's answer, null without one. accuracy: how often such a vote of it is believed to be right.
    counts_as: how many independent votes this one counts as, at most 1. log_odds: what it adds for the favoured class
    against its rival. evidence: what its votes rest on, in words.
    """

    source: str
    family: str
    vote: str
    agrees: bool | None
    accuracy: Probability
    counts_as: float
    log_odds: float
    evidence: str


class ExplainResponse(_Frozen):
    """The answer of `POST /explain`: why an answer has its risk. Nothing is kept of it.

    label_free_risk: before `checked_answers` answers recalibrated it. harmonizer_answer: by the text alone.
    favoured: the LLM's answer, or without one the most probable class; rival: the most probable of the others.
    log_odds: of the two, the sum of text_log_odds and those of the votes. abstained: how many sources did not vote.
    """

    id: str | None
    risk: Probability | None
    decision: Decision
    answer: str | None
    label_free_risk: Probability | None
    checked_answers: int
    harmonizer_answer: str
    harmonizer_probability: Probability
    probabilities: dict[str, float]
    favoured: str
    rival: str
    log_odds: float
    text_log_odds: float
    votes: list[Said]
    abstained: int
    in_words: str
    model: str
    version: str
    policy: Policy


class FeedbackResponse(_Frozen):
    """The answer of `POST /feedback`: how many scores now have this label."""

    labelled: int


class ForgetResponse(_Frozen):
    """The answer of `POST /forget`: how many scores, labels and vectors of texts were erased.

    all_vectors: of some score neither text nor hash was kept, so that every vector went.
    """

    scores: int
    labels: int
    vectors: int
    all_vectors: bool


class Following(_Frozen):
    """How the service stands to the registry's log. production: the version in production, null if there is none.

    reason: why that is not the one that it serves, null where it is.
    """

    production: str | None
    serving: str
    reason: str | None


class Beside(_Frozen):
    """A second version beside the first. version: its number, null while there is none.

    percent: of the items that it answers; 0: none, it scores all of them in the dark. reason: why there is none, or
    why it is not the one that should be there; null if all is well.
    """

    version: str | None
    percent: float
    reason: str | None


class Version(_Frozen):
    """The answer of `GET /version`. digest: SHA-256 over the version's files. device: where it scores.

    precision: of the arithmetic. pack_tokens: how many tokens it scores in one pass.
    signed_by: the key that signed the files, null if they are not signed. trusted: whether this machine trusts it;
    a key that only came with the files shows a changed byte, and not that everything was replaced.
    following: null unless the service follows the registry. beside: null unless a second version is wanted.
    """

    model: str
    version: str
    digest: str
    device: str
    precision: str
    pack_tokens: int
    classes: list[str]
    sources: list[str]
    entities: int
    policy: Policy
    signed_by: str | None
    trusted: bool
    following: Following | None
    beside: Beside | None


Request = TypeVar("Request", ScoreRequest, CorrectRequest, FeedbackRequest, ExplainRequest, ForgetRequest)


def read(body: bytes, kind: type[Request], limits: "Limits") -> Request:
    """A body as the request that it should be.

    Raises:
        Refusal: no JSON (NaN and half a surrogate pair are none), a key that is missing, unknown or wrong, ids that
            occur twice, more items or a longer text than the limits allow.
    """
    try:
        content = pydantic_core.from_json(body, allow_inf_nan=False, cache_strings="keys")
    except ValueError as error:
        raise Refusal("invalid_json", f"the body is not JSON: {error}") from None
    if issubclass(kind, ScoreRequest) and isinstance(content, dict):
        _refuse_many(content.get("items"), limits.items)
    try:
        request = kind.model_validate(content)
    except ValidationError as error:
        raise refusal_of(error) from None
    if isinstance(request, ScoreRequest):
        check(request.items, limits)
    elif isinstance(request, ExplainRequest):
        _refuse_long(request.item, limits.text, "item.text")
    return request


def check(items: Sequence[Item], limits: "Limits") -> None:
    """Refuse what is right only one by one.

    Raises:
        Refusal: a text longer than the limits allow, or an id that occurs twice.
    """
    seen: dict[str, int] = {}
    for place, item in enumerate(items):
        _refuse_long(item, limits.text, f"items.{place}.text")
        if item.id is not None and seen.setdefault(item.id, place) != place:
            raise Refusal("duplicate_id", f"the id is that of items.{seen[item.id]} too. "
                          "Ids of one request should be distinct", f"items.{place}.id")


def _refuse_many(items: Any, most: int) -> None:
    if isinstance(items, list) and len(items) > most:
        raise Refusal("too_large", f"at most {most:,} items in one request. Found {len(items):,}", "items", 413)


def _refuse_long(item: Item, most: int, where: str) -> None:
    if len(item.text) > most:
        raise Refusal("too_large", f"at most {most:,} characters in a text. Found {len(item.text):,}", where, 413)
