"""What the service says of itself: its OpenAPI description, and a page to read it."""

import json
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from serving import schema
from serving.config import Limits
from serving.examples import Examples
from serving.refusal import Error
from training.sources import class_codes
from training.task import ABSTAIN

REF = "#/components/schemas/{model}"
JSON, LINES, PLAIN = "application/json", "application/x-ndjson", "text/plain"

PAGE = """<!DOCTYPE html>
<html lang="en">
<head><meta charset="utf-8"><title>polarscore</title>
<link rel="stylesheet" href="./static_content/swagger-ui.css"></head>
<body><div id="swagger-ui"></div>
<script src="./static_content/swagger-ui-bundle.js"></script>
<script>SwaggerUIBundle({url: "./docs.json", dom_id: "#swagger-ui"})</script>
</body></html>
"""

ABOUT = "The risk that an LLM's answer is wrong, learned without labelled data. Every error is " \
        '`{"error": {"type", "message", "where"}}`.'

ERRORS: dict[int, tuple[str, str, str, str | None]] = {
    400: ("The body is at fault: not JSON, or something in it cannot be taken", "invalid_request",
          "the key is missing", "items.0.answer"),
    401: ("An API key is needed, or this one is unknown, expired or revoked", "unauthorized",
          "send an API key, as Authorization: Bearer KEY", None),
    403: ("The API key lacks the scope", "forbidden", "this needs a key with the scope score", None),
    404: ("Nothing of that id is kept", "unknown_id", "feedback names the id 'a17', of which no score is kept", "id"),
    405: ("The path has another method", "method_not_allowed", "use POST", None),
    409: ("The service asks no LLM again: its configuration names none", "not_configured",
          "this service asks no LLM again. Its configuration names the LLM's endpoint under [correction]", None),
    408: ("The body takes too long to come", "too_slow", "the body should be sent within 30 seconds", None),
    413: ("The body, a text or the number of items is too large", "too_large", "at most 1,000 items in one request",
          "items"),
    415: ("The body is compressed, or of another kind", "unsupported_encoding", "send the body without compression",
          None),
    429: ("Too many requests", "too_many_requests", "at most 600 a minute. Try again in 30 s", None),
    500: ("The service failed", "internal", "the service failed; its log says where", None),
    503: ("Too much to do, or nothing can be kept: nothing was, try again later", "overloaded",
          "more than 2 seconds of work are waiting; try again later", None),
}
"""By status: what it means, and an example's type, message and place."""

WAIT = {"Retry-After": {"description": "Seconds to wait", "schema": {"type": "integer", "minimum": 0}}}
ASKING = (400, 401, 403, 405, 408, 413, 415, 429, 500, 503)
READING = (401, 403, 405, 429, 500, 503)
BODIES: tuple[type[BaseModel], ...] = (
    schema.ScoreRequest, schema.ScoreResponse, schema.CorrectRequest, schema.CorrectResponse, schema.FeedbackRequest,
    schema.FeedbackResponse, schema.ExplainRequest, schema.ExplainResponse, schema.ForgetRequest,
    schema.ForgetResponse, schema.Version, Error)


def openapi(
    version: schema.Version, limits: Limits | None = None, keys: bool = True, corrected: int = 50
) -> dict[str, Any]:
    """The OpenAPI 3.1 description of the service that runs this version: with its classes, sources and limits.

    keys: whether every client needs one; if not, clients on the same machine need none. corrected: items of a request
    to correct.
    """
    example = Examples(version)
    item, score = example.item(), example.score()
    posts = {
        "/score": _post("Score answers of the LLM", "score", keys, ASKING,
                        _body(schema.ScoreRequest, {"items": [item]}) | _lines(schema.Item, item, example.item("a18")),
                        _body(schema.ScoreResponse, example.scores()) | _lines(schema.Score, score)),
        "/correct": _post("Score answers, have the LLM answer again where that is worth it, keep the better answer",
                          "correct", keys, (*ASKING, 409), _body(schema.CorrectRequest, {"items": [item]}),
                          _body(schema.CorrectResponse, example.corrections())),
        "/explain": _post("Say why an answer has its risk; nothing is kept", "score", keys, ASKING,
                          _body(schema.ExplainRequest, {"item": item}),
                          _body(schema.ExplainResponse, example.explanation())),
        "/feedback": _post("Say what the correct class was", "feedback", keys, (*ASKING, 404),
                           _body(schema.FeedbackRequest, example.feedback()),
                           _body(schema.FeedbackResponse, {"labelled": 1})),
        "/forget": _post("Erase what is kept of an item", "admin", keys, (*ASKING, 404),
                         _body(schema.ForgetRequest, {"id": "a17"}),
                         _body(schema.ForgetResponse, {"scores": 1, "labels": 1, "vectors": 1, "all_vectors": False})),
    }
    gets = {
        "/version": _get("The version that scores here, and its policy", "read", keys,
                         _body(schema.Version, example.version())),
        "/metrics": _get("Prometheus metrics", "read", keys, {PLAIN: {"schema": {"type": "string"}}}),
        "/livez": _probe("Is the process alive?"),
        "/readyz": _probe("Can it score?"),
    }
    _, schemas = models_json_schema([(model, "validation") for model in BODIES], ref_template=REF)
    return {
        "openapi": "3.1.0",
        "info": {"title": f"polarscore: {version.model}", "version": version.version, "description": ABOUT},
        "servers": [{"url": "."}],
        "paths": {path: {"post": post} for path, post in posts.items()} | {
            path: {"get": get} for path, get in gets.items()},
        "components": {
            "schemas": _fitted(schemas["$defs"], version, limits or Limits(), corrected),
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer", "description": "An API key"}},
        },
    }


def _fitted(schemas: dict[str, Any], version: schema.Version, limits: Limits, corrected: int) -> dict[str, Any]:
    """The schemas of the bodies, with what only this version and its configuration know."""
    codes = class_codes(version.classes)
    label = {"description": "A class's name or its index", "enum": _names_first(version, [
        name for name, code in codes.items() if code != ABSTAIN])}
    answer = {"description": "A class's name or its index; null or -1: none", "enum": _names_first(version, codes)}
    item = schemas["Item"]["properties"]
    item["text"] |= {"minLength": 1, "maxLength": limits.text}
    item["spans"] |= {"minItems": version.entities, "maxItems": version.entities}
    item["answer"] = answer
    item["votes"] = {"type": "object", "title": "Votes", "default": {}, "additionalProperties": False,
                     "description": "By source; one that is not named abstains",
                     "properties": {source: answer for source in version.sources}}
    if version.entities:
        schemas["Item"]["required"].append("spans")
    schemas["ScoreRequest"]["properties"]["items"]["maxItems"] = limits.items
    schemas["CorrectRequest"]["properties"]["items"]["maxItems"] = min(corrected, limits.items)
    feedback = schemas["FeedbackRequest"]["properties"]
    feedback["label"] = label
    schemas["FeedbackRequest"]["oneOf"] = [
        {"required": [one], "properties": {one: {"type": "string"}, other: {"type": "null"}}}
        for one, other in (("score_id", "id"), ("id", "score_id"))]
    schemas["FeedbackRequest"]["anyOf"] = [
        {"properties": {"probability": {"type": "null"}, "chosen": {"enum": ["all", "whim", "risk", "unknown"]}}},
        {"required": ["chosen", "probability"],
         "properties": {"probability": {"type": "number"}, "chosen": {"enum": ["random", "risk"]}}}]
    return schemas


def _names_first(version: schema.Version, forms: Any) -> list[Any]:
    return [*version.classes, *(form for form in forms if form not in version.classes)]


def _post(
    summary: str, scope: str, keys: bool, errors: tuple[int, ...], takes: dict[str, Any], gives: dict[str, Any]
) -> dict[str, Any]:
    return {"summary": summary, "security": _security(scope, keys), "requestBody": {"required": True, "content": takes},
            "responses": _responses(gives, errors)}


def _get(summary: str, scope: str, keys: bool, gives: dict[str, Any]) -> dict[str, Any]:
    return {"summary": summary, "security": _security(scope, keys), "responses": _responses(gives, READING)}


def _probe(summary: str) -> dict[str, Any]:
    return {"summary": summary, "security": [], "responses": {
        "200": {"description": "Yes"}, "405": _error(405), "503": {"description": "No"}}}


def _security(scope: str, keys: bool) -> list[dict[str, list[str]]]:
    return [{"key": [scope]}, *([] if keys else [{}])]


def _responses(gives: dict[str, Any], errors: tuple[int, ...]) -> dict[str, Any]:
    return {"200": {"description": "Done", "content": gives}} | {str(code): _error(code) for code in sorted(errors)}


def _error(status: int) -> dict[str, Any]:
    what, kind, message, where = ERRORS[status]
    headers = {"headers": WAIT} if status in (429, 503) else {}
    return {"description": what, **headers,
            "content": _body(Error, {"error": {"type": kind, "message": message, "where": where}})}


def _body(model: type[BaseModel], example: Mapping[str, Any]) -> dict[str, Any]:
    return {JSON: {"schema": {"$ref": REF.format(model=model.__name__)}, "example": example}}


def _lines(model: type[BaseModel], *examples: Mapping[str, Any]) -> dict[str, Any]:
    """JSON Lines, which OpenAPI 3.1 can only call a string."""
    return {LINES: {"schema": {"type": "string", "contentMediaType": LINES, "description":
                               f"One {model.__name__} a line, or an Error with the number of the line at fault"},
                    "example": "".join(json.dumps(each, ensure_ascii=False) + "\n" for each in examples)}}
