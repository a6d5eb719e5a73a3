"""The ledger of batch jobs in Redis: states and counts, each change one atomic script.

Nothing here is the truth about the output: that is on storage, and a lost ledger is rebuilt
from it (:meth:`Ledger.register`).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from celeriac.jobs.plan import ChunkRecord, JobPlan
from celeriac.messages import JOBS_KEY, job_done_key, job_key

JOBS_KEPT = 1_000


class JobState(StrEnum):
    """States of a job, named as in the Batch APIs of the large providers."""

    IN_PROGRESS = "in_progress"
    FINALIZING = "finalizing"
    COMPLETED = "completed"
    COMPLETED_WITH_ERRORS = "completed_with_errors"
    FAILED = "failed"
    CANCELLING = "cancelling"
    CANCELLED = "cancelled"
    EXPIRED = "expired"
    """Redis has forgotten the job; its output folder goes on with ``resume``."""

    @property
    def is_final(self) -> bool:
        return self not in (JobState.IN_PROGRESS, JobState.FINALIZING, JobState.CANCELLING)


@dataclass(frozen=True)
class Begin:
    """What the ledger says to a chunk that is about to run."""

    state: JobState | None
    """None: the job is not known."""
    done: bool
    attempt: int
    """1 for the first; 0 if the chunk must not run."""


@dataclass(frozen=True)
class Commit:
    """What a commit changed."""

    is_new: bool
    """False: the chunk was committed before."""
    completes: bool
    """True for the one commit that completes the job."""
    state: JobState | None


@dataclass(frozen=True)
class JobEntry:
    """All that the ledger knows of a job."""

    job_id: str
    state: JobState
    model: str
    version: int
    output: str
    source: str
    chunks: int
    rows: int
    chunks_done: int
    rows_done: int
    rows_failed: int
    rows_before: int
    """Rows that were done before the job was last submitted or resumed."""
    created_ms: int
    started_ms: int
    updated_ms: int
    error: str


_FIELDS = (
    "state", "model", "version", "output", "source", "chunks", "rows", "chunks_done", "rows_done",
    "rows_failed", "rows_before", "created_ms", "started_ms", "updated_ms", "error",
)
_TEXTS = ("model", "output", "source", "error")

_NOW = """
local time = redis.call('TIME')
local now = time[1] .. string.format('%03d', math.floor(time[2] / 1000))
local function touch(ttl)
  redis.call('HSET', KEYS[1], 'updated_ms', now)
  redis.call('EXPIRE', KEYS[1], ttl)
  redis.call('EXPIRE', KEYS[2], ttl)
end
local state = redis.call('HGET', KEYS[1], 'state')
"""

_BEGIN = _NOW + """
if not state then return {'', 0, 0} end
if redis.call('SISMEMBER', KEYS[2], ARGV[2]) == 1 then return {state, 1, 0} end
if state == 'cancelling' then
  redis.call('HSET', KEYS[1], 'state', 'cancelled')
  touch(ARGV[1])
  return {'cancelled', 0, 0}
end
if state ~= 'in_progress' then return {state, 0, 0} end
local attempt = redis.call('HINCRBY', KEYS[1], 'attempt:' .. ARGV[2], 1)
if redis.call('HSETNX', KEYS[1], 'started_ms', now) == 1 then touch(ARGV[1]) end
return {state, 0, attempt}
"""

_COMMIT = _NOW + """
if not state then return {0, 0, ''} end
local new = redis.call('SADD', KEYS[2], ARGV[2])
if new == 0 then return {0, 0, state} end
redis.call('HINCRBY', KEYS[1], 'chunks_done', 1)
redis.call('HINCRBY', KEYS[1], 'rows_done', ARGV[3])
redis.call('HINCRBY', KEYS[1], 'rows_failed', ARGV[4])
redis.call('HDEL', KEYS[1], 'attempt:' .. ARGV[2])
local completes = 0
if state == 'in_progress'
   and redis.call('SCARD', KEYS[2]) >= tonumber(redis.call('HGET', KEYS[1], 'chunks')) then
  state = 'finalizing'
  redis.call('HSET', KEYS[1], 'state', state)
  completes = 1
end
touch(ARGV[1])
return {1, completes, state}
"""

# ARGV: ttl, new state, error, states it may come from.
_MOVE = _NOW + """
for index = 4, #ARGV do
  if state == ARGV[index] then
    redis.call('HSET', KEYS[1], 'state', ARGV[2], 'error', ARGV[3])
    touch(ARGV[1])
    return ARGV[2]
  end
end
return state or ''
"""


class Ledger:
    """The ledger on a redis-py client. Every method may raise redis.RedisError."""

    def __init__(self, client: Any, ttl_s: int) -> None:
        self._client = client
        self._ttl_s = ttl_s

    def register(self, plan: JobPlan, output: str, records: Iterable[ChunkRecord]) -> JobState:
        """Enter a job, or rebuild its entry from what is on storage; returns its state.

        ``records``: the chunks that are done. Whatever is not among them must be published:
        a chunk that commits meanwhile is counted when its second message finds it done.
        """
        done = list(records)
        state = JobState.FINALIZING if len(done) == plan.chunks else JobState.IN_PROGRESS
        key, done_key = job_key(plan.job_id), job_done_key(plan.job_id)
        seconds, micros = self._client.time()
        now_ms = seconds * 1_000 + micros // 1_000
        fields = {
            "state": str(state), "model": plan.scoring.model, "version": plan.scoring.version,
            "output": output, "source": plan.source, "chunks": plan.chunks, "rows": plan.rows,
            "chunks_done": len(done), "rows_done": sum(record.rows_in for record in done),
            "rows_failed": sum(record.rows_failed for record in done),
            "rows_before": sum(record.rows_in for record in done),
            "created_ms": now_ms, "updated_ms": now_ms,
        }
        with self._client.pipeline(transaction=True) as pipe:
            pipe.delete(key, done_key)
            pipe.hset(key, mapping=fields)
            pipe.expire(key, self._ttl_s)
            if done:
                pipe.sadd(done_key, *(record.chunk for record in done))
                pipe.expire(done_key, self._ttl_s)
            pipe.zadd(JOBS_KEY, {plan.job_id: now_ms})
            pipe.zremrangebyrank(JOBS_KEY, 0, -JOBS_KEPT - 1)
            pipe.execute()
        return state

    def begin(self, job_id: str, chunk: int) -> Begin:
        """May this chunk run? Counts the attempt if it may."""
        state, done, attempt = self._run(_BEGIN, job_id, chunk)
        return Begin(_state(state), bool(done), int(attempt))

    def commit(self, record: ChunkRecord, job_id: str) -> Commit:
        """Count a chunk, once."""
        new, completes, state = self._run(
            _COMMIT, job_id, record.chunk, record.rows_in, record.rows_failed
        )
        return Commit(bool(new), bool(completes), _state(state))

    def finish(self, job_id: str, state: JobState) -> None:
        """The finaliser's verdict."""
        self._move(job_id, state, "", JobState.IN_PROGRESS, JobState.FINALIZING)

    def fail(self, job_id: str, reason: str) -> None:
        """End a job that cannot go on; chunks that are still queued will not run."""
        sources = (JobState.IN_PROGRESS, JobState.FINALIZING)
        self._move(job_id, JobState.FAILED, reason, *sources)

    def cancel(self, job_id: str) -> JobState | None:
        """Ask that no further chunk starts; returns the state now."""
        return self._move(job_id, JobState.CANCELLING, "", JobState.IN_PROGRESS)

    def confirm_cancel(self, job_id: str) -> JobState | None:
        """A worker has seen the cancellation; returns the state now."""
        return self._move(job_id, JobState.CANCELLED, "", JobState.CANCELLING)

    def is_stopped(self, job_id: str) -> bool:
        """True if a running chunk should not go on."""
        state = _state(self._client.hget(job_key(job_id), "state") or b"")
        return state in (JobState.CANCELLING, JobState.CANCELLED, JobState.FAILED)

    def entry(self, job_id: str) -> JobEntry | None:
        """What the ledger knows; None if it knows nothing (any more)."""
        return _entry(job_id, self._client.hmget(job_key(job_id), _FIELDS))

    def entries(self, limit: int = JOBS_KEPT) -> list[JobEntry]:
        """The newest jobs first; those that Redis has forgotten are dropped from the list."""
        ids = [_text(value) for value in self._client.zrevrange(JOBS_KEY, 0, limit - 1)]
        with self._client.pipeline(transaction=False) as pipe:
            for job_id in ids:
                pipe.hmget(job_key(job_id), _FIELDS)
            found = [
                _entry(job_id, values) for job_id, values in zip(ids, pipe.execute(), strict=True)
            ]
        gone = [job_id for job_id, entry in zip(ids, found, strict=True) if entry is None]
        if gone:
            self._client.zrem(JOBS_KEY, *gone)
        return [entry for entry in found if entry is not None]

    def _move(
        self, job_id: str, state: JobState, error: str, *sources: JobState
    ) -> JobState | None:
        return _state(self._run(_MOVE, job_id, str(state), error, *map(str, sources)))

    def _run(self, script: str, job_id: str, *arguments: Any) -> Any:
        keys = (job_key(job_id), job_done_key(job_id))
        return self._client.eval(script, 2, *keys, self._ttl_s, *arguments)


def _entry(job_id: str, values: list[Any]) -> JobEntry | None:
    fields: dict[str, Any] = dict(zip(_FIELDS, map(_text, values), strict=True))
    state = _state(fields.pop("state"))
    if state is None:
        return None
    numbers = {name: int(value or 0) for name, value in fields.items() if name not in _TEXTS}
    return JobEntry(job_id=job_id, state=state, **{**fields, **numbers})


def _state(value: Any) -> JobState | None:
    text = _text(value)
    return JobState(text) if text else None


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value or "")
