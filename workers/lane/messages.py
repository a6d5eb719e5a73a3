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
    arrived_ms: float = 0.0
    """When it was popped, Unix milliseconds."""
    ahead_ms: float = 0.0
    """How far the sender's clock is ahead of this one, at least; 0 if it is not."""
    raw: bytes = b""
    """The message as it was, to be given back."""
    losses: int = 0
    """How many processes have lost their GPU with it in hand ..."""
    breaking: tuple[int, ...] = ()
    """... and the places of the items that are known to do it."""

    def suspected(self, place: int | None = None) -> Received:
        """The same, to be given back by a process that has lost its GPU over it.

        ``place``: of the item that did it, if it is known.
        """
        breaking = self.breaking if place is None else (*self.breaking, place)
        message = msgspec.json.decode(self.raw)
        message["headers"] |= {"losses": self.losses + 1, "breaking": breaking}
        return msgspec.structs.replace(self, raw=msgspec.json.encode(message))

    @property
    def count(self) -> int:
        """Its items."""
        return len(self.envelope.items)

    @property
    def deadline_ms(self) -> float:
        """After it nobody waits for the answer any more, Unix milliseconds."""
        return self.envelope.deadline_ms

    @property
    def key(self) -> tuple[str, str]:
        """What a message that was sent again has in common with the first."""
        return self.envelope.id, self.envelope.reply_to


class Address(msgspec.Struct, frozen=True):
    """What must be known of an envelope to refuse it: its items stay unread."""

    id: str
    model: str
    items: list[msgspec.Raw]
    reply_to: str

    @property
    def key(self) -> tuple[str, str]:
        """As :attr:`Received.key`."""
        return self.id, self.reply_to


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
    losses: int = 0
    breaking: tuple[int, ...] = ()


class _Properties(msgspec.Struct):
    body_encoding: str | None = None


class _Message(msgspec.Struct):
    body: str
    headers: _Headers = msgspec.field(default_factory=_Headers)
    properties: _Properties = msgspec.field(default_factory=_Properties)


_message = msgspec.json.Decoder(_Message)
_body = msgspec.json.Decoder(tuple[list[Any], Envelope, Any])
_address = msgspec.json.Decoder(tuple[list[Any], Address, Any])
_UNREADABLE = (msgspec.MsgspecError, binascii.Error, UnicodeError, RecursionError)
"""What bytes of strangers may raise."""


def read_message(raw: bytes, now_ms: float) -> Received | Misfit:
    """Decode one message. Never raises: what is not an envelope comes back as a misfit."""
    try:
        message = _message.decode(raw)
    except _UNREADABLE as error:
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
    except _UNREADABLE as error:
        return Misfit(
            task=headers.task, id=headers.id, reply_to=_reply_address(body),
            error=errors.RequestError(f"the envelope is not well formed: {error}"),
        )
    age_ms = now_ms - headers.sent_ms if headers.sent_ms else 0.0
    return Received(
        envelope, queue_ms=max(0.0, age_ms), arrived_ms=now_ms, ahead_ms=max(0.0, -age_ms), raw=raw,
        losses=headers.losses, breaking=headers.breaking,
    )


def read_address(raw: bytes) -> Address | None:
    """As little of an envelope as a refusal needs; None if the message is no envelope."""
    try:
        message = _message.decode(raw)
        if message.headers.task != PREDICT_ENVELOPE:
            return None
        _, address, _ = _address.decode(_decoded_body(message))
    except _UNREADABLE:
        return None
    return address


def _decoded_body(message: _Message) -> bytes:
    if (message.properties.body_encoding or "").lower() == "base64":
        return base64.b64decode(message.body, validate=True)
    return message.body.encode()


def _reply_address(body: bytes) -> str:
    """Whom to tell of an envelope that cannot be read; empty if that cannot be read either."""
    try:
        address = msgspec.json.decode(body)[1]["reply_to"]
    except (*_UNREADABLE, LookupError, TypeError):
        return ""
    return address if isinstance(address, str) else ""
