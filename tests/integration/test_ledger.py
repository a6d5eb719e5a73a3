"""The ledger on a real server: each chunk counts once, the job completes once."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest
import redis

from celeriac.datasets.records import Chunk, DatasetColumn, DatasetPlan, SourceFile
from celeriac.jobs.ledger import (
    JOBS_KEPT,
    Answer,
    Change,
    Claim,
    DeadChunk,
    JobEntry,
    JobState,
    Ledger,
    Runner,
)
from celeriac.jobs.plan import ChunkRecord, JobPlan, Scoring, make_plan
from celeriac.keys import ACTIVE_JOBS_KEY, JOBS_KEY, job_key, job_part_key, tenant_jobs_key

NOW = datetime(2026, 11, 22, 3, tzinfo=UTC)
TTL_S = 600


def job(chunks: int = 3, job_id: str = "j1") -> JobPlan:
    dataset = DatasetPlan(
        format="csv",
        files=(SourceFile(path="/in.csv", size=1, mtime_ns=1, sha256="0", rows=chunks * 10),),
        columns=(DatasetColumn(name="a", dtype="int"),),
        chunks=tuple(Chunk(number=n, file=0, first_row=n * 10, rows=10) for n in range(chunks)),
    )
    scoring = Scoring(model="m", version=1, device="cpu", needs=("a",), keeps=("a",))
    return make_plan(dataset, scoring, source="in.csv", job_id=job_id, now=NOW)


def record(chunk: int, failed: int = 0) -> ChunkRecord:
    return ChunkRecord(
        chunk=chunk, fingerprint="f", first_row=0, rows_in=10, rows_ok=10 - failed,
        rows_failed=failed, part="p", bytes=1, sha256="0", errors_sha256=None, model="m",
        version=1, attempt=1, worker="w", seconds=0.1, finished_at="",
    )


def message(chunk: int) -> bytes:
    """As much of a queued chunk's message as the ledger reads."""
    return json.dumps({"headers": {"job_id": "j1", "chunk_no": chunk}}).encode()


@pytest.fixture
def ledger(redis_client: redis.Redis) -> Ledger:
    return Ledger(redis_client, TTL_S)


def enter(
    ledger: Ledger, done: Any = (), *, plan: JobPlan | None = None, window: int = 100,
    **options: Any,
) -> Change:
    plan = plan or job()
    return ledger.enter(
        plan, "/out", done, window=window, **{"sizes": [10] * plan.chunks, **options}
    )


def claim(ledger: Ledger, chunk: int, *, lease_s: float = 60, owner: str = "o") -> Claim:
    return ledger.claim("j1", chunk, owner=owner, worker="w", lease_s=lease_s, max_attempts=3)


def commit(ledger: Ledger, chunk: int, failed: int = 0) -> Change:
    return ledger.commit("j1", record(chunk, failed), claim(ledger, chunk).epoch)


def entry(ledger: Ledger, job_id: str = "j1") -> JobEntry:
    found = ledger.entry(job_id)
    assert found is not None
    return found


def places(ledger: Ledger) -> tuple[int, int, int, int, int]:
    """Chunks that wait, are queued, run, are done, are dead."""
    one = entry(ledger)
    return (one.chunks_waiting, one.chunks_queued, one.chunks_running, one.chunks_done,
            one.chunks_dead)


def test_commits_count_once_and_the_last_completes(ledger: Ledger) -> None:
    assert enter(ledger).wave == (0, 1, 2)
    run = claim(ledger, 0)
    first = ledger.commit("j1", record(0, failed=4), run.epoch)
    assert (first.answer, first.completes) == (Answer.COMMITTED, False)
    again = ledger.commit("j1", record(0, failed=4), run.epoch)
    assert (again.answer, again.completes) == (Answer.REPEATED, False)
    assert commit(ledger, 2).completes is False
    last = commit(ledger, 1)
    assert (last.answer, last.completes, last.state) == (
        Answer.COMMITTED, True, JobState.FINALIZING,
    )
    assert claim(ledger, 1).answer is Answer.DONE
    assert (entry(ledger).rows_done, entry(ledger).rows_failed) == (30, 4)
    assert places(ledger) == (0, 0, 0, 3, 0)


def test_concurrent_claims_and_commits_complete_the_job_exactly_once(ledger: Ledger) -> None:
    enter(ledger, plan=job(chunks=40), window=7)

    def run(number: int) -> tuple[Claim, Change | None]:
        claimed = claim(ledger, number % 40)
        if claimed.answer is not Answer.GRANTED:
            return claimed, None
        return claimed, ledger.commit("j1", record(number % 40), claimed.epoch)

    with ThreadPoolExecutor(8) as pool:
        runs = list(pool.map(run, range(120)))
    assert sum(claimed.answer is Answer.GRANTED for claimed, _ in runs) == 40
    assert sum(change is not None and change.completes for _, change in runs) == 1
    assert (entry(ledger).chunks_done, entry(ledger).rows_done) == (40, 400)


def test_a_lease_keeps_others_away_until_it_lapses(ledger: Ledger) -> None:
    enter(ledger)
    first = claim(ledger, 0, lease_s=60)
    assert (first.answer, first.attempt) == (Answer.GRANTED, 1)
    assert claim(ledger, 0).answer is Answer.BUSY
    assert ledger.renew("j1", 0, first.epoch, lease_s=0) is Answer.KEPT
    second = claim(ledger, 0)
    assert (second.answer, second.attempt) == (Answer.GRANTED, 2)
    assert second.epoch > first.epoch
    assert ledger.renew("j1", 0, first.epoch, lease_s=60) is Answer.LOST
    assert ledger.commit("j1", record(0), first.epoch).answer is Answer.FENCED
    assert ledger.release("j1", 0, first.epoch, reason="x").answer is Answer.LOST
    assert ledger.commit("j1", record(0), second.epoch).answer is Answer.COMMITTED


def test_a_late_run_whose_lease_nobody_took_may_commit(ledger: Ledger) -> None:
    enter(ledger)
    late = claim(ledger, 0, lease_s=0)
    assert sweep(ledger).wave == (0,)
    assert places(ledger) == (0, 3, 0, 0, 0)
    assert ledger.renew("j1", 0, late.epoch, lease_s=60) is Answer.KEPT
    assert places(ledger) == (0, 2, 1, 0, 0)
    assert ledger.commit("j1", record(0), late.epoch).answer is Answer.COMMITTED
    assert claim(ledger, 0).answer is Answer.DONE


def finish(ledger: Ledger, state: JobState, dead: int = 0) -> None:
    ledger.finish("j1", state, rows_done=30 - dead, rows_failed=0, rows_dead=dead)


def sweep(ledger: Ledger, *, queued_s: float = 60, finalizer_s: float = 60) -> Any:
    return ledger.sweep("j1", most=100, queued_s=queued_s, finalizer_s=finalizer_s)


def test_a_chunk_that_fails_three_times_is_dead_and_the_job_goes_on(ledger: Ledger) -> None:
    enter(ledger)
    for attempt in (1, 2, 3):
        run = claim(ledger, 1)
        assert run.attempt == attempt
        last = ledger.release("j1", 1, run.epoch, reason=f"no {attempt}", max_attempts=3)
        assert last.answer is (Answer.AGAIN if attempt < 3 else Answer.DEAD)
        assert ledger.commit("j1", record(1), run.epoch).answer is Answer.FENCED
    assert claim(ledger, 1).answer is Answer.DEAD
    assert places(ledger) == (0, 2, 0, 0, 1)
    assert [(one.chunk, one.attempts, one.reason) for one in ledger.dead("j1")] == [(1, 3, "no 3")]
    commit(ledger, 0)
    assert commit(ledger, 2).completes


def test_a_chunk_that_ends_its_process_three_times_is_dead(ledger: Ledger) -> None:
    enter(ledger, plan=job(chunks=1))
    for _ in range(3):
        assert claim(ledger, 0, lease_s=0).answer is Answer.GRANTED
    last = claim(ledger, 0)
    assert (last.answer, last.attempt, last.completes) == (Answer.DEAD, 3, True)
    assert ledger.dead("j1")[0].reason == "chunk 0 ended its worker process 3 times"


def test_dead_chunks_are_tried_again_or_dropped(ledger: Ledger) -> None:
    enter(ledger)
    for chunk in (0, 1, 2):
        run = claim(ledger, chunk)
        change = ledger.release("j1", chunk, run.epoch, reason="no", max_attempts=1)
    assert change.completes
    assert ledger.requeue_dead("j1", [])[0] == 0  # the finaliser is at work
    finish(ledger, JobState.COMPLETED_WITH_ERRORS, dead=30)
    assert ledger.drop("j1", [1, 7]) == (1,)
    count, change = ledger.requeue_dead("j1", [])
    assert (count, set(change.wave), change.state) == (2, {0, 2}, JobState.IN_PROGRESS)
    assert (entry(ledger).rows_done, entry(ledger).rows_dead) == (0, 10)
    assert claim(ledger, 0).attempt == 1
    assert [(one.chunk, one.dropped) for one in ledger.dead("j1")] == [(1, True)]
    assert ledger.requeue_dead("j1", [1])[0] == 1


def test_a_claim_tells_how_often_the_kernel_had_killed_at_the_first(ledger: Ledger) -> None:
    """Until the chunk has come to an end."""
    enter(ledger)

    def marked(mark: str) -> str:
        return ledger.claim(
            "j1", 0, owner="o", worker="w", lease_s=0, max_attempts=2, mark=mark
        ).mark

    assert [marked("boot 1"), marked("boot 2"), marked("boot 3")] == ["boot 1", "boot 1", ""]
    assert ledger.requeue_dead("j1", [])[0] == 1
    assert marked("boot 4") == "boot 4"


def test_a_process_that_ended_is_given_up_by_its_message(ledger: Ledger) -> None:
    enter(ledger)
    run = claim(ledger, 0, owner="message")
    given_up = ledger.release_owner("j1", 0, "other", reason="killed", max_attempts=3)
    assert given_up.answer is Answer.LOST
    given_up = ledger.release_owner("j1", 0, "message", reason="killed", max_attempts=3)
    assert given_up.answer is Answer.AGAIN
    assert ledger.commit("j1", record(0), run.epoch).answer is Answer.FENCED
    assert claim(ledger, 0).attempt == 2


def test_the_chunk_of_a_message_is_known(ledger: Ledger) -> None:
    enter(ledger)
    claim(ledger, 0, owner="other")
    claim(ledger, 1, owner="message")
    assert [ledger.held_by("j1", one) for one in ("message", "other", "gone")] == [1, 0, None]


def test_a_run_goes_on_with_a_chunk_that_waits(ledger: Ledger) -> None:
    """Not with one that is queued: a message of it is on its way."""
    enter(ledger, plan=job(chunks=6), window=4)
    runner = Runner("message", "w", lease_s=60, max_attempts=2, mark="boot 1")
    found, on = [], claim(ledger, 0, owner="message")
    while on is not None:
        change = ledger.commit("j1", record(on.chunk), on.epoch, runner)
        assert (change.answer, change.wave) == (Answer.COMMITTED, ())
        found.append(on.chunk)
        on = change.next
    assert found == [0, 4, 5]
    assert places(ledger) == (0, 3, 0, 3, 0)


def test_the_next_chunk_of_a_run_is_claimed_like_any_other(ledger: Ledger) -> None:
    enter(ledger, plan=job(chunks=3), window=1)
    runner = Runner("message", "w", lease_s=60, max_attempts=1, mark="boot 1")
    first = claim(ledger, 0)
    on = ledger.commit("j1", record(0), first.epoch, runner).next
    assert on is not None
    assert (on.chunk, on.attempt, on.mark) == (1, 1, "boot 1")
    assert on.epoch > first.epoch
    assert claim(ledger, 1).answer is Answer.BUSY
    assert ledger.held_by("j1", "message") == 1
    assert ledger.commit("j1", record(0), first.epoch).next is None  # REPEATED, and wants none
    ledger.cancel("j1")
    assert ledger.commit("j1", record(1), on.epoch, runner).next is None


def test_a_commit_whose_answer_was_lost_is_granted_the_same_chunk_again(ledger: Ledger) -> None:
    enter(ledger, plan=job(chunks=4), window=1)
    runner = Runner("message", "w", lease_s=60, max_attempts=3, mark="boot 1")
    first = claim(ledger, 0)
    lost = ledger.commit("j1", record(0), first.epoch, runner)
    again = ledger.commit("j1", record(0), first.epoch, runner)
    assert (again.answer, again.next) == (Answer.REPEATED, lost.next)
    assert lost.next is not None
    other = ledger.commit("j1", record(0), first.epoch - 1, runner)  # an older run of the chunk
    assert (other.answer, other.next) == (Answer.REPEATED, None)
    on = ledger.commit("j1", record(1), lost.next.epoch, runner).next
    assert on is not None
    assert ledger.commit("j1", record(0), first.epoch, runner).next is None, "it was done long ago"
    ledger.release("j1", on.chunk, on.epoch, reason="no", max_attempts=3)
    assert ledger.commit("j1", record(1), lost.next.epoch, runner).next is None
    taken = claim(ledger, on.chunk, owner="other")
    assert (taken.answer, taken.attempt) == (Answer.GRANTED, 2)
    assert ledger.commit("j1", record(1), lost.next.epoch, runner).next is None


def test_a_run_does_not_go_on_while_others_wait(ledger: Ledger, redis_client: redis.Redis) -> None:
    """The job's own messages in the queue are as many as its queued chunks, or fewer."""
    enter(ledger, plan=job(chunks=8), window=4)
    runner = Runner("message", "w", lease_s=60, max_attempts=3)
    redis_client.lpush("queue", *(f"mine {chunk}" for chunk in (1, 2, 3)))
    on = ledger.commit("j1", record(0), claim(ledger, 0).epoch, runner, "queue").next
    assert on is not None
    redis_client.lpush("queue", "another job's")
    assert ledger.commit("j1", record(on.chunk), on.epoch, runner, "queue").next is None
    assert redis_client.rpop("queue") == b"mine 1"
    run = claim(ledger, 1)  # another process has it in hand; the other job still waits
    assert ledger.commit("j1", record(1), run.epoch, runner, "queue").next is None
    redis_client.lpop("queue")
    run = claim(ledger, 2)
    redis_client.rpop("queue")
    assert ledger.commit("j1", record(2), run.epoch, runner, "queue").next is not None


def test_a_run_takes_the_next_message_of_its_own_job(
    ledger: Ledger, redis_client: redis.Redis
) -> None:
    """Whoever else waits: it would have been the job's turn."""
    enter(ledger, plan=job(chunks=4), window=4)
    runner = Runner("message", "w", lease_s=60, max_attempts=3)
    redis_client.lpush("queue", message(2), message(1), "another job's", message(3))
    on = ledger.commit("j1", record(0), claim(ledger, 0).epoch, runner, "queue").next
    assert on is not None
    assert (on.chunk, on.attempt, ledger.held_by("j1", "message")) == (2, 1, 2)
    assert redis_client.lrange("queue", 0, -1) == [message(3), b"another job's", message(1)]
    assert claim(ledger, 2).answer is Answer.BUSY, "one message too many changes nothing"
    on = ledger.commit("j1", record(2), on.epoch, runner, "queue").next
    assert on is not None
    assert on.chunk == 1
    assert ledger.commit("j1", record(1), on.epoch, runner, "queue").next is None
    assert redis_client.lrange("queue", 0, -1) == [message(3), b"another job's"]


@pytest.mark.parametrize("next_one", [
    b"no JSON", b"[]", b'{"headers": []}', b'{"headers": {"job_id": "j1"}}',
    *(b'{"headers": {"job_id": "j1", "chunk_no": %d}}' % chunk for chunk in (0, 2, 3, 9)),
    b'{"headers": {"job_id": "j2", "chunk_no": 1}}',
])
def test_a_run_leaves_every_other_message(
    ledger: Ledger, redis_client: redis.Redis, next_one: bytes
) -> None:
    """Of others, of a chunk that is done, runs, is put off or was never planned."""
    enter(ledger, plan=job(chunks=4), window=4)
    claim(ledger, 2, owner="other")
    failed = claim(ledger, 3)
    ledger.release("j1", 3, failed.epoch, reason="no", max_attempts=3, delay_s=60)
    redis_client.lpush("queue", next_one, message(1))
    runner = Runner("message", "w", lease_s=60, max_attempts=3)
    assert ledger.commit("j1", record(0), claim(ledger, 0).epoch, runner, "queue").next is None
    assert redis_client.lrange("queue", 0, -1) == [message(1), next_one]


def test_waves_keep_the_window(ledger: Ledger) -> None:
    assert enter(ledger, plan=job(chunks=20), window=4).wave == (0, 1, 2, 3)
    assert commit(ledger, 0).wave == ()
    assert commit(ledger, 1).wave == (4, 5)
    claim(ledger, 2)
    assert places(ledger) == (14, 3, 1, 2, 0)


def test_a_cancelled_job_starts_nothing_and_stops_what_runs(ledger: Ledger) -> None:
    enter(ledger)
    run = claim(ledger, 0)
    assert ledger.cancel("j1") is JobState.CANCELLING
    assert claim(ledger, 1).answer is Answer.CANCELLED
    assert ledger.renew("j1", 0, run.epoch, lease_s=60) is Answer.CANCELLED
    assert ledger.release("j1", 0, run.epoch).answer is Answer.RETURNED
    assert entry(ledger).state is JobState.CANCELLED
    assert places(ledger) == (3, 0, 0, 0, 0)
    ledger.fail("j1", "too late")
    finish(ledger, JobState.COMPLETED)
    assert (entry(ledger).state, entry(ledger).error) == (JobState.CANCELLED, "")
    assert ledger.active() == []
    enter(ledger)
    assert claim(ledger, 0).attempt == 1
    assert ledger.active() == ["j1"]


def test_a_chunk_may_still_commit_while_its_job_is_cancelled(ledger: Ledger) -> None:
    enter(ledger)
    run = claim(ledger, 0)
    ledger.cancel("j1")
    assert ledger.commit("j1", record(0), run.epoch).answer is Answer.COMMITTED
    assert (entry(ledger).state, entry(ledger).chunks_done) == (JobState.CANCELLED, 1)


@pytest.mark.parametrize("chunks", [1, 3])
def test_the_reconciler_ends_a_cancellation_whose_process_was_killed(
    ledger: Ledger, redis_client: redis.Redis, chunks: int
) -> None:
    enter(ledger, plan=job(chunks))
    claim(ledger, 0, lease_s=0)
    assert ledger.cancel("j1") is JobState.CANCELLING
    assert sweep(ledger).state is JobState.CANCELLED
    assert places(ledger) == (chunks, 0, 0, 0, 0)
    assert all(redis_client.ttl(key) > 0 for key in redis_client.keys(job_key("j1*")))


def test_a_chunk_whose_process_was_killed_is_queued_where_it_expires(
    ledger: Ledger, redis_client: redis.Redis
) -> None:
    enter(ledger, plan=job(1))
    claim(ledger, 0, lease_s=0)
    assert sweep(ledger).wave == (0,)
    assert redis_client.ttl(job_part_key("j1", "queued")) > 0


def test_a_failed_job_keeps_its_first_reason(ledger: Ledger) -> None:
    enter(ledger)
    ledger.fail("j1", "first")
    ledger.fail("j1", "second")
    assert ledger.cancel("j1") is JobState.FAILED
    assert (entry(ledger).state, entry(ledger).error) == (JobState.FAILED, "first")
    assert claim(ledger, 0).answer is Answer.CANCELLED


def test_a_job_stops_when_too_many_of_its_rows_have_failed(ledger: Ledger) -> None:
    """Whoever commits sees it; the rows of dead chunks have failed, too."""
    enter(ledger, plan=job(6), max_error_share=0.3, judged_rows=20)
    commit(ledger, 0, failed=6)  # too few rows to tell
    assert entry(ledger).state == "in_progress"
    assert commit(ledger, 1).state == "in_progress"  # 6 of 20
    running = claim(ledger, 2)
    lost = claim(ledger, 3)
    change = ledger.release("j1", 3, lost.epoch, reason="no", max_attempts=1)
    assert (change.answer, change.state, change.wave) == (Answer.DEAD, JobState.FAILED, ())
    assert entry(ledger).error.startswith(
        "16 of 30 rows failed so far (53.33 %); beyond 30 % the job stops (max_error_share)"
    )
    assert ledger.renew("j1", 2, running.epoch, 60) is Answer.CANCELLED
    assert claim(ledger, 4).answer is Answer.CANCELLED
    assert ledger.commit("j1", record(2), running.epoch).answer is Answer.COMMITTED
    done = [record(0, 6), record(1), record(2)]
    assert enter(ledger, done, plan=job(6), judged_rows=20).state == "in_progress"  # 6 of 30 now
    commit(ledger, 3, failed=10)
    assert entry(ledger).state == "failed"
    assert enter(ledger, [*done, record(3, 10)], plan=job(6)).state == "in_progress"  # 1,000 rows
    for chunk in (4, 5):
        assert not commit(ledger, chunk).completes or chunk == 5
    assert (entry(ledger).state, entry(ledger).rows_failed) == ("finalizing", 16)


def test_a_job_of_few_rows_is_judged_at_its_end(ledger: Ledger) -> None:
    enter(ledger, max_error_share=0)
    commit(ledger, 0, failed=1)
    assert commit(ledger, 1).state == "in_progress"
    assert not commit(ledger, 2).completes
    assert entry(ledger).state == "failed"
    done = [record(0, 1), record(1), record(2)]
    assert enter(ledger, done).state == "failed"  # with the share that it had
    change = enter(ledger, done, max_error_share=0.05)
    assert (change.state, change.completes) == (JobState.FINALIZING, True)
    assert entry(ledger).error == ""


def test_an_entry_is_rebuilt_from_storage_and_what_runs_goes_on(
    ledger: Ledger, redis_client: redis.Redis
) -> None:
    enter(ledger, plan=job(chunks=4))
    lost = claim(ledger, 1)
    redis_client.flushall()
    assert ledger.renew("j1", 1, lost.epoch, lease_s=60) is Answer.UNKNOWN
    assert ledger.commit("j1", record(1), lost.epoch).answer is Answer.UNKNOWN
    done, dead = [record(0, failed=1), record(2)], DeadChunk(3, 2, "bad disk", "w", 7, dropped=True)
    assert enter(ledger, done, plan=job(chunks=4), given_up=[dead]).wave == (1,)
    assert ledger.dead("j1") == [dead]
    one = entry(ledger)
    assert (one.rows_done, one.rows_failed, one.rows_before) == (20, 1, 20)
    assert claim(ledger, 2).answer is Answer.DONE
    assert claim(ledger, 3).answer is Answer.DEAD
    running = claim(ledger, 1)
    assert ledger.commit("j1", record(1), lost.epoch).answer is Answer.FENCED
    assert enter(ledger, done, plan=job(chunks=4), given_up=[dead]).wave == ()
    assert ledger.commit("j1", record(1), running.epoch).completes
    whole = enter(ledger, [record(n) for n in range(3)])
    assert (whole.state, whole.completes) == (JobState.FINALIZING, True)


def test_the_reconciler_sends_again_what_was_lost(ledger: Ledger) -> None:
    enter(ledger)
    claim(ledger, 0, lease_s=60)
    claim(ledger, 1, lease_s=0)
    first = sweep(ledger)
    assert (first.wave, first.suspects, first.completes) == ((1,), (), False)
    assert set(sweep(ledger, queued_s=0).suspects) == {1, 2}
    assert ledger.requeue_vanished("j1", [0, 2], queued_s=0) == (2,)
    assert ledger.requeue_vanished("j1", [2], queued_s=60) == ()
    for chunk in (0, 1, 2):
        ledger.release_owner("j1", chunk, "o", reason="x", max_attempts=3)
        last = commit(ledger, chunk)
    assert last.completes
    assert sweep(ledger).completes is False
    assert ledger.finalizing("j1", "first") == (Answer.GRANTED, JobState.FINALIZING)
    assert ledger.finalizing("j1", "second") == (Answer.BUSY, JobState.FINALIZING)
    assert ledger.finalizing("j1", "first")[0] is Answer.GRANTED  # killed, and come again
    assert enter(ledger, [record(n) for n in range(3)]).completes  # a resume meanwhile
    assert ledger.finalizing("j1", "second")[0] is Answer.BUSY
    assert sweep(ledger, finalizer_s=0).completes is True
    assert ledger.finalizing("j1", "first", is_at_work=True)[0] is Answer.BUSY  # it was let go of
    assert ledger.finalizing("j1", "second", output="/moved")[0] is Answer.DONE
    assert ledger.finalizing("j1", "second", output="/out")[0] is Answer.GRANTED
    assert ledger.finalizing("j1", "second", is_at_work=True)[0] is Answer.GRANTED
    finish(ledger, JobState.COMPLETED)
    assert ledger.finalizing("j1", "second") == (Answer.DONE, JobState.COMPLETED)
    assert sweep(ledger, finalizer_s=0).completes is False
    assert ledger.active() == []


def test_a_job_past_its_time_expires(ledger: Ledger) -> None:
    enter(ledger, expires_ms=1)
    run = claim(ledger, 0)
    assert sweep(ledger).state is JobState.EXPIRED
    assert ledger.renew("j1", 0, run.epoch, lease_s=60) is Answer.CANCELLED
    assert claim(ledger, 1).answer is Answer.CANCELLED
    ledger.release("j1", 0, run.epoch)
    assert places(ledger) == (3, 0, 0, 0, 0)
    assert enter(ledger).state is JobState.IN_PROGRESS


def test_a_job_is_shown_while_it_is_planned(ledger: Ledger, redis_client: redis.Redis) -> None:
    ledger.announce("j1", model="m", version=1, source="in.csv", output="/out")
    assert entry(ledger).state is JobState.VALIDATING
    assert not entry(ledger).state.is_final
    assert redis_client.ttl(job_key("j1")) > 0
    assert enter(ledger).state is JobState.IN_PROGRESS
    ledger.withdraw("j1")
    assert ledger.entries() == []
    assert redis_client.dbsize() == 0


def test_an_unknown_job_is_left_alone(ledger: Ledger, redis_client: redis.Redis) -> None:
    assert claim(ledger, 0).answer is Answer.UNKNOWN
    assert ledger.commit("j1", record(0), 1).answer is Answer.UNKNOWN
    assert ledger.release("j1", 0, 1, reason="x").answer is Answer.UNKNOWN
    assert ledger.cancel("j1") is None
    assert sweep(ledger).state is None
    ledger.fail("j1", "x")
    assert ledger.entry("j1") is None
    assert redis_client.dbsize() == 0
    enter(ledger)
    assert claim(ledger, 99).answer is Answer.UNKNOWN


def test_every_key_expires_or_is_trimmed(ledger: Ledger, redis_client: redis.Redis) -> None:
    redis_client.zadd(JOBS_KEY, {f"old{n}": n for n in range(JOBS_KEPT + 5)})
    enter(ledger, plan=job(chunks=9), window=4)
    commit(ledger, 0)
    claim(ledger, 1)
    run = claim(ledger, 2)
    ledger.release("j1", 2, run.epoch, reason="x", max_attempts=1)
    assert redis_client.zcard(JOBS_KEY) == JOBS_KEPT
    parts = [job_part_key("j1", part) for part in
             ("done", "waiting", "queued", "running", "dead", "claims")]
    for key in (job_key("j1"), *parts):
        assert 0 < redis_client.ttl(key) <= TTL_S
    assert [one.job_id for one in ledger.entries()] == ["j1"]
    assert redis_client.zcard(JOBS_KEY) == 1
    assert redis_client.smembers(ACTIVE_JOBS_KEY) == {b"j1"}
    redis_client.delete(job_key("j1"))
    sweep(ledger)
    assert ledger.active() == []


def test_a_job_is_remembered_as_long_as_it_is_open(
    ledger: Ledger, redis_client: redis.Redis
) -> None:
    """Nothing of it may change for long: while a chunk runs, it is planned, or no worker is there.
    """
    def outlives(work: Any) -> bool:
        redis_client.expire(job_key("j1"), 5)
        work()
        return redis_client.ttl(job_key("j1")) > 5

    order(ledger)
    assert outlives(lambda: sweep(ledger))
    token = planner(ledger)
    assert outlives(lambda: ledger.renew_plan("j1", 60, token))
    enter(ledger)
    assert outlives(lambda: sweep(ledger))
    run = claim(ledger, 0)
    assert outlives(lambda: ledger.renew("j1", 0, run.epoch, 60))
    ledger.fail("j1", "x")
    assert not outlives(lambda: sweep(ledger))


@pytest.mark.parametrize(
    "state", [JobState.VALIDATING, JobState.IN_PROGRESS, JobState.FINALIZING]
)
def test_a_job_that_nobody_works_on_has_an_end(
    ledger: Ledger, redis_client: redis.Redis, state: JobState
) -> None:
    if state is JobState.VALIDATING:
        order(ledger)
    else:
        enter(ledger, [record(n) for n in range(3)] if state is JobState.FINALIZING else ())
    assert sweep(ledger).state is state
    idle = ledger.sweep("j1", most=9, queued_s=60, finalizer_s=60, idle_s=0)
    assert (idle.state, idle.wave, idle.completes) == (JobState.EXPIRED, (), False)
    assert (ledger.active(), "no worker" in entry(ledger).error) == ([], True)
    redis_client.expire(job_key("j1"), 5)
    assert sweep(ledger).state is JobState.EXPIRED
    assert redis_client.ttl(job_key("j1")) <= 5
    assert ledger.reopen("j1", "") == (JobState.VALIDATING, True)


def test_jobs_are_listed_newest_first(ledger: Ledger, redis_client: redis.Redis) -> None:
    for number in range(3):
        enter(ledger, plan=msgspec.structs.replace(job(), job_id=f"j{number}"))
        redis_client.zadd(JOBS_KEY, {f"j{number}": number})
    assert [entry.job_id for entry in ledger.entries(2)] == ["j2", "j1"]


# --- jobs that were ordered -----------------------------------------------------------------------


def order(ledger: Ledger, digest: str = "d") -> tuple[JobState | None, str]:
    return ledger.order(
        "j1", model="m", version=1, device="cpu", source="/in.csv", output="/out", tenant="shop",
        id_column="id", order='{"a": 1}', digest=digest,
    )


def claim_plan(ledger: Ledger, lease_s: float = 60) -> Answer:
    return ledger.claim_plan("j1", lease_s=lease_s, max_attempts=2)[0]


def planner(ledger: Ledger, lease_s: float = 60) -> str:
    answer, _, token = ledger.claim_plan("j1", lease_s=lease_s, max_attempts=2)
    assert answer is Answer.GRANTED
    return token


def test_an_order_is_kept_once_and_planned_by_one(ledger: Ledger) -> None:
    assert order(ledger) == (None, "")
    assert order(ledger, "other") == (JobState.VALIDATING, "d")
    assert ledger.order_of("j1") == '{"a": 1}'
    assert (entry(ledger).tenant, entry(ledger).id_column) == ("shop", "id")
    assert claim_plan(ledger) is Answer.GRANTED
    assert claim_plan(ledger) is Answer.BUSY
    ledger.release_plan("j1")
    token = planner(ledger)
    assert ledger.renew_plan("j1", 60, token) is Answer.KEPT
    assert not sweep(ledger, queued_s=0).plans
    plan = msgspec.structs.replace(job(), tenant="shop")
    assert enter(ledger, plan=plan, validated=True, planner=token).wave == (0, 1, 2)
    assert enter(ledger, plan=plan, validated=True, planner=token).wave == ()  # its answer was lost
    assert ledger.renew_plan("j1", 60, token) is Answer.KEPT
    assert claim_plan(ledger) is Answer.DONE


def test_a_planner_that_is_not_heard_of_is_replaced_and_given_up_in_the_end(
    ledger: Ledger,
) -> None:
    order(ledger)
    assert not sweep(ledger).plans
    assert sweep(ledger, queued_s=0).plans
    for _ in range(2):
        assert claim_plan(ledger, lease_s=0) is Answer.GRANTED
        assert sweep(ledger).plans
    assert claim_plan(ledger) is Answer.DEAD
    assert entry(ledger).state is JobState.FAILED
    assert "ended its worker process 2 times" in entry(ledger).error
    assert sweep(ledger).state is JobState.FAILED
    assert ledger.active() == []


def test_a_job_that_was_cancelled_while_it_was_planned_stays_so_until_it_is_reopened(
    ledger: Ledger,
) -> None:
    order(ledger)
    token = planner(ledger)
    assert ledger.cancel("j1") is JobState.CANCELLED
    assert ledger.renew_plan("j1", 60, token) is Answer.CANCELLED
    assert enter(ledger, validated=True, planner=token).state is JobState.CANCELLED
    assert entry(ledger).chunks_queued == 0
    assert ledger.reopen("j1", '{"b": 2}') == (JobState.VALIDATING, True)
    assert ledger.reopen("j1", "") == (JobState.VALIDATING, False)
    assert ledger.order_of("j1") == '{"b": 2}'
    token = planner(ledger)
    assert enter(ledger, validated=True, planner=token).state is JobState.IN_PROGRESS
    ledger.fail("j1", "no")
    assert ledger.reopen("j1", "") == (JobState.VALIDATING, True)
    assert entry(ledger).error == ""
    ledger.finish("j1", JobState.COMPLETED, rows_done=30, rows_failed=0, rows_dead=0)
    assert ledger.reopen("j1", "") == (JobState.COMPLETED, False)
    assert ledger.reopen("absent", "") == (None, False)
    assert ledger.renew_plan("absent", 60, token) is Answer.CANCELLED


@pytest.mark.parametrize("how", ["claimed", "reopened", "ordered", "forgotten"])
def test_a_planner_has_no_say_once_the_job_is_not_its_own(
    ledger: Ledger, redis_client: redis.Redis, how: str
) -> None:
    order(ledger)
    token = planner(ledger, lease_s=0)
    if how == "reopened":
        ledger.cancel("j1")
        ledger.reopen("j1", "")
    elif how in ("ordered", "forgotten"):
        ledger.withdraw("j1")
    if how == "ordered":
        order(ledger)
    other = planner(ledger) if how == "claimed" else ""
    before = redis_client.hgetall(job_key("j1"))
    gone = how == "forgotten"
    assert ledger.renew_plan("j1", 60, token) is (Answer.CANCELLED if gone else Answer.LOST)
    assert enter(ledger, validated=True, planner=token).answer is Answer.LOST
    assert not ledger.fail_plan("j1", "no such file", token)
    ledger.finish(
        "j1", JobState.COMPLETED, rows_done=30, rows_failed=0, rows_dead=0, planner=token
    )
    assert redis_client.hgetall(job_key("j1")) == before
    assert redis_client.exists(JOBS_KEY) != gone
    if other:
        assert ledger.fail_plan("j1", "no such file", other)
        assert entry(ledger).state is JobState.FAILED


def test_pages_of_a_tenant(ledger: Ledger, redis_client: redis.Redis) -> None:
    order(ledger)
    for number in range(5):
        enter(ledger, plan=job(job_id=f"d{number}"))
        redis_client.zadd(tenant_jobs_key("default"), {f"d{number}": number})
    found = ledger.page("default", 2)
    assert found is not None
    assert ([one.job_id for one in found[0]], found[1]) == (["d4", "d3"], True)
    ledger.withdraw("d2")
    redis_client.delete(job_key("d1"))  # forgotten
    found = ledger.page("default", 2, "d3")
    assert found is not None
    assert ([one.job_id for one in found[0]], found[1]) == (["d0"], False)
    assert ledger.page("default", 2, "d1") is None
    shop = ledger.page("shop", 9)
    assert shop is not None
    assert [one.job_id for one in shop[0]] == ["j1"]
    assert ledger.page("absent", 9) == ([], False)
