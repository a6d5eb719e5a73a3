"""How often the robust detector calls a reading an anomaly that is none, by threshold.

    .venv/bin/python -m benchmarks.subjects.sensor_alarms

Noise of three kinds, and the weather of three stations near New York (each a sensor, its readings
in order, those that lack left out); of the wind, without the gust of 1,048 mph. Prints calls of a
thousand readings.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from benchmarks.harness import datasets
from celeriac.applications.sensors import detector

Array = np.ndarray[Any, Any]

THRESHOLDS = (6.0, 8.0, 10.0)
NOISE, STEP = 2_000_000, 20_000
NORMAL_RUNS = 10
"""Of normal noise, since calls are so rare there."""
WINDOW, WEEK = 60, 168
GLITCH_MPH = 1_000.0
COLUMNS = ("wind_speed", "temp", "pressure", "humid", "dewp", "visib", "precip")
SLOW = ("dewp", "temp", "pressure")
"""What moves in waves, also beside a week of readings."""


def main() -> None:
    """Print a line for each kind of readings."""
    chance = np.random.default_rng(datasets.SEED)
    many = [scores(chance.standard_normal(NOISE), WINDOW) for _ in range(NORMAL_RUNS)]
    show("normal", np.concatenate(many))
    show("Laplace", scores(chance.laplace(size=NOISE), WINDOW))
    show("Student's t, 3", scores(chance.standard_t(3, NOISE), WINDOW))
    with tempfile.TemporaryDirectory() as folder:
        datasets.demo_data(Path(folder))
        weather = pd.read_parquet(Path(folder) / "weather.parquet")
    for column in COLUMNS:
        show(column, np.concatenate(list(_stations(weather, column, WINDOW))))
    for column in SLOW:
        show(f"{column}, window {WEEK}", np.concatenate(list(_stations(weather, column, WEEK))))


def show(name: str, found: Array) -> None:
    """Calls of a thousand readings, above each threshold."""
    rates = "  ".join(f"{level:g}: {(found > level).mean() * 1e3:8.5f}" for level in THRESHOLDS)
    sys.stdout.write(f"{name:20} {len(found):9,} readings  {rates}\n")


def scores(line: Array, window: int) -> Array:
    """Of readings in order, each beside the ``window`` before it."""
    padded = np.concatenate([np.full(window, np.nan), line])
    before = np.lib.stride_tricks.sliding_window_view(padded, window)
    return np.concatenate([
        detector.scores(before[start : start + STEP][: len(line) - start, :, None],
                        line[start : start + STEP, None])
        for start in range(0, len(line), STEP)
    ])  # fmt: skip


def _stations(weather: pd.DataFrame, column: str, window: int) -> Iterator[Array]:
    table = weather.dropna(subset=[column]).sort_values("time_hour", kind="stable")
    table = table.drop_duplicates(["origin", "time_hour"])
    for _, station in table.groupby("origin"):
        line = station[column].to_numpy(dtype=float)
        found = scores(line, window)
        is_glitch = line > GLITCH_MPH if column == "wind_speed" else np.zeros(len(line), dtype=bool)
        yield found[~is_glitch]


if __name__ == "__main__":
    main()
