"""A person has mended the data of a model: what is open of broken data closes.

It closes as by itself (:func:`celeriac.drift.watching.mended`), told and carried out like all ends.
"""

from __future__ import annotations

import time
from pathlib import Path

from celeriac import errors
from celeriac.drift import standing, watching
from celeriac.drift.adaptation_log import AdaptationLog
from celeriac.drift.events import DriftEvent
from celeriac.drift.standing import Standing, Watcher
from celeriac.messages import ModelRef
from producer import wire
from producer.broker import Broker
from producer.jobs import redis_errors
from tasks.drift import save
from tasks.drift_notices import announce

WAIT_S = 20.0
"""For a look that is under way."""


def close_breaches(broker: Broker, ref: ModelRef, *, why: str) -> list[str]:
    """Close what is open of broken single items of a version (of all of the model, if ``ref`` names
    none); their names. What only the policy of the model still knows of is closed with it.

    Raises RequestError if nothing is open, BrokerError.
    """
    with redis_errors(broker):
        closed = _close_standings(broker, ref, why)
        closed += _close_forgotten(broker, ref, why, closed)
    if not closed:
        raise errors.RequestError(
            f"{ref.name}: no broken data are open of single items; `celeriac drift status` shows "
            "what is. What a night has found is over with the next night, or with another attempt: "
            "celeriac nightly run NAME --date D --force"
        )
    return closed


def _close_standings(broker: Broker, ref: ModelRef, why: str) -> list[str]:
    watcher = Watcher(broker.redis, wire.new_id())
    _wait(watcher)
    try:
        some = [one for one in standing.load_all(broker.redis) if _is_meant(one, ref)]
        for one in some:
            save(broker, watcher, watching.mended(one, why, time.time()))
        return [one.ref for one in some]
    except standing.Overtaken as error:
        raise errors.BrokerError("the watch was faster: say it again") from error
    finally:
        watcher.end()


def _wait(watcher: Watcher) -> None:
    until_s = time.monotonic() + WAIT_S
    while not watcher.begin():
        if time.monotonic() > until_s:
            raise errors.BrokerError("the watch over drift is busy; try again in a minute")
        time.sleep(0.1)


def _is_meant(one: Standing, ref: ModelRef) -> bool:
    return (
        one.model == ref.name and ref.version in (None, one.version)
        and "data_quality" in one.episodes
    )


def _close_forgotten(broker: Broker, ref: ModelRef, why: str, closed: list[str]) -> list[str]:
    """Redis has forgotten the episode, so no watch will ever close it; or the schedule has no such
    entry any more, so no night will."""
    if ref.name not in broker.settings.drift.adapt:
        return []
    now_s = time.time()
    state, _ = AdaptationLog(Path(broker.settings.models.root), ref.name).read()
    events = [
        event for event in (_end_of(ref.name, place, why, now_s) for place in state.breaches(now_s))
        if ref.version in (None, event.version) and event.entry not in broker.settings.nightly
        and not (event.source == "stream" and event.ref in closed)
    ]
    announce(broker, *events)
    return list(dict.fromkeys(event.ref for event in events if event.ref not in closed))


def _end_of(model: str, place: str, why: str, now_s: float) -> DriftEvent:
    """Of what is broken there: ``SOURCE@VERSION`` or ``SOURCE:ENTRY@VERSION``."""
    where, _, version = place.rpartition("@")
    source, _, entry = where.partition(":")
    return DriftEvent.from_dict({
        "kind": "data_quality", "state": "closed", "model": model, "version": version,
        "source": source, "entry": entry, "features": (), "detail": why, "at_s": now_s,
    })
