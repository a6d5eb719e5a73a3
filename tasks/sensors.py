"""Sensors: analyse what has gathered, and see to it that nothing waits for ever."""

from __future__ import annotations

import time
from typing import Any

import msgspec
from celery import shared_task

from celeriac import metrics
from celeriac.applications.sensors import record, rows
from celeriac.applications.sensors.analysis import analyse
from celeriac.logs import get_logger
from celeriac.messages import (
    CONTRACT,
    SENSORS_ANALYSE,
    SENSORS_SWEEP,
    check_contract,
)
from celeriac.settings import get_settings
from producer.applications.sensors.book import call
from producer.applications.sensors.store import (
    SWEPT_SENSORS,
    Analysed,
    Batch,
    SensorStore,
)
from tasks.base import CeleriacTask
from tasks.beat import BeatTask
from tasks.broker import kept_broker
from tasks.patience import patiently

log = get_logger(__name__)

LONGEST_RUN_S = 20.0
"""After so long nothing more is taken: the process belongs to datasets, too."""
LONGEST_SWEEP_S = 4.0
_encode = msgspec.json.Encoder().encode


def _store() -> SensorStore:
    return SensorStore(kept_broker().redis, get_settings().sensors)


@shared_task(name=SENSORS_ANALYSE, base=CeleriacTask, acks_late=True, ignore_result=True)
def analyse_ready(v: int = CONTRACT) -> None:
    """Analyse the batches that are ready, until none is or the time is over."""
    check_contract(v)
    store, end_s = _store(), time.monotonic() + LONGEST_RUN_S
    while batches := patiently(store.claim):
        started_s = time.perf_counter()
        analysed = [analysis_of(batch) for batch in batches]
        kept = patiently(lambda: store.commit(analysed))  # noqa: B023 - called at once
        metrics.SENSOR_BATCHES.labels("analysed").inc(kept)
        metrics.SENSOR_BATCHES.labels("overtaken").inc(len(batches) - kept)
        log.info(
            "sensors analysed", batches=kept, overtaken=len(batches) - kept,
            seconds=round(time.perf_counter() - started_s, 3),
        )
        if time.monotonic() > end_s:
            call(kept_broker().redis)
            return


@shared_task(name=SENSORS_SWEEP, base=BeatTask, ignore_result=True)
def sweep() -> None:
    """Seal what has waited long enough; call for what is ready, also if a worker died with it.

    Where sensors send all day it always seals: what Flower shows is the analysis it calls for.
    """
    store, end_s = _store(), time.monotonic() + LONGEST_SWEEP_S
    while True:
        swept = store.sweep()
        if swept.calls:
            call(kept_broker().redis)
        if swept.due < SWEPT_SENSORS or time.monotonic() > end_s:
            metrics.SENSOR_BATCHES_READY.set(swept.ready)
            return


def analysis_of(batch: Batch) -> Analysed:
    """What a batch says; after too many attempts, that it was given up."""
    about: dict[str, Any] = {
        "sensor": batch.sensor, "number": batch.number, "first": batch.first, "why": batch.why,
    }
    most = get_settings().sensors.max_attempts
    if batch.epoch > most:
        log.error("analysis given up", sensor=batch.sensor, number=batch.number, attempts=most)
        count = len(batch.rows) // rows.width(batch.channels)
        told = {**about, "readings": count, "error": f"given up after {most} attempts"}
        return Analysed(batch, _encode(told), is_given_up=True)
    previous = int.from_bytes(batch.previous, "little", signed=True) if batch.previous else None
    found = analyse(rows.read(batch.rows, batch.channels), previous)
    return Analysed(batch, _encode(record.of(found, **about)))
