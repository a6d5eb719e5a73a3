"""Redis goes and comes back: refused within a second, not ready, alive, well again by itself."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import redis

from celeriac.registry import catalogue
from celeriac.registry.manifest import InputSchema, ModelDraft, OutputSchema
from celeriac.registry.store import Registry
from celeriac.settings import (
    BrokerSettings,
    GatewaySettings,
    KeySettings,
    ModelsSettings,
    Settings,
    StackSettings,
)
from producer.gateway.keys import digest_of
from tests.conftest import Worker
from tests.frozen import freeze
from tests.integration.gateway.conftest import Answer, RunningGateway
from workers.valkey import EmbeddedServer, free_port

ECHO, IDLE = "/v1/models/echo/predict", "/v1/models/idle/predict"
ITEM = {"item": "x"}


class Outage:
    """A server that can go away, and what stands over it."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.port = folder, free_port()
        self.server = self._started()
        self.settings = Settings(
            broker=BrokerSettings(url=self.server.url),
            stack=StackSettings(state_dir=folder / "state", metrics_port=0),
            models=ModelsSettings(root=folder / "models"),
            gateway=GatewaySettings(port=0, admin_port=0, access_log=False),
        )

    def register(self) -> None:
        registry = Registry(self.settings.models.root)
        for name, device in (("echo", "cpu"), ("idle", "gpu")):
            draft = ModelDraft(
                format="echo", input=InputSchema(kind="any"), output=OutputSchema(kind="any"),
                device=device,
            )
            registry.add(name, lambda folder, draft=draft: draft)
            registry.aliases(name).promote(1, expected=None, who="test", why="")
        client = redis.Redis.from_url(self.server.url)
        catalogue.publish(client, registry.infos())
        client.close()

    def kill(self) -> None:
        assert self.server.process is not None
        self.server.process.kill()
        self.server.process.wait(10)

    def restart(self) -> None:
        self.server = self._started()

    def freeze(self) -> None:
        assert self.server.process is not None
        freeze(self.server.process.pid)

    def thaw(self) -> None:
        assert self.server.process is not None
        self.server.process.send_signal(signal.SIGCONT)

    def _started(self) -> EmbeddedServer:
        server = EmbeddedServer(self.folder / "valkey", self.port)
        server.start()
        return server


@pytest.fixture(scope="module")
def outage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Outage]:
    made = Outage(tmp_path_factory.mktemp("outage"))
    made.register()
    yield made
    made.server.stop()


@pytest.fixture(scope="module")
def worker(outage: Outage) -> Iterator[Worker]:
    worker = Worker(outage.settings, "realtime.cpu", outage.folder / "worker.log").wait_ready()
    yield worker
    worker.stop()


@pytest.fixture
def gateway(outage: Outage, worker: Worker) -> Iterator[RunningGateway]:
    running = RunningGateway(outage.settings).start()
    assert wait_for(lambda: running.http.post(ECHO, ITEM).status == 200, 40)
    yield running
    running.stop()


def wait_for(condition: Callable[[], bool], timeout_s: float) -> float:
    """How long it took; fails if it does not come true."""
    began = time.monotonic()
    while not condition():
        assert time.monotonic() - began < timeout_s
        time.sleep(0.02)
    return max(time.monotonic() - began, 0.001)


def timed(ask: Callable[[], Answer]) -> tuple[Answer, float]:
    began = time.monotonic()
    answer = ask()
    return answer, time.monotonic() - began


def check_refused(gateway: RunningGateway) -> None:
    for _ in range(5):
        answer, took_s = timed(lambda: gateway.http.post(ECHO, ITEM))
        assert (answer.status, answer.json["error"]["code"]) == (503, "broker_unavailable")
        assert "redis" not in answer.body.decode().lower()
        assert int(answer.headers["retry-after"]) >= 1
        assert took_s < 1.3  # a second, and what a busy machine takes
    for path in ("/v1/predictions/x", "/v1/jobs", "/v1/models"):
        answer, took_s = timed(lambda path=path: gateway.http.get(path))
        assert (answer.status, answer.json["error"]["code"]) == (503, "broker_unavailable"), path
        assert took_s < 1
    wait_for(lambda: gateway.http.get("/health/ready").status == 503, 1.3)
    assert gateway.http.get("/health/live").status == 200
    assert gateway.http.get("/health/ready").json == {"ready": False}
    assert gateway.http.get("/v2/health/ready").status == 503


def asked_meanwhile(gateway: RunningGateway) -> list[tuple[str, Callable[[], Answer]]]:
    """Requests of every kind that asks Redis by itself."""
    http = gateway.http
    body = {"model": "idle", "item": 1}
    return [
        ("wait", lambda: http.get("/v1/predictions/waits", Prefer="wait=10")),
        ("put", lambda: http("PUT", "/v1/predictions/new", body)),
        ("submit", lambda: http.post(IDLE, ITEM, Prefer="respond-async")),
        ("jobs", lambda: http.get("/v1/jobs")),
        ("models", lambda: http.get("/v1/models")),
        ("index", lambda: http.post("/v2/repository/index")),
        ("ready", lambda: http.get("/v2/models/echo/ready")),
        ("limited", lambda: http.post(ECHO, ITEM, X_Api_Key="a limited key")),
        ("limited, too", lambda: http.post(ECHO, ITEM, X_Api_Key="a limited key")),
    ]


def check_well(gateway: RunningGateway) -> None:
    wait_for(lambda: gateway.http.get("/health/ready").status == 200, 15)
    wait_for(lambda: gateway.http.post(ECHO, ITEM).status == 200, 30)


def test_redis_is_killed_and_comes_back(outage: Outage, gateway: RunningGateway) -> None:
    found: list[tuple[Answer, float]] = []
    waiting = threading.Thread(  # nobody answers it, so it waits while Redis goes
        target=lambda: found.append(timed(lambda: gateway.http.post(IDLE, ITEM)))
    )
    waiting.start()
    wait_for(lambda: len(gateway.gateway.watches) == 1, 10)
    outage.kill()
    check_refused(gateway)
    waiting.join(5)
    (answer, took_s) = found[0]
    assert answer.status == 503
    assert took_s < 3
    outage.restart()
    check_well(gateway)


def test_redis_hangs_and_goes_on(outage: Outage, gateway: RunningGateway) -> None:
    outage.freeze()
    try:
        check_refused(gateway)
    finally:
        outage.thaw()
    check_well(gateway)


def test_what_waits_while_redis_begins_to_hang_is_refused_within_a_second(
    outage: Outage, worker: Worker
) -> None:
    keys = {
        "limited": KeySettings(sha256=digest_of("a limited key"), rate_per_s=0.1, burst=1),
        "open": KeySettings(sha256=digest_of("a key"), scopes=("infer", "batch", "admin")),
    }
    limits = outage.settings.gateway.model_copy(update={"keys": keys})
    running = RunningGateway(outage.settings.model_copy(update={"gateway": limits}), key="a key")
    running.start()
    try:
        wait_for(lambda: running.http.post(ECHO, ITEM).status == 200, 40)
        entered = running.http("PUT", "/v1/predictions/waits", {"model": "idle", "item": 1})
        assert entered.status == 202
        asked = asked_meanwhile(running)
        with ThreadPoolExecutor(len(asked)) as pool:
            outage.freeze()
            try:
                found = [(name, pool.submit(timed, ask)) for name, ask in asked]
                answers = [(name, *future.result(30)) for name, future in found]
                assert running.admin.get("/metrics").status == 200
            finally:
                outage.thaw()
        for name, answer, took_s in answers:
            assert answer.status == 503, (name, answer)
            assert answer.headers["retry-after"] == "1", name
            assert took_s < 1.3, (name, took_s)  # a second, and what a busy machine takes
        check_well(running)
    finally:
        running.stop()


def test_a_gateway_that_starts_without_redis(outage: Outage, worker: Worker) -> None:
    outage.kill()
    try:
        running = RunningGateway(outage.settings).start()
        try:
            check_refused(running)
            outage.restart()
            check_well(running)
        finally:
            running.stop()
    finally:
        if outage.server.process is None or outage.server.process.poll() is not None:
            outage.restart()
