"""The real-time lane: one thread that pops envelopes, runs the model and replies.

It lives inside an ordinary Celery worker, beside the main loop, and takes ordinary Celery messages
from one list for each model. One exchange with Redis fetches up to :data:`POP_MESSAGES` of them,
one forward pass answers all their items, one pipeline pushes the replies: what costs Celery a
millisecond for each message is paid once for each batch.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import msgspec
import redis
from celery import bootsteps

from celeriac import errors, metrics
from celeriac.cache.worker import get_worker_cache
from celeriac.host import ModelHost, get_host
from celeriac.logs import get_logger
from celeriac.messages import (
    CONTRACT,
    REPLY_TTL_S,
    Reply,
    check_contract,
    predict_queue,
    realtime_queue,
    reply_key,
)
from celeriac.settings import Settings, get_settings
from producer.broker import connect
from tasks.predict import count_answers
from workers.lane_events import LaneEvents, NoEvents
from workers.lane_messages import Misfit, Received, read_message
from workers.roles import Role

log = get_logger(__name__)

POP_MESSAGES = 32
"""Messages that one exchange with Redis fetches, at most."""
POP_WAIT_S = 0.5
"""Longest wait for a message: TERM and new models are noticed after it."""
RETRY_S = 0.5
"""Pause after a turn that failed."""


class Batch(msgspec.Struct):
    """Envelopes for one version, in the order in which they came."""

    name: str
    version: int
    received: list[Received]

    def items(self) -> list[Any]:
        return [item for one in self.received for item in one.envelope.items]


class Lane:
    """Pops, scores, replies. :meth:`step` is one turn; :meth:`run` turns until it is stopped."""

    def __init__(
        self,
        host: ModelHost,
        client: redis.Redis,
        settings: Settings,
        events: LaneEvents | NoEvents,
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.host = host
        self.client = client
        self.last_turn = time.monotonic()
        self._events = events
        self._max_items = settings.realtime.max_batch_items
        self._clock = clock
        self._stopping = threading.Event()
        self._turn = 0

    def run(self) -> None:
        """Turn until :meth:`stop`. A turn that fails is logged, counted and followed by others."""
        while not self._stopping.is_set():
            self.last_turn = time.monotonic()
            try:
                self.step()
            except redis.RedisError as error:
                metrics.LANE_ERRORS.labels("redis").inc()
                log.warning("lane lost Redis", reason=str(error), retry_s=RETRY_S)
                self._stopping.wait(RETRY_S)
            except Exception:
                metrics.LANE_ERRORS.labels("internal").inc()
                log.exception("lane turn failed")
                self._stopping.wait(RETRY_S)
        self._events.close()

    def stop(self) -> None:
        """Pop nothing more; the turn under way is finished and answered."""
        self._stopping.set()

    def step(self) -> int:
        """One turn; returns the number of messages that it popped."""
        queues = self._queues()
        if not queues:
            self._stopping.wait(POP_WAIT_S)
            return 0
        popped: Any = self.client.blmpop(
            POP_WAIT_S, len(queues), *queues, direction="RIGHT", count=POP_MESSAGES
        )
        if not popped:
            return 0
        messages: list[bytes] = popped[1]
        self._serve(self._receive(messages))
        return len(messages)

    def _queues(self) -> list[str]:
        """The models' queues, another one first at each turn, so that none is starved."""
        names = self.host.models()
        self._turn += 1
        first = self._turn % len(names) if names else 0
        return [realtime_queue(self.host.device, name) for name in names[first:] + names[:first]]

    def _receive(self, messages: Iterable[bytes]) -> Iterator[Received]:
        for raw in messages:
            message = read_message(raw, self._clock() * 1000)
            if isinstance(message, Received):
                yield message
            elif message.task and not message.reply_to:
                self._pass_on(raw, message)
            else:
                self._refuse(message)

    def _pass_on(self, raw: bytes, message: Misfit) -> None:
        # An ordinary task on a model's queue: the worker's main loop knows what to do with it.
        queue = predict_queue(self.host.device)
        log.warning("not an envelope", task=message.task, id=message.id, passed_to=queue)
        self.client.lpush(queue, raw)

    def _refuse(self, message: Misfit) -> None:
        metrics.LANE_ERRORS.labels("message").inc()
        log.warning("message refused", id=message.id, reason=message.error.message)
        if message.reply_to:
            reply = Reply(v=CONTRACT, id=message.id, error=message.error.to_wire())
            self._push([(message.reply_to, reply)])

    def _serve(self, received: Iterable[Received]) -> None:
        groups: dict[tuple[str, int], list[Received]] = {}
        for one in received:
            if one.envelope.deadline_ms < self._clock() * 1000:
                metrics.EXPIRED.labels("receipt").inc(len(one.envelope.items))
                continue
            try:
                check_contract(one.envelope.v)
                target = self.host.resolve(one.envelope.model)
            except errors.CeleriacError as error:
                self._fail([one], error)
                continue
            groups.setdefault(target, []).append(one)
        for (name, version), members in groups.items():
            for slice_ in slices(members, self._max_items):
                self._score(Batch(name, version, slice_))

    def _score(self, batch: Batch) -> None:
        """One forward pass, one pipeline of replies; then the counting, off the callers' path."""
        started = time.perf_counter()
        items = batch.items()
        try:
            scorer = self.host.scorer(batch.name, batch.version)
            answers = scorer.score(items)
        except errors.CeleriacError as error:
            self._fail(batch.received, error)
            return
        seconds = time.perf_counter() - started
        replies = list(self._replies(batch, answers, seconds))
        self._push([(one.envelope.reply_to, reply) for one, reply in replies])
        self._count(batch, answers, seconds)
        if scorer.manifest.serving.cache:
            get_worker_cache().keep(batch.name, batch.version, items, answers)
        for one, reply in replies:
            self._events.answered(one, reply, seconds)
        self._events.flush()

    def _replies(
        self, batch: Batch, answers: list[dict[str, Any]], seconds: float
    ) -> Iterator[tuple[Received, Reply]]:
        start = 0
        for one in batch.received:
            end = start + len(one.envelope.items)
            yield (
                one,
                Reply(
                    v=CONTRACT,
                    id=one.envelope.id,
                    answers=answers[start:end],
                    queue_ms=round(one.queue_ms, 3),
                    compute_ms=round(seconds * 1000, 3),
                    batch_items=len(answers),
                ),
            )
            start = end

    def _fail(self, received: list[Received], error: errors.CeleriacError) -> None:
        """Answer whole envelopes with one error."""
        wire = error.to_wire()
        replies = [(one, Reply(v=CONTRACT, id=one.envelope.id, error=wire)) for one in received]
        self._push([(one.envelope.reply_to, reply) for one, reply in replies])
        for one, reply in replies:
            metrics.LANE_ERRORS.labels("request").inc()
            self._events.answered(one, reply, 0.0)
        self._events.flush()

    def _push(self, replies: list[tuple[str, Reply]]) -> None:
        with self.client.pipeline(transaction=False) as pipe:
            for client_id, reply in replies:
                pipe.rpush(reply_key(client_id), msgspec.json.encode(reply))
            for client_id in {client_id for client_id, _ in replies}:
                pipe.expire(reply_key(client_id), REPLY_TTL_S)
            pipe.execute()

    def _count(self, batch: Batch, answers: list[dict[str, Any]], seconds: float) -> None:
        metrics.REAL_TIME_SECONDS.labels(batch.name).observe(seconds)
        metrics.BATCH_ITEMS.labels(batch.name).observe(len(answers))
        for one in batch.received:
            metrics.QUEUE_SECONDS.labels(batch.name).observe(one.queue_ms / 1000)
        count_answers(batch.name, answers)


def slices(received: list[Received], max_items: int) -> Iterator[list[Received]]:
    """Cut envelopes into batches of at most ``max_items`` items, in order.

    An envelope stays whole: one that is larger than ``max_items`` is a batch of its own.
    """
    batch: list[Received] = []
    items = 0
    for one in received:
        size = len(one.envelope.items)
        if batch and items + size > max_items:
            yield batch
            batch, items = [], 0
        batch.append(one)
        items += size
    if batch:
        yield batch


class LaneStep(bootsteps.StartStopStep):  # type: ignore[misc]
    """Runs a lane in a thread of a worker whose role has one."""

    requires = ("celery.worker.components:Pool",)

    def __init__(self, parent: Any, **options: Any) -> None:
        super().__init__(parent, **options)
        self.lane: Lane | None = None
        self._thread: threading.Thread | None = None

    def include_if(self, parent: Any) -> bool:
        role: Role | None = getattr(parent, "celeriac_role", None)
        return role is not None and role.lane

    def start(self, parent: Any) -> None:
        settings = get_settings()
        events = LaneEvents.for_worker(parent, settings.realtime.event_sample)
        self.lane = Lane(get_host(), connect(settings), settings, events)
        parent.celeriac_lane = self.lane
        self._thread = threading.Thread(target=self.lane.run, name="lane", daemon=True)
        self._thread.start()

    def stop(self, parent: Any) -> None:
        if self.lane is None or self._thread is None:
            return
        self.lane.stop()
        timeout_s = get_settings().realtime.drain_timeout_s
        self._thread.join(timeout_s)
        if self._thread.is_alive():
            log.error("lane not drained", timeout_s=timeout_s)

    def terminate(self, parent: Any) -> None:
        self.stop(parent)


