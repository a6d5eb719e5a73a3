"""Sends the webhooks of submissions that have ended: signed, again while they fail, in bounds."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

import msgspec
import redis
from celery import shared_task

from celeriac import errors, lua, metrics, webhooks
from celeriac.keys import WEBHOOKS_SENDER_KEY
from celeriac.logs import get_logger
from celeriac.messages import CONTRACT, WEBHOOKS_DELIVER, check_contract
from celeriac.settings import get_settings
from celeriac.submissions.deliveries import Deliveries, Delivery
from celeriac.submissions.sender import Sender, Sent
from producer import wire
from tasks.base import CeleriacTask
from tasks.beside import Beside
from tasks.broker import kept_broker

log = get_logger(__name__)

TIMEOUT_S = 5.0
LONGEST_RUN_S = 20.0
"""After so long nothing more is taken: what is due then is the next sender's."""
PATIENCE_S = TIMEOUT_S + 1.0
LEASE_S = 15.0
"""A sender that was killed is replaced so long after its last sign of life."""
_RENEW = """
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
return redis.call('PEXPIRE', KEYS[1], ARGV[2])
"""


SENDING = Beside("webhooks")


@shared_task(name=WEBHOOKS_DELIVER, base=CeleriacTask, acks_late=True, ignore_result=True)
def deliver(host: str, v: int = CONTRACT) -> None:  # noqa: ARG001 - for logs; it sends to all
    """Have what is due sent, to ``host`` and to all others. Never waits for a receiver."""
    check_contract(v)
    SENDING.ask(_send_alone)


def _send_alone() -> None:
    """One process at a time sends."""
    client = kept_broker().redis
    with _alone(client) as still_alone:
        if still_alone():
            send_due(Deliveries(client), lambda: SENDING.goes_on and still_alone())


def send_due(deliveries: Deliveries, goes_on: Callable[[], bool] = lambda: True) -> int:
    """Send until nothing is due or the time is over; how many arrived."""
    sender = Sender(deliveries, send, lambda delivery, sent: _settle(deliveries, delivery, sent))
    arrived = sender.run(longest_s=LONGEST_RUN_S, patience_s=PATIENCE_S, goes_on=goes_on)
    if sender.given_up:
        metrics.WEBHOOKS.labels("given_up").inc(sender.given_up)
        log.warning("webhooks given up", count=sender.given_up, reason="they are too old")
    return arrived


def send(delivery: Delivery) -> Sent:
    """Make one attempt to send a webhook."""
    gateway = get_settings().gateway
    if not gateway.webhook_secret:
        return Sent("there is no secret any more that signs it")
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
        return Sent("its host is not listed any more")
    except webhooks.Undelivered as error:
        return Sent(str(error), is_silent=True)
    return Sent() if 200 <= status < 300 else Sent(f"it answered {status}")


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


def _settle(deliveries: Deliveries, delivery: Delivery, sent: Sent) -> None:
    if not sent.problem:
        deliveries.arrived(delivery)
        metrics.WEBHOOKS.labels("delivered").inc()
        return
    delay_s = webhooks.delay_s(delivery.attempt, random.random())  # noqa: S311 - no secret
    deliveries.failed(delivery, sent.problem, delay_s)
    metrics.WEBHOOKS.labels("given_up" if delay_s is None else "failed").inc()
    log.warning(
        "webhook failed", delivery=delivery.id, prediction=delivery.prediction_id,
        attempt=delivery.attempt, reason=sent.problem, next_s=delay_s and round(delay_s),
    )


@contextmanager
def _alone(client: redis.Redis) -> Iterator[Callable[[], bool]]:
    """Says whether no other process sends, and keeps it so: to be asked every few seconds."""
    token, lease_ms = wire.new_id(), round(LEASE_S * 1_000)
    is_alone = bool(client.set(WEBHOOKS_SENDER_KEY, token, nx=True, px=lease_ms))

    def still_alone() -> bool:
        return is_alone and bool(client.eval(_RENEW, 1, WEBHOOKS_SENDER_KEY, token, lease_ms))

    try:
        yield still_alone
    finally:
        if is_alone:
            lua.release(client, WEBHOOKS_SENDER_KEY, token)
