"""What the lane pops: Celery protocol-2 messages, decoded straight into envelopes."""

from __future__ import annotations

import base64
import binascii
from typing import Any

import msgspec

from celeriac import errors
from celeriac.messages import PREDICT_ENVELOPE, Envelope


class Received(msgspec.Struct, frozen=True):
    """An envelope that came in good form."""

    envelope: Envelope
    queue_ms: float
    """From the sender's publishing until now; 0 if the sender did not stamp it."""


class Misfit(msgspec.Struct, frozen=True):
    """A message that the lane cannot answer."""

    task: str
    """Name of its task; empty if the message cannot be read at all."""
    error: errors.CeleriacError
    id: str = ""
    reply_to: str = ""


class _Headers(msgspec.Struct):
    task: str = ""
    id: str = ""
    sent_ms: float | None = None


class _Properties(msgspec.Struct):
    body_encoding: str | None = None


class _Message(msgspec.Struct):
    body: str
    headers: _Headers = msgspec.field(default_factory=_Headers)
    properties: _Properties = msgspec.field(default_factory=_Properties)


_message = msgspec.json.Decoder(_Message)
_body = msgspec.json.Decoder(tuple[list[Any], Envelope, Any])


def read_message(raw: bytes, now_ms: float) -> Received | Misfit:
    """Decode one message. Never raises: what is not an envelope comes back as a misfit."""
    try:
        message = _message.decode(raw)
    except msgspec.MsgspecError as error:
        return Misfit(task="", error=errors.RequestError(f"not a Celery message: {error}"))
    headers = message.headers
    if headers.task != PREDICT_ENVELOPE:
        return Misfit(
            task=headers.task, id=headers.id,
            error=errors.RequestError(f"the task {headers.task!r} is not the lane's"),
        )
    body = b""
    try:
        body = _decoded_body(message)
        _, envelope, _ = _body.decode(body)
    except (msgspec.MsgspecError, binascii.Error, UnicodeError) as error:
        return Misfit(
            task=headers.task, id=headers.id, reply_to=_reply_address(body),
            error=errors.RequestError(f"the envelope is not well formed: {error}"),
        )
    sent_ms = headers.sent_ms
    return Received(envelope, max(0.0, now_ms - sent_ms) if sent_ms else 0.0)


def _decoded_body(message: _Message) -> bytes:
    if (message.properties.body_encoding or "").lower() == "base64":
        return base64.b64decode(message.body, validate=True)
    return message.body.encode()


def _reply_address(body: bytes) -> str:
    """Whom to tell of an envelope that cannot be read; empty if that cannot be read either."""
    try:
        address = msgspec.json.decode(body)[1]["reply_to"]
    except (msgspec.MsgspecError, LookupError, TypeError):
        return ""
    return address if isinstance(address, str) else ""
