"""A stack of real workers for the life cycle of models; started once, shared by these tests."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import redis
from sklearn.linear_model import LinearRegression

from celeriac import errors, release
from celeriac.registry import catalogue
from celeriac.registry.store import Registry
from celeriac.settings import (
    BrokerSettings,
    ModelsSettings,
    Settings,
    StackSettings,
    get_settings,
)
from producer import Client
from tests.conftest import Worker
from workers.child_settings import environment
from workers.valkey import EmbeddedServer, free_port

CHECK_S = 30.0
ITEM = [0.5, 0.5]
ROWS = np.random.default_rng(1).random((20, 2))

NETWORKS = '''
import os, resource, sys, time
from torch import nn

CHECKS = "celeriac.release" in " ".join(sys.orig_argv)

class Hangs(nn.Linear):
    def __init__(self):
        super().__init__(2, 1)
        self.arguments = {}
        if CHECKS:
            time.sleep(600)

class Dies(nn.Linear):
    def __init__(self):
        super().__init__(2, 1)
        self.arguments = {}
        if CHECKS:
            os.kill(os.getpid(), 11)

class Exits(nn.Linear):
    def __init__(self):
        super().__init__(2, 1)
        self.arguments = {}
        if CHECKS:
            os._exit(0)

class Eats(nn.Linear):
    def __init__(self):
        super().__init__(2, 1)
        self.arguments = {}
        if CHECKS:
            used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
            resource.setrlimit(resource.RLIMIT_AS, (used + (1 << 28),) * 2)
            self.eaten = [bytes(1 << 24) for _ in range(1 << 10)]
'''


def register_telling(registry: Registry, name: str, number: int) -> int:
    """A version that answers every item with ``number``: its own, so that answers can be checked
    against the version that they name."""
    model = LinearRegression().fit(ROWS, np.full(len(ROWS), float(number)))
    version = release.register(name, model, examples=ROWS, registry=registry).version
    assert version == number
    return version


class Callers:
    """Threads that ask for one item after the other, and keep what they got."""

    def __init__(self, settings: Settings, name: str, threads: int) -> None:
        self.versions: list[int] = []
        self.wrong: list[str] = []
        self._client = Client(settings=settings)
        self._name = name
        self._stopping = threading.Event()
        self._threads = [threading.Thread(target=self._run) for _ in range(threads)]

    def __enter__(self) -> Callers:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        for thread in self._threads:
            thread.join(30)
        self._client.close()

    def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                answer = self._client.predict(self._name, ITEM, timeout_s=20)
            except errors.CeleriacError as error:
                self.wrong.append(repr(error))
            else:
                self.versions.append(answer.version)
                if round(answer.value, 6) != answer.version:
                    self.wrong.append(f"{answer.version} answered {answer.value}")
            time.sleep(0.01)


class Life:
    """The stack."""

    def __init__(self, settings: Settings, folder: Path) -> None:
        self.settings = settings
        self.registry = Registry(settings.models.root)
        self.client = Client(settings=settings)
        self.redis = redis.Redis.from_url(settings.broker_url)
        self._folder = folder
        self.workers: list[Worker] = []

    def start(self, *roles: str) -> None:
        """Start workers of these roles, and wait for them."""
        started = [
            Worker(self.settings, role, self._folder / f"{role}-{len(self.workers) + number}.log")
            for number, role in enumerate(roles)
        ]
        self.workers += started
        for worker in started:
            worker.wait_ready(90)

    def publish(self) -> None:
        catalogue.publish(self.redis, self.registry.infos())

    def stop(self) -> None:
        self.client.close()
        self.redis.close()
        for worker in self.workers:
            worker.ask_to_stop()
        for worker in self.workers:
            worker.stop()


@pytest.fixture(scope="session")
def life(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Life]:
    """Maintenance, a batch worker, and two real-time ones that serve ``m``, of which version 1 is
    the champion and answers 1."""
    folder = tmp_path_factory.mktemp("life")
    (folder / "code").mkdir()
    (folder / "code" / "life_networks.py").write_text(NETWORKS)
    server = EmbeddedServer(folder / "valkey", free_port())
    (folder / "valkey").mkdir()
    server.start()
    settings = Settings(
        broker=BrokerSettings(url=server.url),
        stack=StackSettings(state_dir=folder / "state", metrics_port=0),
        models=ModelsSettings(
            root=folder / "models", check_timeout_s=CHECK_S,
            architectures=("celeriac.runtimes.architectures", "life_networks"),
        ),
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(folder / "code"))
        patch.setattr(sys, "path", [*sys.path, str(folder / "code")])
        for name, value in environment(settings).items():
            patch.setenv(name, value)
        get_settings.cache_clear()
        stack = Life(settings, folder)
        register_telling(stack.registry, "m", 1)
        stack.registry.aliases("m").promote(1, expected=None, who="test", why="")
        stack.publish()
        stack.start("maintenance", "realtime.cpu", "realtime.cpu", "batch.cpu")
        for name in environment(settings):
            os.environ.pop(name, None)
        get_settings.cache_clear()
        yield stack
        stack.stop()
    server.stop()
    get_settings.cache_clear()


@pytest.fixture
def trusted_code(life: Life, monkeypatch: pytest.MonkeyPatch) -> Any:
    """This process registers what the stack's settings allow."""
    monkeypatch.setattr("celeriac.release.registering.get_settings", lambda: life.settings)
    import life_networks

    return life_networks
