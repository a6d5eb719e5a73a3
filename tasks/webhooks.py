"""Sends the webhooks of submissions that have ended: signed, again while they fail, in bounds."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

import msgspec
import redis
from celery import shared_task

from celeriac import errors, metrics, webhooks
from celeriac.logs import get_logger
from celeriac.messages import CONTRACT, WEBHOOKS_DELIVER, check_contract, webhook_sender_key
from celeriac.settings import get_settings
from celeriac.submissions.deliveries import Deliveries, Delivery
from producer import wire
from producer.broker import Broker
from tasks.base import CeleriacTask

log = get_logger(__name__)

TIMEOUT_S = 5.0
AT_ONCE = 8
"""Receivers of one host that are called at the same time, at most."""
LONGEST_RUN_S = 20.0
"""After so long nothing more is taken: the process belongs to others too."""
LEASE_S = 60.0
"""Longer than one round takes; what a killed sender had is due again then."""
_UNLOCK = "if redis.call('GET', KEYS[1]) == ARGV[1] then redis.call('DEL', KEYS[1]) end"


@lru_cache(maxsize=1)
def _broker() -> Broker:
    return Broker(get_settings())


@shared_task(name=WEBHOOKS_DELIVER, base=CeleriacTask, acks_late=True, ignore_result=True)
def deliver(host: str, v: int = CONTRACT) -> None:
    """Send what is due to ``host`` (``host:port``): one task at a time for each host."""
    check_contract(v)
    client = _broker().redis
    with _alone(client, host) as is_alone:
        if is_alone:
            send_due(Deliveries(client), host)


def send_due(deliveries: Deliveries, host: str) -> int:
    """Send until nothing is due, a whole round has failed, or the time is over; how many arrived.

    A receiver that hangs holds up its own deliveries only, and this process for one round.
    """
    end_s, arrived = time.monotonic() + LONGEST_RUN_S, 0
    with ThreadPoolExecutor(AT_ONCE) as pool:
        while time.monotonic() < end_s:
            taken = deliveries.take(host, most=AT_ONCE, lease_s=LEASE_S)
            problems = list(pool.map(send, taken))
            for delivery, problem in zip(taken, problems, strict=True):
                _settle(deliveries, delivery, problem)
            arrived += problems.count("")
            if not taken or "" not in problems:
                break
    return arrived


def send(delivery: Delivery) -> str:
    """Send one webhook; what is wrong, or "" if its receiver took it."""
    gateway = get_settings().gateway
    if not gateway.webhook_secret:
        return "there is no secret any more that signs it"
    try:
        target = webhooks.check_target(delivery.url, gateway.webhook_hosts)
        body = body_of(delivery)
        status = webhooks.post(target, body, {
            webhooks.SIGNATURE_HEADER: webhooks.sign(
                body, gateway.webhook_secret, int(time.time())
            ),
            webhooks.DELIVERY_HEADER: delivery.id,
        }, TIMEOUT_S)
    except errors.RequestError:
        return "its host is not listed any more"
    except webhooks.Undelivered as error:
        return str(error)
    return "" if 200 <= status < 300 else f"it answered {status}"


def body_of(delivery: Delivery) -> bytes:
    """``{"id", "model", "version", "state", "prediction" or "error", "finished_at"}``: the same
    bytes at each attempt."""
    answer = msgspec.json.decode(delivery.answer) if delivery.answer else None
    told: dict[str, Any] = {
        "id": delivery.prediction_id, "model": delivery.model, "version": None,
        "state": delivery.state,
    }
    if isinstance(answer, dict) and "error" in answer:
        told["error"] = answer["error"]
    elif answer is not None:
        told |= {"version": answer.get("version"), "prediction": answer}
    finished = datetime.fromtimestamp(delivery.ended_ms / 1_000, UTC)
    told["finished_at"] = finished.isoformat(timespec="milliseconds").replace("+00:00", "Z")
    return msgspec.json.encode(told)


def _settle(deliveries: Deliveries, delivery: Delivery, problem: str) -> None:
    if not problem:
        deliveries.arrived(delivery)
        metrics.WEBHOOKS.labels("delivered").inc()
        return
    delay_s = webhooks.delay_s(delivery.attempt, random.random())  # noqa: S311 - no secret
    deliveries.failed(delivery, problem, delay_s)
    metrics.WEBHOOKS.labels("given_up" if delay_s is None else "failed").inc()
    log.warning(
        "webhook failed", delivery=delivery.id, prediction=delivery.prediction_id,
        attempt=delivery.attempt, reason=problem, next_s=delay_s and round(delay_s),
    )


@contextmanager
def _alone(client: redis.Redis, host: str) -> Iterator[bool]:
    """True in the block if no other task sends to ``host``."""
    key, token = webhook_sender_key(host), wire.new_id()
    is_alone = bool(client.set(key, token, nx=True, px=round(LEASE_S * 1_000)))
    try:
        yield is_alone
    finally:
        if is_alone:
            client.eval(_UNLOCK, 1, key, token)
