"""What a caller may ask of a submission: its id, and when two requests are the same."""

from __future__ import annotations

import hashlib
import re
from typing import Any

import msgspec

from celeriac import errors

_ID = re.compile(r"(?!\.\.?$)[A-Za-z0-9._-]{1,64}")
"""A path of a URL cannot end with ``.`` or ``..``: clients take them away."""


def check_id(prediction_id: Any) -> str:
    """The id itself. Raises RequestError unless it is 1 to 64 of letters, digits and ``._-``, and
    not ``.`` or ``..``."""
    if not isinstance(prediction_id, str) or not _ID.fullmatch(prediction_id):
        raise errors.RequestError(
            "the id of a prediction is 1 to 64 letters, digits, '.', '_' and '-', and not "
            "'.' or '..'"
        )
    return prediction_id


def digest_of(model: str, item: bytes, webhook: str | None, expires_s: float | None) -> str:
    """One digest for equal requests; the order of an object's keys in ``item`` (JSON) is free.

    >>> digest_of("m", b'{"a":1,"b":2}', None, 60) == digest_of("m", b'{"b":2, "a":1}', None, 60.0)
    True
    """
    given = None if expires_s is None else float(expires_s)
    asked = (model, msgspec.json.decode(item), webhook, given)
    return hashlib.sha256(msgspec.json.encode(asked, order="sorted")).hexdigest()


def id_of_key(key: str) -> str:
    """The id that stands for an idempotency key; keys are compared within a tenant.

    Raises RequestError unless the key is 1 to 255 printable ASCII characters.
    """
    if not 1 <= len(key) <= 255 or not key.isascii() or not key.isprintable():
        raise errors.RequestError("an Idempotency-Key is 1 to 255 printable ASCII characters")
    return f"key-{hashlib.sha256(key.encode()).hexdigest()[:32]}"
