"""The OpenAPI document: FastAPI's own routes, and the hot ones, which it does not see."""

from __future__ import annotations

import re
from copy import deepcopy
from typing import Any

from fastapi import FastAPI

from producer.gateway import predict
from producer.gateway.auth import is_open
from producer.gateway.oip import routes as oip
from producer.gateway.predict import PROBABILITY

_ITEM_PATHS = {"/v1/predictions/{id}", "/v1/feedback", "/v1/reviews/sentiment"}
"""Other routes whose bodies hold items."""
HOT_PATHS: dict[str, Any] = {**predict.OPENAPI, **oip.OPENAPI}
"""Path items of the routes that are answered without FastAPI."""

ABOUT = """\
Predictions of registered models, one by one or as whole datasets.

**Keys.** `Authorization: Bearer KEY` or `X-API-Key: KEY`, where the gateway has keys.

**Time.** `X-Request-Timeout-Ms` says how long you will wait; the work is dropped everywhere once
that is over.

**Errors** are `{"error": {"code", "message", "field"?, "request_id"}}` with a stable `code`; under
`/v2` they are the protocol's `{"error": "message"}`. 429 and 503 say in `Retry-After` after how
many seconds there should be room.

**Every answer** has `X-Request-Id` (yours, if you sent a good one), which the logs know; those of
predictions also have `X-Model-Version`, `X-Cache`, `X-Batch-Size` and `Server-Timing`.
"""
TAGS = [
    {"name": "predictions", "description": "The answer at once."},
    {"name": "asynchronous predictions", "description": "The answer later; never lost."},
    {"name": "labels", "description": "The truth, once somebody knows it."},
    {"name": "jobs", "description": "Whole datasets."},
    {"name": "reviews", "description": "How reviews sound, one by one and by product."},
    {"name": "sensors", "description": "Readings, their anomalies and alarms."},
    {"name": "models", "description": "What there is to ask."},
    {"name": "Open Inference Protocol", "description": "For clients of Triton, KServe, MLServer."},
    {"name": "operation", "description": "For the operator."},
    {"name": "health", "description": "For balancers and supervisors."},
]
SCHEMAS: dict[str, Any] = {
    "Error": {
        "type": "object", "required": ["error"], "properties": {"error": {
            "type": "object", "required": ["code", "message", "request_id"],
            "properties": {
                "code": {"type": "string", "example": "model_not_found"},
                "message": {"type": "string"},
                "field": {"type": "string", "description": "The part that is at fault"},
                "request_id": {"type": "string"},
            },
        }},
    },
    "ProtocolError": {
        "type": "object", "required": ["error"], "properties": {"error": {"type": "string"}},
    },
    "Predictions": {
        "type": "object", "required": ["model", "version", "predictions"],
        "additionalProperties": False, "properties": {
            "model": {"type": "string"}, "version": {"type": ["integer", "null"]},
            "predictions": {"type": "array", "items": {"anyOf": [
                {"$ref": "#/components/schemas/Prediction"},
                {"$ref": "#/components/schemas/ItemError"},
            ]}},
        },
    },
    "Prediction": {
        "type": "object", "required": ["model", "version"], "additionalProperties": False,
        "description": "Of a classifier label and probability, of any other model value",
        "properties": {
            "model": {"type": "string"}, "version": {"type": "integer"}, "label": {},
            "probability": PROBABILITY, "value": {},
            "id": {"type": "string", "description": "With `Prefer: prediction-id`"},
        },
    },
    "ItemError": {
        "type": "object", "required": ["error"], "properties": {"error": {
            "type": "object", "required": ["code", "message"],
            "properties": {"code": {"type": "string"}, "message": {"type": "string"}},
        }},
    },
}
_NAME = "[a-z0-9]([a-z0-9_-]{0,62}[a-z0-9])?"
_VERSION = "[1-9][0-9]{0,8}|[a-z][a-z0-9_-]{0,62}"
PATH_PARAMETERS: dict[str, dict[str, Any]] = {
    "name": {"pattern": f"^{_NAME}$", "description": "A model's name", "example": "reviews"},
    "version": {
        "pattern": f"^({_VERSION})$", "description": "A number or an alias", "example": "1"
    },
    "reference": {
        "pattern": f"^{_NAME}(@({_VERSION}))?$", "example": "reviews",
        "description": "NAME, NAME@VERSION or NAME@ALIAS",
    },
}
"""Of models."""
TIMEOUT = {
    "name": "X-Request-Timeout-Ms", "in": "header",
    "schema": {"type": "integer", "minimum": 1, "maximum": 999_999_999_999},
    "description": "How long you will wait, in milliseconds",
}
REFUSALS = {
    "400": "The request is not valid; `field` says where, if that is known",
    "404": "There is no such model or version, or nothing with this id",
    "409": "The id or the Idempotency-Key is that of another request",
    "413": "The body, or an item of it, is too large, or there are too many items",
    "415": "The body is compressed, or of another type",
    "422": "An item does not fit the model",
}
"""Statuses of errors by what a request asks for."""
OTHERS = (
    "Any other error. 401, 403: no good API key, or one that does not allow this, or "
    "a page of elsewhere in a browser; 429: too much waits, or the key has used up its rate; 503: "
    "Redis cannot be reached, or the gateway is busy; 504: the request's time was over. 429 and "
    "503 have `Retry-After`"
)
SECURITY = {
    "bearer": {"type": "http", "scheme": "bearer"},
    "header": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
}


def document(app: FastAPI, hot_paths: dict[str, Any]) -> dict[str, Any]:
    """FastAPI's document with the hot routes in front, errors, keys and an introduction."""
    made = deepcopy(FastAPI.openapi(app))
    paths: dict[str, Any] = {path: dict(item) for path, item in deepcopy(hot_paths).items()}
    for path, item in made["paths"].items():
        paths[path] = paths.get(path, {}) | item
    for path, item in paths.items():
        for operation in item.values():
            _complete(path, operation)
    components = made.setdefault("components", {})
    schemas = components.setdefault("schemas", {})
    for unused in ("HTTPValidationError", "ValidationError"):
        schemas.pop(unused, None)
    schemas.update(SCHEMAS)
    components["securitySchemes"] = SECURITY
    used = {tag for item in paths.values() for operation in item.values()
            for tag in operation.get("tags", ())}
    return made | {
        "info": made["info"] | {"description": ABOUT},
        "paths": paths,
        "security": [{}, {"bearer": []}, {"header": []}],
        "tags": [tag for tag in TAGS if tag["name"] in used],
    }


def _complete(path: str, operation: dict[str, Any]) -> None:
    """Replace FastAPI's own error by ours, and say what it cannot know of paths and headers."""
    responses = operation.setdefault("responses", {})
    responses.pop("422", None)
    for status in _refusals(path, operation):
        responses.setdefault(status, {"description": REFUSALS[status]})
    responses.setdefault("default", {"description": OTHERS})
    error = "ProtocolError" if path.startswith("/v2") else "Error"
    content = {"application/json": {"schema": {"$ref": f"#/components/schemas/{error}"}}}
    for status, response in responses.items():
        if not status.startswith("2"):
            response.setdefault("content", content)
    named = {parameter["name"]: parameter for parameter in operation.get("parameters", ())}
    for name in re.findall(r"{(\w+)}", path):
        described = _path_parameter(path, name)
        named[name] = described or named[name]
    if not is_open(path):
        named[TIMEOUT["name"]] = TIMEOUT
    operation["parameters"] = list(named.values())


def _refusals(path: str, operation: dict[str, Any]) -> set[str]:
    """Statuses of the errors that an operation may answer with."""
    if is_open(path):
        return set()
    found = {"400"}
    if "{" in path:
        found.add("404")
    if "requestBody" in operation:
        found.update(("413", "415"))
        if path in HOT_PATHS or path in _ITEM_PATHS:
            found.update(("404", "422"))
    if "202" in operation["responses"]:
        found.add("409")
    return found


def _path_parameter(path: str, name: str) -> dict[str, Any] | None:
    """Of a model; None for any other."""
    if "/models/" not in path:
        return None
    kind = name
    if name == "model":
        kind = "name" if path.startswith("/v2") else "reference"
    known = dict(PATH_PARAMETERS[kind])
    schema = {"type": "string", "pattern": known.pop("pattern")}
    return {"name": name, "in": "path", "required": True, "schema": schema, **known}
