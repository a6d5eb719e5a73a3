"""The plan of a job that was ordered, one chunk of a dataset, and the end of its job.

The work is in ``celeriac.jobs``.
"""

from __future__ import annotations

import re
import time
from dataclasses import asdict
from datetime import UTC, datetime
from functools import lru_cache, partial
from typing import Any

import redis
from billiard.exceptions import WorkerLostError
from celery import Task, shared_task

from celeriac import errors, metrics
from celeriac.cache import Answerer
from celeriac.cache.worker import get_worker_cache
from celeriac.datasets.records import Chunk
from celeriac.drift.profile import read_profile
from celeriac.host import get_host
from celeriac.jobs import finalize as finalizing, policy
from celeriac.jobs.chunk import PredictBatch, process_name, run_chunk
from celeriac.jobs.drift import Reference
from celeriac.jobs.folder import JobFolder
from celeriac.jobs.lease import ChunkLease
from celeriac.jobs.ledger import Answer, Change, Claim, JobState, Ledger, Runner
from celeriac.jobs.memory import has_killed, kernel_mark
from celeriac.jobs.plan import ChunkRecord, JobPlan
from celeriac.jobs.recall import RecallingScorer, shares_cache
from celeriac.logs import bound, get_logger
from celeriac.messages import (
    BATCH_CHUNK,
    BATCH_FINALIZE,
    BATCH_PLAN,
    BATCH_PLAN_DATASET,
    BATCH_RECONCILE,
    check_contract,
)
from celeriac.registry.store import Registry
from celeriac.scoring import Scorer
from celeriac.settings import get_settings
from producer import orders, plan_requests, reconciler, waves
from producer.waves import Job
from tasks.base import CeleriacTask
from tasks.beat import BeatTask
from tasks.broker import kept_broker
from tasks.patience import patiently

log = get_logger(__name__)  # each line names the job and the chunk: tasks.base binds them

FINALIZER_TIMEOUT_S = 3_600.0
PLAN_TIMEOUT_S = 3_600.0
PLAN_WORD_S = 1.0
"""So often who waits for a plan hears that somebody is at it."""
MESSAGE_S = 1.0
"""So long a message's process goes on with the next chunk of the job, without Celery's own work on
a message, in which its core has nothing to do. What waits for others in the queue it never passes;
a worker that is stopped waits for it."""


def _ledger() -> Ledger:
    return Ledger(kept_broker().redis, get_settings().batch.job_ttl_s)


class ChunkTask(CeleriacTask):
    """A chunk's attempts are counted by the ledger; Celery's own retry is its messenger."""

    default_retry_delay = 1  # after a process was killed

    def on_retry(
        self, exc: Exception, task_id: str, args: Any, kwargs: dict[str, Any], einfo: Any
    ) -> None:
        """The process that had the chunk is gone (this runs in the worker's main process)."""
        if not isinstance(exc, WorkerLostError):
            return
        try:
            _give_up(str(kwargs.get("job_id")), kwargs.get("chunk_no"), task_id, _how(exc))
        except redis.RedisError as error:  # its lease lapses by itself
            log.warning("chunk not given back", reason=str(error))


class PlanTask(CeleriacTask):
    """A task whose lease is given back when its process is gone."""

    default_retry_delay = 1  # after a process was killed

    def on_retry(
        self, exc: Exception, task_id: str, args: Any, kwargs: dict[str, Any], einfo: Any
    ) -> None:
        """As :meth:`ChunkTask.on_retry`."""
        if not isinstance(exc, WorkerLostError):
            return
        try:
            _ledger().release_plan(str(kwargs.get("job_id")))
        except redis.RedisError as error:  # its lease lapses by itself
            log.warning("plan not given back", reason=str(error))


class FinalizeTask(CeleriacTask):
    """A task that ends its job when it fails for good, unless that goes on, or is another one's."""

    default_retry_delay = 1  # after a process was killed

    def on_failure(
        self, exc: Exception, task_id: str, args: Any, kwargs: dict[str, Any], einfo: Any
    ) -> None:
        text = exc.message if isinstance(exc, errors.CeleriacError) else repr(exc)
        job_id, ledger = str(kwargs.get("job_id")), _ledger()
        answer, state = ledger.finalizing(job_id, task_id, output=str(kwargs.get("output", "")))
        if answer in (Answer.BUSY, Answer.DONE):
            log.info("job does not end yet", answer=answer, state=state, reason=text)
            return
        ledger.fail(job_id, text[:2_000])


@shared_task(name=BATCH_PLAN, base=PlanTask, bind=True, acks_late=True, ignore_result=True)
def plan(self: Task, job_id: str, v: int = 1) -> None:  # noqa: ARG001
    """Plan an ordered job, or look what is missing of one that goes on; then queue its chunks."""
    check_contract(v)
    batch = get_settings().batch
    answer, state, planner = patiently(lambda: _ledger().claim_plan(
        job_id, lease_s=batch.lease_s, max_attempts=batch.max_attempts
    ))
    if answer is not Answer.GRANTED:
        log.info("job needs no plan", answer=answer, state=state)
        return
    lease = ChunkLease(
        lambda: _ledger().renew_plan(job_id, batch.lease_s, planner),
        lease_s=batch.lease_s, timeout_s=PLAN_TIMEOUT_S,
    )
    try:
        with lease:
            status = orders.plan(kept_broker(), job_id, planner, lease.is_stopped)
    except (redis.RedisError, errors.BrokerError) as error:  # its lease lapses by itself
        log.warning("job not planned", reason=str(error))
    except Exception as error:  # noqa: BLE001 - whatever it is, the job says so
        _not_planned(job_id, error, lease, planner)
    else:
        log.info("job planned", state=status.state, rows=status.rows_total) if status else None


@shared_task(name=BATCH_PLAN_DATASET, base=CeleriacTask, ignore_result=True)
def plan_dataset(request_id: str, v: int = 1) -> None:
    """Read a dataset and cut it into chunks for a submitter who waits, if one still does."""
    check_contract(v)
    caller = plan_requests.Caller(kept_broker(), request_id)
    request = caller.claim()
    if request is None:
        log.info("nobody waits for the plan")
        return
    lease = ChunkLease(caller.renew, lease_s=PLAN_WORD_S * 4, timeout_s=PLAN_TIMEOUT_S)
    planned = wrong = None
    try:
        with lease:
            planned = plan_requests.plan(kept_broker(), request, caller, lease.is_stopped)
    except errors.Cancelled as error:
        log.info("dataset not planned", reason=error.message)
        return
    except errors.CeleriacError as error:
        wrong = error.to_wire()
        log.info("dataset not planned", reason=error.message)
    except Exception:  # who waits plans by itself, and sees what it is
        log.exception("dataset not planned")
    patiently(lambda: caller.end(planned, wrong))
    if planned is not None:
        log.info("dataset planned", model=request.model, rows=planned.dataset.rows)


@shared_task(name=BATCH_CHUNK, base=ChunkTask, bind=True, acks_late=True, ignore_result=True)
def chunk(self: Task, job_id: str, chunk_no: int, output: str, v: int = 1) -> None:
    """Score one chunk, unless it is done, busy, or its job has ended; then commit it, once."""
    check_contract(v)
    began_s = time.monotonic()
    runner = _runner(str(self.request.id))
    claim = patiently(
        lambda: _ledger().claim(job_id, chunk_no, output=output, **asdict(runner))
    )
    if claim.answer is not Answer.GRANTED:
        _skip(claim, job_id, output)
        return
    run: Claim | None = claim
    while run is not None:
        with bound(chunk_no=run.chunk):
            run = _run(job_id, output, run, runner, began_s, _queue(self))


@shared_task(
    name=BATCH_FINALIZE, base=FinalizeTask, bind=True, acks_late=True, ignore_result=True,
    autoretry_for=(redis.RedisError, OSError, errors.StorageError),
    retry_backoff=1, retry_backoff_max=30,
)
def finalize(self: Task, job_id: str, output: str, v: int = 1) -> None:
    """Check every part, write manifest.json and _SUCCESS."""
    check_contract(v)
    ledger, owner = _ledger(), str(self.request.id)
    answer, state = patiently(lambda: ledger.finalizing(job_id, owner, output=output))
    if answer in (Answer.BUSY, Answer.DONE):
        log.info("job needs no finaliser", answer=answer, state=state)
        return
    folder = JobFolder(output)
    folder.load_of(job_id)
    with ChunkLease(  # as long as it is at work, nobody sends another
        lambda: _still_finalizing(job_id, owner), lease_s=reconciler.FINALIZER_S,
        timeout_s=FINALIZER_TIMEOUT_S,
    ):
        given_up = patiently(lambda: ledger.dead(job_id))
        try:
            manifest = finalizing.finalize(
                folder, datetime.now(UTC), given_up, lambda: _is_still_wanted(job_id, owner)
            )
        except errors.Cancelled as error:
            log.info("job does not end yet", reason=error.message)
            return
        _sum_up(folder)
    dead = manifest.rows_dead
    patiently(lambda: ledger.finish(
        job_id, JobState(manifest.state), rows_done=manifest.rows_in - dead,
        rows_failed=manifest.rows_failed - dead, rows_dead=dead,
    ))
    log.info(
        "job finished", state=manifest.state, model=manifest.model,
        version=manifest.version, rows=manifest.rows_in, failed=manifest.rows_failed,
        dead_chunks=len(manifest.dead),
    )


def _sum_up(folder: JobFolder) -> None:
    """Reviews that are to be summed up, whoever submitted them, leave their figures beside the
    parts. The job has its output without them."""
    wanted = folder.load().scoring.aggregate
    if wanted is None:
        return
    from celeriac.applications.reviews import dataset  # few jobs sum anything up

    if not dataset.is_summary(wanted):
        return
    try:
        dataset.write_summary(folder, dataset.read_summary(folder))
    except errors.CeleriacError as error:
        log.warning("reviews not summed up", reason=error.message)


@shared_task(name=BATCH_RECONCILE, base=BeatTask, ignore_result=True)
def reconcile() -> dict[str, int] | None:
    """Send again what was lost: chunks whose process or message is gone, and finalisers.

    Returns how many, by their kind.
    """
    found = reconciler.reconcile(kept_broker(), _ledger())
    for what, count in found.items():
        metrics.RECONCILED.labels(what).inc(count)
    if found:
        log.warning("jobs reconciled", **found)
    return found or None


def _runner(message_id: str) -> Runner:
    batch = get_settings().batch
    return Runner(
        owner=message_id, worker=process_name(), lease_s=batch.lease_s,
        max_attempts=batch.max_attempts, mark=kernel_mark(),
    )


def _queue(task: Task) -> str:
    """That the task's message came from."""
    return str((task.request.delivery_info or {}).get("routing_key") or "")


def _run(  # noqa: PLR0913, PLR0917 - a chunk of a message, and where others' wait
    job_id: str, output: str, claim: Claim, runner: Runner, began_s: float, queue: str
) -> Claim | None:
    """Score a chunk and commit it, or have it tried again; the next one of this process."""
    lease = _lease(job_id, output, claim)
    try:
        with lease:
            record = _score(job_id, output, claim, lease)
    except errors.Cancelled as error:
        _stop(job_id, output, claim, lease, error)
        return None
    except Exception as error:  # noqa: BLE001 - the policy decides, and the job says why
        _fail(job_id, output, claim, error)
        return None
    then = runner if time.monotonic() - began_s < MESSAGE_S else None
    change = patiently(lambda: _ledger().commit(job_id, record, claim.epoch, then, queue))
    metrics.CHUNKS.labels(_OUTCOMES.get(change.answer, "repeated")).inc()
    if change.answer is not Answer.COMMITTED:
        log.info("chunk does not count", answer=change.answer)
    _publish(job_id, output, change)
    return change.next


def _give_up(job_id: str, chunk_no: int | None, message_id: str, how: str) -> None:
    """The process that had the message is gone: what it ran is tried again."""
    held = _ledger().held_by(job_id, message_id)
    if held is None:
        return
    change = _ledger().release_owner(
        job_id, held, message_id, reason=f"chunk {held}: {how}",
        max_attempts=get_settings().batch.max_attempts,
    )
    entry = _ledger().entry(job_id)
    if entry is None:
        return
    job = Job.of_entry(entry)
    waves.publish(kept_broker(), job, change)
    if change.answer is Answer.AGAIN and held != chunk_no:  # Celery sends its own again
        waves.publish_chunks(kept_broker(), job, [held], delay_s=ChunkTask.default_retry_delay)


def _how(error: WorkerLostError) -> str:
    """How a process ended, without the pool's own number for its task."""
    return re.sub(r" Job: \d+\.$", "", str(error))


_OUTCOMES = {Answer.COMMITTED: "scored", Answer.REPEATED: "repeated", Answer.FENCED: "fenced"}


def _not_planned(job_id: str, error: Exception, lease: ChunkLease, planner: str) -> None:
    if isinstance(error, errors.Cancelled) and not lease.is_over:
        log.info("job no longer planned", reason=str(error))
        return
    text = error.message if isinstance(error, errors.CeleriacError) else errors.told(error)
    if lease.is_over:
        text = f"planning the dataset took longer than {PLAN_TIMEOUT_S:g} s"
    if patiently(lambda: _ledger().fail_plan(job_id, text[:2_000], planner)):
        log.warning("job cannot be planned", reason=text)
    else:
        log.info("job no longer planned", reason=text)


def _skip(claim: Claim, job_id: str, output: str) -> None:
    metrics.CHUNKS.labels("dead" if claim.attempt else "skipped").inc()
    log.info("chunk skipped", answer=claim.answer, state=claim.state)
    _publish(job_id, output, claim)


def _lease(job_id: str, output: str, claim: Claim) -> ChunkLease:
    batch = get_settings().batch

    def end() -> None:  # also sends it again: the message in hand may be another chunk's
        _stop(job_id, output, claim, lease, errors.Cancelled("the run hangs"))

    lease = ChunkLease(
        lambda: _ledger().renew(job_id, claim.chunk, claim.epoch, batch.lease_s),
        lease_s=batch.lease_s, timeout_s=batch.chunk_timeout_s, on_hang=end,
    )
    return lease


def _score(job_id: str, output: str, claim: Claim, lease: ChunkLease) -> ChunkRecord:
    folder = _folder(output)
    plan, chunks = _plan(output, job_id, _stamp(folder))
    if not 0 <= claim.chunk < len(chunks):
        raise errors.JobFailed(f"job {job_id} has no chunk {claim.chunk}")
    scoring = plan.scoring
    with get_host().held(scoring.model, scoring.version, scoring.model_created_at) as scorer:
        started = time.perf_counter()
        record = run_chunk(
            folder, plan, chunks[claim.chunk],
            _predict_batch(scorer, scoring.text_column),
            is_stopped=lease.is_stopped, holds_lease=lease.is_held,
            attempt=claim.attempt, epoch=claim.epoch,
            short=_short(claim), reference=_reference_of(scorer),
            spares=claim.attempt >= get_settings().batch.max_attempts,
        )
    seconds = time.perf_counter() - started
    metrics.BATCH_SECONDS.labels(scoring.model).observe(seconds)
    metrics.REQUESTS.labels(scoring.model, "batch").inc(record.rows_in)
    metrics.MODEL_VERSION.labels(scoring.model).set(scoring.version)
    log.info(
        "chunk scored", model=scoring.model, version=scoring.version, rows=record.rows_in,
        failed=record.rows_failed, seconds=round(seconds, 3), attempt=claim.attempt,
    )
    return record


def _short(claim: Claim) -> int:
    """Attempts that may have lacked memory: the kernel has killed since the first."""
    if claim.attempt == 1:
        return 0
    return claim.attempt - 1 if has_killed(claim.mark, kernel_mark()) else 0


def _stamp(folder: JobFolder) -> tuple[int, ...]:
    """Changes when the plan is written anew. Without a plan: nothing to tell."""
    try:
        return tuple(path.stat().st_mtime_ns for path in (folder.job, folder.plan))
    except OSError:
        return ()


_folder = lru_cache(maxsize=4)(JobFolder)


@lru_cache(maxsize=4)
def _plan(
    output: str, job_id: str, stamp: tuple[int, ...]  # noqa: ARG001 - a part of the key
) -> tuple[JobPlan, list[Chunk]]:
    """A plan of ten thousand chunks takes longer to read than a small one of them to score."""
    folder = _folder(output)
    plan = folder.load_of(job_id)
    return plan, folder.chunks(plan)


def _reference_of(scorer: Scorer) -> Reference | None:
    """What the rows are compared with; None without a profile, or with one that cannot be read."""
    try:
        return _reference(*Answerer.of(scorer.manifest))
    except errors.CeleriacError as error:  # its registry is away, say: the rows have their answers
        log.warning("no profile of the version", reason=error.message)
        return None


@lru_cache(maxsize=16)
def _reference(
    model: str, version: int, created_at: str  # noqa: ARG001 - a part of the key
) -> Reference | None:
    registry = Registry(get_settings().models.root)
    profile = read_profile(registry.folder(model, version))
    return None if profile is None else Reference(profile, registry.get(model, version).input)


def _predict_batch(scorer: Scorer, text_column: str | None) -> PredictBatch:
    if not shares_cache(scorer.manifest):
        return partial(scorer.score_table, text_column=text_column)
    recalling = RecallingScorer(scorer, get_worker_cache())
    return partial(recalling.score_table, text_column=text_column)


def _stop(
    job_id: str, output: str, claim: Claim, lease: ChunkLease, error: Exception
) -> None:
    """The run was stopped: by its time, by the job's end, or by another that has its lease."""
    if lease.is_over:
        _fail(job_id, output, claim, errors.WorkerError(_too_long(claim.chunk)))
        return
    metrics.CHUNKS.labels("stopped").inc()
    log.info("chunk stopped", answer=lease.answer, reason=str(error))
    _publish(job_id, output, _give_back(job_id, claim, ""))


def _fail(job_id: str, output: str, claim: Claim, error: Exception) -> None:
    """The attempt has failed: end the job, try the chunk again, or give it up."""
    max_attempts = get_settings().batch.max_attempts
    reason = policy.reason(error, claim.chunk, claim.attempt, max_attempts)
    if policy.ends_job(error, claim.attempt, max_attempts):
        if _is_overtaken(job_id, claim):
            log.info("chunk does not count", reason=reason)
            return
        metrics.CHUNKS.labels("failed").inc()
        log.error("chunk failed", attempt=claim.attempt, reason=reason)
        patiently(lambda: _ledger().fail(job_id, reason))
        _give_back(job_id, claim, "")
        return
    change = _give_back(job_id, claim, reason)
    dead = change.answer is Answer.DEAD
    metrics.CHUNKS.labels("dead" if dead else "retried").inc()
    log.warning("chunk failed", attempt=claim.attempt, answer=change.answer, reason=reason)
    _publish(job_id, output, change)
    if change.answer is Answer.AGAIN:
        delay_s = policy.retry_delay_s(claim.attempt)
        _publish_chunk(job_id, claim.chunk, output, delay_s)


def _is_overtaken(job_id: str, claim: Claim) -> bool:
    """True if the chunk was claimed anew, or is done: what this run met does not end the job."""
    lease_s = get_settings().batch.lease_s
    answer = patiently(lambda: _ledger().renew(job_id, claim.chunk, claim.epoch, lease_s))
    return answer is Answer.LOST


def _give_back(job_id: str, claim: Claim, reason: str) -> Change:
    return patiently(lambda: _ledger().release(
        job_id, claim.chunk, claim.epoch, reason=reason,
        max_attempts=get_settings().batch.max_attempts,
        delay_s=policy.retry_delay_s(claim.attempt) if reason else 0,
    ))


def _publish(job_id: str, output: str, change: Change) -> None:
    """Publish what a change asks for; if Redis stays away, the reconciler will."""
    if not change.wave and not change.completes:
        return

    def publish() -> None:
        entry = _ledger().entry(job_id)
        if entry is not None:
            waves.publish(kept_broker(), Job.of_entry(entry), change)

    try:
        patiently(publish)  # a message too many changes nothing
    except redis.RedisError as error:
        log.warning("wave not published", output=output, reason=str(error))


def _publish_chunk(job_id: str, chunk_no: int, output: str, delay_s: float) -> None:
    def publish() -> None:
        entry = _ledger().entry(job_id)
        if entry is not None:
            waves.publish_chunks(kept_broker(), Job.of_entry(entry), [chunk_no], delay_s=delay_s)

    try:
        patiently(publish)
    except redis.RedisError as error:
        log.warning("chunk not published", output=output, reason=str(error))


def _still_finalizing(job_id: str, owner: str) -> Answer:
    answer, _ = _ledger().finalizing(job_id, owner, is_at_work=True)
    return Answer.LOST if answer in (Answer.BUSY, Answer.DONE) else Answer.KEPT


def _is_still_wanted(job_id: str, owner: str) -> bool:
    """False if the job goes on, or ends anew, since somebody resumed it. True as well if Redis
    cannot be asked: nobody can have resumed it meanwhile."""
    try:
        return _still_finalizing(job_id, owner) is Answer.KEPT
    except redis.RedisError:
        return True


def _too_long(chunk_no: int) -> str:
    limit_s = get_settings().batch.chunk_timeout_s
    return f"chunk {chunk_no} took longer than {limit_s} s ([batch] chunk_timeout_s)"
