"""Celery protocol-2 messages, as kombu lays them on a Redis list, without kombu.

Celery spends about half a millisecond on publishing one message. What is built here equals, field
by field, what the installed Celery publishes (a test compares them); the body stays plain text
(``body_encoding`` utf-8), which every kombu reads.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Mapping
from datetime import datetime
from typing import Any

import msgspec

from celeriac.messages import PREDICT_ENVELOPE, Envelope

_encode = msgspec.json.Encoder().encode
_EMBED = {"callbacks": None, "errbacks": None, "chain": None, "chord": None}


def new_id() -> str:
    """An id as Celery's own: a random UUID (made by hand: three times as fast)."""
    bits = os.urandom(16).hex()
    variant = "89ab"[int(bits[16], 16) & 3]
    return f"{bits[:8]}-{bits[8:12]}-4{bits[13:16]}-{variant}{bits[17:20]}-{bits[20:]}"


def now_ms() -> int:
    """Unix milliseconds."""
    return time.time_ns() // 1_000_000


def task_message(  # noqa: PLR0913 - what a message says
    task: str,
    task_id: str,
    queue: str,
    kwargs: Mapping[str, Any] | Envelope,
    *,
    shown: Mapping[str, Any],
    ignore_result: bool = False,
    expires_at: datetime | None = None,
    sent_ms: int | None = None,
    extra: Mapping[str, Any] | None = None,
) -> bytes:
    """The message to LPUSH on ``queue``, stamped with ``sent_ms`` or now.

    ``shown`` is what Flower and logs see in place of ``kwargs``: never a payload. A worker drops
    the message unread after ``expires_at`` (with a time zone). ``extra``: further headers, or
    other values of these.
    """
    headers: dict[str, Any] = {
        "lang": "py",
        "task": task,
        "id": task_id,
        "shadow": None,
        "eta": None,
        "expires": expires_at.isoformat() if expires_at else None,
        "group": None,
        "group_index": None,
        "retries": 0,
        "timelimit": (None, None),
        "root_id": task_id,
        "parent_id": None,
        "argsrepr": "()",
        "kwargsrepr": repr(dict(shown)),
        "origin": f"celeriac{os.getpid()}@{socket.gethostname()}",
        "ignore_result": ignore_result,
        "replaced_task_nesting": 0,
        "stamped_headers": None,
        "stamps": {},
        "sent_ms": now_ms() if sent_ms is None else sent_ms,
        **(extra or {}),
    }
    properties = {
        "correlation_id": task_id,
        "reply_to": "",
        "delivery_mode": 2,
        "delivery_info": {"exchange": "", "routing_key": queue},
        "priority": 0,
        "body_encoding": "utf-8",
        "delivery_tag": new_id(),
    }
    return _encode({
        "body": _encode(((), kwargs, _EMBED)).decode(),
        "content-encoding": "utf-8",
        "content-type": "application/json",
        "headers": headers,
        "properties": properties,
    })


def envelope_message(envelope: Envelope, queue: str, sent_ms: int | None = None) -> bytes:
    """The message of one envelope."""
    shown = {"model": envelope.model, "items": len(envelope.items), "id": envelope.id}
    return task_message(
        PREDICT_ENVELOPE, envelope.id, queue, envelope, shown=shown, ignore_result=True,
        sent_ms=sent_ms,
    )
