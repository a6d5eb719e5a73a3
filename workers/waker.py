"""A signal ends the wait of a worker's event loop.

Python runs the handler of a signal and goes on with the wait that the signal came into. So Celery,
whose handlers only note what is wanted, saw it when the wait was over: up to a second later.
"""

from __future__ import annotations

import os
import signal
import threading
from contextlib import suppress
from typing import Any

from celery import bootsteps


class Waker(bootsteps.StartStopStep):  # type: ignore[misc]
    """A pipe that the loop reads; Python writes to it whenever a signal comes."""

    requires = ("celery.worker.components:Hub",)

    def include_if(self, parent: Any) -> bool:
        """Python knows one such pipe, of the main thread, where it runs handlers too."""
        is_main = threading.current_thread() is threading.main_thread()
        return bool(parent.use_eventloop) and is_main

    def create(self, parent: Any) -> None:
        self._reader, self._writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(self._writer, warn_on_full_buffer=False)

    def register_with_event_loop(self, parent: Any, hub: Any) -> None:
        """Called for each new connection, whose loop has forgotten what the last one read."""
        hub.add_reader(self._reader, self._drain)

    def _drain(self) -> None:
        with suppress(BlockingIOError):
            os.read(self._reader, 4_096)


def leave_to_parent(**_: Any) -> None:
    """To be called after a fork: signals of this process are not its parent's, and the pipe's
    number may be another file's by then."""
    signal.set_wakeup_fd(-1)
