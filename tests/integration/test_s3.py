"""Datasets and jobs in S3, on moto's server over HTTP."""

from __future__ import annotations

import gzip
import io
import json
import os
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any, cast

import msgspec
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import redis
from PIL import Image

from celeriac import errors
from celeriac.datasets.copies import Copies
from celeriac.datasets.files import create_file, sha256_of, write_file
from celeriac.datasets.parts import read_parts
from celeriac.datasets.places import S3Path, match_s3, place
from celeriac.datasets.planner import plan as plan_dataset
from celeriac.datasets.reader import read_chunk
from celeriac.datasets.records import Chunk
from celeriac.datasets.sources import open_source
from celeriac.datasets.streams import open_stream
from celeriac.jobs.chunk import run_chunk
from celeriac.jobs.finalize import finalize
from celeriac.jobs.folder import JobFolder
from celeriac.jobs.ledger import DeadChunk
from celeriac.jobs.manifest import SampleSummary, read_manifest
from celeriac.jobs.plan import JobPlan, Scoring, make_plan
from celeriac.jobs.report import make_report
from celeriac.keys import job_key
from celeriac.messages import decode_item
from celeriac.nightly.policy import RunState
from celeriac.outputs import TableAnswers
from celeriac.registry.catalogue import publish
from celeriac.registry.manifest import InputSchema, ModelDraft, OutputSchema, Pixels
from celeriac.registry.store import Registry
from celeriac.settings import Settings
from celeriac.settings.nightly import NightlySettings
from producer import nights
from producer.broker import Broker
from producer.client import Client
from tests.integration.s3_server import empty, s3_server
from workers.valkey import free_port

NOW = datetime(2026, 11, 22, 3, tzinfo=UTC)


@pytest.fixture(scope="module")
def endpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """An S3 server of this module."""
    with s3_server(tmp_path_factory.mktemp("s3")) as url:
        yield url


@pytest.fixture
def bucket(endpoint: str) -> S3Path:
    """An empty bucket."""
    empty(endpoint)
    found = place("s3://data")
    assert isinstance(found, S3Path)
    return found


def put(path: S3Path, data: bytes) -> None:
    write_file(path, data)


def shout(table: pa.Table) -> TableAnswers:
    return TableAnswers({"prediction": pc.utf8_upper(table["text"]).combine_chunks()})


def test_objects_have_the_methods_of_files(bucket: S3Path) -> None:
    file = bucket / "a" / "b.txt"
    assert not file.exists()
    with pytest.raises(FileNotFoundError):
        file.read_bytes()
    with pytest.raises(FileNotFoundError):
        file.stat()
    file.unlink(missing_ok=True)
    put(file, b"one")
    assert (file.exists(), file.is_file(), (bucket / "a").is_dir()) == (True, True, True)
    assert (file.name, file.suffix, str(file.parent)) == ("b.txt", ".txt", "s3://data/a")
    assert file.read_bytes() == b"one"
    assert file.stat().st_size == 3
    first = file.etag()
    put(file, b"two")
    assert file.etag() not in (first, "")
    with pytest.raises(FileExistsError):
        create_file(file, b"three")
    create_file(bucket / "a" / "c.txt", b"three")
    assert sorted(str(path) for path in (bucket / "a").iterdir()) == [
        "s3://data/a/b.txt", "s3://data/a/c.txt",
    ]
    file.replace(bucket / "moved.txt")
    assert not file.exists()
    assert sha256_of(bucket / "moved.txt")[:8] == "3fc4ccfe"
    assert [path.name for path in (bucket / "a").glob("c*")] == ["c.txt"]
    assert place(Path("s3://data/a")) == bucket / "a"  # a Path keeps one slash
    with pytest.raises(errors.DatasetError, match="names no bucket"):
        place("s3://")


def test_a_large_object_appears_at_once(bucket: S3Path, tmp_path: Path) -> None:
    data = os.urandom(1 << 20) * 24
    target = bucket / "large"
    (tmp_path / "file").write_bytes(data)
    with (tmp_path / "file").open("rb") as file:
        target.put(file)
    assert target.read_bytes() == data


def test_patterns_match_within_folders(bucket: S3Path) -> None:
    for name in ("in/a-1.csv", "in/a-2.csv", "in/deep/a-3.csv", "in/b-1.csv", "other/a-1.csv"):
        put(S3Path(f"data/{name}"), b"a\n1\n")

    def names(pattern: str) -> list[str]:
        return sorted(str(at.path).removeprefix("s3://data/") for at in match_s3(pattern))

    assert names("s3://data/in/a-*.csv") == ["in/a-1.csv", "in/a-2.csv"]
    assert names("s3://data/in/**/a-?.csv") == ["in/a-1.csv", "in/a-2.csv", "in/deep/a-3.csv"]
    assert names("s3://data/*/a-[!2].csv") == ["in/a-1.csv", "other/a-1.csv"]
    found = open_source("s3://data/in/*.csv")
    assert [str(one.at.path) for one in found.files] == [
        "s3://data/in/a-1.csv", "s3://data/in/a-2.csv", "s3://data/in/b-1.csv",
    ]
    assert open_source("s3://data/in").files == found.files  # a folder, not what is below it


def test_images_in_folders_of_a_prefix_are_found(bucket: S3Path) -> None:
    for name in ("a.png", "b/c/d.png", "b/.e/f.png", "_g/h.png", "b/i.csv"):
        put(bucket / "pictures" / name, b"image")
    found = open_source("s3://data/pictures").files
    assert [one.at.name for one in found] == [
        "s3://data/pictures/a.png", "s3://data/pictures/b/c/d.png",
    ]


CSV = b"id,text\n" + b"".join(b'%d,"t, %d"\n' % (n, n) for n in range(100))


@pytest.mark.parametrize("kind", ["csv", "csv.gz", "parquet", "jsonl"])
def test_a_job_from_s3_to_s3(bucket: S3Path, kind: str) -> None:
    source = bucket / "in" / f"a.{kind}"
    if kind == "parquet":
        sink = pa.BufferOutputStream()
        table = pa.table({"id": range(100), "text": [f"t, {n}" for n in range(100)]})
        pq.write_table(table, sink, row_group_size=30)
        put(source, sink.getvalue().to_pybytes())
    elif kind == "jsonl":
        put(source, b"".join(b'{"id": %d, "text": "t, %d"}\n' % (n, n) for n in range(100)))
    else:
        put(source, gzip.compress(CSV) if kind == "csv.gz" else CSV)
    folder = JobFolder("s3://data/out")
    folder.check_free()
    dataset = plan_dataset(
        open_source(str(source)), chunk_rows=30, copies=Copies(folder.copies)
    )
    scoring = Scoring(model="m", version=1, device="cpu", needs=("text",), keeps=("id",))
    plan = make_plan(dataset, scoring, source=str(source), job_id="one", now=NOW, sample_rows=50)
    assert folder.create(plan, dataset.chunks) == plan
    again = msgspec.structs.replace(plan, job_id="two")
    assert folder.create(again, dataset.chunks).job_id == "one"
    for chunk in folder.chunks(folder.load()):
        run_chunk(folder, plan, chunk, shout)
    manifest = finalize(folder, NOW)
    assert manifest == read_manifest(folder)
    assert (manifest.rows_ok, manifest.state) == (100, "completed")
    result = read_parts([folder.path / part.file for part in manifest.parts], "parquet")
    assert result["id"].to_pylist() == list(range(100))
    assert result["prediction"][7].as_py() == "T, 7"
    left = {str(at.path).removeprefix("s3://data/out/") for at in (bucket / "out").files()}
    assert {name.partition("/")[0] for name in left} == {
        "_SUCCESS", "job.json", "manifest.json", "parts", "plan.jsonl", "report.html", "samples",
    }
    assert manifest.sample == SampleSummary(rows=50, chunks_missing=0)
    folder.report.unlink()
    assert b"100 rows of" in make_report(folder).read_bytes()
    with pytest.raises(errors.OutputConflict, match="holds no job"):
        JobFolder("s3://data/in").check_free()


def job_in_s3(bucket: S3Path) -> tuple[JobFolder, JobPlan, list[Chunk]]:
    """Ten rows in two chunks; row 3 has a field too many."""
    source = bucket / "in.csv"
    put(source, CSV[:CSV.index(b'10,')].replace(b'2,"t, 2"', b'2,"t, 2",x'))
    folder = JobFolder("s3://data/out")
    dataset = plan_dataset(open_source(str(source)), chunk_rows=5)
    scoring = Scoring(model="m", version=1, device="cpu", needs=("text",), keeps=("id",))
    plan = make_plan(dataset, scoring, source=str(source), job_id="one", now=NOW)
    return folder, folder.create(plan, dataset.chunks), list(dataset.chunks)


def whisper(table: pa.Table) -> TableAnswers:
    """Answers that no other run gives."""
    return TableAnswers({"prediction": pc.utf8_lower(table["text"]).combine_chunks()})


def parts_in_s3(folder: JobFolder) -> list[str]:
    return sorted(path.name for path in (folder.path / "parts").iterdir() if path.is_file())


def test_runs_of_a_chunk_in_s3_do_not_meet(bucket: S3Path) -> None:
    folder, plan, chunks = job_in_s3(bucket)
    first = run_chunk(folder, plan, chunks[0], shout, epoch=1)
    assert first.part == f"part-00000-{first.sha256[:16]}.parquet"
    assert (first.rows_ok, first.rows_failed) == (4, 1)
    kept = parts_in_s3(folder)
    folder.record(0).unlink()  # as a kill before the record leaves it
    again = run_chunk(folder, plan, chunks[0], shout, epoch=2)
    assert (again.part, parts_in_s3(folder)) == (first.part, kept)
    folder.record(0).unlink()

    def lost() -> bool:
        run_chunk(folder, plan, chunks[0], shout, epoch=4)
        return False

    with pytest.raises(errors.Cancelled):
        run_chunk(folder, plan, chunks[0], shout, holds_lease=lost, epoch=3)
    found = folder.valid_record(plan, chunks[0])  # the like of what counts was not removed
    assert found is not None
    assert (found.epoch, parts_in_s3(folder)) == (4, kept)


def test_a_run_that_wakes_late_in_s3_spoils_nothing(bucket: S3Path) -> None:
    folder, plan, chunks = job_in_s3(bucket)

    def overtaken() -> bool:  # between the check of the lease and the record
        for chunk in chunks:
            run_chunk(folder, plan, chunk, shout, epoch=8)
        return True

    record = run_chunk(folder, plan, chunks[0], whisper, holds_lease=overtaken, epoch=7)
    assert record.epoch == 8
    manifest = finalize(folder, NOW)
    assert parts_in_s3(folder) == sorted(
        [*(one.file[6:] for one in manifest.parts), "part-00000.json", "part-00001.json"]
    )
    part = folder.path / manifest.parts[0].file
    assert pq.read_table(part.open())["prediction"].to_pylist()[0] == "T, 0"
    # worse: it had looked for a record before there was one, and now puts its own over it
    folder.success.unlink()
    found = folder.record(0).read_bytes()
    folder.record(0).unlink()
    late = run_chunk(folder, plan, chunks[0], whisper, epoch=7)
    assert late.part != record.part
    assert sha256_of(part) == manifest.parts[0].sha256  # what the manifest names is whole
    put(folder.record(0), found)
    again = finalize(folder, NOW)
    assert again == msgspec.structs.replace(manifest, timing=again.timing)
    assert late.part not in parts_in_s3(folder)  # no record names it


def test_errors_of_a_chunk_in_s3_are_in_the_manifest(bucket: S3Path) -> None:
    folder, plan, chunks = job_in_s3(bucket)
    run_chunk(folder, plan, chunks[0], shout)
    manifest = finalize(folder, NOW, [DeadChunk(1, 3, "no luck", "w", 0, dropped=False)])
    assert b"row 3 of in.csv: 3 fields where" in folder.report.read_bytes()
    assert (manifest.rows_ok, manifest.rows_failed, manifest.rows_dead) == (4, 6, 5)
    named = manifest.parts[0].errors
    assert named is not None
    assert json.loads((folder.path / named).read_bytes())["row"] == 3
    folder.drop(1, "no luck")
    assert folder.dropped() == {1: "no luck"}
    folder.reopen([1])
    assert (folder.dropped(), read_manifest(folder)) == ({}, None)
    run_chunk(folder, plan, chunks[1], shout)
    assert finalize(folder, NOW).rows_ok == 9


def test_a_source_that_has_changed_is_refused(bucket: S3Path) -> None:
    source = bucket / "a.csv"
    put(source, CSV)
    dataset = plan_dataset(open_source("s3://data/a.csv"))
    put(source, CSV.replace(b"t, 7", b"u, 7"))
    with pytest.raises(errors.DatasetError, match=r"s3://data/a\.csv: has changed since"):
        read_chunk("csv", dataset.files, dataset.chunks[0], dataset.columns, ["id"])
    source.unlink()
    with pytest.raises(errors.DatasetError, match=r"s3://data/a\.csv: no such file"):
        read_chunk("csv", dataset.files, dataset.chunks[0], dataset.columns, ["id"])


@pytest.mark.parametrize("kind", ["csv", "csv.gz", "parquet"])
def test_small_objects_share_a_chunk(bucket: S3Path, kind: str, tmp_path: Path) -> None:
    for number in range(40):
        ids = [number * 2, number * 2 + 1]
        content = f"id,text\n{ids[0]},a\n{ids[1]},b".encode()
        if kind == "parquet":
            sink = pa.BufferOutputStream()
            pq.write_table(pa.table({"id": ids, "text": ["a", "b"]}), sink)
            content = sink.getvalue().to_pybytes()
        packed = gzip.compress(content) if kind == "csv.gz" else content
        put(bucket / "in" / f"{number:02d}.{kind}", packed)
    dataset = plan_dataset(open_source("s3://data/in"), copies=Copies(tmp_path))
    (chunk,) = dataset.chunks
    assert (len(chunk.pieces), chunk.rows) == (40, 80)
    assert all(file.etag for file in dataset.files)
    what = (dataset.format, dataset.files, chunk, dataset.columns, ["id", "text"])
    assert read_chunk(*what).table["id"].to_pylist() == list(range(80))
    put(bucket / "in" / f"07.{kind}", b"id,text\n")
    with pytest.raises(errors.DatasetError, match=rf"s3://data/in/07\.{kind}: has changed since"):
        read_chunk(*what)


def test_images_in_s3_are_a_listing(bucket: S3Path, tmp_path: Path) -> None:
    for number in range(3):
        put(bucket / "pictures" / f"{number}.png", bytes([number]))
    dataset = plan_dataset(open_source("s3://data/pictures"), copies=Copies(tmp_path))
    rows = read_chunk("images", dataset.files, dataset.chunks[0], dataset.columns,
                      ["path", "image"]).table.to_pylist()
    assert rows == [
        {"path": f"s3://data/pictures/{n}.png", "image": bytes([n])} for n in range(3)
    ]


@pytest.mark.parametrize("name", ["numbers.csv", "numbers.csv.gz"])
def test_a_file_is_read_with_few_requests(
    bucket: S3Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of Arrow's, who unpacks a file, each is of 64 kB."""
    data = os.urandom(3 << 20)
    put(bucket / name, gzip.compress(data, 0) if name.endswith(".gz") else data)
    requests: list[int] = []

    class Counted(io.RawIOBase):
        def __init__(self, path: S3Path, mode: str) -> None:
            self.file = opening(path, mode)

        def readable(self) -> bool:
            return True

        def readinto(self, into: Any) -> int:
            requests.append(len(into))
            return cast("io.RawIOBase", self.file).readinto(into) or 0

    def counted(path: S3Path, mode: str) -> Counted:
        return Counted(path, mode)

    opening = S3Path.open
    monkeypatch.setattr(S3Path, "open", counted)
    with open_stream(bucket / name) as stream:
        assert b"".join(iter(lambda: stream.read(1 << 18), b"")) == data
    assert len(requests) <= 3, requests


@pytest.mark.parametrize(
    ("name", "says"),
    [("s3://nowhere/a.csv", "s3://nowhere/a.csv: no such file"),
     ("s3://data/*.csv", "no file matches"), ("s3://data", "the folder holds no")],
)
def test_what_is_not_there_is_named(bucket: S3Path, name: str, says: str) -> None:
    with pytest.raises(errors.DatasetError, match=says.replace("*", r"\*")):
        open_source(name)


def test_files_in_folders_of_a_prefix_are_taken_by_the_pattern_that_is_named(
    bucket: S3Path,
) -> None:
    for name in ("b/c/d.csv.gz", "b/e.csv.gz", "_f/g.csv.gz"):
        put(bucket / "deep" / name, gzip.compress(b"a\n1\n"))
    pattern = "s3://data/deep/**/*.csv.gz"
    with pytest.raises(errors.DatasetError) as found:
        open_source("s3://data/deep")
    assert f"its folders do: name the pattern {pattern} (in quotes)" in found.value.message
    with pytest.raises(errors.DatasetError) as found:
        open_source("s3://data/d*")
    assert "but folders do: name the pattern s3://data/d*/**/*.csv.gz (in" in found.value.message
    names = [file.at.name for file in open_source(pattern).files]
    assert names == ["s3://data/deep/b/c/d.csv.gz", "s3://data/deep/b/e.csv.gz"]


def test_folders_of_partitions_in_s3_are_columns(bucket: S3Path) -> None:
    for region in ("eu", "us%2Fwest"):
        folder = bucket / "events" / "date=2026-11-24" / f"region={region}"
        put(folder / "part-0.csv", b"a\n1\n")
    put(bucket / "events" / "_SUCCESS", b"")
    dataset = plan_dataset(open_source("s3://data/events"))
    (chunk,) = dataset.chunks
    what = (dataset.format, dataset.files, chunk, dataset.columns, ["a", "date", "region"])
    assert read_chunk(*what).table.to_pylist() == [
        {"a": 1, "date": "2026-11-24", "region": region} for region in ("eu", "us/west")
    ]


def test_an_output_that_cannot_be_written_is_named(endpoint: str) -> None:
    with pytest.raises(errors.StorageError, match="s3://nowhere/out: cannot be written"):
        write_file(S3Path("nowhere/out"), b"x")


def test_a_server_that_is_gone_is_an_error_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{free_port()}")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    with pytest.raises(errors.DatasetError, match=r"s3://data/a\.csv: cannot be read"):
        open_source("s3://data/a.csv")


def png(level: int) -> bytes:
    file = io.BytesIO()
    Image.new("L", (2, 2), level).save(file, "PNG")
    return file.getvalue()


def test_a_night_in_s3(
    bucket: S3Path, settings: Settings, redis_client: redis.Redis
) -> None:
    registry = Registry(settings.models.root)
    draft = ModelDraft(
        format="echo", input=InputSchema(kind="any"), output=OutputSchema(kind="any")
    )
    registry.add("echo", lambda folder: draft)
    publish(redis_client, registry.infos())
    put(bucket / "in" / "2026-11-21.csv", b"text\none\n")
    night = NightlySettings(
        dataset="s3://data/in/{date}.csv", model="echo@1", output="s3://data/out/{date}"
    )
    broker = Broker(settings.model_copy(update={"nightly": {"sales": night}}))
    day = date(2026, 11, 21)
    job_id = nights.begin(broker, "sales", day, 1, owner="a")
    assert nights.begin(broker, "sales", day, 1, owner="b") == job_id
    redis_client.hset(job_key(str(job_id)), "state", "failed")
    assert nights.begin(broker, "sales", day, 2, owner="c") != job_id
    assert [run.attempt for run in nights.runs(broker, "sales", day)] == [1, 2]
    assert (bucket / "out" / "2026-11-21.attempt-2" / "job.json").is_file()
    broker.close()


def test_a_night_in_s3_that_is_gone_is_no_error(
    settings: Settings, redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{free_port()}")
    night = NightlySettings(dataset="s3://gone/{date}", model="echo@1", output="s3://gone/{date}")
    broker = Broker(settings.model_copy(update={"nightly": {"sales": night}}))
    run = nights.newest(broker, "sales", date(2026, 11, 21))
    assert run.state is RunState.UNREADABLE
    broker.close()


def test_real_workers_take_frames_images_and_objects(
    bucket: S3Path, settings: Settings, redis_client: redis.Redis,
    start_worker: Callable[..., Any], tmp_path: Path,
) -> None:
    registry = Registry(settings.models.root)
    grey = InputSchema(kind="image", shape=(2, 2), pixels=Pixels(mode="L", scale=1.0))
    for name, schema in [("echo", InputSchema(kind="any")), ("grey", grey)]:
        draft = ModelDraft(format="echo", input=schema, output=OutputSchema(kind="any"))
        registry.add(name, lambda folder, draft=draft: draft)
    publish(redis_client, registry.infos())
    for level in range(40):
        (tmp_path / "pictures").mkdir(exist_ok=True)
        (tmp_path / "pictures" / f"{level:02}.png").write_bytes(png(level))
    (tmp_path / "pictures" / "07.png").write_bytes(b"no image")
    put(bucket / "in" / "a.csv.gz", gzip.compress(CSV))
    frame = pd.DataFrame({"id": range(300), "kind": ["x", "y", "z"] * 100})
    start_worker("batch.cpu", "-c", "2")
    start_worker("maintenance", "-c", "1")
    with Client(settings=settings) as client:
        jobs = [
            client.submit_dataset(
                frame, "echo@1", "s3://data/frame", chunk_rows=70, merge=True, model_column=True,
                aggregate={"by": "kind", "mean": "id"}, output_format="csv",
            ),
            client.submit_dataset(
                tmp_path / "pictures", "grey@1", tmp_path / "grey", error_column=True,
                output_format="jsonl", chunk_rows=16,
            ),
            client.submit_dataset("s3://data/in/*.gz", "echo@1", "s3://data/objects"),
        ]
        ended = [job.wait(60) for job in jobs]
        assert [(one.state, one.rows_done, one.rows_failed) for one in ended] == [
            ("completed", 300, 0), ("completed_with_errors", 40, 1), ("completed", 100, 0),
        ]
        assert ended[0].source == "a frame of 300 rows"
        table = jobs[0].results()
        assert table["id"].to_pylist() == list(range(300))
        assert set(table["model"].to_pylist()) == {"echo@1"}
        merged = (bucket / "frame" / "predictions.csv").read_bytes()
        assert merged.count(b"\n") == 301
        groups = pq.read_table((bucket / "frame" / "aggregates.parquet").open()).to_pylist()
        assert groups[0] == {"kind": "x", "count": 100, "id_mean": 148.5}
        rows = jobs[1].results().to_pylist()
        assert [row["path"][-6:] for row in rows] == [f"{level:02}.png" for level in range(40)]
        assert decode_item(json.loads(rows[3]["prediction"])).tolist() == [[3.0, 3.0]] * 2
        assert rows[7]["prediction"] is None
        assert rows[7]["error"].startswith("item_invalid: the model takes an image")
        assert jobs[2].results()["id"].to_pylist() == list(range(100))
        with pytest.raises(errors.OutputConflict):
            client.submit_dataset(frame, "echo@1", "s3://data/objects")
        assert not list((bucket / "objects" / "input").files())
