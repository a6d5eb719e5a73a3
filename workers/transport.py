"""kombu's Redis transport, of which a worker can lose the connection and keep its tasks.

A lost connection is taken apart in two steps. When the first one fails halfway, which happens as
Redis is away, the second finds a channel that is still open and has messages in hand, but whose
connection no longer says where Redis is. The AttributeError of this ends the worker. The same would
meet a task that ran meanwhile, when it is acknowledged. A channel that keeps what it was told at
its start can do both.

When Redis is there and only the connection is gone, kombu puts back all that the worker has in
hand, also what runs on: it would run twice. Here those stay, and ``workers/lease.py`` refreshes
them.

When Redis refuses writes, kombu raises whatever was refused, and the worker ends; a message that
was popped and could not be entered in the books is lost. Here such a worker pops nothing, puts back
what it has popped, keeps what it has to acknowledge, and asks twice a second whether it is over.
"""

from __future__ import annotations

from collections.abc import Callable
from queue import Empty
from typing import Any, ClassVar

from celery.worker import state
from kombu.transport import TRANSPORT_ALIASES, redis
from kombu.utils.json import dumps
from redis import exceptions
from redis.exceptions import ResponseError

from celeriac.logs import get_logger
from producer.broker import DRIVER
from workers.refusals import REFUSALS

log = get_logger(__name__)

PROBE = "celeriac:probe"
"""A key that is never there: LPUSHX on it changes nothing, and is a write all the same."""
PUT_BACK = "#!lua flags=allow-oom\nreturn redis.call('RPUSH', KEYS[1], ARGV[1])"
"""A full Redis, too, takes back what was popped: it had room for it a moment ago."""
_popped: list[tuple[str, str]] = []
"""Queue and message: popped by this process when Redis refused already that it be written down."""


class NotWrittenDown(Exception):
    """Redis has refused to keep a message as one that is not acknowledged."""


def running_tags() -> set[str]:
    """The messages of the tasks that run in this worker."""
    return {request.message.delivery_tag for request in tuple(state.active_requests)}


class QoS(redis.QoS):
    """kombu's books of what was delivered and not acked."""

    owed: ClassVar[dict[str, Callable[[], object]]] = {}
    """Acknowledged by this process, by tag, with the write that Redis has refused. Of all its
    connections: what a lost one owes, the next one pays."""

    def append(self, message: Any, delivery_tag: str) -> None:
        """Write down that a message was delivered. Raises NotWrittenDown, RedisError."""
        try:
            super().append(message, delivery_tag)  # type: ignore[no-untyped-call]
        except ResponseError as error:
            REFUSALS.note(error)
            raise NotWrittenDown from error

    def ack(self, delivery_tag: str) -> None:
        """Acknowledge; later if Redis refuses it now. Raises RedisError."""
        self._settle(delivery_tag, lambda: self._remove_from_indices(delivery_tag).execute())  # type: ignore[no-untyped-call]

    def reject(self, delivery_tag: str, requeue: bool = False) -> None:
        """Drop or put back; later if Redis refuses it now. Raises RedisError."""
        if requeue:
            self._settle(delivery_tag, lambda: self.restore_by_tag(delivery_tag, leftmost=True))  # type: ignore[no-untyped-call]
        else:
            self.ack(delivery_tag)

    def _settle(self, tag: str, write: Callable[[], object]) -> None:
        try:
            write()
        except ResponseError as error:
            REFUSALS.note(error)
            self.owed[tag] = write
        self._quick_ack(tag)

    def pay(self) -> None:
        """Write what Redis has refused. Raises RedisError."""
        for tag in list(self.owed):
            self.owed[tag]()
            del self.owed[tag]

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
            if ends and _popped:
                log.critical("messages lost, which redis does not take back", messages=len(_popped))

    def _restore(self, kept: set[str], client: Any) -> None:
        with self.channel.conn_or_acquire(client) as connected:
            give_back_popped(connected)
            self.pay()
            for tag in [one for one in self._delivered if one not in kept]:
                self.restore_by_tag(tag, client=connected)  # type: ignore[no-untyped-call]
                self._delivered.pop(tag, None)


class Channel(redis.Channel):
    """Knows for all its life how to connect. To a Redis that refuses writes there is no connection:
    a worker that begins waits for it as for one that is away."""

    QoS = QoS

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._known: dict[bool, dict[str, Any]] = {}
        try:
            super().__init__(*args, **kwargs)  # type: ignore[no-untyped-call]
            self._probe()
        except ResponseError as error:
            REFUSALS.note(error)
            self._forget()
            raise exceptions.ConnectionError(f"it refuses writes ({error})") from None
        self._connparams()

    def _probe(self) -> None:
        with self.conn_or_acquire() as client:
            client.lpushx(PROBE, "")

    def _forget(self) -> None:
        self.connection.cycle.discard(self)
        self._disconnect_pools()  # type: ignore[no-untyped-call]

    def _connparams(self, asynchronous: bool = False) -> dict[str, Any]:
        if asynchronous not in self._known:
            found = super()._connparams(asynchronous)  # type: ignore[no-untyped-call]
            found["driver_info"] = DRIVER
            self._known[asynchronous] = found
        return dict(self._known[asynchronous])

    def _brpop_start(self, timeout: float | None = None) -> None:
        if not (REFUSALS.now or _popped) or self._is_accepted():
            super()._brpop_start(timeout)  # type: ignore[no-untyped-call]

    def _brpop_read(self, **options: Any) -> Any:
        try:
            return super()._brpop_read(**options)  # type: ignore[no-untyped-call]
        except ResponseError as error:
            REFUSALS.note(error)
        except NotWrittenDown:
            self._give_back()
        raise Empty

    def _give_back(self) -> None:
        try:
            with self.conn_or_acquire() as client:
                give_back_popped(client)
        except ResponseError as error:
            REFUSALS.note(error)

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
            with self.conn_or_acquire() as client:
                give_back_popped(client)
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

    def _deliver(self, message: Any, queue: str) -> None:
        try:
            super()._deliver(message, queue)  # type: ignore[no-untyped-call]
        except NotWrittenDown:
            _popped.append((queue, dumps(message)))  # type: ignore[no-untyped-call]
            raise


def give_back_popped(client: Any) -> None:
    """Put back what was popped while Redis refused writes, as the next to be popped.

    Raises RedisError.
    """
    while _popped:
        client.eval(PUT_BACK, 1, *_popped[-1])
        _popped.pop()


def install() -> None:
    """Use it for every ``redis://`` and ``rediss://`` of this process; to be called early."""
    name = f"{__name__}:{Transport.__name__}"
    TRANSPORT_ALIASES.update(redis=name, rediss=name)
