"""Housekeeping of content moderation: records of decisions that are too old go."""

from __future__ import annotations

from datetime import UTC, datetime

from celery import shared_task

from celeriac.applications.moderation import audit
from celeriac.logs import get_logger
from celeriac.settings import get_settings
from tasks.beat import BeatTask

EXPIRE = "celeriac.moderation.expire"
EXPIRE_EVERY_S = 3_600.0

log = get_logger(__name__)


@shared_task(name=EXPIRE, base=BeatTask, ignore_result=True)
def expire() -> dict[str, int] | None:
    """Remove the records of days before the last ``[moderation] audit_days``; returns how many."""
    settings = get_settings().moderation
    gone = audit.expire(settings.folder, datetime.now(UTC).date(), settings.audit_days)
    if gone:
        log.info("records of decisions removed", days=gone)
    return {"days": len(gone)} if gone else None
