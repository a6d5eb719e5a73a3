"""Cache: answers by key. It never raises: what cannot be asked is a miss."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import msgspec

from celeriac.cache.store import FAILURES, Store

PAUSE_S = 1.0
"""After a failure the store is left alone for so long, so that it costs callers nothing."""

_encode = msgspec.json.encode
_decode = msgspec.json.Decoder(dict[str, Any]).decode


class Cache:
    """Safe with threads. Without a store it is off: nothing is found or kept."""

    def __init__(
        self,
        store: Store | None,
        *,
        ttl_s: int = 3_600,
        max_value_bytes: int = 64_000,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
        self._ttl_s = ttl_s
        self._max_value_bytes = max_value_bytes
        self._clock = clock
        self._paused_until = 0.0

    @property
    def is_on(self) -> bool:
        """False if the settings switched it off."""
        return self._store is not None

    def get(self, key: str) -> dict[str, Any] | None:
        """The answer that was kept; None if there is none, or the store fails."""
        return self.get_many([key])[0]

    def get_many(self, keys: Sequence[str]) -> list[dict[str, Any] | None]:
        """As :meth:`get`, in one exchange."""
        found = self.look_up(keys)
        return [None] * len(keys) if found is None else found

    def look_up(self, keys: Sequence[str]) -> list[dict[str, Any] | None] | None:
        """As :meth:`get_many`; None if the store failed or is left alone after a failure."""
        if self._store is None or not keys:
            return [None] * len(keys)
        if self._is_paused():
            return None
        try:
            return [_read(value) for value in self._store.get_many(keys)]
        except FAILURES:  # callers go on without it
            self._pause()
            return None

    def put_many(self, answers: Iterable[tuple[str, dict[str, Any]]]) -> int | None:
        """Keep answers under keys; how many were kept. None if the store failed.

        Answers with an error and too large ones are never kept.
        """
        if self._store is None:
            return 0
        values = self._values(answers)
        if not values:
            return 0
        if self._is_paused():
            return None
        try:
            self._store.set_many(values, self._ttl_s)
        except FAILURES:
            self._pause()
            return None
        return len(values)

    def _values(self, answers: Iterable[tuple[str, dict[str, Any]]]) -> dict[str, bytes]:
        values = {}
        for key, answer in answers:
            value = _write(answer)
            if value is not None and len(value) <= self._max_value_bytes:
                values[key] = value
        return values

    def _is_paused(self) -> bool:
        return self._paused_until > self._clock()

    def _pause(self) -> None:
        self._paused_until = self._clock() + PAUSE_S


def _write(answer: dict[str, Any]) -> bytes | None:
    """None for an error, and for what JSON cannot hold."""
    try:
        return None if "error" in answer else _encode(answer)
    except (ValueError, TypeError, OverflowError, RecursionError):
        return None


def _read(value: bytes | None) -> dict[str, Any] | None:
    """A value that is no answer (another program's, perhaps) is a miss."""
    if value is None:
        return None
    try:
        answer = _decode(value)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return None
    return answer if "model" in answer and "version" in answer else None
