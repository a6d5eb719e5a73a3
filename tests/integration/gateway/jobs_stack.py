"""A gateway with keys and folders, over real batch and maintenance workers."""

from __future__ import annotations

import csv
import http.client
import json
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from celeriac.jobs.ledger import Ledger
from celeriac.settings import KeySettings, Settings
from producer import reconciler
from producer.broker import Broker
from producer.gateway.keys import digest_of, new_key
from tests.conftest import Worker
from tests.frozen import freeze_group
from tests.integration.gateway.conftest import Answer, Http, RunningGateway

FINAL = ("completed", "completed_with_errors", "failed", "cancelled", "expired")
KEYS = {name: new_key() for name in ("shop", "bank", "reader", "operator")}
TABLES = {
    "shop": KeySettings(sha256=digest_of(KEYS["shop"]), tenant="shop", scopes=("infer", "batch")),
    "bank": KeySettings(sha256=digest_of(KEYS["bank"]), tenant="bank", scopes=("batch",)),
    "reader": KeySettings(sha256=digest_of(KEYS["reader"]), scopes=("infer",)),
    "operator": KeySettings(sha256=digest_of(KEYS["operator"]), scopes=("admin",)),
}
TEXTS = ["good fine great coffee", "bad awful stale coffee"]


class JobsStack:
    """The gateway, its workers and its folders."""

    def __init__(self, gateway: RunningGateway, batch: Worker, folder: Path) -> None:
        self.gateway = gateway
        self.batch = batch
        self.folder = folder
        self.broker = Broker(gateway.settings)
        self.ledger = Ledger(self.broker.redis, 3_600)

    @property
    def http(self) -> Http:
        return self.gateway.http

    def ask(
        self, method: str, path: str, body: Any = None, *, key: str = "shop", **headers: str
    ) -> Answer:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return self.http(method, path, body, {"X-API-Key": KEYS[key], **named})

    def submit(self, output: str, *, key: str = "shop", **options: Any) -> dict[str, Any]:
        fields = {"source": "reviews.csv", "model": "reviews", "output": output, **options}
        answer = self.ask("POST", "/v1/jobs", fields, key=key)
        assert answer.status == 202, answer.body
        assert answer.headers["location"] == f"/v1/jobs/{answer.json['id']}"
        job: dict[str, Any] = answer.json
        return job

    def job(self, job_id: str, *, key: str = "shop") -> dict[str, Any]:
        answer = self.ask("GET", f"/v1/jobs/{job_id}", key=key)
        assert answer.status == 200, answer.body
        job: dict[str, Any] = answer.json
        return job

    def finished(self, job_id: str, timeout_s: float = 60) -> dict[str, Any]:
        """Wait for the end, and let the reconciler run as beat would."""
        deadline = time.monotonic() + timeout_s
        while (job := self.job(job_id))["status"] not in FINAL:
            assert time.monotonic() < deadline, (job, self.batch.log.read_text()[-2_000:])
            reconciler.reconcile(self.broker, self.ledger)
            time.sleep(0.1)
        return job

    def all_ended(self, timeout_s: float = 60) -> None:
        """Wait until no job is open, whoever has left it."""
        deadline = time.monotonic() + timeout_s
        while open_ := self.ledger.active():
            assert time.monotonic() < deadline, (open_, self.batch.log.read_text()[-2_000:])
            time.sleep(0.05)

    def told(self, job_id: str) -> list[tuple[str, str, Any]]:
        """Every event until the job has ended."""
        with Events(self, job_id) as stream:
            return list(stream)

    @contextmanager
    def nobody_plans(self) -> Iterator[None]:
        """The batch worker stands still."""
        freeze_group(self.batch.process.pid)
        try:
            yield
        finally:
            os.killpg(self.batch.process.pid, signal.SIGCONT)

    def rows(self, name: str, rows: int, *, tenant: str = "shop") -> str:
        """Write a CSV file of texts; its name."""
        path = self.folder / "in" / tenant / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["id", "text"])
            writer.writerows((n, TEXTS[n % 2]) for n in range(rows))
        return name


class Events:
    """One stream of server-sent events."""

    def __init__(self, stack: JobsStack, job_id: str, last_id: str = "") -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", stack.http.port, timeout=30)
        headers = {"X-API-Key": KEYS["shop"], **({"Last-Event-ID": last_id} if last_id else {})}
        self._connection.request("GET", f"/v1/jobs/{job_id}/events", headers=headers)
        self.answer = self._connection.getresponse()

    def __iter__(self) -> Iterator[tuple[str, str, Any]]:
        """Name, id and data of each event."""
        fields: dict[str, str] = {}
        for raw in self.answer:
            name, _, value = raw.decode().rstrip("\n").partition(": ")
            if raw != b"\n":
                fields[name] = value
            elif "data" in fields:
                yield fields["event"], fields.get("id", ""), json.loads(fields["data"])
                fields = {}

    def __enter__(self) -> Events:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        self.answer.close()
        self._connection.close()


@contextmanager
def jobs_stack(settings: Settings, folder: Path, **changes: Any) -> Iterator[JobsStack]:
    """A gateway of :func:`settings_of`, and workers for its jobs that log into ``folder``."""
    workers = [
        Worker(settings, role, folder / f"{role}.log", "-c", "1", counted=True)
        for role in ("batch.cpu", "maintenance")
    ]
    gateway = RunningGateway(settings_of(settings, folder, **changes)).start()
    try:
        for worker in workers:
            worker.wait_ready(60)
        stack = JobsStack(gateway, workers[0], folder)
        yield stack
        stack.broker.close()
    finally:
        gateway.stop()
        for worker in workers:
            worker.stop()


def settings_of(settings: Settings, folder: Path, **changes: Any) -> Settings:
    """Settings of a gateway with keys and a folder for each tenant."""
    gateway = settings.gateway.model_copy(update={
        "keys": TABLES, "dataset_roots": (f"{folder}/in/{{tenant}}",),
        "output_roots": (f"{folder}/out/{{tenant}}",), **changes,
    })
    return settings.model_copy(update={"gateway": gateway})
