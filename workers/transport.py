"""kombu's Redis transport, of which a worker can lose the connection and keep its tasks.

A lost connection is taken apart in two steps. When the first one fails halfway, which happens as
Redis is away, the second finds a channel that is still open and has messages in hand, but whose
connection no longer says where Redis is. The AttributeError of this ends the worker. The same would
meet a task that ran meanwhile, when it is acknowledged. A channel that keeps what it was told at
its start can do both.

When Redis is there and only the connection is gone, kombu puts back all that the worker has in
hand, also what runs on: it would run twice. Here those stay, and ``workers/lease.py`` refreshes
them.

kombu pops a message and writes it down as not acknowledged in a second exchange; a message whose
worker, or connection, ends in between is lost. Here the server does both in one step (``TAKE``).
Who waits has the server move the next message of the queue onto its own place (``BLMOVE``), which
changes nothing, and take as soon as that is done. That waits for one queue only: a worker of
several models' queues without the lane pops as kombu does, and who sends to those sends again.

When Redis refuses writes, kombu raises whatever was refused, and the worker ends. Here such a
worker takes nothing, keeps what it has to acknowledge, and asks twice a second whether it is over.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from queue import Empty
from typing import Any, ClassVar

from celery.worker import state
from kombu.transport import TRANSPORT_ALIASES, redis, virtual
from kombu.utils.json import dumps, loads
from redis import exceptions
from redis.exceptions import ResponseError

from celeriac.logs import get_logger
from celeriac.refused_writes import PROBE
from producer.broker import DRIVER
from producer.wire import new_id
from workers.refusals import REFUSALS

log = get_logger(__name__)

TAKE = """#!lua
local message = redis.call('RPOP', KEYS[1])
if not message then return false end
redis.call('ZADD', KEYS[3], ARGV[2], ARGV[1])
redis.call('HSET', KEYS[2], ARGV[1], '[' .. message .. ARGV[3])
return message
"""
"""Queue, hash and index of what is not acknowledged; tag, time, and where to put it back.
A Redis that refuses writes refuses it as a whole."""


def running_tags() -> set[str]:
    """The messages of the tasks that run in this worker."""
    return {request.message.delivery_tag for request in tuple(state.active_requests)}


class QoS(redis.QoS):
    """kombu's books of what was delivered and not acked."""

    owed: ClassVar[dict[str, Callable[[], object]]] = {}
    """Acknowledged by this process, by tag, with the write that Redis has refused, or not told of.
    Of all its connections: what a lost one owes, the next one pays."""
    asked = ""
    """The tag under which the server is to write down the next message, or has done so unheard."""
    arrives = False
    """That message has come, and is being delivered."""

    def append(self, message: Any, delivery_tag: str) -> None:
        """Write down that a message was delivered, unless the server has done so.

        If Redis refuses it, the message is delivered without. Raises RedisError.
        """
        if self.arrives:
            message.delivery_tag, self.asked, self.arrives = self.asked, "", False
            virtual.QoS.append(self, message, message.delivery_tag)  # type: ignore[no-untyped-call]
            return
        try:
            super().append(message, delivery_tag)  # type: ignore[no-untyped-call]
        except ResponseError as error:
            REFUSALS.note(error)
            self._quick_append(delivery_tag, message)

    def ack(self, delivery_tag: str) -> None:
        """Acknowledge; later if Redis refuses it now, or the connection is lost."""
        self._settle(delivery_tag, lambda: self._remove_from_indices(delivery_tag).execute())  # type: ignore[no-untyped-call]

    def reject(self, delivery_tag: str, requeue: bool = False) -> None:
        """Drop or put back; later if Redis refuses it now, or the connection is lost."""
        if requeue:
            self._settle(delivery_tag, lambda: self.restore_by_tag(delivery_tag, leftmost=True))
        else:
            self.ack(delivery_tag)

    def _settle(self, tag: str, write: Callable[[], object]) -> None:
        try:
            write()
        except ResponseError as error:
            REFUSALS.note(error)
            self.owed[tag] = write
        except self.channel.connection_errors as error:
            # Celery tells of it and goes on. As one in hand it would take a place for ever, and a
            # worker of one process would take nothing more.
            log.warning("acknowledged later: redis was lost", reason=str(error))
            self.owed[tag] = write
        self._quick_ack(tag)

    def give_back_asked(self) -> None:
        """Put back what may have been written down, and was delivered to nobody.

        Raises RedisError.
        """
        if self.asked:
            self.restore_by_tag(self.asked)
            self.asked = ""

    def drop_arriving(self) -> None:
        """Forget the message that arrives if nobody has taken it. Raises RedisError."""
        if self.arrives:
            tag, self.asked, self.arrives = self.asked, "", False
            self._quick_append(tag, None)
            self.ack(tag)

    def pay(self) -> None:
        """Write what Redis has refused, or not told of. Raises RedisError."""
        for tag in list(self.owed):
            self.owed[tag]()
            del self.owed[tag]

    def restore_by_tag(self, tag: str, client: Any = None, leftmost: bool = False) -> None:
        """Put back a message; drop it if nobody can ever read it. Raises RedisError."""
        try:
            super().restore_by_tag(tag, client, leftmost)  # type: ignore[no-untyped-call]
        except ValueError as error:
            log.error("message dropped: it is not JSON", reason=str(error))  # noqa: TRY400
            self._remove_from_indices(tag).execute()  # type: ignore[no-untyped-call]

    def restore_visible(self, *args: Any, **kwargs: Any) -> None:
        """Put back what others have held too long, but not what nobody could refresh.

        Who lives has refreshed its own again half a lease after Redis last refused it.
        """
        if REFUSALS.ago_s < self.visibility_timeout / 2:
            return
        try:
            super().restore_visible(*args, **kwargs)  # type: ignore[no-untyped-call]
        except ResponseError as error:
            REFUSALS.note(error)

    def restore_unacked(self, client: Any = None) -> None:
        """Put back what does not run; at the end of the worker, all of it. Raises RedisError.

        If Redis refuses it, it is found when its lease has ended.
        """
        ends = state.should_stop is not None or state.should_terminate is not None
        kept = set() if ends else running_tags()
        try:
            self._restore(kept, client)
        except ResponseError as error:
            REFUSALS.note(error)

    def _restore(self, kept: set[str], client: Any) -> None:
        with self.channel.conn_or_acquire(client) as connected:
            self.pay()
            for tag in [one for one in self._delivered if one not in kept]:
                self.restore_by_tag(tag, client=connected)
                self._delivered.pop(tag, None)


class Channel(redis.Channel):
    """Knows for all its life how to connect. To a Redis that refuses writes there is no connection:
    a worker that begins waits for it as for one that is away."""

    QoS = QoS
    _in_poll: Any
    _brpop_sent_at: Any

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._known: dict[bool, dict[str, Any]] = {}
        self._without_ack: set[str] = set()
        """Queues whose messages nobody acknowledges."""
        self._awaited = ""
        """The queue from which the next message was asked; empty where kombu asks."""
        try:
            super().__init__(*args, **kwargs)  # type: ignore[no-untyped-call]
            self._probe()
        except Exception as error:
            self._forget()
            if not isinstance(error, ResponseError):
                raise
            REFUSALS.note(error)
            raise exceptions.ConnectionError(f"it refuses writes ({error})") from None
        self._connparams()

    def _probe(self) -> None:
        with self.conn_or_acquire() as client:
            client.lpushx(PROBE, "")

    def _forget(self) -> None:
        """kombu would keep its connections, and its number, of which there are 65,535."""
        used = self.connection._used_channel_ids
        if (number := getattr(self, "channel_id", None)) in used:
            used.remove(number)
        self.connection.cycle.discard(self)
        self._disconnect_pools()  # type: ignore[no-untyped-call]

    def _connparams(self, asynchronous: bool = False) -> dict[str, Any]:
        if asynchronous not in self._known:
            found = super()._connparams(asynchronous)  # type: ignore[no-untyped-call]
            found["driver_info"] = DRIVER
            self._known[asynchronous] = found
        return dict(self._known[asynchronous])

    def basic_consume(self, queue: str, no_ack: bool, *args: Any, **kwargs: Any) -> None:
        """As kombu's."""
        if no_ack:
            self._without_ack.add(queue)
        super().basic_consume(queue, no_ack, *args, **kwargs)  # type: ignore[no-untyped-call]

    def _brpop_start(self, timeout: float | None = None) -> None:
        if REFUSALS.now and not self._is_accepted():
            return
        if not self._settles_up():
            return
        if self._takes():
            self._take(self.brpop_timeout if timeout is None else timeout)
        else:
            self._awaited = ""
            super()._brpop_start(timeout)  # type: ignore[no-untyped-call]

    def _settles_up(self) -> bool:
        """Write what is owed, and give back what was asked of a lost connection.

        False if Redis refuses it; the message is found when its lease has ended. Raises RedisError.
        """
        try:
            self.qos.pay()
            self.qos.give_back_asked()
        except ResponseError as error:
            REFUSALS.note(error)
            return False
        return True

    def _takes(self) -> bool:
        """True if there is one list to take from, as only for one can be waited this way."""
        return (
            len(self.active_queues) == len(self.priority_steps) == 1
            and self.active_queues[0] not in self._without_ack
        )

    def _take(self, timeout_s: float) -> None:
        """Ask for the next message: two commands, one exchange."""
        (self._awaited,), (step,) = self.active_queues, self.priority_steps
        key = self._q_for_pri(self._awaited, step)  # type: ignore[no-untyped-call]
        back = f', "", {dumps(self._awaited)}]'  # type: ignore[no-untyped-call]
        self.qos.asked = new_id()
        wait = "BLMOVE", key, key, "RIGHT", "RIGHT", timeout_s
        take = (
            "EVAL", TAKE, 3, key, self.unacked_key, self.unacked_index_key,
            self.qos.asked, time.time(), back,
        )  # fmt: skip
        connection = self._in_poll = self.client.connection
        self._brpop_sent_at = time.monotonic()
        connection.send_packed_command(connection.pack_commands([wait, take]))

    def _brpop_read(self, **options: Any) -> Any:
        if self._awaited:
            return self._deliver_taken()
        try:
            return super()._brpop_read(**options)  # type: ignore[no-untyped-call]
        except ResponseError as error:
            REFUSALS.note(error)
        raise Empty

    def _deliver_taken(self) -> bool:
        qos, queue = self.qos, self._awaited
        message = self._taken()
        if message is None or not qos.asked:  # given back as that of a lost connection
            qos.asked = ""
            raise Empty
        if self._closing or queue not in self.connection._callbacks:  # nobody consumes it any more
            self._settles_up()
            raise Empty
        qos.arrives = True
        try:
            self.connection._deliver(loads(message), queue)  # type: ignore[no-untyped-call]
        except Exception as error:
            if not qos.arrives:
                raise
            reason = f"{type(error).__name__}: {error}"
            log.error("message dropped: it is not Celery's", queue=queue, reason=reason)  # noqa: TRY400
        qos.drop_arriving()
        return True

    def _taken(self) -> bytes | None:
        """The message of which the answer tells; None if there was none. Raises ConnectionError."""
        connection = self.client.connection
        try:
            answers = [_answer(connection) for _ in ("wait", "take")]
        except self.connection_errors:
            connection.disconnect()
            raise
        finally:
            self._in_poll = None
            self._flush_brpop_reauth()  # type: ignore[no-untyped-call]
        if isinstance(answers[1], bytes):
            return answers[1]
        for answer in answers:
            if isinstance(answer, ResponseError):
                self.qos.asked = ""
                REFUSALS.note(answer)
        return None

    def close(self) -> None:
        """As kombu's, which waits for the answer to what it asked last: it comes at once.

        One that should be there already is not hastened: a silent server would be waited for twice.
        """
        if self._in_poll and time.monotonic() - self._brpop_sent_at < self.brpop_timeout:
            self._ask_no_longer(self._in_poll)
        super().close()  # type: ignore[no-untyped-call]

    def _ask_no_longer(self, connection: Any) -> None:
        """The server answers as if nothing had come in time."""
        told = connection.handshake_metadata or {}
        number = told.get(b"id", told.get("id"))
        if number is not None:
            with suppress(exceptions.RedisError), self.conn_or_acquire() as client:
                client.client_unblock(number)

    def _receive(self) -> Any:
        try:
            return super()._receive()  # type: ignore[no-untyped-call]
        except ResponseError as error:  # a server that cannot save refuses even to be pinged
            REFUSALS.note(error)
            self.subclient.health_check_response_counter = 0  # an answer, too: it is not stale
        raise Empty

    def maybe_refresh_binding_expiry(self) -> None:
        """As kombu's, which would tell of each refusal with a traceback."""
        try:
            super().maybe_refresh_binding_expiry()  # type: ignore[no-untyped-call]
        except ResponseError as error:
            REFUSALS.note(error)

    def _is_accepted(self) -> bool:
        """True if Redis accepts writes again; what waits for that is written first.

        Raises ConnectionError if it is a replica: its name may be another server's by now, which
        only a new connection finds.
        """
        if not REFUSALS.is_due:
            return False
        try:
            self.qos.pay()
            self._probe()
        except ResponseError as error:
            REFUSALS.note(error)
            if isinstance(error, exceptions.ReadOnlyError):
                raise exceptions.ConnectionError(f"it refuses writes ({error})") from None
            return False
        REFUSALS.over()
        return True


class Transport(redis.Transport):
    """Takes the place of kombu's own, also in what asks for the transport's name."""

    Channel = Channel


def _answer(connection: Any) -> Any:
    try:
        return connection.read_response()
    except ResponseError as error:
        return error


def install() -> None:
    """Use it for every ``redis://`` and ``rediss://`` of this process; to be called early."""
    name = f"{__name__}:{Transport.__name__}"
    TRANSPORT_ALIASES.update(redis=name, rediss=name)
