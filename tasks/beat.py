"""What beat sends again and again: entries of its schedule, and the tasks that they are of."""

from __future__ import annotations

import time
from typing import Any

from kombu.asynchronous import get_event_loop

from celeriac.messages import MAINTENANCE_QUEUE
from tasks.base import CeleriacTask, SummarisedRequest

SHOWN_AFTER_S = 5.0
"""A run that takes so long is shown while it is under way: it may hang."""


def every(seconds: float, task: str, **kwargs: Any) -> dict[str, Any]:
    """``task``, sent so often. It expires before the next one: a worker that was stopped does not
    find a heap of them."""
    options = {"queue": MAINTENANCE_QUEUE, "expires": seconds, "ignore_result": True}
    entry = {"task": task, "schedule": seconds, "options": options}
    return entry | {"kwargs": kwargs} if kwargs else entry


class BeatRequest(SummarisedRequest):
    """Keeps the events of a run back until it has done something, has failed, or takes long.

    Runs that find nothing to do, thousands in an hour, would drive every other task out of Flower.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._is_shown = False
        self._held: list[tuple[str, dict[str, Any]]] = []
        self._hold("task-received", {
            "name": self.name, "args": self.argsrepr, "kwargs": self.kwargsrepr,
            "retries": self.request_dict.get("retries", 0),
        })
        if (loop := get_event_loop()) is not None:
            loop.call_later(SHOWN_AFTER_S, self._show)  # type: ignore[no-untyped-call]

    def send_event(self, type: str, **fields: Any) -> None:
        """Called by Celery with what becomes of the run, from its start to its end."""
        if not self._is_shown and _found_nothing(type, fields):
            self._held.clear()
            return
        if "traceback" in fields:
            fields["traceback"] = ""  # as that of every task: the log has it
        self._hold(type, fields)
        if self._is_shown or type != "task-started":
            self._show()

    def _hold(self, type: str, fields: dict[str, Any]) -> None:
        self._held.append((type, {"timestamp": time.time(), **fields}))

    def _show(self) -> None:
        if self._held and self.eventer and self.eventer.enabled:
            self._is_shown = True
            for type_, fields in self._held:
                self.eventer.send(type_, uuid=self.id, **fields)
        self._held.clear()


def _found_nothing(type: str, fields: dict[str, Any]) -> bool:
    """True of a run that has returned None, and of one that came too late to begin."""
    if type == "task-revoked":
        return bool(fields.get("expired"))
    return type == "task-succeeded" and fields.get("result") == repr(None)


class BeatTask(CeleriacTask):
    """A task that beat sends again and again. It returns what it has done, in a few words or
    counts that Flower shows, and None if there was nothing to do: then Flower never hears of it."""

    Request = "tasks.beat:BeatRequest"
    send_events = False  # not by Celery, which tells of every run: by the request
    resultrepr_maxsize = 200
