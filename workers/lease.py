"""Keep the un-acked messages of a live worker from being delivered again, or from being forgotten.

Celery on Redis restores an un-acked message when its visibility timeout ends, whether its worker
lives or not: a task with a countdown, or one that runs long, would be delivered twice. Refreshing
the score of what this worker holds turns the timeout into a lease: it can be short, so that the
work of a killed worker is found within seconds.

When the connection is lost, Celery drops every task that no process of its pool has begun, and
leaves its message to that timeout. This worker knows better: as soon as it is connected again it
gives those messages back, and goes on refreshing those of the tasks that still run. What another
worker has taken meanwhile is left to that one.
"""

from __future__ import annotations

import time
from typing import Any

from celery import bootsteps
from redis import exceptions
from redis.exceptions import RedisError, ResponseError

from celeriac.logs import get_logger
from celeriac.refused_writes import is_refused_write
from workers.refusals import REFUSALS
from workers.transport import running_tags

log = get_logger(__name__)


class Lease(bootsteps.StartStopStep):  # type: ignore[misc]
    """Refreshes from the worker's main loop, four times within each lease."""

    requires = ("celery.worker.consumer.tasks:Tasks",)

    def __init__(self, parent: Any, **options: Any) -> None:
        super().__init__(parent, **options)
        self._timer: Any = None
        self._lease_s = 0.0
        self._ours_until_s = 0.0
        """Unix time. What has a later score was written by another worker."""
        self._lost: list[Any] = []
        """kombu's books (QoS) of connections that were lost with messages in hand."""

    def start(self, parent: Any) -> None:
        options = parent.app.conf.broker_transport_options
        self._lease_s = float(options.get("visibility_timeout", 3_600))
        try:
            give_back(parent, self._lost, self._ours_until_s)
        except ResponseError as error:  # the worker connects once that is over
            REFUSALS.note(error)
            raise exceptions.ConnectionError(f"it refuses writes ({error})") from None
        self._ours_until_s = time.time() + self._lease_s
        self._timer = parent.timer.call_repeatedly(self._lease_s / 4, self._renew, (parent,))

    def stop(self, parent: Any) -> None:
        """The worker stops, or its connection was lost."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
            self._ours_until_s = min(self._ours_until_s, time.time())
        qos = _qos(parent)
        if qos is not None and qos not in self._lost:
            self._lost.append(qos)

    def _renew(self, parent: Any) -> None:
        self._lost = [qos for qos in self._lost if held(qos)]
        if renew(parent, self._lost):
            self._ours_until_s = time.time() + self._lease_s


def give_back(consumer: Any, lost: list[Any], ours_until_s: float) -> None:
    """Put back into their queues the messages of ``lost`` connections whose tasks do not run here.

    One whose score is later than ``ours_until_s``, or that has none, is another's now. A task that
    was begun, unknown to the main process, runs twice. Raises RedisError.
    """
    now = _qos(consumer)
    running = running_tags()
    for qos in lost:
        qos.pay()
        for tag in held(qos) - running:
            with now.channel.conn_or_acquire() as client:
                score = client.zscore(now.unacked_index_key, tag)
            if score is not None and score <= ours_until_s:
                now.restore_by_tag(tag)
                log.info("message given back", tag=tag)
            qos._delivered.pop(tag, None)
        qos.asked = ""


def renew(consumer: Any, lost: list[Any]) -> bool:
    """Refresh the score of every message that ``consumer`` holds, also of ``lost`` connections.

    False if Redis is away, or refuses it.
    """
    qos = _qos(consumer)
    tags = set().union(*(held(one) for one in (qos, *lost) if one is not None))
    if qos is None or not tags:
        return True
    try:
        with qos.channel.conn_or_acquire() as client:
            client.zadd(qos.unacked_index_key, dict.fromkeys(tags, time.time()), xx=True)
    except (RedisError, OSError) as error:
        if is_refused_write(error):
            REFUSALS.note(error)
        else:  # the main loop notices and reconnects
            log.warning("lease not renewed", messages=len(tags), reason=str(error))
        return False
    return True


def held(qos: Any) -> set[str]:
    """The tags of the messages that were delivered, or may be on their way, and, as far as Redis
    knows, not acked."""
    return (set(qos._delivered) - set(qos._dirty)) | set(qos.owed) | {qos.asked} - {""}


def _qos(consumer: Any) -> Any:
    return getattr(getattr(consumer.task_consumer, "channel", None), "qos", None)
