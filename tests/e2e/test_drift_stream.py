"""A stream that shifts, through two real workers, a real beat and a real watch."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import redis
from sklearn.linear_model import LogisticRegression

from celeriac import release
from celeriac.drift import standing
from celeriac.keys import drift_counts_key
from celeriac.registry.catalogue import publish
from celeriac.registry.store import Registry
from celeriac.settings import DriftSettings, Settings
from producer import Client
from tests.conftest import Ran
from tests.waiting import wait_until
from workers.child_settings import environment

pytestmark = pytest.mark.uncounted

ROOT = Path(__file__).parents[2]
DRIFT = DriftSettings(window_rows=400, bucket_s=0.5)
Start = Callable[..., Any]


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return settings.model_copy(update={"drift": DRIFT})


@pytest.fixture
def beat(settings: Settings, tmp_path: Path) -> Iterator[None]:
    with (tmp_path / "beat.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "celery", "-A", "workers.app", "beat", "--pidfile=",
             "-s", str(tmp_path / "schedule")],
            cwd=ROOT, env=os.environ | environment(settings), stdin=subprocess.DEVNULL,
            stdout=log, stderr=subprocess.STDOUT,
        )  # fmt: skip
    yield
    process.terminate()
    process.wait(20)


class Stream:
    """Items for ``sizes``."""

    def __init__(self, client: Client, redis_client: redis.Redis) -> None:
        self._client, self._redis = client, redis_client
        self._chance = np.random.default_rng(1)

    def go(
        self, until: Callable[[standing.Standing], bool], shift: float = 0.0,
        within_s: float = 60.0,
    ) -> standing.Standing:
        """Send items until the watch says so."""
        end_s = time.monotonic() + within_s
        while True:
            values = self._chance.normal((0.0, shift), size=(50, 2))
            items = [{"size": float(a), "age": float(b)} for a, b in values]
            self._client.predict_many("sizes", items)
            found = standing.load_all(self._redis)
            if found and until(found[0]):
                return found[0]
            assert time.monotonic() < end_s, found
            time.sleep(0.05)


@pytest.mark.timeout(200)
def test_a_shifted_stream_is_one_episode(
    settings: Settings, redis_client: redis.Redis, start_worker: Start, beat: None,
    celeriac: Callable[..., Ran],
) -> None:
    chance = np.random.default_rng(0)
    rows = pd.DataFrame({"size": chance.normal(size=4_000), "age": chance.normal(size=4_000)})
    model = LogisticRegression().fit(rows[["size", "age"]], rows["size"] > 0)
    registry = Registry(settings.models.root)
    release.register("sizes", model, examples=rows[:5], reference=rows, registry=registry)
    registry.aliases("sizes").promote(1, expected=None, who="test", why="")
    publish(redis_client, registry.infos())
    workers = [start_worker(role, wait=False) for role in ("realtime.cpu", "realtime.cpu")]
    for worker in (*workers, start_worker("maintenance", wait=False)):
        worker.wait_ready()
    with Client(settings=settings, timeout_s=20.0) as client:
        stream = Stream(client, redis_client)
        clean = stream.go(lambda one: one.state == "stable" and one.rows >= DRIFT.window_rows)
        assert clean.episodes == {}
        fields: Any = redis_client.hkeys(drift_counts_key("sizes", 1))
        assert len({field.partition(b":")[2] for field in fields}) == 2  # both workers count
        shifted = stream.go(lambda one: one.state == "drift", shift=1.0)
        assert [*shifted.episodes] == ["data_drift"]
        assert shifted.episodes["data_drift"].features == ("age",)
        ran = celeriac("drift", "status", "sizes", env=environment(settings) | {"COLUMNS": "80"})
        assert ran.returncode == 3
        assert re.search(r"sizes@1 +age +[\d,]+ +0\.\d+ +0\.\d+ +drift", ran.stdout)
        assert max(map(len, ran.stdout.splitlines())) <= 80
        looked_s = shifted.looked_at_s or 0.0
        stream.go(lambda one: (one.looked_at_s or 0.0) > looked_s + 3, shift=1.0)  # still one
        over = stream.go(lambda one: one.state == "stable")
        assert over.episodes == {}
        assert [one.kind for one in over.ended] == ["data_drift"]
        wait_until(lambda: len(redis_client.keys("celeriac:alert:data_*")) >= 2)
        assert len(redis_client.keys("celeriac:alert:*")) == 2  # opened, closed: no other
