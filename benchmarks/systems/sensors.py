"""Sensors: readings a second with an answer for each, and how right the answers are.

Bulks come from one process; a batch worker and the sweep run beside it, as they would. Wind is a
year of three stations, the shuttle's readings have labels; both are in order.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from sklearn.ensemble import IsolationForest
from sklearn.metrics import roc_auc_score

from benchmarks.harness import datasets
from benchmarks.harness.site import Site, site
from benchmarks.harness.table import Row, at_least
from celeriac import release
from celeriac.registry.store import Registry
from producer import Client
from producer.applications.sensors import Answer, Sensors

GOAL_PER_S, LEAST_AREA, MOST_FALSE = 20_000.0, 0.99, 1e-3
TRAINED_ON, BULKS = 20_000, 20
SHAPES = ((1_000, 10), (10_000, 1), (10, 1_000))
"""Sensors, and readings of each in one bulk."""


def rows(home: Path, quick: bool) -> Iterator[Row]:
    """What is found first, then how fast."""
    data, root = home / "data", home / "models"
    data.mkdir()
    datasets.demo_data(data)
    table = pd.read_parquet(data / "shuttle.parquet")
    forest(root, table)
    with site(home, root, "realtime.cpu", "batch.cpu", "maintenance") as running:
        with Client(settings=running.settings) as client:
            sensors = Sensors(client)
            yield from _wind(sensors, pd.read_parquet(data / "weather.parquet"))
            yield from _shuttle(sensors, table.iloc[TRAINED_ON:].head(2_000 if quick else None))
        yield from _fast(running, 3 if quick else BULKS)


def forest(root: Path, table: pd.DataFrame) -> None:
    """``shuttle``, of readings without their labels."""
    known = table.drop(columns="anomaly").to_numpy(dtype=float)[:TRAINED_ON]
    model = IsolationForest(random_state=1).fit(known)
    registry = Registry(root)
    release.register("shuttle", model, examples=known[:200], kind="regressor", registry=registry)
    registry.aliases("shuttle").promote(1, expected=None, who="bench", why="measured")


def _wind(sensors: Sensors, weather: pd.DataFrame) -> Iterator[Row]:
    weather = weather.dropna(subset=["wind_speed"])
    speed = weather["wind_speed"].to_numpy(dtype=float)
    hours = pd.to_datetime(weather["time_hour"], utc=True)
    at = (hours - pd.Timestamp(0, tz="UTC")).dt.total_seconds().to_numpy()
    names = ("wind:" + weather["origin"].astype(str)).tolist()
    found: list[Any] = []
    for start in range(0, len(names), 10_000):
        block = slice(start, start + 10_000)
        found += sensors.ingest_columns(names[block], at[block], speed[block])
    called = np.array([bool(one.anomaly) for one in found])
    glitch = speed > 1_000
    yield at_least("wind: the gust of 1,048 mph is an anomaly", float(called[glitch].all()), "", 1)
    rate = float(called[~glitch].mean())
    yield Row(
        measure=f"wind: false alarms of {(~glitch).sum():,} other readings", value=rate, unit="",
        goal=f"<= {MOST_FALSE:g}", met=rate <= MOST_FALSE,
    )


def _shuttle(sensors: Sensors, table: pd.DataFrame) -> Iterator[Row]:
    truth = table["anomaly"].to_numpy()
    numbers = table.drop(columns="anomaly").to_numpy(dtype=float)
    at = time.time() - len(table) + np.arange(len(table))
    scores: list[float] = []
    began_s = time.perf_counter()
    for start in range(0, len(table), 2_000):
        block = slice(start, start + 2_000)
        names = ["shuttle"] * len(numbers[block])
        answers = sensors.ingest_columns(
            names, at[block], numbers[block], model="shuttle", threshold=0.57
        )
        scores += [one.score or 0.0 for one in answers if isinstance(one, Answer)]
    seconds = time.perf_counter() - began_s
    yield at_least(
        f"shuttle: AUC of {len(scores):,} unseen readings, Isolation Forest",
        float(roc_auc_score(truth, scores)), "", LEAST_AREA,
    )
    yield Row(measure="shuttle: readings judged by the forest", value=len(scores) / seconds,
              unit="readings/s")


def _fast(running: Site, bulks: int) -> Iterator[Row]:
    chance = np.random.default_rng(datasets.SEED)
    with Client(settings=running.settings) as client:
        for count, each in SHAPES:
            sensors = Sensors(client, f"bench-{count}")
            names = [f"s{number}" for number in range(count)] * each
            _fill(sensors, names[:count], running.settings.sensors.window)
            took = []
            for bulk in range(bulks + 1):
                values = chance.normal(20, 2, len(names)).tolist()
                at = (time.time() - 1e6 + bulk * each + np.arange(each).repeat(count)).tolist()
                readings = [
                    {"sensor": name, "at": when, "value": value}
                    for name, when, value in zip(names, at, values, strict=True)
                ]
                began_s = time.perf_counter()
                answers = sensors.ingest(readings)
                took.append(time.perf_counter() - began_s)
                if not all(isinstance(one, Answer) and one.score is not None for one in answers):
                    raise RuntimeError(f"a reading was refused, or not judged: {answers[-1]}")
            rate = len(names) / statistics.median(took[1:])
            yield at_least(f"bulks of {len(names):,} readings of {count:,} sensors", rate,
                           "readings/s", GOAL_PER_S)
        yield _single(Sensors(client, "bench-single"))


def _fill(sensors: Sensors, names: list[str], window: int) -> None:
    """As many readings as are remembered: so each is judged, on top of as much as there can be."""
    chance, at = np.random.default_rng(datasets.SEED), time.time() - 2e6
    for start in range(0, len(names), 300):
        some = names[start : start + 300]
        times = at + np.arange(window).repeat(len(some))
        sensors.ingest_columns(some * window, times, chance.normal(20, 2, len(times)))


def _single(sensors: Sensors) -> Row:
    at = time.time() - 1e6
    took = []
    for number in range(500):
        began_s = time.perf_counter()
        sensors.ingest([{"sensor": "one", "at": at + number, "value": float(number % 7)}])
        took.append(time.perf_counter() - began_s)
    return Row(measure="one reading by itself, answered", value=statistics.median(took) * 1e3,
               unit="ms")
