"""Batch jobs from the caller's side: status, wait, cancel, resume, results."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import redis
from kombu.exceptions import OperationalError

from celeriac import errors
from celeriac.datasets.places import Place
from celeriac.datasets.records import Chunk
from celeriac.jobs.finalize import read_manifest
from celeriac.jobs.folder import JobFolder
from celeriac.jobs.ledger import JobEntry, JobState, Ledger
from celeriac.jobs.plan import JobPlan, check_job_id
from celeriac.messages import (
    BATCH_CHUNK,
    BATCH_FINALIZE,
    CONTRACT,
    MAINTENANCE_QUEUE,
    batch_queue,
)
from producer.broker import Broker, broker_error

if TYPE_CHECKING:
    import pyarrow as pa
    from celery import Celery

GROUP_CHUNKS = 500
"""Chunks of one Celery group, at most."""
_POLL_S = (0.05, 1.0)
_KILL_AFTER_S = 30


@dataclass(frozen=True, kw_only=True)
class JobStatus:
    """Where a job stands. ``rows_done`` includes ``rows_failed``."""

    id: str
    state: JobState
    model: str
    version: int
    source: str
    output: str
    chunks_total: int
    chunks_done: int
    rows_total: int
    rows_done: int
    rows_failed: int
    rows_per_s: float | None = None
    """Since the first chunk began; None before that."""
    eta_s: float | None = None
    """At that rate; None unless chunks are being scored."""
    error: str = ""
    """Why the job failed."""


class JobHandle:
    """One job. Any process that reaches Redis can hold one; files need the output folder."""

    def __init__(
        self, broker: Broker, job_id: str, output: str | Place, *, resumed: bool = False
    ) -> None:
        self.id = job_id
        self.resumed = resumed
        """True if the output folder held this very job, and it was continued."""
        self._broker = broker
        self._folder = JobFolder(output)

    def __repr__(self) -> str:
        return f"JobHandle({self.id!r}, output={str(self.output)!r})"

    @classmethod
    def open(cls, broker: Broker, job_id: str) -> JobHandle:
        """The job with this id. Raises JobNotFound if Redis does not know it (any more)."""
        with redis_errors(broker):
            entry = _ledger(broker).entry(check_job_id(job_id))
        if entry is None:
            raise errors.JobNotFound(
                f"no job {job_id!r} in Redis; `celeriac batch list` shows the known ones, and an "
                "older job can be named by its output folder"
            )
        return cls(broker, job_id, entry.output)

    @classmethod
    def from_output(cls, broker: Broker, folder: str | Place) -> JobHandle:
        """The job that lives in an output folder, known to Redis or not. Raises JobNotFound."""
        return cls(broker, JobFolder(folder).load().job_id, folder)

    @property
    def _ledger(self) -> Ledger:
        return _ledger(self._broker)  # anew each time: after a fork the broker has a new client

    @property
    def output(self) -> Place:
        return self._folder.path

    def status(self) -> JobStatus:
        """Where the job stands now. Raises BrokerError, or JobNotFound if nothing knows it."""
        with redis_errors(self._broker):
            entry = self._ledger.entry(self.id)
        return _status_of_entry(entry) if entry else _status_of_folder(self._folder)

    def wait(
        self, timeout_s: float, on_progress: Callable[[JobStatus], None] | None = None
    ) -> JobStatus:
        """Wait until the job has ended, however it ended; returns its last status.

        Raises DeadlineExceeded after ``timeout_s``; the job goes on.
        """
        deadline = time.monotonic() + timeout_s
        pause, longest = _POLL_S
        while True:
            status = self.status()
            if on_progress is not None:
                on_progress(status)
            if status.state.is_final:
                return status
            left = deadline - time.monotonic()
            if left <= 0:
                raise errors.DeadlineExceeded(
                    f"job {self.id} is {status.state} after {timeout_s:g} s "
                    f"({status.rows_done:,} of {status.rows_total:,} rows); it goes on"
                )
            time.sleep(min(pause, left))
            pause = min(pause * 1.5, longest)

    def cancel(self) -> JobStatus:
        """Ask that no further chunk starts. Parts that are done stay; ``resume`` goes on.

        A job that has ended stays as it is.
        """
        with redis_errors(self._broker):
            if self._ledger.cancel(self.id) is JobState.CANCELLING:
                publish_finalizer(self._broker.celery, self.id, self.output)
        return self.status()

    def resume(self) -> JobStatus:
        """Publish every chunk that has no valid part; works from the output folder alone.

        Harmless for a job that is running: a chunk that is done twice counts once.
        Raises JobNotFound if the folder cannot be read here.
        """
        plan = self._folder.load()
        if read_manifest(self._folder) is None:
            publish_missing(self._broker, self._folder, plan, self._folder.chunks(plan))
        return self.status()

    def parts(self) -> list[Place]:
        """The files of the output, in the order of the input. Raises JobFailed until it is whole.

        Only a folder with ``_SUCCESS`` is whole.
        """
        manifest = read_manifest(self._folder)
        if manifest is None:
            raise errors.JobFailed(
                f"job {self.id} is {self.status().state}: {self.output} is not complete yet"
            )
        return [self.output / part.file for part in manifest.parts]

    def results(self) -> pa.Table:
        """The whole output as one pyarrow table, in the order of the input. See :meth:`parts`."""
        from celeriac.datasets.parts import read_parts

        return read_parts(self.parts(), self._folder.load().scoring.output_format)


def list_jobs(broker: Broker, limit: int = 100) -> list[JobStatus]:
    """The newest jobs first."""
    with redis_errors(broker):
        return [_status_of_entry(entry) for entry in _ledger(broker).entries(limit)]


def publish_missing(
    broker: Broker, folder: JobFolder, plan: JobPlan, chunks: list[Chunk]
) -> int:
    """Enter the job in the ledger and publish the chunks without a valid part; how many."""
    records = {chunk.number: folder.valid_record(plan, chunk) for chunk in chunks}
    missing = [chunk for chunk in chunks if records[chunk.number] is None]
    with redis_errors(broker):
        done = [record for record in records.values() if record is not None]
        _ledger(broker).register(plan, str(folder.path), done)
        if missing:
            publish_chunks(broker, plan, missing, folder.path)
        else:
            publish_finalizer(broker.celery, plan.job_id, folder.path)
    return len(missing)


def publish_chunks(broker: Broker, plan: JobPlan, chunks: list[Chunk], output: Place) -> None:
    """Celery groups of chunk tasks. A message carries references, never rows."""
    from celery import group

    app = broker.celery
    for start in range(0, len(chunks), GROUP_CHUNKS):
        tasks = [
            _chunk_signature(broker, plan, chunk, output)
            for chunk in chunks[start : start + GROUP_CHUNKS]
        ]
        group(tasks, app=app).apply_async()


def publish_finalizer(app: Celery, job_id: str, output: str | Place) -> None:
    """Queue the finaliser of a job. One too many changes nothing."""
    app.send_task(
        BATCH_FINALIZE,
        kwargs={"v": CONTRACT, "job_id": job_id, "output": str(output)},
        queue=MAINTENANCE_QUEUE,
        ignore_result=True,
        headers={"job_id": job_id, "sent_ms": _now_ms()},
    )


@contextmanager
def redis_errors(broker: Broker) -> Iterator[None]:
    """Turns what Redis and Celery raise in this block into BrokerError."""
    try:
        yield
    except (redis.RedisError, OperationalError) as error:
        raise broker_error(error, broker.url) from error


def _ledger(broker: Broker) -> Ledger:
    return Ledger(broker.redis, broker.settings.batch.job_ttl_s)


def _chunk_signature(broker: Broker, plan: JobPlan, chunk: Chunk, output: Place) -> Any:
    limit_s = broker.settings.batch.chunk_timeout_s
    shown = {
        "job_id": plan.job_id, "chunk_no": chunk.number, "model": plan.scoring.ref,
        "items": chunk.rows,
    }
    return broker.celery.signature(
        BATCH_CHUNK,
        kwargs={
            "v": CONTRACT, "job_id": plan.job_id, "chunk_no": chunk.number, "output": str(output),
        },
        immutable=True,
    ).set(
        queue=batch_queue(plan.scoring.device),
        ignore_result=True,
        soft_time_limit=limit_s,
        time_limit=limit_s + _KILL_AFTER_S,
        argsrepr="()",
        kwargsrepr=repr(shown),
        headers={"job_id": plan.job_id, "sent_ms": _now_ms()},
    )


def _status_of_entry(entry: JobEntry) -> JobStatus:
    rate = _rows_per_s(entry)
    running = entry.state is JobState.IN_PROGRESS and rate
    return JobStatus(
        id=entry.job_id, state=entry.state, model=entry.model, version=entry.version,
        source=entry.source, output=entry.output, chunks_total=entry.chunks,
        chunks_done=entry.chunks_done, rows_total=entry.rows, rows_done=entry.rows_done,
        rows_failed=entry.rows_failed, rows_per_s=rate,
        eta_s=(entry.rows - entry.rows_done) / rate if running and rate else None,
        error=entry.error,
    )


def _rows_per_s(entry: JobEntry) -> float | None:
    seconds = (entry.updated_ms - entry.started_ms) / 1_000
    if not entry.started_ms or seconds <= 0:
        return None
    return (entry.rows_done - entry.rows_before) / seconds


def _status_of_folder(folder: JobFolder) -> JobStatus:
    plan, manifest = folder.load(), read_manifest(folder)
    found = [folder.read_record(number) for number in range(plan.chunks)]
    records = [record for record in found if record is not None]
    return JobStatus(
        id=plan.job_id, state=JobState(manifest.state) if manifest else JobState.EXPIRED,
        model=plan.scoring.model, version=plan.scoring.version, source=plan.source,
        output=str(folder.path), chunks_total=plan.chunks, chunks_done=len(records),
        rows_total=plan.rows, rows_done=sum(record.rows_in for record in records),
        rows_failed=sum(record.rows_failed for record in records),
    )


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
