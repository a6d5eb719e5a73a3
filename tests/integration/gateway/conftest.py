"""A gateway over a real stack: Valkey, one real-time worker, and the HTTP server in a thread.

Server, worker and models are started once for the session, so these tests must not empty the
database, and they share its models: what a test changes it puts back.
"""

from __future__ import annotations

import asyncio
import http.client
import json
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import Future
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pytest
import redis
from sklearn.compose import make_column_transformer
from sklearn.datasets import load_digits
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder

from celeriac import release
from celeriac.keys import seen_key
from celeriac.registry import catalogue
from celeriac.registry.manifest import (
    InputSchema,
    ModelDraft,
    OutputSchema,
    Pixels,
    Profile,
    Serving,
)
from celeriac.registry.store import Registry
from celeriac.runtimes.architectures import DigitCNN
from celeriac.settings import (
    BrokerSettings,
    GatewaySettings,
    ModelsSettings,
    Settings,
    StackSettings,
)
from producer.gateway import server as gateway_server
from producer.gateway.app import build
from producer.gateway.client import GatewayClient
from tests.conftest import Worker
from workers.valkey import EmbeddedServer, free_port

TEXTS = ["good fine great coffee", "bad awful stale coffee"] * 20
LABELS = ["positive", "negative"] * 20


@pytest.fixture(scope="session")
def gateway_valkey(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedServer]:
    """A Valkey of these tests' own: others empty theirs."""
    embedded = EmbeddedServer(tmp_path_factory.mktemp("gateway-valkey"), free_port())
    embedded.start()
    yield embedded
    embedded.stop()


@pytest.fixture(scope="session")
def gateway_settings(
    gateway_valkey: EmbeddedServer, tmp_path_factory: pytest.TempPathFactory
) -> Settings:
    """Any free ports, and the settings that their worker has."""
    folder = tmp_path_factory.mktemp("gateway")
    return Settings(
        broker=BrokerSettings(url=gateway_valkey.url),
        stack=StackSettings(state_dir=folder / "state", metrics_port=0),
        models=ModelsSettings(root=folder / "models"),
        gateway=GatewaySettings(port=0, admin_port=0, drain_notice_s=0.0, access_log=False),
    )


@pytest.fixture(scope="session")
def gateway_registry(gateway_settings: Settings) -> Registry:
    """``echo`` (any item), ``idle`` (the same, for a GPU, so that nobody takes its items; it
    was measured),
    ``reviews`` (text, cached), ``table``, ``overflow`` (infinity from 1e9 on), ``rent`` (a table of
    named columns), ``digits`` (an array), and ``pixels`` (an image, torch): the others are
    scikit-learn's."""
    registry = Registry(gateway_settings.models.root)
    for name, device in (("echo", "cpu"), ("idle", "gpu")):
        draft = ModelDraft(
            format="echo", input=InputSchema(kind="any"), output=OutputSchema(kind="any"),
            device=device,
            profile=(Profile(device="gpu", fixed_s=0.004, item_s=0.0001, machine="a test"),)
            if device == "gpu" else (),
        )
        registry.add(name, lambda folder, draft=draft: draft)
    reviews = make_pipeline(TfidfVectorizer(), LogisticRegression()).fit(TEXTS, LABELS)
    release.register(
        "reviews", reviews, examples=TEXTS[:4], registry=registry, serving=Serving(cache=True)
    )
    pixels, digits = load_digits(return_X_y=True)
    rows = np.array([[0.0, 0.0], [1.0, 3.0], [4.0, 1.0], [5.0, 5.0]])
    table = LogisticRegression().fit(rows, [0, 0, 1, 1])
    release.register("table", table, examples=rows, registry=registry)
    flats = pd.DataFrame({
        "rooms": [1, 2, 3, 5], "area": [30.0, 55.5, 80.0, 140.0],
        "district": ["north", "south", "south", "north"], "balcony": [False, True, True, True],
    })
    by_kind = make_column_transformer(
        (OneHotEncoder(), ["district"]), remainder="passthrough"
    )
    rent = make_pipeline(by_kind, LinearRegression()).fit(flats, [500.0, 800.0, 1100.0, 1900.0])
    release.register("rent", rent, examples=flats, registry=registry)
    model = LogisticRegression(max_iter=50, tol=0.1).fit(pixels[:300], digits[:300])
    release.register(
        "digits", model, examples=pixels[:4], input=InputSchema(kind="array", shape=(64,)),
        registry=registry,
    )
    huge = LinearRegression().fit([[0.0], [1.0]], [0.0, 1.0])
    huge.coef_ = np.array([1e300])
    release.register("overflow", huge, examples=np.array([[1.0]]), registry=registry)
    images = pixels[:4].reshape(4, 8, 8).astype(np.float32)
    release.register(  # untrained: any answer will do
        "pixels", DigitCNN(), examples=images, labels=list(range(10)), registry=registry,
        input=InputSchema(kind="image", shape=(8, 8), pixels=Pixels(mode="L"), dtype="float32"),
    )
    for name in registry.names():
        registry.aliases(name).promote(1, expected=None, who="test", why="")
    return registry


@pytest.fixture(scope="session")
def gateway_worker(
    gateway_settings: Settings, gateway_registry: Registry,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Worker]:
    """One real-time worker with every model."""
    client = redis.Redis.from_url(gateway_settings.broker_url)
    catalogue.publish(client, gateway_registry.infos())
    client.set(seen_key("realtime.gpu"), 1)  # or what waits for ``idle`` would be refused
    client.close()
    log = tmp_path_factory.mktemp("gateway-worker") / "realtime.log"
    worker = Worker(gateway_settings, "realtime.cpu", log, counted=True).wait_ready()
    yield worker
    worker.stop()


class Answer(NamedTuple):
    """What came back over HTTP."""

    status: int
    headers: dict[str, str]
    """By lower-case name."""
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Http:
    """A plain HTTP client of one gateway, for one thread: a new connection for each request."""

    def __init__(self, port: int, key: str = "") -> None:
        """``key``: of requests that bring none."""
        self.port = port
        self.key = key

    def __call__(
        self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None
    ) -> Answer:
        """``body``: bytes as they are, anything else as JSON."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            data = body if body is None or isinstance(body, bytes) else json.dumps(body)
            named = {name.lower(): value for name, value in (headers or {}).items()}
            if self.key:
                named.setdefault("x-api-key", self.key)
            connection.request(method, path, data, named)
            answer = connection.getresponse()
            named = {name.lower(): value for name, value in answer.getheaders()}
            return Answer(answer.status, named, answer.read())
        finally:
            connection.close()

    def post(self, path: str, body: Any = None, **headers: str) -> Answer:
        """``headers`` with ``_`` for ``-``."""
        return self("POST", path, body, {n.replace("_", "-"): v for n, v in headers.items()})

    def get(self, path: str, **headers: str) -> Answer:
        return self("GET", path, None, {n.replace("_", "-"): v for n, v in headers.items()})


class RunningGateway:
    """A gateway of this process: an event loop and uvicorn in a thread of their own."""

    def __init__(self, settings: Settings, key: str = "") -> None:
        self.settings = settings
        self.client = GatewayClient(settings=gateway_server.impatient(settings))
        self.apps = build(settings, self.client)
        self.gateway = self.apps.public.gateway
        self._loop = asyncio.new_event_loop()
        self._socket = gateway_server.listen("127.0.0.1", settings.gateway.port, "PORT")
        self._admin_socket = gateway_server.listen("127.0.0.1", 0, "ADMIN_PORT")
        self.port = int(self._socket.getsockname()[1])
        self.http = Http(self.port, key)
        self.admin = Http(int(self._admin_socket.getsockname()[1]), key)
        self._server = gateway_server.uvicorn_server(self.apps.public, settings, lifespan="on")
        self._admin_server = gateway_server.uvicorn_server(self.apps.admin, settings)
        self._thread = threading.Thread(target=self._run, name="gateway", daemon=True)

    def start(self) -> RunningGateway:
        self._thread.start()
        deadline = time.monotonic() + 30
        while not (self._server.started and self._admin_server.started):
            assert self._thread.is_alive(), "the gateway ended"
            assert time.monotonic() < deadline, "the gateway does not start"
            time.sleep(0.005)
        return self

    def call(self, work: Coroutine[Any, Any, Any]) -> Future[Any]:
        """Run a coroutine on the gateway's loop."""
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    def stop(self) -> None:
        self._server.should_exit = self._admin_server.should_exit = True
        self._thread.join(60)
        assert not self._thread.is_alive(), "the gateway does not end"

    async def _serve(self) -> None:
        await asyncio.gather(
            self._server.serve([self._socket]), self._admin_server.serve([self._admin_socket])
        )

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_until_complete(self._serve())
            self._loop.run_until_complete(self.client.close())
            self._loop.run_until_complete(self._loop.shutdown_default_executor())
        finally:
            self._loop.close()


@pytest.fixture(scope="session")
def gateway(gateway_settings: Settings, gateway_worker: Worker) -> Iterator[RunningGateway]:
    """The shared gateway: no keys, default limits."""
    running = RunningGateway(gateway_settings).start()
    yield running
    running.stop()


@pytest.fixture(scope="session")
def http_client(gateway: RunningGateway) -> Http:
    return gateway.http


@pytest.fixture
def start_gateway(
    gateway_settings: Settings, gateway_worker: Worker
) -> Iterator[Callable[..., RunningGateway]]:
    """Starts gateways with other settings of ``[gateway]``, over the shared stack."""
    started: list[RunningGateway] = []

    def start(**changes: Any) -> RunningGateway:
        merged = gateway_settings.gateway.model_dump() | changes
        chosen = gateway_settings.model_copy(
            update={"gateway": GatewaySettings.model_validate(merged)}
        )
        started.append(RunningGateway(chosen))
        return started[-1].start()

    yield start
    for running in started:
        running.stop()
