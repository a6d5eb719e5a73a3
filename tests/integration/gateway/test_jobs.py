"""Jobs over HTTP, from the request to the last byte of the results, on real workers."""

from __future__ import annotations

import csv
import gzip
import hashlib
import inspect
import io
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from celeriac.keys import job_key, job_part_key
from celeriac.messages import batch_queue
from celeriac.settings import Settings
from producer import reconciler
from producer.client import Client
from producer.gateway import progress
from producer.gateway.jobs import JobRequest
from tests.conftest import ROOT, Worker
from tests.integration.gateway.conftest import Http, RunningGateway
from tests.integration.gateway.jobs_stack import (
    FINAL,
    KEYS,
    Events,
    JobsStack,
    jobs_stack,
    settings_of,
)
from tests.waiting import wait_until
from workers.child_settings import environment
from workers.valkey import free_port


@pytest.fixture(scope="module")
def stack(
    gateway_settings: Settings, gateway_worker: Worker, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[JobsStack]:
    folder = tmp_path_factory.mktemp("jobs")
    with jobs_stack(gateway_settings, folder) as stack:
        stack.rows("reviews.csv", 40)
        yield stack


# --- a whole life ---------------------------------------------------------------------------------


def test_the_whole_life_of_a_job(stack: JobsStack) -> None:
    job = stack.submit(
        "whole", id_column="id", output_format="csv", merge=True, chunk_rows=10,
        aggregate={"by": "prediction", "mean": "probability"},
    )
    assert (job["object"], job["model"], job["version"]) == ("batch", "reviews", 1)
    assert (job["source"], job["output"], job["id_column"]) == ("reviews.csv", "whole", "id")
    seen = stack.told(job["id"])
    assert [name for name, _, _ in seen[:-1]] == ["status"] * (len(seen) - 1)
    name, last_id, last = seen[-1]
    assert (name, last["status"]) == ("end", "completed")
    again = stack.ask("GET", f"/v1/jobs/{job['id']}/events", Last_Event_ID=last_id)
    assert (again.status, again.body) == (204, b"")  # a browser's EventSource stops at that
    with Events(stack, job["id"], last_id=seen[0][1]) as stream:
        assert [event[0] for event in stream] == ["end"]
    assert last["request_counts"] == {"total": 40, "completed": 40, "failed": 0}
    assert last["chunks"]["done"] == 4
    done = stack.job(job["id"])
    assert done == last
    assert done["created_at"] <= done["in_progress_at"] <= done["completed_at"]
    assert done["rows_per_s"] > 0

    listed = stack.ask("GET", f"/v1/jobs/{job['id']}/results").json["data"]
    kinds = [one["kind"] for one in listed]
    assert kinds == ["part"] * 4 + ["merged"] + ["aggregates"] * 2 + ["report", "manifest"]
    for one in listed:
        answer = stack.ask("GET", f"/v1/jobs/{job['id']}/results/{one['name']}")
        assert (answer.status, len(answer.body)) == (200, one["bytes"]), one
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert str(stack.folder).encode() not in answer.body
        assert f">{socket.gethostname()}:".encode() not in answer.body
        head = stack.ask("HEAD", f"/v1/jobs/{job['id']}/results/{one['name']}")
        assert (head.status, head.headers["content-length"]) == (200, str(one["bytes"])), one
        if "sha256" in one:
            assert hashlib.sha256(answer.body).hexdigest() == one["sha256"]
            assert answer.headers["etag"] == f'"{one["sha256"]}"'
    merged = next(one for one in listed if one["kind"] == "merged")
    path = f"/v1/jobs/{job['id']}/results/{merged['name']}"
    rows = list(csv.DictReader(io.StringIO(stack.ask("GET", path).body.decode())))
    assert [int(row["id"]) for row in rows] == list(range(40))
    assert {row["prediction"] for row in rows} == {"positive", "negative"}
    part = stack.ask("GET", path, Range="bytes=0-9")
    assert (part.status, len(part.body)) == (206, 10)
    beyond = stack.ask("GET", path, Range="bytes=99999999-")
    assert (beyond.status, beyond.json["error"]["code"]) == (416, "range_not_satisfiable")
    assert beyond.headers["content-range"] == f"bytes */{merged['bytes']}"
    for wrong in ("bytes=abc", "rows=0-1", "bytes=5-2", "bytes=", f"bytes={'9' * 5_000}-"):
        answer = stack.ask("GET", path, Range=wrong)
        assert (answer.status, answer.json["error"]["field"]) == (400, "Range"), wrong


def test_only_what_the_manifest_names_leaves(stack: JobsStack) -> None:
    job = stack.submit("named")
    assert stack.ask("GET", f"/v1/jobs/{job['id']}/results").status in (200, 409)
    stack.finished(job["id"])
    (stack.folder / "out/shop/named/secret.txt").write_text("no")
    for name in ("secret.txt", "job.json", "plan.jsonl", "parts/part-00000.json", "../named/x",
                 "parts/..%2f..%2fsecret.txt", "%2fetc%2fpasswd", "parts", ""):
        answer = stack.ask("GET", f"/v1/jobs/{job['id']}/results/{name}")
        assert (answer.status, answer.json["error"]["code"]) == (404, "not_found"), name
    for name in ("parts/part-00000.parquet", "report.html"):
        (stack.folder / "out/shop/named" / name).unlink()
        answer = stack.ask("GET", f"/v1/jobs/{job['id']}/results/{name}")
        assert (answer.status, answer.json["error"]["code"]) == (409, "conflict"), name
        assert answer.json["error"]["message"].startswith(f"{name} of job {job['id']} is gone")
    assert stack.ask("GET", f"/v1/jobs/{job['id']}/results").status == 409
    shutil.rmtree(stack.folder / "out/shop/named")
    gone = stack.ask("GET", f"/v1/jobs/{job['id']}/results")
    assert (gone.status, gone.json["error"]["code"]) == (409, "conflict")
    assert "its output folder was deleted or moved" in gone.json["error"]["message"]


def test_a_job_without_results_says_so(stack: JobsStack) -> None:
    with stack.nobody_plans():
        job = stack.submit("not-yet")
        answer = stack.ask("GET", f"/v1/jobs/{job['id']}/results")
        assert (answer.status, answer.json["error"]["code"]) == (409, "conflict")
        assert "not-yet" not in answer.json["error"]["message"]
    stack.finished(job["id"])


def test_cancel_and_resume(stack: JobsStack) -> None:
    stack.rows("many.csv", 3_000)
    job = stack.submit("stopped", source="many.csv", chunk_rows=10)
    with Events(stack, job["id"]) as stream:
        next(now for _, _, now in stream if now["chunks"]["done"])
    cancelled = stack.ask("POST", f"/v1/jobs/{job['id']}/cancel")
    assert cancelled.json["status"] in ("cancelling", "cancelled")
    ended = stack.finished(job["id"])
    assert ended["status"] == "cancelled"
    assert ended["cancelled_at"] is not None
    assert 0 < ended["request_counts"]["completed"] < 3_000
    again = stack.ask("POST", f"/v1/jobs/{job['id']}/resume")
    assert again.status == 202
    assert again.json["status"] in ("validating", "in_progress")
    assert stack.finished(job["id"], 110)["status"] == "completed"
    rows = sum(
        one.get("rows", 0) for one in
        stack.ask("GET", f"/v1/jobs/{job['id']}/results").json["data"]
    )
    assert rows == 3_000
    for path in ("cancel", "resume"):  # it has ended, and stays so
        assert stack.ask("POST", f"/v1/jobs/{job['id']}/{path}").json["status"] == "completed"


# --- planning -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"source": "absent.csv"}, "absent.csv: no such file"),
        ({"source": "*.nothing"}, "no file matches the pattern"),
        ({"text_column": "prose"}, "prose"),
        ({"id_column": "key"}, "no column 'key'"),
        ({"keep_columns": ["price"]}, "no column price to keep"),
    ],
)
def test_what_is_wrong_with_the_dataset_is_in_the_job(
    stack: JobsStack, fields: dict[str, Any], says: str
) -> None:
    job = stack.submit(f"wrong-{next(iter(fields))}-{len(str(fields))}", **fields)
    assert job["status"] in ("validating", "failed")  # a worker may have looked already
    ended = stack.finished(job["id"])
    assert (ended["status"], ended["error"]["code"]) == ("failed", "job_failed")
    assert says in ended["error"]["message"]
    assert str(stack.folder) not in ended["error"]["message"]
    assert [name for name, _, _ in stack.told(job["id"])] == ["end"]


def test_a_job_that_failed_is_planned_again_once_its_dataset_is_mended(stack: JobsStack) -> None:
    job = stack.submit("mended", source="late.csv")
    assert stack.finished(job["id"])["status"] == "failed"
    stack.rows("late.csv", 30)
    assert stack.ask("POST", f"/v1/jobs/{job['id']}/resume").json["error"] is None
    assert stack.finished(job["id"])["request_counts"]["completed"] == 30


def test_a_folder_with_another_job_is_refused(stack: JobsStack) -> None:
    first = stack.submit("taken")
    assert stack.finished(first["id"])["status"] == "completed"
    ended = stack.finished(stack.submit("taken")["id"])
    assert ended["status"] == "failed"
    assert "taken: holds another job" in ended["error"]["message"]
    assert stack.job(first["id"])["status"] == "completed"


def test_a_job_is_cancelled_while_it_waits_for_its_plan(stack: JobsStack) -> None:
    with stack.nobody_plans():
        job = stack.submit("never")
        cancelled = stack.ask("POST", f"/v1/jobs/{job['id']}/cancel").json
        assert cancelled["status"] == "cancelled"
    time.sleep(0.5)
    assert stack.job(job["id"])["status"] == "cancelled"
    stack.ask("POST", f"/v1/jobs/{job['id']}/resume")
    assert stack.finished(job["id"])["status"] == "completed"


def test_an_order_is_planned_before_the_chunks_of_others_that_wait(stack: JobsStack) -> None:
    stack.rows("long.csv", 20_000)
    long = stack.submit("long", source="long.csv", chunk_rows=10)["id"]
    deadline = time.monotonic() + 60
    while not stack.job(long)["chunks"]["done"]:  # the only batch process is busy with it
        assert time.monotonic() < deadline
        time.sleep(0.02)
    short = stack.submit("short")["id"]
    while stack.job(short)["status"] == "validating":
        assert time.monotonic() < deadline
        time.sleep(0.02)
    busy = stack.job(long)
    assert (busy["status"], busy["chunks"]["done"] < 1_900) == ("in_progress", True)
    stack.ask("POST", f"/v1/jobs/{long}/cancel")
    assert stack.finished(short)["status"] == "completed"
    assert stack.finished(long)["status"] == "cancelled"


def test_a_lost_order_is_sent_again(stack: JobsStack) -> None:
    stack.all_ended()  # only this one is lost
    with stack.nobody_plans():
        job = stack.submit("lost")
        queue = batch_queue("cpu")
        reconciler.reconcile(stack.broker, stack.ledger, queued_s=0)
        # The worker that stands still may have been given the first message by Redis; one waits.
        assert reconciler.reconcile(stack.broker, stack.ledger, queued_s=0) == {}
        stack.broker.redis.delete(queue, f"unacked.{queue}")
        sent = reconciler.reconcile(stack.broker, stack.ledger, queued_s=0)
    assert sent == {"plans": 1}
    assert stack.finished(job["id"])["status"] == "completed"


def test_a_gateway_that_is_killed_loses_no_job(
    stack: JobsStack, gateway_settings: Settings, tmp_path: Path
) -> None:
    chosen = settings_of(gateway_settings, stack.folder, keys={}, port=free_port())
    variables = environment(chosen) | {
        f"CELERIAC_GATEWAY_{name.upper()}": f"{stack.folder}/{folder}"
        for name, folder in (("dataset_roots", "in/shop"), ("output_roots", "out/shop"))
    }
    log = (tmp_path / "gateway.log").open("wb")
    process = subprocess.Popen(
        [sys.executable, "-c", "from producer.cli.main import main; main()", "gateway"], cwd=ROOT,
        env=os.environ | variables | {"CELERIAC_GATEWAY_ADMIN_PORT": str(free_port())},
        stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT,
    )
    try:
        http = Http(chosen.gateway.port)
        said = (tmp_path / "gateway.log").read_text
        _await(lambda: http.get("/health/ready").status == 200, said)
        with stack.nobody_plans():
            job = http.post("/v1/jobs", {
                "source": "reviews.csv", "model": "reviews", "output": "orphan"
            }).json
            process.send_signal(signal.SIGKILL)
            process.wait(10)
    finally:
        process.kill()
        process.wait(10)
        log.close()
    assert job["status"] == "validating"
    _await((stack.folder / "out/shop/orphan/_SUCCESS").exists, stack.batch.log.read_text)
    assert stack.ledger.page("default", 100)[0][0].job_id == job["id"]  # type: ignore[index]
    assert stack.ask("GET", f"/v1/jobs/{job['id']}").status == 404  # another tenant's


@pytest.mark.slow
@pytest.mark.timeout(300)  # the planner gives way, and a busy machine leaves it little
def test_a_planner_that_is_killed_is_replaced(stack: JobsStack) -> None:
    path = stack.folder / "in/shop/large.csv.gz"
    noise = os.urandom(1 << 16).hex()
    with gzip.open(path, "wt", compresslevel=1) as file:
        file.write("id,text\n")
        file.writelines(f"{n},{noise[n % 99_991 :][:400]}\n" for n in range(200_000))
    job = stack.submit("replaced", source="large.csv.gz", model="echo", text_column="text")
    key = job_key(job["id"])
    deadline = time.monotonic() + 120
    while stack.broker.redis.hget(key, "plan_attempts") != b"1":
        assert time.monotonic() < deadline, stack.batch.log.read_text()[-2_000:]
        time.sleep(0.01)  # or this test has the core that the planner waits for
    os.kill(_child_of(stack.batch.process.pid), signal.SIGKILL)
    assert stack.job(job["id"])["status"] == "validating"
    ended = stack.finished(job["id"], 150)
    assert (ended["status"], ended["request_counts"]["total"]) == ("completed", 200_000)
    assert "WorkerLostError" in stack.batch.log.read_text()


def _child_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/task/{pid}/children").read_text().split()[0])


def _await(is_so: Callable[[], bool], log: Callable[[], str]) -> None:
    deadline = time.monotonic() + 40
    while True:
        try:
            if is_so():
                return
        except OSError:
            pass
        assert time.monotonic() < deadline, log()[-3_000:]
        time.sleep(0.1)


# --- requests -------------------------------------------------------------------------------------


def test_the_options_are_those_of_the_client() -> None:
    mine = set(JobRequest.__struct_fields__)
    theirs = set(inspect.signature(Client.submit_dataset).parameters)
    assert mine == theirs - {"self", "job_id", "on_progress", "planned_by"}


@pytest.mark.parametrize(
    ("fields", "status", "code", "field"),
    [
        ({"model": "absent"}, 404, "model_not_found", None),
        ({"model": "reviews@9"}, 404, "version_not_found", None),
        ({"chunk_rows": 0}, 400, "request_invalid", "chunk_rows"),
        ({"output_format": "xlsx"}, 400, "request_invalid", "output_format"),
        ({"max_error_share": 2}, 400, "request_invalid", "max_error_share"),
        ({"expires_s": -1}, 400, "request_invalid", "expires_s"),
        ({"colour": "red"}, 400, "request_invalid", "colour"),
        ({"aggregate": {"sum": "id"}}, 400, "request_invalid", None),
        ({"source": 5}, 400, "request_invalid", "source"),
        ({"keep_columns": ["c" * 1_000] * 200}, 413, "payload_too_large", None),
    ],
)
def test_a_request_that_is_wrong_is_refused_at_once(
    stack: JobsStack, fields: dict[str, Any], status: int, code: str, field: str | None
) -> None:
    wanted = {"source": "reviews.csv", "model": "reviews", "output": "none", **fields}
    answer = stack.ask("POST", "/v1/jobs", wanted)
    error = answer.json["error"]
    assert (answer.status, error["code"]) == (status, code), error
    assert error.get("field") == field
    assert field is None or field in error["message"]
    assert not (stack.folder / "out/shop/none").exists()


def test_the_same_idempotency_key_is_the_same_job(stack: JobsStack) -> None:
    fields = {"source": "reviews.csv", "model": "reviews", "output": "once"}
    first = stack.ask("POST", "/v1/jobs", fields, Idempotency_Key="night 7")
    again = stack.ask("POST", "/v1/jobs", fields, Idempotency_Key="night 7")
    assert (first.status, again.status) == (202, 200)
    assert first.json["id"] == again.json["id"]
    other = stack.ask("POST", "/v1/jobs", fields | {"output": "twice"}, Idempotency_Key="night 7")
    assert (other.status, other.json["error"]["code"]) == (409, "conflict")
    stack.rows("reviews.csv", 20, tenant="bank")
    bank = stack.ask("POST", "/v1/jobs", fields, key="bank", Idempotency_Key="night 7")
    assert (bank.status, bank.json["id"] == first.json["id"]) == (202, False)
    assert stack.finished(first.json["id"])["status"] == "completed"
    bad = stack.ask("POST", "/v1/jobs", fields, Idempotency_Key="x" * 300)
    assert bad.status == 400


def test_a_tenant_sees_its_own_jobs_only(stack: JobsStack) -> None:
    stack.rows("reviews.csv", 20, tenant="bank")
    job = stack.submit("private", key="bank")
    paths = [("GET", ""), ("POST", "/cancel"), ("POST", "/resume"), ("GET", "/results"),
             ("GET", "/results/manifest.json"), ("GET", "/events")]
    for method, path in paths:
        answer = stack.ask(method, f"/v1/jobs/{job['id']}{path}")
        assert (answer.status, answer.json["error"]["code"]) == (404, "job_not_found"), path
    listed = stack.ask("GET", "/v1/jobs", key="bank").json
    assert listed["data"][0]["id"] == job["id"]
    ours = stack.ask("GET", "/v1/jobs?limit=100").json["data"]
    assert job["id"] not in [one["id"] for one in ours]
    assert stack.ask("GET", "/v1/jobs", key="reader").status == 403


def test_pages(stack: JobsStack) -> None:
    ids = [stack.submit(f"page-{n}", source="absent.csv")["id"] for n in range(3)][::-1]
    first = stack.ask("GET", "/v1/jobs?limit=2").json
    assert [one["id"] for one in first["data"]] == ids[:2]
    assert (first["has_more"], first["first_id"], first["last_id"]) == (True, ids[0], ids[1])
    second = stack.ask("GET", f"/v1/jobs?limit=2&after={first['last_id']}").json
    assert second["data"][0]["id"] == ids[2]
    for query, field in (("after=absent", "after"), ("limit=0", "limit"), ("limit=x", "limit")):
        answer = stack.ask("GET", f"/v1/jobs?{query}")
        assert (answer.status, answer.json["error"]["field"]) == (400, field)


@pytest.mark.parametrize("job_id", [
    "absent", "a%2Fb", "x" * 300, "%00", "*", "%E2%82%AC", "{id}:queued", "{id}:done", "{id}%0A",
])  # fmt: skip
def test_an_unknown_job_is_not_found(stack: JobsStack, job_id: str) -> None:
    with stack.nobody_plans():
        known = stack.submit(f"known-{os.urandom(4).hex()}")["id"]
        stack.broker.redis.sadd(job_part_key(known, "done"), 0)  # keys whose names begin like it
        stack.broker.redis.zadd(job_part_key(known, "queued"), {"1": 1})
        for method, end in (("GET", ""), ("POST", "/cancel"), ("GET", "/events")):
            answer = stack.ask(method, f"/v1/jobs/{job_id.replace('{id}', known)}{end}")
            assert (answer.status, answer.json["error"]["code"]) in (
                (404, "job_not_found"), (404, "not_found"),
            )
        stack.ask("POST", f"/v1/jobs/{known}/cancel")


# --- paths ----------------------------------------------------------------------------------------


def test_paths_that_lead_elsewhere_are_refused_and_tell_nothing(stack: JobsStack) -> None:
    inside = stack.folder / "in/shop"
    (inside / "away").symlink_to("/etc")
    (inside / "passwd.csv").symlink_to("/etc/passwd")
    (inside / "dangling.csv").symlink_to("/etc/absent")
    said = set()
    for source in (
        "/etc/passwd", "/etc/absent", "../bank/reviews.csv", f"{inside}/../bank/reviews.csv",
        "away/passwd", "away/absent", "passwd.csv", "dangling.csv", "away/*.conf",
        "s3://bucket/reviews.csv", "s3:/bucket/x.csv", "s3://", "/", str(stack.folder), "a\u0000b",
        "~root/x.csv/../../..", f"{inside}/../*.csv", "http://127.0.0.1/x.csv/../..",
    ):
        answer = stack.ask(
            "POST", "/v1/jobs", {"source": source, "model": "reviews", "output": "away"}
        )
        error = answer.json["error"]
        assert (answer.status, error["code"]) == (403, "forbidden"), source
        assert error["field"] == "source"
        said.add(error["message"])
    assert len(said) == 1
    for output in ("/tmp/celeriac-away", "../bank/x", ".", "", str(stack.folder / "out/shop")):
        answer = stack.ask(
            "POST", "/v1/jobs", {"source": "reviews.csv", "model": "reviews", "output": output}
        )
        assert answer.json["error"]["field"] == "output", answer.json


@pytest.mark.parametrize("source", ["linked", "linked/*.csv", "*/*.csv", "linked/*"])
def test_links_in_folders_and_patterns_are_found_by_the_planner(
    stack: JobsStack, source: str
) -> None:
    folder = stack.folder / "in/shop/linked"
    folder.mkdir(exist_ok=True)
    outside = stack.folder / "in/bank/reviews.csv"
    stack.rows("reviews.csv", 5, tenant="bank")
    if not (folder / "b.csv").is_symlink():
        (folder / "b.csv").symlink_to(outside)
    name = f"linked-{source}".replace("/", "-").replace("*", "all")
    ended = stack.finished(stack.submit(name, source=source)["id"])
    assert ended["status"] == "failed"
    assert "b.csv: leads out of the folders" in ended["error"]["message"]


def test_without_folders_there_are_no_jobs(
    start_gateway: Callable[..., RunningGateway]
) -> None:
    http = start_gateway().http
    answer = http.post("/v1/jobs", {"source": "a.csv", "model": "reviews", "output": "b"})
    assert answer.status == 403
    assert "[gateway] dataset_roots" in answer.json["error"]["message"]


# --- events ---------------------------------------------------------------------------------------


def test_streams_begin_with_the_state_and_end_with_their_callers(
    stack: JobsStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "HEARTBEAT_S", 0.2)
    shared = stack.gateway.gateway.progress
    with stack.nobody_plans():
        job = stack.submit("watched")
        streams = [Events(stack, job["id"]) for _ in range(3)]
        first = [next(iter(stream)) for stream in streams]
        assert first[0] == first[1] == first[2]
        assert first[0][0] == "status"
        assert (shared.streams, len(shared._watched)) == (3, 1)
        again = Events(stack, job["id"], last_id=first[0][1])
        assert again.answer.readline() == b"retry: 1000\n"
        assert again.answer.readline() == b": nothing new\n"  # it knew the state
        head = stack.ask("HEAD", f"/v1/jobs/{job['id']}/events")  # ends by itself
        assert head.headers["content-type"].startswith("text/event-stream")
        wait_until(lambda: shared.streams == 4)
        for stream in (*streams[:2], again):
            stream.close()
        wait_until(lambda: shared.streams == 1)
    names = [name for name, _, _ in streams[2]]
    streams[2].close()
    assert names[-1] == "end"
    wait_until(lambda: not (shared.streams or shared._watched or shared._task))


def test_the_number_of_streams_is_bounded_and_a_drain_ends_them(
    stack: JobsStack, gateway_settings: Settings
) -> None:
    small = RunningGateway(settings_of(gateway_settings, stack.folder, max_event_streams=1)).start()
    other = JobsStack(small, stack.batch, stack.folder)
    try:
        with stack.nobody_plans():
            job = stack.submit("bounded")
            stream = Events(other, job["id"])
            next(iter(stream))
            refused = other.ask("GET", f"/v1/jobs/{job['id']}/events")
            assert (refused.status, refused.json["error"]["code"]) == (503, "gateway_busy")
            assert "retry-after" in refused.headers
            small.gateway.is_draining = True
            assert list(stream) == []
            stream.close()
    finally:
        small.stop()
        other.broker.close()
    assert stack.finished(job["id"])["status"] == "completed"


def test_a_stream_outlives_the_time_of_a_request(stack: JobsStack) -> None:
    with stack.nobody_plans():
        job = stack.submit("patient")
        stream = Events(stack, job["id"])
        next(iter(stream))
        time.sleep(stack.gateway.settings.gateway.timeout_s + 0.5)
    assert [name for name, _, _ in stream][-1] == "end"
    stream.close()
    assert stack.finished(job["id"])["status"] in FINAL


# --- models ---------------------------------------------------------------------------------------


def test_models_are_listed_and_shown(stack: JobsStack) -> None:
    listed = stack.ask("GET", "/v1/models", key="reader").json["models"]
    assert [one["name"] for one in listed] == sorted(one["name"] for one in listed)
    shown = stack.ask("GET", "/v1/models/reviews", key="reader").json
    assert shown in listed
    version = shown["versions"][-1]
    assert (version["version"], version["device"]) == (1, "cpu")
    assert version["serving"]["cache"] is True
    assert version["output"]["labels"] == ["negative", "positive"]
    assert str(stack.gateway.settings.models.root) not in str(listed)
    absent = stack.ask("GET", "/v1/models/absent", key="reader")
    assert (absent.status, absent.json["error"]["code"]) == (404, "model_not_found")


def test_promote_and_roll_back(stack: JobsStack, gateway_registry: Any) -> None:
    admin = stack.gateway.admin
    operator = {"X_API_Key": KEYS["operator"]}
    path = "/v1/models/table/promote"
    assert admin.post(path, {"version": 1}, X_API_Key=KEYS["shop"]).status == 403
    assert stack.ask("POST", path, {"version": 1}).status == 404  # not on the public port
    absent = admin.post(path, {"version": 7}, **operator)
    assert (absent.status, absent.json["error"]["code"]) == (404, "version_not_found")
    wrong = admin.post(path, {"version": "x"}, **operator)
    assert (wrong.status, wrong.json["error"]["field"]) == (400, "version")
    second = gateway_registry.add("table", _copy_of(gateway_registry, "table"))
    done = admin.post(path, {"version": second.version, "why": "better"}, **operator)
    assert done.status == 200, done.body
    event = gateway_registry.aliases("table").history()[-1]
    assert (event.who, event.why) == ("operator (key)", "better")
    _await(
        lambda: stack.ask("GET", "/v1/models/table").json["champion"] == second.version, lambda: ""
    )
    _await(
        lambda: {one["version"] for one in _workers_of(stack)} == {second.version},
        lambda: str(_workers_of(stack)),
    )
    back = admin.post("/v1/models/table/rollback", {"why": "worse"}, **operator)
    assert back.status == 200, back.body
    refused = admin.post("/v1/models/table/rollback", **operator)
    assert (refused.status, refused.json["error"]["code"]) == (409, "promotion_refused")


def _workers_of(stack: JobsStack) -> list[dict[str, Any]]:
    found = stack.gateway.admin.get("/v1/models/table/workers", X_API_Key=KEYS["operator"])
    assert found.status == 200, found.body
    workers: list[dict[str, Any]] = found.json["workers"]
    assert all(set(one) == {"hostname", "role", "version", "kept_back"} for one in workers)
    return workers


def _copy_of(registry: Any, name: str) -> Callable[[Path], Any]:
    """What adds version 1 of a model once more."""
    from shutil import copy

    from celeriac.registry.manifest import ModelDraft

    first = registry.get(name, 1)
    fields = set(ModelDraft.model_fields)

    def make(folder: Path) -> ModelDraft:
        for file in first.files:
            copy(registry.folder(name, 1) / file.path, folder / file.path)
        return ModelDraft(**{field: getattr(first, field) for field in fields})

    return make


# --- docs/http.md ---------------------------------------------------------------------------------

PAGE = (ROOT / "docs" / "http.md").read_text()
SHOWN = re.findall(r"^```bash\n(.*?)^```\n(?:\n```json\n(.*?)^```)?", PAGE, re.M | re.S)


def test_the_page_runs_from_top_to_bottom(
    stack: JobsStack, gateway_settings: Settings, tmp_path: Path
) -> None:
    (tmp_path / "in").mkdir()
    stack.rows("reviews.csv", 40)
    (tmp_path / "in/reviews.csv").write_bytes((stack.folder / "in/shop/reviews.csv").read_bytes())
    gateway = RunningGateway(settings_of(
        gateway_settings, tmp_path, keys={}, dataset_roots=(str(tmp_path / "in"),),
        output_roots=(str(tmp_path / "out"),),
    )).start()
    try:
        script = "\necho; echo =====\n".join(code for code, _ in SHOWN)
        script = script.replace(":8000", f":{gateway.port}")
        script = script.replace(":8001", f":{gateway.admin.port}")
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", script], cwd=tmp_path, capture_output=True,
            text=True, timeout=100, check=False,
        )
    finally:
        gateway.stop()
    assert done.returncode == 0, done.stderr
    said = done.stdout.split("=====\n")
    assert len(said) == len(SHOWN) == 8
    for (_, shown), found in zip(SHOWN, said, strict=True):
        if shown:
            assert json.loads(found).keys() == json.loads(shown).keys(), found
    progress, results, after = said[-3:]
    assert progress.startswith("retry: 1000\nid: ")
    assert '"status":"completed"' in progress.partition("event: end\n")[2]
    assert '"name":"predictions.csv","kind":"merged"' in results
    assert '0,"good fine great coffee","positive",0.' in results
    assert after.count('"status":"completed"') == 2
