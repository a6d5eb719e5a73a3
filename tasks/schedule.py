"""What beat sends, and when."""

from __future__ import annotations

from typing import Any

from celeriac.messages import (
    BATCH_RECONCILE,
    CATALOGUE_PUBLISH,
    DRIFT_LABELS,
    MAINTENANCE_QUEUE,
    MODELS_COLLECT,
    SENSORS_SWEEP,
    SUBMISSIONS_RECONCILE,
)
from celeriac.settings import Settings
from tasks import adaptation, drift, moderation, nightly

PUBLISH_EVERY_S = 30.0
RECONCILE_EVERY_S = 5.0
COLLECT_EVERY_S = 3_600.0
LABELS_EVERY_S = 15.0


def beat_schedule(settings: Settings) -> dict[str, dict[str, Any]]:
    """Entries of the beat schedule: the catalogue, lost work, drift, the nights of
    ``celeriac.toml``."""
    return {
        "publish-catalogue": {
            "task": CATALOGUE_PUBLISH,
            "schedule": PUBLISH_EVERY_S,
            # Expires before the next one: a stopped worker does not find a heap of them.
            "options": {
                "queue": MAINTENANCE_QUEUE, "expires": PUBLISH_EVERY_S, "ignore_result": True,
            },
        },
        "reconcile-jobs": {
            "task": BATCH_RECONCILE,
            "schedule": RECONCILE_EVERY_S,
            "options": {
                "queue": MAINTENANCE_QUEUE, "expires": RECONCILE_EVERY_S, "ignore_result": True,
            },
        },
        "reconcile-submissions": {
            "task": SUBMISSIONS_RECONCILE,
            "schedule": RECONCILE_EVERY_S,
            "options": {
                "queue": MAINTENANCE_QUEUE, "expires": RECONCILE_EVERY_S, "ignore_result": True,
            },
        },
        "look-at-labels": {
            "task": DRIFT_LABELS,
            "schedule": LABELS_EVERY_S,
            "options": {
                "queue": MAINTENANCE_QUEUE, "expires": LABELS_EVERY_S, "ignore_result": True,
            },
        },
        "sweep-sensors": {
            "task": SENSORS_SWEEP,
            "schedule": RECONCILE_EVERY_S,
            "options": {
                "queue": MAINTENANCE_QUEUE, "expires": RECONCILE_EVERY_S, "ignore_result": True,
            },
        },
        "expire-moderation": {
            "task": moderation.EXPIRE,
            "schedule": moderation.EXPIRE_EVERY_S,
            "options": {
                "queue": MAINTENANCE_QUEUE, "expires": moderation.EXPIRE_EVERY_S,
                "ignore_result": True,
            },
        },
        **_collection(settings),
        **nightly.beat_schedule(settings),
        **drift.beat_schedule(settings),
        **adaptation.beat_schedule(settings),
    }


def _collection(settings: Settings) -> dict[str, dict[str, Any]]:
    if not settings.models.keep_versions:
        return {}
    return {
        "collect-versions": {
            "task": MODELS_COLLECT,
            "schedule": COLLECT_EVERY_S,
            "kwargs": {"keep": settings.models.keep_versions},
            "options": {
                "queue": MAINTENANCE_QUEUE, "expires": COLLECT_EVERY_S, "ignore_result": True,
            },
        },
    }
