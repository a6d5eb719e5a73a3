"""The connections of workers and beat to Redis: how often they look whether it is back."""

from __future__ import annotations

from typing import Any

from celery.app import amqp
from kombu import connection

LONGEST_PAUSE_S = 5.0
"""Between two looks. kombu's is 30 s, and has no setting."""


class Connection(connection.Connection):
    """Tries again within seconds, however long Redis has been away."""

    def ensure_connection(self, *args: Any, **options: Any) -> Any:
        """As kombu's; the pauses grow to LONGEST_PAUSE_S."""
        options.setdefault("interval_max", LONGEST_PAUSE_S)
        return super().ensure_connection(*args, **options)  # type: ignore[no-untyped-call]


class AMQP(amqp.AMQP):  # type: ignore[misc]
    """Celery's own, with these connections."""

    Connection = Connection
