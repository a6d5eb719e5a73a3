"""Alerts: what a webhook or a command is told of a run that did not go as it should."""

from __future__ import annotations

from enum import StrEnum

import msgspec

VERSION = 1


class AlertKind(StrEnum):
    """What went wrong."""

    FAILED = "failed"
    """A run ended without its output, or could not begin."""
    LATE = "late"
    """A run should have ended by now."""
    MISSED = "missed"
    """A date has no run that began in time."""
    ERRORS = "errors"
    """A run has its output, but not of all rows: some failed, or chunks were given up."""


class Alert(msgspec.Struct, frozen=True, kw_only=True):
    """One alert; its JSON is the body of the webhook and the input of the command."""

    kind: AlertKind
    schedule: str
    """Name of the entry in ``celeriac.toml``."""
    entry: str
    """Kind of the entry: ``dataset``."""
    date: str
    """Logical date, as 2026-11-22."""
    attempt: int
    reason: str
    next: str
    """What to do about it: commands."""
    job_id: str = ""
    at: str
    """When it was noticed, ISO 8601, UTC."""
    v: int = VERSION

    @property
    def claim(self) -> tuple[str, str, int, str]:
        """What is told once: kind, date and attempt of a schedule."""
        return (str(self.kind), self.date, self.attempt, self.schedule)


def encode(alert: Alert) -> bytes:
    """The JSON that is sent, and signed as all webhooks are (:mod:`celeriac.webhooks`)."""
    return msgspec.json.encode(alert)


def is_retryable(status: int) -> bool:
    """True for an answer of a webhook that may be another one next time."""
    return status in (408, 429) or status >= 500
