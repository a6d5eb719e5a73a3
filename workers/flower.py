"""Flower, as it is safe to show: on loopback unless it has a password, read-only, no payloads.

``flowerconfig.py`` at the root takes these options, so ``celery -A workers.app flower`` and
``celeriac up`` show the same.
"""

from __future__ import annotations

import ast
import os
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kombu.entity import Queue
from kombu.utils.url import parse_url

from celeriac import errors
from celeriac.loopback import is_loopback
from celeriac.messages import (
    MAINTENANCE_QUEUE,
    PREDICT,
    PREDICT_ENVELOPE,
    predict_queue,
    realtime_queue,
)
from celeriac.settings import Settings
from workers.roles import ROLES, role_name

ROOT = Path(__file__).resolve().parents[1]
COLUMNS = "name,kwargs,state,received,runtime,worker,routing_key,uuid"
MAX_TASKS = 10_000
"""Tasks that Flower remembers; each takes about 5 kB."""
END_TIMEOUT_S = 3.0
"""How long its end may take after a SIGTERM. It keeps nothing that could be lost."""


def options(settings: Settings) -> dict[str, Any]:
    """Flower's options.

    Raises ConfigError if it would listen beyond this machine without a password.
    """
    host, password = settings.flower.host, settings.flower.basic_auth
    if password and ":" not in password:
        raise errors.ConfigError("flower.basic_auth is written USER:PASSWORD")
    if not password and not is_loopback(host):
        raise errors.ConfigError(
            f"Flower on {host!r} could be opened by anyone who reaches this machine: set a "
            "password (CELERIAC_FLOWER_BASIC_AUTH=USER:PASSWORD) or leave flower.host at 127.0.0.1"
        )
    chosen: dict[str, Any] = {
        "address": host,
        "port": settings.stack.flower_port,
        "read_only": True,
        "enable_events": False,  # workers send events anyway; this would broadcast every 5 s
        "purge_offline_workers": 60,
        "max_tasks": MAX_TASKS,
        "tasks_columns": COLUMNS,
        "format_task": format_task,
        "task_runtime_metric_buckets": [0.0005, 0.001, 0.005, 0.01, 0.05, 0.1, 1.0, 10.0, 60.0],
    }
    if password:
        chosen["basic_auth"] = [password]
    return chosen


def command() -> list[str]:
    """How to start Flower. Its options, and so the password, are in no command line."""
    config = f"--conf={ROOT / 'flowerconfig.py'}"
    return [sys.executable, "-m", "celery", "-A", "workers.app", "flower", config]


def tls(url: str) -> dict[str, Any] | None:
    """Celery's ``broker_use_ssl`` for an address; None without TLS.

    Flower's page of queues asks Redis by this alone: it does not read the options of an address.
    """
    found: dict[str, Any] | None = parse_url(url).get("ssl")
    return found


def queues() -> list[Queue]:
    """Those of the main loops. Flower asks workers for theirs once, as it begins, when those that
    begin with it do not answer yet; until it is told to ask again, its page of queues shows these.
    """
    return [Queue(name) for role in ROLES if role.device == "cpu" for name in role.queues]  # type: ignore[no-untyped-call]


def hide_running_arguments() -> None:
    """Keep Flower from asking workers for the arguments of tasks that wait or run.

    Its page of a worker shows them as they are, and no option changes that.
    """
    from flower.inspector import Inspector

    hidden = ("active", "reserved", "scheduled")
    Inspector.inspect_methods = tuple(m for m in Inspector.inspect_methods if m not in hidden)


def bound_end(timeout_s: float = END_TIMEOUT_S) -> None:
    """Have Flower end within ``timeout_s`` after a SIGTERM.

    It waits for its threads, and one that asks a Redis that is connected and silent tries for a
    quarter of a minute.
    """
    from flower import command

    stop = command.sigterm_handler

    def stop_within(signum: int, frame: Any) -> None:
        timer = threading.Timer(timeout_s, os._exit, (0,))
        timer.daemon = True
        timer.start()
        stop(signum, frame)

    command.sigterm_handler = stop_within


def format_task(task: Any) -> Any:
    """A task as Flower may show it: what it is about, never what it carries."""
    shown = summary(task.kwargs)
    role = role_name(str(getattr(task.worker, "hostname", "") or ""))
    task.args = ""
    task.kwargs = ", ".join(f"{key}={value}" for key, value in shown.items())
    task.routing_key = task.routing_key or queue_of(str(task.name), role, shown.get("model"))
    if task.name in (PREDICT, PREDICT_ENVELOPE):
        task.result = ""
    return task


def summary(kwargs: Any) -> dict[str, str]:
    """The harmless part of a task's keyword arguments, from the text that its events carry.

    >>> summary("{'model': 'reviews', 'items': ['a secret', 'another']}")
    {'model': 'reviews', 'items': '2'}
    """
    from tasks.base import SHOWN

    given = _parse(kwargs)
    shown = {
        key: str(value)[:80]
        for key, value in given.items()
        if key in SHOWN and isinstance(value, (str, int)) and "\n" not in str(value)
    }
    count = _count(given.get("items"))
    return shown | ({"items": count} if count else {})


def queue_of(name: str, role: str, model: str | None) -> str:
    """The queue that a task came from, by its worker's role; "" if nothing tells."""
    device = role.partition(".")[2] or "cpu"
    if name == PREDICT_ENVELOPE and model:
        return realtime_queue(device, model.partition("@")[0])
    if name == PREDICT:
        return predict_queue(device)
    return role if role.startswith("batch.") or role == MAINTENANCE_QUEUE else ""


def _parse(kwargs: Any) -> Mapping[Any, Any]:
    if isinstance(kwargs, Mapping):
        return kwargs
    try:
        value = ast.literal_eval(str(kwargs))
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return {}  # cut off, or not a literal: then nothing of it is shown
    return value if isinstance(value, dict) else {}


def _count(items: Any) -> str:
    if isinstance(items, (list, tuple)):
        cut = Ellipsis in items
        return f"{len(items) - cut}{'+' if cut else ''}"
    return str(items) if type(items) is int else ""
