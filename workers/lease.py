"""Keep the un-acked messages of a live worker from being delivered again.

Celery on Redis restores an un-acked message when its visibility timeout ends, whether its worker
lives or not: a task with a countdown, or one that runs long, would be delivered twice. Refreshing
the score of what this worker holds turns the timeout into a lease: it can be short, so that the
work of a killed worker is found within seconds.
"""

from __future__ import annotations

import time
from typing import Any

from celery import bootsteps
from redis.exceptions import RedisError

from celeriac.logs import get_logger

log = get_logger(__name__)


class Lease(bootsteps.StartStopStep):  # type: ignore[misc]
    """Refreshes from the worker's main loop, four times within each lease."""

    requires = ("celery.worker.consumer.tasks:Tasks",)

    def __init__(self, parent: Any, **options: Any) -> None:
        super().__init__(parent, **options)
        self._timer: Any = None

    def start(self, parent: Any) -> None:
        options = parent.app.conf.broker_transport_options
        lease_s = float(options.get("visibility_timeout", 3_600))
        self._timer = parent.timer.call_repeatedly(lease_s / 4, renew, (parent,))

    def stop(self, parent: Any) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


def renew(consumer: Any) -> None:
    """Refresh the score of every message that ``consumer`` holds and has not acked."""
    task_consumer = consumer.task_consumer
    qos = getattr(getattr(task_consumer, "channel", None), "qos", None)
    tags = list(getattr(qos, "_delivered", ()))
    if qos is None or not tags:
        return
    try:
        with qos.channel.conn_or_acquire() as client:
            client.zadd(qos.unacked_index_key, dict.fromkeys(tags, time.time()), xx=True)
    except (RedisError, OSError) as error:  # the main loop notices and reconnects
        log.warning("lease not renewed", messages=len(tags), reason=str(error))
