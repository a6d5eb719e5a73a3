"""An analysis as it is kept and told: plain data."""

from __future__ import annotations

from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

from celeriac.applications.sensors.analysis import Analysis


def of(found: Analysis, **about: Any) -> dict[str, Any]:
    """``about`` the batch (its number ...) and what was found, times in ISO 8601."""
    fields = asdict(found)
    gaps = [
        {"after": moment(gap["after_ms"]), "before": moment(gap["before_ms"]),
         "missing": gap["missing"]}
        for gap in fields.pop("gaps")
    ]
    worst_ms = fields.pop("worst_at_ms")
    return {
        **about, "from": moment(fields.pop("from_ms")), "to": moment(fields.pop("to_ms")),
        **fields, "worst_at": None if worst_ms is None else moment(worst_ms), "gaps": gaps,
    }


def moment(at_ms: int) -> str:
    """Unix milliseconds as ISO 8601 in UTC."""
    text = datetime.fromtimestamp(at_ms / 1_000, UTC).isoformat(timespec="milliseconds")
    return text.replace("+00:00", "Z")
