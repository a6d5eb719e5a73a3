"""Errors over HTTP: which status, which body, and when to come again.

What leaves is a stable code and a message made for callers: never a path, a key, a class name or a
trace.
"""

from __future__ import annotations

import math
from http import HTTPStatus
from typing import Any

import msgspec

from celeriac import errors

_encode = msgspec.json.Encoder().encode


class Unauthenticated(errors.CeleriacError):
    """No valid API key: send `Authorization: Bearer KEY` or `X-API-Key: KEY`."""

    code = "unauthenticated"


class Forbidden(errors.CeleriacError):
    """The API key does not allow this."""

    code = "forbidden"


class OriginRefused(errors.CeleriacError):
    """A page of another site may not ask this gateway."""

    code = "origin_refused"


class RateLimited(errors.Overloaded):
    """The API key has used up its requests for now."""

    code = "rate_limited"


class GatewayBusy(errors.Overloaded):
    """The gateway has as many requests as it takes."""

    code = "gateway_busy"


class RouteNotFound(errors.RequestError):
    """There is nothing at this path; /docs shows what there is."""

    code = "not_found"


class MethodNotAllowed(errors.RequestError):
    """This path does not take this method."""

    code = "method_not_allowed"

    def __init__(self, message: str | None = None, allow: str = "") -> None:
        super().__init__(message)
        self.allow = allow


class BodyTimeout(errors.RequestError):
    """The body did not come in time."""

    code = "request_timeout"


class HeadTooLarge(errors.RequestError):
    """The request line and its headers are too long."""

    code = "head_too_large"


class UnsupportedBody(errors.RequestError):
    """The body has a type or an encoding that is not read here."""

    code = "unsupported_body"


class NoSuchRange(errors.RequestError):
    """The file has no such part."""

    code = "range_not_satisfiable"

    def __init__(self, message: str | None = None, size: int = 0) -> None:
        super().__init__(message)
        self.size = size


class NotReady(errors.CeleriacError):
    """Nobody answers for this model at the moment."""

    code = "not_ready"


STATUS = {
    "request_invalid": 400,
    "contract_mismatch": 400,
    "unauthenticated": 401,
    "forbidden": 403,
    "origin_refused": 403,
    "model_not_found": 404,
    "version_not_found": 404,
    "prediction_not_found": 404,
    "job_not_found": 404,
    "sensor_not_found": 404,
    "not_found": 404,
    "method_not_allowed": 405,
    "request_timeout": 408,
    "conflict": 409,
    "output_conflict": 409,
    "promotion_refused": 409,
    "cancelled": 409,
    "payload_too_large": 413,
    "unsupported_body": 415,
    "range_not_satisfiable": 416,
    "head_too_large": 431,
    "item_failed": 422,
    "item_invalid": 422,
    "dataset_invalid": 422,
    "file_unreadable": 422,
    "overloaded": 429,
    "rate_limited": 429,
    "broker_unavailable": 503,
    "gateway_busy": 503,
    "not_ready": 503,
    "not_served": 503,
    "resource_exhausted": 503,
    "deadline_exceeded": 504,
    "expired": 504,
}
"""By code; any other is 500."""

UNSPOKEN = frozenset({"config_invalid", "gpu_missing", "error"})
"""Codes whose messages may name what is nobody's business outside."""

BUSY_RETRY_S = 1.0
"""When to come back to a gateway that has too much under way."""
BROKER_GONE = "the queue of this service cannot be reached at the moment; try again soon"
INTERNAL = "something went wrong here; the service's log has the reason under this request id"


def fault(message: str, field: str) -> errors.RequestError:
    """A RequestError that names what is at fault: a field of the body, or a header."""
    error = errors.RequestError(message)
    error.field = field
    return error


def status_of(error: errors.CeleriacError) -> int:
    """The HTTP status of an error.

    >>> status_of(errors.ModelNotFound("no model named 'x'"))
    404
    """
    return STATUS.get(error.code, 500)


def message_of(error: errors.CeleriacError) -> str:
    """What a caller may read of an error."""
    if isinstance(error, errors.BrokerError):
        return BROKER_GONE  # its own names an address
    if error.code in UNSPOKEN:
        return INTERNAL
    return errors.without_paths(error.message) if status_of(error) >= 500 else error.message


def described(error: errors.CeleriacError) -> dict[str, Any]:
    """``{"code", "message", "field"?}``: an item's error, or the heart of a request's."""
    described = {"code": error.code, "message": message_of(error)}
    return described | {"field": error.field} if error.field else described


def broker_gone() -> errors.BrokerError:
    """The error of requests while Redis is not there."""
    return errors.BrokerError(BROKER_GONE)


def body(error: errors.CeleriacError, request_id: str, path: str) -> bytes:
    """The body of an error: the protocol's own shape under ``/v2``, ours elsewhere."""
    if path.startswith("/v2"):
        return _encode({"error": message_of(error)})
    return _encode({"error": {**described(error), "request_id": request_id}})


def headers(error: errors.CeleriacError) -> tuple[tuple[bytes, bytes], ...]:
    """``Retry-After`` (whole seconds, rounded up), ``Allow``, ``Content-Range`` and
    ``WWW-Authenticate``."""
    if isinstance(error, errors.Overloaded):
        return ((b"retry-after", b"%d" % retry_after_s(error.retry_after_s)),)
    if isinstance(error, errors.BrokerError):
        return ((b"retry-after", b"1"),)
    if isinstance(error, MethodNotAllowed) and error.allow:
        return ((b"allow", error.allow.encode("ascii")),)
    if isinstance(error, NoSuchRange):
        return ((b"content-range", b"bytes */%d" % error.size),)
    if isinstance(error, Unauthenticated):
        return ((b"www-authenticate", b'Bearer realm="celeriac"'),)
    return ()


def response(
    error: errors.CeleriacError, request_id: str, path: str, *, closes: bool = False
) -> bytes:
    """The whole response, where no application is asked; ``closes``: the connection."""
    status, content = status_of(error), body(error, request_id, path)
    named = [
        (b"content-type", b"application/json"), *headers(error),
        (b"content-length", b"%d" % len(content)), (b"x-request-id", request_id.encode("ascii")),
    ]  # fmt: skip
    if closes:
        named.append((b"connection", b"close"))
    lines = [b"HTTP/1.1 %d %s" % (status, HTTPStatus(status).phrase.encode())]
    lines += [b"%s: %s" % header for header in named]
    return b"\r\n".join([*lines, b"", content])


def retry_after_s(seconds: float) -> int:
    """Whole seconds, at least 1: nobody is asked to come before there is room.

    >>> retry_after_s(1.2)
    2
    """
    return max(1, math.ceil(seconds))
