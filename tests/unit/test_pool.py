"""The pool of a prefork worker at its end."""

from __future__ import annotations

import threading
from types import SimpleNamespace
from typing import Any

import pytest
from billiard.pool import RUN
from celery.concurrency import prefork
from kombu.asynchronous import Hub
from kombu.message import Message
from vine import promise

from workers import pool


@pytest.mark.parametrize("ends_by", [None, SystemExit], ids=["its tasks end", "a hard stop"])
def test_what_ended_last_is_acknowledged(
    monkeypatch: pytest.MonkeyPatch, ends_by: type[BaseException] | None
) -> None:
    hub, turned, acknowledged = Hub(), threading.Event(), threading.Event()
    channel = SimpleNamespace(basic_ack=lambda *_, **__: acknowledged.set(), no_ack_consumers=None)
    message = Message(channel=channel, delivery_tag="tag")
    own = prefork._run_ready_callbacks

    def run(hub: Any) -> None:
        own(hub)
        turned.set()

    def join() -> None:
        """The last task ends after the thread's only turn."""
        assert turned.wait(10)
        hub.call_soon(promise(message.ack_log_error, (None, ())))
        if ends_by:
            raise ends_by

    monkeypatch.setattr(prefork, "_run_ready_callbacks", run)
    monkeypatch.setattr(pool, "get_event_loop", lambda: hub)
    ended = object.__new__(pool.TaskPool)
    ended._pool = SimpleNamespace(_state=RUN, close=lambda: None, join=join)
    if ends_by:
        with pytest.raises(ends_by):
            ended.on_stop()
    else:
        ended.on_stop()
    assert acknowledged.is_set()
    hub.close()
