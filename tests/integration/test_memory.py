"""Ten promotions leave a process as large as one did, and a batch worker."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.ensemble import RandomForestRegressor

from celeriac import release
from celeriac.optimize import convert
from celeriac.registry.catalogue import publish
from celeriac.registry.manifest import InputSchema
from celeriac.registry.store import Registry
from celeriac.runtimes.architectures import MLP
from celeriac.settings import Settings
from producer.broker import Broker
from producer.datasets import submit_dataset

pytestmark = [pytest.mark.uncounted, pytest.mark.timeout(240)]

VERSIONS = 10
GROWTH = 1.10

PROGRAM = """
import gc, json, re, sys
from pathlib import Path
from celeriac.host import IDLE_S, ModelHost
from celeriac.registry.store import Registry
from celeriac.runtimes import LoadOptions

def used_mb():
    text = Path("/proc/self/smaps_rollup").read_text()
    return int(re.search(r"^Pss:\\s+(\\d+)", text, re.M)[1]) / 1024

registry, now = Registry(Path(sys.argv[1])), [0.0]
host = ModelHost(registry, LoadOptions(), clock=lambda: now[0])
found = []
before = used_mb()
for version in registry.versions("m"):
    aliases = registry.aliases("m")
    aliases.promote(version, expected=aliases.read().get("champion"), who="test", why="")
    host.refresh()
    items = [example.item for example in host.scorer("m", version).manifest.golden]
    host.scorer("m", version).score(items)
    if version == 1:
        gc.collect()
        gc.freeze()  # as a worker does
    now[0] += IDLE_S + 1  # the old version is idle for so long
    host.tidy()
    assert host.loaded() == {"m": [version]}
    found.append(used_mb())
print(json.dumps([before, *found]))
"""


@pytest.mark.parametrize("form", ["sklearn", "torch", "onnx"])
def test_the_tenth_version_takes_no_more_memory_than_the_first(form: str, tmp_path: Path) -> None:
    registry = Registry(tmp_path)
    rows = np.random.default_rng(1).normal(size=(3_000, 8)).astype(np.float32)
    values = rows[:, 0] * rows[:, 1]
    model: Any
    if form == "sklearn":
        model = RandomForestRegressor(60, n_jobs=1, random_state=1).fit(rows, values)
    else:
        model = MLP(8, 1, [3_000, 3_000])
    if form == "onnx":
        schema = InputSchema(kind="array", shape=(8,), dtype="float32")
        model = convert.from_torch(model.eval(), schema)
    first = release.register("m", model, examples=rows[:20], registry=registry)
    source = registry.folder("m", 1)

    def copy(folder: Path):  # type: ignore[no-untyped-def]
        for record in first.files:
            (folder / record.path).write_bytes((source / record.path).read_bytes())
        return first

    for _ in range(VERSIONS - 1):
        registry.add("m", copy)
    ran = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(tmp_path)], capture_output=True, text=True,
        timeout=200, check=False,
    )
    assert ran.returncode == 0, ran.stderr[-2000:]
    before, *found = json.loads(ran.stdout.splitlines()[-1])
    assert found[0] > before + 30  # a model that counts
    assert max(found[1:]) <= GROWTH * found[0], found


def pages_mb(pid: int) -> float:
    """Of a process and its children, each page counted once."""
    kids = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    texts = [Path(f"/proc/{one}/smaps_rollup").read_text() for one in (pid, *kids)]
    return sum(int(re.search(r"^Pss:\s+(\d+)", text, re.M)[1]) for text in texts) / 1024  # type: ignore[index, misc]


def count(log: str, what: str, version: int) -> int:
    """How many processes have loaded a version, or let it go."""
    return len(re.findall(rf"{what} .*(?:'m@|version=){version}\b", log))


def test_a_batch_worker_lets_old_champions_go_while_it_has_no_work(
    settings: Settings, start_worker: Callable[..., Any], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    registry, broker = Registry(settings.models.root), Broker(settings)
    rows = pd.DataFrame(np.random.default_rng(1).normal(size=(3_000, 3)), columns=["a", "b", "c"])
    rows.to_csv(tmp_path / "in.csv", index=False)
    model = RandomForestRegressor(200, n_jobs=1, random_state=1).fit(rows, rows["a"] * rows["b"])
    folder = [str(Path(__file__).parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(folder))
    found: list[float] = []
    for version in range(1, 4):
        release.register("m", model, examples=rows.head(20), registry=registry)
        registry.aliases("m").promote(version, expected=version - 1 or None, who="test", why="")
        publish(broker.redis, registry.infos())
        if version == 1:
            worker = start_worker("batch.cpu", "-c", "2", "-I", "soon_idle")
            start_worker("maintenance", "-c", "1")
        job = submit_dataset(broker, tmp_path / "in.csv", "m", tmp_path / f"out{version}")
        assert job.wait(60).state == "completed"
        deadline, log = time.monotonic() + 40, worker.log.read_text
        # The main process has forked two with the first champion; later ones they load themselves.
        least = 3 if version == 2 else count(log(), "loaded", version - 1)
        while count(log(), "let go", version - 1) < least:
            assert time.monotonic() < deadline, log()[-3_000:]
            time.sleep(0.1)
        found.append(pages_mb(worker.process.pid))
        # A process that reads the aliases late holds both for a while.
        while version > 2 and found[-1] > GROWTH * found[1]:
            assert time.monotonic() < deadline, found
            time.sleep(0.2)
            found[-1] = pages_mb(worker.process.pid)
    broker.close()
