"""Work of a task that waits for others' servers, done beside it: its process takes the next task.

A process of the maintenance role ends jobs and promotes models, too. What does nothing but wait
must not hold it.
"""

from __future__ import annotations

import contextvars
import threading
from collections.abc import Callable
from functools import partial

from celery import signals

from celeriac.logs import get_logger

log = get_logger(__name__)

END_S = 70.0
"""So long does a process that ends wait for what is under way: the longest command of an alert."""


class Beside:
    """One thread of this process, which lives while there is work. Safe with threads.

    What a killed process leaves undone, its caller finds again: nothing is kept here.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._lock = threading.Lock()
        self._next: Callable[[], object] | None = None
        self._thread: threading.Thread | None = None
        self._ending = threading.Event()
        signals.worker_process_shutdown.connect(self._end, weak=False)
        signals.worker_shutdown.connect(self._end, weak=False)  # of a worker without a pool

    @property
    def goes_on(self) -> bool:
        """False once the process is about to end: what is under way should."""
        return not self._ending.is_set()

    def ask(self, work: Callable[[], object]) -> None:
        """Have ``work`` done, after what is under way; what was to come after that is forgotten."""
        with self._lock:
            self._next = partial(contextvars.copy_context().run, work)  # its log lines are as ours
            if self._thread is None:
                thread = threading.Thread(target=self._run, name=self._name, daemon=True)
                thread.start()
                self._thread = thread  # it ends behind the lock that we hold

    def wait(self, timeout_s: float) -> bool:
        """Until nothing is left to do; False if that takes longer."""
        thread = self._thread
        if thread is not None:
            thread.join(timeout_s)
        return self._thread is None

    def _run(self) -> None:
        while True:
            with self._lock:
                work, self._next = self._next, None
                if work is None or not self.goes_on:
                    self._thread = None
                    return
            try:
                work()
            except Exception:  # Redis may be away, say; who is asked next begins anew
                log.exception("left for the next time", thread=self._name)

    def _end(self, **_: object) -> None:
        self._ending.set()
        if not self.wait(END_S):
            log.warning("not waited for", thread=self._name, seconds=END_S)
