"""Events of drift: whoever finds one announces it; it is told once, and the policy asked."""

from __future__ import annotations

from typing import Any

from celery import shared_task

from celeriac import metrics
from celeriac.drift.events import DriftEvent
from celeriac.messages import (
    CONTRACT,
    DRIFT_NOTICE,
    MAINTENANCE_QUEUE,
    alert_key,
    check_contract,
)
from celeriac.settings import get_settings
from producer.broker import Broker
from producer.jobs import redis_errors
from tasks import adaptation
from tasks.alerts import notify, send_pending
from tasks.base import CeleriacTask


def announce(broker: Broker, event: DriftEvent) -> None:
    """Have an event told. Raises BrokerError."""
    with redis_errors(broker):
        broker.celery.send_task(
            DRIFT_NOTICE, kwargs={"event": event.to_dict(), "v": CONTRACT}, queue=MAINTENANCE_QUEUE
        )


@shared_task(name=DRIFT_NOTICE, base=CeleriacTask, ignore_result=True)
def notice(event: dict[str, Any], v: int = 1) -> None:
    """Tell an event (:meth:`DriftEvent.to_dict`): log, metric, webhook, command; once."""
    check_contract(v)
    broker = Broker(get_settings())
    try:
        tell(broker, DriftEvent.from_dict(event))
    finally:
        broker.close()


def tell(broker: Broker, event: DriftEvent) -> bool:
    """As :func:`notice`; True if it was not told before.

    What the policy says is done first, so that no event is told and then forgotten; whatever comes
    of that, it is told. Raises redis.RedisError, and what :func:`adaptation.on_event` raises.
    """
    if broker.redis.exists(alert_key(*event.alert().claim)):
        return False
    try:
        adaptation.on_event(broker, event)
    finally:
        is_new = _alert(broker, event)
    return is_new


def _alert(broker: Broker, event: DriftEvent) -> bool:
    is_new = notify(broker, event.alert())
    if is_new:
        metrics.DRIFT_EVENTS.labels(event.model, event.kind, event.state).inc()
    send_pending(broker)
    return is_new
