"""Sensors: the weather of New York with its genuine glitch, and a space shuttle's readings.

    .venv/bin/python -m examples.sensors

Starts a local stack, sends a year of wind from three stations in bulk, finds the gust of 1,048 mph
that an instrument reported on 12 February 2013, has readings judged by an Isolation Forest, shows
what a batch of readings says, and stops.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pandas as pd
from sklearn.ensemble import IsolationForest
from sklearn.metrics import roc_auc_score

from celeriac import release
from celeriac.applications.sensors.page import render
from celeriac.registry.store import Registry
from celeriac.settings import ModelsSettings, SensorSettings, Settings, StackSettings
from producer import Client
from producer.applications.sensors import Answer, Sensors
from workers.stack import Stack
from workers.valkey import free_port

HOME = Path(".celeriac/examples/sensors").absolute()
TRAINED_ON, SHOWN = 20_000, 3_000
say = sys.stdout.write


def main() -> None:
    """Run the example; its files stay in ``.celeriac/examples/sensors``."""
    shutil.rmtree(HOME, ignore_errors=True)
    subprocess.run([sys.executable, "-m", "demo.data", HOME], check=True, timeout=120)  # noqa: S603 - our own program
    settings = Settings(
        stack=StackSettings(state_dir=HOME / "state", redis_port=free_port(), metrics_port=0),
        models=ModelsSettings(root=HOME / "models"),
        sensors=SensorSettings(batch_readings=1_000, batch_s=2),
    )
    rest = train_on_some(settings)
    roles = ("realtime.cpu", "batch.cpu", "maintenance")
    stack = Stack(settings, roles=roles, flower=False, gateway=False)
    with stack, Client(settings=stack.settings) as client:
        sensors = Sensors(client)
        a_year_of_wind(sensors)
        shuttle(sensors, rest)
        what_batches_say(sensors)
    say("Done.\n")


def train_on_some(settings: Settings) -> pd.DataFrame:
    """Register and promote ``shuttle``, which has seen no labels; the readings that are left."""
    table = pd.read_parquet(HOME / "shuttle.parquet")
    columns = [name for name in table if name != "anomaly"]
    known = table[columns].to_numpy(dtype=float)[:TRAINED_ON]
    forest = IsolationForest(random_state=1).fit(known)
    # It knows that 7 % of a shuttle's readings are strange, but not which.
    threshold = float(np.quantile(-forest.score_samples(known), 0.93))
    registry = Registry(settings.models.root)
    release.register(
        "shuttle", forest, examples=known[:200], kind="regressor", registry=registry,
        metrics={"anomaly_threshold": threshold},
    )
    release.promote(registry, "shuttle@1", settings=settings, who="example")
    return table.iloc[TRAINED_ON:]


def a_year_of_wind(sensors: Sensors) -> None:
    """Three stations, an hour between two readings, all in bulk."""
    weather = pd.read_parquet(HOME / "weather.parquet").dropna(subset=["wind_speed"])
    names = ("wind:" + weather["origin"].astype(str)).tolist()
    hours = pd.to_datetime(weather["time_hour"], utc=True)
    at = (hours - pd.Timestamp(0, tz="UTC")).dt.total_seconds().to_numpy()
    speed = weather["wind_speed"].to_numpy(dtype=float)
    began_s, found = time.perf_counter(), []
    for start in range(0, len(names), 10_000):
        block = slice(start, start + 10_000)
        found += sensors.ingest_columns(names[block], at[block], speed[block])
    seconds = time.perf_counter() - began_s
    answers = [one for one in found if isinstance(one, Answer)]
    strange = [one for one in answers if one.anomaly]
    worst = max(strange, key=lambda one: one.score or 0.0)
    say(f"{len(answers):,} readings of wind in {seconds:.2f} s\n")
    say(f"  {moment(worst.at)} {worst.sensor}: score {worst.score:.0f}, threshold "
        f"{worst.threshold:g}\n")
    say(f"  of the others {len(strange) - 1} are called anomalies: "
        f"{(len(strange) - 1) / len(answers):.2%}\n")


def shuttle(sensors: Sensors, rest: pd.DataFrame) -> None:
    """Nine numbers to a reading, judged by the forest, beside what engineers called strange."""
    rest = rest.head(SHOWN)
    truth = rest.pop("anomaly").to_numpy()
    at = time.time() - len(rest) + np.arange(len(rest))
    found = sensors.ingest_columns(["shuttle"] * len(rest), at, rest, model="shuttle")
    answers = [one for one in found if isinstance(one, Answer)]
    called = np.array([bool(one.anomaly) for one in answers])
    area = roc_auc_score(truth, [one.score for one in answers])
    say(f"{len(answers):,} readings of a shuttle: AUC {area:.4f}; called strange: "
        f"{called[truth == 1].mean():.1%} of the strange, {called[truth == 0].mean():.2%} of the "
        "others\n")


def what_batches_say(sensors: Sensors) -> None:
    """The last batch of a station, once the workers have analysed it, and a page."""
    end_s = time.monotonic() + 60
    while sum(one["readings"] for one in sensors.analyses("wind:EWR", 100)) < 8_000:
        if time.monotonic() > end_s:
            raise SystemExit("no worker has analysed the readings")
        time.sleep(0.2)
    batches = sensors.analyses("wind:EWR", 100)
    first = batches[-1]
    wind = first["channels"][0]
    say(f"wind:EWR, {len(batches)} batches; of the first {first['readings']:,} readings, to "
        f"{first['to'][:10]}: mean {wind['mean']:.1f} mph, median {wind['median']:.1f}, mode "
        f"{wind['mode']:.1f}, trend {wind['trend']['direction']} (p {wind['trend']['p']:.2g}), "
        f"{first['missing']} hours missing\n")
    view = sensors.sensor("wind:EWR")
    alarms = [vars(one) for one in sensors.alarms(1_000) if one.sensor == view.sensor]
    page = HOME / "wind-EWR.html"
    page.write_bytes(render(view.to_wire(), batches, alarms))
    say(f"page: {page}\n")


def moment(at_s: float) -> str:
    """An hour, in UTC."""
    return f"{datetime.fromtimestamp(at_s, UTC):%Y-%m-%d %H:%M}"


if __name__ == "__main__":
    main()
