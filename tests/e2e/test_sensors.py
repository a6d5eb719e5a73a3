"""Sensors on real readings: a year of wind with its genuine glitch, and a shuttle's instruments."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import redis
from sklearn.metrics import roc_auc_score

from celeriac.registry.store import Registry
from celeriac.runtimes import LoadOptions
from celeriac.scoring import Scorer
from celeriac.settings import Settings
from examples import sensors as example
from producer import Client
from producer.applications.sensors import Sensors
from tests.conftest import ROOT

pytestmark = pytest.mark.uncounted


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    subprocess.run([sys.executable, "-m", "demo.data", folder], cwd=ROOT, check=True, timeout=110)
    return folder


@pytest.fixture
def sensors(settings: Settings, redis_client: redis.Redis) -> Iterator[Sensors]:
    with Client(settings=settings) as client:
        yield Sensors(client)


def test_the_glitch_is_found_and_false_alarms_are_rare(
    sensors: Sensors, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines: list[str] = []
    monkeypatch.setattr(example, "HOME", data)
    monkeypatch.setattr(example, "say", lines.append)
    example.a_year_of_wind(sensors)
    said = "".join(lines)
    assert re.search(r"^26,111 readings of wind", said)
    assert "2013-02-12 08:00 wind:EWR: score 153, threshold 8" in said
    false = re.search(r"of the others (\d+) are called anomalies", said)
    assert false is not None
    assert int(false[1]) <= 26, "one of a thousand"
    assert {one.sensor for one in sensors.sensors()} == {"wind:EWR", "wind:JFK", "wind:LGA"}
    opened = [one for one in sensors.alarms() if one.event == "opened" and one.peak > 100]
    assert [one.sensor for one in opened] == ["wind:EWR"]


def test_the_forest_knows_what_is_strange(
    settings: Settings, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(example, "HOME", data)
    rest = example.train_on_some(settings)
    truth = rest.pop("anomaly").to_numpy()
    scores = _scores(settings, rest)
    assert roc_auc_score(truth, scores) >= 0.99
    threshold = 0.57
    assert (scores[truth == 0] > threshold).mean() < 0.01
    assert (scores[truth == 1] > threshold).mean() > 0.9


def _scores(settings: Settings, rest: pd.DataFrame) -> np.ndarray:
    """What a worker answers to the items, from the files of the registry."""
    registry = Registry(settings.models.root)
    scorer = Scorer.load(registry, "shuttle", 1, LoadOptions.of(settings))
    return np.array([answer["value"] for answer in scorer.score(rest.to_numpy().tolist())])


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_the_example_runs_from_beginning_to_end() -> None:
    ran = subprocess.run(
        [sys.executable, "-m", "examples.sensors"], cwd=ROOT, capture_output=True, text=True,
        timeout=280, check=False,
    )
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.endswith("Done.\n")
