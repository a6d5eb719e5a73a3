"""Many readings of many sensors, with what is remembered of these: answers and what to remember.

    window of the sensor, new readings -> one line by time -> twice? too late? -> scores -> alarms

All sensors of a call have as many channels as each other. Readings of one call are judged in the
order of their times, each beside those before it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from celeriac.applications.sensors import alarms, detector, rows, state
from celeriac.drift.episodes import Hysteresis

Array = np.ndarray[Any, Any]

ACCEPTED, DUPLICATE, CONFLICT, LATE = 0, 1, 2, 3
"""What became of a reading: it is new; it came before; its sensor had another value at that time;
it is older than all that is remembered, so nobody knows whether it came before."""


@dataclass(frozen=True, kw_only=True)
class Rule:
    """How readings are judged."""

    threshold: float = 8.0
    """A reading with a higher score is an anomaly."""
    min_scale: float = 0.0
    """In the units of the readings: noise below it is none."""
    hysteresis: Hysteresis = field(default_factory=Hysteresis)


@dataclass(frozen=True, kw_only=True)
class Judged:
    """Answers, in the order of the readings."""

    outcome: Array
    score: Array
    """NaN: not judged."""
    is_open: Array
    """An alarm of its sensor is open after it."""
    changes: list[alarms.Change]
    """Alarms that opened and closed; ``row`` is the place of the reading."""


@dataclass(frozen=True, kw_only=True)
class Taken:
    """What one call makes of its readings."""

    judged: Judged
    states: Array
    """To be remembered, one for each sensor that was given."""
    rows: Array
    """Of the readings that were accepted, by sensor and time."""
    counts: Array
    """How many of ``rows`` each sensor has."""


class Came(NamedTuple):
    """Readings that came, as columns."""

    sensor: Array
    """Place of each one's sensor among the states."""
    at_ms: Array
    values: Array
    """``(readings, channels)``"""


def take(
    states: Array, names: list[str], came: Came, rule: Rule, given: Array | None = None
) -> Taken:
    """Judge readings and move the states on; ``states`` themselves are changed.

    ``given`` are scores of a model, instead of the detector's.
    """
    sensor, at_ms, values = came
    line = _Line(states, came)
    score = np.full(len(sensor), np.nan)
    known = np.flatnonzero(line.place >= 0)
    if given is None:
        history = line.before(line.place[known], states["times"].shape[1])
        score[known] = detector.scores(history, values[known], rule.min_scale)
    else:
        score[known] = given[known]
    line.remember(states)
    new = line.reading[line.reading >= 0]  # by sensor and time
    owner = sensor[new]
    changes, is_open = alarms.watch(
        states, names, alarms.Looks(owner, at_ms[new], score[new]), rule.threshold,
        rule.hysteresis,
    )
    with np.errstate(invalid="ignore"):
        loud = score[new] > rule.threshold
    counts = np.bincount(owner, minlength=len(states))
    states["accepted"] += counts
    states["anomalies"] += np.bincount(owner[loud], minlength=len(states))
    open_after = states["is_open"][sensor] == 1
    open_after[new] = is_open
    return Taken(
        judged=Judged(
            outcome=line.outcome, score=score, is_open=open_after,
            changes=[change._replace(row=int(new[change.row])) for change in changes],
        ),
        states=states,
        rows=rows.of(at_ms[new], score[new], rule.threshold, values[new]),
        counts=counts,
    )


class _Line:
    """What is remembered and what is new, by sensor and time, each time of a sensor once."""

    def __init__(self, states: Array, came: Came) -> None:
        sensor, at_ms, values = came
        times = states["times"]
        self.outcome = np.zeros(len(sensor), dtype=np.int8)
        """Of each new reading."""
        self.outcome[at_ms < times[sensor, 0]] = LATE  # an empty place is before all times
        known_sensor, known_place = np.nonzero(times != state.EMPTY)
        fresh = np.flatnonzero(self.outcome == ACCEPTED)
        owner = np.concatenate([known_sensor, sensor[fresh]])
        when = np.concatenate([times[known_sensor, known_place], at_ms[fresh]])
        numbers = np.concatenate([states["values"][known_sensor, known_place], values[fresh]])
        reading = np.concatenate([np.full(len(known_sensor), -1), fresh])
        order = np.lexsort((when, owner))  # stable: of equal times, what came first is first
        owner, when, numbers, reading = owner[order], when[order], numbers[order], reading[order]
        again = np.zeros(len(order), dtype=bool)
        again[1:] = (owner[1:] == owner[:-1]) & (when[1:] == when[:-1])
        first = np.maximum.accumulate(np.where(again, 0, np.arange(len(order))))
        same = (numbers == numbers[first]).all(axis=1)
        self.outcome[reading[again & same]] = DUPLICATE
        self.outcome[reading[again & ~same]] = CONFLICT
        self.place = np.full(len(sensor), -1)
        """Of each new reading, or of the one that it repeats; -1 if it has none."""
        placed = same & (reading >= 0)
        self.place[reading[placed]] = (np.cumsum(~again) - 1)[placed]
        kept = ~again
        self.sensor, self.at_ms, self.values = owner[kept], when[kept], numbers[kept]
        self.reading = reading[kept]
        """Place of a new reading among those that came; -1 of one that is remembered."""
        each = np.arange(len(states))
        self.begins = np.searchsorted(self.sensor, each)
        self.ends = np.searchsorted(self.sensor, each, side="right")

    def before(self, places: Array, window: int) -> Array:
        """The ``window`` readings before each place: ``(places, window, channels)``, NaN where
        there are fewer."""
        at = places[:, None] - np.arange(window, 0, -1)
        is_there = at >= self.begins[self.sensor[places]][:, None]
        found: Array = self.values[np.maximum(at, 0)]
        found[~is_there] = np.nan
        return found

    def remember(self, states: Array) -> None:
        """The newest of each sensor into its state."""
        if not len(self.at_ms):
            return
        window = states["times"].shape[1]
        at = self.ends[:, None] - np.arange(window, 0, -1)
        is_there = at >= self.begins[:, None]
        at = np.clip(at, 0, len(self.at_ms) - 1)
        states["times"] = np.where(is_there, self.at_ms[at], state.EMPTY)
        states["values"] = np.where(is_there[:, :, None], self.values[at], 0.0)
