"""What a caller is told of a reading."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal

import msgspec

from celeriac import errors
from celeriac.applications.sensors.ingest import CONFLICT, LATE, Judged
from celeriac.applications.sensors.readings import Readings

AlarmState = Literal["none", "opened", "open", "closed"]


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """One reading, judged."""

    sensor: str
    at: float
    """Unix seconds."""
    anomaly: bool | None
    """None: it could not be judged, there were too few readings before it."""
    score: float | None
    threshold: float
    alarm: AlarmState
    """Of the sensor after this reading; ``opened`` and ``closed``: with it."""
    duplicate: bool = False
    """It had come before, and counts once."""

    def to_wire(self) -> dict[str, Any]:
        """Plain data for JSON."""
        wire: dict[str, Any] = msgspec.to_builtins(self)
        return wire


Outcome = Answer | errors.CeleriacError


def answers(
    names: list[str], seconds: list[float], judged: Judged, threshold: float, window: int
) -> list[Outcome]:
    """An answer or an error for each reading."""
    events: Mapping[int, AlarmState] = {change.row: change.event for change in judged.changes}
    columns = zip(
        names, seconds, judged.outcome.tolist(), judged.score.tolist(), judged.is_open.tolist(),
        strict=True,
    )
    return [
        _late(name, window) if outcome == LATE else _conflict(name) if outcome == CONFLICT
        else Answer(
            sensor=name, at=at, anomaly=None if score != score else score > threshold,  # noqa: PLR0124 - NaN
            score=None if score != score else score, threshold=threshold,  # noqa: PLR0124 - NaN
            alarm=events.get(place) or ("open" if is_open else "none"), duplicate=outcome != 0,
        )
        for place, (name, at, outcome, score, is_open) in enumerate(columns)
    ]  # fmt: skip


def threshold_of(metrics: Mapping[str, float], model: str) -> float:
    """The threshold that a version was registered with. Raises RequestError if there is none, or
    one that is not above 0: then no share of it would be calm."""
    found = metrics.get(THRESHOLD_METRIC)
    if found is None or not 0 < found < math.inf:
        raise errors.RequestError(
            f"from which score on is a reading an anomaly? Say threshold, or register {model} "
            f"with the metric {THRESHOLD_METRIC}, a number above 0"
        )
    return found


THRESHOLD_METRIC = "anomaly_threshold"


def too_many(count: int, most: int) -> errors.PayloadTooLarge:
    return errors.PayloadTooLarge(
        f"{count:,} readings in one call; at most {most:,} ([sensors] max_readings)"
    )


def no_room(most: int) -> errors.Overloaded:
    return errors.Overloaded(
        f"this would be one sensor more than the {most:,} that are kept ([sensors] max_sensors)"
    )


def behind(most_mb: int) -> errors.Overloaded:
    return errors.Overloaded(
        f"{most_mb:,} MB of readings wait for their analysis, and no more are taken ([sensors] "
        "max_ready_mb); is a batch worker running (`celeriac status`)?", 5.0,
    )


def contended(name: str) -> errors.Overloaded:
    return errors.Overloaded(
        f"too many send readings of {name!r} at the same time; this one was not taken, send it "
        "again", 1.0,
    )


def other_channels(name: str, known: int, given: int) -> errors.InvalidItem:
    return errors.InvalidItem(
        f"a reading of {name!r} has {known} value{'s' if known > 1 else ''}, not {given}"
    )


def check_count(readings: Readings, most: int) -> None:
    """Raises PayloadTooLarge."""
    if len(readings) > most:
        raise too_many(len(readings), most)


def _late(name: str, window: int) -> errors.CeleriacError:
    return errors.InvalidItem(
        f"it comes too late: {name!r} has sent {window} newer readings, and nobody knows whether "
        "this one was among those before them ([sensors] window)"
    )


def _conflict(name: str) -> errors.CeleriacError:
    return errors.Conflict(f"{name!r} has sent another value for the same time; the first stays")
