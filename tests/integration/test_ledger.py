"""The ledger on a real server: each chunk counts once, the job completes once."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime

import msgspec
import pytest
import redis

from celeriac.datasets.records import Chunk, DatasetColumn, DatasetPlan, SourceFile
from celeriac.jobs.ledger import JOBS_KEPT, JobState, Ledger
from celeriac.jobs.plan import ChunkRecord, JobPlan, Scoring, make_plan
from celeriac.messages import JOBS_KEY, job_done_key, job_key

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


@pytest.fixture
def ledger(redis_client: redis.Redis) -> Ledger:
    return Ledger(redis_client, TTL_S)


def test_commits_count_once_and_the_last_completes(ledger: Ledger) -> None:
    assert ledger.register(job(), "/out", []) is JobState.IN_PROGRESS
    first = ledger.commit(record(0, failed=4), "j1")
    assert (first.is_new, first.completes) == (True, False)
    again = ledger.commit(record(0, failed=4), "j1")
    assert (again.is_new, again.completes) == (False, False)
    assert ledger.commit(record(2), "j1").completes is False
    last = ledger.commit(record(1), "j1")
    assert (last.is_new, last.completes, last.state) == (True, True, JobState.FINALIZING)
    assert ledger.commit(record(1), "j1").completes is False
    entry = ledger.entry("j1")
    assert entry is not None
    assert (entry.chunks_done, entry.rows_done, entry.rows_failed) == (3, 30, 4)


def test_concurrent_commits_complete_the_job_exactly_once(
    ledger: Ledger, redis_client: redis.Redis
) -> None:
    ledger.register(job(chunks=40), "/out", [])
    with ThreadPoolExecutor(8) as pool:
        commits = list(pool.map(lambda n: ledger.commit(record(n % 40), "j1"), range(120)))
    assert sum(one.is_new for one in commits) == 40
    assert sum(one.completes for one in commits) == 1
    entry = ledger.entry("j1")
    assert entry is not None
    assert (entry.chunks_done, entry.rows_done) == (40, 400)


def test_attempts_are_counted_and_done_chunks_do_not_begin(ledger: Ledger) -> None:
    ledger.register(job(), "/out", [])
    assert [ledger.begin("j1", 0).attempt for _ in range(3)] == [1, 2, 3]
    assert ledger.begin("j1", 1).attempt == 1
    ledger.commit(record(0), "j1")
    begin = ledger.begin("j1", 0)
    assert (begin.done, begin.attempt, begin.state) == (True, 0, JobState.IN_PROGRESS)
    ledger.register(job(), "/out", [])
    assert ledger.begin("j1", 1).attempt == 1


def test_a_cancelled_job_starts_nothing(ledger: Ledger) -> None:
    ledger.register(job(), "/out", [])
    assert ledger.is_stopped("j1") is False
    assert ledger.cancel("j1") is JobState.CANCELLING
    assert ledger.is_stopped("j1") is True
    assert ledger.begin("j1", 0) == ledger.begin("j1", 1)
    assert ledger.begin("j1", 0).state is JobState.CANCELLED
    assert ledger.begin("j1", 0).attempt == 0
    ledger.commit(record(0), "j1")  # one that was running
    ledger.fail("j1", "too late")
    ledger.finish("j1", JobState.COMPLETED)
    entry = ledger.entry("j1")
    assert entry is not None
    assert (entry.state, entry.chunks_done, entry.error) == (JobState.CANCELLED, 1, "")


def test_a_failed_job_keeps_its_first_reason(ledger: Ledger) -> None:
    ledger.register(job(), "/out", [])
    ledger.fail("j1", "first")
    ledger.fail("j1", "second")
    assert ledger.cancel("j1") is JobState.FAILED
    entry = ledger.entry("j1")
    assert entry is not None
    assert (entry.state, entry.error) == (JobState.FAILED, "first")
    assert ledger.begin("j1", 0).attempt == 0


def test_an_entry_is_rebuilt_from_storage(ledger: Ledger) -> None:
    done = [record(0, failed=1), record(2)]
    assert ledger.register(job(), "/out", done) is JobState.IN_PROGRESS
    entry = ledger.entry("j1")
    assert entry is not None
    assert (entry.rows_done, entry.rows_failed, entry.rows_before) == (20, 1, 20)
    assert ledger.begin("j1", 2).done
    assert ledger.commit(record(1), "j1").completes
    assert ledger.register(job(), "/out", [record(n) for n in range(3)]) is JobState.FINALIZING


def test_an_unknown_job_is_left_alone(ledger: Ledger, redis_client: redis.Redis) -> None:
    assert ledger.begin("nobody", 0).state is None
    assert ledger.commit(record(0), "nobody").is_new is False
    assert ledger.cancel("nobody") is None
    ledger.fail("nobody", "x")
    assert ledger.entry("nobody") is None
    assert redis_client.dbsize() == 0


def test_every_key_expires_or_is_trimmed(ledger: Ledger, redis_client: redis.Redis) -> None:
    redis_client.zadd(JOBS_KEY, {f"old{n}": n for n in range(JOBS_KEPT + 5)})
    ledger.register(job(), "/out", [])
    ledger.begin("j1", 0)
    ledger.commit(record(0), "j1")
    assert redis_client.zcard(JOBS_KEY) == JOBS_KEPT
    for key in (job_key("j1"), job_done_key("j1")):
        assert 0 < redis_client.ttl(key) <= TTL_S
    assert [entry.job_id for entry in ledger.entries()] == ["j1"]
    assert redis_client.zcard(JOBS_KEY) == 1


def test_jobs_are_listed_newest_first(ledger: Ledger, redis_client: redis.Redis) -> None:
    for number in range(3):
        ledger.register(msgspec.structs.replace(job(), job_id=f"j{number}"), "/out", [])
        redis_client.zadd(JOBS_KEY, {f"j{number}": number})
    assert [entry.job_id for entry in ledger.entries(2)] == ["j2", "j1"]
