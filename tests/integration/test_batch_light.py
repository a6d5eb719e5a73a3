"""The command that waits for a job holds nothing that only planning needs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import redis
from sklearn.linear_model import LinearRegression

from celeriac import release
from celeriac.registry.catalogue import publish
from celeriac.registry.store import Registry
from celeriac.settings import Settings
from producer.broker import Broker
from workers.child_settings import environment

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="elsewhere nothing is forked")
WAITS = "it waits: no worker serves batch.cpu"


@pytest.fixture
def command(settings: Settings, redis_client: redis.Redis, tmp_path: Path) -> list[str]:
    """Submits two rows and waits; no worker is there, nor was one of other tests a moment ago."""
    rows = pd.DataFrame(np.arange(40.0).reshape(20, 2), columns=["a", "b"])
    rows.to_csv(tmp_path / "in.csv", index=False)
    registry, broker = Registry(settings.models.root), Broker(settings)
    release.register("m", LinearRegression().fit(rows, rows["a"]), examples=rows, registry=registry)
    registry.aliases("m").promote(1, expected=None, who="test", why="")
    publish(broker.redis, registry.infos())
    broker.close()
    return [sys.executable, "-m", "producer.cli.main", "batch", "submit",
            str(tmp_path / "in.csv"), "--model", "m", "--output", str(tmp_path / "out"), "--wait"]


def test_who_waits_has_no_library_of_data(settings: Settings, command: list[str]) -> None:
    env = os.environ | environment(settings)
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env
    ) as waiter:
        try:
            assert waiter.stdout
            assert "submitted: 20 rows" in waiter.stdout.readline()
            assert WAITS in waiter.stdout.readline()
            mapped = Path(f"/proc/{waiter.pid}/maps").read_text()
            assert "msgspec" in mapped  # a library that it has
            assert "libarrow" not in mapped
            assert "numpy" not in mapped
        finally:
            waiter.terminate()
            waiter.communicate(timeout=20)


def test_errors_and_json_are_as_without_waiting(settings: Settings, command: list[str]) -> None:
    env = os.environ | environment(settings)
    wrong = [*command, "--keep", "nowhere"]
    ran = [
        subprocess.run(words, env=env, capture_output=True, text=True, timeout=60, check=False)
        for words in (wrong, [word for word in wrong if word != "--wait"])
    ]
    assert ran[0].returncode == ran[1].returncode == 1
    assert "nowhere" in ran[0].stderr
    assert ran[0].stderr == ran[1].stderr
    told = subprocess.run(
        [word for word in command if word != "--wait"] + ["--json"], env=env,
        capture_output=True, text=True, timeout=60, check=True,
    )
    assert json.loads(told.stdout)["rows_total"] == 20
