"""The lane's view of its queues in Redis: how much to pop of each, and what waits behind it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from celeriac.batching.pace import Pace
from producer.channel import Command

FIRST_POP = 32
"""Messages that are popped while nothing is known of a queue."""
MAX_POP = 256
"""Messages that one exchange pops from one queue, at most."""
MAX_POP_BYTES = 16_000_000
"""Bytes that one exchange pops from one queue, about."""
MAX_REFUSED = 256
"""Messages that one exchange refuses in one queue, at most."""
_OWN_POP = 8
"""Queues that are asked one by one in each exchange; the others are asked together."""
_RECENT_S = 1.0
_IN_USE_S = 60.0
"""A model is in use for so long after its last message."""
_WEIGHT = 0.2


@dataclass(slots=True)
class ModelQueue:
    """One model's queue."""

    model: str
    key: str
    useful_items: int = 0
    """Items that its next batch can use; 0 as long as that is not known."""
    mean_items: float = 1.0
    """Items of a message, on average."""
    mean_bytes: float = 1_000.0
    waiting: int = 0
    """Messages that waited in Redis at the last look."""
    is_seen: bool = False
    """The last exchange looked: what is refused by an old look would be refused twice."""
    surplus: int = 0
    """The newest messages that are to be refused in the next exchange."""
    is_deep: bool = False
    """The last pop took as many messages as it asked for: there may be more."""
    retry_after_s: float = 0.0
    """What those that are refused are told."""
    pace: Pace = field(default_factory=Pace)
    used_s: float = float("-inf")
    """When it last had messages, monotonic."""
    paced_s: float | None = None
    """When its last batch ended, if more than that waited then."""

    def room(self, buffered_items: int) -> int:
        """Messages to pop, so that about one batch is buffered."""
        items = (self.useful_items or FIRST_POP) - buffered_items
        if items <= 0:
            return 0
        messages = math.ceil(items / self.mean_items)
        return max(1, min(messages, MAX_POP, int(MAX_POP_BYTES / self.mean_bytes)))

    def served(self, items: int, now_s: float) -> bool:
        """Note that a batch of it has ended; True if it was just seen how much waits."""
        if self.paced_s is not None:
            self.pace.observe(items, now_s - self.paced_s)
        self.paced_s = now_s if self.is_deep else None
        was_seen, self.is_seen = self.is_seen, False
        return was_seen and self.is_deep

    def learn(self, items: int, size: int) -> None:
        """Note the items and the bytes of a message."""
        self.mean_items += _WEIGHT * (max(1, items) - self.mean_items)
        self.mean_bytes += _WEIGHT * (size - self.mean_bytes)


@dataclass(slots=True, kw_only=True)
class Look:
    """What one exchange brought from one queue."""

    queue: ModelQueue
    messages: Sequence[bytes] = ()
    """Oldest first."""
    refused: Sequence[bytes] = ()
    """The newest ones, beyond what may wait."""


Reader = Callable[[Any, float], Look | None]


class Queues:
    """The queues of all models of this worker. Bounded by the models."""

    def __init__(self) -> None:
        self._by_key: dict[str, ModelQueue] = {}
        self._by_model: dict[str, ModelQueue] = {}
        self._turn = 0

    def follow(self, keys: dict[str, str]) -> None:
        """Know the queues of these models (key by model), and no others."""
        if keys.keys() == self._by_model.keys():
            return
        self._by_model = {
            model: self._by_model.get(model) or ModelQueue(model, key)
            for model, key in keys.items()
        }
        self._by_key = {queue.key: queue for queue in self._by_model.values()}

    def get(self, model: str) -> ModelQueue | None:
        """The queue of a model; None if this worker does not serve it."""
        return self._by_model.get(model)

    def is_shared(self, queue: ModelQueue, now_s: float) -> bool:
        """True if another model than that of ``queue`` is in use in this worker."""
        return any(
            other.used_s > now_s - _IN_USE_S
            for other in self._by_model.values() if other is not queue
        )

    def __iter__(self) -> Any:
        return iter(self._by_model.values())

    def wait(
        self, timeout_s: float, open_: Iterable[ModelQueue]
    ) -> tuple[Command, Reader]:
        """What waits until one of the queues ``open_`` has messages, and pops them."""
        keys = [queue.key for queue in self._rotated(list(open_))]
        command = ("BLMPOP", timeout_s, len(keys), *keys, "RIGHT", "COUNT", FIRST_POP)
        return command, self._read_any

    def ask(
        self, commands: list[Command], room: Callable[[ModelQueue], int], now_s: float
    ) -> list[tuple[int, Reader]]:
        """Add to ``commands`` what pops what there is room for, and refuses the surplus.

        Returns, in order, who reads how many of the results.
        """
        readers: list[tuple[int, Reader]] = []
        others: list[str] = []
        own = 0
        for queue in self._rotated(list(self._by_model.values())):
            if queue.surplus:
                readers.append(self._ask_surplus(commands, queue))
            count = room(queue)
            if not count:
                continue
            if queue.is_deep or (queue.used_s > now_s - _RECENT_S and own < _OWN_POP):
                own += 1
                readers.append(self._ask_one(commands, queue, count))
            else:
                others.append(queue.key)
        if others:
            commands.append(("LMPOP", len(others), *others, "RIGHT", "COUNT", FIRST_POP))
            readers.append((1, self._read_any))
        return readers

    def _ask_one(
        self, commands: list[Command], queue: ModelQueue, count: int
    ) -> tuple[int, Reader]:
        commands.append(("RPOP", queue.key, count))
        if not queue.is_deep:
            return 1, lambda results, now_s: self._popped(queue, results[0] or (), count, now_s)
        commands.append(("LLEN", queue.key))

        def read(results: Any, now_s: float) -> Look:
            look = self._popped(queue, results[0] or (), count, now_s)
            queue.waiting, queue.is_seen = results[1], True
            return look

        return 2, read

    def _ask_surplus(self, commands: list[Command], queue: ModelQueue) -> tuple[int, Reader]:
        commands.append(("LPOP", queue.key, min(queue.surplus, MAX_REFUSED)))
        queue.surplus = 0
        return 1, lambda results, _: Look(queue=queue, refused=results[0] or ())

    def _read_any(self, results: Any, now_s: float) -> Look | None:
        popped = results[0]
        if not popped:
            return None
        return self._popped(self._by_key[popped[0].decode()], popped[1], FIRST_POP, now_s)

    def _popped(
        self, queue: ModelQueue, messages: Sequence[bytes], count: int, now_s: float
    ) -> Look:
        queue.is_deep = len(messages) >= count
        if not queue.is_deep:
            queue.waiting = 0
        if messages:
            queue.used_s = now_s
        return Look(queue=queue, messages=messages)

    def _rotated(self, queues: list[ModelQueue]) -> list[ModelQueue]:
        """Another one first at each turn, so that none is starved."""
        self._turn += 1
        first = self._turn % len(queues) if queues else 0
        return queues[first:] + queues[:first]
