"""Batch jobs from the caller's side: status, wait, cancel, resume, results."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import redis
from msgspec import structs

from celeriac import errors
from celeriac.datasets.files import check_unchanged
from celeriac.datasets.libraries import require_readers
from celeriac.datasets.places import Place
from celeriac.datasets.records import Chunk
from celeriac.datasets.sharing import named
from celeriac.jobs.folder import JobFolder
from celeriac.jobs.ledger import Answer, DeadChunk, JobEntry, JobState, Ledger
from celeriac.jobs.manifest import Manifest, read_manifest
from celeriac.jobs.order import decode_order, encode_order
from celeriac.jobs.plan import DEFAULT_TENANT, ChunkRecord, JobPlan, check_job_id
from celeriac.messages import batch_queue
from celeriac.registry.placement import seen_of_late
from producer import waves
from producer.broker import Broker, broker_error
from producer.waves import Job

if TYPE_CHECKING:
    import pyarrow as pa

_POLL_S = (0.01, 1.0)
_POLL_SHARE = 0.03
"""Of the time waited so far: how long a job may have ended before its waiter knows."""
_POLL_END_S = 0.002
"""The shortest pause while a job finalizes: of a small one that takes some 10 ms."""
_PATIENCE_S = 120.0
"""How long a wait outlasts a Redis that is away: it restarts, or another takes its place."""
_STOPPING_S = 30
"""A chunk that runs when its job ends has stopped by then."""
_REQUEUES = (
    JobState.IN_PROGRESS, JobState.COMPLETED_WITH_ERRORS, JobState.FAILED, JobState.EXPIRED,
)
_REOPENS = (JobState.CANCELLED, JobState.FAILED, JobState.EXPIRED)


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
    """Those of chunks that were given up among them."""
    rows_dead: int = 0
    """Rows of chunks that were given up: ``errors/`` has the others."""
    chunks_queued: int = 0
    """Waiting, on their way or to come."""
    chunks_running: int = 0
    chunks_dead: int = 0
    """Given up; see :meth:`JobHandle.dead`."""
    rows_per_s: float | None = None
    """Since the first chunk began; None before that."""
    eta_s: float | None = None
    """At that rate; None unless chunks are being scored."""
    error: str = ""
    """Why the job failed, or why no more is known of it."""
    created_at: datetime | None = None
    """UTC, as all times here."""
    started_at: datetime | None = None
    """When the first chunk began, since the job was last submitted or resumed."""
    ended_at: datetime | None = None
    expires_at: datetime | None = None
    """When the job ends, whatever is left of it."""
    tenant: str = DEFAULT_TENANT
    """Who sees the job over HTTP."""
    id_column: str = ""
    """The column that names its rows."""
    waits_for: str = ""
    """The role without a worker that it waits for, if it does."""

    @property
    def rows_ok(self) -> int:
        """Rows that have an answer."""
        return self.rows_done - self.rows_failed


@dataclass(frozen=True)
class PlannedChunk:
    """The rows of one chunk."""

    source: str
    first_row: int
    """Number of its first row in the file; the first row of data is 1."""
    rows: int


@dataclass(frozen=True)
class Purged:
    """What was deleted of a job."""

    files: int
    bytes: int


class JobHandle:
    """One job. Any process that reaches Redis can hold one; files need the output folder."""

    def __init__(
        self, broker: Broker, job_id: str, output: str | Place, *, resumed: bool = False
    ) -> None:
        self.id = job_id
        self.resumed = resumed
        """True if this very job was there before, and goes on."""
        self._broker = broker
        self._folder = JobFolder(output)

    def __repr__(self) -> str:
        return f"JobHandle({self.id!r}, output={str(self.output)!r})"

    @classmethod
    def open(cls, broker: Broker, job_id: str) -> JobHandle:
        """The job with this id. Raises JobNotFound if Redis does not know it (any more)."""
        with redis_errors(broker):
            entry = open_ledger(broker).entry(check_job_id(job_id))
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
        return open_ledger(self._broker)  # anew each time: after a fork the broker has a new client

    @property
    def output(self) -> Place:
        """The output folder, on a disk or in S3."""
        return self._folder.path

    def status(self) -> JobStatus:
        """Where the job stands now. Raises BrokerError, JobNotFound if nothing knows it, and
        JobFailed if Redis does not, and another job has its folder."""
        with redis_errors(self._broker):
            entry = self._ledger.entry(self.id)
            if entry is None:
                self._folder.load_of(self.id)  # not of another job that has the folder
                return _status_of_folder(self._folder)
            return _statuses(self._broker, [entry])[0]

    def wait(
        self, timeout_s: float, on_progress: Callable[[JobStatus], None] | None = None
    ) -> JobStatus:
        """Wait until the job has ended, however it ended; returns its last status.

        A Redis that is away for less than two minutes meanwhile is waited for. Raises
        DeadlineExceeded after ``timeout_s``, BrokerError; the job goes on.
        """
        began = time.monotonic()
        deadline, finalizes = began + timeout_s, False
        patience = 0.0  # a Redis that has never answered is told at once
        while True:
            status = self._status_within(min(patience, deadline - time.monotonic()))
            patience = _PATIENCE_S
            if on_progress is not None:
                on_progress(status)
            if status.state.is_final:
                return status
            now = time.monotonic()
            left = deadline - now
            if left <= 0:
                raise errors.DeadlineExceeded(
                    f"job {self.id} is {status.state} after {timeout_s:g} s "
                    f"({status.rows_done:,} of {status.rows_total:,} rows); it goes on"
                )
            if status.state is JobState.FINALIZING and not finalizes:
                began, finalizes = now, True  # the end is near, however long all else took
            time.sleep(min(poll_pause_s(now - began, finalizes), left))

    def _status_within(self, patience_s: float) -> JobStatus:
        """Where the job stands, as soon as Redis answers. Raises BrokerError."""
        end = time.monotonic() + patience_s
        while True:
            try:
                return self.status()
            except errors.BrokerError as error:
                away = isinstance(error.__cause__, (redis.ConnectionError, redis.TimeoutError))
                left = end - time.monotonic()
                if not away or left <= 0:
                    raise
            time.sleep(min(_POLL_S[1], left))

    def cancel(self) -> JobStatus:
        """Ask that no further chunk starts and that running ones stop, within seconds.

        Parts that are done stay; ``resume`` goes on. A job that has ended stays as it is.
        """
        with redis_errors(self._broker):
            self._ledger.cancel(self.id)
        return self.status()

    def resume(self, max_error_share: float | None = None) -> JobStatus:
        """Publish every chunk that has no valid part; works from the output folder alone.

        ``max_error_share`` takes the place of the one that the job was submitted with, unless a
        worker is yet to plan it. Harmless
        for a job that is running: what runs goes on. Chunks that were given up are tried again,
        unless they were dropped; so are those of a job that has ended in which files could not be
        read. A job that was left to a worker to plan, and has ended, is looked at by a worker
        again: it is ``validating`` until then, and what is wrong ends it as ``failed``. Raises
        JobNotFound if the folder cannot be read here, and JobFailed if another job has its place.
        """
        share = check_share(max_error_share)
        if self._is_ordered():
            return reopen(self._broker, self.id, share)
        plan = self._folder.load_of(self.id)
        if read_manifest(self._folder) is None:
            if self.status().state.is_final:  # nobody is at work on it
                self._folder.forget(self._folder.unread(plan))
            publish_missing(
                self._broker, self._folder, plan, self._folder.chunks(plan),
                max_error_share=share,
            )
        return self.status()

    def _is_ordered(self) -> bool:
        """True while a worker is to plan the job, and if one may look at it again."""
        with redis_errors(self._broker):
            entry = self._ledger.entry(self.id)
            waits = entry is not None and entry.state in (JobState.VALIDATING, *_REOPENS)
            return waits and bool(self._ledger.order_of(self.id))

    def dead(self) -> list[DeadChunk]:
        """The chunks that were given up, each with its reason."""
        with redis_errors(self._broker):
            if self._ledger.entry(self.id) is not None:
                return self._ledger.dead(self.id)
        manifest, marks = self._manifest(), self._folder.dropped()
        return [
            DeadChunk(one.chunk, one.attempts, one.reason, "", 0, one.chunk in marks)
            for one in (manifest.dead if manifest else ())
        ]

    def unread(self) -> list[int]:
        """The chunks of a finished job that lack rows of files which could not be read."""
        manifest = self._manifest()
        if manifest is None or errors.UnreadableFile.code not in manifest.failures:
            return []
        return self._folder.unread(self._folder.load())

    def planned(self, chunk: int) -> PlannedChunk:
        """Which rows a chunk has. Raises JobNotFound, JobFailed as long as the job has no chunks,
        or RequestError for a wrong number."""
        plan = self._planned()
        chunks = self._folder.chunks(plan)
        if not 0 <= chunk < len(chunks):
            raise errors.RequestError(
                f"job {self.id} has no chunk {chunk}; they are 0 to {len(chunks) - 1}"
            )
        found = chunks[chunk]
        return PlannedChunk(named(plan.files, found), found.first_row + 1, found.rows)

    def requeue(self, chunks: Sequence[int] = ()) -> int:
        """Try chunks again that were given up, or lack rows of files which could not be read
        (default: all but the dropped ones); how many.

        A job that has ended is opened again: its manifest goes until it ends anew. Raises
        RequestError while the job is finalizing or if it was cancelled, and DatasetError if a file
        of such a chunk has changed since the job was submitted; then nothing has changed.
        """
        wanted, dead = set(chunks), self.dead()
        found = [
            one.chunk for one in dead if (one.chunk in wanted if wanted else not one.dropped)
        ]
        unread = [chunk for chunk in self.unread() if not wanted or chunk in wanted]
        if not found and not unread:
            return 0
        plan = self._folder.load_of(self.id)
        status = self.status()
        if status.state not in _REQUEUES:
            raise errors.RequestError(
                f"job {self.id} is {status.state}: its chunks cannot be tried again now"
            )
        self._check_sources(plan, [*found, *unread])
        self._folder.reopen(found)
        self._folder.forget(unread)  # not before the manifest, which vouches for them
        is_here = status.output == str(self.output)  # or Redis knows it where it was before
        count = self._requeue_dead(plan, found) if found and is_here else 0
        if unread or not count:  # or Redis has forgotten the job
            publish_missing(
                self._broker, self._folder, plan, self._folder.chunks(plan),
                given_up=[one for one in dead if one.chunk not in found],
            )
        return len(found) + len(unread)

    def _check_sources(self, plan: JobPlan, chunks: Sequence[int]) -> None:
        """Raises DatasetError if a file of these chunks has changed: they would end the job, and
        its output would never look finished again."""
        planned = self._folder.chunks(plan)
        wanted = [planned[number] for number in chunks]
        read = {piece.file for one in wanted for piece in one.pieces or (one,)}
        check_unchanged([plan.files[at] for at in sorted(read)])

    def _requeue_dead(self, plan: JobPlan, chunks: Sequence[int]) -> int:
        with redis_errors(self._broker):
            count, change = self._ledger.requeue_dead(self.id, chunks)
            waves.publish(self._broker, Job.of_plan(plan, str(self.output)), change)
        return count

    def drop(self, chunks: Sequence[int]) -> list[int]:
        """Have chunks that were given up stay so, also after ``resume``; those that were."""
        dead = {one.chunk: one for one in self.dead()}
        found = sorted(set(chunks) & set(dead))
        if found:
            self._folder.load_of(self.id)  # a folder that was deleted does not come back
        for chunk in found:
            self._folder.drop(chunk, dead[chunk].reason)
        if found:
            with redis_errors(self._broker):
                self._ledger.drop(self.id, found)
        return found

    def purge(self, *, finished: bool = False) -> Purged:
        """Delete the output of a job that has ended, and forget the job. It cannot be resumed.

        A finished output is deleted only with ``finished``. Files that the job did not write stay.
        Raises what :meth:`check_purge` does.
        """
        self.check_purge(finished=finished)
        count, size = self._folder.purge() if self._is_there() else (0, 0)
        with redis_errors(self._broker):
            self._ledger.withdraw(self.id)
        return Purged(count, size)

    def check_purge(self, *, finished: bool = False) -> None:
        """Raises RequestError if the job goes on, or has finished and ``finished`` was not said."""
        with redis_errors(self._broker):
            entry = self._ledger.entry(self.id)
        if entry is not None and not entry.state.is_final:
            raise errors.RequestError(
                f"job {self.id} is {entry.state}: `celeriac batch cancel {self.id}` ends it"
            )
        if entry is not None and _is_stopping(entry, datetime.now(UTC)):
            raise errors.RequestError(
                f"job {self.id} has ended, but chunks of it still stop; try again in "
                f"{_STOPPING_S} s"
            )
        if self._is_there() and self._folder.success.exists() and not finished:
            raise errors.RequestError(
                f"job {self.id} has finished: --finished deletes its output in {self.output}, too"
            )

    def _planned(self) -> JobPlan:
        """As :meth:`JobFolder.load_of`; JobFailed for a job that has no plan (yet)."""
        try:
            return self._folder.load_of(self.id)
        except errors.JobNotFound:
            with redis_errors(self._broker):
                entry = self._ledger.entry(self.id)
            if entry is None or entry.chunks:
                raise
            why = f": {entry.error}" if entry.error else ""
            raise errors.JobFailed(
                f"job {self.id} is {entry.state}, and nothing of it is in {self.output}{why}"
            ) from None

    def _is_there(self) -> bool:
        return self._folder.holds_job() and self._folder.load().job_id == self.id

    def _manifest(self) -> Manifest | None:
        """None, too, if another job has taken the folder."""
        found = read_manifest(self._folder)
        return found if found is not None and found.job_id == self.id else None

    def parts(self) -> list[Place]:
        """The files of the output, in the order of the input.

        Only a folder with ``_SUCCESS`` is whole. Raises JobFailed until it is, or if another job
        has taken the folder, and JobNotFound if it is gone.
        """
        self._planned()
        manifest = self._manifest()
        if manifest is None:
            raise errors.JobFailed(
                f"job {self.id} is {self.status().state}: {self.output} is not complete yet"
            )
        return [self.output / part.file for part in manifest.parts]

    def report(self, *, again: bool = False) -> Place:
        """Where ``report.html`` is; made now if it is missing, or ``again``.

        Raises JobFailed until the job is complete, if the report cannot be made here, or if another
        job has taken the folder; JobNotFound if that is gone; DatasetError if it must be made, and
        the extra ``celeriac[datasets]`` is missing.
        """
        self._planned()
        if not again and self._manifest() is not None and self._folder.report.exists():
            return self._folder.report
        require_readers()
        from celeriac.jobs.report import make_report

        return make_report(self._folder, again=again)

    def results(self) -> pa.Table:
        """The whole output as one pyarrow table, in the order of the input.

        Raises what :meth:`parts` does, and DatasetError without the extra ``celeriac[datasets]``.
        """
        parts = self.parts()
        require_readers()
        from celeriac.datasets.parts import read_parts

        return read_parts(parts, self._folder.load().scoring.output_format)


def poll_pause_s(waited_s: float, finalizes: bool = False) -> float:
    """How long to pause before a job is looked at again; ``waited_s``: since then, if it does."""
    shortest, longest = _POLL_S
    if finalizes:
        shortest = _POLL_END_S
    return min(longest, max(shortest, waited_s * _POLL_SHARE))


def list_jobs(broker: Broker, limit: int = 100) -> list[JobStatus]:
    """The newest jobs first."""
    with redis_errors(broker):
        return _statuses(broker, open_ledger(broker).entries(limit))


def reopen(broker: Broker, job_id: str, max_error_share: float | None = None) -> JobStatus:
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
        order = structs.replace(
            decode_order(text), resumes=True, resume_share=share, expires_ms=0
        )
        _, found = ledger.reopen(job_id, encode_order(order))
        if found:
            waves.publish_plan(broker.redis, job_id, entry.device or "cpu")
    return JobHandle.open(broker, job_id).status()


def publish_missing(  # noqa: PLR0913 - a job, and how it goes on
    broker: Broker, folder: JobFolder, plan: JobPlan, chunks: list[Chunk], *, expires_ms: int = 0,
    max_error_share: float | None = None, validated: bool = False,
    given_up: Sequence[DeadChunk] = (), planner: str = "",
) -> int:
    """Enter the job in the ledger and publish the chunks without a valid part; how many.

    ``given_up``: chunks that stay so, beside those that were dropped. ``validated`` and
    ``planner``: as :meth:`Ledger.enter`. Raises Cancelled if the job is no longer that planner's.
    """
    records = {chunk.number: folder.valid_record(plan, chunk) for chunk in chunks}
    done = [record for record in records.values() if record is not None]
    dropped = [
        DeadChunk(chunk, 0, why, "", 0, dropped=True) for chunk, why in folder.dropped().items()
    ]
    dead = {one.chunk: one for one in (*dropped, *given_up)}
    left_out = [one for chunk, one in dead.items() if records.get(chunk) is None]
    with redis_errors(broker):
        change = open_ledger(broker).enter(
            plan, str(folder.path), done, window=broker.settings.batch.wave_chunks,
            sizes=[chunk.rows for chunk in chunks], given_up=left_out, expires_ms=expires_ms,
            max_error_share=max_error_share, validated=validated, planner=planner,
        )
        if change.answer is Answer.LOST:
            raise errors.Cancelled(f"job {plan.job_id} is no longer this process's to plan")
        waves.publish(broker, Job.of_plan(plan, str(folder.path)), change)
    return len(chunks) - len(done) - len(left_out)


def check_share(share: float | None) -> float | None:
    """``share`` itself. Raises RequestError unless it is from 0 to 1, or None."""
    if share is not None and not 0 <= share <= 1:
        raise errors.RequestError(f"max_error_share is from 0 to 1, as 0.05; not {share}")
    return share


@contextmanager
def redis_errors(broker: Broker) -> Iterator[None]:
    """Turns what Redis and Celery raise in this block into BrokerError."""
    try:
        yield
    except _unreachable() as error:
        raise broker_error(error, broker.url) from error


def _unreachable() -> tuple[type[Exception], ...]:
    # Asked for only when something was raised: kombu is 1 MB that who submits does not need.
    from kombu.exceptions import OperationalError

    return redis.RedisError, OperationalError


def open_ledger(broker: Broker) -> Ledger:
    """The ledger of the jobs on this broker."""
    return Ledger(broker.redis, broker.settings.batch.job_ttl_s)


def status_of(entry: JobEntry) -> JobStatus:
    """What the ledger knows of a job, as its callers see it."""
    rate = _rows_per_s(entry)
    running = entry.state is JobState.IN_PROGRESS and rate
    return JobStatus(
        id=entry.job_id, state=entry.state, model=entry.model, version=entry.version,
        source=entry.source, output=entry.output, chunks_total=entry.chunks,
        chunks_done=entry.chunks_done, rows_total=entry.rows,
        rows_done=entry.rows_done + entry.rows_dead,
        rows_failed=entry.rows_failed + entry.rows_dead, rows_dead=entry.rows_dead,
        rows_per_s=rate,
        chunks_queued=entry.chunks_waiting + entry.chunks_queued,
        chunks_running=entry.chunks_running, chunks_dead=entry.chunks_dead,
        eta_s=_rows_left(entry) / rate if running and rate else None,
        error=entry.error, created_at=_time(entry.created_ms), started_at=_time(entry.started_ms),
        ended_at=_time(entry.ended_ms), expires_at=_time(entry.expires_ms),
        tenant=entry.tenant, id_column=entry.id_column,
    )


def _statuses(broker: Broker, entries: Sequence[JobEntry]) -> list[JobStatus]:
    """Where they stand; those that wait say so if no worker has been there for a minute."""
    queues = [_waits_in(entry) for entry in entries]
    waiting = {queue for queue in queues if queue}
    absent = waiting - seen_of_late(broker.redis, waiting)
    return [
        replace(status_of(entry), waits_for=queue if queue in absent else "")
        for entry, queue in zip(entries, queues, strict=True)
    ]


def _waits_in(entry: JobEntry) -> str:
    """The queue that a worker should take from for the job to go on; "" if none needs to."""
    if not entry.device or entry.state.is_final or entry.chunks_running:
        return ""
    return batch_queue(entry.device)


def _is_stopping(entry: JobEntry, now: datetime) -> bool:
    """True while a run may still write: it has not been heard of, and the job ended just now."""
    ended = _time(entry.ended_ms)
    return bool(entry.chunks_running) and ended is not None and (
        (now - ended).total_seconds() < _STOPPING_S
    )


def _rows_left(entry: JobEntry) -> int:
    return entry.rows - entry.rows_done - entry.rows_dead


def _rows_per_s(entry: JobEntry) -> float | None:
    seconds = ((entry.ended_ms or entry.updated_ms) - entry.started_ms) / 1_000
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
        rows_total=plan.rows,
        rows_done=manifest.rows_in if manifest else sum(record.rows_in for record in records),
        rows_failed=manifest.rows_failed if manifest else _failed(records),
        rows_dead=manifest.rows_dead if manifest else 0,
        chunks_dead=len(manifest.dead) if manifest else 0,
        created_at=datetime.fromisoformat(plan.created_at), tenant=plan.tenant,
        id_column=plan.scoring.id_column or "", error="" if manifest else _FORGOTTEN,
    )


_FORGOTTEN = "Redis does not know this job any more; what is done stays in its folder"


def _failed(records: list[ChunkRecord]) -> int:
    return sum(record.rows_failed for record in records)


def _time(unix_ms: int) -> datetime | None:
    return datetime.fromtimestamp(unix_ms / 1_000, UTC) if unix_ms else None
