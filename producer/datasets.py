"""From a dataset to a job: resolve the model, check, plan, enter the job, publish its chunks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, get_args

import redis

from celeriac import errors
from celeriac.datasets.copies import Copies
from celeriac.datasets.libraries import require_readers
from celeriac.datasets.places import Place, describe
from celeriac.datasets.records import Aggregation, Format
from celeriac.jobs.folder import JobFolder
from celeriac.jobs.ledger import JobState
from celeriac.jobs.manifest import read_manifest
from celeriac.jobs.plan import DEFAULT_TENANT, check_job_id, make_plan, new_job_id
from celeriac.messages import ModelRef
from celeriac.registry.catalogue import VersionInfo, fetch
from producer import plan_requests
from producer.broker import Broker
from producer.jobs import JobHandle, check_share, open_ledger, publish_missing, redis_errors
from producer.plan_requests import PlanRequest
from producer.planning import Planned, PlanOptions, Progress, Replaced, plan_dataset

if TYPE_CHECKING:
    from celeriac.datasets.sources import Source

MAX_EXPIRES_S = 315_360_000
_FREE_LATER = (
    '; or submit it again when a batch worker is free to read it, or with planned_by="worker", '
    "which waits for one"
)


@dataclass(frozen=True)
class Ordered:
    """What is special about a dataset that a worker plans for somebody else."""

    tenant: str
    roots: tuple[str, ...] | None
    """Folders that it may be read from; None: any."""
    planner: str
    """As in :meth:`Ledger.enter`."""
    check: Callable[[], None]
    """Raises Cancelled if the job is not to be planned any more."""


def submit_dataset(  # noqa: PLR0913 - a dataset and its options
    broker: Broker,
    source: Any,
    model: str,
    output: str | Place,
    *,
    chunk_rows: int | None = None,
    text_column: str | None = None,
    keep_columns: Sequence[str] | None = None,
    id_column: str | None = None,
    output_format: Format = "parquet",
    merge: bool = False,
    aggregate: Aggregation | Mapping[str, Any] | None = None,
    model_column: bool = False,
    error_column: bool = False,
    dedupe: bool = False,
    max_error_share: float | None = None,
    job_id: str | None = None,
    expires_s: float | None = None,
    on_progress: Progress | None = None,
    ordered: Ordered | None = None,
    asks_worker: bool = False,
) -> JobHandle:
    """Score a dataset: plan it, queue its chunks, and return at once.

    ``source`` is a file (CSV, JSON lines, Parquet), a folder of them or of images, a pattern, or
    an Arrow table or a frame of this process; ``output`` a new folder. The workers reach both
    under the same path, or in S3 (``s3://bucket/...``). ``model`` is pinned to the version that it
    means now. ``keep_columns`` are joined to the predictions (default: all); so is ``id_column``,
    which also names rows that failed. ``merge`` also puts all parts into one file. ``aggregate``
    computes over groups of rows: ``{"by": "product", "mean": ["probability"], "share":
    {"prediction": "positive"}, "quantiles": {"probability": [0.5, 0.95]}}``. ``model_column`` adds
    who answered; ``error_column`` why a row failed, and then such rows stay in their place.
    ``dedupe``: equal rows of a chunk are predicted once. When more than ``max_error_share`` of the
    rows so far have failed (from 0 to 1; at least 1,000 rows, or all), the job fails. Submitting
    the same job to the same folder again continues it (``handle.resumed``). A job that has not
    ended ``expires_s`` from now is ``expired``: nothing more of it runs, unless it is resumed.
    ``ordered``: the job ``job_id`` is shown already, and takes no folder of another one.
    ``asks_worker``: a batch worker that is free reads the dataset, while this call waits, unless
    this process has loaded what reads it, or only it can read it.

    Raises ModelNotFound, VersionNotFound, DatasetError, OutputConflict, BrokerError, and Conflict
    if ``job_id`` is that of a job with another output that has not ended; then nothing was queued.
    """
    check_options(
        output, output_format=output_format, chunk_rows=chunk_rows, aggregate=aggregate,
        max_error_share=max_error_share, job_id=job_id, expires_s=expires_s,
    )
    batch = broker.settings.batch
    options = PlanOptions(
        chunk_rows=chunk_rows, default_chunk_rows=batch.chunk_rows, chunk_bytes=batch.chunk_bytes,
        text_column=text_column, id_column=id_column, output_format=output_format, merge=merge,
        keep_columns=None if keep_columns is None else tuple(keep_columns),
        aggregate=None if aggregate is None else Aggregation.of(aggregate),
        model_column=model_column, error_column=error_column, dedupe=dedupe,
    )
    share = batch.max_error_share if max_error_share is None else max_error_share
    ref = ModelRef.parse(model)
    with redis_errors(broker):
        version = fetch(broker.redis).resolve(ref)
    folder = JobFolder(output)
    folder.check_free()
    if ordered and folder.holds_job():
        _check_ours(folder, str(job_id))
    now = datetime.now(UTC)
    wanted = job_id or new_job_id(now)
    shown = describe(source)
    copies = Copies(folder.copies)
    validated = ordered is not None or not folder.holds_job()
    shows = nullcontext() if ordered else _validating(broker, folder, wanted, ref, version, shown)
    with shows, _discarding(copies):
        planned = None
        asks = asks_worker and plan_requests.may_ask(source, folder.path)
        if asks:
            request = PlanRequest(shown, f"{ref.name}@{version.version}", str(folder.path), options)
            planned = plan_requests.ask(
                broker, request, version.batch_device, copies, on_progress
            )
        if planned is None:
            require_readers(_FREE_LATER if asks else "")
            planned = _plan(source, ref.name, version, options, copies, on_progress, ordered)
        ours = make_plan(
            planned.dataset, planned.scoring, source=shown, job_id=wanted, now=now,
            max_error_share=share, sample_rows=batch.sample_rows,
            tenant=ordered.tenant if ordered else DEFAULT_TENANT,
        )
        if ordered:
            ordered.check()
        existed = folder.holds_job()
        plan = folder.create(ours, planned.dataset.chunks)
    if ordered:
        _check_ours(folder, wanted)
    if read_manifest(folder) is None:
        expires_ms = round((now.timestamp() + expires_s) * 1_000) if expires_s else 0
        publish_missing(
            broker, folder, plan, list(planned.dataset.chunks), expires_ms=expires_ms,
            max_error_share=share, validated=validated and plan.job_id == wanted,
            planner=ordered.planner if ordered else "",
        )
    else:
        copies.discard()
    return JobHandle(broker, plan.job_id, folder.path, resumed=existed)


def check_options(  # noqa: PLR0913 - what may be wrong whatever the dataset is
    output: str | Place, *, output_format: str = "parquet", chunk_rows: int | None = None,
    aggregate: Any = None, max_error_share: float | None = None, job_id: str | None = None,
    expires_s: float | None = None, **_others: Any,
) -> None:
    """Raises RequestError for what :func:`submit_dataset` takes with no dataset at all."""
    if chunk_rows is not None and chunk_rows < 1:
        raise errors.RequestError(f"chunk_rows is a positive number of rows, not {chunk_rows}")
    if output_format not in get_args(Format):
        raise errors.RequestError(
            f"the output is {', '.join(get_args(Format))}, not {output_format!r}"
        )
    if expires_s is not None and not 0 < expires_s <= MAX_EXPIRES_S:
        raise errors.RequestError(
            f"expires_s is a number of seconds up to {MAX_EXPIRES_S:,} (ten years), not {expires_s}"
        )
    if output == "":  # the usual way to it is a variable that is not set; else it would be "."
        raise errors.RequestError("no output folder is named: its path is empty")
    check_share(max_error_share)
    if aggregate is not None:
        Aggregation.of(aggregate)
    if job_id:
        check_job_id(job_id)


def _plan(  # noqa: PLR0913, PLR0917 - a dataset, its model and its options
    source: Any, model: str, version: VersionInfo, options: PlanOptions, copies: Copies,
    on_progress: Progress | None, ordered: Ordered | None,
) -> Planned:
    """As :func:`plan_dataset`, of a source that this process opens."""
    found = _opened(source, ordered)
    return plan_dataset(found, model, version, options, copies, on_progress)


def _opened(source: Any, ordered: Ordered | None) -> Source:
    from celeriac.datasets import roots, sources

    if ordered is None or ordered.roots is None:
        return sources.open_source(source)
    return sources.open_source(source, roots.checking(ordered.roots))


def _check_ours(folder: JobFolder, job_id: str) -> None:
    held = folder.load().job_id
    if held != job_id:
        raise errors.OutputConflict(
            f"{folder.path}: holds another job; resume that one, or choose another output folder"
        )


@contextmanager
def _discarding(copies: Copies) -> Iterator[None]:
    """No job, no copies."""
    try:
        yield
    except Replaced:
        raise
    except BaseException:
        copies.discard()
        raise


@contextmanager
def _validating(  # noqa: PLR0913, PLR0917 - a job, and what is known of it
    broker: Broker, folder: JobFolder, job_id: str, ref: ModelRef, version: VersionInfo,
    source: str,
) -> Iterator[None]:
    """Show the job while it is planned; if it comes to nothing, or to another job, forget it."""
    if folder.holds_job():
        yield
        return
    ledger = open_ledger(broker)
    with redis_errors(broker):
        known = ledger.entry(job_id)
        if known and known.state is JobState.VALIDATING and ledger.order_of(job_id):
            raise errors.Conflict(f"job {job_id!r} waits for a worker to plan it: take another id")
        if known and not known.state.is_final and known.output != str(folder.path):
            raise errors.Conflict(
                f"job {job_id!r} is {known.state}, with its output in {known.output}: take another "
                f"id, or wait for its end; `celeriac batch cancel {job_id}` ends it"
            )
        ledger.announce(
            job_id, model=ref.name, version=version.version, source=source,
            output=str(folder.path),
        )
    try:
        yield
    except BaseException:
        with suppress(redis.RedisError):
            ledger.withdraw(job_id)
        raise
    if folder.load().job_id != job_id:  # another submitter was first
        with redis_errors(broker):
            ledger.withdraw(job_id)
