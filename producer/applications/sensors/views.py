"""What is known of sensors, for whoever looks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, TypeVar

import msgspec

from celeriac import errors
from celeriac.applications.sensors import alarms, state
from celeriac.applications.sensors.readings import check_sensor
from producer.applications.sensors.store import SensorStore
from producer.broker import Broker
from producer.jobs import redis_errors

T = TypeVar("T")
_decode = msgspec.json.Decoder().decode


@dataclass(frozen=True, kw_only=True)
class Alarm:
    """An alarm that is open, or something that happened to one."""

    sensor: str
    event: str
    """``opened`` or ``closed``; of one that is open, ``opened``."""
    opened_at_s: float
    opened_with: float
    threshold: float
    peak: float
    """The highest score so far."""
    peak_at_s: float
    closed_at_s: float | None = None


@dataclass(frozen=True, kw_only=True)
class SensorView:
    """One sensor."""

    sensor: str
    channels: int
    readings: int
    """That were accepted."""
    anomalies: int
    last_at: float
    """Unix seconds of the newest reading ..."""
    last_values: list[float]
    """... and what it says."""
    alarm: Alarm | None
    """The one that is open."""
    recent: list[tuple[float, list[float]]]
    """The readings that are remembered, by time; empty in lists of sensors."""

    def to_wire(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return asdict(self)


class SensorViews:
    """The sensors of one tenant. Raises BrokerError."""

    def __init__(self, broker: Broker, tenant: str) -> None:
        self._broker, self._tenant = broker, tenant

    def sensors(self, limit: int = 100, start: int = 0) -> list[SensorView]:
        """Those first that were heard of last, without what they sent."""
        def look(store: SensorStore) -> list[SensorView]:
            names = store.names(self._tenant, limit, start)
            found = zip(names, store.states(self._tenant, names), strict=True)
            return [_view(name, data, recent=False) for name, data in found if _is_known(data)]

        return self._ask(look)

    def count(self) -> int:
        """Sensors that are known."""
        return self._ask(lambda store: store.count(self._tenant))

    def sensor(self, name: str) -> SensorView:
        """One sensor with the readings that are remembered. Raises SensorNotFound."""
        known = self._ask(lambda store: store.states(self._tenant, [_named(name)])[0])
        if not _is_known(known):
            raise errors.SensorNotFound(
                f"no sensor {name!r} has sent a reading, or it was silent for longer than "
                "[sensors] forget_after_s"
            )
        return _view(name, known, recent=True)

    def analyses(self, name: str, limit: int = 20) -> list[dict[str, Any]]:
        """What was found in the batches of a sensor, the newest first."""
        records = self._ask(lambda store: store.analyses(self._tenant, _named(name), limit))
        return [_decode(record) for record in records]

    def alarms(self, limit: int = 100) -> list[Alarm]:
        """Alarms that opened and closed, the newest first."""
        found = self._ask(lambda store: store.alarms(self._tenant, limit))
        return [Alarm(**_decode(one)) for one in found]

    def _ask(self, look: Callable[[SensorStore], T]) -> T:
        with redis_errors(self._broker):
            return look(SensorStore(self._broker.redis, self._broker.settings.sensors))


def _named(name: str) -> str:
    try:
        return check_sensor(name)
    except errors.InvalidItem as error:
        raise errors.SensorNotFound(error.message) from error


def _is_known(data: bytes | None) -> bool:
    return state.channels_of(data) > 0


def _view(name: str, data: Any, *, recent: bool) -> SensorView:
    channels = state.channels_of(data)
    found = state.read([data], state.places_of(data), channels)[0]
    is_there = found["times"] != state.EMPTY
    times = (found["times"][is_there] / 1_000).tolist()
    values = found["values"][is_there].tolist()
    episode = alarms.episode_of(found, name)
    return SensorView(
        sensor=name, channels=channels, readings=int(found["accepted"]),
        anomalies=int(found["anomalies"]), last_at=times[-1], last_values=values[-1],
        alarm=None if episode is None else Alarm(
            sensor=name, event="opened", opened_at_s=episode.opened_at_s,
            opened_with=episode.opened_with, threshold=episode.threshold, peak=episode.peak,
            peak_at_s=episode.peak_at_s,
        ),
        recent=list(zip(times, values, strict=True)) if recent else [],
    )  # fmt: skip
