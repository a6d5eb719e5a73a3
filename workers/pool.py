"""The pool of a prefork worker: ends with its worker, and loses nothing that it has begun.

Celery's own, as its worker stops, forgets each task whose process has not yet said that it has
begun, also if that process has the task already. The task runs all the same, but nobody hears of
its end: its message goes back to the queue, so it runs once more, and the process waits half a
minute for somebody to read its result. A task that was sent only in part is never sent to its end,
and its process waits for ever.
"""

from __future__ import annotations

import os
import select
import signal
import threading
import time
from typing import Any

from billiard.pool import CLOSE, RUN
from celery.concurrency import asynpool, prefork
from kombu.asynchronous import get_event_loop

from celeriac.logs import get_logger
from celeriac.settings import get_settings

log = get_logger(__name__)

_TICK_S = 0.05
_TIMERS_EVERY_S = 0.5
_TIMERS_LIMIT_S = 1.0


class _Results(asynpool.ResultHandler):  # type: ignore[misc]
    """Reads what the processes say; as the worker stops, to their end."""

    see_off: Any = None

    def on_stop_not_started(self) -> None:
        super().on_stop_not_started()  # returns when the last task has ended
        self.see_off()


class _Processes(asynpool.AsynPool):  # type: ignore[misc]
    ResultHandler = _Results

    def create_result_handler(self) -> Any:
        handler = super().create_result_handler()
        handler.see_off = self._see_off
        return handler

    def flush(self) -> None:
        """Forget the tasks that no process has; of a pool that is closed, they alone."""
        if self._state != CLOSE:
            super().flush()
            return
        self._finish_writes(_deadline_s())
        for job in tuple(self._cache.values()):
            if not job._accepted and not self._is_given(job):
                job.discard()
        self.outbound_buffer.clear()

    def _is_given(self, job: Any) -> bool:
        process = job._write_to
        return process is not None and job not in self.outbound_buffer and process._is_alive()

    def _finish_writes(self, until_s: float) -> None:
        """Send what was sent in part: its process would wait for the rest."""
        for job in tuple(self._cache.values()):
            write = asynpool._get_job_writer(job)
            if write is None or write not in self._active_writers:
                continue
            if not _finish(write, job._write_to, until_s):
                _kill(job._write_to, "a task could not be sent to its end")
            self._active_writers.discard(write)

    def _see_off(self) -> None:
        """Read on until every process has ended; kill those that are not in time."""
        until_s = _deadline_s()
        while running := [one for one in self._pool if one._is_alive()]:
            for process in running:
                self.process_flush_queues(process)
            if time.monotonic() > until_s:
                for process in running:
                    _kill(process, "it did not end with its worker")
                    process.join()
                return
            time.sleep(_TICK_S)


class TaskPool(prefork.TaskPool):  # type: ignore[misc]
    """Celery's prefork pool, with these processes."""

    Pool = _Processes
    _pool: Any

    def on_stop(self) -> None:
        """As Celery's, whose thread of timers sleeps on for up to half a second at the end."""
        hub = get_event_loop()
        if hub is None or self._pool is None or self._pool._state not in (RUN, CLOSE):
            super().on_stop()
            return
        ended = threading.Event()
        timers = threading.Thread(target=_fire_timers, args=(hub, ended), daemon=True)
        self._pool.close()
        timers.start()
        try:
            self._pool.join()
        finally:
            ended.set()
            timers.join(_TIMERS_LIMIT_S)
            if not timers.is_alive():
                prefork._run_ready_callbacks(hub)  # acknowledgements since their last turn
        self._pool = None


def _fire_timers(hub: Any, ended: threading.Event) -> None:
    """What falls due while the last tasks run, and the acknowledgements of those that end."""
    while True:
        try:
            hub.fire_timers()
            prefork._run_ready_callbacks(hub)
        except Exception:
            log.exception("a timer failed as the worker stopped")
        if ended.wait(_TIMERS_EVERY_S):
            return


def _finish(write: Any, process: Any, until_s: float) -> bool:
    """True if ``write``, Celery's generator that sends a task to ``process``, came to its end."""
    while process._is_alive() and time.monotonic() < until_s:
        try:
            if select.select([], [process.inqW_fd], [], _TICK_S)[1]:
                next(write)
        except StopIteration:
            return True
        except OSError:
            return False
    return False


def _kill(process: Any, why: str) -> None:
    if process._is_alive():
        log.error("pool process killed", pid=process.pid, reason=why)
        os.kill(process.pid, signal.SIGKILL)


def _deadline_s() -> float:
    return time.monotonic() + get_settings().worker.exit_timeout_s
