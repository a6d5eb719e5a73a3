"""Plain Celery, well set up: one task for each item, ``delay(item).get()``."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

from celery import Celery

from benchmarks.subjects.models import Answers, bare

URL = os.environ["BENCH_REDIS_URL"]
app = Celery("plain", broker=URL, backend=URL)
app.conf.update(
    worker_send_task_events=False, worker_hijack_root_logger=False, result_expires=600,
    broker_connection_retry_on_startup=True,
)


@lru_cache(maxsize=1)
def model() -> Answers:
    """The worker's model, loaded once."""
    return bare(os.environ["BENCH_MODEL"])


@app.task
def predict(item: Any) -> Any:
    """One item."""
    return model()([item])[0]


class Caller:
    """Blocking calls."""

    def prepare(self, item: Any) -> Any:
        return item

    def call(self, item: Any) -> Any:
        return predict.delay(item).get(timeout=60)


@contextlib.contextmanager
def connect(model: str) -> Iterator[Caller]:  # noqa: ARG001 - the worker knows it
    """Celery connects by itself."""
    yield Caller()
