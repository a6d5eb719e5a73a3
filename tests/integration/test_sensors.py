"""Sensors on a real server: states under contention, buffers, leases and bounds."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import redis

from celeriac import errors
from celeriac.applications.sensors import rows, state
from celeriac.keys import SENSORS_DUE_KEY, SENSORS_READY_BYTES_KEY, SENSORS_READY_KEY, sensors_key
from celeriac.settings import SensorSettings, Settings
from producer.applications.sensors import Answer, Sensors
from producer.applications.sensors.scripts import BATCH_BYTES
from producer.applications.sensors.store import SAVED, Analysed, Save, SensorStore
from producer.client import Client
from tasks import broker, sensors as tasks
from tests.conftest import ROOT, environment

T0 = 1_700_000_000.0
SENDER = Path(__file__).with_name("sensor_sender.py")


@pytest.fixture
def small(settings: Settings, redis_client: redis.Redis) -> Settings:
    """Batches of ten readings, a lease of one second."""
    sensors = SensorSettings(
        window=20, batch_readings=10, batch_s=1, max_sensors=50, lease_s=1, max_attempts=2,
        kept_analyses=1_000,
    )
    return settings.model_copy(update={"sensors": sensors})


@pytest.fixture
def client(small: Settings) -> Iterator[Client]:
    with Client(settings=small) as client:
        yield client


@pytest.fixture
def sensors(client: Client) -> Sensors:
    return Sensors(client)


@pytest.fixture
def store(client: Client, small: Settings) -> SensorStore:
    return SensorStore(client.broker.redis, small.sensors)


@pytest.fixture(autouse=True)
def worker_settings(small: Settings, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for module in (tasks, broker):
        monkeypatch.setattr(module, "get_settings", lambda: small)
    broker.kept_broker.cache_clear()
    yield
    broker.kept_broker().close()
    broker.kept_broker.cache_clear()


def line(sensor: str, start: int, count: int, value: float | None = None) -> list[dict[str, Any]]:
    return [
        {"sensor": sensor, "at": T0 + at, "value": float(at % 7) if value is None else value}
        for at in range(start, start + count)
    ]


def test_a_reading_is_answered_and_kept(sensors: Sensors) -> None:
    answers = sensors.ingest(line("pump", 0, 30))
    assert all(isinstance(answer, Answer) for answer in answers)
    [strange] = sensors.ingest([{"sensor": "pump", "at": T0 + 30, "value": 1_048.36}])
    assert isinstance(strange, Answer)
    assert (strange.anomaly, strange.alarm) == (True, "opened")
    assert strange.score is not None
    assert strange.score > 100
    view = sensors.sensor("pump")
    assert (view.readings, view.anomalies, view.channels) == (31, 1, 1)
    assert view.last_values == [1_048.36]
    assert view.alarm is not None
    assert len(view.recent) == 20
    assert [(one.sensor, one.event) for one in sensors.alarms()] == [("pump", "opened")]
    sensors.ingest(line("pump", 31, 3))
    assert [one.event for one in sensors.alarms()] == ["closed", "opened"]
    assert sensors.sensor("pump").alarm is None
    with pytest.raises(errors.SensorNotFound, match="pomp"):
        sensors.sensor("pomp")
    with pytest.raises(errors.SensorNotFound):
        sensors.analyses("a/b")


def test_bad_readings_have_their_errors_and_the_rest_goes_on(sensors: Sensors) -> None:
    found = sensors.ingest([
        {"sensor": "a", "at": T0, "value": 1.0},
        {"sensor": "a", "at": T0 + 1, "value": float("nan")},
        {"sensor": "a", "at": T0, "value": 1.0},
        {"sensor": "a", "at": T0, "value": 9.0},
        {"sensor": "b", "at": "soon", "value": 1.0},
        {"sensor": "a", "at": T0 + 2, "values": [1.0, 2.0]},
        {"sensor": "a", "at": time.time() + 3_600, "value": 1.0},
        {"sensor": "b", "at": T0, "values": [1.0, 2.0]},
    ])  # fmt: skip
    assert [type(one) for one in found] == [
        Answer, errors.InvalidItem, Answer, errors.Conflict, errors.InvalidItem,
        errors.InvalidItem, errors.InvalidItem, Answer,
    ]  # fmt: skip
    assert isinstance(found[2], Answer)
    assert found[2].duplicate
    assert "has 1 value, not 2" in str(found[5])
    assert {one.sensor: (one.channels, one.readings) for one in sensors.sensors()} == {
        "a": (1, 1), "b": (2, 1)
    }  # fmt: skip


def test_a_clock_that_was_set_back_is_told_and_then_goes_on(sensors: Sensors) -> None:
    sensors.ingest(line("a", 100, 20))
    [late] = sensors.ingest(line("a", 40, 1))
    assert isinstance(late, errors.InvalidItem)
    assert "comes too late: 'a' has sent 20 newer readings" in late.message
    [twice] = sensors.ingest(line("a", 110, 1))
    assert isinstance(twice, Answer)
    assert twice.duplicate
    [after] = sensors.ingest(line("a", 120, 1))
    assert isinstance(after, Answer)


def test_there_is_a_bound_on_sensors_and_readings(sensors: Sensors, client: Client) -> None:
    found = sensors.ingest([{"sensor": f"s{at}", "at": T0, "value": 1.0} for at in range(60)])
    assert sum(isinstance(one, Answer) for one in found) == 50
    refused = [one for one in found if isinstance(one, errors.Overloaded)]
    assert len(refused) == 10
    assert "max_sensors" in refused[0].message
    assert sensors.count() == 50
    assert isinstance(sensors.ingest(line("s1", 5, 1))[0], Answer), "those that are known go on"
    with pytest.raises(errors.PayloadTooLarge, match="max_readings"):
        sensors.ingest([{}] * 20_001)
    other = Sensors(client, "other")
    assert isinstance(other.ingest(line("s1", 0, 1))[0], Answer)
    assert other.count() == 1, "a tenant has sensors of its own"
    with pytest.raises(errors.RequestError, match="no tenant's name"):
        Sensors(client, "plant:1")


def test_every_key_expires_or_is_owned(sensors: Sensors, store: SensorStore,
                                       redis_client: redis.Redis) -> None:
    sensors.ingest([*line("a", 0, 25), *line("a", 25, 1, value=1e6)])
    owned = {
        b"celeriac:sensors:ready", b"celeriac:sensors:due", b"celeriac:sensors:count",
        b"celeriac:sensor:readings:default:1:a", b"batch.cpu", b"celeriac:sensors:batch:1",
        b"celeriac:sensors:batch:2", b"celeriac:sensors:ready_bytes",
    }  # fmt: skip
    lasting = {key for key in redis_client.keys() if redis_client.ttl(key) < 0}  # noqa: SIM118
    assert lasting == owned
    time.sleep(1.1)
    assert store.sweep().sealed == 1
    tasks.analyse_ready()
    left = {key for key in redis_client.keys() if redis_client.ttl(key) < 0}  # noqa: SIM118
    assert left == {b"celeriac:sensors:count", b"batch.cpu"}, "and the message that called"


def test_batches_are_full_or_due_and_hold_each_reading_once(
    sensors: Sensors, store: SensorStore, redis_client: redis.Redis
) -> None:
    for start in range(0, 27, 9):
        sensors.ingest(line("a", start, 9))
    sensors.ingest(line("b", 0, 3))
    sensors.ingest(line("a", 20, 7))  # again
    assert redis_client.llen("batch.cpu") == 1, "one call for what is ready"
    assert redis_client.zcard(SENSORS_DUE_KEY) == 2
    time.sleep(1.1)
    assert store.sweep()[:2] == (2, 2)
    assert store.sweep()[:2] == (0, 0)
    tasks.analyse_ready()
    found = {name: sensors.analyses(name) for name in "ab"}
    assert [(one["number"], one["first"], one["readings"], one["why"]) for one in found["a"]] == [
        (3, 21, 7, "time"), (2, 11, 10, "full"), (1, 1, 10, "full")
    ]  # fmt: skip
    assert [(one["readings"], one["why"]) for one in found["b"]] == [(3, "time")]
    assert found["a"][1]["from"] == "2023-11-14T22:13:30.000Z"
    assert redis_client.zcard(SENSORS_READY_KEY) == 0


def test_a_missing_period_between_two_batches_is_found(sensors: Sensors) -> None:
    sensors.ingest(line("a", 0, 10))
    sensors.ingest(line("a", 500, 10))
    tasks.analyse_ready()
    newest = sensors.analyses("a")[0]
    assert [gap["missing"] for gap in newest["gaps"]] == [490]


def test_readings_that_come_out_of_order_make_no_missing_period(sensors: Sensors) -> None:
    times = [*range(5), *range(6, 10), 5, *range(10, 18), 19, 20, 18, *range(21, 30)]
    for at in times:
        sensors.ingest(line("a", at, 1))
    tasks.analyse_ready()
    found = sensors.analyses("a")
    assert [(one["readings"], one["gap_count"]) for one in found] == [(10, 0)] * 3


def test_a_batch_that_was_begun_and_not_ended_goes_to_another_worker(
    sensors: Sensors, store: SensorStore, redis_client: redis.Redis
) -> None:
    sensors.ingest(line("a", 0, 20))
    [first, second] = store.claim()
    assert store.claim() == []
    time.sleep(1.1)
    [again] = store.claim()
    assert (again.id, again.epoch) == (first.id, 2), "alone: it may be what killed the worker"
    assert store.commit([tasks.analysis_of(first), tasks.analysis_of(second)]) == 1
    assert store.commit([tasks.analysis_of(again)]) == 1
    assert store.commit([tasks.analysis_of(again)]) == 0, "it is kept once"
    numbers = [one["number"] for one in sensors.analyses("a")]
    assert sorted(numbers) == [1, 2]
    assert redis_client.zcard(SENSORS_READY_KEY) == 0


def test_what_always_kills_is_given_up_and_its_readings_stay(
    sensors: Sensors, store: SensorStore, redis_client: redis.Redis
) -> None:
    sensors.ingest(line("a", 0, 10))
    for _ in range(2):
        [batch] = store.claim()
        time.sleep(1.1)
    tasks.analyse_ready()
    [told] = sensors.analyses("a")
    assert told["error"] == "given up after 2 attempts"
    kept: Any = redis_client.hget(f"celeriac:sensors:batch:{batch.id}", "rows")
    assert len(rows.read(kept, 1)) == 10
    assert 0 < redis_client.ttl(f"celeriac:sensors:batch:{batch.id}") <= 604_800
    assert redis_client.zcard(SENSORS_READY_KEY) == 0


def test_a_worker_is_called_again_once_it_has_begun(
    sensors: Sensors, redis_client: redis.Redis
) -> None:
    for start in (0, 10):
        sensors.ingest(line("a", start, 10))
    assert redis_client.llen("batch.cpu") == 1
    tasks.analyse_ready()
    sensors.ingest(line("a", 20, 10))
    assert redis_client.llen("batch.cpu") == 2
    redis_client.delete("batch.cpu")  # the message is lost ...
    redis_client.delete("celeriac:sensors:called")
    tasks.sweep()
    assert redis_client.llen("batch.cpu") == 1, "... and the sweep sends another"


def test_what_is_sent_again_with_its_answer_lost_is_done(
    sensors: Sensors, store: SensorStore, redis_client: redis.Redis
) -> None:
    """A connection that breaks has the exchange made again, by the client of Redis."""
    row = rows.of(np.array([1]), np.array([np.nan]), 8.0, np.ones((1, 1))).tobytes()
    known = state.new(1, 20, 1)
    known["token"] = b"12345678"
    save = Save("a", b"", known.tobytes(), row, touch=True, alarms=b"")
    assert [store.save("default", 1, [save]).outcomes for _ in range(2)] == [[SAVED], [SAVED]]
    assert redis_client.strlen("celeriac:sensor:readings:default:1:a") == len(row)


def test_a_sensor_that_alarms_all_the_time_leaves_the_newest_thousand(
    sensors: Sensors, redis_client: redis.Redis
) -> None:
    sensors.ingest(line("a", 0, 30))
    wild = [1e6 if at % 4 == 0 else at % 3 for at in range(5_000)]
    for start in (30, 5_030):
        sensors.ingest_columns(["a"] * 5_000, T0 + np.arange(start, start + 5_000), wild)
    assert redis_client.llen("celeriac:sensors:alarms:default") == 1_000
    found = sensors.alarms(1_000)
    assert found[0].opened_at_s == T0 + 5_030 + 4_996
    times = [one.closed_at_s or one.opened_at_s for one in found]
    assert times == sorted(times, reverse=True)


def test_the_list_of_sensors_forgets_those_that_are_silent(
    sensors: Sensors, redis_client: redis.Redis
) -> None:
    sensors.ingest([{"sensor": f"s{at}", "at": T0, "value": 1.0} for at in range(50)])
    redis_client.zadd(sensors_key("default"), {"s3": 1, "s4": 1})
    redis_client.delete("celeriac:sensor:state:default:s3", "celeriac:sensor:state:default:s4")
    sensors.ingest(line("s1", 1, 1))
    assert sensors.count() == 48
    [one] = sensors.ingest([{"sensor": "new", "at": T0, "value": 1.0}])
    assert isinstance(one, Answer), "there is room again"
    assert sensors.count() == 49


def test_many_processes_at_once_lose_no_reading_and_count_none_twice(
    store: SensorStore, client: Client, redis_client: redis.Redis
) -> None:
    processes = [
        subprocess.Popen([sys.executable, str(SENDER), client.broker.url, str(seed)], cwd=ROOT)
        for seed in range(4)
    ]
    end_s = time.monotonic() + 60
    while int(redis_client.get("senders") or 0) < 4 and time.monotonic() < end_s:
        time.sleep(0.05)
    redis_client.set("go", 1)
    assert [process.wait(60) for process in processes] == [0] * 4
    seen: dict[str, list[int]] = {}
    while batches := store.claim():
        for batch in batches:
            found = rows.read(batch.rows, batch.channels)["at_ms"].tolist()
            seen.setdefault(batch.sensor, []).extend(found)
        store.commit([Analysed(batch, json.dumps({}).encode()) for batch in batches])
    wanted = [round((T0 + at) * 1_000) for at in range(80)]
    assert {name: sorted(times) for name, times in seen.items()} == {
        f"s{sensor}": wanted for sensor in range(5)
    }


def test_the_command(
    small: Settings, tmp_path: Path, celeriac: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    env = environment(small) | {"CELERIAC_SENSORS_BATCH_READINGS": "10"}
    rows = [f"pump,{T0 + at},{at % 7}" for at in range(40)] + [f"pump,{T0 + 40},1048.36"]
    rows += [f"pump,{T0 + 41},hot", ",1,1", "pump,,3"]
    source = tmp_path / "readings.csv"
    source.write_text("\n".join(["\ufeffsensor,at,value", *rows]) + "\n")  # as Excel has it
    assert "no sensor has sent" in celeriac("sensors", "list", env=env).stdout
    assert "no alarm has opened" in celeriac("sensors", "alarms", env=env).stdout
    said = celeriac("sensors", "ingest", str(source), env=env)
    assert said.returncode == 1
    assert "2023-11-14 22:14:00 pump: score" in said.stdout
    assert "41 readings were taken, 0 had come before, 3 are wrong; 1 anomaly among" in said.stdout
    assert "reading 42: a value is a number, not 'hot'" in said.stderr
    assert "reading 44: at is Unix seconds" in said.stderr
    lines = tmp_path / "readings.jsonl"
    hall = json.dumps({"sensor": "hall", "at": T0, "values": [1, 2]})
    lines.write_text("\n".join([hall, "nonsense", "[" * 50_000]))
    said = celeriac("sensors", "ingest", str(lines), "--json", env=env)
    assert [set(json.loads(one)) >= {"error"} for one in said.stdout.splitlines()] == [
        False, True, True
    ]  # fmt: skip
    tasks.analyse_ready()
    shown = celeriac("sensors", "list", env=env).stdout
    assert "pump" in shown
    assert "hall" in shown
    shown = celeriac("sensors", "show", "pump", env=env).stdout
    assert "41 readings, 1 anomaly;" in shown
    assert "an alarm is open since 2023-11-14 22:14:00" in shown
    assert "batch 4, 10 readings" in shown
    assert "opened" in celeriac("sensors", "alarms", env=env).stdout
    page = tmp_path / "pump.html"
    celeriac("sensors", "page", "pump", "-o", str(page), env=env)
    assert "<svg" in page.read_text()
    assert "1,048" in page.read_text()
    assert "no sensor 'pomp'" in celeriac("sensors", "show", "pomp", env=env).stderr
    wrong = celeriac("sensors", "ingest", str(source), "--values", "temp", env=env)
    assert wrong.returncode == 1
    assert "no column temp" in wrong.stderr


def test_where_nobody_analyses_readings_are_refused_at_last(
    small: Settings, redis_client: redis.Redis
) -> None:
    """Batches of 10,000 readings of 24 bytes: the fifth is beyond a megabyte."""
    update = {"max_ready_mb": 1, "batch_readings": 10_000}
    few = small.model_copy(update={"sensors": small.sensors.model_copy(update=update)})
    with Client(settings=few) as client:
        sensors = Sensors(client)

        def send(at: int) -> Any:
            return sensors.ingest_columns(
                ["a"] * 10_000, T0 + np.arange(at, at + 10_000), np.ones(10_000)
            )[-1]

        for start in range(0, 50_000, 10_000):
            assert isinstance(send(start), Answer)
        refused = send(50_000)
        assert isinstance(refused, errors.Overloaded)
        assert "1 MB of readings wait for their analysis" in refused.message
        assert sensors.sensor("a").readings == 50_000
        tasks.analyse_ready()
        assert not redis_client.exists(SENSORS_READY_BYTES_KEY)
        redis_client.set(SENSORS_READY_BYTES_KEY, 10**9)  # a wrong one, with nothing ready
        assert isinstance(send(50_000), Answer)
        tasks.analyse_ready()
        assert not redis_client.exists(SENSORS_READY_BYTES_KEY)


def test_a_batch_of_few_readings_is_counted_with_what_it_takes_itself(
    sensors: Sensors, store: SensorStore, redis_client: redis.Redis
) -> None:
    sensors.ingest(line("a", 0, 25))  # two batches of ten
    assert int(redis_client.get(SENSORS_READY_BYTES_KEY) or 0) == 2 * (240 + BATCH_BYTES)
    first, second = store.claim()
    assert store.commit([Analysed(first, b"{}")]) == 1
    assert int(redis_client.get(SENSORS_READY_BYTES_KEY) or 0) == 240 + BATCH_BYTES
    assert store.commit([Analysed(second, b"{}", is_given_up=True)]) == 1
    assert not redis_client.exists(SENSORS_READY_BYTES_KEY)
