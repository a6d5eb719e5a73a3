"""Answers in one piece say what ASGI's messages would, and are left to those where they must be."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any

import pytest
from uvicorn.server import ServerState

from celeriac.settings import Settings
from producer.gateway.app import build
from producer.gateway.guard import Guard
from producer.gateway.server import uvicorn_server
from producer.gateway.transport import Direct, Protocol
from tests.unit.gateway.wire import PREDICTION, FakeClient, Wire, parsed

BODY = b'{"item": "x"}'


def request(headers: bytes = b"", *, version: bytes = b"1.1", model: bytes = b"reviews") -> bytes:
    return b"POST /v1/models/%s/predict HTTP/%s\r\ncontent-length: %d\r\n%s\r\n%s" % (
        model, version, len(BODY), headers, BODY)


def sent(
    pieces: Iterable[bytes], *, drains: bool = False, wanted: int = 1, cold: Any = None
) -> Wire:
    """What is sent to a caller who sends ``pieces``, and waits for so many answers. ``cold``
    answers in the place of FastAPI."""
    client: Any = FakeClient()
    guard: Guard = build(Settings(), client).public
    guard._cold = cold or guard._cold
    guard.gateway.pulse.is_up = True
    guard.gateway.is_draining = drains
    wire = Wire()

    async def main() -> None:
        config = uvicorn_server(guard, Settings()).config
        config.load()
        state = ServerState()
        state.default_headers = [(b"date", b"today")]
        protocol = Protocol(config, state, {})
        protocol.connection_made(wire)
        for piece in pieces:
            protocol.data_received(piece)
            await asyncio.sleep(0)
        for _ in range(100):
            if wire.sent.count(b"HTTP/1.1 ") >= wanted and not protocol.tasks:
                break
            await asyncio.sleep(0.01)
        wire.was_closed = wire.closed
        protocol.connection_lost(None)

    asyncio.run(main())
    return wire


def test_an_answer_is_one_write_with_all_its_headers() -> None:
    wire = sent([request(b"x-request-id: mine\r\n")])
    (data,) = wire.writes
    status, headers, body = parsed(data)
    assert (status, body) == (200, PREDICTION)
    assert headers == {
        "date": "today", "content-type": "application/json", "x-request-id": "mine",
        "x-model-version": "3", "content-length": headers["content-length"],
    }
    assert not wire.was_closed


def test_it_says_the_same_as_by_messages(monkeypatch: pytest.MonkeyPatch) -> None:
    direct = parsed(b"".join(sent([request(b"x-request-id: mine\r\n")]).writes))
    monkeypatch.setattr(Direct, "respond", lambda *_: False)
    assert parsed(b"".join(sent([request(b"x-request-id: mine\r\n")]).writes)) == direct


def test_what_comes_behind_is_answered_behind() -> None:
    wire = sent([request(model=b"one") + request(model=b"two") + request(model=b"three")], wanted=3)
    assert [parsed(data)[2]["model"] for data in wire.writes] == ["one", "two", "three"]


@pytest.mark.parametrize("at", [20, len(request()) - len(BODY), len(request()) - 3])
def test_a_body_may_come_later(at: int) -> None:
    (data,) = sent([request()[:at], request()[at:]]).writes
    assert parsed(data)[2] == PREDICTION


def test_a_body_that_is_waited_for_is_called_for() -> None:
    wire = sent([request(b"expect: 100-continue\r\n")])
    assert wire.sent.startswith(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\n")


@pytest.mark.parametrize(
    ("data", "drains"),
    [(request(b"connection: close\r\n"), False), (request(version=b"1.0"), False),
     (request(), True)],
)
def test_a_connection_that_ends_is_told_so(data: bytes, drains: bool) -> None:
    wire = sent([data], drains=drains)
    status, headers, body = parsed(wire.sent)
    assert (status, headers["connection"], body) == (200, "close", PREDICTION)
    assert wire.was_closed


@pytest.mark.parametrize("path", [b"/v2", b"/nothing", b"/health/ready", b"/v1/jobs/%20"])
def test_so_it_is_by_all_routes(path: bytes) -> None:
    """Or a connection that is kept is cut while its next request is on the way."""
    wire = sent([b"GET %s HTTP/1.1\r\n\r\n" % path], drains=True)
    assert parsed(wire.sent)[1]["connection"] == "close"
    assert wire.was_closed


@pytest.mark.parametrize(("version", "said", "body"), [
    (b"1.0", b"connection: close", b"one two"),
    (b"1.1", b"transfer-encoding: chunked", b"4\r\none \r\n3\r\ntwo\r\n0\r\n\r\n"),
])  # fmt: skip
def test_an_answer_without_a_length_ends_with_its_connection_where_there_are_no_chunks(
    version: bytes, said: bytes, body: bytes
) -> None:
    async def stream(_scope: Any, _receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"one ", "more_body": True})
        await send({"type": "http.response.body", "body": b"two"})

    wire = sent([b"GET /v2 HTTP/%s\r\n\r\n" % version], cold=stream)
    head, _, found = wire.sent.partition(b"\r\n\r\n")
    assert found == body
    assert [name.partition(b":")[0] for name in head.split(b"\r\n")[1:]] == [
        b"date", b"x-request-id", said.partition(b":")[0]]
    assert said in head
    assert wire.was_closed == (version == b"1.0")
