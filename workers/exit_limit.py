"""Ends a worker that has nothing left to do and does not end by itself."""

from __future__ import annotations

import faulthandler
import os
import sys
import threading
from typing import Any

from celery import bootsteps

from celeriac.logs import get_logger
from celeriac.settings import get_settings
from workers.watchdog import EXIT_CODE

log = get_logger(__name__)

_GRACE_S = 1.5
"""So much after the limit the kernel's timer ends a process whose threads cannot run at all."""


class ExitLimit(bootsteps.StartStopStep):  # type: ignore[misc]
    """Begins when the worker's event loop is closed: pool and lane have ended by then."""

    requires = ("celery.worker.components:Hub",)

    def include_if(self, parent: Any) -> bool:
        return bool(parent.use_eventloop)

    def start(self, parent: Any) -> None:
        def begin(_: Any) -> None:
            if parent.blueprint.state in (bootsteps.CLOSE, bootsteps.TERMINATE):
                limit(get_settings().worker.exit_timeout_s)

        parent.hub.on_close.add(begin)  # also called when a connection is lost


def limit(timeout_s: float) -> None:
    """From now on this process has ``timeout_s`` seconds."""
    faulthandler.dump_traceback_later(timeout_s + _GRACE_S, exit=True, file=_stderr())
    timer = threading.Timer(timeout_s, _end, (timeout_s,))
    timer.daemon = True
    timer.start()


def _end(timeout_s: float) -> None:
    """Say where it hangs, and end the process. What it has not acknowledged runs again."""
    log.critical("worker had stopped and did not end; the process ends", timeout_s=timeout_s)
    faulthandler.dump_traceback(file=_stderr(), all_threads=True)
    _stderr().flush()
    os._exit(EXIT_CODE)


def _stderr() -> Any:
    # Celery puts a logger in the place of sys.stderr, which has no file descriptor.
    return sys.__stderr__
