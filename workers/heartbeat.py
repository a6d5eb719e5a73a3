"""What a live worker says of itself, and how it follows promotions.

A worker with a lane beats from a thread, so that a long task in its main loop does not make it
look dead; another thread follows promotions, so that a long load does not either. A prefork worker
beats from its main loop: a process that forks has no other threads.
"""

from __future__ import annotations

import json
import math
import os
import threading
import time
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import redis
from celery import bootsteps

from celeriac.clocks import clock_ahead_s
from celeriac.host import ModelHost, get_host
from celeriac.keys import SEEN_S, WORKER_TTL_S, lanes_key, seen_key, worker_key
from celeriac.logs import get_logger
from celeriac.refused_writes import is_refused_write
from celeriac.registry.catalogue import fetch, fetch_generation
from celeriac.settings import get_settings
from producer.broker import connect
from workers.devices import pinned
from workers.refusals import REFUSALS
from workers.roles import Role

log = get_logger(__name__)

BEAT_S = 4.0
FOLLOW_S = 1.0
"""How often the generation of the catalogue is looked at."""
RETRY_S = 30.0
"""A champion that could not be loaded is tried again so often."""
LINGER_S = 60.0
"""A worker that answered for absent GPUs goes on so long when they are there again."""


class Heartbeat:
    """Beats for one worker: writes its key, and refreshes the host on a new generation.

    One thread may beat while another one follows.
    """

    def __init__(
        self, worker: Any, client: redis.Redis, host: ModelHost | None,
        pages: ModelHost | None = None,
    ) -> None:
        """``pages``: of a process that only forks those that predict, what they share with it."""
        self.role: Role = worker.celeriac_role
        self.hostname: str = worker.hostname
        self.last_beat = time.monotonic()
        """Monotonic, when Redis last answered to a beat, if only to refuse it."""
        self._worker = worker
        self._client = client
        self._host = host
        self._pages = pages
        self._generation: int | None = None
        self._refreshed_s = 0.0
        self._adopts_until_s = -math.inf
        self._started_at = time.time()
        gpu = pinned(os.environ)
        self._gpu = None if gpu is None else asdict(gpu)
        self._clock_ahead_s = 0.0
        self._namesake: int | None = None
        self._has_beaten = False
        self._has_left = False
        self._lock = threading.Lock()

    def beat(self) -> None:
        """Write this worker's key; it expires if no further beat follows.

        After a farewell nothing is written.
        """
        with self._lock:
            if self._has_left:
                return
            try:
                self._beat()
            except redis.RedisError as error:
                if is_refused_write(error):  # it is alive, and a new one would be refused, too
                    self.last_beat = time.monotonic()
                raise

    def _beat(self) -> None:
        key, text = worker_key(self.hostname), json.dumps(self.describe())
        before_s = time.time()
        with self._client.pipeline(transaction=False) as pipe:
            pipe.set(key, text, ex=WORKER_TTL_S, get=True)
            pipe.set(seen_key(self.role.name), self.hostname, ex=SEEN_S)
            pipe.time()
            last, _, (seconds, micros) = pipe.execute()
        server_s = seconds + micros / 1e6
        self._note_clock(clock_ahead_s(before_s, server_s, time.time()))
        self._note_namesake(last)
        lane = getattr(self._worker, "celeriac_lane", None)
        if lane is not None:
            lane.workers = self._count_lanes(server_s)
        self.last_beat = time.monotonic()

    def describe(self) -> dict[str, Any]:
        """What ``celeriac status`` shows of this worker."""
        return {
            "hostname": self.hostname,
            "role": self.role.name,
            "pid": os.getpid(),
            "gpu": self._gpu,
            "concurrency": self._worker.concurrency,
            "started_at": self._started_at,
            "clock_ahead_s": self._clock_ahead_s,
            "namesake": self._namesake,
            "metrics_port": getattr(self._worker, "celeriac_metrics_port", None),
            "serving": self._host.serving() if self._host else {},
            "registered": self._host.registered() if self._host else {},
            "loaded": self._host.loaded() if self._host else {},
            "kept_back": self._host.kept_back() if self._host else {},
            "device": self.role.device if self._host else None,
        }

    def _note_clock(self, ahead_s: float) -> None:
        was_off, self._clock_ahead_s = bool(self._clock_ahead_s), ahead_s
        if ahead_s and not was_off:
            log.warning(
                "the clocks of this worker and of Redis differ: mend the wrong one. A worker that "
                "is ahead takes what is sent to it for too late",
                ahead_s=round(ahead_s, 1),
            )

    def _note_namesake(self, last: bytes | str | None) -> None:
        """``last``: what was said before under this worker's name; at first by one before it."""
        said = json.loads(last) if last and self._has_beaten else {}
        ours = os.getpid(), self._started_at
        is_other = bool(said) and (said["pid"], said["started_at"]) != ours
        if is_other and self._namesake is None:
            log.warning(
                "another worker has this name: give one of them another by -n, or what is told of "
                "them and sent to them is mixed up",
                name=self.hostname, pid=said["pid"],
            )
        self._namesake = said["pid"] if is_other else None
        self._has_beaten = True

    def _count_lanes(self, now_s: float) -> int:
        """Lanes that share the queues with this worker's own, which is among them.

        ``now_s``: by the server's clock, which they have in common.
        """
        key = lanes_key(self.role.device)
        with self._client.pipeline(transaction=False) as pipe:
            pipe.zadd(key, {self.hostname: now_s})
            pipe.zremrangebyscore(key, "-inf", now_s - WORKER_TTL_S)
            pipe.expire(key, WORKER_TTL_S)
            pipe.zcard(key)
            return max(1, int(pipe.execute()[-1]))

    def follow(self) -> None:
        """Refresh the host if the catalogue has changed since the last look."""
        if self._pages is not None:
            self._let_go(self._pages)
        if self._host is None:
            return
        generation, now_s = fetch_generation(self._client), time.monotonic()
        is_due = bool(self._host.kept_back()) and now_s - self._refreshed_s > RETRY_S
        if generation != self._generation:
            self._note_fallback(now_s)
        adopts = now_s < self._adopts_until_s
        if generation != self._generation or is_due or adopts != self._host.adopts:
            self._host.refresh(adopts=adopts)
            self._generation, self._refreshed_s = generation, now_s
            self.beat()
        self._host.tidy()

    def _let_go(self, pages: ModelHost) -> None:
        generation = fetch_generation(self._client)
        if generation != self._generation:
            pages.note_champions()
            self._generation = generation
        pages.tidy()

    def _note_fallback(self, now_s: float) -> None:
        if "realtime" in fetch(self._client).fallen_back:
            self._adopts_until_s = math.inf
        else:  # what was sent to the CPU just before is answered there
            self._adopts_until_s = min(self._adopts_until_s, now_s + LINGER_S)

    def farewell(self) -> None:
        """Remove the key: this worker leaves by its own will. A load may outlast it."""
        with self._lock:
            self._has_left = True
            try:
                self._client.delete(worker_key(self.hostname))
                self._client.zrem(lanes_key(self.role.device), self.hostname)
            except redis.RedisError as error:
                log.debug("no farewell", reason=str(error))


class HeartbeatStep(bootsteps.StartStopStep):  # type: ignore[misc]
    """Starts with the consumer, when the worker is ready to work."""

    requires = ("celery.worker.consumer.tasks:Tasks",)

    def __init__(self, parent: Any, **options: Any) -> None:
        super().__init__(parent, **options)
        self._stopping = threading.Event()
        self._timer: Any = None
        self._threads: list[threading.Thread] = []
        self._heartbeat: Heartbeat | None = None

    def start(self, parent: Any) -> None:
        worker = parent.controller
        role: Role = worker.celeriac_role
        host = get_host() if worker.celeriac_predicts else None
        pages = get_host() if role.warm and host is None else None
        if self._heartbeat is None:
            self._heartbeat = Heartbeat(worker, connect(get_settings()), host, pages)
            worker.celeriac_heartbeat = self._heartbeat
        if role.lane:
            self._start_threads(self._heartbeat)
        else:
            self._beat()
            self._timer = parent.timer.call_repeatedly(BEAT_S, self._beat)

    def stop(self, parent: Any) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def shutdown(self, parent: Any) -> None:
        self._stopping.set()
        for thread in self._threads:
            thread.join(2 * FOLLOW_S)
        if self._heartbeat is not None:
            self._heartbeat.farewell()

    def _start_threads(self, heartbeat: Heartbeat) -> None:
        if self._threads:
            return
        for name, turn, every_s in (
            ("heartbeat", heartbeat.beat, BEAT_S), ("follower", heartbeat.follow, FOLLOW_S),
        ):  # fmt: skip
            thread = threading.Thread(
                target=self._repeat, args=(turn, every_s), name=name, daemon=True
            )
            self._threads.append(thread)
            thread.start()

    def _repeat(self, turn: Callable[[], None], every_s: float) -> None:
        while not self._stopping.is_set():
            pause_s = every_s
            try:
                turn()
            except redis.RedisError as error:
                _tell(error)
                pause_s = FOLLOW_S
            except Exception:
                log.exception("heartbeat failed")
                pause_s = FOLLOW_S
            self._stopping.wait(pause_s)

    def _beat(self) -> None:
        try:
            if self._heartbeat is not None:
                self._heartbeat.beat()
                self._heartbeat.follow()
        except redis.RedisError as error:
            _tell(error)


def _tell(error: redis.RedisError) -> None:
    if is_refused_write(error):
        REFUSALS.note(error)
    else:
        log.warning("no heartbeat", reason=str(error))
