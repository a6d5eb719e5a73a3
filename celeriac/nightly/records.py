"""What Redis remembers of a schedule. The truth about its runs is in their output folders."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date
from typing import Any

import msgspec

from celeriac.keys import (
    ALERT_S,
    NIGHTLY_EVENTS_S,
    NIGHTLY_PLANNING_S,
    NIGHTLY_SENT_S,
    NIGHTLY_STATUS_S,
    NIGHTLY_WAITING_S,
    nightly_drift_key,
    nightly_events_key,
    nightly_sent_key,
    nightly_slot_key,
    nightly_status_key,
    nightly_waiting_key,
)

EVENTS_KEPT = 500

_SWAP = """
if (redis.call('GET', KEYS[1]) or '') ~= ARGV[1] then return 0 end
if ARGV[2] == '' then return redis.call('DEL', KEYS[1]) end
redis.call('SET', KEYS[1], ARGV[2], 'EX', ARGV[3])
return 1
"""


class Holder(msgspec.Struct, frozen=True, kw_only=True):
    """The run that has the schedule's slot: no other one may begin."""

    date: str
    attempt: int
    owner: str
    """Id of the task that began it."""
    job_id: str = ""
    """Empty while it is planned."""
    begun_at: str | msgspec.UnsetType = msgspec.UNSET
    """ISO 8601, UTC; only while it is planned. A slot is compared as it is written, so one that was
    written without it is written again without it."""

    def is_same_run(self, other: Holder) -> bool:
        """True if one task holds both, for one attempt, whenever it began."""
        theirs = (other.date, other.attempt, other.owner, other.job_id)
        return (self.date, self.attempt, self.owner, self.job_id) == theirs


class Event(msgspec.Struct, frozen=True, kw_only=True):
    """One line of a schedule's history."""

    at: str
    """ISO 8601, UTC."""
    what: str
    date: str
    attempt: int
    text: str = ""


class Status(msgspec.Struct, frozen=True, kw_only=True):
    """What the watch saw when it last looked."""

    at: str
    missed: list[str] = []
    late: list[str] = []
    failed: list[str] = []
    errors: list[str] = []
    waiting: list[str] = []
    not_ready: list[str] = []
    """Dates that would begin, if their datasets were whole."""


class NightRecords:
    """The keys of one schedule, on a redis-py client. Methods may raise redis.RedisError."""

    def __init__(self, client: Any, name: str) -> None:
        self._client = client
        self._name = name

    # --- the slot ---------------------------------------------------------------------------------

    def holder(self) -> Holder | None:
        """Who has the slot now."""
        found = self._client.get(nightly_slot_key(self._name))
        return msgspec.json.decode(found, type=Holder) if found else None

    def swap(
        self, seen: Holder | None, new: Holder | None, ttl_s: int = NIGHTLY_PLANNING_S
    ) -> bool:
        """Give the slot to ``new``; False if another than ``seen`` has it. None: nobody."""
        encoded = [b"" if one is None else msgspec.json.encode(one) for one in (seen, new)]
        key = nightly_slot_key(self._name)
        return bool(self._client.eval(_SWAP, 1, key, *encoded, ttl_s))

    # --- runs that are to begin -------------------------------------------------------------------

    def mark_sent(self, day: date, attempt: int) -> bool:
        """True for the first caller within :data:`NIGHTLY_SENT_S`, who then sends the run."""
        key = nightly_sent_key(self._name, day.isoformat())
        return bool(self._client.set(key, attempt, nx=True, ex=NIGHTLY_SENT_S))

    def clear_sent(self, day: date) -> None:
        """The run may be sent again at once."""
        self._client.delete(nightly_sent_key(self._name, day.isoformat()))

    def wait(self, day: date, attempt: int) -> bool:
        """Note a run that begins when the slot is free; False if that is noted already."""
        key = nightly_waiting_key(self._name)
        with self._client.pipeline(transaction=True) as pipe:
            pipe.hset(key, day.isoformat(), attempt)
            pipe.expire(key, NIGHTLY_WAITING_S)
            added, _ = pipe.execute()
        return bool(added)

    def waiting(self) -> dict[date, int]:
        """The dates that wait for the slot with their attempts, oldest first."""
        found: Mapping[bytes, bytes] = self._client.hgetall(nightly_waiting_key(self._name))
        return {date.fromisoformat(day.decode()): int(n) for day, n in sorted(found.items())}

    def stop_waiting(self, day: date) -> None:
        self._client.hdel(nightly_waiting_key(self._name), day.isoformat())

    # --- drift ------------------------------------------------------------------------------------

    def is_drift_told(self, day: date, attempt: int) -> bool:
        return bool(self._client.exists(nightly_drift_key(self._name, day.isoformat(), attempt)))

    def mark_drift_told(self, day: date, attempt: int) -> None:
        """What the attempt has found has been announced."""
        self._client.set(nightly_drift_key(self._name, day.isoformat(), attempt), 1, ex=ALERT_S)

    # --- for people -------------------------------------------------------------------------------

    def note(self, event: Event) -> None:
        """Add to the history; the oldest of more than :data:`EVENTS_KEPT` go."""
        key = nightly_events_key(self._name)
        with self._client.pipeline(transaction=True) as pipe:
            pipe.lpush(key, msgspec.json.encode(event))
            pipe.ltrim(key, 0, EVENTS_KEPT - 1)
            pipe.expire(key, NIGHTLY_EVENTS_S)
            pipe.execute()

    def events(self, limit: int = EVENTS_KEPT) -> list[Event]:
        """The newest first."""
        found = self._client.lrange(nightly_events_key(self._name), 0, limit - 1)
        return [msgspec.json.decode(one, type=Event) for one in found]

    def set_status(self, status: Status) -> None:
        key = nightly_status_key(self._name)
        self._client.set(key, msgspec.json.encode(status), ex=NIGHTLY_STATUS_S)

    def status(self) -> Status | None:
        """None: the watch has not looked for a day."""
        found = self._client.get(nightly_status_key(self._name))
        return msgspec.json.decode(found, type=Status) if found else None
