"""Nightly runs on a real server: once for a date, caught up, never two at once, never silent."""

from __future__ import annotations

import base64
import json
import shutil
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, date, datetime, time as clock, timedelta
from pathlib import Path
from typing import Any

import pytest
import redis
from typer.testing import CliRunner

import producer.datasets
import tasks.alerts
import tasks.nightly
from celeriac import errors
from celeriac.alerts import Alert, AlertKind
from celeriac.datasets.places import S3Path
from celeriac.jobs.folder import JobFolder
from celeriac.jobs.ledger import JobState, Ledger
from celeriac.keys import (
    ALERTS_PENDING_KEY,
    ALERTS_SENDER_KEY,
    alert_key,
    job_key,
    nightly_slot_key,
)
from celeriac.messages import ALERT_SEND, MAINTENANCE_QUEUE, NIGHTLY_RUN, NIGHTLY_WATCH, batch_queue
from celeriac.nightly.calendar import output_path, owed_date
from celeriac.nightly.policy import RunState
from celeriac.registry.catalogue import publish
from celeriac.registry.manifest import InputSchema, ModelDraft, OutputSchema
from celeriac.registry.store import Registry
from celeriac.settings import AlertSettings, Settings
from celeriac.settings.nightly import JobOptions, NightlySettings
from producer import nights
from producer.broker import Broker
from producer.cli import jobs, nightly as commands
from producer.jobs import JobHandle
from tasks.alerts import notify

DAY = datetime.now(UTC).date() - timedelta(days=5)
"""Of this week: `celeriac nightly history` looks back a year at most."""
DUE = datetime.combine(DAY + timedelta(days=1), clock(2), UTC)
BEFORE, AFTER = DAY - timedelta(days=1), DAY + timedelta(days=1)


@pytest.fixture
def make_broker(
    settings: Settings, redis_client: redis.Redis, tmp_path: Path
) -> Iterator[Callable[..., Broker]]:
    draft = ModelDraft(
        format="echo", input=InputSchema(kind="any"), output=OutputSchema(kind="any")
    )
    registry = Registry(settings.models.root)
    registry.add("echo", lambda folder: draft)
    publish(redis_client, registry.infos())
    (tmp_path / "in").mkdir()
    for day in (DAY - timedelta(days=2), BEFORE, DAY, AFTER):
        (tmp_path / "in" / f"{day}.csv").write_text("a\n1\n2\n")
    made = []

    def make(alerts: AlertSettings | None = None, **fields: Any) -> Broker:
        night = NightlySettings.model_validate({
            "dataset": f"{tmp_path}/in/{{date}}.csv", "model": "echo@1",
            "output": f"{tmp_path}/out/{{date}}", "first_date": DAY, **fields,
        })
        changed = {"nightly": {"sales": night}, "alerts": alerts or AlertSettings()}
        made.append(Broker(settings.model_copy(update=changed)))
        return made[-1]

    yield make
    for broker in made:
        broker.close()


@pytest.fixture
def broker(make_broker: Callable[..., Broker]) -> Broker:
    return make_broker()


def begin(broker: Broker, day: date = DAY, attempt: int = 1, owner: str = "task") -> str | None:
    return tasks.nightly.run_date(broker, "sales", day, attempt, owner=owner)


def look(broker: Broker, now: datetime) -> Any:
    return tasks.nightly.look_after(broker, now)["sales"].status


def state(broker: Broker, day: date = DAY) -> RunState:
    return nights.newest(broker, "sales", day).state


def end(broker: Broker, job_id: str | None, how: JobState = JobState.COMPLETED) -> None:
    """End a job."""
    if how is JobState.FAILED:
        Ledger(broker.redis, 1_000).fail(str(job_id), "the disk is full")
    else:
        broker.redis.hset(job_key(str(job_id)), "state", str(how))


def begun_at(broker: Broker, day: date, when: datetime) -> None:
    """Have a job's folder say that it was planned at ``when``."""
    job = Path(output_path(broker.settings.nightly["sales"], day)) / "job.json"
    plan = json.loads(job.read_bytes())
    job.write_text(json.dumps({**plan, "created_at": when.isoformat()}))


def sent(client: redis.Redis, task: str = NIGHTLY_RUN) -> list[dict[str, Any]]:
    """Take all messages from the maintenance queue; the arguments of those for ``task``."""
    found = []
    while message := client.rpop(MAINTENANCE_QUEUE):
        decoded = json.loads(message)
        if decoded["headers"]["task"] == task:
            found.append(json.loads(_decode(decoded))[1])
    return found


def _decode(message: dict[str, Any]) -> bytes:
    return base64.b64decode(message["body"])


def alerts(client: redis.Redis) -> set[tuple[str, str]]:
    """Kind and date of all alerts so far."""
    keys = [key.decode().split(":") for key in client.keys("celeriac:alert:*")]
    return {(key[2], key[3]) for key in keys}


# --- a date runs once -----------------------------------------------------------------------------


def test_a_date_is_submitted_once(broker: Broker, redis_client: redis.Redis) -> None:
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda n: begin(broker, owner=f"task{n}"), range(4)))
    ids = {job for job in found if job is not None}
    assert len(ids) == 1
    assert redis_client.llen(batch_queue("cpu")) == 1
    assert begin(broker, owner="later") in ids
    redis_client.flushall()  # Redis forgets; the folder does not
    assert begin(broker, owner="much later") in ids
    assert redis_client.llen(batch_queue("cpu")) == 1  # the same job goes on
    output = output_path(broker.settings.nightly["sales"], DAY)
    assert JobHandle.from_output(broker, output).id in ids


def test_a_date_begins_when_its_dataset_is_whole(
    make_broker: Callable[..., Broker], redis_client: redis.Redis, tmp_path: Path
) -> None:
    broker = make_broker(ready=f"{tmp_path}/in/{{date:%Y}}/{{date:%m-%d}}", missed="run")
    assert (look(broker, DUE).missed, look(broker, DUE).not_ready) == ([], [str(DAY)])
    assert sent(redis_client) == []
    assert look(broker, DUE + timedelta(hours=2)).missed == [str(DAY)]
    assert sent(redis_client) == []
    happened = nights.records_of(broker, "sales").events(9)
    assert [event.what for event in happened] == ["missed"]
    assert f"({tmp_path}/in/{DAY:%Y/%m-%d} is not there)" in happened[0].text
    (tmp_path / "in" / f"{DAY:%Y}").mkdir()
    (tmp_path / "in" / f"{DAY:%Y}" / f"{DAY:%m-%d}").touch()
    assert look(broker, DUE + timedelta(hours=3)).not_ready == []
    assert [one["date"] for one in sent(redis_client)] == [str(DAY)]


def test_what_says_that_a_dataset_is_whole_may_be_out_of_reach(
    make_broker: Callable[..., Broker], redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Then its date is told as one that has not begun; a run that was planned goes on."""
    broker = make_broker(first_date=BEFORE, ready="s3://lake/{date}/_SUCCESS", missed="run")
    begin(broker, BEFORE)
    redis_client.flushall()
    assert state(broker, BEFORE) is RunState.LOST

    def away(_: object) -> bool:
        raise OSError("When getting information for key: no route to host")

    monkeypatch.setattr(S3Path, "exists", away)
    in_time = DUE + timedelta(minutes=5)
    assert look(broker, in_time).not_ready == [str(DAY)]
    assert [one["date"] for one in sent(redis_client)] == [str(BEFORE)]
    assert look(broker, in_time + timedelta(hours=2)).missed == [str(BEFORE), str(DAY)]
    told = nights.records_of(broker, "sales").events(9)
    assert any("_SUCCESS cannot be looked for: When getting" in event.text for event in told)


def test_a_run_that_fails_leaves_the_date_owed(
    broker: Broker, redis_client: redis.Redis, tmp_path: Path
) -> None:
    source = tmp_path / "in" / f"{DAY}.csv"
    late = source.rename(tmp_path / "late.csv")
    with pytest.raises(errors.DatasetError, match="no such file"):
        begin(broker, owner="first")
    assert redis_client.exists(nightly_slot_key("sales")) == 0
    assert alerts(redis_client) == {("failed", str(DAY))}
    late.rename(source)
    end(broker, begin(broker, owner="second"), JobState.FAILED)
    look(broker, DUE + timedelta(hours=1))
    events = nights.records_of(broker, "sales").events()
    told = [one.text for one in events if one.what == "failed"]
    assert told[0] == "the disk is full"  # other news than that it could not begin
    assert "no such file" in told[1]


@pytest.mark.parametrize(
    "step", ["producer.datasets.publish_missing", "celeriac.jobs.folder.JobFolder._with_chunks"]
)
def test_a_night_that_was_planned_but_not_queued_goes_on(
    broker: Broker, redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    def killed(*_: object, **__: object) -> int:
        raise SystemExit

    with monkeypatch.context() as patch:
        patch.setattr(step, killed)
        with pytest.raises(SystemExit):
            begin(broker, owner="first")
    assert redis_client.llen(batch_queue("cpu")) == 0
    assert state(broker) is RunState.LOST
    assert look(broker, DUE + timedelta(hours=2)).missed == [str(DAY)]
    begin(broker, owner="second")
    assert redis_client.llen(batch_queue("cpu")) == 1
    assert look(broker, DUE + timedelta(hours=2)).missed == []


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
    assert alerts(redis_client) == set()


def test_a_task_that_comes_again_takes_up_its_own_place(
    broker: Broker, redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_: object, **__: object) -> None:
        raise SystemExit

    with monkeypatch.context() as patch:  # killed while it plans: the slot stays
        patch.setattr("producer.nights.submit_dataset", killed)
        patch.setattr("celeriac.nightly.records.NightRecords.swap", lambda *_, **__: True)
        with pytest.raises(SystemExit):
            begin(broker, owner="mine")
    slot = {"date": str(DAY), "attempt": 1, "owner": "mine", "job_id": ""}
    redis_client.set(nightly_slot_key("sales"), json.dumps(slot, separators=(",", ":")), ex=100)
    assert state(broker) is RunState.PLANNING
    assert begin(broker, owner="other") is None
    with monkeypatch.context() as patch:  # killed after it has submitted
        patch.setattr("producer.nights._keep", killed)
        with pytest.raises(SystemExit):
            begin(broker, owner="mine")
    job_id = begin(broker, owner="mine")
    held = json.loads(redis_client.get(nightly_slot_key("sales")) or b"")
    assert held["job_id"] == job_id
    redis_client.delete(nightly_slot_key("sales"))  # as if the task came again after its time
    assert begin(broker, owner="mine") == job_id
    assert begin(broker, AFTER, owner="other") is None
    assert redis_client.llen(batch_queue("cpu")) == 1


def test_the_options_of_a_schedule(make_broker: Callable[..., Broker], tmp_path: Path) -> None:
    options = JobOptions(output_format="csv", merge=True, keep_columns=("a",), expires_s=900)
    broker = make_broker(options=options)
    job_id = begin(broker)
    scoring = JobFolder(tmp_path / "out" / str(DAY)).load().scoring
    assert (scoring.output_format, scoring.merge, scoring.keeps) == ("csv", True, ("a",))
    expires_at = JobHandle.open(broker, str(job_id)).status().expires_at
    assert expires_at is not None
    assert timedelta(0) < expires_at - datetime.now(UTC) < timedelta(seconds=901)


# --- the watch ------------------------------------------------------------------------------------


def test_the_watch_begins_what_is_due_once(broker: Broker, redis_client: redis.Redis) -> None:
    look(broker, DUE - timedelta(seconds=1))
    assert sent(redis_client) == []
    for _ in range(3):
        status = look(broker, DUE + timedelta(seconds=1))
    assert (status.missed, status.late, status.failed) == ([], [], [])
    assert sent(redis_client) == [{"v": 1, "name": "sales", "date": str(DAY), "attempt": 1}]
    for key in redis_client.scan_iter("celeriac:nightly:*"):
        assert redis_client.ttl(key) > 0, key


def test_a_message_that_was_lost_is_sent_again(
    broker: Broker, redis_client: redis.Redis
) -> None:
    look(broker, DUE)
    assert len(sent(redis_client)) == 1
    for key in redis_client.scan_iter("celeriac:nightly:sent:*"):
        assert 0 < redis_client.ttl(key) <= 600
        redis_client.delete(key)  # ten minutes later
    look(broker, DUE + timedelta(minutes=10))
    assert len(sent(redis_client)) == 1


def dark_days(broker: Broker, client: redis.Redis) -> list[str]:
    """Three nights without anybody, then looks and runs until nothing is to be done."""
    now, begun = DUE + timedelta(hours=5), []
    for _ in range(10):
        look(broker, now)
        for message in sent(client):
            job_id = begin(broker, date.fromisoformat(message["date"]))
            begun.append(message["date"])
            end(broker, job_id)
    return begun


def test_three_dark_days_are_caught_up(
    make_broker: Callable[..., Broker], redis_client: redis.Redis
) -> None:
    first = DAY - timedelta(days=2)
    broker = make_broker(missed="run", first_date=first)
    assert dark_days(broker, redis_client) == [str(first), str(BEFORE), str(DAY)]
    assert {kind for kind, _ in alerts(redis_client)} == {"missed"}
    assert look(broker, DUE + timedelta(hours=6)).missed == []


def test_the_night_that_is_due_goes_before_those_that_were_missed(
    make_broker: Callable[..., Broker], redis_client: redis.Redis
) -> None:
    broker = make_broker(missed="run", first_date=DAY - timedelta(days=2))
    look(broker, DUE + timedelta(minutes=1))
    assert [one["date"] for one in sent(redis_client)] == [str(DAY)]
    begin(broker, DAY)
    assert look(broker, DUE + timedelta(minutes=2)).waiting == []  # the others come later anyway


def test_three_dark_days_are_reported(
    make_broker: Callable[..., Broker], redis_client: redis.Redis
) -> None:
    first = DAY - timedelta(days=2)
    broker = make_broker(missed="report", first_date=first)
    assert dark_days(broker, redis_client) == []
    days = [str(first), str(BEFORE), str(DAY)]
    assert alerts(redis_client) == {("missed", day) for day in days}
    assert look(broker, DUE + timedelta(hours=6)).missed == days


def test_a_date_whose_earlier_run_goes_on_waits_for_it(
    make_broker: Callable[..., Broker], redis_client: redis.Redis
) -> None:
    broker = make_broker(first_date=BEFORE)
    slow = begin(broker, BEFORE)
    begun_at(broker, BEFORE, DUE - timedelta(days=1))
    status = look(broker, DUE + timedelta(minutes=1))
    assert status.waiting == [str(DAY)]
    assert sent(redis_client) == []
    assert begin(broker, DAY) is None  # by hand, too
    hours_later = DUE + timedelta(hours=5)
    status = look(broker, hours_later)
    assert (status.missed, status.late) == ([], [str(BEFORE), str(DAY)])
    end(broker, slow)
    look(broker, hours_later)  # long after its time, and though missed = "report"
    [message] = sent(redis_client)
    assert message["date"] == str(DAY)
    assert begin(broker, DAY)
    assert look(broker, hours_later).waiting == []
    assert ("missed", str(DAY)) not in alerts(redis_client)


def test_failed_and_expired_jobs_are_told(
    make_broker: Callable[..., Broker], redis_client: redis.Redis
) -> None:
    broker = make_broker(first_date=BEFORE)
    end(broker, begin(broker, BEFORE), JobState.FAILED)
    end(broker, begin(broker, DAY), JobState.EXPIRED)
    for _ in range(2):
        assert look(broker, DUE + timedelta(hours=1)).failed == [str(BEFORE), str(DAY)]
    assert alerts(redis_client) == {("failed", str(BEFORE)), ("failed", str(DAY))}
    assert sent(redis_client) == []
    [event] = [
        one for one in nights.records_of(broker, "sales").events()
        if one.what == "failed" and one.date == str(BEFORE)
    ]
    assert event.text == "the disk is full"


def test_what_to_do_about_a_failed_run_follows_from_what_is_left(
    broker: Broker, tmp_path: Path
) -> None:
    begin(broker)
    run = nights.newest(broker, "sales", DAY)
    schedule = broker.settings.nightly["sales"]

    def told() -> str:
        return tasks.nightly._next("sales", schedule, run, AlertKind.FAILED)

    assert told().startswith(f"celeriac batch resume {run.output};")
    JobFolder(run.output).plan.unlink()
    assert told() == f"celeriac nightly run sales --date {DAY} --force"
    JobFolder(run.output).job.unlink()
    assert told() == f"celeriac nightly run sales --date {DAY}"


def test_a_run_with_failed_rows_is_told(
    make_broker: Callable[..., Broker], redis_client: redis.Redis
) -> None:
    broker = make_broker()
    job_id = begin(broker)
    end(broker, job_id, JobState.COMPLETED_WITH_ERRORS)
    redis_client.hset(job_key(str(job_id)), "rows_failed", 1)
    assert look(broker, DUE + timedelta(hours=1)).errors == [str(DAY)]
    assert alerts(redis_client) == {("errors", str(DAY))}
    events = nights.records_of(broker, "sales").events()
    [told] = [one for one in events if one.what == "errors"]
    assert told.text == "1 of 2 rows have no answer"


def test_a_run_that_is_caught_up_is_not_late_while_it_is_planned(
    broker: Broker, redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []

    def plans(*_: object, **__: object) -> None:
        now = datetime.now(UTC)  # long after the night was due
        seen.append((look(broker, now).late, look(broker, now + timedelta(hours=4)).late))
        raise errors.DatasetError("no such file")

    monkeypatch.setattr("producer.nights.submit_dataset", plans)
    day = owed_date(broker.settings.nightly["sales"], datetime.now(UTC)) - timedelta(days=2)
    monkeypatch.setattr("tasks.nightly.calendar.owed_dates", lambda *_: [day])
    with pytest.raises(errors.DatasetError):
        begin(broker, day)
    assert seen == [([], [str(day)])]


def test_a_planning_task_keeps_its_slot_and_a_killed_one_loses_it_soon(
    broker: Broker, redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    slot, left_s = nightly_slot_key("sales"), []

    def plans(*_: object, **__: object) -> None:
        redis_client.expire(slot, 10)  # as if most of its time were over
        while (found := int(redis_client.ttl(slot))) in range(11):
            time.sleep(0.02)
        left_s.append(found)
        raise errors.DatasetError("no such file")

    monkeypatch.setattr("producer.nights.submit_dataset", plans)
    with pytest.raises(errors.DatasetError):
        begin(broker)
    assert 50 < left_s[0] <= 60
    assert not redis_client.exists(slot)


def test_a_slot_that_redis_forgets_while_a_night_is_planned_is_its_jobs_all_the_same(
    broker: Broker, redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    submit = nights.submit_dataset

    def submits(*arguments: Any, **options: Any) -> JobHandle:
        handle = submit(*arguments, **options)
        redis_client.delete(nightly_slot_key("sales"))
        return handle

    monkeypatch.setattr("producer.nights.submit_dataset", submits)
    job_id = begin(broker)
    holder = nights.under_way(broker, "sales")
    assert holder is not None
    assert holder.job_id == job_id


def test_an_old_job_that_redis_may_have_forgotten_is_left_alone(
    make_broker: Callable[..., Broker], redis_client: redis.Redis
) -> None:
    broker = make_broker(missed="run")
    begin(broker)
    ttl_s = broker.settings.batch.job_ttl_s
    begun_at(broker, DAY, datetime.now(UTC) - timedelta(seconds=ttl_s + 60))
    redis_client.flushall()
    assert state(broker) is RunState.UNFINISHED
    look(broker, DUE)
    assert sent(redis_client) == []


@pytest.mark.parametrize("name", ["job.json", "manifest.json"])
def test_a_folder_that_cannot_be_read_keeps_nothing_else_from_its_turn(
    make_broker: Callable[..., Broker], redis_client: redis.Redis, name: str
) -> None:
    broker = make_broker(first_date=BEFORE)
    folder = Path(output_path(broker.settings.nightly["sales"], BEFORE))
    begin(broker, BEFORE)
    (folder / name).write_text("{")
    (folder / "_SUCCESS").touch()
    redis_client.flushall()
    assert state(broker, BEFORE) is RunState.UNREADABLE
    look(broker, DUE)
    assert [one["date"] for one in sent(redis_client)] == [str(DAY)]


def test_beat_sends_the_watch(broker: Broker, settings: Settings) -> None:
    [entry] = tasks.nightly.beat_schedule(broker.settings).values()
    assert entry["task"] == NIGHTLY_WATCH
    assert entry["options"]["expires"] == entry["schedule"]
    assert tasks.nightly.beat_schedule(settings) == {}
    off = broker.settings.nightly["sales"].model_copy(update={"enabled": False})
    disabled = settings.model_copy(update={"nightly": {"sales": off}})
    assert tasks.nightly.beat_schedule(disabled) == {}
    told = settings.model_copy(update={"alerts": AlertSettings(webhook="https://host/path")})
    assert tasks.nightly.beat_schedule(told)  # what was not delivered is tried again
    assert tasks.nightly.look_after(Broker(disabled), DUE) == {}


def test_the_tasks_read_the_settings(
    broker: Broker, monkeypatch: pytest.MonkeyPatch, redis_client: redis.Redis
) -> None:
    monkeypatch.setattr(tasks.nightly, "get_settings", lambda: broker.settings)
    result = tasks.nightly.run.apply(kwargs={"v": 1, "name": "sales", "date": DAY.isoformat()})
    assert JobHandle.open(broker, result.get()).status().state == "in_progress"
    tasks.nightly.watch.apply().get()
    assert nights.records_of(broker, "sales").status() is not None


# --- forced runs ----------------------------------------------------------------------------------


def test_a_forced_run_has_a_folder_of_its_own(
    broker: Broker, redis_client: redis.Redis, tmp_path: Path
) -> None:
    first = begin(broker)
    assert begin(broker, attempt=2) is None  # the first one has not ended
    end(broker, first)
    before = {path: path.read_bytes() for path in (tmp_path / "out" / str(DAY)).rglob("*.json*")}
    second = begin(broker, attempt=2)
    assert second not in (None, first)
    assert begin(broker, attempt=2) == second
    assert (tmp_path / "out" / f"{DAY}.attempt-2" / "job.json").exists()
    assert {path: path.read_bytes() for path in before} == before
    found = nights.runs(broker, "sales", DAY)
    assert [(one.attempt, one.state) for one in found] == [
        (1, RunState.COMPLETED), (2, RunState.RUNNING),
    ]
    current = nights.current(found)
    assert current is not None
    assert current.attempt == 1
    end(broker, second, JobState.FAILED)
    assert nights.current(nights.runs(broker, "sales", DAY)) == current
    with pytest.raises(errors.RequestError, match="from 1 to 99"):
        begin(broker, attempt=100)


def test_a_forced_run_that_redis_lost_is_the_one_that_goes_on(
    make_broker: Callable[..., Broker], redis_client: redis.Redis
) -> None:
    broker = make_broker(missed="run")
    end(broker, begin(broker))
    begin(broker, attempt=2)
    redis_client.flushall()
    publish(redis_client, Registry(broker.settings.models.root).infos())
    for late in (timedelta(minutes=1), timedelta(hours=2)):  # in its time, and caught up
        look(broker, DUE + late)
        assert [one["attempt"] for one in sent(redis_client)] == [2]
        nights.records_of(broker, "sales").clear_sent(DAY)


def test_a_first_run_whose_folder_was_deleted_hides_no_later_one(
    make_broker: Callable[..., Broker], redis_client: redis.Redis, tmp_path: Path
) -> None:
    broker = make_broker(missed="run")
    for attempt in (1, 2, 3):
        end(broker, begin(broker, attempt=attempt))
    sent(redis_client)
    for folder in (f"{DAY}", f"{DAY}.attempt-2"):
        shutil.rmtree(tmp_path / "out" / folder)
    (tmp_path / "out" / f"{DAY}.attempt-old").mkdir()
    assert [one.attempt for one in nights.runs(broker, "sales", DAY)] == [3]
    look(broker, DUE + timedelta(minutes=1))
    assert sent(redis_client) == []  # the date has its run
    assert begin(broker, attempt=4)


def test_a_second_failure_is_told_though_the_folder_of_the_first_was_deleted(
    broker: Broker, redis_client: redis.Redis, tmp_path: Path
) -> None:
    for number in (1, 2):
        end(broker, begin(broker), JobState.FAILED)
        look(broker, DUE + timedelta(hours=1))
        assert len(redis_client.keys("celeriac:alert:failed:*")) == number
        shutil.rmtree(tmp_path / "out" / str(DAY))


# --- alerts ---------------------------------------------------------------------------------------


def alert(kind: AlertKind = AlertKind.LATE) -> Alert:
    return Alert(
        kind=kind, schedule="sales", entry="dataset", date=str(DAY), attempt=1, reason="r",
        next="n", at=DUE.isoformat(),
    )


def test_an_alert_is_sent_once_and_one_at_a_time(
    make_broker: Callable[..., Broker], redis_client: redis.Redis, tmp_path: Path
) -> None:
    command = ["sh", "-c", f"cat >> {tmp_path}/told; echo >> {tmp_path}/told"]
    broker = make_broker(alerts=AlertSettings(command=command))
    assert [notify(broker, alert()) for _ in range(3)] == [True, False, False]
    assert notify(broker, alert(AlertKind.MISSED))
    for key in (alert_key(*alert().claim), ALERTS_PENDING_KEY):
        assert redis_client.ttl(key) > 0
    tasks.alerts.send_pending(broker)
    assert sent(redis_client, ALERT_SEND) == [{"v": 1}]

    redis_client.set(ALERTS_SENDER_KEY, "another", ex=100)
    assert not tasks.alerts.send_oldest(broker, owner="one")
    redis_client.delete(ALERTS_SENDER_KEY)
    assert tasks.alerts.send_oldest(broker, owner="one")
    assert sent(redis_client, ALERT_SEND) == [{"v": 1}]  # for the one that is left
    assert tasks.alerts.send_oldest(broker, owner="one")
    assert not tasks.alerts.send_oldest(broker, owner="one")
    assert sent(redis_client, ALERT_SEND) == []
    told = [json.loads(line)["kind"] for line in (tmp_path / "told").read_text().splitlines()]
    assert told == ["late", "missed"]
    assert not redis_client.exists(ALERTS_SENDER_KEY)
    tasks.alerts.send_pending(broker)
    assert sent(redis_client, ALERT_SEND) == []


def test_what_became_of_an_alert_is_in_the_history(
    make_broker: Callable[..., Broker], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ["sh", "-c", f"cat > {tmp_path}/got; exit 2"]
    broker = make_broker(alerts=AlertSettings(command=command))
    monkeypatch.setattr("tasks.alerts.get_settings", lambda: broker.settings)
    notify(broker, alert())
    tasks.alerts.send.apply(kwargs={"v": 1}).get()
    assert tasks.alerts.SENDING.wait(20)
    assert json.loads((tmp_path / "got").read_text())["kind"] == "late"
    [event] = nights.records_of(broker, "sales").events()
    assert event.what == "alert by command failed"
    assert event.text == "late: it ended with exit code 2"


def test_a_receiver_that_fails_is_called_again_at_later_looks(
    make_broker: Callable[..., Broker], redis_client: redis.Redis, tmp_path: Path
) -> None:
    command = ["sh", "-c", f"cat > {tmp_path}/got"]
    broker = make_broker(
        alerts=AlertSettings(webhook="http://127.0.0.1:1", command=command, tries=2)
    )
    notify(broker, alert())
    assert tasks.alerts.send_oldest(broker, owner="one")  # the webhook, which is put back
    assert redis_client.ttl(ALERTS_PENDING_KEY) > 0
    assert not redis_client.exists(ALERTS_SENDER_KEY)
    assert sent(redis_client, ALERT_SEND) == []  # not at once
    assert tasks.alerts.send_oldest(broker, owner="one")  # the command is not held up
    assert (tmp_path / "got").exists()
    assert sent(redis_client, ALERT_SEND) == [{"v": 1}]
    assert tasks.alerts.send_oldest(broker, owner="one")
    assert not tasks.alerts.send_oldest(broker, owner="one")
    events = nights.records_of(broker, "sales").events()
    assert [one.what for one in events] == ["alert by webhook failed", "alert by command sent"]


def test_an_alert_that_a_full_redis_cannot_take_again_stays(
    make_broker: Callable[..., Broker], redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object) -> tuple[str, bool]:
        redis_client.config_set("maxmemory", 1)
        return "it answered 503", True

    broker = make_broker(alerts=AlertSettings(webhook="http://127.0.0.1:1"))
    notify(broker, alert())
    waiting = redis_client.lrange(ALERTS_PENDING_KEY, 0, -1)
    monkeypatch.setattr("tasks.alerts.call_webhook", fails)
    try:
        with pytest.raises(redis.exceptions.OutOfMemoryError):
            tasks.alerts.send_oldest(broker, owner="one")
    finally:
        redis_client.config_set("maxmemory", 0)
    assert redis_client.lrange(ALERTS_PENDING_KEY, 0, -1) == waiting != []


# --- commands -------------------------------------------------------------------------------------


@pytest.fixture
def invoke(
    broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Any]:
    monkeypatch.setattr(jobs, "get_settings", lambda: broker.settings)
    runner = CliRunner()
    return lambda *words, columns=300: runner.invoke(
        commands.app, words, env={"COLUMNS": str(columns)}
    )


def test_list_shows_how_things_stand(
    broker: Broker, invoke: Callable[..., Any], redis_client: redis.Redis
) -> None:
    listed = invoke("list")
    assert "sales" in listed.output
    assert str(owed_date(broker.settings.nightly["sales"], datetime.now(UTC))) in listed.output
    assert "nobody watches sales" in listed.stderr
    tasks.nightly.look_after(broker, datetime.now(UTC))
    narrow = invoke("list", columns=80).stdout.splitlines()
    assert max(map(len, narrow)) <= 80
    assert {line[:4] for line in narrow} == {"sale", "    "}
    assert "nobody watches" not in invoke("list").stderr


def test_list_says_why_the_last_date_could_not_begin(
    broker: Broker, invoke: Callable[..., Any], tmp_path: Path
) -> None:
    day = owed_date(broker.settings.nightly["sales"], datetime.now(UTC))
    with pytest.raises(errors.DatasetError):
        begin(broker, day)
    why = f"{tmp_path}/in/{day}.csv: no such file"
    assert f"    last date {day}  no run: {why}\n" in invoke("list").stdout
    assert json.loads(invoke("list", "--json").stdout)["last"]["reason"] == why


def test_a_date_before_the_first_one_is_no_run_that_lacks(
    make_broker: Callable[..., Broker], monkeypatch: pytest.MonkeyPatch
) -> None:
    first = datetime.now(UTC).date() + timedelta(days=7)
    broker = make_broker(first_date=first)
    monkeypatch.setattr(jobs, "get_settings", lambda: broker.settings)
    listed = CliRunner().invoke(commands.app, ["list"], env={"COLUMNS": "300"}).output
    assert f"last date none yet; the first one is {first}" in listed
    assert "no run" not in listed
    told = json.loads(CliRunner().invoke(commands.app, ["list", "--json"]).output)
    assert (told["last"], told["first_date"]) == (None, str(first))
    assert f"next run {first + timedelta(days=1)}" in listed


def test_run_queues_a_date_and_says_what_it_does(
    broker: Broker, invoke: Callable[..., Any], redis_client: redis.Redis
) -> None:
    ran = invoke("run", "sales", "--date", str(DAY))
    assert f"queued sales for {DAY} (attempt 1)" in ran.output
    assert "nobody watches sales" in ran.stderr  # so it may never begin
    assert [one["attempt"] for one in sent(redis_client)] == [1]
    job_id = begin(broker)
    again = invoke("run", "sales", "--date", str(DAY))
    assert "has a run already (running, attempt 1" in again.output
    forced = invoke("run", "sales", "--date", str(DAY), "--force")
    assert "celeriac batch cancel" in str(forced.exception)
    assert f"begins later: the run for {DAY}" in invoke(
        "run", "sales", "--date", str(BEFORE)
    ).output
    end(broker, job_id)
    forced = invoke("run", "sales", "--date", str(DAY), "--force")
    assert f"{DAY}.attempt-2" in forced.output
    assert [one["attempt"] for one in sent(redis_client)] == [2]
    look(broker, DUE)  # what waits begins
    assert [one["date"] for one in sent(redis_client)] == [str(BEFORE)]
    tasks.nightly.look_after(broker, datetime.now(UTC))
    later = invoke("run", "sales", "--date", str(DAY + timedelta(days=1)))
    assert "nobody watches" not in later.stderr
    for words in (["run", "nothing"], ["run", "sales", "--date", "soon"], ["history", "nothing"]):
        assert isinstance(invoke(*words).exception, errors.CeleriacError)


def test_what_was_planned_and_lost_goes_on_or_begins_anew_by_force(
    broker: Broker, invoke: Callable[..., Any], redis_client: redis.Redis,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def killed(*_: object, **__: object) -> int:
        raise SystemExit

    with monkeypatch.context() as patch:
        patch.setattr("producer.datasets.publish_missing", killed)
        with pytest.raises(SystemExit):
            begin(broker)
    assert state(broker) is RunState.LOST
    assert "(attempt 1)" in invoke("run", "sales", "--date", str(DAY)).output
    assert f"{DAY}.attempt-2" in invoke("run", "sales", "--date", str(DAY), "--force").output
    assert [one["attempt"] for one in sent(redis_client)] == [1, 2]
    assert begin(broker, attempt=2)


def test_a_run_without_its_dataset_is_told_where_run_says(
    broker: Broker, invoke: Callable[..., Any], tmp_path: Path
) -> None:
    (tmp_path / "in" / f"{DAY}.csv").unlink()
    assert "`celeriac nightly history sales`" in invoke("run", "sales", "--date", str(DAY)).output
    with pytest.raises(errors.DatasetError):
        begin(broker)
    shown = invoke("history", "sales").output
    assert "could not begin" in shown
    assert "no such file" in shown


def test_a_date_to_come_is_run_only_by_force(
    broker: Broker, invoke: Callable[..., Any], redis_client: redis.Redis
) -> None:
    to_come = str(datetime.now(UTC).date() + timedelta(days=40))
    refused = invoke("run", "sales", "--date", to_come)
    assert isinstance(refused.exception, errors.RequestError)
    assert "is in the future" in str(refused.exception)
    assert sent(redis_client) == []
    assert invoke("run", "sales", "--date", to_come, "--force").exit_code == 0
    assert [one["date"] for one in sent(redis_client)] == [to_come]


def test_json_for_programs(
    broker: Broker, invoke: Callable[..., Any], redis_client: redis.Redis
) -> None:
    end(broker, begin(broker))
    (listed,) = map(json.loads, invoke("list", "--json").stdout.splitlines())
    assert (listed["name"], listed["model"], listed["status"]) == ("sales", "echo@1", None)
    assert datetime.fromisoformat(listed["next_run"]) > datetime.now(UTC)
    days = (owed_date(broker.settings.nightly["sales"], datetime.now(UTC)) - DAY).days + 1
    shown = invoke("history", "sales", "--dates", str(days), "--json").stdout.splitlines()
    found = {one["day"]: one for one in map(json.loads, shown)}
    assert len(found) == days
    assert found[str(DAY)]["state"] == "completed"
    again = json.loads(invoke("run", "sales", "--date", str(DAY), "--json").stdout)
    assert (again["day"], again["attempt"], again["has_run"]) == (str(DAY), 1, True)
    forced = json.loads(invoke("run", "sales", "--date", str(DAY), "--force", "--json").stdout)
    assert (forced["attempt"], forced["has_run"]) == (2, False)
    assert forced["output"].endswith(f"{DAY}.attempt-2")


def test_history_shows_attempts_and_events(
    broker: Broker, invoke: Callable[..., Any], redis_client: redis.Redis
) -> None:
    end(broker, begin(broker))
    end(broker, begin(broker, attempt=2), JobState.FAILED)
    days = (owed_date(broker.settings.nightly["sales"], datetime.now(UTC)) - DAY).days + 1
    shown = invoke("history", "sales", "--dates", str(days), columns=80).output
    lines = [line.split() for line in shown.splitlines() if line.startswith(str(DAY))]
    assert lines[0][1:4] == ["attempt", "2", "failed:"]
    assert lines[1][1:5] == ["attempt", "1", "(current)", "completed"]
    assert "    " + output_path(broker.settings.nightly["sales"], DAY, 2) in shown.splitlines()
    assert "submitted" in shown
    redis_client.flushall()  # what is in the folders is still shown
    shown = invoke("history", "sales", "--dates", str(days)).output
    assert str(DAY) in shown
    assert "last events" not in shown
