"""The connections of workers and beat to Redis: how often they look whether it is back, and whose
they are after a fork."""

from __future__ import annotations

import os
import socket
from contextlib import suppress
from pathlib import Path
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


def leave_to_parent() -> None:
    """Close this process's copies of its parent's TCP connections; to be called after a fork.

    While there is a copy of one that the parent closes, the parent's epoll goes on to tell of it,
    by a number that is another connection's by then, and the parent waits there for ever. A
    process that takes the place of a killed one has such copies. Their numbers stay taken: some
    time the objects that hold them close them.
    """
    nothing = os.open(os.devnull, os.O_RDWR)
    for number in [int(one.name) for one in Path("/dev/fd").iterdir()]:
        with suppress(OSError):  # no socket; or the one by which they are listed
            if _is_tcp(number):
                os.dup2(nothing, number, inheritable=False)
    os.close(nothing)


def _is_tcp(number: int) -> bool:
    """Raises OSError for what is no socket."""
    found = socket.socket(fileno=number)
    family, kind = found.family, found.type
    found.detach()
    return family in (socket.AF_INET, socket.AF_INET6) and kind == socket.SOCK_STREAM
