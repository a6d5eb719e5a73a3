"""What a handler is given: the gateway's own things, and the request's."""

from __future__ import annotations

import random
import re
import time
from collections.abc import Awaitable, Callable, Iterable, MutableMapping, Sequence
from typing import Any, NamedTuple, Protocol

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from celeriac import errors
from celeriac.messages import Prediction
from celeriac.settings import Settings
from producer.calls import Call
from producer.gateway.client import GatewayClient
from producer.gateway.disconnects import Watches
from producer.gateway.failures import broker_gone, fault
from producer.gateway.oip.statistics import Statistics
from producer.gateway.presence import Presence
from producer.gateway.pressure import Pressure
from producer.gateway.progress import Progress
from producer.gateway.pulse import ANSWER_S, Pulse

Message = MutableMapping[str, Any]
Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

DIRECT = "celeriac.direct"
"""Where a scope has the :class:`Direct` of its request, if its connection knows it."""
JSON: tuple[bytes, bytes] = (b"content-type", b"application/json")
JSON_ONLY = (JSON,)
_REQUEST_ID = re.compile(rb"[A-Za-z0-9._-]{1,64}")


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
    headers: tuple[tuple[bytes, bytes], ...] = JSON_ONLY
    """Without the length and the request id, which the guard adds."""


class Direct(Protocol):
    """What a connection can do for a request beside ASGI."""

    def body(self) -> bytes | None:
        """The whole body, if it is here; None if it has to be received. For one call."""

    def respond(self, status: int, headers: Sequence[bytes], body: bytes) -> bool:
        """Answer with these lines of headers; False if it has to go as ASGI messages."""

    def fit(self, message: Message) -> None:
        """Before a message of an answer is sent: have it fit the caller's version of HTTP."""


class RequestContext:
    """One request. It lies in ``scope["celeriac"]``."""

    __slots__ = (
        "batch_items", "body_bytes", "body_is_read", "body_s", "cache", "caller", "code",
        "compute_ms", "direct", "end_s", "found", "headers", "id", "is_hot", "items", "method",
        "model", "needs_redis", "passes", "path", "queue_ms", "receive", "route", "scope",
        "started_s", "timeout_s", "version",
    )  # fmt: skip

    def __init__(self, scope: Scope, receive: Receive, id: str, started_s: float) -> None:
        self.scope = scope
        self.method: str = scope["method"]
        self.path: str = scope["path"]
        self.receive = receive
        self.direct: Direct | None = scope.pop(DIRECT, None)
        self.headers: dict[bytes, bytes] = dict(scope["headers"])
        """By lower-case name; of a name that comes twice, the last."""
        self.id = id
        self.started_s = started_s
        """Monotonic."""
        self.caller = ANYBODY
        self.route = "-"
        """Template of the path, for logs and metrics."""
        self.is_hot = False
        """It is answered without FastAPI."""
        self.needs_redis = False
        """It waits for what Redis must say, and has no answer yet."""
        self.body_bytes = 0
        """That are held for it."""
        self.body_is_read = False
        self.body_s = 0.0
        """How long its body was waited for."""
        self.code = ""
        """Of the error that it got."""
        self.timeout_s = 0.0
        self.end_s = 0.0
        """When the request's time is over, monotonic."""
        self.model = ""
        self.version = 0
        self.items = 0
        self.cache = ""
        """``hit`` or ``miss``; empty if the model keeps no answers."""
        self.found = 0
        """Items whose answers were kept."""
        self.batch_items = 0
        self.passes = 0.0
        """Forward passes, or its shares of them."""
        self.queue_ms = 0.0
        self.compute_ms = 0.0

    @property
    def has_body(self) -> bool:
        """True if a body is announced."""
        length = self.headers.get(b"content-length", b"0")
        return length != b"0" or b"transfer-encoding" in self.headers

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

    def note(self, call: Call) -> None:
        """Keep what an answered call says of its way; of several, the slowest counts."""
        if call.found:
            self.cache = self.cache or "hit"
            self.found += 1
        elif call.key is not None:
            self.cache = "miss"
        reply = call.reply
        if reply is not None:
            self.queue_ms = max(self.queue_ms, reply.queue_ms)
            self.compute_ms = max(self.compute_ms, reply.compute_ms)
            self.batch_items = max(self.batch_items, reply.batch_items)
            self.passes += 1 / max(1, reply.batch_items)
        if not self.version and isinstance(call.outcome, Prediction):
            self.version = call.outcome.version

    def header(self, name: bytes) -> str:
        """The value of a header whose case does not matter, in lower case, all its lines joined;
        empty if it is not there."""
        values = [value for known, value in self.scope["headers"] if known == name]
        return b", ".join(values).decode("latin-1").strip().lower()


class Gateway:
    """What all requests share."""

    def __init__(self, settings: Settings, client: GatewayClient, url: str = "") -> None:
        """``url``: where it listens, for ``celeriac status``; empty to say nothing."""
        self.settings = settings
        self.limits = settings.gateway
        self.client = client
        self.is_draining = False
        """True once TERM has come: no longer ready, but it still answers."""
        self.watches = Watches()
        """One for each request that has no answer yet."""
        self.body_bytes = 0
        """Held for all requests together."""
        self.redis = connect(settings)
        self.pulse = Pulse(self.redis.ping, self._broker_gone)
        self._presence = Presence(self.redis, url) if url else None
        self.progress = Progress(client.job_statuses, lambda: self.is_draining)
        self.pressure = Pressure(settings.gateway.max_wait_s)
        self.inferences = Statistics()
        """Requests over ``/v2``."""

    @property
    def is_ready(self) -> bool:
        """True if it can answer predictions, and takes more of them."""
        return self.pulse.is_up and not self.is_draining

    async def start(self) -> None:
        """Look for Redis, and go on looking."""
        await self.pulse.start()
        if self._presence is not None:
            self._presence.start()

    async def stop(self) -> None:
        """End what :meth:`start` began."""
        if self._presence is not None:
            await self._presence.stop()
        await self.pulse.stop()
        await self.redis.aclose()

    def _broker_gone(self) -> None:
        """Let those go that wait for what cannot come."""
        for watch in self.watches:
            if watch.needs_redis:
                watch.abort(broker_gone())

    def timeout_s(self, context: RequestContext) -> float:
        """The time that a request asks for, within the limit. Raises RequestError."""
        asked = context.headers.get(b"x-request-timeout-ms")
        if asked is None:
            return self.limits.timeout_s
        milliseconds = int(asked) if asked.isdigit() and len(asked) <= 12 else 0
        if not milliseconds:
            raise fault(
                "X-Request-Timeout-Ms is a whole number of milliseconds above 0",
                "X-Request-Timeout-Ms",
            )
        return min(milliseconds / 1000, self.limits.max_timeout_s)


def new_request_id() -> str:
    """16 characters."""
    return f"{random.getrandbits(64):016x}"


def own_request_id(headers: Iterable[tuple[bytes, bytes]]) -> str:
    """The id that a caller gave its request; empty if there is none that is well formed."""
    for name, value in headers:
        if name == b"x-request-id" and _REQUEST_ID.fullmatch(value):
            return str(value, "ascii")
    return ""


def connect(settings: Settings) -> Redis:
    """An asyncio client of Redis for the gateway's own needs: few, small, and in time."""
    return Redis.from_url(
        settings.broker_url, socket_connect_timeout=ANSWER_S, socket_timeout=1.0,
        retry=Retry(NoBackoff(), 0), max_connections=64,
    )
