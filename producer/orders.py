"""Orders: datasets that were asked for over HTTP. The ledger keeps them; a batch worker plans them.

Whoever takes an order reads no dataset and may end at once: nothing is lost with it. A worker that
ends while it plans is replaced by the next one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, NamedTuple

import msgspec
from msgspec.structs import replace

from celeriac import errors
from celeriac.datasets.roots import find_inside
from celeriac.jobs.folder import JobFolder
from celeriac.jobs.ledger import JobEntry, JobState
from celeriac.jobs.manifest import read_manifest
from celeriac.jobs.plan import DEFAULT_TENANT, JobPlan
from celeriac.registry.catalogue import VersionInfo
from producer import waves
from producer.broker import Broker
from producer.datasets import Ordered, submit_dataset
from producer.jobs import (
    JobHandle,
    JobStatus,
    check_share,
    open_ledger,
    publish_missing,
    redis_errors,
)

MAX_ORDER_BYTES = 100_000


class Order(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A dataset and how it is to be scored. Paths are absolute, with links resolved."""

    source: str = ""
    """Empty: the job was planned by who submitted it."""
    model: str = ""
    """``NAME@VERSION``."""
    output: str = ""
    options: dict[str, Any] = {}
    """Further arguments of :func:`producer.datasets.submit_dataset`."""
    tenant: str = DEFAULT_TENANT
    source_roots: tuple[str, ...] = ()
    output_roots: tuple[str, ...] = ()
    expires_ms: int = 0
    """Unix time at which the job ends. 0: never."""
    resume_share: float | None = None
    """``max_error_share`` from now on."""


class Placed(NamedTuple):
    """What became of an order."""

    is_new: bool
    is_same: bool
    """False: there is a job with this id, from another order."""


def place(
    broker: Broker, job_id: str, order: Order, version: VersionInfo, digest: str
) -> Placed:
    """Keep an order, and have it planned. A job that is there already stays as it is.

    ``digest`` tells one order from another. Raises PayloadTooLarge and BrokerError.
    """
    text = msgspec.json.encode(order).decode()
    if len(text) > MAX_ORDER_BYTES:
        raise errors.PayloadTooLarge(f"the job's options take more than {MAX_ORDER_BYTES:,} bytes")
    with redis_errors(broker):
        state, held = open_ledger(broker).order(
            job_id, model=order.model.partition("@")[0], version=version.version,
            device=version.batch_device, source=order.source, output=order.output,
            tenant=order.tenant,
            id_column=str(order.options.get("id_column") or ""), order=text, digest=digest,
        )
        if state is None:  # if this process ends before: the reconciler sends it
            waves.publish_plan(broker.redis, job_id, version.batch_device)
    return Placed(state is None, state is None or held == digest)


def resume(broker: Broker, job_id: str, max_error_share: float | None = None) -> JobStatus:
    """Have a job go on that was cancelled, has failed or expired; a worker looks what is missing.

    One that was never planned is planned. Any other job stays as it is. Raises JobNotFound,
    BrokerError, and RequestError for a share that is none.
    """
    ledger = open_ledger(broker)
    share = check_share(max_error_share)
    with redis_errors(broker):
        entry, text = ledger.entry(job_id), ledger.order_of(job_id)
        if entry is None:
            raise errors.JobNotFound(f"no job {job_id!r}")
        order = replace(_decode(text), resume_share=share, expires_ms=0)
        _, found = ledger.reopen(job_id, msgspec.json.encode(order).decode())
        if found:
            waves.publish_plan(broker.redis, job_id, entry.device or "cpu")
    return JobHandle.open(broker, job_id).status()


def plan(
    broker: Broker, job_id: str, is_stopped: Callable[[], bool] = lambda: False
) -> JobStatus | None:
    """Plan what was ordered, or go on with what was planned before; None: nobody knows it.

    Raises what :func:`producer.datasets.submit_dataset` does, and Cancelled if it was stopped.
    """
    with redis_errors(broker):
        entry, text = open_ledger(broker).entry(job_id), open_ledger(broker).order_of(job_id)
    if entry is None:
        return None
    order, folder = _decode(text), JobFolder(entry.output)
    held = folder.load() if folder.holds_job() else None
    if held is not None and held.job_id == job_id and folder.plan.exists():
        _go_on(broker, folder, held, order)
    elif order.source:
        _submit(broker, job_id, order, is_stopped)
    else:
        raise errors.JobNotFound("the job's output folder is gone; submit the dataset again")
    return JobHandle(broker, job_id, folder.path).status()


def digest_of(fields: dict[str, Any]) -> str:
    """The same for the same order."""
    return hashlib.sha256(msgspec.json.encode(fields, order="sorted")).hexdigest()


def entries(broker: Broker, ids: list[str]) -> list[JobEntry | None]:
    """What is known of these jobs, in one exchange. Raises BrokerError."""
    with redis_errors(broker):
        return open_ledger(broker).known(ids)


def page(
    broker: Broker, tenant: str, limit: int, after: str
) -> tuple[list[JobEntry], bool] | None:
    """As :meth:`Ledger.page`. Raises BrokerError."""
    with redis_errors(broker):
        return open_ledger(broker).page(tenant, limit, after)


def _submit(
    broker: Broker, job_id: str, order: Order, is_stopped: Callable[[], bool]
) -> None:
    if find_inside(order.output, order.output_roots) is None:
        raise errors.OutputConflict("the output leads out of the folders that jobs may write to")

    def check(_read: int, _total: int) -> None:
        if is_stopped():
            raise errors.Cancelled(f"job {job_id} was stopped while it was planned")

    submit_dataset(
        broker, order.source, order.model, order.output, **order.options, job_id=job_id,
        expires_s=_left_s(order), on_progress=check,
        ordered=Ordered(order.tenant, order.source_roots),
    )


def _go_on(broker: Broker, folder: JobFolder, held: JobPlan, order: Order) -> None:
    manifest = read_manifest(folder)
    if manifest is None:
        folder.forget(folder.unread(held))  # nobody is at work on a job that is planned
        publish_missing(
            broker, folder, held, folder.chunks(held), max_error_share=order.resume_share,
            expires_ms=order.expires_ms, validated=True,
        )
        return
    dead = manifest.rows_dead
    with redis_errors(broker):
        open_ledger(broker).finish(
            held.job_id, JobState(manifest.state), rows_done=manifest.rows_in - dead,
            rows_failed=manifest.rows_failed - dead, rows_dead=dead,
        )


def _left_s(order: Order) -> float | None:
    if not order.expires_ms:
        return None
    left_s = order.expires_ms / 1_000 - datetime.now(UTC).timestamp()
    if left_s <= 0:
        raise errors.JobFailed("the job's time (expires_s) was over before it could be planned")
    return left_s


def _decode(text: str) -> Order:
    return msgspec.json.decode(text, type=Order) if text else Order()
