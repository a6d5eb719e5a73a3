"""What the routes that FastAPI answers have in common: the two contexts, and ways to answer."""

from __future__ import annotations

from typing import Any

import msgspec
from fastapi import Request
from fastapi.responses import Response

from producer.gateway.context import Answer, Gateway, RequestContext

_encode = msgspec.json.Encoder().encode


def contexts(request: Request) -> tuple[Gateway, RequestContext]:
    """The gateway's own things, and the request's."""
    return request.app.state.gateway, request.scope["celeriac"]


def json_response(value: Any, status_code: int = 200) -> Response:
    """``value`` as JSON; NaN and Infinity become null."""
    return response_of(Answer(status_code, _encode(value)))


def response_of(answer: Answer) -> Response:
    """What a hot handler would return, as FastAPI wants it."""
    response = Response(answer.body, answer.status)
    response.raw_headers.extend(answer.headers)
    return response
