"""Events of drift: whoever finds one announces it, and it is told once."""

from __future__ import annotations

from typing import Any

from celery import shared_task

from celeriac import metrics
from celeriac.drift.events import DriftEvent
from celeriac.messages import CONTRACT, DRIFT_NOTICE, MAINTENANCE_QUEUE, check_contract
from celeriac.settings import get_settings
from producer.broker import Broker
from producer.jobs import redis_errors
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
    """As :func:`notice`; True if it was not told before. Raises redis.RedisError."""
    is_new = notify(broker, event.alert())
    if is_new:
        metrics.DRIFT_EVENTS.labels(event.model, event.kind, event.state).inc()
    send_pending(broker)
    return is_new
