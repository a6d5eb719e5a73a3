"""One chunk of a dataset, and the end of its job. The work is in ``celeriac.jobs``."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from functools import lru_cache, partial
from typing import Any, NoReturn

import redis
from celery import Task, shared_task

from celeriac import errors, metrics
from celeriac.cache.worker import get_worker_cache
from celeriac.host import get_host
from celeriac.jobs import finalize as finalizing, policy
from celeriac.jobs.chunk import PredictBatch, run_chunk
from celeriac.jobs.folder import JobFolder
from celeriac.jobs.ledger import JobState, Ledger
from celeriac.jobs.plan import ChunkRecord, JobPlan
from celeriac.jobs.recall import RecallingScorer, shares_cache
from celeriac.logs import get_logger
from celeriac.messages import BATCH_CHUNK, BATCH_FINALIZE, check_contract
from celeriac.scoring import Scorer
from celeriac.settings import get_settings
from producer.broker import Broker
from producer.jobs import publish_finalizer
from tasks.base import CeleriacTask

log = get_logger(__name__)  # each line names the job and the chunk: tasks.base binds them


@lru_cache(maxsize=1)
def _broker() -> Broker:
    return Broker(get_settings())


def _ledger() -> Ledger:
    return Ledger(_broker().redis, get_settings().batch.job_ttl_s)


class JobTask(CeleriacTask):
    """A task that ends its job when it fails for good, also when its process was killed."""

    # Celery's own count is the outer bound; the ledger's attempts decide (celeriac.jobs.policy).
    max_retries = policy.MAX_ATTEMPTS + 1

    def on_failure(
        self, exc: Exception, task_id: str, args: Any, kwargs: dict[str, Any], einfo: Any
    ) -> None:
        del task_id, args, einfo
        text = exc.message if isinstance(exc, errors.CeleriacError) else repr(exc)
        _ledger().fail(str(kwargs.get("job_id")), text[:2_000])


@shared_task(
    name=BATCH_CHUNK, base=JobTask, bind=True, acks_late=True, ignore_result=True,
    autoretry_for=(redis.RedisError,), retry_backoff=1, retry_backoff_max=30,
)
def chunk(self: Task, job_id: str, chunk_no: int, output: str, v: int = 1) -> None:
    """Score one chunk, unless it is done or its job has ended; then commit it, once."""
    check_contract(v)
    ledger = _ledger()
    begin = ledger.begin(job_id, chunk_no)
    if begin.attempt == 0:
        metrics.CHUNKS.labels("skipped").inc()
        log.info("chunk skipped", state=begin.state, done=begin.done)
        if begin.done and begin.state is JobState.FINALIZING:
            # Its first run may have been killed between the commit and the finaliser's message.
            publish_finalizer(_broker().celery, job_id, output)
        return
    if begin.attempt > policy.MAX_ATTEMPTS:
        metrics.CHUNKS.labels("dead").inc()
        raise errors.JobFailed(
            f"chunk {chunk_no} ended its worker process {policy.MAX_ATTEMPTS} times"
        )
    try:
        record = _score(job_id, chunk_no, output, begin.attempt)
    except errors.Cancelled:
        metrics.CHUNKS.labels("stopped").inc()
        ledger.confirm_cancel(job_id)
        return
    except redis.RedisError:
        raise
    except Exception as error:  # noqa: BLE001 - the policy decides, and the job says why
        _again_or_fail(self, error, chunk_no, begin.attempt)
    commit = ledger.commit(record, job_id)
    metrics.CHUNKS.labels("scored" if commit.is_new else "repeated").inc()
    if commit.completes:
        publish_finalizer(_broker().celery, job_id, output)


@shared_task(
    name=BATCH_FINALIZE, base=JobTask, bind=True, acks_late=True, ignore_result=True,
    autoretry_for=(redis.RedisError, OSError, errors.StorageError),
    retry_backoff=1, retry_backoff_max=30,
)
def finalize(self: Task, job_id: str, output: str, v: int = 1) -> None:  # noqa: ARG001
    """Check every part, write manifest.json and _SUCCESS; or confirm a cancellation."""
    check_contract(v)
    ledger = _ledger()
    state = ledger.confirm_cancel(job_id)
    if state is JobState.CANCELLED:
        log.info("job cancelled")
        return
    if state is JobState.IN_PROGRESS:  # resumed since: its last commit sends the next one
        log.info("job goes on")
        return
    folder = JobFolder(output)
    _open(folder, job_id)
    manifest = finalizing.finalize(folder, datetime.now(UTC))
    ledger.finish(job_id, JobState(manifest.state))
    log.info(
        "job finished", state=manifest.state, model=manifest.model,
        version=manifest.version, rows=manifest.rows_in, failed=manifest.rows_failed,
    )


def _score(job_id: str, chunk_no: int, output: str, attempt: int) -> ChunkRecord:
    folder = JobFolder(output)
    plan = _open(folder, job_id)
    chunks = folder.chunks(plan)
    if not 0 <= chunk_no < len(chunks):
        raise errors.JobFailed(f"job {job_id} has no chunk {chunk_no}")
    scoring = plan.scoring
    scorer = get_host().scorer(scoring.model, scoring.version)
    started = time.perf_counter()
    record = run_chunk(
        folder, plan, chunks[chunk_no],
        _predict_batch(scorer, scoring.text_column),
        is_stopped=lambda: _ledger().is_stopped(job_id), attempt=attempt,
    )
    seconds = time.perf_counter() - started
    metrics.BATCH_SECONDS.labels(scoring.model).observe(seconds)
    metrics.REQUESTS.labels(scoring.model, "batch").inc(record.rows_in)
    metrics.MODEL_VERSION.labels(scoring.model).set(scoring.version)
    log.info(
        "chunk scored", model=scoring.model, version=scoring.version,
        rows=record.rows_in, failed=record.rows_failed, seconds=round(seconds, 3), attempt=attempt,
    )
    return record


def _predict_batch(scorer: Scorer, text_column: str | None) -> PredictBatch:
    if not shares_cache(scorer.manifest):
        return partial(scorer.score_table, text_column=text_column)
    recalling = RecallingScorer(scorer, get_worker_cache())
    return partial(recalling.score_table, text_column=text_column)


def _open(folder: JobFolder, job_id: str) -> JobPlan:
    plan = folder.load()
    if plan.job_id != job_id:
        raise errors.JobFailed(f"{folder.path} holds job {plan.job_id}, not {job_id}")
    return plan


def _again_or_fail(task: Task, error: Exception, chunk_no: int, attempt: int) -> NoReturn:
    reason = policy.reason(error, chunk_no, attempt)
    delay_s = policy.retry_delay_s(error, attempt)
    if delay_s is None:
        metrics.CHUNKS.labels("failed").inc()
        log.error("chunk failed", attempt=attempt, reason=reason)
        raise errors.JobFailed(reason) from error
    log.warning("chunk is tried again", attempt=attempt, reason=reason)
    raise task.retry(exc=error, countdown=delay_s)
