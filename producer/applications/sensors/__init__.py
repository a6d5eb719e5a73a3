"""Sensors for Python callers: take readings, answer each at once, tell what is known.

    with Client() as client:
        sensors = Sensors(client)
        [answer] = sensors.ingest([{"sensor": "pump-7", "at": time.time(), "value": 3.2}])
        answer.anomaly, answer.score, answer.alarm

Needs numpy, which the extras ``celeriac[gateway]`` and ``celeriac[datasets]`` bring.
"""

from __future__ import annotations

from producer.applications.sensors.answers import Answer, Outcome
from producer.applications.sensors.client import Sensors
from producer.applications.sensors.views import Alarm, SensorView

__all__ = ["Alarm", "Answer", "Outcome", "SensorView", "Sensors"]
