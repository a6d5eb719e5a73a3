"""The watch over single items: what workers have counted, beside what each version was made for.

Beat sends it again and again. One watch at a time looks; what it remembers is in Redis, so that
any process of the maintenance role may be the next.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec.structs
import redis
from celery import shared_task

from celeriac import errors, metrics
from celeriac.drift import counted, standing
from celeriac.drift.events import DriftEvent
from celeriac.drift.standing import KINDS, REFUSED, FeatureStanding, Standing, Watcher
from celeriac.logs import get_logger
from celeriac.messages import DRIFT_WATCH
from celeriac.registry.catalogue import fetch
from celeriac.registry.store import Registry
from celeriac.settings import Settings, get_settings
from producer import wire
from producer.broker import Broker
from tasks.beat import BeatTask, every
from tasks.drift_notices import announce

if TYPE_CHECKING:  # every worker reads this module, for the schedule; few look at anything
    from celeriac.drift.tally import Standard

log = get_logger(__name__)

IDLE_S = 3_600.0
"""A version that no alias names, and that nobody has asked for so long, is not watched any more."""
SHOWN_FEATURES = 50
"""Of a version, as gauges: refused items first, then answers."""


@shared_task(name=DRIFT_WATCH, base=BeatTask, ignore_result=True)
def watch() -> None:
    """Look at the newest items of each version once; an episode shows in Flower by its notice."""
    with Broker(get_settings()) as broker:
        watch_all(broker, time.time())


def beat_schedule(settings: Settings) -> dict[str, dict[str, Any]]:
    """Entries of the beat schedule: the watch, unless drift is switched off."""
    if not settings.drift.enabled:
        return {}
    return {"drift-watch": every(settings.drift.bucket_s, DRIFT_WATCH)}


def watch_all(broker: Broker, now_s: float) -> list[Standing]:
    """As :func:`watch`; returns how each version stands: nothing, if another task watches.

    A version that cannot be looked at is logged, and keeps no other one from it, whatever it is.
    Raises redis.RedisError.
    """
    watcher = Watcher(broker.redis, wire.new_id())
    if not watcher.begin():
        return []
    found = []
    try:
        known = {one.ref: one for one in standing.load_all(broker.redis)}
        wanted = _wanted(broker, now_s)
        for ref in sorted(known.keys() | wanted):
            try:
                if ref in wanted:
                    found.append(_watch(broker, watcher, ref, known.get(ref), now_s))
                else:
                    _retire(broker, watcher, known[ref], now_s)
            except (redis.RedisError, standing.Overtaken):
                raise
            except (errors.CeleriacError, OSError) as error:
                _complain(ref, str(error))
            except Exception as error:  # noqa: BLE001 - others are watched all the same
                _complain(ref, f"{type(error).__name__}: {error}")
        metrics.DRIFT_WATCHED.set(now_s)
    except standing.Overtaken:
        log.warning("another task watches drift now")
    finally:
        with suppress(redis.RedisError):
            watcher.end()
    return found


@lru_cache(maxsize=1_000)
def _complain(ref: str, reason: str) -> None:
    """Once in a process, not every few seconds."""
    log.error("drift is not watched", model=ref, reason=reason)


def _wanted(broker: Broker, now_s: float) -> set[str]:
    """``NAME@VERSION`` of each version that an alias names or that was asked of late."""
    from celeriac.drift import watching

    models = fetch(broker.redis).models
    there = {f"{name}@{one}" for name, model in models.items() for one in model.versions}
    wanted = {
        f"{name}@{version}" for name, model in models.items() for version in model.aliases.values()
    }
    rule = watching.window_rule(broker.settings.drift)
    wanted |= {
        ref for ref, at_s in counted.versions(broker.redis, from_s=now_s - rule.most_age_s)
        if now_s - at_s < IDLE_S
    }
    return wanted & there


def _watch(
    broker: Broker, watcher: Watcher, ref: str, one: Standing | None, now_s: float
) -> Standing:
    """``one``: how the version stood; None if the watch has not seen it."""
    from celeriac.drift import watching

    name, version = standing.split(ref)
    before = one.features if one is not None else ()
    standard = _standard(Registry(broker.settings.models.root), name, version)
    if standard is None:
        one = one or watching.unwatched(name, version, "no_profile", now_s)
        one = watching.without_profile(one, now_s)
    else:
        one = one or watching.unwatched(name, version, "not_enough_data", now_s)
        rule = watching.window_rule(broker.settings.drift)
        stretches = counted.newest(
            broker.redis, name, version, from_s=max(now_s - rule.most_age_s, one.begin_s),
            until_s=now_s + rule.clock_tolerance_s,
        )
        seen = watching.gather(standard, stretches, one.mark, rule)
        one = watching.look(one, standard, seen, rule, now_s)
    one = save(broker, watcher, one)
    _measure(one, before)
    return one


def save(broker: Broker, watcher: Watcher, one: Standing) -> Standing:
    """Keep it, and have the events told that nobody was told of. They are kept until that is done,
    so a kill in between has one told twice, which counts as once.

    Raises redis.RedisError, BrokerError, Overtaken.
    """
    watcher.save(one)
    if not one.unsent:
        return one
    announce(broker, *map(DriftEvent.from_dict, one.unsent))
    one = msgspec.structs.replace(one, unsent=())
    watcher.save(one)
    return one


def _retire(broker: Broker, watcher: Watcher, one: Standing, now_s: float) -> None:
    from celeriac.drift import watching

    save(broker, watcher, watching.retired(one, now_s))
    watcher.forget(one)
    counted.forget(broker.redis, one.model, one.version)
    _measure(msgspec.structs.replace(one, rows=0, episodes={}, features=()), one.features)


def _standard(registry: Registry, name: str, version: int) -> Standard | None:
    folder = registry.folder(name, version)
    return _read(str(registry.root), name, version, (folder / "model.json").stat().st_mtime_ns)


@lru_cache(maxsize=64)
def _read(root: str, name: str, version: int, changed: int) -> Standard | None:  # noqa: ARG001
    """A version never changes, but somebody may make the registry anew."""
    from celeriac.drift.tally import Standard

    registry = Registry(Path(root))
    return Standard.of(registry.folder(name, version), registry.get(name, version))


def _measure(one: Standing, before: Sequence[FeatureStanding]) -> None:
    """``before``: the features that were shown the last time; those that are gone say nothing."""
    version = str(one.version)
    metrics.DRIFT_WINDOW.labels(one.model, version).set(one.rows)
    for kind in KINDS:
        metrics.DRIFT_EPISODE.labels(one.model, version, kind).set(kind in one.episodes)
    figures = dict.fromkeys(_figures(before), (math.nan, math.nan)) | _figures(one.features)
    for name, (distance, threshold) in figures.items():
        metrics.DRIFT_DISTANCE.labels(one.model, version, name).set(distance)
        metrics.DRIFT_THRESHOLD.labels(one.model, version, name).set(threshold)


def _figures(features: Sequence[FeatureStanding]) -> dict[str, tuple[float, float]]:
    """Distance and threshold of each, as gauges have them."""
    ranked = sorted(features, key=lambda feature: (feature.name != REFUSED, feature.role))
    return {
        one.name: (_number(one.distance), _number(one.threshold))
        for one in ranked[:SHOWN_FEATURES]
    }


def _number(value: float | None) -> float:
    return math.nan if value is None else value
