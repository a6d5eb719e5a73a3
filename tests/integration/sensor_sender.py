"""One of many senders: all readings of all sensors, in an order and in blocks of its own.

    python sensor_sender.py URL SEED
"""

from __future__ import annotations

import random
import sys
import time

from celeriac.settings import BrokerSettings, SensorSettings, Settings
from producer.applications.sensors import Answer, Sensors
from producer.client import Client

T0 = 1_700_000_000.0
SENSORS, READINGS = 5, 80


def main(url: str, seed: int) -> None:
    """Exit code 1 unless every reading gets an answer."""
    settings = Settings(
        broker=BrokerSettings(url=url),
        sensors=SensorSettings(window=100, batch_readings=10, max_sensors=10),
    )
    readings = [
        {"sensor": f"s{sensor}", "at": T0 + at, "value": float(at % 5)}
        for sensor in range(SENSORS) for at in range(READINGS)
    ]  # fmt: skip
    random.Random(seed).shuffle(readings)
    with Client(settings=settings) as client:
        client.broker.redis.incr("senders")
        while not client.broker.redis.exists("go"):
            time.sleep(0.005)
        for start in range(0, len(readings), 16):
            answers = Sensors(client).ingest(readings[start : start + 16])
            if not all(isinstance(one, Answer) for one in answers):
                raise SystemExit(str(answers))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
