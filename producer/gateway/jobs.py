"""Jobs over HTTP: datasets by storage path, in the style of the Batch APIs of large providers.

Nothing here reads a dataset or plans a job: a batch worker does, from the order in the ledger.
"""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

import msgspec
from fastapi import APIRouter, Query, Request
from fastapi.responses import Response, StreamingResponse
from msgspec import Meta

from celeriac import errors
from celeriac.datasets.records import Aggregation
from celeriac.datasets.roots import find_inside, relative_to, roots_of
from celeriac.jobs.folder import JobFolder
from celeriac.jobs.ledger import JobState
from celeriac.jobs.order import Order
from celeriac.jobs.plan import is_job_id, new_job_id
from celeriac.messages import ModelRef
from celeriac.registry.catalogue import VersionInfo
from celeriac.settings import GatewaySettings
from celeriac.submissions.requests import id_of_key
from producer import orders
from producer.gateway import body, results
from producer.gateway.cold import contexts, json_response
from producer.gateway.context import Gateway, RequestContext
from producer.gateway.disclosure import Disclosure
from producer.gateway.failures import Forbidden, fault
from producer.gateway.progress import is_told
from producer.jobs import JobStatus

MOST_SHOWN = 100
"""Jobs of one page, at most."""
Text = Annotated[str, Meta(min_length=1, max_length=1_024)]


class JobRequest(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """A dataset, the model and the output folder; and what ``client.submit_dataset`` takes."""

    source: Text
    """File, folder or pattern below a ``dataset_roots`` of the gateway."""
    model: Text
    """NAME, NAME@VERSION or NAME@ALIAS."""
    output: Text
    """New folder below an ``output_roots`` of the gateway."""
    chunk_rows: Annotated[int, Meta(ge=1, le=100_000_000)] | None = None
    text_column: Text | None = None
    keep_columns: Annotated[list[Text], Meta(max_length=10_000)] | None = None
    id_column: Text | None = None
    """Names the rows, as custom ids do elsewhere; also those that fail."""
    output_format: Literal["parquet", "csv", "jsonl"] = "parquet"
    merge: bool = False
    aggregate: dict[str, Any] | None = None
    model_column: bool = False
    error_column: bool = False
    dedupe: bool = False
    max_error_share: Annotated[float, Meta(ge=0, le=1)] | None = None
    expires_s: Annotated[float, Meta(gt=0, le=315_360_000)] | None = None


class ResumeRequest(msgspec.Struct, forbid_unknown_fields=True):
    """``{"max_error_share"?}``"""

    max_error_share: Annotated[float, Meta(ge=0, le=1)] | None = None


_wanted = msgspec.json.Decoder(JobRequest)
_resumed = msgspec.json.Decoder(ResumeRequest)

_EXAMPLE = {
    "id": "20261122-142233-5f0c1d", "object": "batch", "status": "in_progress",
    "model": "reviews", "version": 1, "source": "reviews.csv", "output": "reviews-1",
    "id_column": "id", "created_at": 1795357353, "in_progress_at": 1795357354,
    "completed_at": None, "failed_at": None, "cancelled_at": None, "expired_at": None,
    "expires_at": None, "request_counts": {"total": 1000, "completed": 400, "failed": 1},
    "chunks": {"total": 5, "done": 2, "running": 2, "queued": 1, "dead": 0},
    "rows_per_s": 5200.0, "eta_s": 0.115, "error": None,
}  # fmt: skip
JOB: dict[str, Any] = {"application/json": {"schema": {
    "type": "object", "required": ["id", "object", "status", "request_counts"],
    "properties": {
        "id": {"type": "string"}, "object": {"const": "batch"},
        "status": {"enum": [str(state) for state in JobState]},
        "request_counts": {"type": "object"}, "error": {"type": ["object", "null"]},
    },
}, "example": _EXAMPLE}}
_LIST = {"application/json": {"schema": {
    "type": "object", "required": ["object", "data", "has_more", "first_id", "last_id"],
    "properties": {
        "object": {"const": "list"}, "has_more": {"type": "boolean"},
        "data": {"type": "array", "items": JOB["application/json"]["schema"]},
        "first_id": {"type": ["string", "null"]}, "last_id": {"type": ["string", "null"]},
    },
}}}
IDEMPOTENCY_KEY = {
    "name": "Idempotency-Key", "in": "header", "schema": {"type": "string"},
    "description": "The same key and body again mean the same job; another body is refused",
}
_NEW = {
    "parameters": [IDEMPOTENCY_KEY],
    "requestBody": {"required": True, "content": {"application/json": {
        "schema": msgspec.json.schema(JobRequest)["$defs"]["JobRequest"],
        "example": {
            "source": "reviews.csv", "model": "reviews", "output": "reviews-1",
            "id_column": "id", "output_format": "csv", "merge": True,
        },
    }}},
}  # fmt: skip
_RESUME = {"requestBody": {"required": False, "content": {"application/json": {
    "schema": msgspec.json.schema(ResumeRequest)["$defs"]["ResumeRequest"],
    "example": {"max_error_share": 0.05},
}}}}
_UNKNOWN: dict[int | str, dict[str, Any]] = {
    404: {"description": "Your tenant has no such job (any more)"}
}

router = APIRouter(prefix="/v1/jobs", tags=["jobs"])


@router.post("", status_code=202, summary="Score a dataset", openapi_extra=_NEW, responses={
    202: {"description": "It is accepted: `validating` until it is planned", "content": JOB},
    200: {"description": "The job that came of the same request before", "content": JOB},
    403: {"description": "A path that this gateway does not open, or no folders are configured"},
    404: {"description": "There is no such model"},
    409: {"description": "The Idempotency-Key came with another body"},
})  # fmt: skip
async def submit(request: Request) -> Response:
    """Answers at once. What is wrong with the dataset shows in the job: `failed`, with `error`."""
    gateway, context = contexts(request)
    wanted = body.decode(gateway, await body.read(gateway, context), _wanted)
    return await accept(gateway, context, wanted)


async def accept(
    gateway: Gateway, context: RequestContext, wanted: JobRequest, path: str = "/v1/jobs",
    asked: msgspec.Struct | None = None,
) -> Response:
    """Keep an order; the answer is the job, which will be found under ``path``.

    ``asked`` is the body that came, if that is not ``wanted``: by it the same request is known
    again. Raises Forbidden for a path outside the roots, Conflict for an idempotency key of
    another one.
    """
    if wanted.aggregate is not None:
        Aggregation.of(wanted.aggregate)
    version = await _version(gateway, context, wanted.model)
    order = await results.in_thread(_order, gateway, context, wanted, version)
    job_id = _job_id(context)
    digest = orders.digest_of(msgspec.to_builtins(asked or wanted))
    placed = await gateway.client.order_job(job_id, order, version, digest)
    if not placed.is_same:
        raise errors.Conflict("this Idempotency-Key came with another body before; take a new key")
    status = await _status(gateway, context, job_id)
    response = _job(gateway, context, status, 202 if placed.is_new else 200)
    response.headers["Location"] = f"{path}/{job_id}"
    return response


@router.get("", summary="Your tenant's jobs, the newest first", responses={
    200: {"description": "One page", "content": _LIST},
})  # fmt: skip
async def every(
    request: Request,
    limit: Annotated[int, Query(ge=1, le=MOST_SHOWN)] = 20,
    after: Annotated[str, Query(max_length=64, description="The last id of the page before")] = "",
) -> Response:
    """At most the newest 1,000, as long as Redis remembers them ([batch] job_ttl_s)."""
    gateway, context = contexts(request)
    page = await gateway.client.job_page(context.caller.tenant, limit, after)
    if page is None:
        raise fault("after: no job of the list (any more); begin with the first page", "after")
    found, has_more = page
    data = [_shown(gateway, context, status) for status in found]
    return json_response({
        "object": "list", "data": data, "has_more": has_more,
        "first_id": data[0]["id"] if data else None, "last_id": data[-1]["id"] if data else None,
    })


@router.get("/{id}", summary="Where a job stands", responses={
    200: {"description": "The job", "content": JOB}, **_UNKNOWN
})  # fmt: skip
async def show(id: str, request: Request) -> Response:
    gateway, context = contexts(request)
    return _job(gateway, context, await _status(gateway, context, id))


@router.post("/{id}/cancel", summary="Stop a job within seconds", responses={
    200: {"description": "Its state now", "content": JOB}, **_UNKNOWN
})  # fmt: skip
async def cancel(id: str, request: Request) -> Response:
    """What is done stays; resume goes on. A job that has ended stays as it is."""
    gateway, context = contexts(request)
    await gateway.client.cancel_job(await _status(gateway, context, id))
    return _job(gateway, context, await _status(gateway, context, id))


@router.post("/{id}/resume", status_code=202, openapi_extra=_RESUME, responses={
    202: {"description": "Its state now", "content": JOB}, **_UNKNOWN
}, summary="Go on with a job that was cancelled, has failed or expired")  # fmt: skip
async def resume(id: str, request: Request) -> Response:
    """Only what is missing is scored. Any other job stays as it is."""
    gateway, context = contexts(request)
    data = await body.read(gateway, context)
    share = body.decode(gateway, data, _resumed).max_error_share if data else None
    await _status(gateway, context, id)
    await gateway.client.resume_job(id, share)
    return _job(gateway, context, await _status(gateway, context, id), 202)


@router.get("/{id}/results", summary="The files of a finished job", responses={
    200: {"description": "The files", "content": results.SHAPE},
    409: {"description": "It has no results (yet, or any more)"}, **_UNKNOWN
})  # fmt: skip
async def files(id: str, request: Request) -> Response:
    """Parts in the order of the dataset, then what was made of them."""
    gateway, context = contexts(request)
    folder, status = await folder_of(gateway, context, id)
    found = await results.in_thread(results.list_results, folder, status)
    return json_response({"object": "list", "data": [one.shown for one in found]})


@router.get("/{id}/results/{name:path}", summary="One file of them", response_class=Response,
            responses={
    200: {"description": "Its content", "content": {kind: {} for kind in results.KINDS}},
    206: {"description": "A part of it (`Range`)", "content": {kind: {} for kind in results.KINDS}},
    409: {"description": "It has no results (yet, or any more)"},
    416: {"description": "It has no such part"}, **_UNKNOWN
})  # fmt: skip
async def file(id: str, name: str, request: Request) -> Response:
    """`name` as in the list: `parts/part-00000.csv`, `manifest.json`, `report.html`."""
    gateway, context = contexts(request)
    folder, status = await folder_of(gateway, context, id)
    found, path = await results.in_thread(results.find_result, folder, status, name)
    tenant, limits = context.caller.tenant, gateway.limits
    roots = roots_of(tenant, (*limits.dataset_roots, *limits.output_roots))
    return results.respond(found, path, Disclosure(roots), is_head=context.method == "HEAD")


@router.get("/{id}/events", summary="Progress as server-sent events", response_class=Response,
            responses={
    200: {"description": "`event: status` at each change, then `event: end`; `data` is the job",
          "content": {"text/event-stream": {}}},
    204: {"description": "The job has ended, and `Last-Event-ID` is the event that said so"},
    503: {"description": "There are too many streams"}, **_UNKNOWN
})  # fmt: skip
async def events(id: str, request: Request) -> Response:
    """Each event says all, so after a break just connect again; `Last-Event-ID` is understood."""
    gateway, context = contexts(request)
    status = await _status(gateway, context, id)
    last_id = context.header(b"last-event-id")
    if status.state.is_final and is_told(_shown(gateway, context, status), last_id):
        return Response(status_code=204)  # a browser would come again and again otherwise
    limits, tenant = gateway.limits, context.caller.tenant
    gateway.progress.check_room(limits.max_event_streams, tenant, share_of_tenant(limits))
    stream = gateway.progress.events(
        status, lambda now: _shown(gateway, context, now), last_id,
    )
    return StreamingResponse(stream, media_type="text/event-stream", headers={
        "Cache-Control": "no-store", "X-Accel-Buffering": "no",
    })


def share_of_tenant(limits: GatewaySettings) -> int:
    """Streams of events that one of several tenants may have: half of all. 0, no bound of its own:
    there is one tenant."""
    tenants = {key.tenant for key in limits.keys.values()}
    return (limits.max_event_streams + 1) // 2 if len(tenants) > 1 else 0


# --- a new job ------------------------------------------------------------------------------------


async def _version(gateway: Gateway, context: RequestContext, model: str) -> VersionInfo:
    ref = ModelRef.parse(model)
    context.model = ref.name
    return await gateway.client.version(ref, context.left_s())


def _order(
    gateway: Gateway, context: RequestContext, wanted: JobRequest, version: VersionInfo
) -> Order:
    """What is kept. Raises Forbidden for a path outside the roots."""
    tenant, limits = context.caller.tenant, gateway.limits
    source_roots = roots_of(tenant, limits.dataset_roots)
    output_roots = roots_of(tenant, limits.output_roots)
    source = _inside("source", wanted.source, source_roots, "dataset_roots")
    output = _inside("output", wanted.output, output_roots, "output_roots")
    if any(find_inside(root, [root]) == find_inside(output, [root]) for root in output_roots):
        raise _forbidden("output", "output: name a folder below the root, not the root itself")
    options = msgspec.to_builtins(wanted)
    for name in ("source", "model", "output", "expires_s"):
        options.pop(name, None)
    expires_ms = 0
    if wanted.expires_s is not None:
        expires_ms = round((datetime.now(UTC).timestamp() + wanted.expires_s) * 1_000)
    return Order(
        source=source, model=f"{ModelRef.parse(wanted.model).name}@{version.version}",
        output=output, tenant=tenant, source_roots=source_roots, output_roots=output_roots,
        options={name: value for name, value in options.items() if value is not None},
        expires_ms=expires_ms,
    )


def _inside(field: str, name: str, roots: tuple[str, ...], setting: str) -> str:
    if not roots:
        raise _forbidden(
            field, f"this gateway takes no jobs: [gateway] {setting} names no folder for them"
        )
    found = find_inside(name, roots)
    if found is None:
        raise _forbidden(
            field, f"{field}: lies in no folder that jobs may use here ([gateway] {setting})"
        )
    return str(found)


def _forbidden(field: str, message: str) -> Forbidden:
    error = Forbidden(message)
    error.field = field
    return error


def _job_id(context: RequestContext) -> str:
    """New, or that of the caller's idempotency key: one job for each key of a tenant."""
    key = context.headers.get(b"idempotency-key")
    if key is None:
        return new_job_id(datetime.now(UTC))
    named = f"{context.caller.tenant} {id_of_key(key.decode('latin-1'))}"
    return f"key-{hashlib.sha256(named.encode()).hexdigest()[:32]}"


# --- a known job ----------------------------------------------------------------------------------


async def _status(gateway: Gateway, context: RequestContext, job_id: str) -> JobStatus:
    """What is known of the caller's job. Raises JobNotFound for one of another tenant, too."""
    found: list[JobStatus | None] = [None]
    if is_job_id(job_id):
        found = await gateway.client.job_statuses([job_id])
    status = found[0]
    if status is None or status.tenant != context.caller.tenant:
        raise errors.JobNotFound(f"there is no job {job_id[:64]!r}, or it is forgotten by now")
    context.model = status.model
    return status


async def folder_of(
    gateway: Gateway, context: RequestContext, job_id: str
) -> tuple[JobFolder, JobStatus]:
    """The output of the caller's job, and how that stood just before.

    Raises Forbidden unless it lies where it may be read.
    """
    status = await _status(gateway, context, job_id)
    roots = roots_of(context.caller.tenant, gateway.limits.output_roots)
    output = await results.in_thread(_inside, "id", status.output, roots, "output_roots")
    return JobFolder(output), status


def _shown(gateway: Gateway, context: RequestContext, status: JobStatus) -> dict[str, Any]:
    """A job as callers see it; times are Unix seconds, None until they come."""
    tenant, limits, state = context.caller.tenant, gateway.limits, status.state
    ended = _seconds(status.ended_at)
    return {
        "id": status.id, "object": "batch", "status": str(state),
        "model": status.model, "version": status.version,
        "source": relative_to(status.source, roots_of(tenant, limits.dataset_roots)),
        "output": relative_to(status.output, roots_of(tenant, limits.output_roots)),
        "id_column": status.id_column or None,
        "created_at": _seconds(status.created_at), "in_progress_at": _seconds(status.started_at),
        "completed_at": ended if state.is_whole else None,
        "failed_at": ended if state is JobState.FAILED else None,
        "cancelled_at": ended if state is JobState.CANCELLED else None,
        "expired_at": ended if state is JobState.EXPIRED else None,
        "expires_at": _seconds(status.expires_at),
        "request_counts": {
            "total": status.rows_total, "completed": status.rows_ok, "failed": status.rows_failed,
        },
        "chunks": {
            "total": status.chunks_total, "done": status.chunks_done,
            "running": status.chunks_running, "queued": status.chunks_queued,
            "dead": status.chunks_dead,
        },
        "rows_per_s": _rounded(status.rows_per_s), "eta_s": _rounded(status.eta_s),
        "error": {"code": "job_failed", "message": _told(status.error)} if status.error else None,
    }  # fmt: skip


def _told(error: str) -> str:
    return errors.without_hosts(errors.without_paths(error, 1_000))


def _seconds(at: datetime | None) -> int | None:
    return None if at is None else int(at.timestamp())


def _rounded(number: float | None) -> float | None:
    return None if number is None else round(number, 3)


def _job(
    gateway: Gateway, context: RequestContext, status: JobStatus, status_code: int = 200
) -> Response:
    return json_response(_shown(gateway, context, status), status_code)
