"""Datasets that a worker plans for a Python program; the tasks run in this process."""

from __future__ import annotations

import asyncio
import gzip
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import redis

import tasks.batch
import tasks.broker
from celeriac import errors
from celeriac.jobs.folder import JobFolder
from celeriac.jobs.order import Order
from celeriac.keys import job_key
from celeriac.messages import ModelRef
from celeriac.registry.catalogue import fetch, publish
from celeriac.registry.manifest import Column, InputSchema, ModelDraft, OutputSchema
from celeriac.registry.store import Registry
from celeriac.settings import Settings
from producer import datasets, orders
from producer.aio import AsyncClient
from producer.client import Client
from producer.jobs import JobHandle, open_ledger
from producer.reconciler import reconcile
from tests.integration import batch_tasks
from tests.integration.batch_tasks import QUEUE, run_here

ROWS = "id,text\n1,good\n2,bad\n3,fair\n"


@pytest.fixture
def client(
    settings: Settings, redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Client]:
    """A client, a model ``texts``, and tasks that use this test's settings."""
    registry = Registry(settings.models.root)
    schema = InputSchema(kind="text", columns=(Column(name="text", dtype="text"),))
    draft = ModelDraft(format="echo", input=schema, output=OutputSchema(kind="any"))
    registry.add("texts", lambda folder: draft)
    registry.aliases("texts").promote(1, expected=None, who="test", why="")
    publish(redis_client, registry.infos())
    with run_here(settings, monkeypatch), Client(settings=settings) as client:
        yield client


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "in.csv"
    path.write_text(ROWS)
    return path


def work(client: Client) -> int:
    """Do what is queued, as workers would; how many messages."""
    return batch_tasks.work(client.broker.redis)


def disturb(monkeypatch: pytest.MonkeyPatch, step: str, does: Callable[[], object]) -> None:
    """The next planner finds at this step of its work that ``does`` has happened."""
    steps = {"reads": "_plan", "has read": "make_plan", "writes": "publish_missing"}
    usual = getattr(datasets, steps[step])

    def disturbed(*args: Any, **options: Any) -> Any:
        monkeypatch.setattr(datasets, steps[step], usual)
        does()
        return usual(*args, **options)

    monkeypatch.setattr(datasets, steps[step], disturbed)


def ordered(client: Client, source: Any, output: Any, **options: Any) -> JobHandle:
    return client.submit_dataset(source, "texts", output, planned_by="worker", **options)


def test_a_worker_plans_what_the_client_would(
    client: Client, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A relative path is one in the client's folder, wherever the worker is."""
    options: dict[str, Any] = {
        "keep_columns": ("id",), "id_column": "id", "chunk_rows": 2, "max_error_share": 0,
        "aggregate": {"by": "id"},
    }
    plain = client.submit_dataset(source, "texts", tmp_path / "plain", **options)
    work(client)
    monkeypatch.chdir(tmp_path)
    handle = ordered(client, Path("in.csv"), "out", **options)
    monkeypatch.chdir("/")
    status = handle.status()
    assert (status.state, status.source) == ("validating", str(source))
    assert (status.output, status.version, status.id_column) == (str(tmp_path / "out"), 1, "id")
    assert (handle.resumed, handle.resume().state) == (False, "validating")
    assert (handle.dead(), handle.unread(), handle.requeue()) == ([], [], 0)
    with pytest.raises(errors.DeadlineExceeded, match="is validating"):
        handle.wait(0)
    for ask in (handle.parts, handle.results, handle.report, lambda: handle.planned(0)):
        with pytest.raises(errors.JobFailed, match="is validating, and nothing of it is in"):
            ask()
    assert not (tmp_path / "out").exists()
    work(client)
    assert handle.wait(5).state == "completed"
    assert handle.results().equals(plain.results())
    found, expected = (JobFolder(tmp_path / name).load() for name in ("out", "plain"))
    assert found.fingerprint == expected.fingerprint
    assert (found.max_error_share, found.tenant) == (0, expected.tenant)
    assert [job.id for job in client.jobs()] == [handle.id, plain.id]


def test_who_cannot_read_data_is_told_what_for(
    client: Client, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To submit, wait, and know the files takes no library of data; to read them does."""
    handle = ordered(client, source, tmp_path / "out")
    work(client)
    there = ordered(client, source, "s3://lake/out")
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://127.0.0.1:9")
    for library in ("pyarrow", "pyarrow.fs"):
        monkeypatch.setitem(sys.modules, library, None)
    assert [part.name for part in handle.parts()] == ["part-00000.parquet"]
    assert there.cancel().state == "cancelled"
    assert handle.report().name == "report.html"
    for ask in (handle.results, lambda: handle.report(again=True), there.results):
        with pytest.raises(errors.DatasetError, match=r"pip install \"celeriac\[datasets\]"):
            ask()
    assert there.resume().state == "validating"


def test_from_asyncio(client: Client, source: Path, tmp_path: Path) -> None:
    async def submit() -> JobHandle:
        async with AsyncClient(settings=client.settings) as asked:
            return await asked.submit_dataset(
                str(source), "texts@champion", tmp_path / "out", planned_by="worker"
            )

    handle = client.job(asyncio.run(submit()).id)
    work(client)
    assert handle.status().state == "completed"


@pytest.mark.parametrize(
    ("changes", "kind", "says"),
    [
        ({"source": pd.DataFrame({"text": ["a"]})}, errors.RequestError, "see a DataFrame of"),
        ({"on_progress": print}, errors.RequestError, r"handle.wait\(on_progress"),
        ({"planned_by": "me"}, errors.RequestError, "'auto', 'client' or 'worker', not 'me'"),
        ({"output": ""}, errors.RequestError, "no output folder is named"),
        ({"chunk_rows": 0}, errors.RequestError, "chunk_rows is a positive"),
        ({"keep_columns": ["a", 1j]}, errors.RequestError, "cannot be told of this dataset"),
        ({"source": "/data/\udcff.csv"}, errors.RequestError, "cannot be told of this dataset"),
        ({"output_format": "xml"}, errors.RequestError, "not 'xml'"),
        ({"max_error_share": 2}, errors.RequestError, "from 0 to 1"),
        ({"aggregate": {"sum": "id"}}, errors.RequestError, "an aggregation looks like"),
        ({"expires_s": -1}, errors.RequestError, "expires_s is a number of seconds up to"),
        ({"expires_s": 1e12}, errors.RequestError, "not 1000000000000.0"),
        ({"job_id": "a/b"}, errors.RequestError, "is not a job id"),
        ({"id_column": "x" * 100_000}, errors.PayloadTooLarge, "options take more than"),
        ({"source": "~nobody-here/in.csv"}, errors.DatasetError, "nobody here has such a home"),
        ({"source": ""}, errors.DatasetError, "no dataset is named: its path is empty"),
        ({"model": "none"}, errors.ModelNotFound, "none"),
        ({"model": "texts@7"}, errors.VersionNotFound, "7"),
    ],
)
def test_what_is_wrong_for_certain_is_refused_at_once(
    client: Client, source: Path, tmp_path: Path, changes: dict[str, Any],
    kind: type[Exception], says: str,
) -> None:
    asked: dict[str, Any] = {
        "source": source, "model": "texts", "output": tmp_path / "out", "planned_by": "worker",
    } | changes
    with pytest.raises(kind, match=says):
        client.submit_dataset(**asked)
    assert client.jobs() == []
    assert not client.broker.redis.exists(QUEUE)


def test_what_is_wrong_with_the_dataset_ends_the_job_with_the_same_words(
    client: Client, source: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    other.mkdir()
    (other / "diary.txt").touch()
    for name, changes in [
        ("none.csv", {}), ("in.csv", {"keep_columns": ["price"]}), ("in.csv", {"output": other}),
    ]:
        asked: dict[str, Any] = {"output": tmp_path / "out"} | changes
        with pytest.raises((errors.DatasetError, errors.OutputConflict)) as raised:
            client.submit_dataset(tmp_path / name, "texts", **asked)
        handle = ordered(client, tmp_path / name, **asked)
        work(client)
        status = handle.wait(0)
        assert (status.state, status.error) == ("failed", raised.value.message)
        with pytest.raises(errors.JobFailed, match="is failed, and nothing of it is in") as told:
            handle.results()
        assert status.error in told.value.message
        handle.purge()
    assert [path.name for path in other.iterdir()] == ["diary.txt"]
    assert not (tmp_path / "out").exists()


def test_a_job_that_failed_before_it_was_planned_goes_on_with_resume(
    client: Client, source: Path, tmp_path: Path
) -> None:
    handle = ordered(client, tmp_path / "late.csv", tmp_path / "out")
    work(client)
    assert handle.status().state == "failed"
    source.rename(tmp_path / "late.csv")
    assert handle.resume().state == "validating"
    work(client)
    assert handle.status().state == "completed"


def test_a_job_is_cancelled_while_nobody_has_planned_it(
    client: Client, source: Path, tmp_path: Path
) -> None:
    handle = ordered(client, source, tmp_path / "out")
    assert handle.cancel().state == "cancelled"
    work(client)
    assert handle.wait(0).state == "cancelled"
    assert not (tmp_path / "out").exists()
    assert handle.resume(max_error_share=0.5).state == "validating"
    work(client)
    assert handle.status().state == "completed"
    assert JobFolder(tmp_path / "out").load().max_error_share == 0.5
    assert handle.resume().state == "completed"


@pytest.mark.parametrize("seen_by", ["reconciler", "planner"])
def test_the_time_of_a_job_passes_while_nobody_plans_it(
    client: Client, source: Path, tmp_path: Path, seen_by: str
) -> None:
    handle = ordered(client, source, tmp_path / "out", expires_s=0.001)
    assert handle.status().expires_at is not None
    time.sleep(0.005)
    if seen_by == "reconciler":
        reconcile(client.broker, open_ledger(client.broker))
    else:
        work(client)
    status = handle.wait(0)
    assert (status.state, status.error) == (
        "expired", "the job had not ended by the time that it was given"
    )
    assert not (tmp_path / "out").exists()
    assert (handle.resume().state, handle.status().expires_at) == ("validating", None)
    work(client)
    assert handle.status().state == "completed"


def test_the_same_order_is_the_same_job(client: Client, source: Path, tmp_path: Path) -> None:
    first = ordered(client, source, tmp_path / "out", job_id="j1", merge=True)
    again = ordered(client, source, tmp_path / "out", job_id="j1", merge=True, dedupe=False)
    assert (first.resumed, again.id, again.resumed) == (False, "j1", True)
    for changes in ({}, {"merge": True, "expires_s": 60}, {"merge": True, "chunk_rows": 1}):
        with pytest.raises(errors.Conflict, match="of another order: take another job_id"):
            ordered(client, source, tmp_path / "out", job_id="j1", **changes)
    assert work(client) == 3
    again = ordered(client, source, tmp_path / "out", job_id="j1", merge=True)
    assert (again.resumed, again.status().state, work(client)) == (True, "completed", 0)
    other = ordered(client, source, tmp_path / "out", merge=True)
    work(client)
    assert (other.status().state, "holds another job" in other.status().error) == ("failed", True)
    client.submit_dataset(source, "texts", tmp_path / "mine", job_id="mine")
    with pytest.raises(errors.Conflict):
        ordered(client, source, tmp_path / "mine", job_id="mine")


def test_a_job_that_redis_has_forgotten(client: Client, source: Path, tmp_path: Path) -> None:
    """Its output is complete already, but only if it is of the same data."""
    ordered(client, source, tmp_path / "out", job_id="j1")
    work(client)
    open_ledger(client.broker).withdraw("j1")
    handle = ordered(client, source, tmp_path / "out", job_id="j1")
    assert (handle.resumed, work(client)) == (False, 1)
    status = handle.status()
    assert (status.state, status.rows_done) == ("completed", 3)
    open_ledger(client.broker).withdraw("j1")
    source.write_text(ROWS.replace("fair", "poor"))
    handle = ordered(client, source, tmp_path / "out", job_id="j1")
    assert work(client) == 1
    status = handle.status()
    assert (status.state, "holds job j1" in status.error) == ("failed", True)
    assert JobFolder(tmp_path / "out").success.exists()


def test_a_forgotten_job_is_not_taken_for_another_one_in_its_folder(
    client: Client, source: Path, tmp_path: Path
) -> None:
    client.submit_dataset(source, "texts", tmp_path / "out")
    work(client)
    handle = ordered(client, source, tmp_path / "out")
    assert handle.status().state == "validating"
    client.broker.redis.delete(job_key(handle.id))
    with pytest.raises(errors.JobFailed, match=r"holds job .* now, not"):
        handle.wait(0)


def test_a_job_that_waits_for_its_plan_keeps_its_id(
    client: Client, source: Path, tmp_path: Path
) -> None:
    handle = ordered(client, source, tmp_path / "out", job_id="mine")
    with pytest.raises(errors.Conflict, match="'mine' waits for a worker"):
        client.submit_dataset(source, "texts", tmp_path / "other", job_id="mine")
    work(client)
    assert handle.wait(0).state == "completed"


@pytest.mark.parametrize("step", ["reads", "writes"])
def test_a_job_that_was_purged_while_it_was_planned_stays_so(
    client: Client, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    handle = ordered(client, source, tmp_path / "out", job_id="j1")

    def purge() -> None:
        handle.cancel()
        handle.purge()

    disturb(monkeypatch, step, purge)
    assert work(client) == 1
    assert (client.jobs(), open_ledger(client.broker).active()) == ([], [])
    assert not JobFolder(tmp_path / "out").job.exists()


@pytest.mark.parametrize("step", ["reads", "writes"])
def test_another_order_under_the_id_is_planned_by_its_own_planner(
    client: Client, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    handle = ordered(client, source, tmp_path / "out", job_id="j1")
    other = tmp_path / "other.csv"
    other.write_text("id,text\n7,other\n")

    def replace() -> None:
        handle.cancel()
        handle.purge()
        ordered(client, other, tmp_path / "out", job_id="j1")

    disturb(monkeypatch, step, replace)
    work(client)
    status = handle.wait(0)
    assert (status.state, status.source, status.rows_done) == ("completed", str(other), 1)
    assert handle.results()["id"].to_pylist() == [7]


@pytest.mark.parametrize("step", ["reads", "has read", "writes"])
def test_a_resume_counts_that_a_planner_has_not_noticed(
    client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    """The copy of a compressed file is the next planner's as well."""
    source = tmp_path / "in.csv.gz"
    source.write_bytes(gzip.compress(ROWS.encode()))
    handle = ordered(
        client, source, tmp_path / "out", expires_s=600, max_error_share=0.1, chunk_rows=1
    )
    redis_ = client.broker.redis

    def resume() -> None:
        handle.cancel()
        handle.resume(max_error_share=0.9)
        tasks.batch.plan.apply(kwargs={"job_id": handle.id})

    disturb(monkeypatch, step, resume)
    work(client)
    status = handle.wait(0)
    assert (status.state, status.expires_at) == ("completed", None)
    assert float(redis_.hget(job_key(handle.id), "max_error_share")) == 0.9


def test_a_planner_that_was_given_up_does_not_end_the_job(
    client: Client, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    handle = ordered(client, source, tmp_path / "out")

    def give_up() -> None:
        open_ledger(client.broker).release_plan(handle.id)
        tasks.batch.plan.apply(kwargs={"job_id": handle.id})
        assert handle.status().state == "in_progress"
        raise errors.DatasetError("the file server is away")

    disturb(monkeypatch, "reads", give_up)
    work(client)
    assert handle.wait(0).state == "completed"


@pytest.mark.parametrize("step", ["reads", "writes"])
def test_an_order_that_was_forgotten_while_it_was_planned_is_given_again(
    client: Client, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    ordered(client, source, tmp_path / "out", job_id="j1")
    disturb(monkeypatch, step, lambda: client.broker.redis.delete(job_key("j1")))
    assert work(client) == 1
    handle = ordered(client, source, tmp_path / "out", job_id="j1")
    assert not handle.resumed
    work(client)
    assert handle.wait(0).state == "completed"


@pytest.mark.parametrize(
    ("roots", "says"),
    [
        ({}, "the output leads out of the folders"),
        ({"output_roots": None}, "leads out of the folders that datasets may come from"),
    ],
)
def test_an_order_that_names_no_folders_opens_none(
    client: Client, source: Path, tmp_path: Path, roots: dict[str, Any], says: str
) -> None:
    """No limit must be said: what forgets its roots is refused, as what has none configured."""
    order = Order(source=str(source), model="texts@1", output=str(tmp_path / "out"), **roots)
    version = fetch(client.broker.redis).resolve(ModelRef.parse("texts"))
    orders.place(client.broker, "j1", order, version, "digest")
    work(client)
    status = client.job("j1").status()
    assert (status.state, says in status.error) == ("failed", True)
    assert not (tmp_path / "out").exists()
