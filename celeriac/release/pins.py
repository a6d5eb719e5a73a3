"""Versions that work which has not ended is bound to: batch jobs, submissions and schedules."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from celeriac import errors
from celeriac.jobs.ledger import JobState
from celeriac.keys import SUBMISSIONS_LINES_KEY, job_key
from celeriac.messages import ModelRef
from celeriac.settings import Settings


def pinned(client: Any, settings: Settings) -> dict[str, set[int]]:
    """Versions by model, from a redis-py client and the nightly schedules.

    A job counts until it has completed: one that failed or was cancelled can be resumed. May raise
    redis.RedisError.
    """
    found: dict[str, set[int]] = {}
    nightly = (schedule.model for schedule in settings.nightly.values())
    refs = _numbered((*nightly, *_submitted(client)))
    for name, version in (*_of_jobs(client), *refs):
        found.setdefault(name, set()).add(version)
    return found


def _of_jobs(client: Any) -> Iterator[tuple[str, int]]:
    keys = [key for key in client.scan_iter(match=job_key("*"), count=1_000)
            if _text(key).count(":") == job_key("").count(":")]
    with client.pipeline(transaction=False) as pipe:
        for key in keys:
            pipe.hmget(key, "state", "model", "version")
        for state, model, version in pipe.execute():
            if model and version and _text(state) != JobState.COMPLETED:
                yield _text(model), int(version)


def _submitted(client: Any) -> list[str]:
    return [_text(line).partition(":")[2] for line in client.smembers(SUBMISSIONS_LINES_KEY)]


def _numbered(refs: Iterable[str]) -> Iterator[tuple[str, int]]:
    for text in refs:
        try:
            ref = ModelRef.parse(text)
        except errors.RequestError:
            continue  # what names no model pins none
        if ref.version is not None:
            yield ref.name, ref.version


def _text(value: bytes | str | None) -> str:
    return value.decode() if isinstance(value, bytes) else value or ""
