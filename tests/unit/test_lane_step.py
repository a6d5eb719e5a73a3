"""What happens before a lane's thread starts."""

from __future__ import annotations

import subprocess
import sys
from types import SimpleNamespace

import pytest
from celery import bootsteps

from celeriac import errors
from workers import watchdog
from workers.lane import step

WITHOUT_A_TURN = """
import threading, time
from workers.watchdog import Watchdog

started = Watchdog(0.1, 0.1)
started._thread = threading.Thread(target=lambda: None)
started.start()
time.sleep(20)
print("not ended")
"""


def test_a_champion_that_has_just_gone_keeps_no_lane_from_starting(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def scorer(name: str, version: int) -> SimpleNamespace:
        if name == "gone":
            raise errors.RegistryError("it has gone")
        return SimpleNamespace(manifest=f"{name}@{version}")

    prepared: list[str] = []
    host = SimpleNamespace(serving=lambda: {"gone": 1, "here": 2}, scorer=scorer)
    monkeypatch.setattr(step, "get_host", lambda: host)
    monkeypatch.setattr(
        step, "get_counter", lambda: SimpleNamespace(prepare=prepared.append)
    )
    step._prepare_counting()
    assert prepared == ["here@2"]


def test_the_first_pass_of_a_lane_is_watched() -> None:
    """Steps are a set: those that do not name each other start in any order."""
    steps = bootsteps.Blueprint(steps=[step.LaneStep, watchdog.WatchdogStep])
    order = list(steps._finalize_steps(steps.claim_steps()))
    assert order.index(watchdog.WatchdogStep) < order.index(step.LaneStep)


def test_nobody_looks_while_a_lane_drains(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    monkeypatch.setattr(watchdog.Watchdog, "start", lambda _: said.append("looks"))
    monkeypatch.setattr(watchdog.Watchdog, "stop", lambda _: said.append("looks no more"))
    monkeypatch.setattr(step.LaneStep, "start", lambda *_: said.append("lane"))
    monkeypatch.setattr(step.LaneStep, "stop", lambda *_: said.append("drains"))
    worker = SimpleNamespace(steps=[])
    worker.steps += [watchdog.WatchdogStep(worker), step.LaneStep(worker)]
    blueprint = bootsteps.Blueprint()
    blueprint.start(worker)
    blueprint.stop(worker)
    assert said == ["looks", "lane", "looks no more", "drains"]


def test_a_watch_that_has_started_needs_no_turn_of_its_thread() -> None:
    ran = subprocess.run(
        [sys.executable, "-c", WITHOUT_A_TURN], capture_output=True, text=True, check=False,
        timeout=60,
    )  # fmt: skip
    assert ran.returncode == 1, ran.stdout
    assert "Timeout" in ran.stderr
