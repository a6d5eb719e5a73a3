"""Datasets that a worker reads while who submits waits; the worker is a thread of the test."""

from __future__ import annotations

import gzip
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import redis
from PIL import Image

from celeriac import errors
from celeriac.datasets import libraries
from celeriac.jobs.folder import JobFolder
from celeriac.jobs.ledger import Answer
from celeriac.keys import plan_replies_key, plan_request_key, seen_key
from celeriac.registry.catalogue import publish
from celeriac.registry.manifest import Column, InputSchema, ModelDraft, OutputSchema
from celeriac.registry.store import Registry
from celeriac.settings import Settings
from producer import datasets, plan_requests
from producer.client import Client
from producer.plan_requests import Caller, PlanRequest, Reply
from producer.planning import PlanOptions
from tests.integration import batch_tasks
from tests.integration.batch_tasks import QUEUE, run_here

OPTIONS = PlanOptions(
    chunk_rows=2, default_chunk_rows=100, chunk_bytes=1_000, text_column=None, keep_columns=None,
    id_column=None, output_format="parquet", merge=False, aggregate=None, model_column=False,
    error_column=False, dedupe=False,
)
SCHEMAS = {
    "texts": InputSchema(kind="text", columns=(Column(name="text", dtype="text"),)),
    "images": InputSchema(kind="image", shape=(4, 4, 3)),
}


@pytest.fixture
def client(
    settings: Settings, redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Client]:
    """A client that has loaded no reader, as far as it knows, and a worker that was seen."""
    registry = Registry(settings.models.root)
    for name, schema in SCHEMAS.items():
        draft = ModelDraft(format="echo", input=schema, output=OutputSchema(kind="any"))
        registry.add(name, lambda folder, draft=draft: draft)
    publish(redis_client, registry.infos())
    redis_client.set(seen_key(QUEUE), "1", ex=60)
    monkeypatch.setattr(plan_requests, "has_readers", lambda: False)
    monkeypatch.setattr(plan_requests, "CLAIM_S", 20.0)  # this machine may be busy
    with run_here(settings, monkeypatch), Client(settings=settings) as client:
        yield client


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "in.csv"
    path.write_text("id,text\n1,good\n2,bad\n3,fair\n")
    return path


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The plans that the submitter made by itself."""
    made: list[str] = []
    usual = datasets._plan

    def plan(source: Any, *args: Any) -> Any:
        made.append(str(source))
        return usual(source, *args)

    monkeypatch.setattr(datasets, "_plan", plan)
    return made


@contextmanager
def worker(client: Client) -> Iterator[None]:
    """Does what is queued, in a thread."""
    ended = threading.Event()

    def run() -> None:
        while not ended.is_set():
            if not batch_tasks.work(client.broker.redis):
                time.sleep(0.002)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join(20)


def sources(folder: Path) -> dict[str, tuple[str, dict[str, Any]]]:
    """A source of each kind, its model and options."""
    rows = b"id,text\n1,good\n2,\"b\nad\"\n3,fair\n"
    (folder / "in.csv").write_bytes(rows)
    (folder / "in.csv.gz").write_bytes(gzip.compress(rows * 2_000))
    (folder / "in.jsonl").write_text('{"text": "good"}\n{"text": "bad"}\n')
    pq.write_table(pa.table({"text": ["a", "b"], "n": [1, 2]}), folder / "in.parquet")
    (folder / "images").mkdir()
    for n in range(3):
        image = Image.fromarray(np.full((4, 4, 3), n, dtype=np.uint8))
        image.save(folder / "images" / f"{n}.png")
    aggregate = {"by": "id", "share": {"prediction": "good"}}
    return {
        "in.csv": ("texts", {"id_column": "id", "aggregate": aggregate, "keep_columns": ["text"]}),
        "in.csv.gz": ("texts", {"chunk_rows": 500, "output_format": "csv", "dedupe": True}),
        "in.jsonl": ("texts", {"merge": True, "model_column": True, "error_column": True}),
        "*.parquet": ("texts", {"max_error_share": 0.5, "expires_s": 60.0}),
        "images": ("images", {}),
    }  # fmt: skip


def test_the_job_is_the_same_whoever_reads_the_dataset(
    client: Client, tmp_path: Path, here: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also of relative names. A worker's copies are the job's."""
    told: list[tuple[int, int]] = []
    monkeypatch.chdir(tmp_path)
    for number, (name, (model, options)) in enumerate(sources(tmp_path).items()):
        apart, plain = tmp_path / f"apart-{number}", tmp_path / f"plain-{number}"
        client.submit_dataset(name, f"{model}@1", plain, planned_by="client", **options)
        assert here == [name]
        here.clear()
        client.broker.redis.delete(QUEUE)
        with worker(client):
            handle = client.submit_dataset(
                name, f"{model}@1", apart.name, on_progress=lambda *at: told.append(at), **options
            )
            assert handle.wait(20).state == "completed"
        assert (here, handle.resumed) == ([], False)
        mine, theirs = JobFolder(apart).load(), JobFolder(plain).load()
        assert mine.fingerprint == theirs.fingerprint
        assert mine.scoring == theirs.scoring
        assert mine.source == theirs.source == str(tmp_path / name)
        assert (apart / "plan.jsonl").read_bytes() == (plain / "plan.jsonl").read_bytes()
    assert len(client.jobs()) == 10
    assert told
    assert not client.broker.redis.keys("celeriac:plan:*")


@pytest.mark.parametrize(
    ("name", "options", "error", "said"),
    [
        ("nothing.csv", {}, errors.DatasetError, "nothing.csv"),
        ("in.csv", {"id_column": "key"}, errors.DatasetError, "no column 'key' to name the rows"),
        ("in.csv", {"text_column": "review"}, errors.DatasetError, "review"),
        ("broken.parquet", {}, errors.DatasetError, "broken.parquet"),
        ("broken.csv.gz", {}, errors.DatasetError, "cannot be read as gzip"),
        ("in.csv", {"aggregate": {"by": "who"}}, errors.RequestError, "who"),
    ],
)
def test_what_is_wrong_is_raised_by_the_call(
    name: str, options: dict[str, Any], error: type[Exception], said: str,
    client: Client, source: Path, here: list[str],
) -> None:
    """As by this process; there is no job and no file then."""
    folder = source.parent
    (folder / "broken.parquet").write_bytes(b"PAR1 no, it is not PAR1")
    whole = gzip.compress(b"text\n" + b"1234567\n" * 1_000_000)
    (folder / "broken.csv.gz").write_bytes(whole[:-2_000])
    with worker(client), pytest.raises(error, match=said) as apart:
        client.submit_dataset(folder / name, "texts@1", folder / "out", **options)
    assert here == []
    with pytest.raises(error) as plain:
        client.submit_dataset(
            folder / name, "texts@1", folder / "out", planned_by="client", **options
        )
    assert (type(apart.value), str(apart.value)) == (type(plain.value), str(plain.value))
    assert not client.jobs()
    assert not (folder / "out").exists() or name.endswith(".gz")
    assert not list((folder / "out").rglob("*"))


def test_the_folder_is_the_submitters(
    client: Client, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker may be another user. What no folder can be made of is told as ever."""
    usual = Caller.claim

    def claims(self: Caller) -> PlanRequest | None:
        assert (tmp_path / "new" / "out").is_dir()
        return usual(self)

    monkeypatch.setattr(Caller, "claim", claims)
    with worker(client):
        client.submit_dataset(source, "texts@1", tmp_path / "new" / "out")
        with pytest.raises(errors.OutputConflict, match="cannot be written to"):
            client.submit_dataset(source, "texts@1", source / "out")


def test_who_sees_other_files_is_named(
    client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def asked(*_: Any) -> Reply:
        error = errors.DatasetError("in.csv: no such file").to_wire()
        return Reply(is_last=True, error=error, host="db7")

    monkeypatch.setattr(plan_requests._Asker, "wait", asked)
    with pytest.raises(errors.DatasetError, match=r"such file \(as the batch worker on db7 sees"):
        client.submit_dataset(tmp_path / "in.csv", "texts@1", tmp_path / "out")


def test_a_folder_that_reads_like_a_pattern_is_none(
    client: Client, tmp_path: Path, here: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is named in it may be one; its neighbour has other rows."""
    for name in ("run[1]", "run1"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.csv").write_text(f"text\n{name}\n")
    (tmp_path / "run1" / "b.csv").write_text("text\nwrong\n")
    monkeypatch.chdir(tmp_path / "run[1]")
    with worker(client):
        for source in ("*.csv", "a.csv"):
            out = tmp_path / f"out-{source[0]}"
            client.submit_dataset(source, "texts@1", out)
            assert [Path(at.path).parent.name for at in JobFolder(out).load().files] == ["run[1]"]
        with pytest.raises(errors.DatasetError, match=r"b\.csv"):
            client.submit_dataset("b.csv", "texts@1", tmp_path / "none")
    assert here == []


def test_without_a_worker_the_submitter_reads_it(
    client: Client, source: Path, here: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There is none, or none is free."""
    monkeypatch.setattr(plan_requests, "CLAIM_S", 0.05)
    broker = client.broker
    client.submit_dataset(source, "texts@1", tmp_path / "busy")
    assert here == [str(source)]
    waits = broker.redis.rpop(QUEUE)  # the request is older than the chunks, and in front
    batch_tasks.run_message(msgspec.json.decode(waits))  # nobody waits for it any more
    assert not broker.redis.keys("celeriac:plan:*")
    broker.redis.delete(seen_key(QUEUE))
    queued = broker.redis.llen(QUEUE)
    client.submit_dataset(source, "texts@1", tmp_path / "none")
    assert broker.redis.llen(QUEUE) == queued + 1
    assert here == [str(source)] * 2


def test_who_has_no_readers_is_told_of_the_other_way(
    client: Client, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plan_requests, "CLAIM_S", 0.05)

    def missing(name: str) -> None:
        raise ImportError(name)

    monkeypatch.setattr(libraries, "importlib", SimpleNamespace(import_module=missing))
    with pytest.raises(errors.DatasetError, match=r"need numpy.*planned_by=.worker., which"):
        client.submit_dataset(source, "texts@1", tmp_path / "out")
    with pytest.raises(errors.DatasetError, match=r"need numpy.*datasets\]\"$"):
        client.submit_dataset(source, "texts@1", tmp_path / "out", planned_by="client")
    assert not client.jobs()


def test_what_cannot_be_told_is_planned_here(
    client: Client, source: Path, here: list[str], tmp_path: Path
) -> None:
    """Numbers of numpy. A name that is no text is refused as ever."""
    rows: Any = np.int64(2)
    client.submit_dataset(source, "texts@1", tmp_path / "rows", chunk_rows=rows)
    assert here == [str(source)]
    odd = source.rename(tmp_path / "a\udcff.csv")
    with pytest.raises(errors.DatasetError, match=r"a\\xff\.csv: the name is not UTF-8"):
        client.submit_dataset(odd, "texts@1", tmp_path / "odd")


def test_only_what_a_worker_sees_is_left_to_it(
    client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = JobFolder(tmp_path).path
    assert plan_requests.may_ask(tmp_path, out)
    assert plan_requests.may_ask("s3://lake/in", out)
    for source in ("", pa.table({"text": ["a"]}), ["in.csv"]):
        assert not plan_requests.may_ask(source, out)
    assert not plan_requests.may_ask("in.csv", JobFolder("s3://lake/out").path)
    monkeypatch.undo()
    assert not plan_requests.may_ask("in.csv", out)  # pyarrow is loaded here


def test_a_worker_that_ends_or_cannot_is_replaced_by_the_submitter(
    client: Client, source: Path, here: list[str], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(plan_requests, "SILENT_S", 0.2)
    monkeypatch.setattr(plan_requests, "_POP_S", 0.1)
    usual = Caller.claim

    def begins(self: Caller) -> None:
        """And is killed."""
        usual(self)
        raise KeyboardInterrupt

    def fails(*_: Any) -> None:
        raise ZeroDivisionError("a defect")

    with monkeypatch.context() as patch, worker(client):
        patch.setattr(Caller, "claim", begins)
        patch.setattr(batch_tasks, "run_message", suppressing(batch_tasks.run_message))
        client.submit_dataset(source, "texts@1", tmp_path / "ended")
    with monkeypatch.context() as patch, worker(client):
        patch.setattr(plan_requests, "plan_dataset", fails)
        client.submit_dataset(source, "texts@1", tmp_path / "defect")
    with monkeypatch.context() as patch, worker(client):
        patch.setattr(plan_requests, "MAX_REPLY_BYTES", 100)
        client.submit_dataset(source, "texts@1", tmp_path / "long")
    assert here == [str(source)] * 3
    assert "a defect" in capsys.readouterr().out


def suppressing(run: Callable[[dict[str, Any]], None]) -> Callable[[dict[str, Any]], None]:
    def ran(message: dict[str, Any]) -> None:
        try:
            run(message)
        except KeyboardInterrupt:
            return

    return ran


def test_who_is_interrupted_leaves_no_plan_and_no_copy(
    client: Client, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The worker hears of it, and stops."""
    monkeypatch.setattr("tasks.batch.PLAN_WORD_S", 0.01)

    def endless(*args: Any) -> None:
        """A plan of which something was copied already."""
        copies, on_progress = args[4:]
        with copies.making(".csv.zst") as copy:
            copy.temporary.write_bytes(b"rows")
        for _ in range(1_000):
            on_progress(1, 2)
            time.sleep(0.01)

    def interrupted(_read: int, _total: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(plan_requests, "plan_dataset", endless)
    with worker(client):
        with pytest.raises(KeyboardInterrupt):
            client.submit_dataset(source, "texts@1", tmp_path / "out", on_progress=interrupted)
        end = time.monotonic() + 5
        while list((tmp_path / "out").rglob("*.zst")):
            assert time.monotonic() < end
            time.sleep(0.01)
    assert not client.jobs()


@pytest.mark.parametrize("when", ["before", "after", "of the last word"])
def test_copies_go_when_the_caller_leaves_as_the_plan_ends(
    when: str, client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever hears of the other deletes them."""
    path = tmp_path / "in.csv.gz"
    path.write_bytes(gzip.compress(b"text\n" + b"some text\n" * 20_000))
    planned, ended, stopped, copied = *(threading.Event() for _ in range(3)), list[Path]()
    end, stop = Caller.end, plan_requests._Asker.stop

    def ends(self: Caller, *args: Any) -> None:
        copied.extend((tmp_path / "out" / "input").iterdir())
        planned.set()
        assert when != "before" or stopped.wait(20)
        end(self, *args)
        ended.set()

    def stops(self: plan_requests._Asker) -> None:
        assert when != "after" or ended.wait(20)
        stop(self)
        stopped.set()

    def interrupted(*_: Any) -> None:
        assert planned.wait(20)
        raise KeyboardInterrupt

    monkeypatch.setattr(Caller, "end", ends)
    monkeypatch.setattr(plan_requests._Asker, "stop", stops)
    if when != "of the last word":
        monkeypatch.setattr(plan_requests._Asker, "wait", interrupted)
    with worker(client), pytest.raises(KeyboardInterrupt):
        client.submit_dataset(
            path, "texts@1", tmp_path / "out", chunk_rows=1_000, on_progress=interrupted
        )
    assert copied
    assert not list((tmp_path / "out").rglob("*"))
    assert not client.jobs()


def test_a_caller_that_reads_nothing_is_gone(client: Client, tmp_path: Path) -> None:
    """It may have gone on by itself, with the copies that it found."""
    broker = client.broker
    request = PlanRequest("in.csv", "texts@1", str(tmp_path / "out"), OPTIONS)
    broker.redis.set(plan_request_key("r"), msgspec.json.encode(request))
    caller = Caller(broker, "r")
    assert caller.claim() == request
    assert caller.claim() is None
    answers = [caller.renew() for _ in range(plan_requests.MAX_UNREAD)]
    assert answers == [Answer.KEPT] * (plan_requests.MAX_UNREAD - 1) + [Answer.LOST]
    assert not caller.has_stopped
    assert 0 < broker.redis.ttl(plan_replies_key("r")) <= 60
    broker.redis.set(plan_request_key("r"), b"stopped")
    assert (caller.renew(), caller.has_stopped) == (Answer.LOST, True)


def test_a_worker_that_was_stopped_leaves_no_copies_to_a_job_that_has_ended(
    client: Client, tmp_path: Path
) -> None:
    """Who asked has gone on by itself, and the finaliser has been there."""
    path, out = tmp_path / "in.csv.gz", tmp_path / "out"
    path.write_bytes(gzip.compress(b"text\n" + b"some text\n" * 20_000))
    broker = client.broker
    options = msgspec.structs.replace(OPTIONS, chunk_rows=10_000)
    request = PlanRequest(str(path), "texts@1", str(out), options)
    broker.redis.set(plan_request_key("r"), msgspec.json.encode(request))
    caller = Caller(broker, "r")
    assert caller.claim() == request
    with worker(client):
        handle = client.submit_dataset(path, "texts@1", out, chunk_rows=10_000, planned_by="client")
        assert handle.wait(20).state == "completed"
    planned = plan_requests.plan(broker, request, caller, lambda: False)
    assert list((out / "input").iterdir())
    caller.end(planned)
    assert not (out / "input").exists()


def test_a_request_of_another_release_is_left_to_who_asks(client: Client) -> None:
    broker = client.broker
    broker.redis.set(plan_request_key("r"), b'{"source": "in.csv", "new": 1}')
    assert Caller(broker, "r").claim() is None
    told = msgspec.json.decode(broker.redis.lpop(plan_replies_key("r")), type=Reply)
    assert (told.is_last, told.planned, told.error) == (True, None, None)


def test_copies_go_with_a_job_that_comes_to_nothing(
    client: Client, tmp_path: Path, here: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The worker made them, and the folder turns out to be another job's."""
    path = tmp_path / "in.csv.gz"
    path.write_bytes(gzip.compress(b"text\n" + b"some text\n" * 20_000))

    def taken(self: JobFolder, *_: Any) -> Any:
        assert list(self.copies.iterdir())
        raise errors.OutputConflict("taken")

    monkeypatch.setattr(JobFolder, "create", taken)
    with worker(client), pytest.raises(errors.OutputConflict, match="taken"):
        client.submit_dataset(path, "texts@1", tmp_path / "out", chunk_rows=1_000)
    assert here == []
    assert not list((tmp_path / "out").rglob("*"))
    assert not client.jobs()
