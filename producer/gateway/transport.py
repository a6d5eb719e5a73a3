"""Connections: responses in one piece, requests within bounds.

uvicorn writes the head and the body of a response one by one.
Two writes are two system calls here and two wake-ups at the other end, as much as a tenth of what a
small request costs. So what is written in one turn of the event loop leaves together.
"""

from __future__ import annotations

import asyncio
import re
from collections import deque
from collections.abc import Callable, MutableMapping, Sequence
from typing import Any

from uvicorn.protocols.http.httptools_impl import (
    STATUS_LINE,
    HttpToolsProtocol,
    RequestResponseCycle,
)

from celeriac import errors
from producer.gateway import failures
from producer.gateway.context import DIRECT, new_request_id
from producer.gateway.door import Door
from producer.gateway.failures import BodyTimeout, HeadTooLarge

MAX_HEAD_BYTES = 64_000
"""Of a request line with its headers; one that comes in a single piece may be some times longer."""
HEAD_S = 10.0
"""A head must be there so long after its first byte."""
LINGER_S = 5.0
"""So long a body may go on coming after its request was answered."""

STALLED_S = 60.0
"""After so long in which nothing of an answer was taken, its reader counts as gone."""

_UPGRADE = re.compile(rb"\r\nupgrade(?=:)", re.IGNORECASE)
_NAME_BYTES = len(b"\r\nupgrade")
_NO_TRAILERS: deque[tuple[bytes, bytes]] = deque(maxlen=0)
"""Takes the headers that come after a body, and forgets them."""


class JoinedWrites:
    """A transport that passes writes on once a turn of the event loop."""

    def __init__(
        self, transport: Any, loop: asyncio.AbstractEventLoop, on_rest: Callable[[], None]
    ) -> None:
        """``on_rest``: called when it closes, and not all that was written has left."""
        self._transport = transport
        self._loop = loop
        self._on_rest = on_rest
        self._parts: list[bytes] = []

    def write(self, data: bytes) -> None:
        if not self._parts:
            self._loop.call_soon(self.flush)
        self._parts.append(data)

    def write_now(self, data: bytes) -> None:
        """Write a whole response, without waiting for more of it."""
        self.flush()
        self._transport.write(data)

    def close(self) -> None:
        self.flush()
        self._transport.close()
        if self._transport.get_write_buffer_size():
            self._on_rest()

    def flush(self) -> None:
        """Pass on what there is: nothing more of it is to come."""
        if self._parts:
            parts, self._parts = self._parts, []
            self._transport.write(parts[0] if len(parts) == 1 else b"".join(parts))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)


class Direct:
    """One request's connection without ASGI's messages: the body at once, the answer as one write.

    ASGI has a message for each piece, and uvicorn asks each header of each answer whether it is
    one. An answer's headers are known here before there is an answer.
    """

    __slots__ = ("_cycle",)

    def __init__(self, cycle: RequestResponseCycle) -> None:
        self._cycle = cycle

    def body(self) -> bytes | None:
        """The whole body, if it is here; None if it has to be received. For one call."""
        cycle = self._cycle
        if (
            cycle.more_body or cycle.waiting_for_100_continue or cycle.disconnected
            or cycle.response_complete
        ):
            return None
        cycle.flow.resume_reading()
        cycle.message_event.clear()
        body, cycle.body = bytes(cycle.body), bytearray()
        return body

    def respond(self, status: int, headers: Sequence[bytes], body: bytes) -> bool:
        """Send an answer; False if it has to go as ASGI messages, or cannot.

        ``headers`` are whole lines without their ends. They are sent as they are, so no caller's
        text may be in them unless it was checked; the length is added.
        """
        cycle = self._cycle
        if (
            cycle.response_started or cycle.disconnected or not cycle.keep_alive
            or cycle.flow.write_paused or cycle.scope["method"] == "HEAD"
        ):
            return False
        cycle.response_started = cycle.response_complete = True
        cycle.waiting_for_100_continue = False
        lines = [*[b"%s: %s" % header for header in cycle.default_headers], *headers]
        transport: Any = cycle.transport
        transport.write_now(b"%s%s\r\ncontent-length: %d\r\n\r\n%s" % (
            STATUS_LINE[status], b"\r\n".join(lines), len(body), body
        ))
        cycle.message_event.set()
        cycle.on_response()
        return True


    def fit(self, message: MutableMapping[str, Any]) -> None:
        """Before ASGI's message of an answer: to HTTP/1.0, which knows no chunks, an answer without
        a length ends with its connection."""
        cycle = self._cycle
        if cycle.scope["http_version"] != "1.0":
            return
        if message["type"] == "http.response.body":
            cycle.expected_content_length = len(message.get("body", b""))
        elif all(name != b"content-length" for name, _ in message["headers"]):
            cycle.chunked_encoding = False


class Refused:
    """What uvicorn must know of a request that the door has refused: it has been answered."""

    __slots__ = ("lingers", "more_body")
    response_complete = True
    disconnected = True
    message_event = asyncio.Event()

    def __init__(self) -> None:
        self.more_body = True
        self.lingers = False


class Protocol(HttpToolsProtocol):
    """uvicorn's protocol over such a transport, and with bounds that it lacks.

    The head of a request is bounded in bytes and in time, before anybody is asked who it is; so is
    the rest of a body whose request has been answered already, and the wait for a reader who takes
    nothing of an answer: each would hold a request's place for good. What is no HTTP gets an error
    in the form of all others. An offer to go on with another protocol is left unheard: the body
    that comes with it counts.
    """

    _head_bytes = 0
    """Of a head that comes in several pieces, without the first."""
    _head_end = b""
    """The last bytes of such a head so far: an offer may be cut anywhere."""
    _in_head = False
    """Between the first byte of a request and the end of its head."""
    _heads = 0
    """Heads that have begun."""
    _is_deaf = False
    """What comes from now on is another protocol's."""
    _head_timer: asyncio.TimerHandle | None = None
    """Ends a connection that does not send all of a head."""
    _idle_timer: asyncio.TimerHandle | None = None
    """Ends a connection on which nothing happens. One for all of its requests: a timer for each,
    set and cancelled, costs a tenth of a refusal."""
    _idle_since_s = 0.0
    """When the last answer left, by the loop's clock."""
    _stall_timer: asyncio.TimerHandle | None = None
    """Ends a connection whose reader takes nothing."""
    _running: RequestResponseCycle | None = None
    """The request that is being answered; uvicorn's ``cycle`` is the one whose head came last."""

    def __init__(self, *args: Any, **named: Any) -> None:
        super().__init__(*args, **named)
        guard: Any = self.app
        self._door: Door = guard.door

    def connection_made(self, transport: Any) -> None:
        joined: Any = JoinedWrites(transport, self.loop, self._await_reader)
        super().connection_made(joined)
        self._idle_since_s = self.loop.time()
        self._idle_timer = self.loop.call_later(self.timeout_keep_alive, self._close_if_idle)

    def data_received(self, data: bytes) -> None:
        if self._is_deaf:
            return
        was_in_head, heads = self._in_head, self._heads
        may_offer = was_in_head or b"pgrade:" in data or b"PGRADE:" in data
        if may_offer and not self._is_in_body():
            data = _without_upgrade(data, self._head_end)
        super().data_received(data)
        self._head_end = (self._head_end + data)[-_NAME_BYTES:] if self._in_head else b""
        is_another = self._heads != heads
        if was_in_head and (is_another or not self._in_head):
            self._end_head()
        if not self._in_head:
            refused = self._refused()
            if refused is not None and refused.more_body and not refused.lingers:
                refused.lingers = True
                self._linger()
        elif is_another:
            self._head_timer = self.loop.call_later(HEAD_S, self._refuse, BodyTimeout(
                f"the head of the request did not come within {HEAD_S:g} s"
            ))
        else:
            self._head_bytes += len(data)
            if self._head_bytes > MAX_HEAD_BYTES:
                self._refuse(HeadTooLarge())

    def on_message_begin(self) -> None:
        self._in_head = True
        self._heads += 1
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        self._in_head = False
        refusal = self._refusal()
        if refusal is None:
            super().on_headers_complete()
            self.scope[DIRECT] = Direct(self.cycle)  # type: ignore[literal-required]
            if not self.pipeline:
                self._running = self.cycle
        else:
            self.cycle = Refused()  # type: ignore[assignment]
            self.transport.write_now(refusal)  # type: ignore[attr-defined]
        # What the parser calls headers from now on are trailers, maybe of the same packet.
        self.headers = _NO_TRAILERS  # type: ignore[assignment]

    def connection_lost(self, exc: Exception | None) -> None:
        self._end_head()
        if self._idle_timer is not None:
            self._idle_timer.cancel()
        self._end_stall()
        super().connection_lost(exc)
        running = self._running
        if running is not None and running is not self.cycle and not running.response_complete:
            # Another request came behind it, and uvicorn tells the last one alone.
            running.disconnected = True
            running.message_event.set()

    def on_message_complete(self) -> None:
        super().on_message_complete()
        cycle = self.cycle
        if cycle.response_complete:  # uvicorn leaves it as it was
            cycle.more_body = False
            self._idle_since_s = self.loop.time()

    def on_response_complete(self) -> None:
        """As uvicorn's, without a timer."""
        self.transport.flush()  # type: ignore[attr-defined]
        self.server_state.total_requests += 1
        self._idle_since_s = self.loop.time()
        if not self.transport.is_closing():
            self.flow.resume_reading()
            if self.pipeline:
                cycle, app = self.pipeline.pop()
                self._running = cycle
                self._start_asgi_task(cycle, app)
        if self.cycle.more_body and self.cycle.response_complete:
            self._linger()

    def send_400_response(self, msg: str) -> None:
        self._refuse(errors.RequestError("this is not a valid HTTP request"))

    def _unsupported_upgrade_warning(self) -> None:
        """An offer that was not taken away, or CONNECT: the last request of its connection.

        It is answered like any other, without a body. What follows could be its body: it is no
        request.
        """
        self._is_deaf = True
        self.cycle.keep_alive = False

    def _refusal(self) -> bytes | None:
        """The door's answer to the request whose head is complete, if it is to be refused.

        None if it is not to, and where an answer at once would not do: the application knows how.
        """
        way = self._door.way(self.url)
        if way is None:
            return None
        cycle: RequestResponseCycle | None = self.cycle
        parser = self.parser
        if (
            parser.get_method() == b"POST" and parser.should_keep_alive()
            and parser.get_http_version() == "1.1" and not self.expect_100_continue
            and not parser.should_upgrade()
            and (cycle is None or cycle.response_complete)
            and not self.flow.write_paused  # the application waits until answers are taken
        ):
            return self._door.refusal(way, self.url, self.headers)
        return None

    def _refused(self) -> Refused | None:
        """The last request, if the door has refused it."""
        cycle: Any = self.cycle
        return cycle if type(cycle) is Refused else None

    def _is_in_body(self) -> bool:
        """True from the end of a request's head to the end of its body."""
        cycle: RequestResponseCycle | None = self.cycle
        return cycle is not None and cycle.more_body and not self._in_head

    def _end_head(self) -> None:
        self._head_bytes = 0
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _close_if_idle(self) -> None:
        """Close a connection whose last answer left long ago, or look again later."""
        cycle: RequestResponseCycle | None = self.cycle
        is_busy = self._in_head or (cycle is not None and not cycle.response_complete)
        left_s: float = self.timeout_keep_alive
        if not is_busy:
            left_s += self._idle_since_s - self.loop.time()
        if left_s > 0:
            self._idle_timer = self.loop.call_later(left_s, self._close_if_idle)
        else:
            self.timeout_keep_alive_handler()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._await_reader()

    def resume_writing(self) -> None:
        self._end_stall()
        super().resume_writing()

    def _await_reader(self) -> None:
        self._end_stall()
        left = self.transport.get_write_buffer_size()
        self._stall_timer = self.loop.call_later(STALLED_S, self._abort_unless_read, left)

    def _abort_unless_read(self, before: int) -> None:
        if self.transport.get_write_buffer_size() < before:  # slow, but there
            self._await_reader()
        else:
            self.transport.abort()

    def _end_stall(self) -> None:
        if self._stall_timer is not None:
            self._stall_timer.cancel()
            self._stall_timer = None

    def _linger(self) -> None:
        """Nobody will read the rest. To close at once could take the answer from its sender."""
        self.loop.call_later(LINGER_S, self._close_unless_new, self.cycle)

    def _close_unless_new(self, cycle: RequestResponseCycle) -> None:
        if self.cycle is cycle and cycle.more_body and not self.transport.is_closing():
            self.transport.close()

    def _refuse(self, error: errors.CeleriacError) -> None:
        """Answer in the place of the application, and close the connection. A request that has
        its answer gets no second one for the rest of its body."""
        if self.transport.is_closing():
            return
        cycle: RequestResponseCycle | None = self.cycle
        if cycle is None or (
            not self._is_in_body() if cycle.response_complete else not cycle.response_started
        ):
            path = self.url.decode("latin-1")
            self.transport.write(failures.response(error, new_request_id(), path, closes=True))
        self.transport.close()


def _without_upgrade(data: bytes, before: bytes) -> bytes:
    """``data`` with a longer name for the header ``Upgrade``, which may begin in ``before``.

    The parser would take what follows the head for the other protocol. Some clients (Java's) offer
    HTTP/2 in this way with every request, also with those that have a body.
    """
    head, end, rest = (before + data).partition(b"\r\n\r\n")
    return (_UPGRADE.sub(rb"\g<0>-unheard", head) + end + rest)[len(before) :]
