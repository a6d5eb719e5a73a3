"""One record for each request: its metrics, and its line of the access log.

Records are kept for a moment and written together. A line has no payload, no path (its template
instead) and no key (its name instead). It is made by hand, in the form of the other log lines:
structlog would cost more than the request itself.
"""

from __future__ import annotations

import asyncio
import logging
import sys
import time
from collections import Counter
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, NamedTuple

import msgspec

from celeriac import errors
from celeriac.logs import get_logger
from celeriac.settings import LogSettings
from producer.gateway import failures, metrics
from producer.gateway.context import RequestContext

log = get_logger(__name__)

FLUSH_S = 0.02
"""Short: the requests that come meanwhile wait for it."""
REFUSED_S = 1.0
"""How often the requests that the door refused are told."""
OVERLOADED = errors.Overloaded.code
REFUSED_STATUS = failures.STATUS[OVERLOADED]
MOST_RECORDS = 10_000
"""Records that may wait; then they are written at once."""
REFUSALS = frozenset({
    "unauthenticated", "forbidden", "origin_refused", "rate_limited", "overloaded", "gateway_busy",
    "payload_too_large", "broker_unavailable",
})  # fmt: skip
GONE = 499
"""What is noted as the status of a request whose caller did not wait."""

_encode = msgspec.json.Encoder().encode


class Record(NamedTuple):
    """What is kept of a request."""

    context: RequestContext
    status: int
    seconds: float
    ended_s: float
    """Unix seconds."""


class AccessLog:
    """The records of one gateway. For one event loop."""

    def __init__(self, settings: LogSettings, *, on: bool) -> None:
        self._json = settings.format == "json"
        self._on = on and logging.getLevelName(settings.level) <= logging.INFO
        self._records: list[Record] = []
        self._timer: asyncio.TimerHandle | None = None
        self._refused: Counter[tuple[str, str]] = Counter()

    def note(self, context: RequestContext, status: int) -> None:
        """Keep the record of a request that has been answered just now."""
        seconds = time.monotonic() - context.started_s
        self._records.append(Record(context, status, seconds, time.time()))
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(FLUSH_S, self._flush_records)
        elif len(self._records) >= MOST_RECORDS:
            self._flush_records()

    def refused(self, route: str, model: str) -> None:
        """Count a request that the door refused; their line names no request, but how many."""
        if not self._refused:
            asyncio.get_running_loop().call_later(REFUSED_S, self._flush_refused)
        self._refused[route, model] += 1

    def flush(self) -> None:
        """Count and write all that was kept, also of the door's refusals."""
        self._flush_refused()
        self._flush_records()

    def _flush_records(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        records, self._records, self._timer = self._records, [], None
        for record in records:
            count(record)
        if self._on and records:
            shape = as_json if self._json else as_text
            write("".join([shape(record) for record in records]))

    def _flush_refused(self) -> None:
        refused, self._refused = self._refused, Counter()
        for (route, model), number in refused.items():
            metrics.of_route("POST", route, REFUSED_STATUS)[0].inc(number)
            metrics.REFUSED.labels(OVERLOADED).inc(number)
            if self._on:
                log.info("requests refused", requests=number, route=route, model=model[:80],
                         code=OVERLOADED, status=REFUSED_STATUS)


def count(record: Record) -> None:
    """The metrics of one request."""
    context = record.context
    requests, seconds = metrics.of_route(context.method, context.route, record.status)
    requests.inc()
    seconds.observe(record.seconds)
    if context.code in REFUSALS:
        metrics.REFUSED.labels(context.code).inc()
    if record.status == GONE:
        metrics.DISCONNECTED.inc()
    if context.items:
        metrics.ITEMS.inc(context.items)
    if context.cache:
        metrics.CACHE.labels(context.cache).inc()


def fields(record: Record) -> dict[str, Any]:
    """The named values of a line; what does not apply is left out."""
    context = record.context
    shown = {
        "request": context.id,
        "key": context.caller.name,
        "tenant": context.caller.tenant,
        "method": context.method,
        "route": context.route,
        "status": record.status,
        "ms": round(record.seconds * 1000, 2),
    }
    if context.code:
        shown["code"] = context.code
    if context.model:
        shown |= {"model": context.model[:80], "items": context.items}
    known = {"version": context.version, "cache": context.cache, "batch": context.batch_items}
    return shown | {name: value for name, value in known.items() if value}


def as_json(record: Record) -> str:
    """A line as ``[log] format = "json"`` has it."""
    line = {**fields(record), "event": "request", "level": "info", "timestamp": _time(record)}
    return _encode(line).decode() + "\n"


def as_text(record: Record) -> str:
    """A line for people: :func:`fields`, one after the other.

    What many lines have in common is put together once; the rest is numbers and our own ids.
    """
    context = record.context
    caller = context.caller
    way = _way(caller.name, caller.tenant, context.method, context.route, record.status)
    line = (
        f"{_time(record)} [info     ] request request={context.id} {way} "
        f"ms={round(record.seconds * 1000, 2)}"
    )
    if context.code:
        line += f" code={context.code}"
    if context.model:
        line += f" model={_model(context.model)} items={context.items}"
    if context.version:
        line += f" version={context.version}"
    if context.cache:
        line += f" cache={context.cache}"
    if context.batch_items:
        line += f" batch={context.batch_items}"
    return line + "\n"


@lru_cache(maxsize=1_000)
def _way(key: str, tenant: str, method: str, route: str, status: int) -> str:
    return (
        f"key={_plain(key)} tenant={_plain(tenant)} method={_plain(method)} route={_plain(route)} "
        f"status={status}"
    )


@lru_cache(maxsize=1_000)
def _model(name: str) -> str:
    return _plain(name[:80])


def write(lines: str) -> None:
    """Where the other log lines go: standard error. A terminal that is gone costs no request."""
    try:
        sys.stderr.write(lines)
        sys.stderr.flush()
    except (OSError, ValueError):
        pass


def _time(record: Record) -> str:
    second = int(record.ended_s)
    return f"{_second(second)}.{int((record.ended_s - second) * 1e6):06d}Z"


@lru_cache(maxsize=1)
def _second(unix_s: int) -> str:
    return datetime.fromtimestamp(unix_s, UTC).strftime("%Y-%m-%dT%H:%M:%S")


def _plain(text: str) -> str:
    """A value on one line, whatever a caller has put into it."""
    return text if text and text.isprintable() and " " not in text else _encode(text).decode()
