"""One item on its way, and how its caller gets the answer.

A call is settled once, by whoever is first: the reply, a failure, or the caller who gives up.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Sequence
from typing import Protocol

from celeriac import errors
from celeriac.messages import Prediction

Outcome = Prediction | errors.CeleriacError

MAX_OPEN_ITEMS = 10_000
"""Items of one client that may be without an answer; one more is refused."""
MAX_OPEN_BYTES = 256_000_000
"""Bytes of such items."""


class Waiter(Protocol):
    """Who waits for calls."""

    def landed(self, call: Call) -> None:
        """``call`` is settled; :meth:`wake` follows soon."""

    def wake(self) -> None:
        """Have the waiter go on."""


class Travelled(Protocol):
    """What a reply says of the way that its items took."""

    queue_ms: float
    compute_ms: float
    batch_items: int


class Followed(Protocol):
    """Calls that share the outcome of a leader."""

    def land(self, leader: Call) -> None:
        """``leader`` is settled."""


class Call:
    """One item on its way, and its outcome once it has one."""

    __slots__ = (
        "_once", "_waiter", "account", "anew", "deadline_ms", "flight", "found", "item", "key",
        "model", "outcome", "queue", "reply", "request", "size",
    )  # fmt: skip

    def __init__(
        self, model: str, queue: str, item: bytes, deadline_ms: int, request: str = ""
    ) -> None:
        self.model = model
        self.queue = queue
        self.item = item
        """Encoded; emptied when it is published."""
        self.size = len(item)
        self.deadline_ms = deadline_ms
        self.outcome: Outcome | None = None
        self.account: OpenItems | None = None
        """Where it counts as open."""
        self.key: str | None = None
        """Of its answer in the result cache; None if the model has none."""
        self.flight: Followed | None = None
        """Calls for an equal item, which share the outcome."""
        self.request = request
        """Id of the request that it came with, for the worker's log."""
        self.found = False
        """Its answer was in the result cache."""
        self.reply: Travelled | None = None
        """What brought its outcome, with times; None if that was no worker's reply."""
        self.anew = False
        """It followed another call in vain, and goes by itself now."""
        self._once = threading.Lock()
        self._waiter: Waiter | None = None

    def settle(self, outcome: Outcome) -> bool:
        """Give it its outcome and wake who waits; False if it had one already."""
        return bool(settle_all([(self, outcome)]))

    def wait(self, timeout_s: float) -> Outcome | None:
        """The outcome; None if there is none after ``timeout_s``. For one thread."""
        if self.outcome is None:
            lock = threading.Lock()
            lock.acquire()
            # If the outcome comes before this line, it is seen below; if after, it finds the lock.
            self._waiter = _ThreadWaiter(lock)
            if self.outcome is None:
                lock.acquire(timeout=timeout_s)
        return self.outcome

    def told(self, waiter: Waiter) -> bool:
        """Have ``waiter`` told of the outcome; False if there is one already."""
        self._waiter = waiter
        return self.outcome is None


class _ThreadWaiter:
    """A thread that waits for one call."""

    __slots__ = ("_lock",)

    def __init__(self, lock: threading.Lock) -> None:
        self._lock = lock

    def landed(self, call: Call) -> None:
        """The call itself has the outcome."""

    def wake(self) -> None:
        self._lock.release()


def settle_all(outcomes: Iterable[tuple[Call, Outcome]]) -> int:
    """Settle calls, each unless it is settled already; then wake who waits, each once.

    Returns how many were settled.
    """
    settled = _Settled()
    try:
        for call, outcome in outcomes:
            with call._once:  # who comes second finds the outcome of the first
                is_first = call.outcome is None
                if is_first:
                    call.outcome = outcome
            if is_first:
                settled.add(call)
    finally:  # what was settled is told, whatever becomes of the rest
        settled.tell()
    return settled.number


class _Settled:
    """Calls that were settled together, and whom to tell."""

    __slots__ = ("_accounts", "_leaders", "_waiters", "number")

    def __init__(self) -> None:
        self.number = 0
        self._accounts: dict[OpenItems, tuple[int, int]] = {}
        self._waiters: dict[Waiter, None] = {}
        self._leaders: list[tuple[Call, Followed]] = []

    def add(self, call: Call) -> None:
        self.number += 1
        if call.account is not None:
            items, size = self._accounts.get(call.account, (0, 0))
            self._accounts[call.account] = items + 1, size + call.size
        if call.flight is not None:
            self._leaders.append((call, call.flight))
        waiter = call._waiter
        if waiter is not None:
            waiter.landed(call)
            self._waiters[waiter] = None

    def tell(self) -> None:
        for account, (items, size) in self._accounts.items():
            account.close(items, size)
        for waiter in self._waiters:
            waiter.wake()
        for leader, flight in self._leaders:
            flight.land(leader)


class OpenItems:
    """How much of one client is without an answer. Bounded."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.items = 0
        self.size = 0

    def open(self, calls: Sequence[Call]) -> int:
        """Count calls as open until they are settled; returns how many are open now.

        Raises Overloaded if that would be too many.
        """
        size = sum(call.size for call in calls)
        counted = False
        try:
            for call in calls:
                call.account = self
            with self._lock:
                if self.items + len(calls) > MAX_OPEN_ITEMS or self.size + size > MAX_OPEN_BYTES:
                    raise errors.Overloaded(
                        f"{self.items:,} items of this client have no answer yet; wait for answers "
                        "before you send more, or score large data as a dataset"
                    )
                opened = self.items + len(calls)
                # In one step: who is interrupted knows whether they count.
                self.items, self.size, counted = opened, self.size + size, True
        finally:
            if not counted:
                for call in calls:
                    call.account = None
        return opened

    def close(self, items: int, size: int) -> None:
        with self._lock:
            self.items -= items
            self.size -= size
