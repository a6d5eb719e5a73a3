"""The page about a sensor: all kinds of sensors, and nothing from outside."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from celeriac.applications.sensors import record, rows
from celeriac.applications.sensors.analysis import analyse
from celeriac.applications.sensors.page import render

T0_MS = 1_700_000_000_000


def analysis(number: int, channels: int, value: float | None = None) -> dict[str, Any]:
    rng = np.random.default_rng(number)
    at_ms = T0_MS + (np.arange(40) + 40 * number) * 1_000
    at_ms[20:] += 60_000
    values = rng.normal(size=(40, channels)) if value is None else np.full((40, channels), value)
    found = analyse(rows.of(at_ms, np.where(np.arange(40) == 7, 9.0, 1.0), 8.0, values))
    return record.of(found, sensor="a", number=number, first=1, why="full")


def sensor(channels: int, value: float, count: int) -> dict[str, Any]:
    recent = [(1_700_000_000.0 + at, [value + at % 3 * value] * channels) for at in range(count)]
    return {
        "sensor": "<hall>", "channels": channels, "readings": 80, "anomalies": 2,
        "last_at": recent[-1][0], "last_values": recent[-1][1], "recent": recent, "alarm": None,
    }  # fmt: skip


ALARM = {
    "sensor": "a", "event": "closed", "opened_at_s": 1_700_000_000.0, "opened_with": 9.0,
    "threshold": 8.0, "peak": 1048.36, "peak_at_s": 1_700_000_001.0,
    "closed_at_s": 1_700_000_004.0,
}  # fmt: skip
GIVEN_UP = {"number": 3, "first": 81, "readings": 40, "error": "given up after 3 attempts"}


@pytest.mark.parametrize("channels", [1, 9])
def test_a_page_has_all_that_is_known(channels: int) -> None:
    found = [GIVEN_UP, analysis(2, channels), analysis(1, channels)]
    view = sensor(channels, 2.5, 60) | {"alarm": {**ALARM, "closed_at_s": None}}
    page = render(view, found, [ALARM]).decode()
    assert "&lt;hall&gt;" in page
    assert page.count("<svg") == 2 * channels
    assert "given up after 3 attempts" in page
    assert "1,048" in page
    assert "Missing periods" in page
    assert "http://" not in page
    assert "<script" not in page
    assert len(page) < 1_000_000


@pytest.mark.parametrize("value", [0.0, -3.0, 1e308, 5e-324])
def test_strange_numbers_are_drawn_or_left_out(value: float) -> None:
    for count in (1, 60):
        page = render(sensor(1, value / 3, count), [analysis(1, 1, value)], []).decode()
        assert "nan" not in page.lower()


def test_a_sensor_of_which_little_is_known() -> None:
    page = render(sensor(1, 1.0, 1), [], []).decode()
    assert "None has been analysed yet" in page
    assert "None that is still known" in page
