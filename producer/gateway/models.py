"""Models: what there is, and on the admin port which version serves."""

from __future__ import annotations

import asyncio
from dataclasses import asdict
from typing import Any

import msgspec
from fastapi import APIRouter, Request
from fastapi.responses import Response
from pydantic import BaseModel

from celeriac.messages import CHAMPION, ModelRef, check_model_name
from celeriac.registry.catalogue import Catalogue, ModelInfo, VersionInfo
from celeriac.registry.reference import unknown_model
from producer.client import who
from producer.gateway import body
from producer.gateway.cold import contexts, json_response
from producer.gateway.context import Caller


class Model(BaseModel):
    """One model."""

    name: str
    champion: int | None
    """The version that answers when none is named; null before the first promotion."""
    aliases: dict[str, int]
    versions: list[VersionInfo]
    """The newest first."""


class Models(BaseModel):
    """All models, by name."""

    models: list[Model]


class Drift(BaseModel):
    """Whether a model's single items of late look like what its versions were made for."""

    versions: list[dict[str, Any]]
    """As ``celeriac drift status --json`` has them; the newest first. Empty: nobody has looked."""


class Worker(BaseModel):
    """A worker that serves a model, or could."""

    hostname: str
    role: str
    version: int | None
    """The version that answers there when none is named; null: none yet."""
    kept_back: str
    """Why a newer champion could not be loaded; empty if none was."""


class Workers(BaseModel):
    """Which worker serves which version."""

    champion: int
    workers: list[Worker]


class Promotion(msgspec.Struct, forbid_unknown_fields=True):
    """``{"version": 3, "why"?, "force"?}``; ``force``: also if it is slower than the champion"""

    version: int
    why: str = ""
    force: bool = False


class Rollback(msgspec.Struct, forbid_unknown_fields=True):
    """``{"why"?}``"""

    why: str = ""


_LATENCY = {"anyOf": [{"type": "object", "additionalProperties": {"type": "number"}},
                      {"type": "null"}]}
_PROMOTED = {"application/json": {"schema": {
    "type": "object", "required": ["model", "version", "changed", "previous"], "properties": {
        "model": {"type": "string"}, "version": {"type": "integer"},
        "changed": {"type": "boolean"}, "previous": {"type": ["integer", "null"]},
        "latency": _LATENCY, "champion_latency": _LATENCY,
    },
}}}
_ROLLED_BACK = {"application/json": {"schema": {
    "type": "object", "required": ["model", "version", "from"], "properties": {
        "model": {"type": "string"}, "version": {"type": "integer"}, "from": {"type": "integer"},
    },
}}}
_promotion = msgspec.json.Decoder(Promotion)
_rollback = msgspec.json.Decoder(Rollback)

router = APIRouter(prefix="/v1/models", tags=["models"])
admin_router = APIRouter(prefix="/v1/models", tags=["models"])


@router.get("", summary="All models")
async def every(request: Request) -> Models:
    found = await _catalogue(request)
    return Models(models=[_shown(found[name]) for name in sorted(found)])


@router.get(
    "/{name}", summary="One model, with its versions and what they take and give",
    responses={404: {"description": "There is no such model"}},
)
async def show(name: str, request: Request) -> Model:
    found = await _catalogue(request)
    if name not in found:
        raise unknown_model(name, found)
    return _shown(found[name])


@router.get(
    "/{name}/drift", summary="Do items of late look like what the model was made for?",
    responses={404: {"description": "There is no such model"}},
)
async def drift(name: str, request: Request) -> Drift:
    """``state`` of a version: ``stable``, ``drift``, ``broken``, ``not_enough_data``,
    ``no_profile``."""
    found = await _catalogue(request)
    if name not in found:
        raise unknown_model(name, found)
    gateway, _ = contexts(request)
    return Drift(versions=[one.shown() for one in await gateway.client.standings(name)])


def _body(schema: type[msgspec.Struct], example: dict[str, Any]) -> dict[str, Any]:
    content = {"schema": msgspec.json.schema(schema)["$defs"][schema.__name__], "example": example}
    return {"requestBody": {"required": True, "content": {"application/json": content}}}


@admin_router.post(
    "/{name}/promote", summary="Make a version the champion, after its checks on a worker",
    openapi_extra=_body(Promotion, {"version": 1, "why": "better on the spring data"}),
    responses={
        200: {"description": "It is the champion", "content": _PROMOTED},
        409: {"description": "The version did not pass; the old one goes on serving"},
    },
)
async def promote(name: str, request: Request) -> Response:
    """Waits for the checks: the longest ([models] check_timeout_s) and 15 s, at most."""
    gateway, context = contexts(request)
    wanted = body.decode(gateway, await body.read(gateway, context), _promotion)
    done = await gateway.client.promote(
        f"{name}@{wanted.version}", wanted.why, who=_who(context.caller), force=wanted.force
    )
    return json_response(done)


@admin_router.post(
    "/{name}/rollback", summary="Make the champion before the last promotion champion again",
    openapi_extra=_body(Rollback, {"why": "wrong on long reviews"}),
    responses={
        200: {"description": "The old one is champion again", "content": _ROLLED_BACK},
        409: {"description": "There is nothing to go back to, or it did not pass"},
    },
)
async def rollback(name: str, request: Request) -> Response:
    """Waits as long as a promotion, at most."""
    gateway, context = contexts(request)
    data = await body.read(gateway, context)
    wanted = body.decode(gateway, data, _rollback) if data else Rollback()
    done = await gateway.client.rollback(name, wanted.why, who=_who(context.caller))
    return json_response(done)


@admin_router.get(
    "/{name}/workers", summary="Which worker serves which version of a model",
    responses={404: {"description": "There is no such model, or none of it is promoted"}},
)
async def workers(name: str, request: Request) -> Workers:
    gateway, _ = contexts(request)
    version = Catalogue(models=await _catalogue(request)).resolve(
        ModelRef.parse(check_model_name(name))
    )
    found = await gateway.client.serving(name, version.device)
    return Workers(
        champion=version.version, workers=[Worker(**asdict(worker)) for worker in found]
    )


async def _catalogue(request: Request) -> dict[str, ModelInfo]:
    gateway, context = contexts(request)
    found = await asyncio.to_thread(gateway.client.routes.catalogue, context.left_s())
    return found.models


def _shown(model: ModelInfo) -> Model:
    versions = [model.versions[number] for number in sorted(model.versions, reverse=True)]
    return Model(
        name=model.name, champion=model.aliases.get(CHAMPION), aliases=model.aliases,
        versions=versions,
    )


def _who(caller: Caller) -> str:
    """For the model's history: the key's name, or without keys the user of the gateway."""
    return f"{caller.name} (key)" if caller.name != "-" else who()
