"""Bodies: read within bounds, decoded without surprises.

The size is bounded before a byte is read (``Content-Length``) and while reading (chunks). JSON is
decoded by msgspec, which takes neither NaN nor a number out of range.
"""

from __future__ import annotations

import re
import time
from typing import Any, TypeVar

import msgspec

from celeriac import errors
from producer.gateway.context import Gateway, RequestContext
from producer.gateway.disconnects import Disconnected
from producer.gateway.failures import BUSY_RETRY_S, GatewayBusy, UnsupportedBody, fault
from producer.gateway.malformed import reason
from producer.gateway.nesting import check_nesting

T = TypeVar("T")

BODIES_AT_ONCE = 32
"""Bodies of full size that may be held at the same time; of smaller ones so many more."""

_OF_CURL = b"application/x-www-form-urlencoded"
_IMAGES = b"\x89PNG", b"\xff\xd8\xff", b"GIF8", b"RIFF"
"""How files of the kinds that are read begin."""
_FIELD = re.compile(r"(?:unknown|missing required) field `([^`]{1,64})`")


async def read(
    gateway: Gateway, context: RequestContext, *, is_json: bool = True, is_item: bool = False
) -> bytes:
    """The whole body; of JSON less is taken than of others, and of what is one item as a whole.

    Raises PayloadTooLarge, GatewayBusy, UnsupportedBody (compressed), and Disconnected. One that
    does not come in time ends the request with BodyTimeout.
    """
    limits = gateway.limits
    limit = min(limits.max_json_bytes, limits.max_body_bytes) if is_json else limits.max_body_bytes
    if is_item:  # it travels as base64
        limit = min(limit, gateway.settings.realtime.max_item_bytes * 3 // 4)
    _check_head(context, limit)
    whole = context.direct.body() if context.direct is not None else None
    if whole is not None:
        return _all(gateway, context, whole, limit)
    began_s = time.monotonic()
    message = await _next(context)
    chunk: bytes = message.get("body", b"")
    if not message.get("more_body"):
        context.body_s = time.monotonic() - began_s
        return _all(gateway, context, chunk, limit)
    chunks, size = [chunk], len(chunk)
    _hold(gateway, context, size)
    while message.get("more_body"):
        message = await _next(context)
        chunk = message.get("body", b"")
        size += len(chunk)
        if size > limit:
            raise too_large(limit)
        _hold(gateway, context, len(chunk))
        chunks.append(chunk)
    context.body_is_read = True
    context.body_s = time.monotonic() - began_s
    return b"".join(chunks)


def check_kind(kind: bytes, data: bytes) -> None:
    """Where an image may come instead, JSON must not be called something else, nor an image JSON.
    What curl calls the body of ``-d`` is taken as JSON, as by all other routes. Raises
    UnsupportedBody.
    """
    if data.startswith(_IMAGES):
        raise UnsupportedBody(
            "the body is an image: say so by its type, as in Content-Type: image/png"
        )
    if kind and b"json" not in kind and not kind.startswith(_OF_CURL):
        named = kind.decode("latin-1")[:64]
        raise UnsupportedBody(
            "send JSON (Content-Type: application/json), or one image (image/png, image/jpeg); "
            f"found {named}"
        )


def _all(gateway: Gateway, context: RequestContext, body: bytes, limit: int) -> bytes:
    """A body that came in one piece. Raises PayloadTooLarge, GatewayBusy."""
    context.body_is_read = True
    if len(body) > limit:
        raise too_large(limit)
    _hold(gateway, context, len(body))
    return body


def check_json(gateway: Gateway, data: bytes) -> None:
    """What must hold of JSON before it is decoded. Raises PayloadTooLarge and RequestError."""
    if len(data) > gateway.limits.max_json_bytes:
        raise too_large(gateway.limits.max_json_bytes)
    check_nesting(data, gateway.limits.max_depth)


def decode(gateway: Gateway, data: bytes, decoder: msgspec.json.Decoder[T]) -> T:
    """A JSON body as what ``decoder`` reads. Raises RequestError, which names the field."""
    if not data:
        raise errors.RequestError("the body is empty; it must be JSON")
    check_json(gateway, data)
    try:
        return decoder.decode(data)
    except msgspec.ValidationError as error:
        raise not_valid(error) from error
    except (msgspec.DecodeError, UnicodeError, RecursionError, ValueError) as error:
        raise errors.RequestError(f"the body is not valid JSON: {reason(data, error)}") from error


def not_valid(error: msgspec.ValidationError) -> errors.RequestError:
    """What msgspec says, with the field at fault: ``... - at `$.items[3]```."""
    text, at, path = str(error).partition(" - at `$")
    named = _FIELD.search(text)
    if not at and not named:
        return errors.RequestError(f"the body does not fit: {text}")
    field = ".".join(filter(None, [path.rstrip("`").lstrip("."), named[1] if named else ""]))
    return fault(f"{field}: {text}", field)


def too_large(limit: int) -> errors.PayloadTooLarge:
    return errors.PayloadTooLarge(
        f"more than {limit:,} bytes ([gateway] max_body_bytes, of JSON max_json_bytes, of an image "
        "three quarters of [realtime] max_item_bytes): send fewer items at once or binary tensors "
        "(/v2), or score large data as a dataset"
    )


def _hold(gateway: Gateway, context: RequestContext, size: int) -> None:
    """Count what a body takes until its request ends. Raises GatewayBusy."""
    context.body_bytes += size
    gateway.body_bytes += size
    if gateway.body_bytes > BODIES_AT_ONCE * gateway.limits.max_body_bytes:
        raise GatewayBusy(
            "the bodies that are under way take as much memory as they may "
            f"({BODIES_AT_ONCE} times [gateway] max_body_bytes); try again soon", BUSY_RETRY_S,
        )


def _check_head(context: RequestContext, limit: int) -> None:
    headers = context.headers
    length = headers.get(b"content-length")
    if length is not None and not length.isdigit():
        raise fault("Content-Length is a whole number", "Content-Length")
    if length is not None and (len(length) > 15 or int(length) > limit):
        raise too_large(limit)
    if b"transfer-encoding" in headers and context.header(b"transfer-encoding") != "chunked":
        raise UnsupportedBody(
            "of the transfer codings only chunked is read here; send the body uncompressed"
        )
    encoding = headers.get(b"content-encoding")
    if encoding is not None and encoding.strip().lower() not in (b"", b"identity"):
        raise UnsupportedBody("compressed bodies are not read here; send it as it is")


async def _next(context: RequestContext) -> Any:
    message = await context.receive()  # the request's watch ends a wait that is too long
    if message["type"] == "http.disconnect":
        raise Disconnected
    return message
