"""The model alone, in the process that asks. ``call`` takes a whole batch."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from benchmarks.subjects.models import bare


class Caller:
    """Batches are prepared: a list of items is one call."""

    def __init__(self, model: str) -> None:
        self.call = bare(model)

    def prepare(self, item: Any) -> Any:
        return item


@contextlib.contextmanager
def connect(model: str) -> Iterator[Caller]:
    """Nothing to connect."""
    yield Caller(model)
