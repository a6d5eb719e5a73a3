"""What is required of predictions."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

from celeriac import errors

UpdateFrequency = Literal["continuous", "hourly", "daily"]

DAY_S = 86_400.0
PERIOD_S: dict[UpdateFrequency, float] = {"continuous": 0.0, "hourly": 3_600.0, "daily": DAY_S}
PEAK_TO_MEAN = 5.0
"""Traffic at the busiest second against the day's mean, where nobody says better."""
_MOST_VOLUME = 10**12
_MOST_LATENCY_MS = 30 * DAY_S * 1_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Requirement:
    """What is wanted. Raises RequestError for what makes no sense."""

    latency_ms: float
    """From the moment that an answer can be asked for until it must be there: of an item, when it
    comes; of a nightly report, when its data is complete."""
    volume: int
    """Items a day."""
    update_frequency: UpdateFrequency
    """How often the world wants new answers: as items come, each hour or each day."""
    peak_per_s: float | None = None
    """Items in the busiest second; five times the day's mean if it is not known."""

    def __post_init__(self) -> None:
        if not 0 < self.latency_ms <= _MOST_LATENCY_MS:
            raise _wrong("latency_ms", self.latency_ms, "milliseconds, more than 0, up to 30 days")
        if not 0 < self.volume <= _MOST_VOLUME:
            raise _wrong("volume", self.volume, "items a day, 1 to 10^12")
        if self.update_frequency not in get_args(UpdateFrequency):
            raise _wrong(
                "update_frequency", self.update_frequency, "one of continuous, hourly, daily"
            )
        if self.peak_per_s is not None and not 0 < self.peak_per_s < math.inf:
            raise _wrong("peak_per_s", self.peak_per_s, "items a second, more than 0")

    @property
    def mean_per_s(self) -> float:
        """Items a second over the whole day."""
        return self.volume / DAY_S

    @property
    def busiest_per_s(self) -> float:
        """Items in the busiest second."""
        return max(self.peak_per_s or PEAK_TO_MEAN * self.mean_per_s, self.mean_per_s)

    @property
    def run_items(self) -> int:
        """Items that come together between two runs of a batch job; a day's, if continuous."""
        period_s = PERIOD_S[self.update_frequency] or DAY_S
        return max(1, math.ceil(self.volume * period_s / DAY_S))


def _wrong(field: str, value: object, wanted: str) -> errors.RequestError:
    error = errors.RequestError(f"{field} is {value!r}; it must be {wanted}")
    error.field = field
    return error
