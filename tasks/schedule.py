"""What beat sends, and when."""

from __future__ import annotations

from typing import Any

from celeriac.messages import (
    BATCH_RECONCILE,
    CATALOGUE_PUBLISH,
    DRIFT_LABELS,
    MODELS_COLLECT,
    SENSORS_SWEEP,
    SUBMISSIONS_RECONCILE,
)
from celeriac.settings import Settings
from tasks import adaptation, drift, moderation, nightly
from tasks.beat import every

PUBLISH_EVERY_S = 30.0
RECONCILE_EVERY_S = 5.0
COLLECT_EVERY_S = 3_600.0
LABELS_EVERY_S = 15.0


def beat_schedule(settings: Settings) -> dict[str, dict[str, Any]]:
    """Entries of the beat schedule: the catalogue, lost work, drift, the nights of
    ``celeriac.toml``."""
    return {
        "publish-catalogue": every(PUBLISH_EVERY_S, CATALOGUE_PUBLISH),
        "reconcile-jobs": every(RECONCILE_EVERY_S, BATCH_RECONCILE),
        "reconcile-submissions": every(RECONCILE_EVERY_S, SUBMISSIONS_RECONCILE),
        "look-at-labels": every(LABELS_EVERY_S, DRIFT_LABELS),
        "sweep-sensors": every(RECONCILE_EVERY_S, SENSORS_SWEEP),
        "expire-moderation": every(moderation.EXPIRE_EVERY_S, moderation.EXPIRE),
        **_collection(settings),
        **nightly.beat_schedule(settings),
        **drift.beat_schedule(settings),
        **adaptation.beat_schedule(settings),
    }


def _collection(settings: Settings) -> dict[str, dict[str, Any]]:
    keep = settings.models.keep_versions
    return {"collect-versions": every(COLLECT_EVERY_S, MODELS_COLLECT, keep=keep)} if keep else {}
