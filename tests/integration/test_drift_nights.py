"""Nights that compare: once for a date, told once, owed as long as there is no ``drift.json``."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import redis
from sklearn.linear_model import LogisticRegression

import tasks.nightly
from celeriac import errors, release
from celeriac.drift.records import DriftReport
from celeriac.keys import nightly_slot_key
from celeriac.messages import DRIFT_NOTICE, MAINTENANCE_QUEUE, NIGHTLY_RUN
from celeriac.nightly.policy import Run, RunState
from celeriac.nightly.records import Holder
from celeriac.registry.catalogue import publish
from celeriac.registry.store import Registry
from celeriac.settings import Settings
from celeriac.settings.nightly import NightlySettings
from producer import nights
from producer.broker import Broker
from producer.cli import jobs, nightly as commands
from tasks import drift_nights

DAY = date(2026, 11, 21)
DUE = datetime(2026, 11, 22, 2, tzinfo=UTC)
ONE_DAY = timedelta(days=1)


def rows(mean: float = 0.0, nulls: float = 0.0, seed: int = 1) -> pd.DataFrame:
    """The same rows each time: of nights that are drawn anew, one in a hundred may tell a drift
    that is none."""
    chance = np.random.default_rng(seed)
    found = pd.DataFrame({"a": chance.normal(mean, 1, 2_000), "b": chance.normal(size=2_000)})
    found["label"] = np.where(found["a"] > 0, "large", "small")
    found.loc[chance.random(len(found)) < nulls, "a"] = np.nan
    return found


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Registry:
    found, known = Registry(tmp_path_factory.mktemp("models")), rows(seed=7)
    model = LogisticRegression().fit(known[["a", "b"]], known["label"])
    release.register(
        "sizes", model, registry=found, examples=known[["a", "b"]].head(9),
        reference=known[["a", "b"]], reference_labels=known["label"].tolist(),
    )
    release.register("bare", model, registry=found, examples=known[["a", "b"]].head(9))
    for name in ("sizes", "bare"):
        found.aliases(name).promote(1, expected=None, who="test", why="")
    return found


@pytest.fixture
def make_broker(
    settings: Settings, registry: Registry, redis_client: redis.Redis, tmp_path: Path
) -> Iterator[Callable[..., Broker]]:
    publish(redis_client, registry.infos())
    (tmp_path / "in").mkdir()
    made = []

    def make(**fields: Any) -> Broker:
        night = NightlySettings.model_validate({
            "kind": "drift", "model": "sizes", "dataset": f"{tmp_path}/in/{{date}}.parquet",
            "output": f"{tmp_path}/out/{{date}}", "first_date": DAY, "check": {"label": "label"},
            **fields,
        })
        models = settings.models.model_copy(update={"root": registry.root})
        made.append(Broker(settings.model_copy(
            update={"nightly": {"watched": night}, "models": models}
        )))
        return made[-1]

    yield make
    for broker in made:
        broker.close()


@pytest.fixture
def broker(make_broker: Callable[..., Broker]) -> Broker:
    return make_broker()


def give(folder: Path, day: date, found: pd.DataFrame) -> None:
    found.to_parquet(folder / "in" / f"{day}.parquet", index=False)


def compare(broker: Broker, day: date, attempt: int = 1, owner: str = "task") -> None:
    assert tasks.nightly.run_date(broker, "watched", day, attempt, owner=owner) is None


def announced(client: redis.Redis) -> list[tuple[str, str]]:
    """Take what was announced; other messages go."""
    found = []
    while message := client.rpop(MAINTENANCE_QUEUE):
        decoded = json.loads(message)
        if decoded["headers"]["task"] == DRIFT_NOTICE:
            given = json.loads(base64.b64decode(decoded["body"]))[1]
            for event in (given["event"], *given["others"]):
                assert event["entry"] == "watched"
                found.append((event["state"], event["kind"]))
    return found


def test_nights_that_drift_and_recover(
    broker: Broker, redis_client: redis.Redis, tmp_path: Path
) -> None:
    days = [DAY + number * ONE_DAY for number in range(3)]
    for day, found in zip(days, (rows(2.0), rows(nulls=0.5), rows()), strict=True):
        give(tmp_path, day, found)
    compare(broker, days[0])
    assert announced(redis_client) == [("opened", "data_drift")]
    compare(broker, days[0], owner="again")  # the date is done
    assert announced(redis_client) == []
    compare(broker, days[1])
    assert announced(redis_client) == [("opened", "data_quality")]
    compare(broker, days[2])
    assert announced(redis_client) == [("closed", "data_drift"), ("closed", "data_quality")]

    first = tmp_path / "out" / str(DAY)
    drifted = DriftReport.load((first / "drift.json").read_bytes()).drifted
    assert ("a" in drifted, "b" in drifted) == (True, False)
    assert b"<svg" in (first / "drift.html").read_bytes()
    run = nights.newest(broker, "watched", DAY)
    assert (run.state, run.rows, run.reason) == (RunState.COMPLETED, 2_000, "sizes@1 drift")
    assert [one.what for one in nights.records_of(broker, "watched").events()] == ["compared"] * 3
    assert redis_client.exists(nightly_slot_key("watched")) == 0


def test_a_night_that_was_killed_while_it_told_tells_the_same_event_again(
    broker: Broker, redis_client: redis.Redis, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    give(tmp_path, DAY, rows(2.0))
    announce, told = drift_nights.announce, list[Any]()

    def killed(broker: Broker, *events: Any) -> None:
        told.extend(events)
        raise KeyboardInterrupt

    monkeypatch.setattr(drift_nights, "announce", killed)
    with pytest.raises(KeyboardInterrupt):
        compare(broker, DAY)
    assert nights.newest(broker, "watched", DAY).state is RunState.ABSENT  # it is owed

    def again(broker: Broker, *events: Any) -> None:
        told.extend(events)
        announce(broker, *events)

    monkeypatch.setattr(drift_nights, "announce", again)
    time.sleep(1.0)  # reports are made at seconds
    compare(broker, DAY, owner="again")
    first, second = told
    assert first == second  # which counts as one
    assert announced(redis_client) == [("opened", "data_drift")]
    names = {path.name for path in (tmp_path / "out" / str(DAY)).iterdir()}
    assert names == {"drift.json", "drift.html"}


def test_a_forced_attempt_opens_nothing_that_is_open(
    broker: Broker, redis_client: redis.Redis, tmp_path: Path
) -> None:
    give(tmp_path, DAY, rows(2.0))
    compare(broker, DAY)
    announced(redis_client)
    compare(broker, DAY, attempt=2)
    assert announced(redis_client) == []
    assert (tmp_path / "out" / f"{DAY}.attempt-2" / "drift.json").exists()
    with pytest.raises(errors.RequestError, match="from 1 to 99"):
        compare(broker, DAY, attempt=100)


@pytest.mark.parametrize(("fields", "said"), [
    ({}, "no such file"), ({"model": "bare"}, "registered without a reference"),
    ({"check": {"label": "truth"}}, "lacks 'truth'"), ({"model": "absent"}, "no model named"),
    ({"lookback_days": 2}, "longer than 0.05 s"),
])  # fmt: skip
def test_a_comparison_that_fails_leaves_the_date_owed_and_is_told(
    make_broker: Callable[..., Broker], redis_client: redis.Redis, tmp_path: Path, fields: Any,
    said: str,
) -> None:
    broker = make_broker(**fields)
    if fields:
        give(tmp_path, DAY, rows())
    if "longer" in said:
        night = broker.settings.nightly["watched"]
        hurried = night.check.model_copy(update={"timeout_s": 0.05})
        broker.settings.nightly["watched"] = night.model_copy(update={"check": hurried})
    with pytest.raises(errors.CeleriacError, match=said):
        compare(broker, DAY)
    assert nights.newest(broker, "watched", DAY).state is RunState.ABSENT
    assert redis_client.exists(nightly_slot_key("watched")) == 0
    (key,) = redis_client.keys("celeriac:alert:*")
    assert key.decode().startswith(f"celeriac:alert:failed:{DAY}:1")
    tasks.nightly.look_after(broker, DUE)
    sent = [json.loads(one)["headers"]["task"] for one in
            redis_client.lrange(MAINTENANCE_QUEUE, 0, -1)]
    assert sent == [NIGHTLY_RUN]  # it is tried again


def test_two_tasks_compare_once_and_another_date_waits(
    broker: Broker, redis_client: redis.Redis, tmp_path: Path
) -> None:
    give(tmp_path, DAY, rows())
    give(tmp_path, DAY + ONE_DAY, rows())
    records = nights.records_of(broker, "watched")
    other = Holder(date=str(DAY), attempt=1, owner="other")
    assert records.swap(None, other)
    compare(broker, DAY)
    assert not (tmp_path / "out").exists()
    compare(broker, DAY + ONE_DAY)
    assert records.waiting() == {DAY + ONE_DAY: 1}
    assert nights.newest(broker, "watched", DAY).state is RunState.PLANNING
    assert records.swap(other, None)
    compare(broker, DAY)
    compare(broker, DAY + ONE_DAY)
    assert records.waiting() == {}
    assert nights.newest(broker, "watched", DAY + ONE_DAY).state is RunState.COMPLETED


def test_the_commands_show_it_within_80_columns(
    broker: Broker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    give(tmp_path, DAY, rows(2.0))
    compare(broker, DAY)
    monkeypatch.setattr(jobs, "get_settings", lambda: broker.settings)
    monkeypatch.setenv("COLUMNS", "80")
    capsys.readouterr()  # the log
    commands.list_()
    shown = capsys.readouterr().out
    assert max(map(len, shown.splitlines())) <= 80
    commands.run("watched", date=str(DAY), force=False)
    assert "has a run already (completed, attempt 1" in " ".join(capsys.readouterr().out.split())
    commands.run("watched", date=str(DAY), force=True)
    assert "`celeriac nightly history watched` shows what it finds" in capsys.readouterr().out
    commands.history("watched", dates=400, events=5)
    shown = capsys.readouterr().out
    assert f"{DAY}  attempt 1 (current)  completed: sizes@1 drift\n    2,000 rows, begun" in shown
    assert "attempt 1  compared\n    " in shown


def test_a_job_tells_what_its_report_has_found_once(
    make_broker: Callable[..., Broker], redis_client: redis.Redis, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    broker = make_broker(kind="dataset", drift=True, check={})
    monkeypatch.setattr(drift_nights, "found_by", lambda schedule, output: found("drift"))
    run = Run(day=DAY, attempt=1, state=RunState.COMPLETED, output=str(tmp_path / "out"))
    for _ in range(2):
        schedule = broker.settings.nightly["watched"]
        drift_nights.tell_job(broker, "watched", schedule, run)
    assert announced(redis_client) == [("opened", "data_drift")]


def found(state: Any) -> DriftReport:
    return DriftReport(
        model="sizes", version=1, source="in", made_at="2026-11-22T02:00:00+00:00", state=state,
        rows=9, rows_total=9,
    )


def test_a_night_that_is_caught_up_closes_nothing_that_is_open_since(
    broker: Broker, redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    days = [DAY + number * ONE_DAY for number in range(3)]
    states = dict(zip(days, ("drift", "stable", "drift"), strict=True))
    monkeypatch.setattr(drift_nights, "_compared", lambda *wanted: found(states[wanted[-1]]))
    for day in (days[0], days[2], days[1]):
        compare(broker, day)
    assert announced(redis_client) == [("opened", "data_drift")]


def test_drift_of_before_it_was_to_be_told_is_told(
    make_broker: Callable[..., Broker], redis_client: redis.Redis, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The entry has got ``drift = true`` while its jobs were finding drift."""
    broker = make_broker(kind="dataset", drift=True, check={})
    days = [DAY + number * ONE_DAY for number in range(3)]
    outputs = {str(tmp_path / "out" / str(day)) for day in days}
    monkeypatch.setattr(drift_nights, "found_by", lambda schedule, output: found("drift"))
    monkeypatch.setattr("producer.nights.holds", lambda schedule, output: output in outputs)
    schedule = broker.settings.nightly["watched"]
    for day in days[1:]:
        run = Run(day=day, attempt=1, state=RunState.COMPLETED, output=str(tmp_path / str(day)))
        drift_nights.tell_job(broker, "watched", schedule, run)
    assert announced(redis_client) == [("opened", "data_drift")]


def test_a_job_of_which_nobody_can_tell_drift_says_so_once(
    make_broker: Callable[..., Broker], redis_client: redis.Redis, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its version has no reference: silence would look as if nothing had changed."""
    broker = make_broker(kind="dataset", drift=True, check={})
    monkeypatch.setattr(drift_nights, "found_by", lambda *_: None)
    run = Run(day=DAY, attempt=1, state=RunState.COMPLETED, output=str(tmp_path / "out"))
    for _ in range(2):
        drift_nights.tell_job(broker, "watched", broker.settings.nightly["watched"], run)
    (event,) = nights.records_of(broker, "watched").events()
    assert event.what == "drift is not known"
    assert "registered without a reference" in event.text
    assert announced(redis_client) == []


def test_what_a_job_has_found_may_be_out_of_reach(
    make_broker: Callable[..., Broker], redis_client: redis.Redis, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Other dates of the schedule are looked after all the same, and it is told later."""
    broker = make_broker(kind="dataset", drift=True, check={})
    reports = [errors.JobFailed("manifest.json: is missing"), OSError("no route"), found("drift")]

    def found_by(*_: object) -> DriftReport:
        report = reports.pop(0)
        if isinstance(report, Exception):
            raise report
        return report

    monkeypatch.setattr(drift_nights, "found_by", found_by)
    run = Run(day=DAY, attempt=1, state=RunState.COMPLETED, output=str(tmp_path / "out"))
    for _ in range(3):
        drift_nights.tell_job(broker, "watched", broker.settings.nightly["watched"], run)
    assert announced(redis_client) == [("opened", "data_drift")]
