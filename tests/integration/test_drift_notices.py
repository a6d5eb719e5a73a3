"""Events of drift that are announced reach the log, the metric and the webhook once."""

from __future__ import annotations

import json

import redis

from celeriac import metrics
from celeriac.drift.events import DriftEvent
from celeriac.messages import ALERT_SEND, ALERTS_PENDING_KEY, DRIFT_NOTICE, MAINTENANCE_QUEUE
from celeriac.settings import AlertSettings, Settings
from producer.broker import Broker
from tasks.drift_notices import announce, tell

EVENT = DriftEvent(
    kind="concept_drift", state="opened", model="sizes", version=2, source="feedback",
    features=(), detail="accuracy has fallen", at_s=1_764_000_000.0,
)


def counted() -> float:
    return metrics.DRIFT_EVENTS.labels("sizes", "concept_drift", "opened")._value.get()


def test_an_event_is_told_once(settings: Settings, redis_client: redis.Redis) -> None:
    alerts = AlertSettings(webhook="http://127.0.0.1:9/hook")
    broker = Broker(settings.model_copy(update={"alerts": alerts}))
    before = counted()
    announce(broker, EVENT)
    message = json.loads(redis_client.rpop(MAINTENANCE_QUEUE) or b"")
    assert message["headers"]["task"] == DRIFT_NOTICE

    assert tell(broker, EVENT)
    assert not tell(broker, EVENT)  # the same message came again

    assert counted() == before + 1
    (waiting,) = redis_client.lrange(ALERTS_PENDING_KEY, 0, -1)
    assert json.loads(waiting)["alert"]["model"] == "sizes"
    sent = json.loads(redis_client.rpop(MAINTENANCE_QUEUE) or b"")
    assert sent["headers"]["task"] == ALERT_SEND
    broker.close()
