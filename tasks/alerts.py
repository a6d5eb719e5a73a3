"""Alerts leave by a webhook and a command: once each, in bounded time, beside all other work."""

from __future__ import annotations

import os
import signal
import subprocess
import time
import urllib.error
import urllib.request
from contextlib import suppress
from datetime import date
from http.client import HTTPException
from typing import Any

import msgspec
import redis
from celery import shared_task
from kombu.exceptions import OperationalError

from celeriac import errors, metrics
from celeriac.alerts import SIGNATURE_HEADER, Alert, encode, is_retryable, sign
from celeriac.logs import get_logger
from celeriac.messages import (
    ALERT_S,
    ALERT_SEND,
    CONTRACT,
    MAINTENANCE_QUEUE,
    alert_key,
    check_contract,
)
from celeriac.settings import AlertSettings, get_settings
from producer.broker import Broker
from producer.nights import note
from tasks.base import CeleriacTask

log = get_logger(__name__)

_EXPIRES_S = 3_600
_LONGEST_PAUSE_S = 8.0


def notify(broker: Broker, alert: Alert) -> bool:
    """Have an alert sent, unless it was; True if it was not. Never waits for a receiver.

    Raises redis.RedisError or kombu's OperationalError; then it counts as not sent.
    """
    key = alert_key(*alert.claim)
    if not broker.redis.set(key, alert.at, nx=True, ex=ALERT_S):
        return False
    log.error(
        "alert", kind=str(alert.kind), schedule=alert.schedule, date=alert.date,
        attempt=alert.attempt, reason=alert.reason, do=alert.next,
    )
    settings = broker.settings.alerts
    try:
        if settings.webhook or settings.command:
            _publish(broker, alert, settings)
    except (redis.RedisError, OperationalError):
        broker.redis.delete(key)
        raise
    return True


def longest_s(settings: AlertSettings) -> float:
    """The longest that one alert may take; then its process is ended."""
    webhook = settings.tries * (settings.timeout_s + _LONGEST_PAUSE_S) if settings.webhook else 0
    return webhook + settings.timeout_s + 10


@shared_task(name=ALERT_SEND, base=CeleriacTask, acks_late=False, ignore_result=True)
def send(alert: dict[str, Any], v: int = 1) -> None:
    """Tell whoever ``[alerts]`` names. A message that comes twice would tell them twice, so it is
    acknowledged first."""
    check_contract(v)
    broker = Broker(get_settings())
    try:
        deliver(broker, msgspec.convert(alert, Alert))
    finally:
        broker.close()


def deliver(broker: Broker, alert: Alert) -> dict[str, str]:
    """Call the webhook and the command; what went wrong with each ("" if nothing)."""
    settings, body = broker.settings.alerts, encode(alert)
    outcomes = {}
    if settings.webhook:
        outcomes["webhook"] = call_webhook(settings, body)
    if settings.command:
        outcomes["command"] = run_command(settings, body)
    for channel, problem in outcomes.items():
        _record(broker, alert, channel, problem)
    return outcomes


def call_webhook(settings: AlertSettings, body: bytes) -> str:
    """POST ``body``, again while that may help; what is wrong at last, or ""."""
    problem = ""
    for attempt in range(settings.tries):
        if attempt:
            time.sleep(min(2.0 ** (attempt - 1), _LONGEST_PAUSE_S))
        problem, again = _post(settings, body)
        if not again:
            break
    return problem


def run_command(settings: AlertSettings, body: bytes) -> str:
    """Run the command with ``body`` as its input; what is wrong, or "". Its output is logged."""
    try:
        process = subprocess.Popen(  # noqa: S603 - the operator's own command, no shell
            settings.command, stdin=subprocess.PIPE, stdout=2, stderr=2, start_new_session=True,
        )
    except OSError as error:
        return f"{settings.command[0]} cannot be started: {error.strerror or error}"
    try:
        process.communicate(body, timeout=settings.timeout_s)
    except subprocess.TimeoutExpired:
        return f"it ran longer than {settings.timeout_s:g} s and was killed"
    finally:
        _kill_all(process)
    return f"it ended with exit code {process.returncode}" if process.returncode else ""


def _publish(broker: Broker, alert: Alert, settings: AlertSettings) -> None:
    broker.celery.send_task(
        ALERT_SEND, kwargs={"v": CONTRACT, "alert": msgspec.to_builtins(alert)},
        queue=MAINTENANCE_QUEUE, expires=_EXPIRES_S, time_limit=longest_s(settings),
    )


def _post(settings: AlertSettings, body: bytes) -> tuple[str, bool]:
    """What is wrong ("" if nothing), and whether it is worth another try."""
    headers = {"Content-Type": "application/json", "User-Agent": "celeriac"}
    if settings.secret:
        headers[SIGNATURE_HEADER] = sign(body, settings.secret)
    request = urllib.request.Request(  # noqa: S310 - http or https: the settings are checked
        settings.webhook, data=body, headers=headers, method="POST"
    )
    try:
        with _OPENER.open(request, timeout=settings.timeout_s):
            return "", False
    except urllib.error.HTTPError as error:
        error.close()
        return f"it answered {error.code} {error.reason}", is_retryable(error.code)
    except (OSError, HTTPException) as error:
        return f"it does not answer: {getattr(error, 'reason', None) or error}", True


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A redirect is an answer like any other: the URL is the one in the settings."""

    def redirect_request(self, *_: Any) -> None:
        return None


_OPENER = urllib.request.build_opener(_NoRedirect)


def _kill_all(process: subprocess.Popen[bytes]) -> None:
    """Nothing that the command has started outlives it."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _record(broker: Broker, alert: Alert, channel: str, problem: str) -> None:
    outcome = f"{channel}_failed" if problem else f"{channel}_sent"
    metrics.ALERTS.labels(str(alert.kind), outcome).inc()
    fields = {"schedule": alert.schedule, "date": alert.date, "channel": channel}
    if problem:
        log.error("alert not delivered", kind=alert.kind, reason=problem, **fields)
    else:
        log.info("alert delivered", kind=alert.kind, **fields)
    what = f"alert by {channel} failed" if problem else f"alert by {channel} sent"
    with suppress(errors.BrokerError):  # it has been told; the history is a convenience
        note(
            broker, alert.schedule, what, date.fromisoformat(alert.date), alert.attempt,
            f"{alert.kind}{': ' + problem if problem else ''}",
        )
