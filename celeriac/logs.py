"""Structured logs: one event name and named fields on each line, on standard error.

``get_logger(__name__).info("chunk scored", job=..., chunk=..., rows=...)``. What is bound with
:func:`bound` (request, job, model ...) is on every line of that context.
"""

from __future__ import annotations

import logging
import sys
from contextlib import AbstractContextManager
from logging.handlers import WatchedFileHandler
from typing import Any

import structlog

from celeriac.settings import LogSettings

_SHARED: list[Any] = [
    structlog.contextvars.merge_contextvars,
    structlog.stdlib.add_log_level,
    structlog.processors.TimeStamper(fmt="iso", utc=True),
    structlog.processors.StackInfoRenderer(),
]


def get_logger(name: str) -> structlog.stdlib.BoundLogger:
    """The logger of a module. Silent rules apply: nothing is configured by asking for it."""
    logger: structlog.stdlib.BoundLogger = structlog.stdlib.get_logger(name)
    return logger


def bound(**fields: Any) -> AbstractContextManager[None]:
    """Put ``fields`` on every log line of a ``with`` block."""
    return structlog.contextvars.bound_contextvars(**fields)


def configure(
    settings: LogSettings, *, level: int | str | None = None, file: str | None = None
) -> None:
    """Send this process's logs, ours and every library's, to one place in one form.

    That is standard error, unless ``file`` names another. ``level`` counts for more than the
    settings.
    """
    structlog.configure(
        processors=[*_SHARED, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
    handler = WatchedFileHandler(file) if file else logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=_SHARED,
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                *_renderer(settings),
            ],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level or settings.level)


def _renderer(settings: LogSettings) -> list[Any]:
    if settings.format == "json":
        return [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
    return [
        structlog.dev.ConsoleRenderer(
            colors=sys.stderr.isatty(), exception_formatter=structlog.dev.plain_traceback
        )
    ]
