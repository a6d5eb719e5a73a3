"""The event loop of a worker hears of a signal at once."""

from __future__ import annotations

import signal
import time
from types import SimpleNamespace
from unittest import mock

import pytest
from kombu.asynchronous import Hub

from workers import lifecycle, waker


@pytest.fixture
def step(monkeypatch: pytest.MonkeyPatch) -> waker.Waker:
    before = signal.set_wakeup_fd(-1)
    parent = SimpleNamespace(use_eventloop=True, steps=[])
    step = waker.Waker(parent)
    assert step.include_if(parent)
    step.create(parent)
    yield step
    signal.set_wakeup_fd(before)


@pytest.fixture
def alarm() -> None:
    """One after 50 ms, whose handler only takes note, as Celery's do."""
    before = signal.signal(signal.SIGALRM, lambda signum, frame: None)
    signal.setitimer(signal.ITIMER_REAL, 0.05)
    yield
    signal.signal(signal.SIGALRM, before)


@pytest.mark.parametrize("is_lost", [False, True], ids=["first connection", "a later one"])
def test_a_signal_ends_the_wait(step: waker.Waker, alarm: None, *, is_lost: bool) -> None:
    hub = Hub()
    hub.timer.call_after(30.0, lambda: None)  # what it would wait for, 10 s at most
    step.register_with_event_loop(None, hub)
    if is_lost:
        hub.reset()
        step.register_with_event_loop(None, hub)
    started = time.monotonic()
    next(hub.create_loop())
    assert time.monotonic() - started < 5.0
    hub.close()


def test_signals_of_a_forked_process_are_its_own(step: waker.Waker) -> None:
    waker.leave_to_parent()
    assert signal.set_wakeup_fd(-1) == -1


def test_so_are_those_of_a_beat_inside_a_worker(
    step: waker.Waker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It closes the pipe, and opens its own files under the number."""
    told = mock.MagicMock()
    monkeypatch.setattr(lifecycle, "signals", told)
    lifecycle.connect_signals()
    (tell,) = told.beat_embedded_init.connect.call_args.args
    tell(signal=told.beat_embedded_init, sender=None)
    assert signal.set_wakeup_fd(-1) == -1
