"""The wire contract: names of queues and tasks, and the messages that travel between them.

Names of keys are in :mod:`celeriac.keys`.

Two tasks answer single items. ``celeriac.predict`` is what anyone's Celery sends by name;
``celeriac.predict.envelope`` is what our own client sends and the real-time lane pops.

A message on a queue is an ordinary Celery protocol-2 message. Its contract version is the keyword
argument ``v``; a worker reads :data:`CONTRACT` and the version before it.

Items on the wire are JSON values. What JSON cannot hold is wrapped, once:
``{"$bytes": "<base64>"}`` and ``{"$array": "<base64>", "dtype": "<f4", "shape": [8, 8]}``.
"""

from __future__ import annotations

import base64
import binascii
import re
from typing import Any, NamedTuple

import msgspec

from celeriac import errors

CONTRACT = 1
"""The contract version that this release writes. It reads this one and ``CONTRACT - 1``."""

MAX_ENVELOPE_ITEMS = 32
"""Items in one envelope, at most."""

# --- queues -----------------------------------------------------------------------------------

DEVICES = ("cpu", "gpu")
MAINTENANCE_QUEUE = "maintenance"


def realtime_queue(device: str, model: str) -> str:
    """The list that the real-time lane of ``device`` pops for ``model``."""
    return f"realtime.{device}.{model}"


def gpu_role(queue: str) -> str:
    """``realtime.gpu`` for a queue of its lanes, otherwise nothing."""
    return "realtime.gpu" if queue.startswith("realtime.gpu.") else ""


def predict_queue(device: str) -> str:
    """The queue of ``celeriac.predict``."""
    return f"predict.{device}"


def batch_queue(device: str) -> str:
    """The queue of batch chunks."""
    return f"batch.{device}"


# --- tasks ------------------------------------------------------------------------------------

PREDICT = "celeriac.predict"
PREDICT_ENVELOPE = "celeriac.predict.envelope"
PREDICT_SUBMITTED = "celeriac.predict.submitted"
SUBMISSIONS_RECONCILE = "celeriac.submissions.reconcile"
WEBHOOKS_DELIVER = "celeriac.webhooks.deliver"
BATCH_PLAN = "celeriac.batch.plan"
BATCH_PLAN_DATASET = "celeriac.batch.plan_dataset"
BATCH_CHUNK = "celeriac.batch.chunk"
BATCH_FINALIZE = "celeriac.batch.finalize"
BATCH_RECONCILE = "celeriac.batch.reconcile"
MODELS_PROMOTE = "celeriac.models.promote"
MODELS_ROLLBACK = "celeriac.models.rollback"
MODELS_COLLECT = "celeriac.models.collect"
CATALOGUE_PUBLISH = "celeriac.models.publish"
NIGHTLY_RUN = "celeriac.nightly.run"
NIGHTLY_WATCH = "celeriac.nightly.watch"
ALERT_SEND = "celeriac.alerts.send"
SENSORS_ANALYSE = "celeriac.sensors.analyse"
SENSORS_SWEEP = "celeriac.sensors.sweep"
DRIFT_LABELS = "celeriac.drift.labels"
DRIFT_NOTICE = "celeriac.drift.notice"
DRIFT_WATCH = "celeriac.drift.watch"
DRIFT_ADAPT = "celeriac.drift.adapt"

# --- names ------------------------------------------------------------------------------------

_NAME = re.compile(r"[a-z0-9](?:[a-z0-9_-]{0,62}[a-z0-9])?")
_ALIAS = re.compile(r"[a-z][a-z0-9_-]{0,62}")
CHAMPION = "champion"
DEFAULT_TENANT = "default"
"""Whose predictions and jobs those of Python callers are."""


class ModelRef(msgspec.Struct, frozen=True):
    """A model as people write it: ``NAME``, ``NAME@VERSION`` or ``NAME@ALIAS``.

    >>> ModelRef.parse("reviews@3")
    ModelRef(name='reviews', version=3, alias=None)
    >>> ModelRef.parse("reviews")
    ModelRef(name='reviews', version=None, alias='champion')
    """

    name: str
    version: int | None = None
    alias: str | None = None

    @classmethod
    def parse(cls, text: str) -> ModelRef:
        """Raises RequestError if ``text`` is not the name of a model."""
        if not isinstance(text, str):
            raise errors.RequestError(f"a model is named by a text, not by {type(text).__name__}")
        name, at, tail = text.partition("@")
        if not _NAME.fullmatch(name):
            raise errors.RequestError(
                f"{text[:80]!r} is not a model name: use lower-case letters, digits, '-' and '_', "
                "at most 64, as in 'reviews' or 'reviews@3'"
            )
        if not at:
            return cls(name=name, alias=CHAMPION)
        if tail.isascii() and tail.isdigit() and len(tail) <= 9 and int(tail) > 0:
            return cls(name=name, version=int(tail))
        if _ALIAS.fullmatch(tail):
            return cls(name=name, alias=tail)
        raise errors.RequestError(
            f"{text[:80]!r}: after '@' comes a version (1, 2, ...) or an alias"
        )

    def __str__(self) -> str:
        if self.version is not None:
            return f"{self.name}@{self.version}"
        return self.name if self.alias == CHAMPION else f"{self.name}@{self.alias}"


def check_model_name(name: str) -> str:
    """``name`` itself; raises RequestError if it is not a bare, valid model name."""
    if ModelRef.parse(name).name != name:
        raise errors.RequestError(f"{name[:80]!r}: give the bare name of the model, without '@'")
    return name


# --- items ------------------------------------------------------------------------------------


class JsonItem(NamedTuple):
    """An item that is JSON already, decoded from it, and that wraps nothing: it travels as it is.

    To look for arrays and bytes among a thousand numbers takes longer than to encode them.
    """

    value: Any


def json_value(item: Any) -> Any:
    """As :func:`encode_item`; knows :class:`JsonItem`, too."""
    return item.value if type(item) is JsonItem else encode_item(item)


_INSTEAD = {
    "Series": "; its to_dict() will do", "Tensor": "; its numpy() will do",
    "DataFrame": "; predict_many takes its to_dict('records')",
}
"""What may be sent of types that people try."""


_PLAIN = frozenset([type(None), str, bool, int])


def encode_item(item: Any) -> Any:
    """``item`` as JSON-safe data. Takes JSON values, bytes and numpy arrays or scalars.

    Raises InvalidItem for anything else, and for NaN or infinity outside arrays.
    """
    if type(item) in _PLAIN:
        return item
    if isinstance(item, float):
        if item - item != 0.0:
            raise errors.InvalidItem("the item holds NaN or infinity; send null if it is missing")
        return float(item)  # numpy's float64 is one, and no encoder knows it
    if isinstance(item, (str, int)):  # of numpy, or an enumeration's
        return str.__str__(item) if isinstance(item, str) else int(item)
    if isinstance(item, (bytes, bytearray, memoryview)):
        return {"$bytes": base64.b64encode(bytes(item)).decode("ascii")}
    if isinstance(item, dict):
        return {_text_key(key): encode_item(value) for key, value in item.items()}
    if isinstance(item, (list, tuple)):
        return [encode_item(value) for value in item]
    if hasattr(item, "__array_interface__") and hasattr(item, "dtype"):  # images of PIL lack it
        return _encode_array(item)
    if hasattr(item, "item") and getattr(item, "ndim", 0) == 0:  # a scalar
        return encode_item(item.item())
    kind = type(item).__name__
    raise errors.InvalidItem(
        f"an item of type {kind} cannot be sent; "
        f"use text, numbers, lists, dicts, bytes or numpy arrays{_INSTEAD.get(kind, '')}"
    )


def _text_key(key: Any) -> str:
    if not isinstance(key, str):
        raise errors.InvalidItem(f"an item's keys are texts; {key!r} is {type(key).__name__}")
    return key


def _encode_array(array: Any) -> Any:
    if hasattr(array, "mask") and array.mask.any():
        raise errors.InvalidItem("masked values cannot be sent; put others there: filled(...)")
    if array.dtype.kind not in "biuf":
        raise errors.InvalidItem(f"an array of dtype {array.dtype} cannot be sent; use numbers")
    if array.ndim == 0:
        return encode_item(array.item())
    little = array.astype(array.dtype.newbyteorder("<"), copy=False)
    data = base64.b64encode(little.tobytes()).decode("ascii")
    return {"$array": data, "dtype": little.dtype.str, "shape": list(little.shape)}


def decode_item(item: Any) -> Any:
    """The inverse of :func:`encode_item`; arrays come back as read-only numpy arrays.

    Raises InvalidItem for a wrapping that is not well formed.
    """
    if isinstance(item, dict):
        if "$bytes" in item:
            return decode_base64(item["$bytes"])
        if "$array" in item:
            return _decode_array(item)
        return {key: decode_item(value) for key, value in item.items()}
    if isinstance(item, list) and any(isinstance(value, (dict, list)) for value in item):
        return [decode_item(value) for value in item]
    return item


def decode_base64(data: Any) -> bytes:
    """The bytes of a wrapping. Raises InvalidItem."""
    try:
        return base64.b64decode(data, validate=True)
    except (binascii.Error, TypeError, ValueError) as error:
        raise errors.InvalidItem("the item's base64 data is not valid") from error


NUMBER_DTYPES = frozenset(
    ["|i1", "|u1", "<i2", "<u2", "<i4", "<u4", "<i8", "<u8", "<f2", "<f4", "<f8"]
)
_DTYPES = NUMBER_DTYPES | {"|b1"}


def _decode_array(item: dict[str, Any]) -> Any:
    import numpy as np  # only what sends or receives arrays needs numpy

    dtype, shape = item.get("dtype"), item.get("shape")
    if not isinstance(dtype, str) or dtype not in _DTYPES:
        raise errors.InvalidItem(f"the array's dtype {dtype!r} is not one of {sorted(_DTYPES)}")
    if not isinstance(shape, list) or not all(type(n) is int and 0 <= n < 2**31 for n in shape):
        raise errors.InvalidItem("the array's shape must be a list of whole numbers")
    data = decode_base64(item["$array"])
    try:
        return np.frombuffer(data, dtype=dtype).reshape(shape)
    except ValueError as error:
        raise errors.InvalidItem(f"the array's data does not have the shape {shape}") from error


# --- answers and messages -----------------------------------------------------------------------


class Envelope(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Keyword arguments of ``celeriac.predict.envelope``: 1 to 32 items for one model."""

    v: int
    """Contract version."""
    id: str
    """Id of the envelope, and of its Celery message; the reply carries it."""
    model: str
    """``NAME``, ``NAME@VERSION`` or ``NAME@ALIAS``."""
    items: list[Any]
    """Encoded items, in the caller's order."""
    reply_to: str
    """Id of the client whose reply list takes the answer: never a key."""
    deadline_ms: int
    """Absolute time after which nobody waits any more, Unix milliseconds."""
    requests: list[str] = []
    """Id of the request that each item came with, for logs; empty if there are none."""


class Reply(msgspec.Struct, kw_only=True, omit_defaults=True):
    """What the lane pushes to a client's reply list: one reply for one envelope."""

    v: int
    id: str
    """Id of the envelope."""
    answers: list[dict[str, Any]] | None = None
    """One answer or ``{"error": {...}}`` per item, in order; None if the whole envelope failed."""
    error: dict[str, Any] | None = None
    """Set if the envelope as a whole is at fault."""
    queue_ms: float = 0.0
    """From the client's publishing to the lane's popping."""
    compute_ms: float = 0.0
    """The forward pass of the batch that the envelope was in."""
    batch_items: int = 0
    """Items of that batch."""
    closed: str = ""
    """Why that batch took no more: ``full``, ``drained`` (all that waited), ``deadline`` or
    ``wait``."""


class Prediction(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The answer to one item.

    A classifier's answer has ``label`` and ``probability`` (of that label; None if the model gives
    none), any other model's has ``value``: a number, or a list for a model of several outputs.
    A classifier of several outputs answers with lists.
    """

    model: str
    version: int
    label: Any = None
    probability: Any = None
    value: Any = None

    def to_wire(self) -> dict[str, Any]:
        """Plain data for JSON; fields that are None are left out."""
        answer: dict[str, Any] = msgspec.to_builtins(self)
        return answer

    @classmethod
    def from_wire(cls, answer: dict[str, Any]) -> Prediction:
        """What :meth:`to_wire` gave. Raises msgspec.ValidationError for anything else."""
        return msgspec.convert(answer, cls)


def check_contract(v: Any) -> None:
    """Raises ContractMismatch unless ``v`` is the contract version or the one before it."""
    if v not in (CONTRACT, CONTRACT - 1):
        raise errors.ContractMismatch(
            f"the message has contract version {v!r}; this worker reads {CONTRACT - 1} and "
            f"{CONTRACT}: upgrade the older side"
        )
