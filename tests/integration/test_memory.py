"""Ten promotions leave a process as large as one did."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.ensemble import RandomForestRegressor

from celeriac import release
from celeriac.optimize import convert
from celeriac.registry.manifest import InputSchema
from celeriac.registry.store import Registry
from celeriac.runtimes.architectures import MLP

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
