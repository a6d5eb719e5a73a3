"""kombu's Redis transport, whose channels can reach Redis even after their connection was lost.

A lost connection is taken apart in two steps. When the first one fails halfway, which happens as
Redis is away, the second finds a channel that is still open and has messages in hand, but whose
connection no longer says where Redis is. The AttributeError of this ends the worker. The same would
meet a task that ran meanwhile, when it is acknowledged. A channel that keeps what it was told at
its start can do both.
"""

from __future__ import annotations

from typing import Any

from kombu.transport import TRANSPORT_ALIASES, redis


class Channel(redis.Channel):
    """Knows for all its life how to connect."""

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
