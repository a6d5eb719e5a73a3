"""Tasks that beat sends all day: Flower hears of those that did something, failed, or hang."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from celery import Celery
from celery.schedules import BaseSchedule

import celeryconfig
from celeriac.messages import BATCH_RECONCILE
from celeriac.settings import Settings
from celeriac.settings.adapt import AdaptSettings
from celeriac.settings.nightly import NightlySettings
from tasks import batch, beat  # noqa: F401 - registers the reconciler
from tasks.beat import BeatRequest, BeatTask
from tasks.schedule import beat_schedule
from tests.unit.eventer import Eventer
from workers.beat_scheduler import Scheduler


class Loop:
    """Notes what the event loop is to call."""

    def __init__(self) -> None:
        self.later: Callable[[], None] = lambda: None

    def call_later(self, delay_s: float, call: Callable[[], None]) -> None:
        assert delay_s == beat.SHOWN_AFTER_S
        self.later = call


@pytest.fixture
def loop(monkeypatch: pytest.MonkeyPatch) -> Loop:
    found = Loop()
    monkeypatch.setattr(beat, "get_event_loop", lambda: found)
    return found


@pytest.fixture
def eventer() -> Eventer:
    return Eventer()


@pytest.fixture
def run(loop: Loop, eventer: Eventer) -> BeatRequest:
    """A run that a worker has received."""
    app = Celery(set_as_current=False)
    message = SimpleNamespace(
        headers={"id": "r1", "task": BATCH_RECONCILE}, payload=[[], {}, {}], body=b"",
        content_type="application/json", content_encoding="utf-8", delivery_info={}, properties={},
    )
    task = app.tasks[BATCH_RECONCILE]
    return BeatRequest(message, app=app, task=task, eventer=eventer)


def test_a_run_that_found_nothing_to_do_is_never_heard_of(
    run: BeatRequest, eventer: Eventer, loop: Loop
) -> None:
    run.send_event("task-started")
    run.send_event("task-succeeded", result="None", runtime=0.1)
    loop.later()
    assert eventer.sent == []


def test_one_that_came_too_late_to_begin_is_not_either(run: BeatRequest, eventer: Eventer) -> None:
    run.send_event("task-revoked", terminated=False, expired=True)
    assert eventer.sent == []


def test_one_that_did_something_is_shown_whole(run: BeatRequest, eventer: Eventer) -> None:
    run.send_event("task-started")
    run.send_event("task-succeeded", result="{'chunks': 2}", runtime=0.1)
    assert eventer.types == ["received", "started", "succeeded"]
    times = [event["timestamp"] for event in eventer.sent]
    assert times == sorted(times)
    assert eventer.sent[0]["name"] == BATCH_RECONCILE
    assert eventer.sent[-1]["result"] == "{'chunks': 2}"
    assert {event["uuid"] for event in eventer.sent} == {"r1"}


@pytest.mark.parametrize("how", ["task-failed", "task-retried"])
def test_one_that_failed_is_shown_without_its_traceback(
    how: str, run: BeatRequest, eventer: Eventer
) -> None:
    run.send_event("task-started")
    run.send_event(how, exception="WorkerError()", traceback="File '/a/path'")
    assert eventer.types == ["received", "started", how.removeprefix("task-")]
    assert eventer.sent[-1]["traceback"] == ""


def test_one_that_hangs_is_shown_while_it_does_and_its_end_too(
    run: BeatRequest, eventer: Eventer, loop: Loop
) -> None:
    loop.later()
    assert eventer.types == ["received"]
    run.send_event("task-started")
    run.send_event("task-succeeded", result="None", runtime=60.0)
    assert eventer.types == ["received", "started", "succeeded"]


def test_all_that_beat_sends_is_quiet_when_there_is_nothing_to_do() -> None:
    night = NightlySettings(dataset="{date}.csv", model="m", output="{date}")
    policy = AdaptSettings(retrain="t", queue="q", labelled="l.csv", label="l")
    given = Settings()
    settings = given.model_copy(update={
        "nightly": {"n": night},
        "drift": given.drift.model_copy(update={"adapt": {"m": policy}}),
        "models": given.models.model_copy(update={"keep_versions": 3}),
    })
    for module in celeryconfig.imports:
        import_module(module)
    app = Celery(set_as_current=False)
    names = {entry["task"] for entry in beat_schedule(settings).values()}
    assert len(names) == 10
    assert [name for name in names if not isinstance(app.tasks[name], BeatTask)] == []


@pytest.mark.parametrize("restarts", [False, True], ids=["running", "started again"])
def test_a_clock_that_is_set_back_does_not_silence_beat(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, restarts: bool
) -> None:
    clock = [datetime(2026, 6, 10, 0, 40, tzinfo=UTC)]
    monkeypatch.setattr(BaseSchedule, "now", lambda _: clock[0])
    sent: list[datetime] = []

    class Noted(Scheduler):
        def apply_entry(self, entry: Any, producer: Any = None) -> None:
            sent.append(clock[0])

        @property
        def producer(self) -> None:
            return None

    def started() -> Scheduler:
        app = Celery(set_as_current=False, broker="memory://")
        app.conf.beat_schedule = {"look": {"task": "look", "schedule": 15.0}}
        app.conf.result_expires = None  # else Celery adds an entry of its own
        return Noted(app, schedule_filename=str(tmp_path / "schedule"))

    def turn(scheduler: Scheduler, seconds: int) -> int:
        """For so long; how often it has sent."""
        before = len(sent)
        for _ in range(seconds):
            clock[0] += timedelta(seconds=1)
            while scheduler.tick() == 0:
                pass
        return len(sent) - before

    scheduler = started()
    assert turn(scheduler, 40) == 2
    clock[0] -= timedelta(hours=2)
    if restarts:
        scheduler.close()
        scheduler = started()
    assert turn(scheduler, 40) == 2
    clock[0] += timedelta(days=1)
    assert turn(scheduler, 1) == 1, "what was missed is one look, not thousands"
    scheduler.close()
