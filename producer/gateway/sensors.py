"""Readings of sensors over HTTP: an answer for each, and what is known of their sensors."""

from __future__ import annotations

import asyncio
import time
from dataclasses import asdict
from typing import Annotated, Any

import msgspec
from fastapi import APIRouter, Query, Request
from fastapi.responses import Response

from celeriac import errors
from celeriac.messages import ModelRef
from producer.gateway import body, predict
from producer.gateway.cold import contexts
from producer.gateway.context import Gateway, RequestContext
from producer.gateway.failures import described, fault

router = APIRouter(prefix="/v1/sensors", tags=["sensors"])
_encode = msgspec.json.Encoder().encode


class Ingested(msgspec.Struct, forbid_unknown_fields=True):
    """``{"readings": [...], "model"?, "threshold"?}``"""

    readings: list[Any]
    model: str | None = None
    threshold: float | None = None


_ingested = msgspec.json.Decoder(Ingested)

_READING = {"sensor": "pump-7", "at": "2026-11-25T08:00:00Z", "value": 3.2}
_BODY = {"requestBody": {"required": True, "content": {"application/json": {
    "schema": {
        "type": "object", "required": ["readings"], "additionalProperties": False,
        "properties": {
            "readings": {"type": "array", "items": {}, "description": (
                'Objects: {"sensor", "at"?, "value" or "values"}. at is Unix seconds or ISO 8601 '
                "with its offset; without it, now"
            )},
            "model": {"type": ["string", "null"], "description": (
                "A model that answers with a number; without it, the robust detector"
            )},
            "threshold": {"type": ["number", "null"], "exclusiveMinimum": 0},
        },
    },
    "example": {"readings": [_READING]},
}}}}
_ANSWER = {
    "sensor": "pump-7", "at": 1795593600.0, "anomaly": False, "score": 1.3, "threshold": 8.0,
    "alarm": "none", "duplicate": False,
}  # fmt: skip


def _json(schema: dict[str, Any], example: Any) -> dict[str, Any]:
    return {"application/json": {"schema": schema, "example": example}}


_OBJECTS: dict[str, Any] = {"type": "array", "items": {"type": "object"}}
_ANSWERS = _json(
    {
        "type": "object", "required": ["answers", "accepted", "duplicates", "anomalies", "errors"],
        "properties": {
            "answers": _OBJECTS, "accepted": {"type": "integer"},
            "duplicates": {"type": "integer"}, "anomalies": {"type": "integer"},
            "errors": {"type": "integer"},
        },
    },
    {"answers": [_ANSWER], "accepted": 1, "duplicates": 0, "anomalies": 0, "errors": 0},
)
_SENSOR = {
    "sensor": "pump-7", "channels": 1, "readings": 1200, "anomalies": 1, "last_at": 1795593600.0,
    "last_values": [3.2], "alarm": None, "recent": [[1795593600.0, [3.2]]],
}  # fmt: skip


@router.post(
    "/readings", summary="Take readings: an answer or an error for each, in their order",
    openapi_extra=_BODY, responses={200: {"description": "Each by itself", "content": _ANSWERS}},
)  # fmt: skip
async def ingest(request: Request) -> Response:
    """A reading that has an answer is kept. Without an answer it may be sent again: it counts once.

    A bad reading is `{"error": {...}}` in the place of its answer, and costs the others nothing.
    """
    gateway, context = contexts(request)
    data = await body.read(gateway, context)
    wanted = body.decode(gateway, data, _ingested)
    most = gateway.settings.sensors.max_readings
    if len(wanted.readings) > most:
        raise errors.PayloadTooLarge(
            f"{len(wanted.readings):,} readings in one request; at most {most:,} ([sensors] "
            "max_readings)"
        )
    if wanted.threshold is not None and wanted.threshold <= 0:
        raise fault("threshold: a number above 0", "threshold")
    context.items = len(wanted.readings)
    if wanted.model is None:
        made = await asyncio.to_thread(_take, gateway, context, wanted)
    else:
        made = await _take_with_model(gateway, context, wanted, wanted.model)
    return Response(made, media_type="application/json")


@router.get(
    "", summary="The sensors, those first that were heard of last",
    responses={200: {"description": "Without their readings", "content": _json(
        {"type": "object", "required": ["count", "sensors"],
         "properties": {"count": {"type": "integer"}, "sensors": _OBJECTS}},
        {"count": 1, "sensors": [{**_SENSOR, "recent": []}]},
    )}},
)  # fmt: skip
async def list_sensors(
    request: Request, limit: Annotated[int, Query(ge=1, le=1_000)] = 100,
    start: Annotated[int, Query(ge=0, le=10_000_000)] = 0,
) -> Response:
    views = _views(request)

    def look() -> bytes:
        found = [one.to_wire() for one in views.sensors(limit, start)]
        return _encode({"count": views.count(), "sensors": found})

    return await _answered(look)


@router.get(
    "/alarms", summary="Alarms that opened and closed, the newest first",
    responses={200: {"description": "At most 1,000 are kept", "content": _json(
        {"type": "object", "required": ["alarms"], "properties": {"alarms": _OBJECTS}},
        {"alarms": [{
            "sensor": "pump-7", "event": "opened", "opened_at_s": 1795593600.0,
            "opened_with": 152.9, "threshold": 8.0, "peak": 152.9, "peak_at_s": 1795593600.0,
            "closed_at_s": None,
        }]},
    )}},
)  # fmt: skip
async def alarms(
    request: Request, limit: Annotated[int, Query(ge=1, le=1_000)] = 100
) -> Response:
    views = _views(request)

    def look() -> bytes:
        return _encode({"alarms": [asdict(one) for one in views.alarms(limit)]})

    return await _answered(look)


@router.get(
    "/{sensor}", summary="One sensor: its alarm, and the readings that are remembered",
    responses={200: {"description": "What is known of it", "content": _json(
        {"type": "object", "required": ["sensor", "readings", "recent"]}, _SENSOR
    )}},
)  # fmt: skip
async def show(sensor: str, request: Request) -> Response:
    views = _views(request)
    return await _answered(lambda: _encode(views.sensor(sensor).to_wire()))


@router.get(
    "/{sensor}/analyses", summary="What was found in its batches, the newest first",
    responses={200: {"description": "As many as are kept", "content": _json(
        {"type": "object", "required": ["analyses"], "properties": {"analyses": _OBJECTS}},
        {"analyses": [{"sensor": "pump-7", "number": 3, "first": 2001, "readings": 1000}]},
    )}},
)  # fmt: skip
async def analyses(
    sensor: str, request: Request, limit: Annotated[int, Query(ge=1, le=1_000)] = 20
) -> Response:
    """Empty as long as none of its batches was full, or old enough."""
    views = _views(request)

    def look() -> bytes:
        views.sensor(sensor)
        return _encode({"analyses": views.analyses(sensor, limit)})

    return await _answered(look)


def _take(gateway: Gateway, context: RequestContext, wanted: Ingested) -> bytes:
    """In a thread: arrays keep a core busy for a while."""
    from producer.applications.sensors.book import SensorBook

    book = SensorBook(gateway.client.broker, context.caller.tenant)
    return _told(book.take(_parsed(gateway, wanted), wanted.threshold))


async def _take_with_model(
    gateway: Gateway, context: RequestContext, wanted: Ingested, model: str
) -> bytes:
    from producer.applications.sensors import answers, scoring
    from producer.applications.sensors.book import SensorBook

    threshold = wanted.threshold
    if threshold is None:
        version = await gateway.client.version(ModelRef.parse(model), context.left_s())
        threshold = answers.threshold_of(version.metrics, model)
    readings = await asyncio.to_thread(_parsed, gateway, wanted)
    places, items = scoring.items_of(readings)
    outcomes = await predict.predict_many(gateway, context, model, items) if items else []
    scores = scoring.scores_of(readings, places, outcomes, model)
    book = SensorBook(gateway.client.broker, context.caller.tenant)
    return await asyncio.to_thread(lambda: _told(book.take(readings, threshold, scores)))


def _parsed(gateway: Gateway, wanted: Ingested) -> Any:
    """Columns of what came: 20,000 readings of three values take 75 ms, so in a thread."""
    from celeriac.applications.sensors.readings import parse

    return parse(wanted.readings, time.time(), gateway.settings.sensors.max_ahead_s)


def _told(found: list[Any]) -> bytes:
    counts = {"accepted": 0, "duplicates": 0, "anomalies": 0, "errors": 0}
    told: list[Any] = []
    for one in found:
        if isinstance(one, errors.CeleriacError):
            counts["errors"] += 1
            told.append({"error": described(one)})
        else:
            counts["duplicates" if one.duplicate else "accepted"] += 1
            counts["anomalies"] += bool(one.anomaly)
            told.append(one)
    return _encode({"answers": told, **counts})


async def _answered(look: Any) -> Response:
    return Response(await asyncio.to_thread(look), media_type="application/json")


def _views(request: Request) -> Any:
    from producer.applications.sensors.views import SensorViews

    gateway, context = contexts(request)
    return SensorViews(gateway.client.broker, context.caller.tenant)
