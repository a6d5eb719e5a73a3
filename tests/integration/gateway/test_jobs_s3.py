"""Jobs over HTTP whose datasets and results are in S3 (moto's server), on real workers."""

from __future__ import annotations

import csv
import hashlib
import io
from collections.abc import Iterator

import pytest

from celeriac.datasets.files import write_file
from celeriac.datasets.places import place
from celeriac.settings import Settings
from tests.conftest import Worker
from tests.integration.gateway.jobs_stack import JobsStack, jobs_stack
from tests.integration.s3_server import empty, s3_server

pytestmark = pytest.mark.uncounted
ROWS = 40


@pytest.fixture(scope="module")
def stack(
    gateway_settings: Settings, gateway_worker: Worker, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[JobsStack]:
    folder = tmp_path_factory.mktemp("jobs-s3")
    with s3_server(folder) as url:
        empty(url)
        lines = [f"{n},{'good fine coffee' if n % 2 else 'bad stale coffee'}" for n in range(ROWS)]
        for tenant in ("shop", "bank"):
            data = "\n".join(["id,text", *lines]).encode()
            write_file(place(f"s3://data/in/{tenant}/reviews.csv"), data)
        with jobs_stack(
            gateway_settings, folder, dataset_roots=("s3://data/in/{tenant}",),
            output_roots=("s3://data/out/{tenant}",),
        ) as stack:
            yield stack


def test_submitted_followed_and_fetched(stack: JobsStack) -> None:
    job = stack.submit(
        "one", id_column="id", output_format="csv", merge=True, chunk_rows=10, keep_columns=["id"]
    )
    assert (job["source"], job["output"]) == ("reviews.csv", "one")
    events = stack.told(job["id"])
    name, _, last = events[-1]
    assert (name, last["status"]) == ("end", "completed"), last
    assert last["request_counts"] == {"total": ROWS, "completed": ROWS, "failed": 0}
    assert last["chunks"]["done"] == 4
    assert place("s3://data/out/shop/one/_SUCCESS").exists()

    listed = stack.ask("GET", f"/v1/jobs/{job['id']}/results").json["data"]
    assert [one["kind"] for one in listed] == ["part"] * 4 + ["merged", "report", "manifest"]
    for one in listed:
        answer = stack.ask("GET", f"/v1/jobs/{job['id']}/results/{one['name']}")
        head = stack.ask("HEAD", f"/v1/jobs/{job['id']}/results/{one['name']}")
        assert (head.status, head.headers["content-length"]) == (200, str(one["bytes"]))
        assert (answer.status, len(answer.body)) == (200, one["bytes"]), one
        if "sha256" in one:
            assert hashlib.sha256(answer.body).hexdigest() == one["sha256"]
        if one["kind"] == "merged":
            rows = list(csv.DictReader(io.StringIO(answer.body.decode())))
    assert [int(row["id"]) for row in rows] == list(range(ROWS))
    assert {row["prediction"] for row in rows} == {"positive", "negative"}
    missing = stack.ask("GET", f"/v1/jobs/{job['id']}/results/job.json")
    assert missing.status == 404  # it is there, but no result


def test_the_whole_address_names_the_same_and_another_tenants_is_refused(stack: JobsStack) -> None:
    job = stack.submit("s3://data/out/shop/two", source="s3://data/in/shop/*.csv")
    assert stack.finished(job["id"])["status"] == "completed"
    for change in (
        {"source": "s3://data/in/bank/reviews.csv"}, {"output": "s3://data/out/bank/x"},
        {"source": "s3://data/in/shop-2/reviews.csv"}, {"source": "s3://other/in/shop/reviews.csv"},
        {"source": "s3://data/in/shop/../bank/reviews.csv"}, {"output": "s3://data/out/shop"},
        {"source": "/etc/passwd"}, {"source": "s3://data/in/*/reviews.csv"},
    ):
        wanted = {"source": "reviews.csv", "model": "reviews", "output": "three"} | change
        answer = stack.ask("POST", "/v1/jobs", wanted)
        assert (answer.status, answer.json["error"]["code"]) == (403, "forbidden"), change
        assert b"bank" not in answer.body
    assert stack.ask("GET", f"/v1/jobs/{job['id']}/results", key="bank").status == 404


def test_a_dataset_that_is_not_there_fails_its_job(stack: JobsStack) -> None:
    job = stack.submit("four", source="absent.csv")
    ended = stack.finished(job["id"])
    assert ended["status"] == "failed"
    assert ended["error"]["message"]
    assert "s3://data/in/shop/" not in ended["error"]["message"]
    answer = stack.ask("GET", f"/v1/jobs/{job['id']}/results")
    assert (answer.status, answer.json["error"]["code"]) == (409, "conflict")
