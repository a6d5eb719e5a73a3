"""A real beat has the night's run begin with its date as data; real workers carry it out once."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import redis
from sklearn.linear_model import LogisticRegression

from celeriac import release
from celeriac.nightly.calendar import owed_date
from celeriac.registry.catalogue import publish
from celeriac.registry.manifest import Column, InputSchema, ModelDraft, OutputSchema
from celeriac.registry.store import Registry
from celeriac.settings import AlertSettings, Settings, load_settings
from producer import nights
from producer.broker import Broker
from workers.child_settings import environment

pytestmark = pytest.mark.uncounted

ROOT = Path(__file__).parents[2]


class Webhook(ThreadingHTTPServer):
    """Keeps what it is told; fails at first."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.alerts: list[dict[str, Any]] = []
        self.failures = 1


class _Handler(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        webhook: Any = self.server
        body = self.rfile.read(int(self.headers["Content-Length"]))
        webhook.failures -= 1
        self.send_response(500 if webhook.failures >= 0 else 200)
        self.end_headers()
        if webhook.failures < 0:
            webhook.alerts.append(json.loads(body))

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def webhook() -> Iterator[Webhook]:
    server = Webhook()
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def settings(settings: Settings, webhook: Webhook, tmp_path: Path) -> Settings:
    """The webhook is told, and a command that hangs."""
    alerts = AlertSettings(
        webhook=f"http://127.0.0.1:{webhook.server_address[1]}", timeout_s=2,
        command=["sh", "-c", f"cat >> {tmp_path}/told; sleep 60"],
    )
    return settings.model_copy(update={"alerts": alerts})


@pytest.fixture
def beat(
    settings: Settings, tmp_path: Path
) -> Iterator[Callable[[Path], subprocess.Popen[bytes]]]:
    """Starts a beat with a configuration."""
    started = []

    def start(config: Path) -> subprocess.Popen[bytes]:
        with (tmp_path / "beat.log").open("wb") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "celery", "-A", "workers.app", "beat", "--pidfile=",
                 "-s", str(tmp_path / "schedule")],
                cwd=ROOT, env=os.environ | environment(settings) | {"CELERIAC_CONFIG": str(config)},
                stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT,
            )  # fmt: skip
        started.append(process)
        return process

    yield start
    for process in started:
        process.terminate()
        process.wait(20)


def numbers(mean: float) -> pd.DataFrame:
    return pd.DataFrame({"size": np.random.default_rng(0).normal(mean, 1, 1_000)})


def register_models(settings: Settings, client: redis.Redis) -> None:
    registry = Registry(settings.models.root)
    draft = ModelDraft(
        format="echo",
        input=InputSchema(kind="text", columns=(Column(name="text", dtype="text"),)),
        output=OutputSchema(kind="any"),
    )
    registry.add("echo", lambda folder: draft)
    registry.aliases("echo").promote(1, expected=None, who="test", why="")
    known = numbers(0.0)
    model = LogisticRegression().fit(known, known["size"] > 0)
    release.register(
        "sizes", model, registry=registry, examples=known.head(9), reference=known
    )
    registry.aliases("sizes").promote(1, expected=None, who="test", why="")
    publish(client, registry.infos())


def write_config(folder: Path, due: datetime) -> Path:
    """Four schedules that were due at ``due``: the dataset of the second one is not there, the
    third one compares, and the last one scores what that compares, and tells its drift."""
    path = folder / "celeriac.toml"
    path.write_text("".join(
        f"[nightly.{name}]\nmodel = 'echo'\nat = '{due:%H:%M}'\nlookback_days = 1\n"
        f"dataset = '{folder}/{name}-{{date}}.csv'\noutput = '{folder}/{name}-out-{{date}}'\n"
        f"[nightly.{name}.options]\nmerge = true\noutput_format = 'csv'\n"
        for name in ("reviews", "absent")
    ) + (
        f"[nightly.watched]\nkind = 'drift'\nmodel = 'sizes'\nat = '{due:%H:%M}'\n"
        f"lookback_days = 1\ndataset = '{folder}/sizes-{{date}}.csv'\n"
        f"output = '{folder}/drift-{{date}}'\n"
        f"[nightly.scored]\ndrift = true\nmodel = 'sizes'\nat = '{due:%H:%M}'\n"
        f"lookback_days = 1\ndataset = '{folder}/sizes-{{date}}.csv'\n"
        f"output = '{folder}/scored-{{date}}'\n"
    ))
    return path


def until(what: Callable[[], Any], log: Path, within_s: float = 80) -> Any:
    deadline = time.monotonic() + within_s
    while not (found := what()):
        assert time.monotonic() < deadline, log.read_text()[-3_000:]
        time.sleep(0.2)
    return found


@pytest.mark.timeout(240)
def test_a_night_by_a_real_beat(
    settings: Settings,
    redis_client: redis.Redis,
    start_worker: Callable[..., Any],
    beat: Callable[[Path], subprocess.Popen[bytes]],
    webhook: Webhook,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    register_models(settings, redis_client)
    # Beat was down when the night was due; it begins all the same.
    due = datetime.now(UTC) - timedelta(minutes=2)
    config = write_config(tmp_path, due)
    night = load_settings(config, {}).nightly["reviews"]
    day = owed_date(night, datetime.now(UTC))
    (tmp_path / f"reviews-{day}.csv").write_text("text\ngood\nbad\n")
    numbers(2.0).to_csv(tmp_path / f"sizes-{day}.csv", index=False)
    monkeypatch.setenv("CELERIAC_CONFIG", str(config))
    broker = Broker(load_settings(config, environment(settings)))
    flower = Flower(broker)
    process = beat(config)
    for role in ("maintenance", "maintenance", "batch.cpu"):
        start_worker(role, wait=False)

    output, log = tmp_path / f"reviews-out-{day}", tmp_path / "beat.log"
    for _ in range(8):  # by hand, too: two workers of two processes race
        nights.send(broker, "reviews", day, 1)
    until((output / "_SUCCESS").exists, log)
    assert json.loads((output / "manifest.json").read_text())["rows_in"] == 2
    assert len((output / "predictions.csv").read_text().splitlines()) == 3

    until((tmp_path / f"drift-{day}" / "drift.json").exists, log)
    drifts = until(lambda: len(found := about(webhook, "data_drift")) > 1 and found, log)
    assert {one["entry"] for one in drifts} == {"dataset:watched", "dataset:scored"}
    for one in drifts:
        assert (one["model"], one["state"], one["features"][:1]) == ("sizes", "opened", ["size"])
    assert (tmp_path / f"scored-{day}" / "_SUCCESS").exists()
    [alert] = until(lambda: about(webhook, "failed"), log)
    assert (alert["kind"], alert["schedule"], alert["date"]) == ("failed", "absent", str(day))
    assert "no such file" in alert["reason"]
    assert alert["next"].endswith(f"celeriac nightly run absent --date {day}")
    until(lambda: "alert by command failed" in happened(broker, "absent"), log)  # it hangs
    told = (tmp_path / "told").read_text()
    assert json.dumps(alert, separators=(",", ":")) in told
    assert happened(broker, "absent").count("alert by webhook sent") == 1
    assert happened(broker, "reviews").count("submitted") == 1
    check_force(broker, day, output, log)
    assert [one["kind"] for one in webhook.alerts].count("failed") == 1
    assert [one["kind"] for one in webhook.alerts].count("data_drift") == 2
    assert happened(broker, "watched").count("compared") == 1
    assert process.poll() is None
    flower.stop()
    check_flower(flower)
    broker.close()


def check_flower(flower: Flower) -> None:
    """It has heard of the night and of watches that did something, of no sweep."""
    results = flower.results()
    assert {"celeriac.nightly.run", "celeriac.batch.chunk", "celeriac.alerts.send"} <= set(results)
    assert any("'sent " in one for one in results["celeriac.nightly.watch"])
    assert "None" not in results["celeriac.nightly.watch"]
    assert not {"celeriac.sensors.sweep", "celeriac.drift.labels"} & set(results)


def about(webhook: Webhook, kind: str) -> list[dict[str, Any]]:
    return [alert for alert in webhook.alerts if alert["kind"] == kind]


class Flower:
    """Hears what Flower hears of tasks."""

    def __init__(self, broker: Broker) -> None:
        self.events: list[dict[str, Any]] = []
        self._connection = broker.celery.connection_for_read()
        self._receiver = broker.celery.events.Receiver(
            self._connection, handlers={"*": self.events.append}, routing_key="task.#"
        )
        self._thread = threading.Thread(target=self._receiver.capture, kwargs={"wakeup": False})
        self._thread.start()

    def stop(self) -> None:
        self._receiver.should_stop = True
        self._thread.join(10)
        self._connection.close()

    def results(self) -> dict[str, set[str]]:
        """What the runs of each task have returned; of all that have begun."""
        found: dict[str, set[str]] = {}
        names = {one["uuid"]: one["name"] for one in self.events if "name" in one}
        for one in list(self.events):
            found.setdefault(names[one["uuid"]], set()).add(one.get("result", ""))
        return found


def happened(broker: Broker, name: str) -> list[str]:
    return [event.what for event in nights.records_of(broker, name).events()]


def check_force(broker: Broker, day: date, output: Path, log: Path) -> None:
    """A second attempt leaves the first one as it is, and is the current one at its end."""
    before = {file: file.read_bytes() for file in output.rglob("*") if file.is_file()}
    nights.send(broker, "reviews", day, 2)
    until((output.parent / f"{output.name}.attempt-2" / "_SUCCESS").exists, log)
    assert {file: file.read_bytes() for file in output.rglob("*") if file.is_file()} == before
    current = until(
        lambda: (found := nights.current(nights.runs(broker, "reviews", day)))
        and found.attempt == 2 and found,
        log,
    )
    assert current.rows == 2
