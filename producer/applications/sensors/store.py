"""What Redis knows of a tenant's sensors, and of batches that wait for their analysis."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import redis

from celeriac import lua
from celeriac.keys import (
    SENSOR_PREFIX,
    SENSORS_CALLED_KEY,
    SENSORS_COUNT_KEY,
    SENSORS_DUE_KEY,
    SENSORS_READY_BYTES_KEY,
    SENSORS_READY_KEY,
    sensor_alarms_key,
    sensors_key,
)
from celeriac.settings import SensorSettings
from producer.applications.sensors import scripts

CLAIMED_BATCHES = 64
CLAIMED_BYTES = 8_000_000
"""Readings that one claim hands out, at most (or one batch)."""
SWEPT_SENSORS = 200
"""Sensors whose waiting readings one script seals, at most: Redis serves nobody else meanwhile."""

LOST, SAVED, NO_ROOM, BEHIND = 0, 1, 2, 3


class Save(NamedTuple):
    """A state that replaces the one with ``token``, and what goes with it."""

    name: str
    token: bytes
    """Of the state that was read; empty if there was none."""
    state: bytes
    rows: bytes
    touch: bool
    """Note that the sensor is alive."""
    alarms: bytes
    """What opened and closed, a line of JSON each, the newest last; or empty."""


class Saved(NamedTuple):
    outcomes: list[int]
    """:data:`LOST`, :data:`SAVED`, :data:`NO_ROOM` or :data:`BEHIND`, for each."""
    sealed: int
    calls: bool
    """A worker is to be called."""


class Swept(NamedTuple):
    due: int
    sealed: int
    ready: int
    calls: bool


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Readings of one sensor that this process is to analyse, until its lease ends."""

    id: str
    epoch: int
    """How often it was taken."""
    tenant: str
    sensor: str
    channels: int
    rows: bytes
    number: int
    """Of the sensor's batches, from 1."""
    first: int
    """Number of its first reading among all of the sensor's, from 1."""
    why: Literal["full", "time"]
    previous: bytes
    """Time of the newest reading of the batches before, as in ``rows``; or empty."""


class Analysed(NamedTuple):
    batch: Batch
    record: bytes
    is_given_up: bool = False


class SensorStore:
    """Everything raises redis.RedisError."""

    def __init__(self, client: redis.Redis, settings: SensorSettings) -> None:
        self._client: Any = client
        self._settings = settings
        self._ttl_ms = settings.forget_after_s * 1_000

    # --- states ---------------------------------------------------------------------------------

    def states(self, tenant: str, names: Sequence[str]) -> list[bytes | None]:
        """In one exchange."""
        if not names:
            return []
        found: list[bytes | None] = self._client.mget([
            f"{SENSOR_PREFIX}state:{tenant}:{name}" for name in names
        ])
        return found

    def save(self, tenant: str, channels: int, saves: Sequence[Save]) -> Saved:
        """In one script; each sensor by itself. What few sensors have comes apart: each argument
        costs a third of a microsecond on both sides."""
        arguments: list[Any] = [
            channels, len(saves), bytes(ord("1") if one.touch else ord("0") for one in saves)
        ]
        for one in saves:
            arguments += one[:4]
        for place, one in enumerate(saves, start=1):
            if one.alarms:
                arguments += [place, one.alarms]
        keys = (
            sensors_key(tenant), SENSORS_DUE_KEY, SENSORS_READY_KEY, SENSORS_READY_BYTES_KEY,
            SENSORS_COUNT_KEY, SENSORS_CALLED_KEY, sensor_alarms_key(tenant),
        )
        outcomes, sealed, calls = lua.run(
            self._client, scripts.SAVE, keys, tenant, self._ttl_ms, self._settings.max_sensors,
            self._settings.batch_readings, round(self._settings.batch_s * 1_000),
            self._settings.max_ready_mb * 1_000_000, *arguments,
        )
        return Saved(outcomes, sealed, bool(calls))

    # --- batches --------------------------------------------------------------------------------

    def sweep(self) -> Swept:
        """Seal what has waited long enough, of a bounded number of sensors."""
        keys = (
            SENSORS_DUE_KEY, SENSORS_READY_KEY, SENSORS_READY_BYTES_KEY, SENSORS_COUNT_KEY,
            SENSORS_CALLED_KEY,
        )
        due, sealed, ready, calls = lua.run(
            self._client, scripts.SWEEP, keys, self._ttl_ms, SWEPT_SENSORS
        )
        return Swept(due, sealed, ready, bool(calls))

    def claim(self) -> list[Batch]:
        """Batches for this process alone, until ``[sensors] lease_s`` from now."""
        found = lua.run(
            self._client, scripts.CLAIM, (SENSORS_READY_KEY, SENSORS_CALLED_KEY),
            round(self._settings.lease_s * 1_000), CLAIMED_BATCHES, CLAIMED_BYTES,
        )
        return [_batch(one) for one in found]

    def commit(self, analysed: Sequence[Analysed]) -> int:
        """Keep analyses; how many of them were this process's to make."""
        arguments: list[Any] = []
        for batch, record, is_given_up in analysed:
            arguments += [
                batch.id, batch.epoch, batch.tenant, batch.sensor, record, int(is_given_up)
            ]
        kept: int = lua.run(
            self._client, scripts.COMMIT, (SENSORS_READY_KEY, SENSORS_READY_BYTES_KEY),
            self._ttl_ms, self._settings.kept_analyses, *arguments,
        )
        return kept

    # --- looking --------------------------------------------------------------------------------

    def names(self, tenant: str, limit: int, start: int = 0) -> list[str]:
        """Sensors, those first that were heard of last."""
        found = self._client.zrevrange(sensors_key(tenant), start, start + limit - 1)
        return [name.decode() for name in found]

    def count(self, tenant: str) -> int:
        """Sensors that are known."""
        return int(self._client.zcard(sensors_key(tenant)))

    def analyses(self, tenant: str, name: str, limit: int) -> list[bytes]:
        """Records, the newest first."""
        key = f"{SENSOR_PREFIX}analyses:{tenant}:{name}"
        return list(self._client.lrange(key, 0, limit - 1))

    def alarms(self, tenant: str, limit: int) -> list[bytes]:
        """Alarms as JSON, the newest first."""
        return list(self._client.lrange(sensor_alarms_key(tenant), 0, limit - 1))


def _batch(fields: Sequence[Any]) -> Batch:
    number_of_all, epoch, tenant, sensor, channels, rows, number, first, why, previous = fields
    return Batch(
        id=number_of_all.decode(), epoch=int(epoch), tenant=tenant.decode(), sensor=sensor.decode(),
        channels=int(channels), rows=rows, number=int(number), first=int(first),
        why=why.decode(), previous=previous,
    )
