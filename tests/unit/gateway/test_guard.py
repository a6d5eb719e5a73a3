"""The outermost layer, without a server."""

from __future__ import annotations

import asyncio
import gc
import json
from typing import Any

import pytest

from celeriac import errors
from celeriac.messages import Prediction
from celeriac.settings import Settings
from producer.calls import Call
from producer.gateway import guard, moderation
from producer.gateway.app import build


class FakeClient:
    async def call(self, model: str, item: Any, timeout_s: float, request: str) -> Call:
        call = Call(model, "queue", b"", 0, request)
        call.outcome = Prediction(model=model, version=3, label="good", probability=0.75)
        return call

    async def job_statuses(self, ids: Any) -> list[Any]:
        return []


async def ask(app: Any, body: bytes, path: str = "/classify") -> list[dict[str, Any]]:
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    scope = {"type": "http", "method": "POST", "path": path, "query_string": b"",
             "headers": []}
    await app(scope, receive, send)
    return sent


def test_a_request_leaves_nothing_for_the_garbage_collector() -> None:
    client: Any = FakeClient()
    app = build(Settings(), client).public
    app.gateway.pulse.is_up = True

    async def garbage() -> int:
        gc.collect()
        gc.disable()
        try:
            for body in (b'{"text": "x"}', b'{"text": 1}', b""):
                start, _ = await ask(app, body)
                assert start["status"] in (200, 400)
            app._access.flush()
            return gc.collect()
        finally:
            gc.enable()

    async def main() -> int:
        await ask(app, b'{"text": "x"}')
        # What requests leave they leave each time; a thread of another test's may leave some once.
        return min([await garbage() for _ in range(3)])

    assert asyncio.run(main()) == 0


def test_what_a_caller_is_not_told_is_in_the_log(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a policy whose version was used with other content, say: it names a folder."""
    said: list[dict[str, Any]] = []
    monkeypatch.setattr(guard.log, "error", lambda _, **named: said.append(named))

    class Moderator:
        async def moderate_many(self, *_: Any, **__: Any) -> Any:
            raise errors.Conflict("the policy house@1 has been used, see 1.json of /srv/policies")

    monkeypatch.setattr(moderation, "moderator_of", lambda _: Moderator())
    client: Any = FakeClient()
    app = build(Settings(), client).public
    app.gateway.pulse.is_up = True
    start, body = asyncio.run(ask(app, b'{"text": "x"}', "/v1/moderation"))
    error = json.loads(body["body"])["error"]
    assert (start["status"], error["code"]) == (500, "config_invalid")
    assert "/srv" not in error["message"]
    (line,) = said
    assert "see 1.json of /srv/policies" in line["problem"]
    assert line["request"] == error["request_id"]


def test_why_redis_refuses_is_in_the_log(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[dict[str, Any]] = []
    monkeypatch.setattr(guard.log, "error", lambda _, **named: said.append(named))

    class Refused(FakeClient):
        async def call(self, *_: Any, **__: Any) -> Call:
            raise errors.BrokerError("Redis at redis://shop:***@h:1/0 refuses this (no permission)")

    client: Any = Refused()
    app = build(Settings(), client).public
    for app.gateway.pulse.is_up in (True, False):  # the pulse itself tells why Redis is not there
        start, body = asyncio.run(ask(app, b'{"text": "x"}'))
        assert start["status"] == 503
        assert b"shop" not in body["body"]
    (line,) = said
    assert "no permission" in line["problem"]


def test_a_process_that_ends_at_once_tells_no_failure() -> None:
    client: Any = FakeClient()
    app = build(Settings(), client).public

    async def live() -> None:
        async def send(_: Any) -> None: ...

        task = asyncio.ensure_future(app({"type": "lifespan"}, asyncio.Event().wait, send))  # type: ignore[arg-type]
        await asyncio.sleep(0)
        task.cancel()
        await task

    asyncio.run(live())
