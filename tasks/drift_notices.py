"""Events of drift: whoever finds one announces it; it is told once, and the policy asked.

What one look finds is told by one task, in its order: broken data are over before what they hid
is told.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import partial
from typing import Any

import redis
from celery import shared_task
from celery.exceptions import Reject

from celeriac import metrics
from celeriac.drift.events import DriftEvent
from celeriac.keys import alert_key
from celeriac.logs import get_logger
from celeriac.messages import CONTRACT, DRIFT_NOTICE, MAINTENANCE_QUEUE, check_contract
from celeriac.settings import get_settings
from producer.broker import Broker
from producer.jobs import redis_errors
from tasks import adaptation
from tasks.alerts import notify, send_pending
from tasks.base import CeleriacTask
from tasks.patience import patiently

log = get_logger(__name__)

_PAUSE_S = 1.0
"""A Redis that answers with errors is not asked without a pause."""


def announce(broker: Broker, *events: DriftEvent) -> None:
    """Have events told, one after the other. Raises BrokerError."""
    if not events:
        return
    first, *others = (event.to_dict() for event in events)
    with redis_errors(broker):
        broker.celery.send_task(
            DRIFT_NOTICE, kwargs={"event": first, "others": others, "v": CONTRACT},
            queue=MAINTENANCE_QUEUE,
        )


@shared_task(name=DRIFT_NOTICE, base=CeleriacTask, ignore_result=True)
def notice(event: dict[str, Any], v: int = 1, others: Sequence[dict[str, Any]] = ()) -> None:
    """Tell an event (:meth:`DriftEvent.to_dict`) and those that follow it: log, metric, webhook,
    command; each once. One that fails keeps no other from being told. If Redis fails for longer
    than a task waits for it, the message goes back to its queue: what was told is not told again.
    """
    check_contract(v)
    problems = []
    with Broker(get_settings()) as broker:
        for one in (event, *others):
            try:
                patiently(partial(tell, broker, DriftEvent.from_dict(one)))
            except redis.RedisError as error:
                log.error("an event is told later", reason=str(error))  # noqa: TRY400 - not ours
                time.sleep(_PAUSE_S)
                raise Reject(error, requeue=True) from error
            except Exception as error:  # noqa: BLE001 - raised when all are told
                problems.append(error)
    if problems:
        raise problems[0]


def tell(broker: Broker, event: DriftEvent) -> bool:
    """As :func:`notice`; True if it was not told before.

    The policy is asked first, so that no event is told and then forgotten: one that it cannot take
    now waits until it can. Raises redis.RedisError.
    """
    if broker.redis.exists(alert_key(*event.alert().claim)):
        return False
    adaptation.ask(broker, event)
    is_new = notify(broker, event.alert())
    if is_new:
        metrics.DRIFT_EVENTS.labels(event.model, event.kind, event.state).inc()
    send_pending(broker)
    return is_new
