"""Events of the main loop: gathered for a moment, and sent once."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from celery.events.dispatcher import EventDispatcher

from workers.gathered_events import EVERY_S, GatheredEvents


class Timer:
    """Notes what is to be called, and when."""

    def __init__(self) -> None:
        self.waiting: list[Any] = []

    def call_after(self, delay_s: float, call: Any, args: Any) -> Any:
        assert delay_s == EVERY_S
        self.waiting.append(lambda: call(*args))
        return SimpleNamespace(cancel=self.waiting.clear)


def consumer(published: list[list[str]]) -> Any:
    """As far as the step needs one, with Celery's own dispatcher."""
    dispatcher = EventDispatcher(enabled=False, buffer_group=["task"], hostname="w@h")
    dispatcher.enabled = True
    dispatcher._publish = lambda events, *_: published.append([one["type"] for one in events])
    return SimpleNamespace(
        hub=object(), timer=Timer(), event_dispatcher=dispatcher,
        connection_errors=(OSError,), channel_errors=(),
    )


def test_events_wait_for_each_other_and_leave_once() -> None:
    published: list[list[str]] = []
    worker = consumer(published)
    step = GatheredEvents(worker)
    assert step.include_if(worker)
    step.start(worker)
    for _ in range(2):
        for kind in ("task-received", "task-started", "task-succeeded"):
            worker.event_dispatcher.send(kind)
        assert len(worker.timer.waiting) == 1
        worker.timer.waiting.pop()()
    assert [len(events) for events in published] == [3, 3]


def test_what_waits_at_the_end_is_sent() -> None:
    published: list[list[str]] = []
    worker = consumer(published)
    step = GatheredEvents(worker)
    step.start(worker)
    worker.event_dispatcher.send("task-succeeded")
    step.stop(worker)
    step.shutdown(worker)
    assert published == [["task-succeeded"]]
    assert worker.timer.waiting == []
