"""Ids of predictions: each says what was predicted, and by which version, and is signed.

Nothing has to be stored for a label that may come some day, or never. An id is bound to a tenant
by its signature: presented by another one it is as good as invented.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import os
from functools import lru_cache
from typing import Any

import msgspec

from celeriac import errors
from celeriac.messages import Prediction

PREFIX = "p1~"
"""No id that callers give (``PUT /v1/predictions/{id}``) has a ``~``."""
LONGEST = 600
LONGEST_LABEL = 64
"""Of a longer label the id has a digest."""
_SIGNATURE_BYTES = 12

Predicted = bool | int | float | str | bytes
"""A label or number; of a long label its digest."""


class Said(msgspec.Struct, frozen=True, array_like=True):
    """What an id says."""

    model: str
    version: int
    made_s: int
    """Unix time."""
    nonce: bytes
    """Tells it from other predictions of the same."""
    predicted: Any
    """:data:`Predicted`."""


_decode = msgspec.msgpack.Decoder(Said).decode
_encode = msgspec.msgpack.Encoder().encode


def has_truth(prediction: Prediction) -> bool:
    """True if one label or number can be right: not of models with several outputs."""
    return isinstance(_answer_of(prediction), (bool, int, float, str))


def predicted_of(prediction: Prediction) -> Predicted:
    """What an id has of an answer. Raises RequestError for one that is a list or an object."""
    if not has_truth(prediction):
        raise errors.RequestError(
            f"an answer of {prediction.model!r} is no single label or number, so no label can say "
            "whether it was right"
        )
    return short(_answer_of(prediction))


def make(prediction: Prediction, *, key: bytes, tenant: str, now_s: float) -> str:
    """A new id for an answer that was given at ``now_s``. Each call makes another one.

    Raises RequestError for an answer that is a list or an object.
    """
    predicted = predicted_of(prediction)
    body = _encode(
        Said(prediction.model, prediction.version, int(now_s), os.urandom(8), predicted)
    )
    text = base64.urlsafe_b64encode(_sign(body, key, tenant) + body).rstrip(b"=")
    return PREFIX + text.decode("ascii")


def read(text: str, *, key: bytes, tenant: str) -> Said:
    """The inverse of :func:`make`. Raises PredictionNotFound for what it did not make."""
    body = _checked(text, key, tenant)
    try:
        return _decode(body)
    except msgspec.MsgspecError as error:  # signed, but by a release that says something else
        raise _invented(text) from error


def short(label: Any) -> Predicted:
    """What an id has of a label: itself, or its digest."""
    if isinstance(label, str) and len(label) > LONGEST_LABEL:
        return hashlib.blake2b(label.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    known: Predicted = label
    return known


def _checked(text: str, key: bytes, tenant: str) -> bytes:
    """What is signed. Raises PredictionNotFound."""
    coded = text.removeprefix(PREFIX)
    if coded == text or len(text) > LONGEST or not text.isascii():
        raise _invented(text)
    try:
        data = base64.b64decode(coded + "=" * (-len(coded) % 4), altchars=b"-_", validate=True)
    except binascii.Error as error:
        raise _invented(text) from error
    signature, body = data[:_SIGNATURE_BYTES], data[_SIGNATURE_BYTES:]
    if not hmac.compare_digest(signature, _sign(body, key, tenant)):
        raise _invented(text)
    return body


def _invented(text: str) -> errors.PredictionNotFound:
    return errors.PredictionNotFound(
        f"{text[:40]!r} is no id that was given here: send it as it came, to the gateway (and "
        "with the tenant's key) that gave it"
    )


def _answer_of(prediction: Prediction) -> Any:
    """The label or the number."""
    return prediction.value if prediction.label is None else prediction.label


def _sign(body: bytes, key: bytes, tenant: str) -> bytes:
    return hashlib.blake2b(
        body + tenant.encode(), key=_derived(key), digest_size=_SIGNATURE_BYTES,
        person=b"celeriac-id",
    ).digest()


@lru_cache(maxsize=8)
def _derived(key: bytes) -> bytes:
    """A secret of any length as a key."""
    return hashlib.sha256(key).digest()
