"""Ends this process when a forward pass hangs: a solo pool has no time limit of its own.

Whoever keeps the worker alive (``celeriac up``, a container's restart policy) starts it again, and
what waits in its queues is answered then.
"""

from __future__ import annotations

import faulthandler
import os
import sys
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

from celery import bootsteps

from celeriac.logs import get_logger
from celeriac.niceness import waited_s
from celeriac.passes import Pass, all_under_way
from celeriac.settings import get_settings
from workers.roles import Role

log = get_logger(__name__)

EXIT_CODE = 70
"""EX_SOFTWARE: the process ended itself."""
_TICK_S = 0.5
_GRACE_S = 1.5
"""So much after the limit the kernel's timer ends a process whose threads cannot run at all."""


def hung(taken_s: Mapping[Pass, float], *, limit_s: float, load_limit_s: float) -> Pass | None:
    """The first pass that has taken too long, of passes and the seconds that each has taken."""
    return next(
        (
            one for one, seconds in taken_s.items()
            if seconds > (limit_s if one.items else load_limit_s)
        ),
        None,
    )


def end_process(found: Pass, seconds: float) -> None:
    """Say what hangs (never a payload) and where, and end the process."""
    log.critical(
        "forward pass hangs; the process ends" if found.items else "load hangs; the process ends",
        model=found.model, version=found.version, items=found.items, seconds=round(seconds, 1),
    )
    faulthandler.dump_traceback(file=_stderr(), all_threads=True)
    _stderr().flush()
    os._exit(EXIT_CODE)


class Watchdog:
    """Looks twice a second. A timer outside of Python stands in when its thread cannot run.

    What a pass has waited for the processor does not count: a process that gives way to a busy
    machine does not hang, and would be no further if it began again.
    """

    def __init__(
        self,
        limit_s: float,
        load_limit_s: float,
        *,
        end: Callable[[Pass, float], None] = end_process,
        clock: Callable[[], float] = time.monotonic,
        waited: Callable[[int], float] = waited_s,
    ) -> None:
        self.limit_s = limit_s
        self.load_limit_s = max(limit_s, load_limit_s)
        self._end = end
        self._clock = clock
        self._waited = waited
        self._waited_before: dict[Pass, float] = {}
        """What the thread of each pass had waited when the pass was first seen."""
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watchdog", daemon=True)

    def start(self) -> None:
        """The timer runs when this returns; the thread may come later."""
        self._arm()
        self._thread.start()

    def stop(self) -> None:
        """Watch no more: a stopping worker has its own bound."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join(2 * _TICK_S)

    def look(self) -> None:
        """End the process if a pass hangs."""
        taken_s = self._taken_s()
        found = hung(taken_s, limit_s=self.limit_s, load_limit_s=self.load_limit_s)
        if found is not None:
            self._end(found, taken_s[found])

    def _taken_s(self) -> dict[Pass, float]:
        waited = {one: self._waited(one.thread) for one in all_under_way()}
        self._waited_before = {one: self._waited_before.get(one, s) for one, s in waited.items()}
        now_s = self._clock()
        return {
            # Less than before is what cannot be read now: of a thread that has just ended, say.
            one: now_s - one.started_s - max(0.0, s - self._waited_before[one])
            for one, s in waited.items()
        }

    def _run(self) -> None:
        try:
            while not self._stopping.is_set():
                self._arm()
                self.look()
                self._stopping.wait(_TICK_S)
        finally:
            faulthandler.cancel_dump_traceback_later()

    def _arm(self) -> None:
        # Native code that holds the interpreter's lock stops this thread too, but not this timer.
        is_loading = any(not one.items for one in all_under_way())
        limit_s = self.load_limit_s if is_loading else self.limit_s
        faulthandler.dump_traceback_later(limit_s + _GRACE_S, exit=True, file=_stderr())


class WatchdogStep(bootsteps.StartStopStep):  # type: ignore[misc]
    """Watches workers that predict in their main process."""

    requires = ("celery.worker.components:Pool",)

    def __init__(self, parent: Any, **options: Any) -> None:
        super().__init__(parent, **options)
        self._watchdog: Watchdog | None = None

    def include_if(self, parent: Any) -> bool:
        role: Role | None = getattr(parent, "celeriac_role", None)
        return role is not None and role.warm and not role.name.startswith("batch.")

    def start(self, parent: Any) -> None:
        settings = get_settings()
        self._watchdog = Watchdog(
            settings.realtime.hang_timeout_s, settings.models.load_timeout_s
        )
        self._watchdog.start()

    def close(self, parent: Any) -> None:
        """Before any step stops: the lane drains, and gives back, within a bound of its own."""
        if self._watchdog is not None:
            self._watchdog.stop()
            self._watchdog = None

    def stop(self, parent: Any) -> None:
        self.close(parent)

    def terminate(self, parent: Any) -> None:
        self.stop(parent)


def _stderr() -> Any:
    # Celery puts a logger in the place of sys.stderr, which has no file descriptor.
    return sys.__stderr__
