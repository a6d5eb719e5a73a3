"""Runs a lane in a thread of a worker whose role has one."""

from __future__ import annotations

import threading
from typing import Any

import redis
from celery import bootsteps

from celeriac import errors
from celeriac.drift.counter import get_counter
from celeriac.host import get_host
from celeriac.logs import get_logger
from celeriac.settings import get_settings
from producer.broker import connect
from workers.device_loss import LOSS
from workers.lane.events import LaneEvents
from workers.lane.lane import Lane
from workers.roles import Role
from workers.watchdog import WatchdogStep

log = get_logger(__name__)

_GRACE_S = 1.0
"""The lane gives back by itself at its bound; only a pass that hangs keeps it from that."""


class LaneStep(bootsteps.StartStopStep):  # type: ignore[misc]
    """Starts the lane with the worker, and drains it at the worker's stop."""

    requires = ("celery.worker.components:Pool", WatchdogStep)  # its first pass is watched

    def __init__(self, parent: Any, **options: Any) -> None:
        super().__init__(parent, **options)
        self.lane: Lane | None = None
        self._thread: threading.Thread | None = None

    def include_if(self, parent: Any) -> bool:
        role: Role | None = getattr(parent, "celeriac_role", None)
        return role is not None and role.lane

    def start(self, parent: Any) -> None:
        settings = get_settings()
        events = LaneEvents(settings, parent.hostname, tick=parent.app.clock.forward)
        self.lane = Lane(get_host(), connect(settings), settings, events)
        parent.celeriac_lane = self.lane
        LOSS.lane = self.lane
        _prepare_counting()
        self._thread = threading.Thread(target=self.lane.run, name="lane", daemon=True)
        self._thread.start()

    def stop(self, parent: Any) -> None:
        if self.lane is None or self._thread is None:
            return
        lane, thread, self.lane = self.lane, self._thread, None
        lane.stop()
        timeout_s = get_settings().realtime.drain_timeout_s
        thread.join(timeout_s + _GRACE_S)
        if thread.is_alive():
            log.error("lane not drained", timeout_s=timeout_s, given_back=_give_back(lane))

    def terminate(self, parent: Any) -> None:
        self.stop(parent)


def _prepare_counting() -> None:
    """Profiles of what serves are read now, not beside the first items. A lane starts without."""
    host = get_host()
    for name, version in host.serving().items():
        try:
            get_counter().prepare(host.scorer(name, version).manifest)
        except errors.CeleriacError as error:  # it has just gone; whoever asks for it is told
            log.warning("not prepared to count", model=name, version=version, reason=str(error))


def _give_back(lane: Lane) -> int:
    try:
        return lane.give_back()
    except redis.RedisError as error:
        log.warning("nothing given back", reason=str(error))
        return 0
