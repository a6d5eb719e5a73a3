"""Sends the webhooks of all hosts at the same time: one that hangs holds up nobody but itself."""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import NamedTuple

from celeriac.logs import get_logger
from celeriac.submissions.deliveries import Deliveries, Delivery

log = get_logger(__name__)

AT_ONCE = 32
"""Receivers that are called at the same time, at most ..."""
AT_ONCE_OF_HOST = 8
"""... and of one host."""
LOOK_S = 0.1
"""How often it looks what is due while it waits for answers."""
LEASE_S = 60.0
"""Longer than one attempt takes; what a killed sender had is due again then."""
NOT_ENDED = "the attempt did not end in time"


class Sent(NamedTuple):
    """What became of one attempt."""

    problem: str = ""
    """Empty if its receiver took it."""
    is_silent: bool = False
    """There was no answer at all."""


Send = Callable[[Delivery], Sent]
"""Makes one attempt, in a thread."""
Settle = Callable[[Delivery, Sent], None]
"""Notes what became of it."""


class Sender:
    """One run of sending. What is due to a host that does not answer is left for later."""

    def __init__(self, deliveries: Deliveries, send: Send, settle: Settle) -> None:
        self._deliveries = deliveries
        self._send = send
        self._settle = settle
        self._running: dict[Future[Sent], Delivery] = {}
        self.given_up = 0
        """Deliveries that were too old to be tried again."""

    def run(
        self, *, longest_s: float, patience_s: float, goes_on: Callable[[], bool] = lambda: True
    ) -> int:
        """Send until nothing is due; how many arrived.

        Nothing more is taken after ``longest_s``, or once ``goes_on`` says no. Answers are waited
        for ``patience_s`` more; an attempt that is still under way then has failed.
        """
        end_s, arrived = time.monotonic() + longest_s, 0
        pool = ThreadPoolExecutor(AT_ONCE, "webhooks")
        try:
            while goes_on() and time.monotonic() < end_s:
                self._take(pool)
                if not self._running:
                    break
                arrived += self._collect(LOOK_S)
            end_s = time.monotonic() + patience_s
            while self._running and (left_s := end_s - time.monotonic()) > 0:
                arrived += self._collect(left_s)
            for delivery in self._running.values():
                self._note(delivery, Sent(NOT_ENDED, is_silent=True))
        finally:
            pool.shutdown(wait=False)  # an attempt is bounded by its maker, and not by us
        return arrived

    def _take(self, pool: ThreadPoolExecutor) -> None:
        """Begin what is due, as far as there is room."""
        room = AT_ONCE - len(self._running)
        if room <= 0:
            return
        hosts = self._deliveries.hosts()
        random.shuffle(hosts)  # none is always the last
        under_way = Counter(delivery.host for delivery in self._running.values())
        for host in hosts:
            most = min(AT_ONCE_OF_HOST - under_way[host], room)
            if most <= 0:
                continue
            taken = self._deliveries.take(
                host, most=most, lease_s=LEASE_S, under_way=under_way[host]
            )
            self.given_up += taken.given_up
            room -= len(taken.deliveries)
            for delivery in taken.deliveries:
                self._running[pool.submit(self._attempt, delivery)] = delivery

    def _attempt(self, delivery: Delivery) -> Sent:
        try:
            return self._send(delivery)
        except Exception:  # it must not hold up all others, again and again
            log.exception("webhook not sent", delivery=delivery.id)
            return Sent("it could not be sent; the worker's log has the reason")

    def _collect(self, timeout_s: float) -> int:
        """Note what has come to an end, after ``timeout_s`` at the latest; how many arrived."""
        done, _ = wait(self._running, timeout_s, FIRST_COMPLETED)
        ended = [(self._running.pop(future), future.result()) for future in done]
        for delivery, sent in ended:
            self._note(delivery, sent)
        return sum(not sent.problem for _, sent in ended)

    def _note(self, delivery: Delivery, sent: Sent) -> None:
        if sent.is_silent:
            self._deliveries.silent(delivery.host)
        else:
            self._deliveries.answered(delivery.host)
        self._settle(delivery, sent)
