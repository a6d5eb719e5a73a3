"""Single predictions: ``POST /classify`` and ``POST /v1/models/{model}/predict``."""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from typing import Any

import msgspec

from celeriac import errors
from celeriac.messages import JsonItem, Prediction, decode_item
from producer.gateway import body, predictions
from producer.gateway.context import Answer, Gateway, RequestContext
from producer.gateway.failures import RouteNotFound, described, fault
from producer.gateway.hot import HotRoute
from producer.gateway.pressure import Gate

_encode = msgspec.json.Encoder().encode
_IDS = re.compile(r"(?:^|[,;\s])prediction-id(?:$|[,;\s])")


class ClassifyRequest(msgspec.Struct, forbid_unknown_fields=True):
    """``{"text": "..."}``"""

    text: str


class PredictRequest(msgspec.Struct, forbid_unknown_fields=True):
    """``{"item": X}`` or ``{"items": [X, ...]}``."""

    item: Any = msgspec.UNSET
    items: list[Any] | msgspec.UnsetType = msgspec.UNSET


class Predictions(msgspec.Struct):
    """The answer to ``{"items": [...]}``; each entry is a prediction or ``{"error": ...}``."""

    model: str
    version: int | None
    predictions: list[Any]


_classify_request = msgspec.json.Decoder(ClassifyRequest)
_predict_request = msgspec.json.Decoder(PredictRequest)


async def classify(gateway: Gateway, context: RequestContext, _: str) -> Answer:
    """The tutorial's endpoint: a text in, its category and the confidence out."""
    model = gateway.limits.classify_model
    gateway.pressure.check(model, time.monotonic())
    data = await body.read(gateway, context)
    request = body.decode(gateway, data, _classify_request)
    try:
        prediction = await predict_one(gateway, context, model, request.text)
    except (errors.ModelNotFound, errors.VersionNotFound) as error:  # which no caller has named
        raise type(error)(f"{error.message} ([gateway] classify_model is {model!r})") from error
    confidence = prediction.probability
    answer: dict[str, Any] = {"category": prediction.label, "confidence": confidence}
    if _wants_ids(context):
        (answer["id"],) = await gateway.client.ids(context.caller.tenant, [prediction])
    return Answer(200, _encode(answer))


async def predict(gateway: Gateway, context: RequestContext, model: str) -> Answer:
    """One item or many, or one image as the body."""
    if "/" in model:
        raise RouteNotFound
    if b"prefer" not in context.headers:
        gateway.pressure.check(model, time.monotonic())
    kind = context.headers.get(b"content-type", b"").lower()
    is_image = kind.startswith(b"image/")
    data = await body.read(gateway, context, is_json=not is_image, is_item=is_image)
    if b"prefer" in context.headers and predictions.is_wanted(context):
        return await predictions.submitted(gateway, context, model, data)
    if is_image:
        return await _predict_one(gateway, context, model, data)
    body.check_kind(kind, data)
    request = body.decode(gateway, data, _predict_request)
    if request.items is not msgspec.UNSET:
        if request.item is not msgspec.UNSET:
            raise fault("give 'item' or 'items', not both", "item")
        check_count(gateway, request.items)
        return await _predict_many(gateway, context, model, unwrap_each(request.items, data))
    if request.item is msgspec.UNSET:
        raise fault('the body has neither "item" nor "items"', "item")
    (item,) = unwrap_all([request.item], data)
    return await _predict_one(gateway, context, model, item)


async def predict_one(
    gateway: Gateway, context: RequestContext, model: str, item: Any
) -> Prediction:
    """One prediction, within the request's time. Raises what the client raises."""
    context.model, context.items = model, 1
    gate = _enter(gateway, context, model)
    try:
        call = await gateway.client.call(model, item, context.left_s(), context.id)
        context.note(call)
        reply = call.reply
        if reply is not None:
            now_s = time.monotonic()
            seconds = now_s - context.started_s - context.body_s
            gate.answered(seconds, reply.compute_ms / 1000, now_s)
    finally:
        gateway.pressure.leave(gate)
    if isinstance(call.outcome, Prediction):
        return call.outcome
    raise call.outcome or errors.WorkerError()


async def predict_many(
    gateway: Gateway, context: RequestContext, model: str, items: list[Any]
) -> list[Prediction | errors.CeleriacError]:
    """The outcome of each item, within the request's time. Raises what the client raises."""
    check_count(gateway, items)
    context.model, context.items, context.found = model, len(items), 0
    gate = _enter(gateway, context, model)
    try:
        calls = await gateway.client.calls(model, items, context.left_s(), context.id)
        for call in calls:
            context.note(call)
    finally:
        gateway.pressure.leave(gate)
    return [call.outcome or errors.WorkerError() for call in calls]


def check_count(gateway: Gateway, items: list[Any]) -> None:
    """Raises PayloadTooLarge."""
    limit = gateway.limits.max_items
    if len(items) > limit:
        raise errors.PayloadTooLarge(
            f"{len(items):,} items; at most {limit:,} are taken ([gateway] max_items): "
            "score more as a dataset"
        )


def _enter(gateway: Gateway, context: RequestContext, model: str) -> Gate:
    """Of other routes the body names the model, so their path is no way to it."""
    path = context.scope.get("raw_path", b"") if context.is_hot else b""
    return gateway.pressure.enter(model, time.monotonic(), path, context.route)


async def _predict_one(
    gateway: Gateway, context: RequestContext, model: str, item: Any
) -> Answer:
    prediction = await predict_one(gateway, context, model, item)
    if _wants_ids(context):
        (shown,) = await _with_ids(gateway, context, [prediction])
        return Answer(200, _encode(shown))
    return Answer(200, _encode(prediction))


async def _predict_many(
    gateway: Gateway, context: RequestContext, model: str, items: list[Any]
) -> Answer:
    """``items`` as :func:`unwrap_each` gives them; what is an error already is not sent."""
    good = [item for item in items if not isinstance(item, errors.InvalidItem)]
    answers = iter(await predict_many(gateway, context, model, good))
    outcomes = [item if isinstance(item, errors.InvalidItem) else next(answers) for item in items]
    found = [outcome for outcome in outcomes if isinstance(outcome, Prediction)]
    if outcomes and not found:
        _raise_whole(outcomes[0])
    shown = (
        await _with_ids(gateway, context, outcomes) if _wants_ids(context)
        else [entry(outcome) for outcome in outcomes]
    )
    return Answer(200, _encode(Predictions(
        model=found[0].model if found else model, version=context.version or None,
        predictions=shown,
    )))


def _wants_ids(context: RequestContext) -> bool:
    """True if the caller will tell the truth some day: ``Prefer: prediction-id``."""
    return b"prefer" in context.headers and bool(_IDS.search(context.header(b"prefer")))


async def _with_ids(
    gateway: Gateway, context: RequestContext,
    outcomes: Sequence[Prediction | errors.CeleriacError],
) -> list[Any]:
    """Entries of a list of answers, each with its id; an answer that no label fits has none."""
    ids = await gateway.client.ids(context.caller.tenant, outcomes)
    return [
        outcome.to_wire() | {"id": one} if one and isinstance(outcome, Prediction)
        else entry(outcome)
        for outcome, one in zip(outcomes, ids, strict=True)
    ]


def entry(outcome: Prediction | errors.CeleriacError) -> Any:
    """One entry of a list of answers."""
    return outcome if isinstance(outcome, Prediction) else {"error": described(outcome)}


def unwrap_all(items: list[Any], data: bytes) -> list[Any]:
    """The items of the JSON ``data``. Raises InvalidItem."""
    if b"$" in data or b"\\" in data:  # a wrapped array, bytes, or perhaps a "$" in disguise
        return list(map(unwrap, items))
    return [JsonItem(item) if isinstance(item, (dict, list)) else item for item in items]


def unwrap_each(items: list[Any], data: bytes) -> list[Any]:
    """As :func:`unwrap_all`, with the error in the place of an item that cannot be unwrapped: one
    of many harms no other."""
    try:
        return unwrap_all(items, data)
    except errors.InvalidItem:
        return list(map(_unwrapped, items))


def _unwrapped(item: Any) -> Any:
    try:
        return unwrap(item)
    except errors.InvalidItem as error:
        return error


def unwrap(item: Any) -> Any:
    """An item from JSON. Bytes and typed arrays are checked where they are wrapped.

    Raises InvalidItem.
    """
    return decode_item(item) if isinstance(item, (dict, list)) else item


def _raise_whole(outcome: Prediction | errors.CeleriacError) -> None:
    """Raises an error that is the request's, not an item's."""
    if not isinstance(outcome, (Prediction, errors.ItemError, errors.PayloadTooLarge)):
        raise outcome


ROUTES = [
    HotRoute("/classify", "", "/classify", "infer", classify),
    HotRoute("/v1/models/", "/predict", "/v1/models/{model}/predict", "infer", predict),
]

PROBABILITY: dict[str, Any] = {"anyOf": [
    {"type": "number"}, {"type": "array", "items": {"type": "number"}}, {"type": "null"},
]}
"""One, or one for each output of the model."""
OPENAPI: dict[str, Any] = {
    "/classify": {
        "post": {
            "tags": ["predictions"],
            "summary": "The category of a text",
            "operationId": "classify",
            "parameters": [{
                "name": "Prefer", "in": "header", "schema": {"type": "string"},
                "description": "prediction-id: with an `id` for `POST /v1/feedback`",
            }],
            "requestBody": {"required": True, "content": {"application/json": {
                "schema": {
                    "type": "object", "required": ["text"], "additionalProperties": False,
                    "properties": {"text": {"type": "string"}},
                },
                "example": {"text": "Best coffee I ever bought"},
            }}},
            "responses": {"200": {
                "description": "The category, and how sure the model is of it",
                "content": {"application/json": {
                    "schema": {
                        "type": "object", "required": ["category", "confidence"],
                        "properties": {
                            "category": {}, "confidence": PROBABILITY,
                            "id": {"type": "string"},
                        },
                    },
                    "example": {"category": "positive", "confidence": 0.98},
                }},
            }},
        },
    },
    "/v1/models/{model}/predict": {
        "post": {
            "tags": ["predictions"],
            "summary": "Predictions for one item, or for many",
            "operationId": "predict",
            "parameters": [
                {
                    "name": "Prefer", "in": "header", "schema": {"type": "string"},
                    "description": "respond-async: fetch the prediction later; one item only. "
                                   "prediction-id: with an `id` for `POST /v1/feedback`",
                },
                {
                    "name": "Idempotency-Key", "in": "header",
                    "schema": {"type": "string"},
                    "description": "With respond-async: the same key is the same prediction",
                },
            ],
            "requestBody": {"required": True, "content": {
                "application/json": {
                    "schema": {"oneOf": [
                        {
                            "type": "object", "required": ["item"], "additionalProperties": False,
                            "properties": {"item": {}},
                        },
                        {
                            "type": "object", "required": ["items"], "additionalProperties": False,
                            "properties": {"items": {"type": "array", "items": {}}},
                        },
                    ]},
                    "examples": {
                        "one": {"value": {"item": "Best coffee I ever bought"}},
                        "many": {"value": {"items": ["Best coffee ever", "Stale and bitter"]}},
                    },
                },
                "image/*": {"schema": {"type": "string", "format": "binary"}},
            }},
            "responses": {"200": {
                "description": "A prediction, or a list of them in the order of the items",
                # Generated clients take the first that fits, and look at required fields alone.
                "content": {"application/json": {"schema": {"anyOf": [
                    {"$ref": "#/components/schemas/Predictions"},
                    {"$ref": "#/components/schemas/Prediction"},
                ]}}},
            }, "202": {
                "description": "With respond-async: it is accepted; `Location` has its address",
                "content": predictions.SHAPE,
            }},
        },
    },
}
