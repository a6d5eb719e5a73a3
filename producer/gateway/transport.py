"""Connections: responses in one piece, requests within bounds.

uvicorn writes the head and the body of a response one by one.
Two writes are two system calls here and two wake-ups at the other end, as much as a tenth of what a
small request costs. So what is written in one turn of the event loop leaves together.
"""

from __future__ import annotations

import asyncio
import re
from collections import deque
from http import HTTPStatus
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from celeriac import errors
from producer.gateway import failures
from producer.gateway.context import new_request_id
from producer.gateway.failures import BodyTimeout, HeadTooLarge

MAX_HEAD_BYTES = 64_000
"""Of a request line with its headers; one that comes in a single piece may be some times longer."""
HEAD_S = 10.0
"""A head must be there so long after its first byte."""
LINGER_S = 5.0
"""So long a body may go on coming after its request was answered."""

_UPGRADE = re.compile(rb"\r\nupgrade:", re.IGNORECASE)
_NO_TRAILERS: deque[tuple[bytes, bytes]] = deque(maxlen=0)
"""Takes the headers that come after a body, and forgets them."""


class JoinedWrites:
    """A transport that passes writes on once a turn of the event loop."""

    def __init__(self, transport: Any, loop: asyncio.AbstractEventLoop) -> None:
        self._transport = transport
        self._loop = loop
        self._parts: list[bytes] = []

    def write(self, data: bytes) -> None:
        if not self._parts:
            self._loop.call_soon(self._flush)
        self._parts.append(data)

    def close(self) -> None:
        self._flush()
        self._transport.close()

    def _flush(self) -> None:
        if self._parts:
            parts, self._parts = self._parts, []
            self._transport.write(parts[0] if len(parts) == 1 else b"".join(parts))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)


class Protocol(HttpToolsProtocol):
    """uvicorn's protocol over such a transport, and with bounds that it lacks.

    The head of a request is bounded in bytes and in time, before anybody is asked who it is; so is
    the rest of a body whose request has been answered already. What is no HTTP gets an error in the
    form of all others. An offer to go on with another protocol is left unheard: the body that comes
    with it counts.
    """

    _head_bytes = 0
    """Of a head that comes in several pieces, without the first."""
    _timer: asyncio.TimerHandle | None = None
    """Ends a connection that sends nothing, or not all of a head."""

    def connection_made(self, transport: Any) -> None:
        super().connection_made(JoinedWrites(transport, self.loop))  # type: ignore[arg-type]
        self._timer = self.loop.call_later(self.timeout_keep_alive, self.timeout_keep_alive_handler)

    def data_received(self, data: bytes) -> None:
        is_new = not self._is_in_head()
        if is_new:
            self._cancel_timer()
        if b"pgrade:" in data and not self._is_in_body():
            data = _without_upgrade(data)
        super().data_received(data)
        if not self._is_in_head():
            self._cancel_timer()
            self._head_bytes = 0
        elif is_new:
            self._timer = self.loop.call_later(HEAD_S, self._refuse, BodyTimeout(
                f"the head of the request did not come within {HEAD_S:g} s"
            ))
        else:
            self._head_bytes += len(data)
            if self._head_bytes > MAX_HEAD_BYTES:
                self._refuse(HeadTooLarge())

    def on_headers_complete(self) -> None:
        super().on_headers_complete()
        # What the parser calls headers from now on are trailers, maybe of the same packet.
        self.headers = _NO_TRAILERS  # type: ignore[assignment]

    def connection_lost(self, exc: Exception | None) -> None:
        self._cancel_timer()
        super().connection_lost(exc)

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self.cycle.more_body and self.cycle.response_complete:
            # Nobody will read the rest. To close at once could take the answer from its sender.
            self.loop.call_later(LINGER_S, self._close_unless_new, self.cycle)

    def send_400_response(self, msg: str) -> None:
        self._refuse(errors.RequestError("this is not a valid HTTP request"))

    def _unsupported_upgrade_warning(self) -> None:
        """CONNECT, which is answered like any other method."""

    def _is_in_head(self) -> bool:
        """True between the first byte of a request and the end of its head."""
        return bool(self.scope) and "method" not in self.scope

    def _is_in_body(self) -> bool:
        """True from the end of a request's head to the end of its body."""
        cycle: RequestResponseCycle | None = self.cycle
        return cycle is not None and cycle.more_body and not self._is_in_head()

    def _cancel_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _close_unless_new(self, cycle: RequestResponseCycle) -> None:
        if self.cycle is cycle and cycle.more_body and not self.transport.is_closing():
            self.transport.close()

    def _refuse(self, error: errors.CeleriacError) -> None:
        """Answer in the place of the application, and close the connection."""
        if self.transport.is_closing():
            return
        cycle: RequestResponseCycle | None = self.cycle
        if cycle is None or cycle.response_complete or not cycle.response_started:
            request_id = new_request_id()
            body = failures.body(error, request_id, self.url.decode("latin-1"))
            status = failures.status_of(error)
            self.transport.write(
                b"HTTP/1.1 %d %s\r\ncontent-type: application/json\r\ncontent-length: %d\r\n"
                b"x-request-id: %s\r\nconnection: close\r\n\r\n%s" % (
                    status, HTTPStatus(status).phrase.encode(), len(body), request_id.encode(), body
                )
            )
        self.transport.close()


def _without_upgrade(data: bytes) -> bytes:
    """``data`` with another name for the header ``Upgrade``.

    The parser would take what follows the head for the other protocol. Some clients (Java's) offer
    HTTP/2 in this way with every request, also with those that have a body.
    """
    head, end, rest = data.partition(b"\r\n\r\n")
    return _UPGRADE.sub(b"\r\nx-upgrade:", head) + end + rest
