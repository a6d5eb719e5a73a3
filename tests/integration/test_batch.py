"""Jobs through real messages on a real server; the tasks run in this process."""

from __future__ import annotations

import base64
import gzip
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import redis
from billiard.exceptions import WorkerLostError
from celery import group
from typer.testing import CliRunner

import tasks.batch
import tasks.broker
from celeriac import errors, host
from celeriac.jobs import extras
from celeriac.jobs.folder import JobFolder
from celeriac.jobs.ledger import Claim, Ledger
from celeriac.jobs.manifest import read_manifest
from celeriac.keys import JOBS_KEY, job_key
from celeriac.messages import BATCH_CHUNK, MAINTENANCE_QUEUE
from celeriac.registry.catalogue import publish
from celeriac.registry.manifest import Column, InputSchema, ModelDraft, OutputSchema
from celeriac.registry.store import Registry
from celeriac.settings import Settings
from producer import waves
from producer.broker import Broker
from producer.datasets import submit_dataset
from producer.jobs import JobHandle, list_jobs
from producer.reconciler import reconcile
from producer.waves import Job, publish_chunks
from tests.integration.batch_tasks import QUEUE, run_here, work


@pytest.fixture
def broker(
    settings: Settings, redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Broker]:
    """A broker, an ``echo`` model, and tasks that use this test's settings."""
    registry = Registry(settings.models.root)
    draft = ModelDraft(
        format="echo", input=InputSchema(kind="any"), output=OutputSchema(kind="any")
    )
    version = registry.add("echo", lambda folder: draft)
    registry.aliases("echo").promote(version.version, expected=None, who="test", why="")
    texts = InputSchema(kind="text", columns=(Column(name="text", dtype="text"),))
    numbers = InputSchema(kind="table", columns=(Column(name="x"),))
    for name, schema in [("texts", texts), ("numbers", numbers)]:
        registry.add(name, lambda folder, schema=schema: draft.model_copy(update={"input": schema}))
    publish(redis_client, registry.infos())
    monkeypatch.setattr(tasks.batch, "MESSAGE_S", 0.0)  # a chunk a message, unless a test says else
    broker = Broker(settings)
    with run_here(settings, monkeypatch):
        yield broker
    broker.close()


@pytest.fixture
def reviews(tmp_path: Path) -> Path:
    path = tmp_path / "reviews.csv"
    rows = "".join(f'{n},"text, {n}"\n' for n in range(1, 96))
    path.write_text(f"id,text\n{rows}broken\n97,x\n98,y\n99,z\n100,last\n")
    return path


@pytest.fixture
def submit(broker: Broker, reviews: Path, tmp_path: Path) -> Callable[..., JobHandle]:
    def submit(**options: Any) -> JobHandle:
        chosen = {"source": reviews, "model": "echo", "output": tmp_path / "out",
                  "chunk_rows": 10} | options
        return submit_dataset(broker, **chosen)

    return submit


def queued(client: redis.Redis, queue: str) -> list[dict[str, Any]]:
    return [json.loads(raw) for raw in reversed(client.lrange(queue, 0, -1))]


def with_window(broker: Broker, chunks: int) -> None:
    """The jobs of this submitter have so many chunks queued or running at most."""
    batch = broker.settings.batch.model_copy(update={"wave_chunks": chunks})
    broker.settings = broker.settings.model_copy(update={"batch": batch})


def test_a_job_from_submit_to_results(
    submit: Callable[..., JobHandle], redis_client: redis.Redis
) -> None:
    handle = submit()
    started = handle.status()
    assert (started.state, started.chunks_total, started.rows_total) == ("in_progress", 10, 100)
    assert (started.rows_per_s, started.eta_s) == (None, None)
    work(redis_client, chunks=5)
    half = handle.status()
    assert (half.chunks_done, half.rows_done) == (5, 50)
    assert half.rows_per_s is not None
    assert half.eta_s is not None
    assert half.eta_s == pytest.approx(50 / half.rows_per_s)
    with pytest.raises(errors.JobFailed, match="is not complete yet"):
        handle.results()
    work(redis_client)
    seen: list[int] = []
    ended = handle.wait(5, lambda status: seen.append(status.rows_done))
    assert (ended.state, ended.rows_done, ended.rows_failed) == ("completed_with_errors", 100, 1)
    assert seen == [100]
    results = handle.results()
    assert results["id"].to_pylist() == [*range(1, 96), *range(97, 101)]
    assert json.loads(results["prediction"][0].as_py()) == {"id": 1, "text": "text, 1"}
    assert (handle.output / "_SUCCESS").exists()


def test_the_output_of_another_job_is_not_given_for_this_one(
    submit: Callable[..., JobHandle], redis_client: redis.Redis
) -> None:
    first = submit()
    work(redis_client)
    shutil.rmtree(first.output)
    with pytest.raises(errors.JobNotFound, match=f"output of job {first.id} is gone"):
        first.results()
    second = submit(chunk_rows=50)
    work(redis_client)
    assert second.results().num_rows == 99
    for asked in (first.parts, first.results, first.report):
        with pytest.raises(errors.JobFailed, match=f"holds job {second.id} now, not {first.id}"):
            asked()


def test_messages_carry_references_in_groups_and_nobody_subscribes(
    submit: Callable[..., JobHandle], redis_client: redis.Redis, reviews: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("producer.waves.GROUP_CHUNKS", 6)
    redis_client.config_resetstat()
    handle = submit()
    stats = redis_client.info("commandstats")
    assert not [name for name in stats if "subscribe" in name]
    messages = queued(redis_client, QUEUE)
    assert [message["headers"]["task"] for message in messages] == [BATCH_CHUNK] * 10
    groups = [message["headers"]["group"] for message in messages]
    assert groups == [groups[0]] * 6 + [groups[6]] * 4
    assert groups[0] != groups[6]
    for number, message in enumerate(messages):
        headers = message["headers"]
        assert headers["job_id"] == handle.id
        assert headers["ignore_result"] is True
        assert headers["timelimit"] == [1_830, None]
        assert f"'chunk_no': {number}" in headers["kwargsrepr"]
        assert "echo@1" in headers["kwargsrepr"]
        assert time.time() * 1_000 - headers["sent_ms"] < 60_000
        assert len(json.dumps(message)) < 2_000
        assert "text, 1" not in json.dumps(message)


def test_messages_equal_those_of_a_celery_group(
    broker: Broker, redis_client: redis.Redis
) -> None:
    job = Job("j1", "/out", "cpu", "echo@1")
    publish_chunks(broker, job, [7, 8])
    ours = [json.loads(raw) for raw in redis_client.lrange(QUEUE, 0, -1)]
    redis_client.delete(QUEUE)
    signatures = [
        broker.celery.signature(
            BATCH_CHUNK, immutable=True,
            kwargs={"v": 1, "job_id": "j1", "chunk_no": chunk, "output": "/out"},
        ).set(queue=QUEUE, ignore_result=True, time_limit=1_830, argsrepr="()",
              headers={"job_id": "j1", "chunk_no": chunk, "sent_ms": 1})
        for chunk in (7, 8)
    ]
    group(signatures, app=broker.celery).apply_async()
    theirs = [json.loads(raw) for raw in redis_client.lrange(QUEUE, 0, -1)]
    for mine, celerys in zip(ours, theirs, strict=True):
        assert set(mine["headers"]) >= set(celerys["headers"])
        for name in ("task", "group_index", "timelimit", "eta", "ignore_result", "chunk_no",
                     "job_id", "lang", "retries"):
            assert mine["headers"][name] == celerys["headers"][name], name
        body = json.loads(base64.b64decode(celerys["body"]))
        assert json.loads(mine["body"])[:2] == body[:2]
    assert ours[0]["headers"]["group"] == ours[1]["headers"]["group"]


def test_a_chunk_lets_go_of_versions_that_were_idle(
    submit: Callable[..., JobHandle], redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = host.get_host()
    for name in ("echo", "texts"):
        loaded.scorer(name, 1)
    monkeypatch.setattr(loaded, "_clock", lambda: time.monotonic() + 10 * host.IDLE_S)
    submit()
    work(redis_client, chunks=1)
    assert loaded.loaded() == {"echo": [1]}


def test_every_message_twice_changes_nothing(
    submit: Callable[..., JobHandle], redis_client: redis.Redis
) -> None:
    handle = submit()
    work(redis_client, twice=True)
    status = handle.status()
    assert (status.state, status.rows_done, status.rows_failed) == (
        "completed_with_errors", 100, 1,
    )
    assert handle.results().num_rows == 99


def test_cancel_keeps_parts_and_resume_goes_on(
    submit: Callable[..., JobHandle], redis_client: redis.Redis, broker: Broker
) -> None:
    handle = submit()
    work(redis_client, chunks=3)
    stopped = handle.cancel()  # at once: nothing runs
    work(redis_client)
    assert (stopped.state, stopped.chunks_done) == ("cancelled", 3)
    kept = {file: file.stat().st_mtime_ns for file in (handle.output / "parts").iterdir()}
    assert len(kept) == 6
    assert handle.resume().state == "in_progress"
    assert redis_client.llen(QUEUE) == 7
    work(redis_client)
    assert handle.status().state == "completed_with_errors"
    assert {file: file.stat().st_mtime_ns for file in kept} == kept
    assert handle.cancel().state == "completed_with_errors"
    assert handle.resume().state == "completed_with_errors"
    assert redis_client.llen(QUEUE) == redis_client.llen(MAINTENANCE_QUEUE) == 0


def test_redis_may_forget_everything(
    submit: Callable[..., JobHandle], redis_client: redis.Redis, broker: Broker
) -> None:
    handle = submit()
    work(redis_client, chunks=4)
    redis_client.flushall()
    with pytest.raises(errors.JobNotFound, match="output folder"):
        JobHandle.open(broker, handle.id)
    found = JobHandle.from_output(broker, handle.output)
    lost = found.status()
    assert (lost.id, lost.state, lost.rows_done) == (handle.id, "expired", 40)
    assert lost.error.startswith("Redis does not know this job any more")
    found.resume()
    assert redis_client.llen(QUEUE) == 6
    work(redis_client)
    assert found.status().state == "completed_with_errors"
    redis_client.flushall()
    assert found.status().state == "completed_with_errors"
    assert found.results().num_rows == 99


def test_the_same_submission_continues_and_another_is_refused(
    submit: Callable[..., JobHandle], redis_client: redis.Redis
) -> None:
    first = submit()
    assert not first.resumed
    work(redis_client, chunks=9)
    redis_client.delete(QUEUE)
    second = submit()
    assert second.resumed
    assert second.id == first.id
    assert redis_client.llen(QUEUE) == 1
    with pytest.raises(errors.OutputConflict, match=f"holds job {first.id}"):
        submit(output_format="csv")
    assert redis_client.llen(QUEUE) == 1
    work(redis_client)
    assert submit().status().state == "completed_with_errors"
    assert redis_client.llen(QUEUE) == 0


@pytest.mark.parametrize(
    ("options", "error", "says"),
    [
        ({"model": "nobody"}, errors.ModelNotFound, "no model named 'nobody'"),
        ({"model": "echo@9"}, errors.VersionNotFound, "no version 9"),
        ({"model": "texts"}, errors.VersionNotFound, "no promoted version"),
        ({"model": "Bad Name"}, errors.RequestError, "is not a model name"),
        ({"model": "texts@1", "text_column": "body"}, errors.DatasetError, "lacks 'body'"),
        ({"model": "numbers@1"}, errors.DatasetError, "lacks 'x'; it has: 'id', 'text'"),
        ({"keep_columns": ["id", "nope"]}, errors.DatasetError, "no column nope to keep"),
        ({"source": "/no/such/file.csv"}, errors.DatasetError, "no such file"),
        ({"chunk_rows": 0}, errors.RequestError, "positive"),
        ({"output_format": "xlsx"}, errors.RequestError, "parquet, csv, jsonl"),
        ({"job_id": "../up"}, errors.RequestError, "is not a job id"),
    ],
)
def test_bad_requests_queue_nothing_and_leave_nothing(
    submit: Callable[..., JobHandle], redis_client: redis.Redis, tmp_path: Path,
    options: dict[str, Any], error: type[errors.CeleriacError], says: str,
) -> None:
    with pytest.raises(error) as caught:
        submit(**options)
    assert says in caught.value.message
    assert not (tmp_path / "out").exists()
    assert redis_client.zcard(JOBS_KEY) == redis_client.llen(QUEUE) == 0


def test_parquet_of_a_wrong_type_is_found_before_anything_is_queued(
    submit: Callable[..., JobHandle], tmp_path: Path
) -> None:
    import pyarrow as pa

    path = tmp_path / "in.parquet"
    pq.write_table(pa.table({"x": ["a"], "many": [[1]]}), path)
    with pytest.raises(errors.DatasetError, match="'x' of the dataset is of type string"):
        submit(source=path, model="numbers@1")
    with pytest.raises(errors.DatasetError, match="'many' holds lists"):
        submit(source=path, output_format="csv")


def test_only_kept_columns_are_joined(
    submit: Callable[..., JobHandle], redis_client: redis.Redis
) -> None:
    handle = submit(model="texts@1", keep_columns=["id"], output_format="csv")
    work(redis_client)
    results = handle.results()
    assert results.column_names == ["id", "prediction"]
    assert results["prediction"][0].as_py() == '"text, 1"'
    assert handle.parts()[0].suffix == ".csv"


def test_csv_results_keep_texts_as_they_are(
    submit: Callable[..., JobHandle], redis_client: redis.Redis, tmp_path: Path
) -> None:
    path = tmp_path / "a.csv"
    path.write_text('zip,n,text\n007,1,"two\nlines"\n8,2,NA\n9,2.5,\n')
    handle = submit(source=path, output_format="csv", chunk_rows=1, keep_columns=["zip", "n",
                    "text"], model="texts@1")
    work(redis_client)
    assert handle.results().drop_columns("prediction").to_pylist() == [
        {"zip": "007", "n": 1.0, "text": "two\nlines"}, {"zip": "8", "n": 2.0, "text": "NA"},
        {"zip": "9", "n": 2.5, "text": ""},
    ]


@pytest.mark.parametrize("output_format", ["csv", "parquet"])
def test_a_job_of_which_every_row_fails(
    submit: Callable[..., JobHandle], redis_client: redis.Redis, tmp_path: Path, output_format: str
) -> None:
    path = tmp_path / "a.csv"
    path.write_text("a,b\n1\n2\n")
    handle = submit(source=path, output_format=output_format)
    work(redis_client)
    assert handle.status().state == "completed_with_errors"
    results = handle.results()
    assert (results.num_rows, results.column_names) == (0, ["a", "b", "prediction"])


def test_a_job_whose_source_changes_fails_with_the_reason(
    submit: Callable[..., JobHandle], redis_client: redis.Redis, reviews: Path
) -> None:
    handle = submit()
    work(redis_client, chunks=1)
    reviews.write_text("id,text\n1,other\n")
    work(redis_client)
    status = handle.wait(5)
    assert status.state == "failed"
    assert "has changed since the job was submitted" in status.error
    assert not (handle.output / "_SUCCESS").exists()


def test_a_chunk_is_tried_three_times(
    submit: Callable[..., JobHandle], redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried: list[int] = []

    def fail(job_id: str, output: str, claim: Claim, lease: object) -> None:
        tried.append(claim.attempt)
        raise OSError("the disk is away")

    monkeypatch.setattr(tasks.batch, "_score", fail)
    monkeypatch.setattr("celeriac.jobs.policy.retry_delay_s", lambda attempt: 0)
    handle = submit(chunk_rows=1_000)
    work(redis_client)
    status = handle.status()
    assert tried == [1, 2, 3]
    assert (status.state, status.chunks_dead) == ("failed", 1)
    assert status.error == (
        "no chunk could be scored; chunk 0 failed at attempt 3 of 3: OSError('the disk is away')"
    )


def test_a_registry_that_is_away_is_tried_again_and_resume_goes_on_at_once(
    submit: Callable[..., JobHandle], redis_client: redis.Redis, settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("celeriac.jobs.policy.retry_delay_s", lambda attempt: 0)
    handle = submit(chunk_rows=1_000)
    root = settings.models.root
    away = root.rename(root.with_name("away"))
    work(redis_client)
    status = handle.status()
    assert status.state == "failed"
    assert status.error.startswith("chunk 0 failed at attempt 3 of 3: the registry is gone or")
    assert status.chunks_dead == 0
    away.rename(root)
    handle.resume()
    work(redis_client)
    assert handle.status().state == "completed_with_errors"


def test_a_chunk_that_kills_its_process_ends_the_job(
    submit: Callable[..., JobHandle], redis_client: redis.Redis, broker: Broker
) -> None:
    handle = submit(chunk_rows=1_000)
    ledger = Ledger(broker.redis, 600)
    for _ in range(3):  # claimed and killed
        ledger.claim(handle.id, 0, owner="o", worker="w", lease_s=0, max_attempts=3)
    work(redis_client)
    assert handle.status().error.endswith("chunk 0 ended its worker process 3 times")


def test_a_killed_process_is_told_without_the_number_of_its_task() -> None:
    error = WorkerLostError("Worker exited prematurely: exitcode 3 Job: 10.")
    assert tasks.batch._how(error) == "Worker exited prematurely: exitcode 3"


def test_what_a_killed_process_had_in_hand_is_sent_again(
    submit: Callable[..., JobHandle], redis_client: redis.Redis, broker: Broker
) -> None:
    """Its own chunk by Celery, with its message; one that it had gone on with by us."""
    handle, ledger = submit(), Ledger(broker.redis, 600)
    for chunk in (1, 2):
        ledger.claim(handle.id, chunk, owner=f"m{chunk}", worker="w", lease_s=60, max_attempts=3)
    sent = redis_client.llen(QUEUE)

    def lose(message: str, own: int) -> None:
        kwargs = {"job_id": handle.id, "chunk_no": own, "output": str(handle.output)}
        tasks.batch.chunk.on_retry(WorkerLostError("killed"), message, (), kwargs, None)

    lose("m1", own=1)
    lose("nobody", own=5)
    assert (redis_client.llen(QUEUE), handle.status().chunks_running) == (sent, 1)
    lose("m2", own=0)
    assert (redis_client.llen(QUEUE), handle.status().chunks_running) == (sent + 1, 0)
    assert queued(redis_client, QUEUE)[-1]["headers"]["chunk_no"] == 2
    work(redis_client)
    assert handle.status().state == "completed_with_errors"
    record = JobFolder(handle.output).read_record(2)
    assert record is not None
    assert record.attempt == 2


def test_what_hangs_is_sent_again_by_its_process(
    submit: Callable[..., JobHandle], redis_client: redis.Redis, broker: Broker
) -> None:
    """It may have gone on with a chunk that has no message."""
    handle, ledger = submit(), Ledger(broker.redis, 600)
    claim = ledger.claim(handle.id, 3, owner="m0", worker="w", lease_s=60, max_attempts=3)
    sent = redis_client.llen(QUEUE)
    lease = tasks.batch._lease(handle.id, str(handle.output), claim)
    lease.is_over = True
    lease._on_hang()
    assert (redis_client.llen(QUEUE), handle.status().chunks_running) == (sent + 1, 0)
    assert queued(redis_client, QUEUE)[-1]["headers"]["chunk_no"] == 3
    again = ledger.claim(handle.id, 3, owner="m1", worker="w", lease_s=60, max_attempts=3)
    assert again.attempt == 2
    lease._on_hang()  # another's now
    assert redis_client.llen(QUEUE) == sent + 1


def test_short_chunks_go_on_without_messages(
    submit: Callable[..., JobHandle], redis_client: redis.Redis, broker: Broker,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with_window(broker, 2)
    monkeypatch.setattr(tasks.batch, "MESSAGE_S", 60.0)
    handle = submit()
    assert redis_client.llen(QUEUE) == 2
    work(redis_client, chunks=1)  # in the end it takes the other message itself
    assert (handle.status().chunks_done, redis_client.llen(QUEUE)) == (10, 0)
    work(redis_client)
    assert (handle.status().state, handle.status().chunks_done) == ("completed_with_errors", 10)


def test_short_chunks_of_two_jobs_take_turns(
    submit: Callable[..., JobHandle], redis_client: redis.Redis, broker: Broker, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with_window(broker, 2)
    monkeypatch.setattr(tasks.batch, "MESSAGE_S", 60.0)
    jobs = [submit(output=tmp_path / name) for name in ("one", "two")]
    done = []
    for _ in range(5):
        work(redis_client, chunks=1)  # and what comes next in the queue, as long as it is its own
        done.append([job.status().chunks_done for job in jobs])
    assert done == [[2, 0], [2, 2], [4, 2], [4, 4], [6, 4]]
    jobs[0].cancel()
    work(redis_client, chunks=1)
    assert jobs[1].status().chunks_done == 6
    work(redis_client, chunks=2)  # both are of the cancelled job
    work(redis_client, chunks=1)  # now the other one is alone
    assert jobs[1].status().chunks_done == 10


def test_long_chunks_have_a_message_each(
    submit: Callable[..., JobHandle], redis_client: redis.Redis, broker: Broker,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with_window(broker, 2)
    monkeypatch.setattr(tasks.batch, "MESSAGE_S", 0.0)
    handle = submit()
    work(redis_client, chunks=1)
    assert (handle.status().chunks_done, redis_client.llen(QUEUE)) == (1, 2)


def test_a_kill_between_commit_and_finaliser_is_made_good(
    submit: Callable[..., JobHandle], redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    handle = submit(chunk_rows=1_000)
    work(redis_client, chunks=1)
    redis_client.delete(MAINTENANCE_QUEUE)
    assert handle.status().state == "finalizing"
    tasks.batch.reconcile.apply()
    assert redis_client.llen(MAINTENANCE_QUEUE) == 0  # it may be under way
    Ledger(redis_client, 600).finalizing(handle.id, "another, which dies")
    kwargs = {"job_id": handle.id, "output": str(handle.output)}
    tasks.batch.finalize.apply(kwargs=kwargs)  # no second one meanwhile
    assert handle.status().state == "finalizing"
    monkeypatch.setattr("producer.reconciler.FINALIZER_S", 0.0)
    tasks.batch.reconcile.apply()
    work(redis_client)
    assert handle.status().state == "completed_with_errors"


def away_once(monkeypatch: pytest.MonkeyPatch, place: Any, name: str) -> None:
    """The next call of ``place.name`` finds no Redis."""
    called = getattr(place, name)

    def away(*args: Any, **kwargs: Any) -> None:
        monkeypatch.setattr(place, name, called)
        raise redis.ConnectionError("away")

    monkeypatch.setattr(place, name, away)


def test_a_redis_that_is_away_when_a_job_ends_costs_moments(
    submit: Callable[..., JobHandle], redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    handle = submit(chunk_rows=1_000)
    away_once(monkeypatch, Ledger, "commit")
    away_once(monkeypatch, waves, "publish")
    work(redis_client, chunks=1)
    assert redis_client.llen(MAINTENANCE_QUEUE) == 1
    for exchange in ("finalizing", "dead", "finish"):
        away_once(monkeypatch, Ledger, exchange)
    work(redis_client)
    assert handle.status().state == "completed_with_errors"


def test_a_damaged_part_fails_the_job_and_resume_heals_it(
    submit: Callable[..., JobHandle], redis_client: redis.Redis
) -> None:
    handle = submit()
    work(redis_client, chunks=10)
    part = handle.output / "parts" / "part-00003.parquet"
    part.write_bytes(b"not parquet")
    work(redis_client)
    failed = handle.status()
    assert failed.state == "failed"
    assert "part 3 of 10 is missing or damaged" in failed.error
    handle.resume()
    assert redis_client.llen(QUEUE) == 1
    work(redis_client)
    assert handle.status().state == "completed_with_errors"


def test_a_job_that_is_resumed_before_its_cancellation_is_confirmed_goes_on(
    submit: Callable[..., JobHandle], redis_client: redis.Redis, broker: Broker
) -> None:
    handle = submit()
    work(redis_client, chunks=2)
    ledger = Ledger(broker.redis, 600)
    ledger.claim(handle.id, 5, owner="o", worker="w", lease_s=60, max_attempts=3)
    assert handle.cancel().state == "cancelling"
    assert handle.resume().state == "in_progress"
    assert handle.status().chunks_running == 1
    ledger.release_owner(handle.id, 5, "o", reason="killed", max_attempts=3)
    work(redis_client)
    assert handle.status().state == "completed_with_errors"


def test_waiting_is_bounded_and_redis_down_is_said(
    submit: Callable[..., JobHandle], settings: Settings
) -> None:
    handle = submit()
    with pytest.raises(errors.DeadlineExceeded, match="it goes on"):
        handle.wait(0.2)
    nowhere = settings.model_copy(
        update={"broker": settings.broker.model_copy(update={"url": "redis://127.0.0.1:1/0"})}
    )
    with pytest.raises(errors.BrokerError, match="Is it running"):
        list_jobs(Broker(nowhere))


def test_jobs_are_listed_and_their_keys_expire(
    submit: Callable[..., JobHandle], redis_client: redis.Redis, broker: Broker, tmp_path: Path
) -> None:
    first, second = submit(), submit(output=tmp_path / "other")
    assert {status.id for status in list_jobs(broker)} == {first.id, second.id}
    assert redis_client.ttl(job_key(first.id)) > 0
    assert JobHandle.open(broker, first.id).output == first.output


@pytest.fixture
def cli(
    broker: Broker, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., tuple[int, str]]:
    from producer.cli import batch, jobs

    monkeypatch.setattr(jobs, "get_settings", lambda: settings)

    def run(*words: str) -> tuple[int, str]:
        result = CliRunner().invoke(batch.app, list(words))
        if isinstance(result.exception, errors.CeleriacError):
            return 1, result.exception.message
        return result.exit_code, result.output

    return run


def test_the_commands(
    cli: Callable[..., tuple[int, str]], reviews: Path, tmp_path: Path, redis_client: redis.Redis
) -> None:
    out = str(tmp_path / "out")
    code, text = cli("submit", str(reviews), "--model", "echo", "--output", out)
    assert code == 0
    assert "100 rows in 1 chunk by echo@1" in text
    job_id = text.split()[1]
    assert cli("status", job_id) == cli("status")
    assert cli("status", job_id)[0] == 0
    assert "in_progress" in cli("list")[1]
    assert "is cancelled" in cli("cancel", out)[1]
    work(redis_client)
    assert "the job is not complete, and only then has a report" in cli("report", job_id)[1]
    code, text = cli("status", job_id)
    assert (code, "cancelled" in text, "resume" in text) == (1, True, True)
    assert cli("resume", job_id)[0] == 0
    work(redis_client)
    code, text = cli("submit", str(reviews), "--model", "echo", "--output", out, "--wait")
    assert code == 3
    assert "is completed_with_errors already" in text
    assert "completed_with_errors: 100 of 100 rows, 1 failed" in text
    assert cli("status", out)[0] == 3
    for words in (["status", out, "--json"], ["list", "--limit", "1", "--json"]):
        found = json.loads(cli(*words)[1])
        assert (found["id"], found["state"], found["rows_failed"]) == (
            job_id, "completed_with_errors", 1
        )
    report = Path(out) / "report.html"
    assert f"report in {report}" in text
    code, text = cli("submit", str(reviews), "-m", "echo", "-o", out, "--wait", "--json")
    assert (code, json.loads(text)["rows_done"]) == (3, 100)
    assert cli("report", job_id) == (0, f"{report}\n")
    report.unlink()
    assert f"`celeriac batch report {job_id}` makes it" in cli("status", job_id)[1]
    assert cli("report", out) == (0, f"{report}\n")
    assert "1 of 100 (1 %)" in report.read_text()
    report.write_text("old")
    assert (cli("report", job_id)[0], report.read_text()) == (0, "old")
    assert cli("report", job_id, "--again")[0] == 0
    assert report.read_text() != "old"
    assert cli("cancel", job_id) == (
        1, f"job {job_id} is completed_with_errors: there is nothing to cancel"
    )
    assert "no job 'nothing'" in cli("status", "nothing")[1]
    assert "is not the output of a job" in cli("status", str(tmp_path))[1]


def test_exit_code_of_a_clean_job(
    cli: Callable[..., tuple[int, str]], tmp_path: Path, redis_client: redis.Redis
) -> None:
    (tmp_path / "a.csv").write_text("a\n1\n")
    out = str(tmp_path / "out")
    words = ("submit", str(tmp_path / "a.csv"), "-m", "echo", "-o", out)
    cli(*words)
    work(redis_client)
    assert cli(*words, "--wait")[0] == 0


def test_paths_with_brackets_and_a_narrow_terminal(
    cli: Callable[..., tuple[int, str]], broker: Broker, tmp_path: Path,
    redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "a.csv").write_text("a\n1\n")
    source, out = str(tmp_path / "[a-c].csv"), str(tmp_path / "out[/red]")
    code, text = cli("submit", source, "-m", "echo", "-o", out)
    assert (code, out in text) == (0, True)
    work(redis_client)
    assert f"by echo@1, output in {out}" in cli("status", out)[1]
    monkeypatch.setenv("COLUMNS", "80")
    listed = cli("list")[1]
    assert list_jobs(broker)[0].id in listed
    assert "[a-c].csv" in "".join(line.split()[-1] for line in listed.splitlines())


def test_interrupting_the_wait_says_that_the_job_goes_on(
    cli: Callable[..., tuple[int, str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(JobHandle, "wait", interrupted)
    (tmp_path / "a.csv").write_text("a\n1\n")
    out = str(tmp_path / "out")
    code, text = cli("submit", str(tmp_path / "a.csv"), "-m", "echo", "-o", out, "--wait")
    assert code == 130
    assert "goes on" in text


def test_chunks_that_were_given_up(
    cli: Callable[..., tuple[int, str]], submit: Callable[..., JobHandle],
    redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The job ends without them; they are listed, tried again, or dropped."""
    score, tried = tasks.batch._score, []

    def fail(job_id: str, output: str, claim: Claim, *rest: Any) -> Any:
        if claim.chunk in (2, 5):
            tried.append(claim.chunk)
            raise OSError("the disk is away")
        return score(job_id, output, claim, *rest)

    monkeypatch.setattr(tasks.batch, "_score", fail)
    handle = submit()
    work(redis_client)
    status = handle.status()
    assert (status.state, status.chunks_done, status.chunks_dead) == ("completed_with_errors", 8, 2)
    assert (status.rows_done, status.rows_failed, status.rows_ok) == (100, 21, 79)
    manifest = read_manifest(JobFolder(handle.output))
    assert manifest is not None
    assert (manifest.rows_in, manifest.rows_ok, manifest.rows_failed, manifest.rows_dead) == (
        100, 79, 21, 20,
    )
    assert [(one.chunk, one.first_row, one.rows, one.attempts) for one in manifest.dead] == [
        (2, 21, 10, 3), (5, 51, 10, 3),
    ]
    assert handle.results().num_rows == 79
    text = cli("status", handle.id)[1]
    assert "2 of 10 chunks given up" in text
    assert (handle.status().rows_failed, handle.status().rows_dead) == (21, 20)
    assert "failed rows, with reasons" in text
    assert "OSError" in cli("dead", "list", handle.id)[1]
    shown = cli("dead", "show", handle.id, "5")[1]
    assert "10 from row 51 of" in shown
    assert "chunk 4 of job" in cli("dead", "requeue", handle.id, "4")[1]
    redis_client.flushall()  # the folder knows them, too
    tried.clear()
    assert "1 chunk is tried again" in cli("dead", "requeue", str(handle.output), "2")[1]
    assert handle.status().rows_dead == 10
    work(redis_client)
    assert tried == [2] * 3
    assert [one.chunk for one in handle.dead()] == [2, 5]
    assert "1 chunks dropped" in cli("dead", "drop", handle.id, "5")[1]
    redis_client.flushall()  # what was dropped is known to the folder

    monkeypatch.setattr(tasks.batch, "_score", score)
    assert "1 chunk is tried again" in cli("dead", "requeue", str(handle.output))[1]
    assert handle.status().state == "in_progress"
    assert not (handle.output / "_SUCCESS").exists()
    work(redis_client)
    status = handle.status()
    assert (status.state, status.rows_ok, status.chunks_dead) == ("completed_with_errors", 89, 1)
    assert "1 chunk is tried again" in cli("dead", "requeue", handle.id, "5")[1]
    work(redis_client)
    assert handle.status().rows_ok == 99
    assert "no chunk was given up" in cli("dead", "list", handle.id)[1]
    assert "no chunk was given up" in cli("dead", "list", str(handle.output))[1]
    assert "no chunk was given up" in cli("dead", "requeue", handle.id)[1]


@pytest.mark.parametrize("step", [(Ledger, "dead"), (extras, "write_merged")])
def test_a_job_that_is_resumed_while_it_ends_does_not_end_without_what_is_tried_again(
    submit: Callable[..., JobHandle], redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch,
    step: tuple[Any, str],
) -> None:
    """Nor does it fail, if the finaliser of before does: in one of the steps parts are missing."""
    score, usual, is_mended = tasks.batch._score, getattr(*step), []

    def fail(job_id: str, output: str, claim: Claim, *rest: Any) -> Any:
        if claim.chunk == 0 and not is_mended:
            raise OSError("the disk is away")
        return score(job_id, output, claim, *rest)

    def resuming(*job: Any) -> Any:
        if not is_mended:
            is_mended.append(True)
            assert handle.resume().state == "in_progress"
        return usual(*job)

    monkeypatch.setattr(tasks.batch, "_score", fail)
    monkeypatch.setattr(*step, resuming)
    handle = submit(chunk_rows=50)
    work(redis_client)
    manifest = read_manifest(JobFolder(handle.output))
    assert manifest is not None
    assert (manifest.dead, manifest.rows_dead, len(manifest.parts)) == ((), 0, 2)
    assert (handle.status().state, handle.status().rows_dead) == ("completed_with_errors", 0)


def test_a_run_that_was_overtaken_does_not_end_its_job(
    submit: Callable[..., JobHandle], redis_client: redis.Redis, broker: Broker,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its process was stopped for longer than a lease, say."""
    score, ledger = tasks.batch._score, Ledger(broker.redis, 600)

    def late(job_id: str, output: str, claim: Claim, *rest: Any) -> Any:
        if claim.chunk != 3 or claim.attempt > 1:
            return score(job_id, output, claim, *rest)
        ledger.renew(job_id, 3, claim.epoch, lease_s=0)
        other = ledger.claim(job_id, 3, owner="o", worker="w", lease_s=60, max_attempts=3)
        ledger.commit(job_id, score(job_id, output, other, *rest), other.epoch)
        raise errors.DatasetError("the source has changed since")

    monkeypatch.setattr(tasks.batch, "_score", late)
    handle = submit()
    work(redis_client)
    assert (handle.status().state, handle.status().error) == ("completed_with_errors", "")
    assert handle.results().num_rows == 99


def test_a_job_goes_on_where_its_output_was_moved(
    submit: Callable[..., JobHandle], redis_client: redis.Redis, broker: Broker, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Messages of before name the old place, and so does the plan, of its copy of the source."""
    score, is_mended = tasks.batch._score, []

    def fail(job_id: str, output: str, claim: Claim, *rest: Any) -> Any:
        if claim.chunk == 3 and not is_mended:
            raise OSError("the disk is away")
        return score(job_id, output, claim, *rest)

    monkeypatch.setattr(tasks.batch, "_score", fail)
    submit(source=pa.table({"text": [f"text {n}" for n in range(100)]}))
    work(redis_client, chunks=3)
    (tmp_path / "out").rename(tmp_path / "moved")
    moved = JobHandle.from_output(broker, tmp_path / "moved")
    assert moved.resume().state == "in_progress"
    work(redis_client)
    assert (moved.status().state, moved.status().chunks_dead) == ("completed_with_errors", 1)
    is_mended.append(True)
    (tmp_path / "moved").rename(tmp_path / "again")
    again = JobHandle.from_output(broker, tmp_path / "again")
    assert again.requeue() == 1
    work(redis_client)
    assert (again.status().state, again.status().chunks_dead) == ("completed", 0)
    assert again.results().num_rows == 100


def test_the_id_of_a_job_that_runs_is_not_taken_for_another_output(
    submit: Callable[..., JobHandle], redis_client: redis.Redis, tmp_path: Path
) -> None:
    first = submit(job_id="reviews")
    with pytest.raises(errors.Conflict, match=f"is in_progress, with its output in {first.output}"):
        submit(job_id="reviews", output=tmp_path / "other")
    assert not (tmp_path / "other").exists()
    work(redis_client)
    assert first.status().state == "completed_with_errors"
    second = submit(job_id="reviews", output=tmp_path / "other")  # the last one of that name counts
    work(redis_client)
    assert second.results().num_rows == 99


def test_an_id_whose_submitter_was_killed_while_it_planned_can_be_had_again(
    submit: Callable[..., JobHandle], redis_client: redis.Redis, broker: Broker
) -> None:
    Ledger(broker.redis, 600).announce("mine", model="echo", version=1, source="s", output="/gone")
    with pytest.raises(errors.Conflict, match=r"is validating, .*batch cancel mine` ends it"):
        submit(job_id="mine")
    JobHandle.open(broker, "mine").cancel()
    handle = submit(job_id="mine")
    work(redis_client)
    assert (handle.status().state, handle.results().num_rows) == ("completed_with_errors", 99)


@pytest.mark.parametrize("share", [1.0, 0.1])
def test_rows_of_a_file_that_is_mended_come_back(
    cli: Callable[..., tuple[int, str]], submit: Callable[..., JobHandle],
    redis_client: redis.Redis, tmp_path: Path, share: float,
) -> None:
    """After ``requeue`` of a job that has its output, or ``resume`` of one that gave up."""
    folder = tmp_path / "small"
    folder.mkdir()
    for number in range(3):
        data = gzip.compress(b"text\na%d\nb%d\n" % (number, number))
        (folder / f"{number}.csv.gz").write_bytes(data)
    handle = submit(source=folder, max_error_share=share)
    assert handle.requeue() == 0
    damaged = folder / "1.csv.gz"
    whole, state = damaged.read_bytes(), damaged.stat()

    def write(data: bytes) -> None:
        damaged.write_bytes(data)
        os.utime(damaged, ns=(state.st_atime_ns, state.st_mtime_ns))

    write(b"?" * len(whole))
    work(redis_client)
    status = handle.status()
    assert (status.rows_failed, status.chunks_dead) == (2, 0)
    if share == 1.0:
        assert status.state == "completed_with_errors"
        assert "files of chunk 0 could not be read" in cli("dead", "list", handle.id)[1]
        assert "1 chunk is tried again" in cli("dead", "requeue", handle.id, "0")[1]
        work(redis_client)  # it is still damaged
        assert handle.status().rows_failed == 2
        damaged.write_bytes(whole)  # made anew: as far as anybody can tell another file
        code, said = cli("dead", "requeue", handle.id)
        assert (code, handle.status().state) == (1, "completed_with_errors")
        assert f"{damaged}: has changed since the job was submitted" in said
        assert handle.results().num_rows == 4
    else:
        assert status.state == "failed"
    write(whole)
    assert handle.requeue() == 1 if share == 1.0 else handle.resume()
    work(redis_client)
    status = handle.status()
    assert (status.state, status.rows_ok, status.rows_failed) == ("completed", 6, 0)
    assert handle.results()["text"].to_pylist() == ["a0", "b0", "a1", "b1", "a2", "b2"]
    assert not list((handle.output / "errors").iterdir())
    assert "no chunk was given up" in cli("dead", "requeue", handle.id)[1]


def test_jobs_take_turns(
    submit: Callable[..., JobHandle], redis_client: redis.Redis, broker: Broker, tmp_path: Path
) -> None:
    with_window(broker, 4)
    first = submit(chunk_rows=2)
    second = submit(chunk_rows=2, output=tmp_path / "second")
    assert redis_client.llen(QUEUE) == 8
    for done in (16, 32, 64):
        work(redis_client, chunks=done - first.status().chunks_done - second.status().chunks_done)
        assert abs(first.status().chunks_done - second.status().chunks_done) <= 4
        assert redis_client.llen(QUEUE) <= 8
    work(redis_client)
    assert {first.status().state, second.status().state} == {"completed_with_errors"}


def test_a_job_expires(
    submit: Callable[..., JobHandle], redis_client: redis.Redis, cli: Callable[..., tuple[int, str]]
) -> None:
    with pytest.raises(errors.RequestError, match="expires_s"):
        submit(expires_s=0)
    handle = submit(expires_s=0.05)
    assert handle.status().expires_at is not None
    time.sleep(0.1)
    tasks.batch.reconcile.apply()
    status = handle.status()
    assert (status.state, status.ended_at is not None) == ("expired", True)
    work(redis_client)
    assert handle.status().chunks_done == 0
    assert "by the time that it was given" in cli("status", handle.id)[1]
    assert cli("resume", handle.id)[0] == 0
    work(redis_client)
    assert handle.status().state == "completed_with_errors"


def test_a_vanished_message_is_sent_again_and_a_waiting_one_is_not(
    submit: Callable[..., JobHandle], redis_client: redis.Redis
) -> None:
    handle = submit()
    redis_client.rpop(QUEUE)
    taken = redis_client.rpop(QUEUE) or b""  # in a worker's hands, as kombu notes it
    redis_client.hset(f"unacked.{QUEUE}", "tag", json.dumps([json.loads(taken), "", QUEUE]))
    for _ in range(2):
        assert reconcile(tasks.broker.kept_broker(), tasks.batch._ledger(), queued_s=0) in (
            {"messages": 1}, {},
        )
    assert redis_client.llen(QUEUE) == 9
    redis_client.delete(QUEUE, f"unacked.{QUEUE}")
    reconcile(tasks.broker.kept_broker(), tasks.batch._ledger(), queued_s=0)
    assert redis_client.llen(QUEUE) == 10
    work(redis_client)
    assert handle.status().state == "completed_with_errors"
    assert reconcile(tasks.broker.kept_broker(), tasks.batch._ledger()) == {}


def test_a_job_is_validating_while_its_dataset_is_read(
    submit: Callable[..., JobHandle], redis_client: redis.Redis, broker: Broker, reviews: Path
) -> None:
    seen: list[Any] = []
    handle = submit(on_progress=lambda read, total: seen.extend(list_jobs(broker)))
    assert {(one.id, one.state, one.model) for one in seen} == {(handle.id, "validating", "echo")}
    assert handle.status().created_at == seen[0].created_at

    def interrupted(read: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        submit(output=reviews.parent / "other", on_progress=interrupted)
    assert [one.id for one in list_jobs(broker)] == [handle.id]


def test_what_jobs_left_is_purged(
    cli: Callable[..., tuple[int, str]], submit: Callable[..., JobHandle],
    redis_client: redis.Redis, broker: Broker, tmp_path: Path,
) -> None:
    """Never what goes on, never what has finished unless that is said, never others' files."""
    handle = submit()
    out = handle.output
    assert "cancel" in cli("purge", handle.id, "--yes")[1]
    work(redis_client, chunks=4)
    handle.cancel()
    mine = [out / "notes.txt", out / "parts" / "part-of-mine.csv", out / "predictions.csv"]
    for file in mine:
        file.write_text("mine")
    (out / ".tmp-e7-part").write_text("debris")
    assert cli("purge", "--older-than-days", "1", "--yes")[1] == "no job to purge\n"
    assert "say --older-than-days" in cli("purge")[1]
    code, text = cli("purge", str(out))  # nobody says yes
    assert (code, len(list(out.rglob("part-*.parquet")))) == (1, 4)
    code, text = cli("purge", "--older-than-days", "0", "-y")
    assert (code, "15 files deleted" in text) == (0, True)
    assert sorted(file for file in out.rglob("*") if file.is_file()) == sorted(mine)
    assert list_jobs(broker) == []
    with pytest.raises(errors.JobNotFound):
        handle.resume()

    failed = submit(output=tmp_path / "failed")
    ledger = Ledger(broker.redis, 600)
    ledger.claim(failed.id, 0, owner="o", worker="w", lease_s=60, max_attempts=3)
    ledger.fail(failed.id, "no")
    assert "chunks of it still stop" in cli("purge", failed.id, "-y")[1]
    ledger.release_owner(failed.id, 0, "o", reason="", max_attempts=3)
    assert cli("purge", failed.id, "-y")[0] == 0
    redis_client.delete(QUEUE)

    done = submit(output=tmp_path / "done")
    work(redis_client)
    assert cli("purge", "--older-than-days", "0", "-y")[1] == "no job to purge\n"
    assert "has finished: --finished deletes" in cli("purge", done.id)[1]  # before it asks
    assert done.results().num_rows == 99
    redis_client.flushall()
    assert cli("purge", str(done.output), "--finished", "-y")[0] == 0
    assert not (tmp_path / "done").exists()


def test_a_dataset_beside_the_output_is_not_taken_for_a_copy(
    submit: Callable[..., JobHandle], redis_client: redis.Redis, reviews: Path, tmp_path: Path
) -> None:
    """The job keeps its copies in a folder ``input``; the user's may be named so."""
    source = tmp_path / "project" / "input" / "reviews.csv"
    source.parent.mkdir(parents=True)
    reviews.rename(source)
    with pytest.raises(errors.OutputConflict, match="is not empty and holds no job"):
        submit(source=source, output=tmp_path / "project")
    handle = submit(source=source)
    theirs = handle.output / "input" / "mine.csv"
    theirs.parent.mkdir()
    theirs.write_text("id\n1\n")
    work(redis_client)
    handle.purge(finished=True)
    assert [file.name for file in handle.output.rglob("*")] == ["input", "mine.csv"]
    assert source.exists()


def test_bad_options_of_a_submission(submit: Callable[..., JobHandle], tmp_path: Path) -> None:
    with pytest.raises(errors.DatasetError, match="no column 'uid' to name the rows"):
        submit(id_column="uid")
    with pytest.raises(errors.RequestError, match=r"from 0 to 1, as 0\.05; not 5"):
        submit(max_error_share=5)
    assert not (tmp_path / "out").exists()


def test_a_job_whose_output_was_deleted_says_so(
    submit: Callable[..., JobHandle], redis_client: redis.Redis, cli: Callable[..., tuple[int, str]]
) -> None:
    handle = submit()
    shutil.rmtree(handle.output)
    work(redis_client)
    code, text = cli("status", handle.id)
    assert (code, f"the output of job {handle.id} is gone" in text) == (1, True)
    assert "submit the dataset again" in text
    assert "resume" not in text
    assert not handle.output.exists()
    code, text = cli("resume", handle.id)
    assert (code, f"the output of job {handle.id} is gone" in text) == (1, True)
    assert submit(output=handle.output).id != handle.id


def test_a_job_stops_beyond_its_share_of_failed_rows(
    submit: Callable[..., JobHandle], redis_client: redis.Redis, tmp_path: Path,
    cli: Callable[..., tuple[int, str]],
) -> None:
    """Its output does not look finished; a larger share goes on, also when Redis has forgotten."""
    source = tmp_path / "many.csv"
    source.write_text("id,text\n" + "".join(f"{n},t\n{n}\n" for n in range(1_500)))
    handle = submit(source=source, chunk_rows=500, max_error_share=0.3, id_column="id")
    work(redis_client)
    status = handle.status()
    assert (status.state, status.rows_done, status.rows_failed) == ("failed", 1_000, 500)
    assert status.error.startswith("500 of 1,000 rows failed so far (50.00 %); beyond 30 %")
    assert status.eta_s is None
    assert not (handle.output / "_SUCCESS").exists()
    redis_client.flushall()
    code, text = cli("resume", str(handle.output))
    assert (code, "beyond 30 %" in text) == (0, True)  # as the plan says
    assert redis_client.llen(QUEUE) == 0
    cli("resume", str(handle.output), "--max-error-share", "0.6")
    work(redis_client, chunks=2)
    again = handle.status()
    assert (again.rows_done, again.rows_per_s is not None) == (2_000, True)
    assert again.eta_s == pytest.approx(1_000 / (again.rows_per_s or 0))  # of the new rows' rate
    work(redis_client)
    assert (handle.status().state, handle.status().rows_failed) == ("completed_with_errors", 1_500)
