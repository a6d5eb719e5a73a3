"""Labels: are the answers of a version wrong more often than usual?"""

from __future__ import annotations

import time
from functools import lru_cache, partial

import redis
from celery import shared_task

from celeriac import errors, metrics
from celeriac.drift.error_tests import forget_old_versions, step_version
from celeriac.drift.events import DriftEvent
from celeriac.drift.feedback import DAY_S, accuracy_since, labelled_versions
from celeriac.drift.profile import Performance, read_profile
from celeriac.logs import get_logger
from celeriac.messages import CONTRACT, DRIFT_LABELS, DRIFT_NOTICE, MAINTENANCE_QUEUE
from celeriac.registry.store import Registry
from celeriac.settings import get_settings
from producer import wire
from producer.broker import Broker
from producer.jobs import redis_errors
from tasks.beat import BeatTask

log = get_logger(__name__)

SHOWN_S = 7 * DAY_S
"""The gauges are of the predictions of a week."""


@shared_task(name=DRIFT_LABELS, base=BeatTask, ignore_result=True)
def look_at_labels() -> dict[str, str] | None:
    """Test the labels that have come since the last look; an episode is announced once.

    Returns the states of episodes that have begun or ended, by the version.
    """
    with Broker(get_settings()) as broker, redis_errors(broker):
        events = look(broker, time.time())
    return {event.ref: event.state for event in events} or None


def look(broker: Broker, now_s: float) -> list[DriftEvent]:
    """As :func:`look_at_labels`; returns the events. A version that cannot be looked at is logged,
    and keeps no other one from it. Raises redis.RedisError."""
    events = []
    forget_old_versions(broker.redis, broker.settings.feedback, now_s)
    for (model, version), last_s in labelled_versions(broker.redis).items():
        try:
            event = _look(broker, model, version, last_s, now_s)
        except redis.RedisError:
            raise
        except Exception as error:  # noqa: BLE001 - others are looked at all the same
            _complain(f"{model}@{version}", f"{type(error).__name__}: {error}")
            continue
        if event is not None:
            log.warning(
                "concept drift", model=model, version=version, state=event.state,
                detail=event.detail,
            )
            events.append(event)
    return events


@lru_cache(maxsize=1_000)
def _complain(ref: str, reason: str) -> None:
    """Once in a process, not every few seconds."""
    log.error("labels are not looked at", model=ref, reason=reason)


def _look(
    broker: Broker, model: str, version: int, last_s: float, now_s: float
) -> DriftEvent | None:
    settings = broker.settings
    stepped = step_version(
        broker.redis, model, version, settings=settings.feedback, queue=MAINTENANCE_QUEUE,
        performance=partial(_performance, Registry(settings.models.root), model, version),
        message=_message, last_label_s=last_s, now_s=now_s,
    )
    metrics.LABELLED_AT.labels(model, str(version)).set(last_s)
    if stepped.labels:
        metrics.LABELLED.labels(model, str(version)).inc(stepped.labels)
        _show(broker, model, version, now_s)
    if stepped.is_open is not None:  # also without labels: a new process knows of none before
        gauge = metrics.DRIFT_EPISODE.labels(model, str(version), "concept_drift")
        gauge.set(stepped.is_open)
    return stepped.event


def _message(event: DriftEvent) -> bytes:
    return wire.task_message(
        DRIFT_NOTICE, wire.new_id(), MAINTENANCE_QUEUE,
        {"event": event.to_dict(), "v": CONTRACT}, shown={"model": event.model},
        ignore_result=True,
    )


def _show(broker: Broker, model: str, version: int, now_s: float) -> None:
    found = accuracy_since(broker.redis, model, version, now_s - SHOWN_S, now_s)
    gauge = metrics.ACCURACY if found.more_is_better else metrics.ABSOLUTE_ERROR
    if found.rows:
        gauge.labels(model, str(version)).set(found.value)


def _performance(registry: Registry, model: str, version: int) -> Performance | None:
    """How good the version was on its reference; None if nobody knows."""
    try:
        profile = read_profile(registry.folder(model, version))
    except errors.CeleriacError as error:
        log.warning("no reference of a version", model=model, version=version, reason=str(error))
        return None
    return None if profile is None else profile.performance
