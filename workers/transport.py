"""kombu's Redis transport, of which a worker can lose the connection and keep its tasks.

A lost connection is taken apart in two steps. When the first one fails halfway, which happens as
Redis is away, the second finds a channel that is still open and has messages in hand, but whose
connection no longer says where Redis is. The AttributeError of this ends the worker. The same would
meet a task that ran meanwhile, when it is acknowledged. A channel that keeps what it was told at
its start can do both.

When Redis is there and only the connection is gone, kombu puts back all that the worker has in
hand, also what runs on: it would run twice. Here those stay, and ``workers/lease.py`` refreshes
them.
"""

from __future__ import annotations

from typing import Any

from celery.worker import state
from kombu.transport import TRANSPORT_ALIASES, redis


def running_tags() -> set[str]:
    """The messages of the tasks that run in this worker."""
    return {request.message.delivery_tag for request in tuple(state.active_requests)}


class QoS(redis.QoS):
    """kombu's books of what was delivered and not acked."""

    def restore_unacked(self, client: Any = None) -> None:
        """Put back what does not run; at the end of the worker, all of it. Raises RedisError."""
        ends = state.should_stop is not None or state.should_terminate is not None
        kept = set() if ends else running_tags()
        with self.channel.conn_or_acquire(client) as connected:
            for tag in [one for one in self._delivered if one not in kept]:
                self.restore_by_tag(tag, client=connected)  # type: ignore[no-untyped-call]
                self._delivered.pop(tag, None)


class Channel(redis.Channel):
    """Knows for all its life how to connect."""

    QoS = QoS

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._known: dict[bool, dict[str, Any]] = {}
        super().__init__(*args, **kwargs)  # type: ignore[no-untyped-call]
        self._connparams()

    def _connparams(self, asynchronous: bool = False) -> dict[str, Any]:
        if asynchronous not in self._known:
            found = super()._connparams(asynchronous)  # type: ignore[no-untyped-call]
            self._known[asynchronous] = found
        return dict(self._known[asynchronous])


class Transport(redis.Transport):
    """Takes the place of kombu's own, also in what asks for the transport's name."""

    Channel = Channel


def install() -> None:
    """Use it for every ``redis://`` and ``rediss://`` of this process; to be called early."""
    name = f"{__name__}:{Transport.__name__}"
    TRANSPORT_ALIASES.update(redis=name, rediss=name)
