"""Alerts: what a webhook or a command is told of a night that went wrong, or of drift."""

from __future__ import annotations

import hashlib
from enum import StrEnum

import msgspec

VERSION = 1
_ID_DIGITS = 32
_CALM = ("closed", "approved", "promoted", "kept")
_OF_SCHEDULE = ("schedule", "date", "attempt", "job_id")
_OF_MODEL = ("model", "version", "state", "features")


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
    DATA_QUALITY = "data_quality"
    """What a model is given is broken."""
    DATA_DRIFT = "data_drift"
    """What a model is given is distributed otherwise than its reference."""
    CONCEPT_DRIFT = "concept_drift"
    """The answers of a model do not fit the truth any more."""
    ADAPTATION = "adaptation"
    """What was done about drift, or waits for a decision."""


class Alert(msgspec.Struct, frozen=True, kw_only=True):
    """One alert; its JSON is the body of the webhook and the input of the command."""

    kind: AlertKind
    schedule: str = ""
    """Name of the entry in ``celeriac.toml``; of an alert about a model: empty."""
    entry: str
    """Kind of the entry: ``dataset``; of a model, what was looked at: ``stream`` ..."""
    date: str = ""
    """Logical date, as 2026-11-22; of a model: empty."""
    attempt: int = 0
    reason: str
    next: str
    """What to do about it: commands."""
    job_id: str = ""
    at: str
    """When it was noticed, ISO 8601, UTC."""
    model: str = ""
    """Whose alert it is, if it is none of a schedule."""
    version: int = 0
    state: str = ""
    """``opened`` or ``closed``; of an adaptation, what was done."""
    features: tuple[str, ...] = ()
    v: int = VERSION

    @property
    def claim(self) -> tuple[str, str, int, str]:
        """What is told once: kind, date and attempt of a schedule, or time, version and state of a
        model. That a run could not begin, and that its job has failed, are two things, and so are
        the ends of two jobs: the folder of the first was deleted."""
        if self.model:
            about = f"{self.model}:{self.entry}:{self.state}"
            return (str(self.kind), self.at, self.version, about)
        which = ""
        if self.kind in (AlertKind.FAILED, AlertKind.ERRORS):
            which = f":{self.job_id or 'not begun'}"
        return (str(self.kind), self.date, self.attempt, f"{self.schedule}{which}")

    @property
    def id(self) -> str:
        """The same each time that the alert is sent: a receiver drops doubles by it."""
        claim = "\n".join(map(str, self.claim))
        return hashlib.sha256(claim.encode()).hexdigest()[:_ID_DIGITS]

    @property
    def is_calm(self) -> bool:
        """True if it is good news."""
        return self.state in _CALM

    def fields(self) -> dict[str, object]:
        """What a line of the log says of it."""
        if self.model:
            return {"model": self.model, "version": self.version, "state": self.state}
        return {"schedule": self.schedule, "date": self.date, "attempt": self.attempt}


def encode(alert: Alert) -> bytes:
    """The JSON that is sent, and signed as all webhooks are (:mod:`celeriac.webhooks`): of a model
    without the fields of a schedule, and the reverse."""
    other = _OF_SCHEDULE if alert.model else _OF_MODEL
    return msgspec.json.encode({"id": alert.id} | {
        name: value for name, value in msgspec.structs.asdict(alert).items() if name not in other
    })


def is_retryable(status: int) -> bool:
    """True for an answer of a webhook that may be another one next time."""
    return status in (408, 429) or status >= 500
