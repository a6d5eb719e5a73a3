"""The outermost layer: a request gets its id, its caller, its time, its limits and its log line.

Whatever a handler raises becomes an answer here, so nothing else needs to.
"""

from __future__ import annotations

import re
import secrets
import time

from celeriac import errors
from celeriac.logs import get_logger
from producer.gateway import body, failures
from producer.gateway.context import (
    JSON,
    Answer,
    App,
    Gateway,
    Message,
    Receive,
    RequestContext,
    Scope,
    Send,
)
from producer.gateway.hot import HotRouter

log = get_logger(__name__)

_REQUEST_ID = re.compile(rb"[A-Za-z0-9._-]{1,64}")


class Guard:
    """An ASGI application in front of the hot routes and of the application for the others."""

    def __init__(self, gateway: Gateway, router: HotRouter, cold: App) -> None:
        self.gateway = gateway
        self._router = router
        self._cold = cold

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        context = RequestContext(scope, receive, request_id(scope), time.monotonic())
        scope["celeriac"] = context
        gateway = self.gateway
        gateway.in_flight += 1
        try:
            answer = await self._answer(context, send)
        except body.Disconnected:
            return
        finally:
            gateway.in_flight -= 1
        if answer is not None:
            await self._send(context, answer, send)

    async def _answer(self, context: RequestContext, send: Send) -> Answer | None:
        """The answer of a hot route, or to a failure; None if the cold application has sent it."""
        reply = _Reply(context, send)
        try:
            self._admit(context)
            found = self._router.find(context.scope["method"], context.scope["path"])
            if found is None:
                await self._cold(context.scope, reply.bounded(self.gateway), reply.send)
                return None
            route, rest = found
            context.route = route.template
            return await route.handler(self.gateway, context, rest)
        except errors.CeleriacError as error:
            failure = error
        except body.Disconnected:
            raise
        except Exception:
            log.exception("request failed", request=context.id, path=context.scope["path"])
            failure = errors.CeleriacError()
        return None if reply.started else failed(context, failure)

    def _admit(self, context: RequestContext) -> None:
        gateway = self.gateway
        context.allow(gateway.timeout_s(context))
        if gateway.in_flight > gateway.limits.max_concurrent:
            raise failures.GatewayBusy(
                f"{gateway.limits.max_concurrent:,} requests are under way already "
                "([gateway] max_concurrent); try again soon", 1.0
            )

    async def _send(self, context: RequestContext, answer: Answer, send: Send) -> None:
        headers = [
            *answer.headers, (b"content-length", b"%d" % len(answer.body)),
            (b"x-request-id", context.id.encode("ascii")),
        ]  # fmt: skip
        if self.gateway.is_draining:
            headers.append((b"connection", b"close"))
        await send({"type": "http.response.start", "status": answer.status, "headers": headers})
        await send({"type": "http.response.body", "body": answer.body})


class _Reply:
    """What the cold application receives and sends, within bounds and with our headers."""

    def __init__(self, context: RequestContext, send: Send) -> None:
        self._context = context
        self._send = send
        self.started = False

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.started = True
            headers = list(message.get("headers", ()))
            headers.append((b"x-request-id", self._context.id.encode("ascii")))
            message["headers"] = headers
        await self._send(message)

    def bounded(self, gateway: Gateway) -> Receive:
        """``receive`` that ends with PayloadTooLarge beyond the limit."""
        limit, size = gateway.limits.max_body_bytes, 0
        receive = self._context.receive

        async def bounded_receive() -> Message:
            nonlocal size
            message = await receive()
            size += len(message.get("body", b""))
            if size > limit:
                raise body.too_large(limit)
            return message

        return bounded_receive


def failed(context: RequestContext, error: errors.CeleriacError) -> Answer:
    """The answer to a request that failed."""
    return Answer(
        failures.status_of(error), failures.body(error, context.id, context.scope["path"]),
        (JSON, *failures.headers(error)),
    )


def request_id(scope: Scope) -> str:
    """The caller's own, if it is well formed; otherwise a new one."""
    for name, value in scope["headers"]:
        if name == b"x-request-id" and _REQUEST_ID.fullmatch(value):
            return str(value, "ascii")
    return secrets.token_hex(8)
