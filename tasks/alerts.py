"""Alerts leave by a webhook and a command: one at a time, in bounded time.

Each is sent until it has arrived, or was tried often enough. A kill, or an answer that was lost,
may have one sent twice: it has an ``id`` by which a receiver drops the second one.

What is to be sent waits in a list; ``celeriac.alerts.send`` has one of it tried once, by a thread
beside it: a receiver that hangs keeps no process of the maintenance role from its work. Only one
such thread of all processes is at it, and what failed waits for the next look of the watch.
"""

from __future__ import annotations

import math
import os
import signal
import subprocess
import time
from contextlib import suppress
from datetime import date
from functools import partial
from typing import Any

import msgspec
from celery import Task, shared_task
from msgspec.structs import replace

from celeriac import errors, metrics
from celeriac.alerts import Alert, encode, is_retryable
from celeriac.keys import (
    ALERT_S,
    ALERTS_PENDING_KEY,
    ALERTS_PENDING_S,
    ALERTS_SENDER_KEY,
    alert_key,
)
from celeriac.logs import get_logger
from celeriac.messages import ALERT_SEND, CONTRACT, MAINTENANCE_QUEUE, check_contract
from celeriac.settings import AlertSettings, get_settings
from celeriac.webhooks import SIGNATURE_HEADER, Undelivered, operators_target, post, sign
from producer.broker import Broker
from producer.nights import note
from tasks.base import CeleriacTask
from tasks.beside import Beside

log = get_logger(__name__)

PENDING_KEPT = 1_000
_MESSAGE_S = 60
_SPARE_S = 10
SENDING = Beside("alerts")

_CLAIM = """
if not redis.call('SET', KEYS[1], ARGV[1], 'NX', 'EX', ARGV[2]) then return 0 end
for i = 5, #ARGV do redis.call('RPUSH', KEYS[2], ARGV[i]) end
redis.call('LTRIM', KEYS[2], -ARGV[3], -1)
redis.call('EXPIRE', KEYS[2], ARGV[4])
return 1
"""
_RELEASE = """
if redis.call('GET', KEYS[1]) == ARGV[1] then redis.call('DEL', KEYS[1]) end
return redis.call('LLEN', KEYS[2])
"""


class Delivery(msgspec.Struct, frozen=True, kw_only=True):
    """An alert on its way by one channel."""

    channel: str
    """``webhook`` or ``command``."""
    alert: Alert
    tries: int = 0
    """How often it was tried before."""


def notify(broker: Broker, alert: Alert) -> bool:
    """Have an alert sent, unless it was; True if it was not. Never waits for a receiver.

    Raises redis.RedisError.
    """
    settings = broker.settings.alerts
    channels = [name for name in ("webhook", "command") if getattr(settings, name)]
    deliveries = [
        msgspec.json.encode(Delivery(channel=channel, alert=alert)) for channel in channels
    ]
    keys = (alert_key(*alert.claim), ALERTS_PENDING_KEY)
    is_new = broker.redis.eval(
        _CLAIM, 2, *keys, alert.at, ALERT_S, PENDING_KEPT, ALERTS_PENDING_S, *deliveries
    )
    if is_new:
        say = log.info if alert.is_calm else log.error
        say("alert", kind=str(alert.kind), reason=alert.reason, do=alert.next, **alert.fields())
    return bool(is_new)


def send_pending(broker: Broker) -> None:
    """Have a sender go to work if an alert waits. Raises redis.RedisError, OperationalError."""
    if broker.redis.exists(ALERTS_PENDING_KEY):
        broker.celery.send_task(
            ALERT_SEND, kwargs={"v": CONTRACT}, queue=MAINTENANCE_QUEUE, expires=_MESSAGE_S,
        )


@shared_task(name=ALERT_SEND, base=CeleriacTask, bind=True, ignore_result=True)
def send(self: Task, v: int = 1) -> None:
    """Have the oldest alert that waits tried, unless another process is at it."""
    check_contract(v)
    SENDING.ask(partial(_send, str(self.request.id)))


def _send(owner: str) -> None:
    with Broker(get_settings()) as broker:
        send_oldest(broker, owner=owner)


def send_oldest(broker: Broker, *, owner: str) -> bool:
    """Try the oldest alert that waits, unless another process is at it; True if there was one.

    One that failed, and may be tried again, goes to the end of the list, where the next look of the
    watch finds it.
    """
    ttl_s = math.ceil(broker.settings.alerts.timeout_s) + 2 * _SPARE_S
    if not broker.redis.set(ALERTS_SENDER_KEY, owner, nx=True, ex=ttl_s):
        return False
    taken: Any = None
    is_done = True
    try:
        taken = broker.redis.lindex(ALERTS_PENDING_KEY, 0)
        if taken is not None:
            is_done = _deliver_and_drop(broker, taken)
    finally:
        left = broker.redis.eval(_RELEASE, 2, ALERTS_SENDER_KEY, ALERTS_PENDING_KEY, owner)
    if left and is_done:
        send_pending(broker)
    return taken is not None


def _deliver_and_drop(broker: Broker, taken: bytes) -> bool:
    """It leaves the list last: a sender that was killed leaves it to the next one. False if it is
    to be tried again."""
    again = None
    try:
        again = _deliver(broker, msgspec.json.decode(taken, type=Delivery))
    finally:
        _drop(broker, taken, again)
    return again is None


def _drop(broker: Broker, taken: bytes, again: Delivery | None) -> None:
    """In one step with what takes its place: a Redis that is full refuses both or neither."""
    with broker.redis.pipeline(transaction=True) as pipe:
        pipe.lrem(ALERTS_PENDING_KEY, 1, taken)  # type: ignore[arg-type]  # bytes will do
        if again is not None:
            pipe.rpush(ALERTS_PENDING_KEY, msgspec.json.encode(again))
            pipe.expire(ALERTS_PENDING_KEY, ALERTS_PENDING_S)
        pipe.execute()


def _deliver(broker: Broker, delivery: Delivery) -> Delivery | None:
    """Call the webhook or the command, once; what is to be tried again, if it is."""
    settings, body, again = broker.settings.alerts, encode(delivery.alert), False
    if delivery.channel == "webhook":
        problem, again = call_webhook(settings, body)
    else:
        problem = run_command(settings, body)
    if again and delivery.tries + 1 < settings.tries:
        return _once_more(delivery, problem)
    _record(broker, delivery.alert, delivery.channel, problem)
    return None


def _once_more(delivery: Delivery, problem: str) -> Delivery:
    alert, tries = delivery.alert, delivery.tries + 1
    log.warning(
        "alert is tried again", kind=str(alert.kind), channel=delivery.channel, tries=tries,
        reason=problem, **alert.fields(),
    )
    return replace(delivery, tries=tries)


def run_command(settings: AlertSettings, body: bytes) -> str:
    """Run the command with ``body`` as its input; what is wrong, or "". Its output is logged."""
    try:
        process = subprocess.Popen(  # noqa: S603 - the operator's own command, no shell
            settings.command, stdin=subprocess.PIPE, stdout=2, stderr=2, start_new_session=True,
        )
    except (OSError, ValueError) as error:
        return f"{settings.command[0]} cannot be started: {getattr(error, 'strerror', error)}"
    try:
        process.communicate(body, timeout=settings.timeout_s)
    except subprocess.TimeoutExpired:
        return f"it ran longer than {settings.timeout_s:g} s and was killed"
    finally:
        _kill_all(process)
    return f"it ended with exit code {process.returncode}" if process.returncode else ""


def call_webhook(settings: AlertSettings, body: bytes) -> tuple[str, bool]:
    """POST ``body``; what is wrong ("" if nothing), and whether it is worth another try."""
    headers = {}
    if settings.secret:
        headers[SIGNATURE_HEADER] = sign(body, settings.secret, int(time.time()))
    try:
        status = post(operators_target(settings.webhook), body, headers, settings.timeout_s)
    except errors.RequestError as error:
        return error.message, False
    except Undelivered as error:
        return f"it does not answer: {error}", True
    if 200 <= status < 300:
        return "", False
    return f"it answered {status}", is_retryable(status)


def _kill_all(process: subprocess.Popen[bytes]) -> None:
    """Nothing that the command has started outlives it."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _record(broker: Broker, alert: Alert, channel: str, problem: str) -> None:
    outcome = f"{channel}_failed" if problem else f"{channel}_sent"
    metrics.ALERTS.labels(str(alert.kind), outcome).inc()
    fields = {**alert.fields(), "channel": channel}
    if problem:
        log.error("alert not delivered", kind=str(alert.kind), reason=problem, **fields)
    else:
        log.info("alert delivered", kind=str(alert.kind), **fields)
    if not alert.schedule:
        return
    what = f"alert by {channel} failed" if problem else f"alert by {channel} sent"
    with suppress(errors.BrokerError):  # it has been told; the history is a convenience
        note(
            broker, alert.schedule, what, date.fromisoformat(alert.date), alert.attempt,
            f"{alert.kind}{': ' + problem if problem else ''}",
        )
