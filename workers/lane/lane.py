"""The real-time lane: one thread that pops envelopes, runs the model and replies.

It lives inside an ordinary Celery worker, beside the main loop, and takes ordinary Celery messages
from one list for each model. The backlog stays in Redis. One exchange a turn pushes the replies of
a batch and pops what the next one can use; only when nothing waits here does the lane block.
Which batch is next, and how large it is, is decided by :mod:`celeriac.batching.policy`.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import redis

from celeriac import errors, metrics
from celeriac.batching import policy
from celeriac.batching.admission import Bounds, refuse
from celeriac.batching.recent import Recent
from celeriac.host import ModelHost
from celeriac.logs import get_logger
from celeriac.messages import Reply, check_contract, predict_queue, realtime_queue
from celeriac.refused_writes import is_refused_write
from celeriac.registry.catalogue import Catalogue
from celeriac.settings import Settings
from producer.channel import Channel
from workers.lane.batch import Batch, failed
from workers.lane.buffer import Buffer, Target
from workers.lane.events import LaneEvents, NoEvents
from workers.lane.limits import AllLimits
from workers.lane.messages import Misfit, Received, read_address, read_message
from workers.lane.outbox import Outbox
from workers.lane.queues import Look, ModelQueue, Queues, Reader
from workers.refusals import REFUSALS

log = get_logger(__name__)

POP_WAIT_S = 0.5
"""Longest wait for a message: TERM and new models are noticed after it."""
LATE_S = 0.1
"""Redis ends a pop that waits in vain so much late; a shorter pause is slept here ..."""
POLL_S = 0.001
"""... with a look at the queues so often."""
RETRY_S = 0.5
"""Pause after a turn that failed."""
MAX_SKEW_MS = 1_000.0
"""A sender whose clock is farther ahead is counted, and named once in the log."""
_MAX_SKEWED = 1_000
PARKED_ITEMS = 256
"""Items of one model that may wait for a version to be loaded; what comes beyond is refused."""
PARKED_WAIT_S = 0.05
"""Longest wait for a message while some do."""


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
        self.workers = 1
        """Lanes that share the queues, this one among them; kept up to date by the heartbeat."""
        self._events = events
        self._clock = clock
        self._drain_timeout_s = settings.realtime.drain_timeout_s
        self._bounds = Bounds(
            max_queue_s=settings.realtime.max_queue_s,
            max_queue_items=settings.realtime.max_queue_items,
        )
        self._limits = AllLimits(host, settings.realtime.max_batch_items)
        self._link = Channel(client)
        self._queues = Queues()
        self._catalogue: Catalogue | None = None
        self._buffer = Buffer()
        self._parked = Buffer()
        """What waits for its version to be loaded, by a thread: all others go on."""
        self._outbox = Outbox()
        self._recent = Recent()
        self._turns: policy.Turns[Target] = policy.Turns()
        self._skewed: set[str] = set()
        self._batch: Batch | None = None
        self._stopping = threading.Event()
        self._stopped_s = 0.0
        self._thread = 0
        """The thread that scores."""
        self._losses = 0
        """Exchanges with Redis that failed, one after the other."""

    # --- life -----------------------------------------------------------------------------------

    def run(self) -> None:
        """Turn until :meth:`stop`, then drain. A turn that fails is logged and others follow."""
        self._thread = threading.get_ident()
        while not self._stopping.is_set():
            self.last_turn = time.monotonic()
            self._guarded(self.step)
        self._drain()
        self._guarded(self._show_rest)
        self._link.close()

    def stop(self) -> None:
        """Pop nothing more; what has been popped is answered, or given back in time."""
        self._stopped_s = time.monotonic()
        self._stopping.set()

    def step(self) -> int:
        """One turn; returns the number of messages that it answered."""
        if self.host.catalogue is not self._catalogue:
            self._follow()
        if self._outbox.is_refused:  # no answers are made before Redis takes those that are here
            self._exchange()
            return 0
        self._unpark()
        if not self._buffer.lines and not self._outbox:
            self._wait(PARKED_WAIT_S if self._parked else POP_WAIT_S)
        answered = self._turn()
        if self._outbox:
            self._exchange()
        return answered

    def _follow(self) -> None:
        self._catalogue = self.host.catalogue
        self._queues.follow({
            name: realtime_queue(self.host.device, name) for name in self.host.models()
        })

    def give_back(self) -> int:
        """Return all that was popped and not answered to its queues; returns their number."""
        batch, self._batch = self._batch, None
        given = 0
        with self.client.pipeline(transaction=False) as pipe:
            for model, received in (*self._parked.empty(), *self._buffer.empty()):
                self._return(pipe, model, received)
                given += len(received)
            if batch is not None:
                self._return(pipe, batch.target[0], batch.received)
                given += len(batch.received)
            pipe.execute()
        return given

    def abandon(self) -> int:
        """As :meth:`give_back`, by a process that has lost its GPU; answers are pushed, too.

        If that came of the batch in hand, its messages go back as suspects. Of one that was a
        suspect already the item is known then: it is answered with an error, now or by the next.
        """
        batch = self._batch
        if batch is not None and threading.get_ident() == self._thread:
            reply = batch.blamed() if batch.is_suspect else None
            if reply is not None:
                self._batch = None
                self._outbox.add(batch.received[0].envelope.reply_to, reply)
            else:
                place = len(batch.answers) if batch.is_suspect else None
                batch.received = [one.suspected(place) for one in batch.received]
        given = self.give_back()
        push: Any = self.client.execute_command  # the link belongs to the lane's thread
        for command in self._outbox.commands():
            push(*command)
        return given

    def _return(self, pipe: Any, model: str, received: Sequence[Received]) -> None:
        queue = realtime_queue(self.host.device, model)
        pipe.rpush(queue, *(one.raw for one in reversed(received)))

    def _drain(self) -> None:
        end_s = self._stopped_s + self._drain_timeout_s
        while self._buffer.lines or self._outbox:
            left_s = end_s - time.monotonic()
            if left_s <= 0 or self._next_seconds() > left_s:
                break
            self._guarded(self._drain_turn)
        if self._buffer.lines or self._parked:
            self._guarded(self._give_back_rest)

    def _drain_turn(self) -> None:
        self._turn()
        if self._outbox:
            self._exchange()

    def _give_back_rest(self) -> None:
        log.warning("given back to the queues", messages=self.give_back())

    def _guarded(self, turn: Callable[[], Any]) -> None:
        try:
            turn()
            self._losses = 0
        except redis.RedisError as error:
            self._losses += 1
            retry_s = RETRY_S if self._losses > 1 else 0.0  # a restarted server is there already
            metrics.LANE_ERRORS.labels("redis").inc()
            if is_refused_write(error):
                REFUSALS.note(error)
            else:
                log.warning("lane lost Redis", reason=str(error), retry_s=retry_s)
            time.sleep(retry_s)
        except Exception:
            metrics.LANE_ERRORS.labels("internal").inc()
            log.exception("lane turn failed")
            time.sleep(RETRY_S)

    # --- one turn -------------------------------------------------------------------------------

    def _turn(self) -> int:
        """Choose, score, exchange; then count, off the callers' path."""
        now_ms = self._now_ms()
        expired = self._buffer.drop_expired(now_ms) + self._parked.drop_expired(now_ms)
        if expired:
            metrics.EXPIRED.labels("forming").inc(expired)
        choice = self._choose()
        if choice is None:
            return 0
        if isinstance(choice, policy.Pause):
            if not self._outbox:  # what is answered goes first
                self._pause((choice.until_ms - self._now_ms()) / 1000)
            return 0
        if not self._is_ready(choice.key):  # it went since they came: it is loaded again, aside
            for one in self._buffer.take_all(choice.key):
                self._admit_one(one, now_ms)
            return 0
        began_s = time.monotonic()
        batch = self._batch = self._take(choice)
        batch.score(self.host)
        self._post(batch)
        self._batch = None
        try:
            self._exchange()
        finally:
            self._count(batch)
            self._learn(batch, began_s)
        return len(batch.received)

    def _learn(self, batch: Batch, began_s: float) -> None:
        now_s = time.monotonic()
        limits = batch.limits
        batch.observe_cost(now_s - began_s)
        queue = self._queues.get(batch.target[0])
        if queue is None:
            return
        queue.useful_items = limits.useful_items(
            queue.waiting * queue.mean_items, is_shared=self._queues.is_shared(queue, now_s)
        )
        if queue.served(batch.items, now_s):
            self._admit(queue)

    def _choose(self) -> policy.Choice[Target] | policy.Pause | None:
        return policy.choose(self._lines(), self._turns, self._now_ms())

    def _lines(self) -> dict[Target, policy.Line]:
        stopping = self._stopping.is_set()
        lines = {}
        for target, waiting in self._buffer.lines.items():
            limits = self._limits.of(target)
            queue = self._queues.get(target[0])
            useful = (queue.useful_items if queue else 0) or limits.cap
            lines[target] = policy.Line(
                waiting=waiting, cost=limits.cost, max_items=min(limits.cap, useful),
                max_wait_ms=limits.max_wait_ms,
                more=stopping or (queue is not None and queue.is_deep),
            )
        return lines

    def _next_seconds(self) -> float:
        cuts = [policy.cut_batch(line, self._now_ms()) for line in self._lines().values()]
        return min((cut.seconds for cut in cuts), default=0.0)

    def _take(self, choice: policy.Choice[Target]) -> Batch:
        target, cut = choice.key, choice.cut
        self._turns.served(target, self._buffer.lines)
        received = self._buffer.take(target, cut)
        items = sum(one.count for one in received)
        return Batch(target, received, items, cut.closed, self._limits.of(target))

    def _post(self, batch: Batch) -> None:
        for one, reply in zip(batch.received, batch.replies, strict=True):
            encoded = self._outbox.add(one.envelope.reply_to, reply)
            self._recent.put(one.key, encoded)

    # --- exchanges with Redis -------------------------------------------------------------------

    def _wait(self, timeout_s: float) -> None:
        open_ = [queue for queue in self._queues if self._room(queue)]
        if self._stopping.is_set() or not open_:
            self._stopping.wait(timeout_s)
            return
        command, read = self._queues.wait(timeout_s, open_)
        results = self._link.once(command)
        if isinstance(results[0], redis.RedisError):
            raise results[0]  # a refused command does not wait: without a pause it would spin
        if not self._read([(1, read)], results):
            self._show_rest()

    def _pause(self, seconds: float) -> None:
        """Take in what comes, for ``seconds`` at most."""
        wait_s = min(POP_WAIT_S, seconds - LATE_S)
        if wait_s > 0:
            self._wait(max(0.001, wait_s))
        else:
            self._stopping.wait(max(0.0, min(POLL_S, seconds)))
            self._exchange()

    def _exchange(self) -> None:
        """Push what is answered, and pop what there is room for: one exchange.

        Raises RedisError; what Redis has refused is kept.
        """
        commands = self._outbox.commands()
        pushes = len(commands)
        readers: list[tuple[int, Reader]] = []
        if not (self._stopping.is_set() or self._outbox.is_refused):
            readers = self._queues.ask(commands, self._room, time.monotonic())
        events = self._events.due()
        if events is not None:
            commands.append(("PUBLISH", events.channel, events.message))
        results = self._link.once(*commands) if commands else []
        refusal = self._outbox.sent(results[:pushes])
        self._read(readers, results[pushes:])
        if refusal is not None:
            raise refusal

    def _read(self, readers: list[tuple[int, Reader]], results: list[Any]) -> int:
        """Take in what an exchange brought; returns the number of queues that had messages."""
        now_s = time.monotonic()
        first = seen = 0
        for number, read in readers:
            found, first = results[first : first + number], first + number
            failure = next((one for one in found if isinstance(one, Exception)), None)
            if failure is not None:
                metrics.LANE_ERRORS.labels("redis").inc()
                log.warning("queue not read", reason=str(failure))
            elif look := read(found, now_s):
                self._see(look)
                seen += 1
        return seen

    def _room(self, queue: ModelQueue) -> int:
        return queue.room(self._buffer.items(queue.model))

    # --- what comes in --------------------------------------------------------------------------

    def _see(self, look: Look) -> None:
        now_ms = self._now_ms()
        for raw in look.messages:
            try:
                self._receive(raw, look.queue, now_ms)
            except Exception:  # those that were popped with it must not be lost with it
                metrics.LANE_ERRORS.labels("internal").inc()
                log.exception("message lost")
        if look.refused:
            self._turn_away(look.refused, look.queue, now_ms)

    def _receive(self, raw: bytes, queue: ModelQueue, now_ms: float) -> None:
        message = read_message(raw, now_ms)
        if isinstance(message, Received):
            queue.learn(message.count, len(raw))
            self._admit_one(message, now_ms)
        elif message.task and not message.reply_to:
            self._pass_on(raw, message)
        else:
            metrics.LANE_ERRORS.labels("message").inc()
            log.warning("message refused", id=message.id, reason=message.error.message)
            if message.reply_to:
                self._outbox.add(message.reply_to, failed(message.id, message.error))

    def _admit_one(self, one: Received, now_ms: float) -> None:
        if one.ahead_ms > MAX_SKEW_MS:
            self._note_skew(one)
        if one.deadline_ms < now_ms:
            metrics.EXPIRED.labels("receipt").inc(one.count)
            return
        if one.key in self._buffer or one.key in self._parked:
            metrics.DUPLICATES.inc()
            return
        known = self._recent.get(one.key)
        if known is not None:
            metrics.DUPLICATES.inc()
            self._outbox.add_encoded(one.envelope.reply_to, known)
            return
        try:
            check_contract(one.envelope.v)
            target, device = self.host.placed(one.envelope.model)
        except errors.CeleriacError as error:
            self._fail(one, error)
            return
        if device != self.host.device:
            self._move(one, realtime_queue(device, target[0]))
            return
        try:
            if self.host.is_ready(*target):
                self._buffer.add(target, one)
            else:
                self._park(target, one)
        except errors.Overloaded as error:
            self._fail(one, error)

    def _is_ready(self, target: Target) -> bool:
        try:
            return self.host.is_ready(*target)
        except errors.Overloaded:
            return False

    def _park(self, target: Target, one: Received) -> None:
        model, version = target
        if self._parked.items(model) + one.count > PARKED_ITEMS:
            raise errors.Overloaded(
                f"{model}@{version} is being loaded, and enough wait for it; try again in 1 s",
                retry_after_s=1.0,
            )
        self._parked.add(target, one)

    def _unpark(self) -> None:
        for target in [*self._parked.lines] if self._parked else ():
            try:
                if self.host.is_ready(*target):
                    for one in self._parked.take_all(target):
                        self._buffer.add(target, one)
            except errors.Overloaded as error:
                for one in self._parked.take_all(target):
                    self._fail(one, error)

    def _fail(self, one: Received, error: errors.CeleriacError) -> None:
        metrics.LANE_ERRORS.labels("request").inc()
        reply = failed(one.envelope.id, error)
        self._recent.put(one.key, self._outbox.add(one.envelope.reply_to, reply))
        self._events.answered(one, reply, 0.0)

    def _move(self, one: Received, queue: str) -> None:
        # Sent before, or just after, a promotion to a version for another device.
        log.info("moved to the queue of another device", id=one.envelope.id, queue=queue)
        self._outbox.pass_on(queue, one.raw)

    def _pass_on(self, raw: bytes, message: Misfit) -> None:
        # An ordinary task on a model's queue: the worker's main loop knows what to do with it.
        queue = predict_queue(self.host.device)
        log.warning("not an envelope", task=message.task, id=message.id, passed_to=queue)
        self._outbox.pass_on(queue, raw)

    def _note_skew(self, one: Received) -> None:
        metrics.CLOCK_SKEW.inc()
        client = one.envelope.reply_to
        if client not in self._skewed and len(self._skewed) < _MAX_SKEWED:
            self._skewed.add(client)
            log.warning(
                "the client's clock is ahead: its deadlines come late", client=client,
                ahead_ms=round(one.ahead_ms),
            )

    # --- what is too much -----------------------------------------------------------------------

    def _admit(self, queue: ModelQueue) -> None:
        """Mark what must be refused of a queue in which too much waits."""
        refusal = refuse(
            messages=queue.waiting, items_per_message=queue.mean_items,
            seconds_per_item=queue.pace.item_s / self.workers, bounds=self._bounds,
        )
        if refusal is None:
            queue.surplus = 0
        else:
            # Each of the lanes that share the queue refuses its part.
            queue.surplus = -(-refusal.messages // self.workers)
            queue.retry_after_s = refusal.retry_after_s

    def _turn_away(self, raws: Sequence[bytes], queue: ModelQueue, now_ms: float) -> None:
        """Refuse envelopes; what is none, or is known already, goes its usual way."""
        error = errors.Overloaded(
            f"too much waits for model {queue.model!r} already; "
            f"try again in {queue.retry_after_s:.2g} s",
            retry_after_s=round(queue.retry_after_s, 3),
        )
        items = 0
        shown = False
        for raw in raws:
            address = read_address(raw)
            if address is None or self._knows(address.key):
                self._receive(raw, queue, now_ms)
                continue
            reply = failed(address.id, error)
            self._outbox.add(address.reply_to, reply)
            items += len(address.items)
            if not shown:  # one of them all: to show each would cost more than to answer it
                shown = self._show(raw, reply, now_ms)
        metrics.REFUSED.labels(queue.model, "lane").inc(items)

    def _knows(self, key: tuple[str, str]) -> bool:
        return key in self._buffer or key in self._parked or self._recent.get(key) is not None

    def _show(self, raw: bytes, reply: Reply, now_ms: float) -> bool:
        message = read_message(raw, now_ms)
        if isinstance(message, Received):
            self._events.answered(message, reply, 0.0)
        return True

    # --- counting -------------------------------------------------------------------------------

    def _show_rest(self) -> None:
        """Publish the events of batches after which no exchange came."""
        events = self._events.take()
        if events is not None:
            self._link.once(("PUBLISH", events.channel, events.message))

    def _count(self, batch: Batch) -> None:
        for one, reply in zip(batch.received, batch.replies, strict=True):
            self._events.answered(one, reply, batch.seconds)
        batch.count()
        batch.keep()

    def _now_ms(self) -> float:
        return self._clock() * 1000
