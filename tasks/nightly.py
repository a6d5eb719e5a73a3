"""Nightly datasets: beat says when, the date is data, and no date is scored twice."""

from __future__ import annotations

import json
from datetime import UTC, date, datetime
from typing import Any

import redis
from celery import Task, shared_task
from celery.beat import BeatLazyFunc
from celery.schedules import crontab

from celeriac import errors, metrics, nightly
from celeriac.jobs.folder import JobFolder
from celeriac.jobs.ledger import JobState
from celeriac.logs import get_logger
from celeriac.messages import (
    CONTRACT,
    MAINTENANCE_QUEUE,
    NIGHTLY_CLAIM_S,
    NIGHTLY_MISSED_S,
    NIGHTLY_RUN,
    NIGHTLY_WATCH,
    check_contract,
    nightly_key,
    nightly_missed_key,
)
from celeriac.settings import NightlySettings, Settings, get_settings
from producer.broker import Broker
from producer.datasets import submit_dataset
from producer.jobs import JobHandle
from tasks.base import CeleriacTask

log = get_logger(__name__)

WATCH_MINUTE = 30
_EXPIRES_S = 12 * 3_600

_RELEASE = """
if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) end
return 0
"""


@shared_task(
    name=NIGHTLY_RUN, base=CeleriacTask, bind=True,
    autoretry_for=(redis.RedisError, errors.BrokerError), retry_backoff=1, retry_backoff_max=60,
)
def run(self: Task, name: str, date: str, v: int = 1) -> str | None:
    """Submit one night; returns its job id, or None if another worker is about to.

    Raises ConfigError, DatasetError, ModelNotFound ...; then the date stays owed.
    """
    check_contract(v)
    broker = Broker(get_settings())
    try:
        return run_date(broker, name, nightly.parse_date(date), owner=str(self.request.id))
    except errors.CeleriacError as error:
        log.error("nightly run failed", schedule=name, date=date, reason=error.message)  # noqa: TRY400
        raise
    finally:
        broker.close()


@shared_task(name=NIGHTLY_WATCH, base=CeleriacTask, ignore_result=True)
def watch() -> None:
    """Notice dates that should have run and did not."""
    broker = Broker(get_settings())
    try:
        find_missed(broker, datetime.now(UTC))
    finally:
        broker.close()


def run_date(broker: Broker, name: str, day: date, *, owner: str) -> str | None:
    """Submit the run of one logical date, unless there is one; never waits for the job.

    The output folder is the truth; the claim in Redis keeps two workers from planning at once.
    A job that was planned but is not queued (its worker was killed, or Redis lost it) goes on.
    """
    schedule = nightly.find(broker.settings.nightly, name)
    folder = JobFolder(nightly.render(schedule.output, day))
    if _has_run(broker, folder):
        job_id = folder.load().job_id
        log.info("nightly run exists", schedule=name, date=day.isoformat(), job=job_id)
        return job_id
    key = nightly_key(name, day.isoformat())
    holder = broker.redis.set(key, owner, nx=True, get=True, ex=NIGHTLY_CLAIM_S)
    if holder not in (None, owner.encode()):  # our own: a delivery whose worker was killed
        log.info("nightly run is claimed", schedule=name, date=day.isoformat(), by=str(holder))
        return None
    try:
        return _submit(broker, name, day, folder)
    finally:
        broker.redis.eval(_RELEASE, 1, key, owner)


def find_missed(broker: Broker, now: datetime) -> dict[str, list[date]]:
    """Missed dates of each enabled schedule, recorded in Redis, the metrics and the log."""
    missed: dict[str, list[date]] = {}
    for name, schedule in broker.settings.nightly.items():
        if schedule.enabled:
            missed[name] = _missed(broker, schedule, now)
            _record(broker, name, missed[name])
    return missed


def beat_schedule(settings: Settings) -> dict[str, dict[str, Any]]:
    """Entries of the beat schedule: one run a night for each schedule, one watch an hour."""
    schedules = {name: one for name, one in settings.nightly.items() if one.enabled}
    entries = {f"nightly-{name}": _entry(name, one) for name, one in schedules.items()}
    if schedules:
        entries["nightly-watch"] = {
            "task": NIGHTLY_WATCH,
            "schedule": crontab(minute=WATCH_MINUTE),
            "options": {"queue": MAINTENANCE_QUEUE, "expires": 3_600, "ignore_result": True},
        }
    return entries


def date_to_send(at: str) -> str:
    """The logical date of the message that beat is about to send; ``at`` is ``HH:MM``, UTC."""
    return nightly.owed_date(at, datetime.now(UTC)).isoformat()


def _entry(name: str, schedule: NightlySettings) -> dict[str, Any]:
    hour, minute = schedule.at.split(":")
    return {
        "task": NIGHTLY_RUN,
        "schedule": crontab(hour=int(hour), minute=int(minute)),
        # Evaluated when the message is sent; beat keeps it in its file by the function's name.
        "kwargs": {"v": CONTRACT, "name": name, "date": BeatLazyFunc(date_to_send, schedule.at)},
        "options": {"queue": MAINTENANCE_QUEUE, "expires": _EXPIRES_S},
    }


def _has_run(broker: Broker, folder: JobFolder) -> bool:
    """True if the night's job has ended or is queued; a plan alone scores nothing."""
    if not folder.holds_job():
        return False
    state = JobHandle.from_output(broker, folder.path).status().state
    return state not in (JobState.EXPIRED, JobState.VALIDATING)


def _submit(broker: Broker, name: str, day: date, folder: JobFolder) -> str:
    if folder.holds_job():
        handle = JobHandle.from_output(broker, folder.path)
        if not _has_run(broker, folder):  # else: made since we looked
            handle.resume()
            log.info("nightly run resumed", schedule=name, date=day.isoformat(), job=handle.id)
        return handle.id
    schedule = broker.settings.nightly[name]
    dataset = nightly.render(schedule.dataset, day)
    handle = submit_dataset(broker, dataset, schedule.model, folder.path)
    log.info("nightly run submitted", schedule=name, date=day.isoformat(), job=handle.id)
    return handle.id


def _missed(broker: Broker, schedule: NightlySettings, now: datetime) -> list[date]:
    return nightly.missed_dates(
        schedule, now,
        lambda day: _has_run(broker, JobFolder(nightly.render(schedule.output, day))),
    )


def _record(broker: Broker, name: str, missed: list[date]) -> None:
    days = [day.isoformat() for day in missed]
    broker.redis.set(nightly_missed_key(name), json.dumps(days), ex=NIGHTLY_MISSED_S)
    metrics.NIGHTLY_MISSED.labels(name).set(len(days))
    if days:
        log.warning(
            "nightly runs missed", schedule=name, dates=days,
            do=f"celeriac nightly run {name} --date {days[0]}",
        )
