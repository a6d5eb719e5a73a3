"""From requests over HTTP to an alarm: gateway, real-time worker and maintenance worker."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from celeriac.keys import feedback_stream_key
from celeriac.messages import DRIFT_LABELS, MAINTENANCE_QUEUE
from celeriac.settings import Settings
from producer.broker import Broker
from tests.conftest import Worker
from tests.integration.gateway.conftest import Http

pytestmark = pytest.mark.uncounted

TEXTS = ["good fine great coffee", "bad awful stale coffee"]
OTHER = {"positive": "negative", "negative": "positive"}


@pytest.fixture
def maintenance(gateway_settings: Settings, tmp_path: Path) -> Iterator[Worker]:
    worker = Worker(gateway_settings, "maintenance", tmp_path / "maintenance.log", "-c", "1")
    yield worker.wait_ready()
    worker.stop()


def answers(http: Http, count: int) -> list[dict[str, Any]]:
    found = http.post(
        "/v1/models/reviews/predict", {"items": TEXTS * (count // 2)}, Prefer="prediction-id"
    )
    listed: list[dict[str, Any]] = found.json["predictions"]
    return listed


def give(http: Http, labels: list[dict[str, Any]]) -> int:
    """How many of them counted."""
    found = http.post("/v1/feedback", {"labels": labels})
    assert found.status == 200, found
    return sum(one["counted"] for one in found.json["feedback"])


def look(broker: Broker, client: redis.Redis) -> None:
    """What beat does each 15 s, until the labels are taken."""
    broker.celery.send_task(DRIFT_LABELS, queue=MAINTENANCE_QUEUE)
    deadline = time.monotonic() + 20
    while client.llen(feedback_stream_key("reviews", 1)):
        assert time.monotonic() < deadline, "nobody looks at the labels"
        time.sleep(0.05)


def test_labels_that_turn_wrong_are_told_once(
    http_client: Http, gateway_settings: Settings, maintenance: Worker
) -> None:
    broker = Broker(gateway_settings)
    client = broker.redis
    for key in client.scan_iter("celeriac:feedback:[^k]*"):
        client.delete(key)
    right = [
        {"prediction_id": one["id"], "label": one["label"]} for one in answers(http_client, 400)
    ]
    assert give(http_client, right) == 400
    assert give(http_client, right) == 0  # each counts once
    look(broker, client)
    assert not client.keys("celeriac:alert:concept_drift:*")

    wrong = [
        {"prediction_id": one["id"], "label": OTHER[one["label"]]}
        for one in answers(http_client, 40)
    ]
    for _ in range(2):
        give(http_client, wrong)
        look(broker, client)
    deadline = time.monotonic() + 20
    while not client.keys("celeriac:alert:concept_drift:*"):
        assert time.monotonic() < deadline, "nobody was told"
        time.sleep(0.05)
    (told,) = client.keys("celeriac:alert:concept_drift:*")
    assert told.endswith(b":reviews:feedback:opened")
    (version,) = http_client.get("/v1/models/reviews/accuracy").json["versions"]
    assert (version["rows"], version["value"]) == (440, pytest.approx(400 / 440))
    broker.close()
