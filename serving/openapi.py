"""What the service says of itself: its OpenAPI description, and a page to read it."""

from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from serving.refusal import Error
from serving.schema import FeedbackRequest, FeedbackResponse, ScoreRequest, ScoreResponse, Version

REF = "#/components/schemas/{model}"

PAGE = """<!DOCTYPE html>
<html lang="en">
<head><meta charset="utf-8"><title>polarscore</title>
<link rel="stylesheet" href="./static_content/swagger-ui.css"></head>
<body><div id="swagger-ui"></div>
<script src="./static_content/swagger-ui-bundle.js"></script>
<script>SwaggerUIBundle({url: "./docs.json", dom_id: "#swagger-ui"})</script>
</body></html>
"""

ERRORS = {
    400: "The body is at fault: not JSON, or an item that cannot be scored",
    404: "No score of that id is kept",
    413: "The body, a text or the number of items is too large",
    415: "The body is compressed",
    500: "The service failed",
    503: "The prediction store is away: nothing was kept",
}


def openapi(version: Version) -> dict[str, Any]:
    """The OpenAPI 3.1 description of the service that runs this version."""
    models: list[type[BaseModel]] = [ScoreRequest, ScoreResponse, FeedbackRequest, FeedbackResponse, Version, Error]
    _, schemas = models_json_schema([(model, "validation") for model in models], ref_template=REF)
    return {
        "openapi": "3.1.0",
        "info": {"title": f"polarscore: {version.model}", "version": version.version,
                 "description": "The risk that an LLM's answer is wrong, learned without labelled data."},
        "servers": [{"url": "."}],
        "paths": {
            "/score": {"post": _post("Score answers of the LLM", ScoreRequest, ScoreResponse, _score_example(version),
                                     400, 413, 415, 500, 503)},
            "/feedback": {"post": _post("Say what the correct class was", FeedbackRequest, FeedbackResponse,
                                        {"id": "a17", "label": version.classes[0]}, 400, 404, 413, 415, 500, 503)},
            "/version": {"get": {"summary": "The version that scores here", "responses": _responses(Version)}},
        } | {path: {"get": {"summary": summary, "responses": {"200": {"description": "yes"}}}} for path, summary in (
            ("/livez", "Is the process alive?"), ("/readyz", "Can it score?"), ("/metrics", "Prometheus metrics"))},
        "components": {"schemas": schemas["$defs"]},
    }


def _score_example(version: Version) -> dict[str, Any]:
    item: dict[str, Any] = {"id": "a17", "text": "A text that the LLM was asked about", "answer": version.classes[0]}
    if version.entities:
        item["spans"] = [[0, 6]] * version.entities
    if version.sources:
        item["votes"] = {version.sources[0]: version.classes[-1]}
    return {"items": [item]}


def _post(
    summary: str, takes: type[BaseModel], gives: type[BaseModel], example: dict[str, Any], *errors: int
) -> dict[str, Any]:
    content = {"application/json": {"schema": _ref(takes), "example": example}}
    return {"summary": summary, "requestBody": {"required": True, "content": content},
            "responses": _responses(gives, *errors)}


def _responses(gives: type[BaseModel], *errors: int) -> dict[str, Any]:
    def response(description: str, model: type[BaseModel]) -> dict[str, Any]:
        return {"description": description, "content": {"application/json": {"schema": _ref(model)}}}

    return {"200": response("Done", gives)} | {str(code): response(ERRORS[code], Error) for code in errors}


def _ref(model: type[BaseModel]) -> dict[str, str]:
    return {"$ref": REF.format(model=model.__name__)}
