"""What came in, as columns: one sensor, one time and a few numbers for each reading."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import numpy as np

from celeriac import errors

MOST_CHANNELS = 16
"""Numbers of one reading, at most."""
RESERVED = frozenset({"readings", "alarms"})
"""Names that stand for something else under ``/v1/sensors``."""
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,127}")
_FIELDS = frozenset({"sensor", "at", "value", "values"})


@dataclass(frozen=True, kw_only=True)
class Readings:
    """Columns of readings; those with an entry in ``errors`` count for nothing."""

    sensors: Sequence[str]
    at_ms: np.ndarray[Any, Any]
    """Unix milliseconds, int64."""
    values: Sequence[np.ndarray[Any, Any]] | np.ndarray[Any, Any]
    """A row of numbers for each; all of one length: an array ``(readings, channels)``."""
    errors: dict[int, errors.InvalidItem]
    """What is wrong with a reading, by its place."""

    def __len__(self) -> int:
        return len(self.sensors)


def check_sensor(name: Any) -> str:
    """``name`` itself; raises InvalidItem if no sensor can have it."""
    if isinstance(name, str) and _NAME.fullmatch(name) and name not in RESERVED:
        return name
    if not isinstance(name, str):
        found = "null" if name is None else str(name)[:60]
        raise errors.InvalidItem(f"a sensor's name is a text; found {found}")
    raise errors.InvalidItem(
        f"{name[:60]!r} is no sensor's name: use letters, digits, '.', '_', ':' and '-', at "
        "most 128, beginning with a letter or a digit, and neither 'readings' nor 'alarms'"
    )


def parse(readings: Sequence[Any], now_s: float, max_ahead_s: float) -> Readings:
    """Columns of ``[{"sensor", "at"?, "value" or "values"}, ...]``.

    ``at`` is Unix seconds, or a text of ISO 8601 with its offset; without it, ``now_s``. What is
    wrong with a reading is its own error: of the others nothing is lost.
    """
    plain = _plain(readings)
    if plain is not None:
        with suppress(errors.RequestError):  # a whole number that is too large for a float
            return from_columns(*plain, now_s=now_s, max_ahead_s=max_ahead_s)
    sensors: list[str] = []
    at_ms = np.zeros(len(readings), dtype=np.int64)
    rows: list[np.ndarray[Any, Any]] = []
    wrong: dict[int, errors.InvalidItem] = {}
    nothing = np.zeros(0)
    for place, reading in enumerate(readings):
        try:
            name, at, row = _one(reading, now_s, max_ahead_s)
        except errors.InvalidItem as error:
            wrong[place] = error
            name, at, row = "", 0, nothing
        sensors.append(name)
        at_ms[place] = at
        rows.append(row)
    return Readings(sensors=sensors, at_ms=at_ms, values=rows, errors=wrong)


def from_columns(
    sensors: Sequence[str], at: Any, values: Any, *, now_s: float, max_ahead_s: float
) -> Readings:
    """The same of columns: names, Unix seconds, and numbers ``(readings,)`` or
    ``(readings, channels)``. Raises RequestError if they are not of one length, or no numbers."""
    try:
        seconds = np.asarray(at, dtype=np.float64)
        numbers = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError, OverflowError) as error:
        raise errors.RequestError(f"times and values of columns are numbers: {error}") from error
    numbers = numbers[:, None] if numbers.ndim == 1 else numbers
    if numbers.ndim != 2 or seconds.shape != (len(sensors),) or len(numbers) != len(sensors):
        raise errors.RequestError(
            f"columns of readings have one length; found {len(sensors)} sensors, times of shape "
            f"{seconds.shape} and values of shape {numbers.shape}"
        )
    names = [str(name) if _is_name(name) else "" for name in sensors]
    wrong = {
        place: _error_of(check_sensor, name)
        for place, name in enumerate(sensors) if not names[place]
    }  # fmt: skip
    fine = np.isfinite(numbers).all(axis=1) & (0 < numbers.shape[1] <= MOST_CHANNELS)
    for place in np.flatnonzero(~fine).tolist():
        wrong.setdefault(place, _error_of(_row, numbers[place].tolist()))
    with np.errstate(invalid="ignore"):
        in_range = (seconds >= 0) & (seconds <= now_s + max_ahead_s)
    for place in np.flatnonzero(~in_range).tolist():
        wrong.setdefault(place, _error_of(_at_ms, float(seconds[place]), now_s, max_ahead_s))
    at_ms = np.rint(np.where(in_range, seconds, 0.0) * 1_000).astype(np.int64)
    return Readings(sensors=names, at_ms=at_ms, values=numbers, errors=wrong)


def _plain(readings: Sequence[Any]) -> tuple[list[str], list[Any], list[Any]] | None:
    """Columns of readings that all are a name, a number and a number: most bulks are."""
    try:
        if not all(len(reading) == 3 for reading in readings):
            return None
        sensors = [reading["sensor"] for reading in readings]
        at = [reading["at"] for reading in readings]
        values = [reading["value"] for reading in readings]
    except (TypeError, KeyError, IndexError):
        return None
    kinds = set(map(type, at)) | set(map(type, values))
    fine = kinds <= {int, float} and set(map(type, sensors)) <= {str} and bool(readings)
    return (sensors, at, values) if fine else None


def _one(
    reading: Any, now_s: float, max_ahead_s: float
) -> tuple[str, int, np.ndarray[Any, Any]]:
    if not isinstance(reading, Mapping):
        raise errors.InvalidItem('a reading is an object: {"sensor", "at", "value"}')
    unknown = sorted(str(key) for key in reading.keys() - _FIELDS)
    if unknown:
        raise errors.InvalidItem(
            f"a reading has sensor, at, and value or values; found {', '.join(unknown)[:80]}"
        )
    name = check_sensor(reading.get("sensor"))
    if ("value" in reading) == ("values" in reading):
        raise errors.InvalidItem("a reading has either value, a number, or values, a list of them")
    given = reading["values"] if "values" in reading else [reading["value"]]
    row = _row(given)
    return name, _at_ms(reading.get("at"), now_s, max_ahead_s), row


def _row(given: Any) -> np.ndarray[Any, Any]:
    if hasattr(given, "tolist"):
        given = given.tolist()
    if not isinstance(given, (list, tuple)) or not 1 <= len(given) <= MOST_CHANNELS:
        raise errors.InvalidItem(f"values is a list of 1 to {MOST_CHANNELS} numbers")
    return np.array([_number(value) for value in given], dtype=np.float64)


def _number(value: Any) -> float:
    value = _scalar(value)
    if value is None:
        raise errors.InvalidItem("the value is missing; leave the reading out")
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise errors.InvalidItem(f"a value is a number, not {str(value)[:40]!r}")
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise errors.InvalidItem("the value is NaN or infinite; leave the reading out")
    return number


def _scalar(value: Any) -> Any:
    """A number of numpy or torch as Python's own; anything else as it is."""
    return value.item() if hasattr(value, "item") and getattr(value, "shape", None) == () else value


def _at_ms(at: Any, now_s: float, max_ahead_s: float) -> int:
    seconds = now_s if at is None else _seconds(at)
    if not 0 <= seconds <= now_s + max_ahead_s:
        raise errors.InvalidItem(_out_of_range(seconds, now_s, max_ahead_s))
    return round(seconds * 1_000)


def _seconds(at: Any) -> float:
    if isinstance(at, str):
        try:
            at = datetime.fromisoformat(at)
        except ValueError as error:
            raise errors.InvalidItem(
                f"at is Unix seconds or ISO 8601 with its offset, as 2026-11-25T08:00:00Z; found "
                f"{at[:40]!r}"
            ) from error
    if isinstance(at, datetime):
        if at.tzinfo is None:
            raise errors.InvalidItem(
                f"{at.isoformat()} does not say its offset from UTC: add Z or +01:00, or send "
                "Unix seconds"
            )
        return at.timestamp()
    at = _scalar(at)
    if isinstance(at, bool) or not isinstance(at, (int, float)):
        raise errors.InvalidItem("at is Unix seconds, or a text of ISO 8601 with its offset")
    return math.inf if at >= 1e300 else -math.inf if at <= -1e300 else float(at)


def _out_of_range(seconds: float, now_s: float, max_ahead_s: float) -> str:
    if math.isnan(seconds):
        return "at is NaN"
    if seconds < 0:
        return "at is before 1970: send Unix seconds"
    if now_s * 500 < seconds < now_s * 1e10:
        return "at looks like milliseconds (or less): send Unix seconds"
    ahead_s = seconds - now_s
    return (
        f"at is {ahead_s:.4g} s ahead of the clock here, more than the {max_ahead_s:g} s that are "
        "allowed ([sensors] max_ahead_s): set the sensor's clock"
    )


def _is_name(name: Any) -> bool:
    return isinstance(name, str) and name not in RESERVED and bool(_NAME.fullmatch(name))


def _error_of(check: Any, *arguments: Any) -> errors.InvalidItem:
    try:
        check(*arguments)
    except errors.InvalidItem as error:
        return error
    return errors.InvalidItem("the reading is not valid")
