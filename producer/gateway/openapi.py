"""The OpenAPI page: FastAPI's own routes, and the hot ones, which it does not see."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI

from producer.gateway import predict
from producer.gateway.oip import routes as oip

HOT_PATHS: dict[str, Any] = {**predict.OPENAPI, **oip.OPENAPI}
"""Path items of the routes that are answered without FastAPI."""


def document(app: FastAPI) -> dict[str, Any]:
    """FastAPI's document with the hot routes in front."""
    made = FastAPI.openapi(app)
    made["paths"] = {**HOT_PATHS, **made["paths"]}
    return made
