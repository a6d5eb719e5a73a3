"""The outermost layer: a request gets its id, its caller, its time, its limits and its log line.

Whatever a handler raises becomes an answer here, so nothing else needs to.
"""

from __future__ import annotations

import asyncio
import time

from celeriac import errors
from celeriac.logs import get_logger
from producer.gateway import auth, body, failures
from producer.gateway.access import GONE, AccessLog
from producer.gateway.auth import Keys
from producer.gateway.context import (
    JSON,
    JSON_ONLY,
    Answer,
    App,
    Gateway,
    Message,
    Receive,
    RequestContext,
    Scope,
    Send,
    new_request_id,
    own_request_id,
)
from producer.gateway.disconnects import Disconnected, Watch
from producer.gateway.door import Door
from producer.gateway.hot import HotRouter, check_method
from producer.gateway.origin import check_origin
from producer.gateway.query import check_names
from producer.gateway.rates import Rates

log = get_logger(__name__)

_JSON_LINE = b"%s: %s" % JSON
_UNFORESEEN = errors.CeleriacError().message
"""Of what was logged where it was caught."""
NEEDS_REDIS = "/v1/"
"""Nothing below it can be answered without."""


class Guard:
    """An ASGI application in front of the hot routes and of the application for the others."""

    def __init__(  # noqa: PLR0913 - what stands at the door
        self, gateway: Gateway, router: HotRouter, cold: App, *, keys: Keys, rates: Rates,
        access: AccessLog, scope: str = "",
    ) -> None:
        """``scope``: what every path needs, but for the open ones; empty if it depends."""
        self.gateway = gateway
        self.door = Door(gateway, access)
        """For the connections."""
        self._router = router
        self._cold = cold
        self._keys = keys
        self._rates = rates
        self._access = access
        self._scope = scope
        self._checks_origin = bool(scope) or not keys
        """A key is what no foreign page has; the admin port does not rely on that."""
        self._allowed_hosts = frozenset(gateway.limits.allowed_hosts)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._live(receive, send)
        elif scope["type"] == "http":
            await self._serve(scope, receive, send)

    async def _live(self, receive: Receive, send: Send) -> None:
        """The life of the process that serves the public port."""
        while True:
            try:
                message = await receive()
            except asyncio.CancelledError:  # ended at once: nobody waits for the shutdown
                self._access.flush()
                return
            if message["type"] == "lifespan.startup":
                await self.gateway.start()
                await send({"type": "lifespan.startup.complete"})
            elif message["type"] == "lifespan.shutdown":
                await self.gateway.stop()
                self._access.flush()
                await send({"type": "lifespan.shutdown.complete"})
                return

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        request_id = own_request_id(scope["headers"]) or new_request_id()
        context = RequestContext(scope, receive, request_id, time.monotonic())
        scope["celeriac"] = context
        watches = self.gateway.watches
        watch = watches.begin(context)
        reply = _Reply(self.gateway, context, send)
        try:
            answer = await self._answer(context, reply)
        except asyncio.CancelledError:
            answer = self._aborted(context, watch)
        except Disconnected:
            answer = None
        finally:
            watches.end(watch)
            self.gateway.body_bytes -= context.body_bytes
            del scope["celeriac"]  # a circle: it would wait for the garbage collector
        if answer is not None and not reply.started:
            if not self._respond(context, answer):
                await self._send(context, answer, send)
            self._access.note(context, answer.status)
        else:
            self._access.note(context, reply.status)

    async def _answer(self, context: RequestContext, reply: _Reply) -> Answer | None:
        """The answer of a hot route, or to a failure; None if the cold application has sent it."""
        try:
            await self._admit(context)
            found = self._router.find(context.path)
            if found is None:
                await self._answer_cold(context, reply)
                return None
            route, rest = found
            context.route = route.template
            check_method(route, context.method)
            self._check_scope(context, route.scope)
            if context.scope["query_string"]:
                check_names(context.scope["query_string"], ())
            self.gateway.pulse.check()
            context.is_hot = context.needs_redis = True
            return await route.handler(self.gateway, context, rest)
        except errors.CeleriacError as error:
            return failed(context, error)
        except Disconnected:
            raise
        except Exception:
            log.exception("request failed", request=context.id, route=context.route)
            return failed(context, errors.CeleriacError())

    async def _answer_cold(self, context: RequestContext, reply: _Reply) -> None:
        if auth.is_open(context.path):
            context.route = context.path if context.path in auth.OPEN_PATHS else auth.OPEN_PREFIX
        else:
            self._check_scope(context, auth.scope_for(context.path))
            context.needs_redis = not self._scope  # a promotion outlives a pause of Redis
        if context.path.startswith(NEEDS_REDIS):
            self.gateway.pulse.check()
        if not context.has_body:
            context.body_is_read = True  # a handler that waits is not told to hurry
        scope = context.scope
        if context.method == "HEAD":
            scope = {**scope, "method": "GET"}  # every GET has its HEAD
        try:
            await self._cold(scope, reply.bounded(), reply.send)
        finally:
            context.route = getattr(scope.get("route"), "path", context.route)

    async def _admit(self, context: RequestContext) -> None:
        """Who is it, how long has it, and is there room? Health is always answered."""
        gateway = self.gateway
        context.allow(gateway.limits.timeout_s)
        if auth.is_open(context.path):
            return
        if self._checks_origin:
            check_origin(context.method, context.headers, self._allowed_hosts)
        context.allow(gateway.timeout_s(context))
        if len(gateway.watches) > gateway.limits.max_concurrent:
            raise failures.GatewayBusy(
                f"{gateway.limits.max_concurrent:,} requests are under way already "
                "([gateway] max_concurrent); try again soon", failures.BUSY_RETRY_S,
            )
        if self._keys:
            context.caller = self._keys.caller(context)
            if context.caller.name in self._rates:
                gateway.pulse.check()
                context.needs_redis = True
                await self._rates.take(context.caller.name)

    def _check_scope(self, context: RequestContext, scope: str) -> None:
        auth.check_scope(context.caller, self._scope or scope)

    def _aborted(self, context: RequestContext, watch: Watch) -> Answer | None:
        """The answer to a request whose handler was cancelled by its watch."""
        cause = watch.cause
        if cause is None and not self.gateway.is_draining:
            raise asyncio.CancelledError
        if cause is None:  # by the server, whose time to end is over
            cause = failures.GatewayBusy(
                "the gateway ends, and there was no answer in time; ask again, or another one",
                failures.BUSY_RETRY_S,
            )
        task = asyncio.current_task()
        if task is not None:
            task.uncancel()
        return failed(context, cause) if isinstance(cause, errors.CeleriacError) else None

    def _respond(self, context: RequestContext, answer: Answer) -> bool:
        """Answer in one piece; False if that cannot be, or headers are to be looked at."""
        direct = context.direct
        if direct is None or answer.headers is not JSON_ONLY or self.gateway.is_draining:
            return False
        lines = [_JSON_LINE, b"x-request-id: %s" % context.id.encode("ascii"), *travelled(context)]
        return direct.respond(answer.status, lines, answer.body)

    async def _send(self, context: RequestContext, answer: Answer, send: Send) -> None:
        headers = [
            *answer.headers, (b"content-length", b"%d" % len(answer.body)),
            (b"x-request-id", context.id.encode("ascii")),
            *[tuple(line.split(b": ", 1)) for line in travelled(context)],
        ]  # fmt: skip
        if self.gateway.is_draining:
            headers.append((b"connection", b"close"))
        await send({"type": "http.response.start", "status": answer.status, "headers": headers})
        await send({"type": "http.response.body", "body": answer.body})


class _Reply:
    """What the cold application receives and sends, within bounds and with our headers."""

    __slots__ = ("_context", "_gateway", "_is_whole", "_send", "started", "status")

    def __init__(self, gateway: Gateway, context: RequestContext, send: Send) -> None:
        self._gateway = gateway
        self._context = context
        self._send = send
        self._is_whole = False
        """Nothing more may be sent."""
        self.started = False
        self.status = GONE

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.started = True
            self.status = message["status"]
            self._context.body_is_read = True  # whatever may still come is not waited for
            self._context.needs_redis = False
            headers = list(message.get("headers", ()))
            headers.append((b"x-request-id", self._context.id.encode("ascii")))
            if self._gateway.is_draining:
                headers.append((b"connection", b"close"))
            message["headers"] = headers
        elif self._context.method == "HEAD":  # the server sends no body, so streams end here
            if self._is_whole:
                return
            self._is_whole = True
            message["more_body"] = False
        if self._context.direct is not None:
            self._context.direct.fit(message)
        await self._send(message)

    def bounded(self) -> Receive:
        """``receive`` that ends with PayloadTooLarge beyond the limit."""
        limit, size = self._gateway.limits.max_body_bytes, 0
        receive = self._context.receive

        async def bounded_receive() -> Message:
            nonlocal size
            message = await receive()
            size += len(message.get("body", b""))
            if size > limit:
                raise body.too_large(limit)
            if not message.get("more_body"):
                self._context.body_is_read = True
            return message

        return bounded_receive


def failed(context: RequestContext, error: errors.CeleriacError) -> Answer:
    """The answer to a request that failed. What callers are not told is in the log."""
    context.code = error.code
    if error.message not in (failures.message_of(error), _UNFORESEEN):
        log.error("request failed", request=context.id, route=context.route, code=error.code,
                  problem=error.message)
    return Answer(
        failures.status_of(error), failures.body(error, context.id, context.path),
        (JSON, *failures.headers(error)),
    )


def travelled(context: RequestContext) -> list[bytes]:
    """What headers say of a prediction's way: version, cache, batch, times in milliseconds."""
    lines = []
    if context.version:
        lines.append(b"x-model-version: %d" % context.version)
    if context.cache:
        lines.append(b"x-cache: %s" % context.cache.encode("ascii"))
    if context.batch_items:
        total_ms = (time.monotonic() - context.started_s) * 1000
        lines.append(b"x-batch-size: %d" % context.batch_items)
        lines.append(b"server-timing: queue;dur=%.2f, compute;dur=%.2f, total;dur=%.2f" % (
            context.queue_ms, context.compute_ms, total_ms,
        ))
    return lines
