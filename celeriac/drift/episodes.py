"""An alarm that opens once and closes once, however often somebody looks in between."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, NamedTuple


@dataclass(frozen=True, kw_only=True)
class Look:
    """One look at one statistic."""

    at_s: float
    """Unix time."""
    statistic: float | None
    """None: there was not enough data to say anything."""
    threshold: float


@dataclass(frozen=True, kw_only=True)
class Episode:
    """From an alarm to its end."""

    feature: str
    opened_at_s: float
    opened_with: float
    threshold: float
    peak: float
    peak_at_s: float
    closed_at_s: float | None = None

    @property
    def is_open(self) -> bool:
        return self.closed_at_s is None


@dataclass(frozen=True, kw_only=True)
class Hysteresis:
    """When an episode ends."""

    close_below: float = 0.8
    """Share of the threshold that the statistic has to fall below ..."""
    close_looks: int = 3
    """... in so many looks, one after the other."""


@dataclass(frozen=True, kw_only=True)
class Watched:
    """What is remembered of a feature between two looks."""

    feature: str
    episode: Episode | None = None
    """The one that is open."""
    calm: int = 0
    """Looks below the closing mark, one after the other."""
    seen_at_s: float = 0.0
    """The newest look."""


Event = Literal["opened", "closed"]


class Step(NamedTuple):
    """After one look."""

    watched: Watched
    """What is to be remembered."""
    event: Event | None = None
    episode: Episode | None = None
    """The one that opened or closed."""


def step(watched: Watched, look: Look, rule: Hysteresis) -> Step:
    """Take note of one look.

    A look that lacks data changes nothing, and so does one that is not newer than the last: a clock
    that jumped back, or the same look twice.
    """
    if look.statistic is None or look.at_s <= watched.seen_at_s:
        return Step(watched)
    watched = replace(watched, seen_at_s=look.at_s)
    if watched.episode is None:
        return _closed(watched, look)
    return _open(watched, watched.episode, look, rule)


def _closed(watched: Watched, look: Look) -> Step:
    value = look.statistic or 0.0
    if value <= look.threshold:
        return Step(watched)
    episode = Episode(
        feature=watched.feature, opened_at_s=look.at_s, opened_with=value,
        threshold=look.threshold, peak=value, peak_at_s=look.at_s,
    )
    return Step(replace(watched, episode=episode, calm=0), "opened", episode)


def _open(watched: Watched, episode: Episode, look: Look, rule: Hysteresis) -> Step:
    value = look.statistic or 0.0
    if value > episode.peak:
        episode = replace(episode, peak=value, peak_at_s=look.at_s)
    calm = watched.calm + 1 if value < rule.close_below * look.threshold else 0
    if calm < rule.close_looks:
        return Step(replace(watched, episode=episode, calm=calm))
    episode = replace(episode, closed_at_s=look.at_s)
    return Step(replace(watched, episode=None, calm=0), "closed", episode)
