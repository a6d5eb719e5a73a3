"""An alarm of a sensor opens with an anomaly and closes after a few calm readings.

The steps are those of drift episodes (:mod:`celeriac.drift.episodes`). A reading that comes late
may open an alarm, but it neither closes one nor counts as calm: the newest ones decide.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from celeriac.drift.episodes import Episode, Event, Hysteresis, Look, Step, Watched, step

Array = np.ndarray[Any, Any]


class Change(NamedTuple):
    """An alarm that opened or closed with a reading."""

    row: int
    """Of the reading, among those that were judged."""
    event: Event
    episode: Episode


class Looks(NamedTuple):
    """Readings in the order of their sensors and times."""

    sensor: Array
    """Place of each one's sensor among the states."""
    at_ms: Array
    score: Array
    """NaN: not judged."""


def watch(
    states: Array, names: list[str], looks: Looks, threshold: float, rule: Hysteresis
) -> tuple[list[Change], Array]:
    """Take note of readings; ``states`` are changed.

    Returns what opened and closed, and for each reading whether an alarm is open after it. Only
    sensors with an open alarm or an anomaly are looked at one reading after the other.
    """
    sensor, at_ms, score = looks
    is_open = np.zeros(len(sensor), dtype=bool)
    if not len(sensor):
        return [], is_open
    with np.errstate(invalid="ignore"):
        loud = score > threshold
    starts = np.flatnonzero(np.r_[True, sensor[1:] != sensor[:-1]])
    ends = np.r_[starts[1:], len(sensor)]
    owners = sensor[starts]
    lively = (states["is_open"][owners] == 1) | np.logical_or.reduceat(loud, starts)
    judged = np.where(np.isnan(score), -np.inf, at_ms / 1_000)
    newest_s = np.maximum.reduceat(judged, starts)
    calm = owners[~lively]
    states["seen_at_s"][calm] = np.maximum(states["seen_at_s"][calm], newest_s[~lively])
    changes: list[Change] = []
    for start, end, owner in zip(starts[lively], ends[lively], owners[lively], strict=True):
        watched = _read(states[owner], names[owner])
        for row in range(start, end):
            look = Look(
                at_s=float(at_ms[row]) / 1_000, threshold=threshold,
                statistic=None if np.isnan(score[row]) else float(score[row]),
            )
            taken = note(watched, look, rule)
            watched = taken.watched
            if taken.event is not None and taken.episode is not None:
                changes.append(Change(row, taken.event, taken.episode))
            is_open[row] = watched.episode is not None
        _write(states, owner, watched)
    return changes, is_open


def episode_of(state: Any, name: str) -> Episode | None:
    """The open alarm of one state."""
    return _read(state, name).episode


def note(watched: Watched, look: Look, rule: Hysteresis) -> Step:
    """One step of one alarm; of a reading that comes late, see above."""
    if look.at_s > watched.seen_at_s:
        return step(watched, look, rule)
    if watched.episode is not None or (look.statistic or 0.0) <= look.threshold:
        return Step(watched)
    taken = step(replace(watched, seen_at_s=-np.inf), look, rule)
    return taken._replace(watched=replace(taken.watched, seen_at_s=watched.seen_at_s))


def _read(state: Any, name: str) -> Watched:
    episode = None
    if state["is_open"]:
        episode = Episode(
            feature=name, opened_at_s=float(state["opened_at_s"]),
            opened_with=float(state["opened_with"]), threshold=float(state["threshold"]),
            peak=float(state["peak"]), peak_at_s=float(state["peak_at_s"]),
        )
    return Watched(
        feature=name, episode=episode, calm=int(state["calm"]),
        seen_at_s=float(state["seen_at_s"]),
    )


def _write(states: Array, owner: int, watched: Watched) -> None:
    episode = watched.episode
    states["is_open"][owner] = episode is not None
    states["calm"][owner] = min(watched.calm, 255)
    states["seen_at_s"][owner] = watched.seen_at_s
    for field in ("opened_at_s", "opened_with", "threshold", "peak", "peak_at_s"):
        states[field][owner] = 0.0 if episode is None else getattr(episode, field)
