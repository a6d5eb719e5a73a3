"""The ledger of batch jobs in Redis: states, counts and leases, each change one atomic script.

Nothing here is the truth about the output: that is on storage, and a lost ledger is rebuilt
from it (:meth:`Ledger.enter`). A chunk runs under a lease; its epoch tells its run from every
other one, and only the newest run of a chunk can commit it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

from celeriac import lua
from celeriac.jobs import scripts
from celeriac.jobs.plan import DEFAULT_TENANT, ChunkRecord, JobPlan
from celeriac.keys import ACTIVE_JOBS_KEY, JOBS_KEY, job_key, job_part_key, tenant_jobs_key

JOBS_KEPT = 1_000
JUDGED_ROWS = 1_000
"""A job is not stopped for its share of failed rows before so many rows are done."""
VALIDATING_TTL_S = 3_600
"""How long Redis remembers a job whose submitter ended while it planned."""
IDLE_S = 30 * 86_400
"""A job of which nothing has changed for so long expires: there is no worker for it, and no end."""
_PARTS = ("done", "waiting", "queued", "running", "dead", "claims")


class JobState(StrEnum):
    """States of a job, named as in the Batch APIs of the large providers."""

    VALIDATING = "validating"
    """The dataset is being read and cut into chunks."""
    IN_PROGRESS = "in_progress"
    FINALIZING = "finalizing"
    COMPLETED = "completed"
    COMPLETED_WITH_ERRORS = "completed_with_errors"
    """Some rows failed, or whole chunks were given up; the manifest names them."""
    FAILED = "failed"
    CANCELLING = "cancelling"
    CANCELLED = "cancelled"
    EXPIRED = "expired"
    """Its time was over, nobody worked on it for a month, or Redis has forgotten it; its output
    folder goes on with ``resume``."""

    @property
    def is_final(self) -> bool:
        """True of a job that has ended, however it ended."""
        return self not in _OPEN

    @property
    def is_whole(self) -> bool:
        """True if its output is as complete as it gets."""
        return self in (JobState.COMPLETED, JobState.COMPLETED_WITH_ERRORS)


_OPEN = (
    JobState.VALIDATING, JobState.IN_PROGRESS, JobState.FINALIZING, JobState.CANCELLING,
)


class Answer(StrEnum):
    """What the ledger says to a chunk."""

    GRANTED = "granted"
    BUSY = "busy"
    """Another process runs it, and has been heard of lately."""
    DONE = "done"
    DEAD = "dead"
    """It was given up."""
    CANCELLED = "cancelled"
    """Its job has ended or is about to: nothing of it may start."""
    UNKNOWN = "unknown"
    KEPT = "kept"
    LOST = "lost"
    """The lease is another's now."""
    COMMITTED = "committed"
    REPEATED = "repeated"
    """It was committed before."""
    FENCED = "fenced"
    """It was claimed anew since, or given up: this run does not count."""
    AGAIN = "again"
    """It failed, and must be published once more."""
    RETURNED = "returned"
    """It waits, and counts as not begun."""


@dataclass(frozen=True)
class Change:
    """What a change did, and what its caller must publish now."""

    answer: Answer
    state: JobState | None = None
    """Of the job; None: it is not known."""
    completes: bool = False
    """True for the one change after which the finaliser must be sent."""
    wave: tuple[int, ...] = ()
    """Chunks to publish."""


@dataclass(frozen=True)
class Claim(Change):
    """The answer to a chunk that is about to run."""

    chunk: int = -1
    attempt: int = 0
    """1 for the first."""
    epoch: int = 0
    mark: str = ""
    """Of the kernel, at the first attempt."""


@dataclass(frozen=True)
class Commit(Change):
    """What became of a chunk that was scored, and how its run goes on."""

    next: Claim | None = None
    """The chunk that the same run has been granted, if it wanted one."""


@dataclass(frozen=True)
class Runner:
    """Who claims chunks, and on which terms."""

    owner: str
    """The message in hand, so that a process that ended can be given up by it."""
    worker: str
    lease_s: float
    max_attempts: int
    mark: str = ""
    """How often the kernel has killed so far."""


@dataclass(frozen=True)
class Sweep:
    """What the reconciler must do for one job."""

    state: JobState | None
    completes: bool
    """Send the finaliser."""
    wave: tuple[int, ...]
    """Chunks to publish."""
    suspects: tuple[int, ...]
    """Chunks that have been queued for long: their messages may be gone."""
    plans: bool = False
    """The job was ordered, and nobody has been heard of for long who plans it."""


@dataclass(frozen=True)
class DeadChunk:
    """A chunk that was given up."""

    chunk: int
    attempts: int
    reason: str
    worker: str
    at_ms: int
    dropped: bool
    """True: nobody wants it any more; it is not tried again unless it is named."""


@dataclass(frozen=True)
class JobEntry:
    """All that the ledger knows of a job."""

    job_id: str
    state: JobState
    model: str
    version: int
    device: str
    output: str
    source: str
    chunks: int
    rows: int
    rows_done: int
    rows_failed: int
    rows_dead: int
    """Rows of chunks that were given up."""
    rows_before: int
    """Rows that were done before the job was last submitted or resumed."""
    created_ms: int
    started_ms: int
    updated_ms: int
    ended_ms: int
    expires_ms: int
    error: str
    tenant: str = DEFAULT_TENANT
    id_column: str = ""
    chunks_done: int = 0
    chunks_waiting: int = 0
    chunks_queued: int = 0
    chunks_running: int = 0
    chunks_dead: int = 0


_FIELDS = (
    "state", "model", "version", "device", "output", "source", "chunks", "rows", "rows_done",
    "rows_failed", "rows_dead", "rows_before", "created_ms", "started_ms", "updated_ms", "ended_ms",
    "expires_ms", "error", "tenant", "id_column",
)
_TEXTS = ("model", "device", "output", "source", "error", "tenant", "id_column")
_COUNTED = ("done", "waiting", "queued", "running", "dead")


class Ledger:
    """The ledger on a redis-py client. Every method may raise redis.RedisError."""

    def __init__(self, client: Any, ttl_s: int) -> None:
        self._client = client
        self._ttl_s = ttl_s

    # --- a job ------------------------------------------------------------------------------------

    def announce(
        self, job_id: str, *, model: str, version: int, source: str, output: str
    ) -> None:
        """Show a job while its dataset is read: ``validating``."""
        key, now_ms = job_key(job_id), self._now_ms()
        fields: dict[str, Any] = {
            "state": str(JobState.VALIDATING), "model": model, "version": version,
            "source": source, "output": output, "created_ms": now_ms, "updated_ms": now_ms,
        }
        with self._client.pipeline(transaction=True) as pipe:
            pipe.hset(key, mapping=fields)
            pipe.expire(key, min(VALIDATING_TTL_S, self._ttl_s))
            self._list(pipe, job_id, now_ms)
            pipe.execute()

    def order(  # noqa: PLR0913 - what is known of a job before it is planned
        self, job_id: str, *, model: str, version: int, device: str, source: str, output: str,
        tenant: str, id_column: str, order: str, digest: str, expires_ms: int = 0,
    ) -> tuple[JobState | None, str]:
        """Keep what was asked for, for a worker to plan: ``validating``, with a planner's lease.

        None and nothing: the job is new. Otherwise it was there before, and stays as it is: its
        state, and the digest that it was ordered with.
        """
        fields = {
            "model": model, "version": version, "device": device, "source": source,
            "output": output, "tenant": tenant, "id_column": id_column, "order": order,
            "order_digest": digest, "expires_ms": expires_ms,
        }
        state, held = self._run(scripts.ORDER, job_id, json.dumps(fields))
        with self._client.pipeline(transaction=True) as pipe:
            self._list(pipe, job_id, self._now_ms(), tenant)
            pipe.execute()
        return _state(state), _text(held)

    def order_of(self, job_id: str) -> str:
        """What :meth:`order` kept; empty for a job that was planned by who submitted it."""
        return _text(self._client.hget(job_key(job_id), "order"))

    def reopen(self, job_id: str, order: str) -> tuple[JobState | None, bool]:
        """Have a job that was cancelled, has failed or expired looked at again: ``validating``.

        Any other one stays as it is. The state now, and whether there is something to plan.
        """
        state, found = self._run(scripts.REOPEN, job_id, order)
        return _state(state), bool(found)

    def claim_plan(
        self, job_id: str, *, lease_s: float, max_attempts: int
    ) -> tuple[Answer, JobState | None, str]:
        """May this process plan the job? If it is GRANTED, its lease begins.

        The token tells this planner from those before and after it: nothing of a planner counts
        once the job was claimed, ordered or reopened anew.
        """
        answer, state, planner = self._run(
            scripts.CLAIM_PLAN, job_id, round(lease_s * 1_000), max_attempts
        )
        return _answer(answer), _state(state), _text(planner)

    def renew_plan(self, job_id: str, lease_s: float, planner: str) -> Answer:
        """KEPT, or why planning should stop.

        CANCELLED: the job has ended, or is gone; LOST: it is another's to plan.
        """
        return _answer(self._run(scripts.RENEW_PLAN, job_id, round(lease_s * 1_000), planner))

    def release_plan(self, job_id: str) -> None:
        """The process that planned the job is gone: another one may begin."""
        self._run(scripts.RELEASE_PLAN, job_id)

    def withdraw(self, job_id: str) -> None:
        """Forget a job that came to nothing."""
        keys = [job_key(job_id), *(job_part_key(job_id, part) for part in _PARTS)]
        tenant = _text(self._client.hget(job_key(job_id), "tenant")) or DEFAULT_TENANT
        with self._client.pipeline(transaction=True) as pipe:
            pipe.delete(*keys)
            pipe.zrem(JOBS_KEY, job_id)
            pipe.zrem(tenant_jobs_key(tenant), job_id)
            pipe.srem(ACTIVE_JOBS_KEY, job_id)
            pipe.execute()

    def enter(  # noqa: PLR0913 - what storage knows of a job
        self,
        plan: JobPlan,
        output: str,
        records: Iterable[ChunkRecord],
        *,
        window: int,
        sizes: Sequence[int],
        given_up: Sequence[DeadChunk] = (),
        expires_ms: int = 0,
        max_error_share: float | None = None,
        judged_rows: int = JUDGED_ROWS,
        validated: bool = False,
        planner: str = "",
    ) -> Change:
        """Enter a job, or rebuild its entry from what is on storage.

        ``records``: the chunks that are done; ``given_up``: those that stay so. All others run, at
        most ``window`` at a time; one that runs already goes on. ``sizes``: rows of each chunk.
        When more than ``max_error_share`` of the rows so far (at least ``judged_rows``, or all)
        have failed, the job fails; None keeps what the job had, or else what its plan says.
        ``validated``: the job was shown while it was planned; if it has ended meanwhile (it was
        cancelled), it stays so, which is CANCELLED. ``planner``: who has planned a job that was
        ordered; LOST, and nothing has changed, if it is no longer that one's.
        """
        done = list(records)
        settled = {*(record.chunk for record in done), *(one.chunk for one in given_up)}
        rows = sum(record.rows_in for record in done)
        fields = {
            "model": plan.scoring.model, "version": plan.scoring.version,
            "device": plan.scoring.device, "output": output, "source": plan.source,
            "chunks": plan.chunks, "rows": plan.rows, "rows_done": rows, "rows_before": rows,
            "rows_failed": sum(record.rows_failed for record in done),
            "rows_dead": 0, "window": window, "expires_ms": expires_ms,
            "sizes": json.dumps(list(sizes)), "judged_rows": judged_rows, "tenant": plan.tenant,
            "id_column": plan.scoring.id_column or "",
        }
        change = self._change(
            scripts.ENTER, plan.job_id, json.dumps(fields),
            json.dumps([record.chunk for record in done]),
            json.dumps({one.chunk: _dead_entry(one) for one in given_up}),
            json.dumps([chunk for chunk in range(plan.chunks) if chunk not in settled]),
            "" if max_error_share is None else max_error_share, plan.max_error_share,
            int(validated), planner,
        )
        if change.answer is Answer.GRANTED:
            with self._client.pipeline(transaction=True) as pipe:
                self._list(pipe, plan.job_id, self._now_ms(), plan.tenant)
                pipe.execute()
        return change

    def finish(  # noqa: PLR0913 - how a job has ended, and who says so
        self, job_id: str, state: JobState, *, rows_done: int, rows_failed: int, rows_dead: int,
        planner: str = "",
    ) -> None:
        """The finaliser's verdict; the rows of dead chunks are apart from the others.

        Also that of the ``planner`` of a job that was reopened, and turns out to be complete.
        """
        rows = (rows_done, rows_failed, rows_dead)
        self._move(job_id, state, "", rows, planner, JobState.FINALIZING, JobState.VALIDATING)

    def fail(self, job_id: str, reason: str) -> None:
        """End a job that cannot go on; chunks that are still queued will not run."""
        sources = (JobState.VALIDATING, JobState.IN_PROGRESS, JobState.FINALIZING)
        self._move(job_id, JobState.FAILED, reason, ("", "", ""), "", *sources)

    def fail_plan(self, job_id: str, reason: str, planner: str) -> bool:
        """End a job that cannot be planned. False: it was not this planner's to end any more."""
        return self._move(
            job_id, JobState.FAILED, reason, ("", "", ""), planner, JobState.VALIDATING
        )

    def cancel(self, job_id: str) -> JobState | None:
        """Ask that no chunk starts and that running ones stop; returns the state now."""
        return _state(self._run(scripts.CANCEL, job_id))

    def finalizing(
        self, job_id: str, owner: str, *, output: str = "", is_at_work: bool = False
    ) -> tuple[Answer, JobState | None]:
        """A finaliser is at work: if it is GRANTED, no other one is, and none is sent for a while.

        BUSY: another one has been heard of lately, or, of one that ``is_at_work`` already, the job
        went on meanwhile and ends anew. DONE: the job goes on, has ended, or has moved from the
        folder ``output``. ``owner`` names the message: who is killed goes on as it comes again.
        """
        answer, state = self._run(
            scripts.FINALIZING, job_id, owner, output, "1" if is_at_work else ""
        )
        return _answer(answer), _state(state)

    def entry(self, job_id: str) -> JobEntry | None:
        """What the ledger knows; None if it knows nothing (any more)."""
        return self._entries([job_id])[0]

    def entries(self, limit: int = JOBS_KEPT) -> list[JobEntry]:
        """The newest jobs first; those that Redis has forgotten are dropped from the list."""
        ids = [_text(value) for value in self._client.zrevrange(JOBS_KEY, 0, limit - 1)]
        found = self._entries(ids)
        gone = [job_id for job_id, entry in zip(ids, found, strict=True) if entry is None]
        if gone:
            self._client.zrem(JOBS_KEY, *gone)
        return [entry for entry in found if entry is not None]

    def known(self, ids: Sequence[str]) -> list[JobEntry | None]:
        """What is known of each of these jobs, in one exchange."""
        return self._entries(ids) if ids else []

    def page(
        self, tenant: str, limit: int, after: str = ""
    ) -> tuple[list[JobEntry], bool] | None:
        """A tenant's jobs, the newest first, from the one behind ``after``; are there more?

        None if ``after`` is no job of the tenant's list (any more).
        """
        key, start = tenant_jobs_key(tenant), 0
        if after:
            rank = self._client.zrevrank(key, after)
            if rank is None:
                return None
            start = int(rank) + 1
        ids = [_text(value) for value in self._client.zrevrange(key, start, start + limit)]
        found = self._entries(ids[:limit]) if ids else []
        gone = [job_id for job_id, entry in zip(ids, found, strict=False) if entry is None]
        if gone:
            self._client.zrem(key, *gone)
        entries = [one for one in found if one is not None and one.tenant == tenant]
        return entries, len(ids) > limit

    # --- a chunk ----------------------------------------------------------------------------------

    def claim(  # noqa: PLR0913 - who claims what, and on which terms
        self, job_id: str, chunk: int, *, owner: str, worker: str, lease_s: float,
        max_attempts: int, mark: str = "", output: str = "",
    ) -> Claim:
        """May this chunk run? If it is GRANTED, the attempt counts and the lease begins.

        ``owner`` names the message, so that a process that ended can be given up by it; ``mark``
        says how often the kernel has killed so far. UNKNOWN as well if the job's output is no
        longer the folder ``output``.
        """
        answer, state, attempt, epoch, completes, wave, first_mark = self._run(
            scripts.CLAIM, job_id, chunk, round(lease_s * 1_000), owner, worker, max_attempts, mark,
            output,
        )
        return Claim(
            _answer(answer), _state(state), bool(completes), _numbers(wave), chunk, int(attempt),
            int(epoch), _text(first_mark),
        )

    def renew(self, job_id: str, chunk: int, epoch: int, lease_s: float) -> Answer:
        """KEPT, or why this run should stop: LOST, CANCELLED, UNKNOWN."""
        return _answer(self._run(scripts.RENEW, job_id, chunk, epoch, round(lease_s * 1_000)))

    def commit(
        self, job_id: str, record: ChunkRecord, epoch: int, then: Runner | None = None,
        queue: str = "",
    ) -> Commit:
        """Count a chunk, once: COMMITTED, REPEATED, FENCED or UNKNOWN.

        ``then``: if it is COMMITTED, the same run is granted another chunk: the first one that
        waits, of which no message is on its way, unless messages of others wait in ``queue``; or
        else the one whose message is the next there, which is taken out. A commit that is repeated,
        because its answer was lost, is granted the same chunk again.
        """
        terms: tuple[Any, ...] = ()
        if then is not None:
            terms = (
                round(then.lease_s * 1_000), then.owner, then.worker, then.max_attempts, then.mark
            )
        answer, state, completes, wave, granted = self._run(
            scripts.COMMIT, job_id, record.chunk, epoch, record.rows_in, record.rows_failed, *terms,
            more_keys=(queue,),
        )
        return Commit(
            _answer(answer), _state(state), bool(completes), _numbers(wave), _granted(granted)
        )

    def release(  # noqa: PLR0913 - a run, and how it ended
        self, job_id: str, chunk: int, epoch: int, *, reason: str = "", max_attempts: int = 1,
        delay_s: float = 0,
    ) -> Change:
        """Give a lease back. With a ``reason`` the attempt has failed: AGAIN or DEAD.

        Without one the chunk was stopped and is RETURNED as if it had not begun.
        """
        return self._change(
            scripts.RELEASE, job_id, chunk, epoch, "", reason, max_attempts,
            round(delay_s * 1_000),
        )

    def release_owner(
        self, job_id: str, chunk: int, owner: str, *, reason: str, max_attempts: int
    ) -> Change:
        """:meth:`release` for a process that ended with the message ``owner`` in hand."""
        return self._change(scripts.RELEASE, job_id, chunk, "", owner, reason, max_attempts, 0)

    def held_by(self, job_id: str, owner: str) -> int | None:
        """The chunk that runs with the message ``owner`` in hand, if there is one."""
        chunks = _numbers(self._client.zrange(job_part_key(job_id, "running"), 0, -1))
        names = [f"owner:{chunk}" for chunk in chunks]
        owners = self._client.hmget(job_part_key(job_id, "claims"), names) if names else []
        held = (chunk for chunk, one in zip(chunks, owners, strict=True) if _text(one) == owner)
        return next(held, None)

    # --- chunks that were given up ----------------------------------------------------------------

    def dead(self, job_id: str) -> list[DeadChunk]:
        """The chunks that were given up, in order."""
        found = self._client.hgetall(job_part_key(job_id, "dead"))
        entries = {int(chunk): json.loads(entry) for chunk, entry in found.items()}
        return [DeadChunk(chunk=chunk, **entries[chunk]) for chunk in sorted(entries)]

    def requeue_dead(self, job_id: str, chunks: Sequence[int]) -> tuple[int, Change]:
        """Try dead chunks again (none: all that are not dropped): how many."""
        state, found, wave = self._run(scripts.REQUEUE_DEAD, job_id, *chunks)
        return int(found), Change(Answer.RETURNED, _state(state), wave=_numbers(wave))

    def drop(self, job_id: str, chunks: Sequence[int]) -> tuple[int, ...]:
        """Mark dead chunks as not wanted; which of them were dead."""
        return _numbers(self._run(scripts.DROP, job_id, *chunks))

    # --- the reconciler ---------------------------------------------------------------------------

    def active(self) -> list[str]:
        """Ids of the jobs that have not ended."""
        return sorted(_text(job_id) for job_id in self._client.smembers(ACTIVE_JOBS_KEY))

    def sweep(
        self, job_id: str, *, most: int, queued_s: float, finalizer_s: float,
        idle_s: float = IDLE_S,
    ) -> Sweep:
        """Put lapsed leases, expiry and lost finalisers right; ``most`` chunks at a time.

        Suspects have been queued for ``queued_s``; a finaliser not heard of for ``finalizer_s``
        is replaced. A job of which nothing has changed for ``idle_s`` expires.
        """
        times = [round(seconds * 1_000) for seconds in (queued_s, finalizer_s, idle_s)]
        state, completes, wave, suspects, plans = self._run(
            scripts.SWEEP, job_id, most, *times
        )
        return Sweep(
            _state(state), bool(completes), _numbers(wave), _numbers(suspects), bool(plans)
        )

    def requeue_vanished(
        self, job_id: str, chunks: Sequence[int], queued_s: float
    ) -> tuple[int, ...]:
        """Those of ``chunks`` that are still queued for so long; they must be published."""
        return _numbers(
            self._run(scripts.REQUEUE_VANISHED, job_id, round(queued_s * 1_000), *chunks)
        )

    def _change(self, script: str, job_id: str, *arguments: Any) -> Change:
        answer, state, completes, wave = self._run(script, job_id, *arguments)
        return Change(_answer(answer), _state(state), bool(completes), _numbers(wave))

    def _move(
        self, job_id: str, state: JobState, error: str, rows: tuple[Any, Any, Any], planner: str,
        *sources: JobState,
    ) -> bool:
        return bool(
            self._run(scripts.MOVE, job_id, str(state), error, *rows, planner, *map(str, sources))
        )

    def _run(
        self, script: str, job_id: str, *arguments: Any, more_keys: Sequence[str] = ()
    ) -> Any:
        parts = (job_part_key(job_id, part) for part in _PARTS)
        keys = [job_key(job_id), *parts, ACTIVE_JOBS_KEY, *more_keys]
        return lua.run(self._client, script, keys, job_id, self._ttl_s, *arguments)

    def _list(
        self, pipe: Any, job_id: str, now_ms: int, tenant: str = DEFAULT_TENANT
    ) -> None:
        pipe.zadd(JOBS_KEY, {job_id: now_ms})
        pipe.zremrangebyrank(JOBS_KEY, 0, -JOBS_KEPT - 1)
        key = tenant_jobs_key(tenant)
        pipe.zadd(key, {job_id: now_ms}, nx=True)  # pages must not move
        pipe.zremrangebyrank(key, 0, -JOBS_KEPT - 1)
        pipe.expire(key, max(self._ttl_s, IDLE_S))  # it lists those that are open, too

    def _now_ms(self) -> int:
        seconds, micros = self._client.time()
        return int(seconds) * 1_000 + int(micros) // 1_000

    def _entries(self, ids: Sequence[str]) -> list[JobEntry | None]:
        with self._client.pipeline(transaction=False) as pipe:
            for job_id in ids:
                pipe.hmget(job_key(job_id), _FIELDS)
                pipe.scard(job_part_key(job_id, "done"))
                for part in ("waiting", "queued", "running"):
                    pipe.zcard(job_part_key(job_id, part))
                pipe.hlen(job_part_key(job_id, "dead"))
            answers = iter(pipe.execute())
        return [
            _entry(job_id, next(answers), [int(next(answers)) for _ in _COUNTED])
            for job_id in ids
        ]


def _entry(job_id: str, values: list[Any], counts: list[int]) -> JobEntry | None:
    fields: dict[str, Any] = dict(zip(_FIELDS, map(_text, values), strict=True))
    state = _state(fields.pop("state"))
    if state is None:
        return None
    fields["tenant"] = fields["tenant"] or DEFAULT_TENANT
    numbers = {name: int(value or 0) for name, value in fields.items() if name not in _TEXTS}
    chunks = {f"chunks_{name}": count for name, count in zip(_COUNTED, counts, strict=True)}
    return JobEntry(job_id=job_id, state=state, **{**fields, **numbers, **chunks})


def _granted(found: Sequence[Any]) -> Claim | None:
    if not found:
        return None
    chunk, attempt, epoch, mark = found
    return Claim(
        Answer.GRANTED, JobState.IN_PROGRESS, chunk=int(chunk), attempt=int(attempt),
        epoch=int(epoch), mark=_text(mark),
    )


def _dead_entry(dead: DeadChunk) -> str:
    fields = asdict(dead)
    del fields["chunk"]  # by which it is kept
    return json.dumps(fields)


def _state(value: Any) -> JobState | None:
    text = _text(value)
    return JobState(text) if text else None


def _answer(value: Any) -> Answer:
    return Answer(_text(value))


def _numbers(values: Iterable[Any]) -> tuple[int, ...]:
    return tuple(int(value) for value in values)


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value or "")
