"""Labels: what the right answers would have been, and how good the answers were."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

import msgspec
from fastapi import APIRouter, Query, Request
from fastapi.responses import Response
from pydantic import BaseModel

from celeriac import errors
from celeriac.drift.feedback import DAY_S, Accuracy, VersionAccuracy
from celeriac.messages import check_model_name
from celeriac.registry.reference import unknown_model
from producer.feedback import Feedback
from producer.gateway import body
from producer.gateway.cold import contexts, json_response
from producer.gateway.context import Gateway, RequestContext
from producer.gateway.failures import described, fault
from producer.gateway.predict import check_count

STEPS_S = {"hour": 3_600, "day": DAY_S}
MOST_DAYS = 730



class Label(msgspec.Struct, forbid_unknown_fields=True):
    """``{"prediction_id": "...", "label": X}``"""

    prediction_id: str
    label: Any


class Wanted(msgspec.Struct, forbid_unknown_fields=True):
    """The same, or ``{"labels": [{"prediction_id", "label"}, ...]}``."""

    prediction_id: str | msgspec.UnsetType = msgspec.UNSET
    label: Any = msgspec.UNSET
    labels: list[Label] | msgspec.UnsetType = msgspec.UNSET


class Measured(BaseModel):
    """How good answers were, of those whose truth is known."""

    rows: int
    """Labels."""
    value: float
    """Share of right answers, or mean absolute error."""
    low: float
    high: float
    """Of an interval of 95 %."""


class Step(Measured):
    """Of the predictions of an hour or a day."""

    begin: datetime


class Version(Measured):
    """Of one version."""

    version: int
    measure: Literal["accuracy", "mean absolute error"]
    over_time: list[Step]


class AccuracyOfModel(BaseModel):
    """How good the answers of a model were."""

    model: str
    versions: list[Version]
    """Those that have labels, the newest first."""


_wanted = msgspec.json.Decoder(Wanted)
_ONE = {
    "type": "object", "required": ["prediction_id", "label"], "additionalProperties": False,
    "properties": {"prediction_id": {"type": "string"}, "label": {}},
}  # fmt: skip
_BODY = {"requestBody": {"required": True, "content": {"application/json": {
    "schema": {"oneOf": [_ONE, {
        "type": "object", "required": ["labels"], "additionalProperties": False,
        "properties": {"labels": {"type": "array", "items": _ONE}},
    }]},
    "examples": {
        "one": {"value": {"prediction_id": "order-7", "label": "positive"}},
        "many": {"value": {"labels": [{"prediction_id": "order-7", "label": "positive"}]}},
    },
}}}}
_GIVEN = {
    "type": "object", "required": ["prediction_id", "model", "version", "counted"],
    "properties": {
        "prediction_id": {"type": "string"}, "model": {"type": "string"},
        "version": {"type": "integer"},
        "counted": {"type": "boolean", "description": "false: it had a label already"},
        "right": {"type": "boolean", "description": "Of a class"},
        "absolute_error": {"type": "number", "description": "Of a number"},
    },
}  # fmt: skip
_SHAPE: dict[str, Any] = {"application/json": {
    "schema": {"oneOf": [_GIVEN, {
        "type": "object", "required": ["feedback"], "properties": {"feedback": {
            "type": "array", "items": {"anyOf": [
                _GIVEN, {"$ref": "#/components/schemas/ItemError"},
            ]},
        }},
    }]},
    "example": {
        "prediction_id": "order-7", "model": "reviews", "version": 3, "counted": True,
        "right": True,
    },
}}

router = APIRouter(prefix="/v1", tags=["labels"])


@router.post(
    "/feedback", summary="Tell what the right answer would have been", openapi_extra=_BODY,
    responses={
        200: {"description": "What became of the label, or of each", "content": _SHAPE},
        404: {"description": "No such id was given here, or it is too old for a label"},
    },
)  # fmt: skip
async def give(request: Request) -> Response:
    """The `id` of an answer (`Prefer: prediction-id`) or of an asynchronous prediction.

    A prediction counts once, so a request may be repeated. Of many labels each has an entry in the
    answer, in their order: what became of it, or its error.
    """
    gateway, context = contexts(request)
    wanted = body.decode(gateway, await body.read(gateway, context), _wanted)
    if wanted.labels is msgspec.UNSET:
        return json_response(_shown(await _one(gateway, context, wanted)))
    if wanted.prediction_id is not msgspec.UNSET or wanted.label is not msgspec.UNSET:
        raise fault("give 'prediction_id' and 'label', or 'labels', not both", "labels")
    check_count(gateway, wanted.labels)
    found = await gateway.client.label_for(
        context.caller.tenant, [(one.prediction_id, one.label) for one in wanted.labels]
    )
    return json_response({"feedback": [
        {"error": described(one)} if isinstance(one, errors.CeleriacError) else _shown(one)
        for one in found
    ]})


@router.get(
    "/models/{name}/accuracy", summary="How good its answers were, by their labels",
    responses={404: {"description": "There is no such model"}},
)
async def accuracy(
    name: str, request: Request, days: Annotated[int, Query(ge=1, le=MOST_DAYS)] = 30,
    by: Literal["hour", "day"] = "day",
) -> AccuracyOfModel:
    """Of each version, for the predictions of the last `days`: altogether, and by hour or day (UTC)
    of the prediction."""
    gateway, context = contexts(request)
    known = await gateway.client.catalogue(context.left_s())
    if check_model_name(name) not in known.models:
        raise unknown_model(name, known.models)
    found = await gateway.client.accuracies(name, time.time() - days * DAY_S, STEPS_S[by])
    return AccuracyOfModel(model=name, versions=[_version(one) for one in found])


async def _one(gateway: Gateway, context: RequestContext, wanted: Wanted) -> Feedback:
    if wanted.prediction_id is msgspec.UNSET:
        raise fault("the body has neither 'prediction_id' nor 'labels'", "prediction_id")
    if wanted.label is msgspec.UNSET:
        raise fault("the label is missing", "label")
    (found,) = await gateway.client.label_for(
        context.caller.tenant, [(wanted.prediction_id, wanted.label)]
    )
    if isinstance(found, errors.CeleriacError):
        raise found
    context.model, context.version = found.model, found.version
    return found


def _shown(found: Feedback) -> dict[str, Any]:
    shown = {name: getattr(found, name) for name in _GIVEN["properties"]}
    return {name: value for name, value in shown.items() if value is not None}


def _version(found: VersionAccuracy) -> Version:
    return Version(
        version=found.version, measure=found.whole.measure, **_measured(found.whole),
        over_time=[
            Step(begin=datetime.fromtimestamp(begin_s, UTC), **_measured(one))
            for begin_s, one in found.over_time
        ],
    )


def _measured(found: Accuracy) -> dict[str, Any]:
    low, high = found.interval
    return {"rows": found.rows, "value": found.value, "low": low, "high": high}
