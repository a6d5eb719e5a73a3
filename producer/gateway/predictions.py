"""Predictions that are fetched later: submit, look, wait a little, cancel."""

from __future__ import annotations

import asyncio
import re
import time
from datetime import datetime, timedelta
from typing import Any

import msgspec
from fastapi import APIRouter, Request
from fastapi.responses import Response

from celeriac.messages import decode_item
from celeriac.submissions.ledger import SubmissionState
from celeriac.submissions.requests import id_of_key
from producer.gateway import body
from producer.gateway.cold import contexts, response_of
from producer.gateway.context import JSON, Answer, Gateway, RequestContext
from producer.gateway.failures import described
from producer.handles import AsyncPredictionHandle, PredictionStatus

LONGEST_WAIT_S = 30
"""``Prefer: wait=N`` waits so long, at most, and never longer than the request may take."""
_PAUSES_S = (0.01, 0.02, 0.04, 0.08, 0.15, 0.25)
_WAIT = re.compile(r"(?:^|[,;\s])wait=(\d{1,6})(?:$|[,;\s])")
_ASYNC = re.compile(r"(?:^|[,;\s])respond-async(?:$|[,;\s])")
_OPEN_RETRY = (b"retry-after", b"1")

_encode = msgspec.json.Encoder().encode


class Submitted(msgspec.Struct, forbid_unknown_fields=True):
    """``{"item": X, "webhook"?, "expires_s"?}``"""

    item: Any
    webhook: str | None = None
    expires_s: float | None = None


class Put(Submitted, forbid_unknown_fields=True, kw_only=True):
    """``{"model", "item", "webhook"?, "expires_s"?}``"""

    model: str


_submitted = msgspec.json.Decoder(Submitted)
_put = msgspec.json.Decoder(Put)

_EXAMPLE = {
    "id": "order-7", "model": "reviews", "version": 3, "state": "done",
    "submitted_at": "2026-11-22T09:00:00.000Z", "started_at": "2026-11-22T09:00:00.004Z",
    "finished_at": "2026-11-22T09:00:00.009Z", "expires_at": "2026-11-23T09:00:00.000Z",
    "attempts": 1, "prediction": {
        "model": "reviews", "version": 3, "label": "positive", "probability": 0.98,
    },
}  # fmt: skip
SHAPE: dict[str, Any] = {"application/json": {"schema": {
    "type": "object",
    "required": ["id", "model", "state", "submitted_at", "expires_at", "attempts"],
    "properties": {
        "id": {"type": "string"}, "model": {"type": "string"},
        "version": {"type": ["integer", "null"]},
        "state": {"enum": ["queued", "running", "done", "failed", "cancelled", "expired"]},
        "submitted_at": {"type": "string", "format": "date-time"},
        "started_at": {"type": "string", "format": "date-time"},
        "finished_at": {"type": "string", "format": "date-time"},
        "expires_at": {"type": "string", "format": "date-time"},
        "attempts": {"type": "integer"}, "prediction": {"type": "object"},
        "error": {"type": "object"}, "webhook": {"type": "object"},
    },
}, "example": _EXAMPLE}}
_PUT_BODY = {"requestBody": {"required": True, "content": {"application/json": {
    "schema": {
        "type": "object", "required": ["model", "item"], "additionalProperties": False,
        "properties": {
            "model": {"type": "string"}, "item": {}, "webhook": {"type": ["string", "null"]},
            "expires_s": {"type": ["number", "null"], "minimum": 1},
        },
    },
    "example": {"model": "reviews", "item": "Best coffee I ever bought"},
}}}}
_PREFER = {"parameters": [{
    "name": "Prefer", "in": "header", "schema": {"type": "string"}, "example": "wait=5",
    "description": f"wait=N: answer when it has ended, after N (at most {LONGEST_WAIT_S}) seconds "
                   "at the latest",
}]}

router = APIRouter(prefix="/v1/predictions", tags=["asynchronous predictions"])


@router.put(
    "/{id}", summary="Submit an item under an id of your own", openapi_extra=_PUT_BODY,
    status_code=202, responses={
        200: {"description": "It has ended already", "content": SHAPE},
        202: {"description": "It is accepted", "content": SHAPE},
        409: {"description": "The id is that of another request"},
    },
)  # fmt: skip
async def put(id: str, request: Request) -> Response:
    """The same request again is the same prediction, so it may be repeated until it is answered."""
    gateway, context = contexts(request)
    data = await body.read(gateway, context)
    wanted = body.decode(gateway, data, _put)
    answer = await _enter(gateway, context, wanted.model, wanted, id)
    return response_of(answer)


@router.get(
    "/{id}", summary="Its state, and the prediction once it is done", openapi_extra=_PREFER,
    responses={
        200: {"description": "What is known of it", "content": SHAPE},
        404: {"description": "It was never submitted, or is forgotten"},
    },
)  # fmt: skip
async def show(id: str, request: Request) -> Response:
    """With `Prefer: wait=5` the answer comes when it has ended, after 5 s at the latest."""
    gateway, context = contexts(request)
    await body.read(gateway, context)  # none; but as long as it may come, it is waited for
    handle = await gateway.client.find(context.caller.tenant, id)
    status = await _after(gateway, handle, _wait_s(gateway, context), request)
    return response_of(_answer(status, 200))


@router.post(
    "/{id}/cancel", summary="Cancel it unless it has ended",
    responses={200: {"description": "Its state now", "content": SHAPE}},
)
async def cancel(id: str, request: Request) -> Response:
    """One that has ended stays as it is: look at `state`."""
    gateway, context = contexts(request)
    handle = await gateway.client.find(context.caller.tenant, id)
    await handle.cancel()
    return response_of(_answer(await handle.status(), 200))


def is_wanted(context: RequestContext) -> bool:
    """True if the caller wants to fetch the prediction later: ``Prefer: respond-async``."""
    return bool(_ASYNC.search(context.header(b"prefer")))


async def submitted(
    gateway: Gateway, context: RequestContext, model: str, data: bytes
) -> Answer:
    """``POST /v1/models/{model}/predict`` with ``Prefer: respond-async``: one item."""
    kind = context.headers.get(b"content-type", b"").lower()
    if kind.startswith(b"image/"):
        wanted = Submitted(item=data)
    else:
        body.check_kind(kind, data)
        wanted = body.decode(gateway, data, _submitted)
    key = context.headers.get(b"idempotency-key")
    prediction_id = None if key is None else id_of_key(key.decode("latin-1"))
    return await _enter(gateway, context, model, wanted, prediction_id)


async def _enter(
    gateway: Gateway, context: RequestContext, model: str, wanted: Submitted,
    prediction_id: str | None,
) -> Answer:
    context.model, context.items = model, 1
    item = wanted.item
    if isinstance(item, (dict, list)):
        item = decode_item(item)  # bytes and typed arrays are checked where they are wrapped
    handle, is_new = await gateway.client.submit_for(
        context.caller.tenant, model, item, prediction_id=prediction_id,
        expires_s=wanted.expires_s, webhook=wanted.webhook,
    )
    if is_new:
        status = _entered(gateway, handle, wanted)
    else:
        status = await handle.status()
    answer = _answer(status, 200 if status.state.is_final else 202)
    location = f"/v1/predictions/{handle.id}".encode("ascii")
    return answer._replace(headers=(*answer.headers, (b"location", location)))


def _entered(
    gateway: Gateway, handle: AsyncPredictionHandle, wanted: Submitted
) -> PredictionStatus:
    """What is known of a prediction in the moment in which it is entered."""
    given_s = wanted.expires_s or gateway.settings.realtime.submission_ttl_s
    return PredictionStatus(
        id=handle.id, model=handle.model, state=SubmissionState.QUEUED,
        submitted_at=handle.expires_at - timedelta(seconds=given_s),
        expires_at=handle.expires_at, webhook=wanted.webhook,
    )


async def _after(
    gateway: Gateway, handle: AsyncPredictionHandle, wait_s: float, request: Request
) -> PredictionStatus:
    """Its status when it has ended, or after ``wait_s``, or when nobody waits any more, or the
    gateway drains: another one is asked again."""
    end_s = time.monotonic() + wait_s
    pauses_s = iter(_PAUSES_S)
    while True:
        status = await handle.status()
        left_s = end_s - time.monotonic()
        if status.state.is_final or left_s <= 0 or gateway.is_draining:
            return status
        if await request.is_disconnected():
            return status
        await asyncio.sleep(min(next(pauses_s, _PAUSES_S[-1]), left_s))


def _wait_s(gateway: Gateway, context: RequestContext) -> float:
    found = _WAIT.search(context.header(b"prefer"))
    if found is None:
        return 0.0
    longest_s = gateway.limits.max_timeout_s
    if b"x-request-timeout-ms" in context.headers:  # without it `wait` says how long it may take
        longest_s = context.left_s()
    return min(float(found[1]), LONGEST_WAIT_S, longest_s)


def _answer(status: PredictionStatus, code: int) -> Answer:
    headers = (JSON,) if status.state.is_final else (JSON, _OPEN_RETRY)
    return Answer(code, _encode(shown(status)), headers)


def shown(status: PredictionStatus) -> dict[str, Any]:
    """A status as callers see it."""
    found: dict[str, Any] = {
        "id": status.id, "model": status.model,
        "version": status.prediction.version if status.prediction else None,
        "state": str(status.state), "submitted_at": _text(status.submitted_at),
        "started_at": _text(status.started_at), "finished_at": _text(status.ended_at),
        "expires_at": _text(status.expires_at), "attempts": status.attempts,
        "prediction": status.prediction,
        "error": described(status.error) if status.error else None,
        "webhook": None if status.webhook is None else {
            "url": status.webhook, "status": status.webhook_status or "waiting",
            "attempts": status.webhook_attempts, "reason": status.webhook_reason,
        },
    }
    always = ("version",)
    return {name: value for name, value in found.items() if value is not None or name in always}


def _text(at: datetime | None) -> str | None:
    if at is None:
        return None
    return at.isoformat(timespec="milliseconds").replace("+00:00", "Z")
