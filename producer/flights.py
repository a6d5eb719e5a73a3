"""Single flight: equal items of a cached model that are under way at the same time go once.

The first call for an item leads; those for an equal item follow it, and get its outcome, if they
name the model alike: an alias may mean another version to the worker by now than to this client.
The leader's own fate (its deadline, its caller's cancelling) is not theirs: they start anew.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

from celeriac import errors
from celeriac.messages import Prediction
from producer import wire
from producer.calls import Call, Outcome, settle_all
from producer.statistics import Counts

MAX_FOLLOWERS = 1_000
"""Calls that follow one leader, at most; further ones go by themselves."""

Key = tuple[str, str]
"""The model as the caller wrote it, and the cache key of the item."""


class Flight:
    """One item that is under way: its leader and its followers."""

    __slots__ = ("_flights", "followers", "key")

    def __init__(self, flights: Flights, key: Key) -> None:
        self._flights = flights
        self.key = key
        self.followers: list[Call] = []

    def land(self, leader: Call) -> None:
        """The leader has its outcome."""
        self._flights.land(self, leader)


class Flights:
    """The flights of one client. Bounded by the open items."""

    def __init__(self, send: Callable[[list[Call]], None], counts: Counts) -> None:
        self._send = send
        self._counts = counts
        self._lock = threading.Lock()
        self._flights: dict[Key, Flight] = {}

    def lead(self, call: Call) -> bool:
        """True if ``call`` must be sent; False if it follows an equal one, which is under way."""
        if call.key is None or call.anew:
            return True
        key = call.model, call.key
        with self._lock:
            flight = self._flights.get(key)
            leads = flight is None
            if flight is None:
                flight = self._flights[key] = call.flight = Flight(self, key)
            elif len(flight.followers) >= MAX_FOLLOWERS:
                return True
            else:
                flight.followers.append(call)
        if not leads:
            self._counts.add("shared")
        elif call.outcome is not None:  # settled before it led: nobody else will land it
            self.land(flight, call)
        return leads

    def land(self, flight: Flight, leader: Call) -> None:
        """Give the followers of a settled leader its outcome, or send those that it concerns not.

        They go by themselves then, each at most once more.
        """
        with self._lock:
            if self._flights.get(flight.key) is flight:
                del self._flights[flight.key]
            followers, flight.followers = flight.followers, []
        outcome = leader.outcome
        if not followers or outcome is None:
            return
        if isinstance(outcome, (errors.DeadlineExceeded, errors.Cancelled)):
            self._start_anew([call for call in followers if call.outcome is None])
        else:
            for call in followers:
                call.reply = leader.reply
            settle_all((call, _copy(outcome)) for call in followers)

    def _start_anew(self, calls: list[Call]) -> None:
        now_ms = wire.now_ms()
        waiting = [call for call in calls if call.deadline_ms > now_ms]
        for call in waiting:
            call.anew = True
        if waiting:
            self._send(waiting)


def _copy(outcome: Outcome) -> Outcome:
    """An error of its own for each caller, because it gets a traceback."""
    if isinstance(outcome, Prediction):
        return outcome
    return errors.from_wire(outcome.to_wire())
