"""Nightly runs on a real server: once for a date, never silently missed."""

from __future__ import annotations

import json
import pickle
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import pytest
import redis
from celery import Celery
from celery.beat import PersistentScheduler
from typer.testing import CliRunner

import producer.datasets
import tasks.nightly
from celeriac import errors, nightly
from celeriac.messages import (
    MAINTENANCE_QUEUE,
    NIGHTLY_RUN,
    NIGHTLY_WATCH,
    batch_queue,
    nightly_key,
    nightly_missed_key,
)
from celeriac.registry.catalogue import publish
from celeriac.registry.manifest import InputSchema, ModelDraft, OutputSchema
from celeriac.registry.store import Registry
from celeriac.settings import NightlySettings, Settings
from producer.broker import Broker
from producer.jobs import JobHandle

DAY = date(2026, 11, 21)
NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)


@pytest.fixture
def broker(settings: Settings, redis_client: redis.Redis, tmp_path: Path) -> Iterator[Broker]:
    draft = ModelDraft(
        format="echo", input=InputSchema(kind="any"), output=OutputSchema(kind="any")
    )
    registry = Registry(settings.models.root)
    registry.add("echo", lambda folder: draft)
    publish(redis_client, registry.infos())
    night = NightlySettings(
        dataset=f"{tmp_path}/in/{{date}}.csv", model="echo@1", output=f"{tmp_path}/out/{{date}}"
    )
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / f"{DAY}.csv").write_text("a\n1\n2\n")
    broker = Broker(settings.model_copy(update={"nightly": {"sales": night}}))
    yield broker
    broker.close()


def test_a_date_is_submitted_once(broker: Broker, redis_client: redis.Redis) -> None:
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(
            lambda n: tasks.nightly.run_date(broker, "sales", DAY, owner=f"task{n}"), range(4)
        ))
    jobs = {job for job in found if job is not None}
    assert len(jobs) == 1
    assert redis_client.llen(batch_queue("cpu")) == 1
    assert tasks.nightly.run_date(broker, "sales", DAY, owner="later") in jobs
    redis_client.flushall()  # Redis forgets; the folder does not
    assert tasks.nightly.run_date(broker, "sales", DAY, owner="much later") in jobs
    assert redis_client.llen(batch_queue("cpu")) == 1  # the same job goes on
    assert JobHandle.from_output(broker, nightly.render(
        broker.settings.nightly["sales"].output, DAY)).id in jobs


def test_a_run_that_fails_leaves_the_date_owed(
    broker: Broker, redis_client: redis.Redis, tmp_path: Path
) -> None:
    source = tmp_path / "in" / f"{DAY}.csv"
    late = source.rename(tmp_path / "late.csv")
    with pytest.raises(errors.DatasetError, match="no such file"):
        tasks.nightly.run_date(broker, "sales", DAY, owner="first")
    assert redis_client.exists(nightly_key("sales", DAY.isoformat())) == 0
    late.rename(source)
    assert tasks.nightly.run_date(broker, "sales", DAY, owner="second")


def test_a_night_that_was_planned_but_not_queued_is_missed_and_goes_on(
    broker: Broker, redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_: object, **__: object) -> int:
        raise SystemExit

    with monkeypatch.context() as patch:
        patch.setattr("producer.datasets.publish_missing", killed)
        with pytest.raises(SystemExit):
            tasks.nightly.run_date(broker, "sales", DAY, owner="first")
    assert redis_client.llen(batch_queue("cpu")) == 0
    assert DAY in tasks.nightly.find_missed(broker, NOW)["sales"]
    tasks.nightly.run_date(broker, "sales", DAY, owner="second")
    assert redis_client.llen(batch_queue("cpu")) == 1
    assert DAY not in tasks.nightly.find_missed(broker, NOW)["sales"]


def test_a_night_outlives_a_moment_without_redis(
    broker: Broker, redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tasks.nightly, "get_settings", lambda: broker.settings)
    published = producer.datasets.publish_missing
    failures = [errors.BrokerError("no answer from Redis")]

    def publish_later(*arguments: Any, **options: Any) -> int:
        if failures:
            raise failures.pop()
        return published(*arguments, **options)

    monkeypatch.setattr("producer.datasets.publish_missing", publish_later)
    result = tasks.nightly.run.apply(kwargs={"v": 1, "name": "sales", "date": DAY.isoformat()})
    assert JobHandle.open(broker, result.get()).status().state == "in_progress"
    assert redis_client.llen(batch_queue("cpu")) == 1


def test_another_workers_claim_is_respected_and_ones_own_is_taken_up(
    broker: Broker, redis_client: redis.Redis
) -> None:
    key = nightly_key("sales", DAY.isoformat())
    redis_client.set(key, "other", ex=100)
    assert tasks.nightly.run_date(broker, "sales", DAY, owner="mine") is None
    assert redis_client.get(key) == b"other"
    redis_client.set(key, "mine", ex=100)  # a first delivery, killed while it planned
    assert tasks.nightly.run_date(broker, "sales", DAY, owner="mine") is not None
    assert redis_client.exists(key) == 0


def test_missed_nights_are_noticed(
    broker: Broker, redis_client: redis.Redis, settings: Settings
) -> None:
    tasks.nightly.run_date(broker, "sales", DAY, owner="x")
    found = tasks.nightly.find_missed(broker, NOW)
    assert found == {"sales": [date(2026, 11, 19), date(2026, 11, 20)]}
    recorded = redis_client.get(nightly_missed_key("sales"))
    assert json.loads(recorded or b"") == ["2026-11-19", "2026-11-20"]
    assert redis_client.ttl(nightly_missed_key("sales")) > 0
    off = broker.settings.nightly["sales"].model_copy(update={"enabled": False})
    disabled = Broker(settings.model_copy(update={"nightly": {"sales": off}}))
    assert tasks.nightly.find_missed(disabled, NOW) == {}


def test_beat_sends_the_date_as_data(
    broker: Broker, settings: Settings, redis_client: redis.Redis, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    app = Celery("beat", broker=settings.broker_url, set_as_current=False)
    app.conf.beat_schedule = tasks.nightly.beat_schedule(broker.settings)
    entries = app.conf.beat_schedule
    assert set(entries) == {"nightly-sales", "nightly-watch"}
    assert entries["nightly-watch"]["task"] == NIGHTLY_WATCH
    scheduler = PersistentScheduler(app, schedule_filename=str(tmp_path / "schedule"))
    try:
        scheduler.sync()
        entry = pickle.loads(pickle.dumps(scheduler.schedule["nightly-sales"]))
        monkeypatch.setattr(nightly, "owed_date", lambda at, now: date(2026, 1, 2))
        with app.connection_for_write() as connection:
            scheduler.apply_async(entry, producer=app.amqp.Producer(connection), advance=False)
    finally:
        scheduler.close()
        app.close()
    message = json.loads(redis_client.rpop(MAINTENANCE_QUEUE) or b"{}")
    assert message["headers"]["task"] == NIGHTLY_RUN
    assert message["headers"]["kwargsrepr"] == "{'v': 1, 'name': 'sales', 'date': '2026-01-02'}"
    assert message["headers"]["expires"] is not None


def test_without_schedules_beat_has_nothing_to_do(settings: Settings) -> None:
    assert tasks.nightly.beat_schedule(settings) == {}


def test_the_tasks_read_the_settings(
    broker: Broker, monkeypatch: pytest.MonkeyPatch, redis_client: redis.Redis
) -> None:
    monkeypatch.setattr(tasks.nightly, "get_settings", lambda: broker.settings)
    result = tasks.nightly.run.apply(kwargs={"v": 1, "name": "sales", "date": DAY.isoformat()})
    assert JobHandle.open(broker, result.get()).status().state == "in_progress"
    tasks.nightly.watch.apply().get()
    assert redis_client.exists(nightly_missed_key("sales"))


def test_the_commands(
    broker: Broker, monkeypatch: pytest.MonkeyPatch, redis_client: redis.Redis
) -> None:
    from producer.cli import nightly as commands

    monkeypatch.setattr(commands, "get_settings", lambda: broker.settings)
    tasks.nightly.find_missed(broker, datetime.now(UTC))
    listed = CliRunner().invoke(commands.app, ["list"], env={"COLUMNS": "300"})
    assert "sales" in listed.output
    assert nightly.owed_date("02:00", datetime.now(UTC)).isoformat() in listed.output
    ran = CliRunner().invoke(commands.app, ["run", "sales", "--date", "2026-11-21"])
    assert "queued sales for 2026-11-21" in ran.output
    message: dict[str, Any] = json.loads(redis_client.rpop(MAINTENANCE_QUEUE) or b"{}")
    assert "'2026-11-21'" in message["headers"]["kwargsrepr"]
    for words in (["run", "nothing"], ["run", "sales", "--date", "soon"]):
        assert isinstance(CliRunner().invoke(commands.app, words).exception, errors.CeleriacError)
