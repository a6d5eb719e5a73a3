"""Promotion, rollback and publishing, on the maintenance queue.

A machine that has only the producer half can promote through these: the checks and the alias
live where the registry is.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from celery import Task, shared_task

from celeriac import release
from celeriac.logs import get_logger
from celeriac.messages import (
    CATALOGUE_PUBLISH,
    MODELS_COLLECT,
    MODELS_PROMOTE,
    MODELS_ROLLBACK,
    ModelRef,
)
from celeriac.registry import catalogue, placement
from celeriac.registry.store import Registry
from celeriac.release.collecting import Spare, collect, find_spare
from celeriac.release.pins import pinned
from celeriac.settings import get_settings
from tasks.base import CeleriacTask
from tasks.beat import BeatTask

log = get_logger(__name__)

PUBLISH_TRIES = 10
"""Each fails only if somebody else has published another catalogue meanwhile."""


def _registry() -> Registry:
    return Registry(Path(get_settings().models.root))


def publish_registry(client: Any) -> int:
    """Publish the registry through a redis-py client; returns the generation.

    What was read before another published is read again: an older catalogue never takes the place
    of a newer one.
    """
    for _ in range(PUBLISH_TRIES):
        before = catalogue.fetch_generation(client)
        seen = placement.seen_of_late(client, [f"{kind}.gpu" for kind in placement.KINDS])
        fallen = placement.fallen_back(get_settings().gpu.fallback, seen)
        known = placement.as_registered(catalogue.fetch(client).models)
        models = placement.place(_registry().infos(known), fallen)
        generation = catalogue.publish(client, models, fallen, seen=before)
        if generation >= 0:
            return generation
    log.warning("catalogue not published: others publish all the time", tries=PUBLISH_TRIES)
    return catalogue.fetch_generation(client)


@shared_task(name=MODELS_PROMOTE, base=CeleriacTask, bind=True)
def promote(
    self: Task, ref: str, who: str = "", why: str = "", force: bool = False
) -> dict[str, Any]:
    """Verify and check a version in a process of its own, then make it the champion.

    ``force``: also if it is slower than the champion by more than the settings allow.

    Raises PromotionRefused (the old version goes on serving), ModelCorrupt, ModelNotFound,
    VersionNotFound.
    """
    result = release.promote(
        _registry(), ModelRef.parse(ref), settings=get_settings(), who=who, why=why, force=force
    )
    publish_registry(self.backend.client)
    return result


@shared_task(name=MODELS_ROLLBACK, base=CeleriacTask, bind=True)
def rollback(self: Task, name: str, who: str = "", why: str = "") -> dict[str, Any]:
    """Make the version before the last promotion the champion again."""
    result = release.rollback(_registry(), name, who=who, why=why)
    publish_registry(self.backend.client)
    return result


@shared_task(name=MODELS_COLLECT, base=BeatTask, bind=True, ignore_result=True)
def collect_spare(self: Task, keep: int) -> dict[str, int] | None:
    """Retire and delete versions that nobody needs; the newest ``keep`` of each model stay.

    Returns how many.
    """
    found = collect_now(self.backend.client, keep)
    if found:
        log.info("versions collected", retired=found.retire, deleted=found.delete,
                 restored=found.restore)
    return {"retired": len(found.retire), "deleted": len(found.delete)} if found else None


def collect_now(client: Any, keep: int, *, dry_run: bool = False) -> Spare:
    """What was done (or would be) about versions that nobody needs.

    Raises redis.RedisError: without Redis nobody knows what jobs need.
    """
    registry = _registry()
    found = find_spare(registry, pinned(client, get_settings()), keep=keep, now_s=time.time())
    if found and not dry_run:
        collect(registry, found)
        publish_registry(client)
    return found


@shared_task(name=CATALOGUE_PUBLISH, base=BeatTask, bind=True, ignore_result=True)
def publish(self: Task) -> dict[str, int] | None:
    """Publish the catalogue; returns its generation, which rises only if something changed."""
    client = self.backend.client
    before = catalogue.fetch_generation(client)
    generation = publish_registry(client)
    return {"generation": generation} if generation != before else None
