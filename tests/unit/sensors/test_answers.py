"""What a caller is told."""

from __future__ import annotations

import pytest

from celeriac import errors
from producer.applications.sensors.answers import threshold_of


def test_the_threshold_of_a_version_is_above_0() -> None:
    assert threshold_of({"anomaly_threshold": 0.6}, "pumps") == 0.6
    for metrics in ({}, {"anomaly_threshold": -0.1}, {"anomaly_threshold": float("nan")}):
        with pytest.raises(errors.RequestError, match="register pumps with the metric"):
            threshold_of(metrics, "pumps")
