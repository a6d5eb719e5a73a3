"""Events of drift that are announced reach the log, the metric and the webhook once."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import redis
from celery.exceptions import Reject

from celeriac import errors, metrics
from celeriac.drift.events import DriftEvent
from celeriac.keys import ALERTS_PENDING_KEY, drift_asker_key, drift_unasked_key
from celeriac.messages import ALERT_SEND, DRIFT_NOTICE, MAINTENANCE_QUEUE
from celeriac.settings import AlertSettings, Settings
from celeriac.settings.adapt import AdaptSettings
from producer.broker import Broker
from tasks import adaptation, alerts, drift_notices
from tasks.drift_notices import announce, tell

EVENT = DriftEvent(
    kind="concept_drift", state="opened", model="sizes", version=2, source="feedback",
    features=(), detail="accuracy has fallen", at_s=1_764_000_000.0,
)


def counted() -> float:
    return metrics.DRIFT_EVENTS.labels("sizes", "concept_drift", "opened")._value.get()


def test_an_event_is_told_once(settings: Settings, redis_client: redis.Redis) -> None:
    webhook = AlertSettings(webhook="http://127.0.0.1:9/hook")
    broker = Broker(settings.model_copy(update={"alerts": webhook}))
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


def test_a_policy_that_could_not_be_asked_is_asked_again_in_the_order_of_events(
    settings: Settings, redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    rule = AdaptSettings.model_validate({
        "retrain": "shop.retrain", "queue": "training", "label": "y",
        "labelled": str(tmp_path / "rows.csv"),
    })
    drifts = settings.drift.model_copy(update={"adapt": {"sizes": rule}})
    broker = Broker(settings.model_copy(update={"drift": drifts}))
    asked: list[str] = []
    problems: list[Exception] = [
        errors.RegistryError("locked"), OSError(28, "no space"), ValueError("odd"),
    ]

    def on_event(broker: Broker, event: DriftEvent) -> None:
        if problems:
            raise problems.pop()
        asked.append(event.state)

    monkeypatch.setattr(adaptation, "on_event", on_event)
    later: dict[str, Any] = EVENT.to_dict() | {"state": "closed", "at_s": EVENT.at_s + 60}
    assert tell(broker, EVENT)  # it is told, whatever becomes of the policy
    assert tell(broker, DriftEvent.from_dict(later))
    assert redis_client.llen(drift_unasked_key("sizes")) == 2
    assert 0 < redis_client.ttl(drift_unasked_key("sizes")) <= 31 * 86_400
    for _ in range(3):
        adaptation.ask_waiting(broker, "sizes")
    assert asked == ["opened", "closed"]
    assert not redis_client.exists(drift_unasked_key("sizes"), drift_asker_key("sizes"))

    redis_client.set(drift_asker_key("sizes"), "another task")
    assert tell(broker, DriftEvent.from_dict(later | {"at_s": EVENT.at_s + 90}))
    assert asked == ["opened", "closed"]  # the other one does it, or the next look
    redis_client.delete(drift_asker_key("sizes"))
    adaptation.ask_waiting(broker, "sizes")
    assert asked == ["opened", "closed", "closed"]

    for odd in ("{", '{"kind": "odd"}'):  # what is no event holds up no other
        redis_client.rpush(drift_unasked_key("sizes"), odd)
    assert tell(broker, DriftEvent.from_dict(later | {"at_s": EVENT.at_s + 120}))
    assert len(asked) == 4
    assert not redis_client.exists(drift_unasked_key("sizes"))

    monkeypatch.setattr(adaptation, "_ASK_FOR_S", 0.0)  # there were too many before it
    assert tell(broker, DriftEvent.from_dict(later | {"at_s": EVENT.at_s + 150}))
    assert (len(asked), redis_client.llen(drift_unasked_key("sizes"))) == (4, 1)
    broker.close()


def test_an_event_that_cannot_be_told_keeps_no_other_from_it(
    settings: Settings, redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(drift_notices, "get_settings", lambda: settings)
    before = counted()
    with pytest.raises(errors.RequestError, match="no event of drift"):
        drift_notices.notice.run({"kind": "odd"}, others=[EVENT.to_dict()])
    assert counted() == before + 1


def test_a_redis_that_fails_loses_no_event(
    settings: Settings, redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    problems: list[Exception] = [redis.ConnectionError("away"), redis.TimeoutError("slow")]
    ask = adaptation.ask

    def failing(broker: Broker, event: DriftEvent) -> None:
        if problems:
            raise problems.pop()
        ask(broker, event)

    monkeypatch.setattr(drift_notices, "get_settings", lambda: settings)
    monkeypatch.setattr(drift_notices, "_PAUSE_S", 0.0)
    monkeypatch.setattr(adaptation, "ask", failing)
    before = counted()
    drift_notices.notice.run(EVENT.to_dict())
    assert counted() == before + 1

    problems.append(redis.ResponseError("READONLY"))
    later = EVENT.to_dict() | {"at_s": EVENT.at_s + 60}
    with pytest.raises(Reject) as rejected:
        drift_notices.notice.run(EVENT.to_dict(), others=[later])
    assert rejected.value.requeue  # all of it comes again
    drift_notices.notice.run(EVENT.to_dict(), others=[later])
    assert counted() == before + 2


def test_an_alert_leaves_the_list_after_it_was_sent(
    settings: Settings, redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A sender that is killed leaves it to the next one."""
    webhook = AlertSettings(webhook="http://127.0.0.1:9/hook")
    broker = Broker(settings.model_copy(update={"alerts": webhook}))
    waiting: list[Any] = []

    def call(*_: Any) -> tuple[str, bool]:
        waiting.append(redis_client.llen(ALERTS_PENDING_KEY))
        return "", False

    monkeypatch.setattr(alerts, "call_webhook", call)
    assert alerts.notify(broker, EVENT.alert())
    assert alerts.send_oldest(broker, owner="task")
    assert not alerts.send_oldest(broker, owner="task")
    assert waiting == [1]
    assert not redis_client.exists(ALERTS_PENDING_KEY)
    broker.close()


def test_what_one_look_finds_is_told_by_one_task(
    settings: Settings, redis_client: redis.Redis
) -> None:
    broker = Broker(settings)
    announce(broker)
    assert redis_client.llen(MAINTENANCE_QUEUE) == 0
    announce(broker, EVENT, DriftEvent.from_dict(EVENT.to_dict() | {"state": "closed"}))
    assert redis_client.llen(MAINTENANCE_QUEUE) == 1
    broker.close()
