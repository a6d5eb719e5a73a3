"""A page about one sensor: what it sent last, its alarms, and what its batches said."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from celeriac.reports import charts, page

TEMPLATE = Path(__file__).with_name("sensor.html")
MOST_ALARMS = 50


def render(
    sensor: Mapping[str, Any], analyses: Sequence[Mapping[str, Any]],
    alarms: Sequence[Mapping[str, Any]],
) -> bytes:
    """The page. ``sensor`` is what is known of it, ``analyses`` and ``alarms`` are the newest
    first, all of them as HTTP tells them. Raises RuntimeMissing without Jinja2."""
    told = [one for one in analyses if "error" not in one]
    return page.render(
        TEMPLATE, sensor=sensor, at=_moment, analyses=analyses, alarms=alarms[:MOST_ALARMS],
        recent=[
            _recent(sensor["recent"], channel) for channel in range(sensor["channels"])
        ],
        medians=[_medians(told[::-1], channel) for channel in range(sensor["channels"])],
        gaps=[gap for one in told for gap in one["gaps"]][:MOST_ALARMS],
        readings=sum(one["readings"] for one in analyses),
    )


def _recent(recent: Sequence[tuple[float, Sequence[float]]], channel: int) -> charts.Plot | None:
    """A bar for each reading that is remembered, above the least of them."""
    values = [values[channel] for _, values in recent]
    titles = [f"{_moment(at)}: {charts.number(values[channel])}" for at, values in recent]
    return _above(values, titles, _moment(recent[0][0]), _moment(recent[-1][0]))


def _medians(analyses: Sequence[Mapping[str, Any]], channel: int) -> charts.Plot | None:
    """A bar for each batch; marked where it holds anomalies."""
    if len(analyses) < 2:
        return None
    values = [one["channels"][channel]["median"] for one in analyses]
    titles = [
        f"batch {one['number']}: median {charts.number(value)}, "
        f"{charts.many(one['readings'], 'reading')}, {one['anomalies']} strange"
        for one, value in zip(analyses, values, strict=True)
    ]
    return _above(
        values, titles, f"batch {analyses[0]['number']}", f"batch {analyses[-1]['number']}",
        [one["anomalies"] > 0 for one in analyses],
    )


def _above(
    values: Sequence[float], titles: Sequence[str], left: str, right: str,
    marked: Sequence[bool] = (),
) -> charts.Plot | None:
    """Bars from a little below the least value to the largest; None where all are one."""
    least, most = min(values), max(values)
    span = most / 2 - least / 2  # of numbers near the largest, too
    if span == 0:
        return None
    bottom = least if least >= 0 and least < span else least - span * 0.1
    return charts.bars(
        [value / 2 - bottom / 2 for value in values], titles, left=left, right=right,
        marked=marked, top=f"from {charts.number(bottom)} to {charts.number(most)}",
    )


def _moment(at_s: float) -> str:
    return f"{datetime.fromtimestamp(at_s, UTC):%Y-%m-%d %H:%M:%S} UTC"
