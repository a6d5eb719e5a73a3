"""Stands in for what sends Celery's events."""

from __future__ import annotations

from typing import Any


class Eventer:
    """Keeps what it is to send."""

    enabled = True

    def __init__(self) -> None:
        self.sent: list[dict[str, Any]] = []

    def send(self, type: str, **fields: Any) -> None:
        self.sent.append({"type": type, **fields})

    @property
    def types(self) -> list[str]:
        return [event["type"].removeprefix("task-") for event in self.sent]
