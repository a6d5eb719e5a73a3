"""What a handler is given: the gateway's own things, and the request's."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, NamedTuple

from celeriac import errors
from celeriac.settings import Settings
from producer.gateway.client import GatewayClient
from producer.gateway.failures import fault
from producer.gateway.oip.statistics import Statistics

Message = MutableMapping[str, Any]
Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

JSON: tuple[bytes, bytes] = (b"content-type", b"application/json")


class Caller(NamedTuple):
    """Who asks."""

    name: str
    """Of the key: what logs show."""
    tenant: str
    scopes: frozenset[str]


ANYBODY = Caller("-", "default", frozenset({"infer", "batch", "admin"}))
"""Every caller of a gateway without keys, which is reachable from this machine only."""


class Answer(NamedTuple):
    """What a hot handler returns."""

    status: int
    body: bytes
    headers: tuple[tuple[bytes, bytes], ...] = (JSON,)
    """Without the length and the request id, which the guard adds."""


class RequestContext:
    """One request. It lies in ``scope["celeriac"]``."""

    __slots__ = (
        "batch_items", "cache", "caller", "compute_ms", "end_s", "headers", "id", "items", "model",
        "queue_ms", "receive", "route", "scope", "started_s", "timeout_s", "version",
    )  # fmt: skip

    def __init__(self, scope: Scope, receive: Receive, id: str, started_s: float) -> None:
        self.scope = scope
        self.receive = receive
        self.headers: dict[bytes, bytes] = dict(scope["headers"])
        """By lower-case name; of a name that comes twice, the last."""
        self.id = id
        self.started_s = started_s
        """Monotonic."""
        self.caller = ANYBODY
        self.route = "-"
        """Template of the path, for logs and metrics."""
        self.timeout_s = 0.0
        self.end_s = 0.0
        """When the request's time is over, monotonic."""
        self.model = ""
        self.version = 0
        self.items = 0
        self.cache = ""
        """``hit`` or ``miss``; empty if the model keeps no answers."""
        self.batch_items = 0
        self.queue_ms = 0.0
        self.compute_ms = 0.0

    def allow(self, timeout_s: float) -> None:
        """Give the request so much time from its start."""
        self.timeout_s = timeout_s
        self.end_s = self.started_s + timeout_s

    def left_s(self) -> float:
        """What is left of its time, in seconds. Raises DeadlineExceeded if nothing is."""
        left_s = self.end_s - time.monotonic()
        if left_s <= 0:
            raise errors.DeadlineExceeded(
                f"the request took longer than the {self.timeout_s:g} s that it had"
            )
        return left_s

    def header(self, name: bytes) -> str:
        """The value of a header as text, stripped; empty if it is not there."""
        return self.headers.get(name, b"").decode("latin-1").strip()


class Gateway:
    """What all requests share."""

    def __init__(self, settings: Settings, client: GatewayClient) -> None:
        self.settings = settings
        self.limits = settings.gateway
        self.client = client
        self.is_draining = False
        """True once TERM has come: no longer ready, but it still answers."""
        self.in_flight = 0
        self.inferences = Statistics()
        """Requests over ``/v2``."""

    @property
    def is_ready(self) -> bool:
        """True if it can answer predictions, and takes more of them."""
        return not self.is_draining

    def timeout_s(self, context: RequestContext) -> float:
        """The time that a request asks for, within the limit. Raises RequestError."""
        asked = context.headers.get(b"x-request-timeout-ms")
        if asked is None:
            return self.limits.timeout_s
        try:
            milliseconds = int(asked)
        except ValueError:
            milliseconds = 0
        if milliseconds < 1 or len(asked) > 12:
            raise fault(
                "X-Request-Timeout-Ms is a whole number of milliseconds above 0",
                "X-Request-Timeout-Ms",
            )
        return min(milliseconds / 1000, self.limits.max_timeout_s)
