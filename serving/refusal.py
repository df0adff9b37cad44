"""A request that the service refuses: one error format, with a status, and never the text of an item."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from pydantic import BaseModel, ValidationError

from training.errors import InputError

SHOWN = 80  # characters of a key that a client sent and that an error names


class Detail(BaseModel):
    """What went wrong. type: a word for programs. where: the place in the body, as `items.3.spans.0`."""

    type: str
    message: str
    where: str | None


class Error(BaseModel):
    """The body of every answer that is an error."""

    error: Detail


class Refusal(InputError):
    """A request at fault, or one that cannot be served now. where: None where it is the whole body.

    headers: those that the answer has beside the usual ones, as Retry-After.
    """

    def __init__(self, kind: str, message: str, where: str | None = None, status: int = 400,
                 headers: Mapping[str, str] = MappingProxyType({})):
        super().__init__(message)
        self.kind, self.message, self.where, self.status, self.headers = kind, message, where, status, headers

    def body(self) -> Error:
        """`{"error": {"type", "message", "where"}}`."""
        return Error(error=Detail(type=self.kind, message=self.message, where=self.where))


def refusal_of(error: ValidationError) -> Refusal:
    """The first thing wrong with a body. What the client sent is not repeated, but for the names of keys."""
    first: Any = error.errors(include_url=False, include_input=False)[0]
    where = ".".join(str(part)[:SHOWN] for part in first["loc"]) or None
    match first["type"]:
        case "too_long" | "string_too_long" if first["loc"][-1] in ("items", "text"):
            what = "items in one request" if first["type"] == "too_long" else "characters in a text"
            return Refusal("too_large", f"at most {first['ctx']['max_length']:,} {what}", where, 413)
        case "too_short" | "string_too_short":
            return Refusal("invalid_request", f"should have at least {first['ctx']['min_length']}", where)
        case "tuple_type":
            return Refusal("invalid_request", "should be a list", where)
        case "dict_type" | "model_type":
            return Refusal("invalid_request", "should be an object", where)
        case "extra_forbidden":
            return Refusal("invalid_request", "unknown key", where)
        case "missing":
            return Refusal("invalid_request", "the key is missing", where)
        case "value_error":
            return Refusal("invalid_request", str(first["ctx"]["error"]), where)
        case _:
            return Refusal("invalid_request", first["msg"], where)
