"""Task events of the main loop leave some times a second, many in one message.

Celery sends what each turn of its loop has brought: with short chunks that is several messages for
each, and much of what a worker's main process does then. Events carry their own times, so who
watches sees the same, a moment later.
"""

from __future__ import annotations

from typing import Any

from celery import bootsteps
from kombu.common import ignore_errors

EVERY_S = 0.1


class GatheredEvents(bootsteps.StartStopStep):  # type: ignore[misc]
    """Has the dispatcher's buffer flushed by a timer; a full one (24 events) leaves at once."""

    requires = ("celery.worker.consumer.events:Events",)

    def __init__(self, parent: Any, **options: Any) -> None:
        super().__init__(parent, **options)
        self._timer: Any = None

    def include_if(self, parent: Any) -> bool:
        return parent.hub is not None  # without an event loop nothing is buffered

    def start(self, parent: Any) -> None:
        def later() -> None:
            if self._timer is None:
                self._timer = parent.timer.call_after(EVERY_S, self._flush, (parent,))

        parent.event_dispatcher.on_send_buffered = later

    def stop(self, parent: Any) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def shutdown(self, parent: Any) -> None:
        if parent.event_dispatcher is not None:
            ignore_errors(parent, parent.event_dispatcher.flush)  # type: ignore[no-untyped-call]

    def _flush(self, parent: Any) -> None:
        self._timer = None
        if parent.event_dispatcher is not None:
            parent.event_dispatcher.flush()
