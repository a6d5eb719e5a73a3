"""The routes of the protocol: inference is hot, the rest is cold.

A request for inference succeeds or fails as a whole, because the protocol has no place for the
error of one item: it fails with the first bad item's error, which names its number.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Any

import msgspec
from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse

from celeriac import errors
from celeriac.messages import CHAMPION, ModelRef, Prediction, check_model_name
from celeriac.registry.catalogue import Catalogue, ModelInfo, VersionInfo
from producer.gateway import body
from producer.gateway.cold import contexts
from producer.gateway.context import JSON, Answer, Gateway, RequestContext
from producer.gateway.failures import RouteNotFound
from producer.gateway.hot import HotRoute
from producer.gateway.oip.codec import (
    HEADER_LENGTH,
    InferRequest,
    decode_request,
    encode_response,
    json_length,
)
from producer.gateway.oip.configuration import model_configuration
from producer.gateway.oip.items import items_of, tensors_of, wanted_outputs
from producer.gateway.oip.metadata import model_metadata, repository_index, server_metadata
from producer.gateway.oip.raw import raw_request
from producer.gateway.oip.readiness import check_served, live_workers
from producer.gateway.oip.statistics import Answered, every_version
from producer.gateway.oip.tensors import DTYPES, MAX_RANK
from producer.gateway.predict import predict_many, predict_one

_LENGTH = HEADER_LENGTH.lower().encode()
_BINARY = (b"content-type", b"application/octet-stream")
LONG_BYTES = 100_000
"""A longer body with binary data is taken apart by a thread: of a million texts that took the event
loop 0.8 s. JSON has a bound of its own."""

Outcome = Prediction | errors.CeleriacError


# --- inference -----------------------------------------------------------------------------------


async def infer(gateway: Gateway, context: RequestContext, rest: str) -> Answer:
    """``POST /v2/models/{model}[/versions/{version}]/infer``."""
    ref = _reference(rest)
    gateway.pressure.check(ref, time.monotonic())
    data = await body.read(gateway, context, is_json=_LENGTH not in context.headers)
    model, version = await _described(gateway, ref, context.left_s())
    try:
        answer = await _inferred(gateway, context, ref, version, data)
    except errors.CeleriacError:
        gateway.inferences.failed(model.name, version.version, _since(context))
        raise
    gateway.inferences.succeeded(model.name, context.version, Answered(
        items=context.items - context.found, seconds=_since(context), passes=context.passes,
        queue_s=context.queue_ms / 1e3, compute_s=context.compute_ms / 1e3,
        cache=context.cache,
    ))
    return answer


async def _inferred(
    gateway: Gateway, context: RequestContext, ref: str, version: VersionInfo, data: bytes
) -> Answer:
    is_long = len(data) > LONG_BYTES and _LENGTH in context.headers
    request = (
        await asyncio.to_thread(_decoded, gateway, context, data, version) if is_long
        else _decoded(gateway, context, data, version)
    )
    _allow(gateway, context, request.timeout_us)
    items = items_of(request, version.input)
    specs = wanted_outputs(request, version.output)
    predictions = await _predictions(gateway, context, ref, items)
    first = predictions[0]
    context.version = first.version
    if first.version != version.version:  # the workers serve another champion than is published
        _, served = await _described(gateway, f"{first.model}@{first.version}", context.left_s())
        specs = wanted_outputs(request, served.output)
    outputs = tensors_of(predictions, specs)
    answer, json_bytes = encode_response(request, first.model, first.version, outputs)
    if json_bytes is None:
        return Answer(200, answer, (JSON,))
    return Answer(200, answer, (_BINARY, (_LENGTH, b"%d" % json_bytes)))


def _decoded(
    gateway: Gateway, context: RequestContext, data: bytes, version: VersionInfo
) -> InferRequest:
    header = context.headers.get(_LENGTH)
    length = None if header is None else header.decode("latin-1")
    json_bytes = json_length(data, length)
    if length is not None and not json_bytes:
        return raw_request(data, version.input, gateway.limits.max_items)
    body.check_json(gateway, data[:json_bytes])
    return decode_request(data, length, gateway.limits.max_items)


def _allow(gateway: Gateway, context: RequestContext, timeout_us: int) -> None:
    """The time that the request asks for, within the limit; a header may make it shorter still."""
    if not timeout_us:
        return
    asked_s = min(timeout_us / 1e6, gateway.limits.max_timeout_s)
    if b"x-request-timeout-ms" in context.headers:
        asked_s = min(asked_s, context.timeout_s)
    context.allow(asked_s)


async def _predictions(
    gateway: Gateway, context: RequestContext, ref: str, items: list[Any]
) -> list[Prediction]:
    if len(items) == 1:
        try:
            return [await predict_one(gateway, context, ref, items[0])]
        except errors.CeleriacError as error:
            raise _of_item(0, error) from error
    outcomes = await predict_many(gateway, context, ref, items)
    found = _all_or_error(outcomes)
    newest = max(prediction.version for prediction in found)
    if any(prediction.version != newest for prediction in found):
        # A promotion came in between: ask again, so that one version answers the whole request.
        pinned = f"{found[0].model}@{newest}"
        found = _all_or_error(await predict_many(gateway, context, pinned, items))
    return found


def _all_or_error(outcomes: Sequence[Outcome]) -> list[Prediction]:
    found: list[Prediction] = []
    for number, outcome in enumerate(outcomes):
        if not isinstance(outcome, Prediction):
            raise _of_item(number, outcome)
        found.append(outcome)
    return found


def _of_item(number: int, error: errors.CeleriacError) -> errors.CeleriacError:
    """The error with the number of its item, if it is an item's own."""
    if isinstance(error, (errors.ItemError, errors.PayloadTooLarge)):
        return type(error)(f"item {number}: {error.message}")
    return error


def _since(context: RequestContext) -> float:
    return time.monotonic() - context.started_s


# --- models --------------------------------------------------------------------------------------


def _reference(rest: str) -> str:
    """``NAME`` or ``NAME@VERSION`` from ``NAME`` or ``NAME/versions/VERSION`` of a path.

    An alias may stand for the version. Raises RequestError and RouteNotFound.
    """
    name, slash, tail = rest.partition("/")
    if not slash:
        return check_model_name(name)
    word, _, version = tail.partition("/")
    if word != "versions" or not version or "/" in version:
        raise RouteNotFound
    return f"{check_model_name(name)}@{version}"


async def _described(
    gateway: Gateway, ref: str, timeout_s: float
) -> tuple[ModelInfo, VersionInfo]:
    """What ``ref`` means. Raises RequestError, ModelNotFound, VersionNotFound, BrokerError."""
    routes = gateway.client.routes
    found = routes.described(ref)
    if found is None:
        gateway.pulse.check()
        catalogue = await asyncio.to_thread(routes.catalogue, timeout_s)
        version = catalogue.resolve(ModelRef.parse(ref))
        return catalogue.models[ModelRef.parse(ref).name], version
    return found


async def _catalogue(request: Request) -> Catalogue:
    gateway, context = contexts(request)
    gateway.pulse.check()
    return await asyncio.to_thread(gateway.client.routes.catalogue, context.left_s())


# --- cold routes ---------------------------------------------------------------------------------

router = APIRouter(prefix="/v2", tags=["Open Inference Protocol"])


@router.get("/", include_in_schema=False)  # as the protocol's own OpenAPI document has it
@router.get("", summary="What this server is, and which extensions it has")
async def server() -> dict[str, Any]:
    return server_metadata()


@router.get("/health/live", summary="The process answers")
async def live(request: Request) -> dict[str, bool]:
    return {"live": True, "ready": contexts(request)[0].is_ready}


_HEALTH = {"application/json": {"schema": {
    "type": "object", "required": ["live", "ready"], "properties": {
        "live": {"type": "boolean"}, "ready": {"type": "boolean"}, "error": {"type": "string"},
    },
}}}


@router.get(
    "/health/ready", summary="It can answer predictions, and takes more of them", responses={
        200: {"description": "It is ready", "content": _HEALTH},
        503: {"description": "Redis does not answer, or the process drains", "content": _HEALTH},
    },
)
async def ready(request: Request) -> JSONResponse:
    if contexts(request)[0].is_ready:
        return JSONResponse({"live": True, "ready": True})
    return JSONResponse({"live": True, "ready": False, "error": "not ready"}, status_code=503)


@router.get("/models/stats", summary="Requests over /v2 that this process has answered")
async def statistics(request: Request) -> dict[str, Any]:
    catalogue = await _catalogue(request)
    return contexts(request)[0].inferences.to_wire(every_version(catalogue.models))


class IndexRequest(msgspec.Struct, forbid_unknown_fields=True):
    """``{"ready"?}``: only those that are ready."""

    ready: bool = False


_index = msgspec.json.Decoder(IndexRequest)


@router.post("/repository/index", summary="Every version of every model")
async def index(request: Request) -> list[dict[str, str]]:
    gateway, context = contexts(request)
    data = await body.read(gateway, context)
    wanted = body.decode(gateway, data, _index) if data else IndexRequest()
    gateway.pulse.check()
    catalogue = await _catalogue(request)
    workers = {device: await live_workers(gateway.redis, device) for device in ("cpu", "gpu")}
    found = repository_index(catalogue, workers)
    return [one for one in found if one["state"] == "READY" or not wanted.ready]


@router.get("/models/{model}", summary="Inputs and outputs of a model")
@router.get("/models/{model}/versions/{version}", summary="Inputs and outputs of a version")
async def metadata(request: Request, model: str) -> dict[str, Any]:
    return model_metadata(*await _asked(request, model))


@router.get("/models/{model}/config", summary="The same, as Triton's model configuration")
@router.get("/models/{model}/versions/{version}/config", summary="... of a version")
async def configuration(request: Request, model: str) -> dict[str, Any]:
    info, found = await _asked(request, model)
    cache = contexts(request)[0].settings.cache
    return model_configuration(info, found, keeps_answers=cache.enabled)


@router.get("/models/{model}/ready", summary="Whether a worker answers for a model")
@router.get("/models/{model}/versions/{version}/ready", summary="... for a version")
async def model_ready(request: Request, model: str) -> dict[str, Any]:
    gateway, _ = contexts(request)
    info, found = await _asked(request, model)
    is_champion = _version(request) in ("", CHAMPION)
    gateway.pulse.check()
    await check_served(gateway.redis, found.device, info.name, champion=is_champion)
    return {"name": info.name, "ready": True}


@router.get("/models/{model}/stats", summary="Requests for a model")
@router.get("/models/{model}/versions/{version}/stats", summary="Requests for a version")
async def model_statistics(request: Request, model: str) -> dict[str, Any]:
    info, found = await _asked(request, model)
    numbers = [found.version] if _version(request) else sorted(info.versions)
    return contexts(request)[0].inferences.to_wire((info.name, number) for number in numbers)


def _version(request: Request) -> str:
    """A number or an alias; empty if the path has none."""
    return str(request.path_params.get("version", ""))


async def _asked(request: Request, model: str) -> tuple[ModelInfo, VersionInfo]:
    gateway, context = contexts(request)
    ref, version = check_model_name(model), _version(request)
    return await _described(gateway, f"{ref}@{version}" if version else ref, context.left_s())


# --- for the application -------------------------------------------------------------------------

ROUTES = [
    HotRoute(
        "/v2/models/", "/infer", "/v2/models/{model}[/versions/{version}]/infer", "infer", infer
    ),
]

_INFER: dict[str, Any] = {
    "tags": ["Open Inference Protocol"],
    "requestBody": {"required": True, "content": {
        "application/json": {
            "schema": {
                "type": "object", "required": ["inputs"], "additionalProperties": False,
                "properties": {
                    "id": {"type": ["string", "null"]},
                    "parameters": {"type": ["object", "null"]},
                    "inputs": {"type": "array", "minItems": 1, "items": {
                        "type": "object", "required": ["name", "shape", "datatype"],
                        "properties": {
                            "name": {"type": "string"},
                            "shape": {
                                "type": "array", "items": {"type": "integer", "minimum": 0},
                                "minItems": 1, "maxItems": MAX_RANK,
                            },
                            "datatype": {"enum": [*DTYPES, "BF16", "BYTES"]},
                            "parameters": {"type": ["object", "null"]},
                            "data": {"type": "array", "items": {}},
                        },
                    }},
                    "outputs": {"type": ["array", "null"], "items": {
                        "type": "object", "required": ["name"],
                        "properties": {
                            "name": {"type": "string"},
                            "parameters": {"type": ["object", "null"]},
                        },
                    }},
                },
            },
            "example": {"inputs": [{
                "name": "text", "datatype": "BYTES", "shape": [1],
                "data": ["Best coffee I ever bought"],
            }]},
        },
        "application/octet-stream": {
            "schema": {"type": "string", "format": "binary"},
        },
    }},
    "responses": {"200": {
        "description": "One tensor for each output: label and probability, or value",
        "content": {"application/json": {
            "schema": {
                "type": "object", "required": ["model_name", "model_version", "outputs"],
                "properties": {
                    "model_name": {"type": "string"}, "model_version": {"type": "string"},
                    "id": {"type": "string"},
                    "outputs": {"type": "array", "items": {
                        "type": "object", "required": ["name", "datatype", "shape"],
                        "properties": {
                            "name": {"type": "string"}, "datatype": {"type": "string"},
                            "shape": {"type": "array", "items": {"type": "integer"}},
                            "parameters": {"type": "object"},
                            "data": {"type": "array", "items": {}},
                        },
                    }},
                },
            },
            "example": {
                "model_name": "reviews", "model_version": "1", "outputs": [
                    {"name": "label", "datatype": "BYTES", "shape": [1], "data": ["positive"]},
                    {"name": "probability", "datatype": "FP64", "shape": [1], "data": [0.98]},
                ],
            },
        }, "application/octet-stream": {}},
    }},
}


OPENAPI: dict[str, Any] = {
    "/v2/models/{model}/infer": {"post": {
        **_INFER, "summary": "Predictions for the items along the first axis of tensors",
        "operationId": "infer",
    }},
    "/v2/models/{model}/versions/{version}/infer": {"post": {
        **_INFER, "summary": "Predictions of one version",
        "operationId": "infer_version",
    }},
}
