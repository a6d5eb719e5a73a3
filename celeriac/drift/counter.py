"""What a worker process counts of the items that it answers, off the callers' path.

Whoever has answered items hands them over, which takes microseconds. A thread counts them about
once a second, and takes a hundredth of a core for it, at most: of a faster stream it counts a part.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any

import redis

from celeriac import errors, metrics
from celeriac.cache.writer import weight
from celeriac.drift import counted
from celeriac.inputs import Limits
from celeriac.logs import get_logger
from celeriac.registry.manifest import ModelVersion
from celeriac.registry.store import Registry
from celeriac.settings import Settings, get_settings

log = get_logger(__name__)

ROUND_S = 1.0
"""Between two rounds of counting, at least."""
ROUND_ROWS = 512
"""Items of a version that one round counts, at most."""
ROUND_BYTES = 4_000_000
"""What they may hold on to, about."""
SHARE = 0.01
"""Of a core, for counting: after a round that took long, the next one is longer off."""
MOST_PAUSE_S = 60.0
YIELD_S = 0.0005
"""Between two pieces of a round: who runs the model has the interpreter's lock meanwhile."""
MOST_VERSIONS = 32
"""At the same time; further ones are not counted."""
IDLE_S = 600.0
"""A version that nobody has asked for so long is let go, and one whose profile is not there or
cannot be read is asked for it again."""
TABLE_CELL_BYTES = 50

Items = Sequence[Any]
Answers = Sequence[Mapping[str, Any]]


class _Line:
    """What waits of one version."""

    def __init__(self, manifest: ModelVersion) -> None:
        self.manifest = manifest
        self.standard: Any = None
        """Loaded by the thread that counts; None before."""
        self.start_s = 0.0
        """Of the stretch of time that is being counted ..."""
        self.tally: Any = None
        """... and what has been counted in it so far."""
        self.unwritten = 0
        """Items in it that Redis does not have."""
        self.used_s = 0.0
        self.fails = False
        """It was not counted the last time."""
        self.empty()

    def empty(self) -> None:
        self.batches: list[tuple[Items, Answers]] = []
        self.rows = self.seen = self.bytes = 0

    def take(self, items: Items, answers: Answers) -> None:
        self.seen += len(items)
        room = ROUND_ROWS - self.rows
        if room <= 0 or self.bytes >= ROUND_BYTES:
            return
        some = items[:room]
        self.batches.append((some, answers[:room]))
        self.rows += len(some)
        self.bytes += self._weight(some)

    def _weight(self, items: Items) -> int:
        if self.manifest.input.kind == "table":
            return len(items) * len(self.manifest.input.columns) * TABLE_CELL_BYTES
        return sum(map(weight, items))


class DriftCounter:
    """Safe with threads; methods never raise. The thread starts at first use and ends with the
    process."""

    def __init__(
        self, registry: Registry, client: redis.Redis, settings: Settings, *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._registry = registry
        self._client = client
        self._bucket_s = settings.drift.bucket_s
        self._is_on = settings.drift.enabled
        self._limits = Limits(
            item_bytes=settings.realtime.max_item_bytes,
            image_pixels=settings.realtime.max_image_pixels,
        )
        self._clock = clock
        self._process = os.urandom(6).hex()
        self._lines: dict[tuple[str, int], _Line] = {}
        self._without: dict[tuple[str, int], float] = {}
        """Versions without a profile, each until when that is taken for granted."""
        self._changed = threading.Condition()
        self._counting = threading.Lock()
        self._thread: threading.Thread | None = None

    @classmethod
    def of(cls, settings: Settings) -> DriftCounter:
        """As the settings have it."""
        client = redis.Redis.from_url(
            settings.broker_url, socket_connect_timeout=settings.broker.connect_timeout_s,
            socket_timeout=settings.broker.socket_timeout_s, socket_keepalive=True,
        )
        return cls(Registry(settings.models.root), client, settings)

    def offer(self, manifest: ModelVersion, items: Items, answers: Answers) -> None:
        """Have items, as they are on the wire, counted with their answers, soon. Never waits."""
        key = manifest.name, manifest.version
        if not self._is_on or not items or self._is_without(key):
            return
        with self._changed:
            line = self._lines.get(key)
            if line is None:
                line = self._open(key, manifest)
            if line is None:
                return
            line.take(items, answers)
            if self._thread is None:
                self._start()
            self._changed.notify()

    def prepare(self, manifest: ModelVersion) -> None:
        """Read the profile of a version now, so that it is not read beside its first items."""
        key = manifest.name, manifest.version
        if not self._is_on or self._is_without(key):
            return
        with self._changed:
            line = self._lines.get(key) or self._open(key, manifest)
        if line is not None and line.standard is None:
            self._load(key, line)

    def flush(self) -> None:
        """Count, and write, what waits."""
        with self._counting:
            self._round()

    def _is_without(self, key: tuple[str, int]) -> bool:
        return key in self._without and self._clock() < self._without[key]

    def _open(self, key: tuple[str, int], manifest: ModelVersion) -> _Line | None:
        from celeriac.drift.profile import profile_digest

        if not profile_digest(manifest):
            self._without[key] = self._clock() + IDLE_S
            return None
        if len(self._lines) >= MOST_VERSIONS:
            return None
        line = self._lines[key] = _Line(manifest)
        line.used_s = self._clock()
        return line

    def _start(self) -> None:
        self._thread = threading.Thread(target=self._run, name="drift-counter", daemon=True)
        self._thread.start()

    # --- the thread -----------------------------------------------------------------------------

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(self._any_wait)
            time.sleep(ROUND_S)
            with self._counting:
                self._load_all()
            began_s = time.thread_time()
            self.flush()
            rest_s = (time.thread_time() - began_s) / SHARE - ROUND_S
            if rest_s > 0:
                time.sleep(min(rest_s, MOST_PAUSE_S))

    def _any_wait(self) -> bool:
        return any(line.seen for line in self._lines.values())

    def _round(self) -> None:
        self._load_all()
        for key, line in list(self._lines.items()):
            if line.standard is None:  # it came a moment ago: the next round loads it
                continue
            with self._changed:
                batches, seen, rows = line.batches, line.seen, line.rows
                line.empty()
            if not seen:
                self._let_go(key, line)
            else:
                line.used_s = self._clock()
                metrics.DRIFT_ITEMS.labels(key[0], "skipped").inc(seen - rows)
                self._count(key, line, batches, seen)

    def _let_go(self, key: tuple[str, int], line: _Line) -> None:
        with self._changed:
            if not line.seen and self._clock() - line.used_s > IDLE_S:
                del self._lines[key]

    def _count(
        self, key: tuple[str, int], line: _Line, batches: list[tuple[Items, Answers]], seen: int
    ) -> None:
        name, version = key
        now_s = self._clock()
        try:
            self._turn(name, line, counted.start_of(now_s, self._bucket_s))
            self._add(line, batches, seen)
            self._write(key, line, now_s)
        except redis.RedisError as error:
            _fail(line, "drift is not counted: Redis is away", str(error))
        except Exception as error:  # noqa: BLE001 - items may be anything; the answers are given
            _fail(line, "drift is not counted", f"{name}@{version}: {errors.told(error)}")
        else:
            line.fails = False

    def _turn(self, name: str, line: _Line, start_s: float) -> None:
        """Begin another stretch of time, if it is time."""
        from celeriac.drift.tally import Tally

        if line.tally is not None and line.start_s == start_s:
            return
        metrics.DRIFT_ITEMS.labels(name, "lost").inc(line.unwritten)
        line.start_s, line.tally, line.unwritten = start_s, Tally.empty(line.standard), 0

    def _load_all(self) -> None:
        for key, line in list(self._lines.items()):
            if line.standard is None:
                self._load(key, line)

    def _load(self, key: tuple[str, int], line: _Line) -> None:
        # Imported late: whoever serves versions without a profile needs none of it.
        from celeriac.drift.tally import Standard

        try:
            line.standard = Standard.of(self._registry.folder(*key), line.manifest)
        except Exception as error:  # noqa: BLE001 - no reason to stop counting the others
            reason = errors.told(error)
            log.warning("drift is not counted", model=f"{key[0]}@{key[1]}", reason=reason)
        if line.standard is None:
            with self._changed:
                self._without[key] = self._clock() + IDLE_S
                self._lines.pop(key, None)  # prepare() may have been faster

    def _add(self, line: _Line, batches: list[tuple[Items, Answers]], seen: int) -> None:
        line.tally.seen += seen
        items = [item for batch, _ in batches for item in batch]
        answers = [answer for _, batch in batches for answer in batch]
        at_once = line.standard.rows_at_once
        for first in range(0, len(items), at_once):
            some = slice(first, first + at_once)
            self._add_some(line, items[some], answers[some])
            time.sleep(YIELD_S)

    def _add_some(self, line: _Line, items: Items, answers: Answers) -> None:
        """One that cannot be counted, whatever it is, keeps no other one from it."""
        from celeriac.drift.tally import tally

        try:
            found = tally(line.standard, items, answers, self._limits)
        except Exception as error:  # noqa: BLE001 - items may be anything; the answers are given
            if len(items) == 1:
                metrics.DRIFT_ITEMS.labels(line.manifest.name, "skipped").inc()
                _warn_once(line.manifest.ref, errors.told(error))
                return
            middle = len(items) // 2
            for some in (slice(middle), slice(middle, None)):
                self._add_some(line, items[some], answers[some])
        else:
            line.tally.add(found)
            line.unwritten += found.rows

    def _write(self, key: tuple[str, int], line: _Line, now_s: float) -> None:
        from celeriac.drift.tally import pack

        counted.write(
            self._client, *key, process=self._process, start_s=line.start_s,
            data=pack(line.standard, line.tally), now_s=now_s,
        )
        metrics.DRIFT_ITEMS.labels(key[0], "counted").inc(line.unwritten)
        line.unwritten = 0


@lru_cache(maxsize=1_000)
def _warn_once(ref: str, reason: str) -> None:
    """Once in a process, not for each item."""
    log.warning("an item is not counted for drift", model=ref, reason=reason)


def _fail(line: _Line, what: str, reason: str) -> None:
    if not line.fails:  # once, not each second
        log.warning(what, reason=reason)
    line.fails = True


_counter: tuple[int, DriftCounter] | None = None
_lock = threading.Lock()


def get_counter() -> DriftCounter:
    """The counter of this process, made from the settings at first use; a forked child has its
    own."""
    global _counter
    with _lock:
        if _counter is None or _counter[0] != os.getpid():
            _counter = (os.getpid(), DriftCounter.of(get_settings()))
        return _counter[1]
