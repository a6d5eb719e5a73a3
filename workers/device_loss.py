"""Ends a worker whose GPU cannot be used any more: only a fresh process gets a fresh context.

What the worker has in hand goes back to its queue first, so the next process answers it. What was
being scored is under suspicion then: it is scored alone, item by item, and the item that costs a
second process its GPU is answered with an error.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
from collections.abc import Callable
from typing import Any

import redis
from celery import current_task
from celery.worker import state

from celeriac import errors, passes
from celeriac.logs import get_logger
from celeriac.messages import PREDICT
from celeriac.passes import Pass
from workers.lane.lane import Lane

log = get_logger(__name__)

EXIT_CODE = 71
"""EX_OSERR: the process has lost its GPU."""


class DeviceLoss:
    """What this process does when its GPU is lost; called by whichever thread notices."""

    def __init__(self, end: Callable[[int], None] = os._exit) -> None:
        self.lane: Lane | None = None
        self._end = end
        self._once = threading.Lock()

    def install(self) -> None:
        """From now on, in this process and in those that it forks."""
        passes.on_device_lost(self)

    def __call__(self, found: Pass | None, reason: str) -> None:
        """Say what was lost (never a payload), give back what is in hand, end the process."""
        self._once.acquire()  # a second thread waits for the end
        try:
            log.critical(
                "GPU lost; the process ends", reason=reason,
                model=found.model if found else "-", version=found.version if found else 0,
                items=found.items if found else 0,
            )
            if self.lane is not None:
                log.warning("given back to the queues", messages=self.lane.abandon())
            _answer_again_delivered()
        except redis.RedisError as error:  # then clients send it again, and leases lapse
            log.warning("nothing given back", reason=str(error))
        except Exception:
            log.exception("nothing given back")
        finally:
            with contextlib.suppress(OSError, ValueError):  # a full disk, a closed pipe
                sys.stdout.flush()
            self._end(EXIT_CODE)


def _answer_again_delivered() -> None:
    """Fail the prediction under way if it was delivered before: it would cost worker after worker.

    Delivered for the first time it stays un-acked, and goes to the next process.
    """
    task = current_task
    if not task or task.name != PREDICT or not _was_delivered_before(task.request):
        return
    error = errors.ModelFailed("the GPU failed with these items, and it was not the first time")
    task.backend.mark_as_failure(task.request.id, error, request=task.request)
    for request in list(state.active_requests):
        if request.id == task.request.id:
            request.message.ack()  # now: what the main loop is asked to do comes too late


def _was_delivered_before(request: Any) -> bool:
    """kombu marks it twice. The mark among the headers stays when the task goes back to its queue,
    as it does while its version is being loaded."""
    return bool(request.delivery_info.get("redelivered") or request.get("redelivered"))


LOSS = DeviceLoss()
"""Of this process."""
