"""The OpenAPI document: FastAPI's own routes, and the hot ones, which it does not see."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

from fastapi import FastAPI

from producer.gateway import predict
from producer.gateway.oip import routes as oip

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
    {"name": "jobs", "description": "Whole datasets."},
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
}
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
            _complete(operation, "ProtocolError" if path.startswith("/v2") else "Error")
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


def _complete(operation: dict[str, Any], error: str) -> None:
    """Replace FastAPI's own error by ours."""
    responses = operation.setdefault("responses", {})
    responses.pop("422", None)
    schema = {"$ref": f"#/components/schemas/{error}"}
    responses.setdefault("default", {
        "description": "What went wrong", "content": {"application/json": {"schema": schema}},
    })
