"""Orders: datasets that a batch worker plans. The ledger keeps them until it does.

Whoever gives an order, over HTTP or in Python, reads no dataset and may end at once: nothing is
lost with it. A worker that ends while it plans is replaced by the next one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import msgspec

from celeriac import errors
from celeriac.datasets.places import Place, S3Path, absolute
from celeriac.datasets.records import Aggregation
from celeriac.datasets.roots import find_inside
from celeriac.jobs.folder import JobFolder
from celeriac.jobs.ledger import Answer, JobEntry, JobState
from celeriac.jobs.manifest import Manifest, read_manifest
from celeriac.jobs.order import Order, decode_order, encode_order
from celeriac.jobs.plan import JobPlan, new_job_id
from celeriac.messages import ModelRef
from celeriac.registry.catalogue import VersionInfo, fetch
from producer import waves
from producer.broker import Broker
from producer.datasets import Ordered, check_options, submit_dataset
from producer.jobs import JobHandle, JobStatus, open_ledger, publish_missing, redis_errors
from producer.planning import Replaced

PlannedBy = Literal["auto", "client", "worker"]
"""Who reads a dataset and cuts it into chunks: whoever is better placed while the call waits; this
process; or a worker after the call."""
MAX_ORDER_BYTES = 100_000


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
    text = encode_order(order)
    if len(text) > MAX_ORDER_BYTES:
        raise errors.PayloadTooLarge(f"the job's options take more than {MAX_ORDER_BYTES:,} bytes")
    with redis_errors(broker):
        state, held = open_ledger(broker).order(
            job_id, model=order.model.partition("@")[0], version=version.version,
            device=version.batch_device, source=order.source, output=order.output,
            tenant=order.tenant, id_column=str(order.options.get("id_column") or ""),
            expires_ms=order.expires_ms, order=text, digest=digest,
        )
        if state is None:  # if this process ends before: the reconciler sends it
            waves.publish_plan(broker.redis, job_id, version.batch_device)
    return Placed(state is None, state is None or held == digest)


def order_dataset(  # noqa: PLR0913 - a dataset, and what is said of its job
    broker: Broker, source: Any, model: str, output: str | Place, *, job_id: str | None = None,
    expires_s: float | None = None, on_progress: object = None, **options: Any,
) -> JobHandle:
    """As :func:`producer.datasets.submit_dataset`, with the same arguments; a worker plans the job.

    ``source`` is a file, a folder or a pattern. The same order under the same ``job_id`` is the
    same job (``handle.resumed``). Raises RequestError for what is wrong whatever the dataset is,
    DatasetError for an empty path, Conflict for another order under the id of a job, ModelNotFound,
    VersionNotFound, PayloadTooLarge and BrokerError. All else ends the job as ``failed``.
    """
    check_options(output, job_id=job_id, expires_s=expires_s, **options)
    check_elsewhere(source, on_progress)
    ref = ModelRef.parse(model)
    with redis_errors(broker):
        version = fetch(broker.redis).resolve(ref)
    now = datetime.now(UTC)
    expires_ms = round((now.timestamp() + expires_s) * 1_000) if expires_s else 0
    asked = _as_json({
        "source": absolute(source), "model": model, "output": str(JobFolder(output).path),
        "expires_s": expires_s, "options": _said(options),
    })
    order = Order(
        source=asked["source"], model=f"{ref.name}@{version.version}", output=asked["output"],
        options=asked["options"], source_roots=None, output_roots=None, expires_ms=expires_ms,
    )
    wanted = job_id or new_job_id(now)
    placed = place(broker, wanted, order, version, digest_of(asked))
    if not placed.is_same:
        raise errors.Conflict(
            f"job {wanted!r} is there already, of another order: take another job_id, or "
            "client.job(...) for that one"
        )
    return JobHandle(broker, wanted, order.output, resumed=not placed.is_new)


def is_for_worker(planned_by: str) -> bool:
    """True if a worker is to plan after the call. Raises RequestError for who plans nothing."""
    if planned_by not in get_args(PlannedBy):
        raise errors.RequestError(f"planned_by is 'auto', 'client' or 'worker', not {planned_by!r}")
    return planned_by == "worker"


def check_elsewhere(source: Any, on_progress: object) -> None:
    """Raises RequestError for what a worker cannot plan, because only this process has it, and
    DatasetError for no dataset."""
    if not isinstance(source, (str, Path, S3Path)):
        raise errors.RequestError(
            f"a worker cannot see a {type(source).__name__} of this process: write it to a file "
            "and name that, or leave planned_by out and this process plans the job"
        )
    if not str(source):
        raise errors.DatasetError("no dataset is named: its path is empty")
    if on_progress is not None:
        raise errors.RequestError(
            "on_progress tells how far this process has planned, and planned_by='worker' leaves "
            "that to a worker: handle.wait(on_progress=...) tells how far the job is"
        )


def _said(options: dict[str, Any]) -> dict[str, Any]:
    """Without those that say nothing."""
    said = {name: one for name, one in options.items() if one is not None and one is not False}
    if "aggregate" in said:
        said["aggregate"] = Aggregation.of(said["aggregate"])
    if "keep_columns" in said:
        said["keep_columns"] = list(said["keep_columns"])
    return said


def _as_json(asked: dict[str, Any]) -> dict[str, Any]:
    """What a worker will be told. Raises RequestError for what JSON cannot say."""
    try:
        told: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(asked))
    except (TypeError, ValueError) as error:
        raise errors.RequestError(f"a worker cannot be told of this dataset: {error}") from error
    return told


def plan(
    broker: Broker, job_id: str, planner: str, is_stopped: Callable[[], bool] = lambda: False
) -> JobStatus | None:
    """Plan what was ordered, or go on with what was planned before; None: nobody knows it.

    Raises what :func:`producer.datasets.submit_dataset` does, and Cancelled if it was stopped,
    or the job is no longer that of ``planner``, a token of :meth:`Ledger.claim_plan`.
    """
    with redis_errors(broker):
        entry, text = open_ledger(broker).entry(job_id), open_ledger(broker).order_of(job_id)
    if entry is None:
        return None
    order, folder = decode_order(text), JobFolder(entry.output)
    held = _held(folder, job_id)
    complete = None if held is None else read_manifest(folder)
    resumes = order.resumes or order.resume_share is not None  # orders of before have the share
    if order.source and not (held and resumes):
        _submit(broker, job_id, order, planner, is_stopped)
    elif held is None:
        raise errors.JobNotFound("the job's output folder is gone; submit the dataset again")
    elif complete is None:
        _go_on(broker, folder, held, order, planner)
    if complete is not None:
        _finish(broker, complete, planner)
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


def _held(folder: JobFolder, job_id: str) -> JobPlan | None:
    """The plan in the folder, if it is that of this job and whole."""
    held = folder.load() if folder.holds_job() else None
    return held if held is not None and held.job_id == job_id and folder.plan.exists() else None


def _submit(
    broker: Broker, job_id: str, order: Order, planner: str, is_stopped: Callable[[], bool]
) -> None:
    """Plan what was ordered. The same plan of a job that was forgotten goes on; another one is
    refused, as ever."""
    if order.output_roots is not None and find_inside(order.output, order.output_roots) is None:
        raise errors.OutputConflict("the output leads out of the folders that jobs may write to")

    def check(_read: int, _total: int) -> None:
        if is_stopped():
            _check_planner(broker, job_id, planner)  # or its time is over
            raise errors.Cancelled(f"job {job_id} was stopped while it was planned")

    options = order.options
    if order.resume_share is not None:
        options = options | {"max_error_share": order.resume_share}
    submit_dataset(
        broker, order.source, order.model, order.output, **options, job_id=job_id,
        expires_s=_left_s(order), on_progress=check,
        ordered=Ordered(
            order.tenant, order.source_roots, planner,
            lambda: _check_planner(broker, job_id, planner),
        ),
    )


def _check_planner(broker: Broker, job_id: str, planner: str) -> None:
    """Raises Cancelled if the job has ended, and Replaced if it is another's to plan."""
    with redis_errors(broker):
        answer = open_ledger(broker).renew_plan(job_id, broker.settings.batch.lease_s, planner)
    if answer is Answer.LOST:
        raise Replaced(f"job {job_id} is no longer this process's to plan")
    if answer is not Answer.KEPT:
        raise errors.Cancelled(f"job {job_id} was stopped while it was planned")


def _go_on(
    broker: Broker, folder: JobFolder, held: JobPlan, order: Order, planner: str
) -> None:
    _check_planner(broker, held.job_id, planner)
    folder.forget(folder.unread(held))  # nobody is at work on a job that is planned
    publish_missing(
        broker, folder, held, folder.chunks(held), max_error_share=order.resume_share,
        expires_ms=order.expires_ms, validated=True, planner=planner,
    )


def _finish(broker: Broker, complete: Manifest, planner: str) -> None:
    """End a job that turned out to be complete."""
    dead = complete.rows_dead
    with redis_errors(broker):
        open_ledger(broker).finish(
            complete.job_id, JobState(complete.state), rows_done=complete.rows_in - dead,
            rows_failed=complete.rows_failed - dead, rows_dead=dead, planner=planner,
        )


def _left_s(order: Order) -> float | None:
    if not order.expires_ms:
        return None
    left_s = order.expires_ms / 1_000 - datetime.now(UTC).timestamp()
    if left_s <= 0:
        raise errors.JobFailed("the job's time (expires_s) was over before it could be planned")
    return left_s
