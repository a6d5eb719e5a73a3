"""The result backend: Celery's own for Redis, but no traceback leaves the worker."""

from __future__ import annotations

from typing import Any

from celery.backends.redis import RedisBackend


class ResultBackend(RedisBackend):  # type: ignore[misc]
    """Stores results without tracebacks: they name paths and belong into the worker's log."""

    def _get_result_meta(
        self, result: Any, state: str, traceback: Any, request: Any, **options: Any
    ) -> dict[str, Any]:
        meta: dict[str, Any] = super()._get_result_meta(result, state, None, request, **options)
        return meta
