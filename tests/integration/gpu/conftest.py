"""A stack without GPUs but with a stand-in of NVML: real launchers, real workers, echo models."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import redis

from celeriac.keys import worker_key
from celeriac.registry import catalogue
from celeriac.registry.manifest import InputSchema, ModelDraft, OutputSchema
from celeriac.registry.store import Registry
from celeriac.settings import Settings
from tests.conftest import ROOT, STAND_INS
from tests.waiting import wait_until
from workers.child_settings import environment

GPUS = ("GPU-1111", "GPU-2222")


def add_echo(registry: Registry, name: str, *devices: str) -> None:
    """Versions of an echo model, one for each device; the last one is the champion."""
    for device in devices:
        draft = ModelDraft(
            format="echo", device=device, input=InputSchema(kind="any"),
            output=OutputSchema(kind="any"),
        )
        version = registry.add(name, lambda folder, draft=draft: draft)
    aliases = registry.aliases(name)
    aliases.promote(version.version, expected=aliases.read().get("champion"), who="test", why="")


def publish(client: redis.Redis, registry: Registry) -> None:
    catalogue.publish(client, registry.infos())


class Launcher:
    """``celeriac worker ROLE`` as a process, on a machine with stand-in GPUs."""

    def __init__(
        self, settings: Settings, role: str, folder: Path, gpus: Sequence[str] = GPUS,
        **environ: str,
    ) -> None:
        self.role = role
        self.log = folder / f"launcher-{role}.txt"
        self.imports = folder / f"imports-{role}.jsonl"
        self.client = redis.Redis.from_url(settings.broker_url)
        paths = [STAND_INS / "nvml", STAND_INS / "imports"]
        known = [{"uuid": uuid, "name": "NVIDIA Stand-in"} for uuid in gpus]
        variables = {
            **os.environ, **environment(settings),
            "PYTHONPATH": os.pathsep.join(map(str, paths)),
            "STAND_IN_GPUS": json.dumps(known), "STAND_IN_IMPORTS": str(self.imports), **environ,
        }
        command = [sys.executable, "-c", "from producer.cli.main import main; main()", "worker"]
        with self.log.open("wb") as output:
            self.process = subprocess.Popen(
                [*command, role],
                env=variables, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=output,
                stderr=subprocess.STDOUT,
            )

    @property
    def text(self) -> str:
        return self.log.read_text()

    def workers(self) -> dict[str, dict[str, Any]]:
        """What the live workers of the role say of themselves, by the labels of their GPUs."""
        keys: Any = self.client.keys(worker_key(f"{self.role}-*"))
        said = [json.loads(text) for text in self.client.mget(keys) if text] if keys else []
        return {worker["gpu"]["label"]: worker for worker in said}

    def wait_ready(self, count: int = len(GPUS)) -> dict[str, dict[str, Any]]:
        def ready() -> dict[str, dict[str, Any]] | None:
            assert self.process.poll() is None, self.text
            found = self.workers()
            return found if len(found) == count else None

        return wait_until(ready)

    def imported_torch(self) -> list[dict[str, Any]]:
        """Each import of torch below the launcher: who, and what CUDA would have seen."""
        if not self.imports.exists():
            return []
        return [json.loads(line) for line in self.imports.read_text().splitlines()]

    def stop(self) -> int:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(40)
        finally:
            self.process.kill()
            self.client.close()


@pytest.fixture
def launch(settings: Settings, tmp_path: Path) -> Iterator[Callable[..., Launcher]]:
    started: list[Launcher] = []

    def start(role: str, *gpus: str, **environ: str) -> Launcher:
        launcher = Launcher(settings, role, tmp_path, gpus or GPUS, **environ)
        started.append(launcher)
        return launcher

    yield start
    for launcher in started:
        launcher.stop()
