"""Requests that are refused by their head: what is sent, and what goes on to the application."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from celeriac.registry.manifest import OutputSchema
from celeriac.settings import Settings
from producer.gateway import access, disconnects, metrics
from producer.gateway.app import build
from producer.gateway.guard import Guard
from producer.gateway.pressure import Gate
from producer.gateway.server import uvicorn_server
from producer.gateway.transport import Protocol
from tests.unit.gateway.wire import PREDICTION, FakeClient, Wire, parsed

PATH = b"/v1/models/busy/predict"
BODY = b'{"item": 1}'


def request(path: bytes = PATH, headers: bytes = b"", body: bytes = BODY, *,
            method: bytes = b"POST", version: bytes = b"1.1") -> bytes:
    return b"%s %s HTTP/%s\r\ncontent-length: %d\r\n%s\r\n%s" % (
        method, path, version, len(body), headers, body)


def talk(play: Callable[[Guard, Protocol, Wire], Any], paths: tuple[bytes, ...] = (PATH,)) -> None:
    """Have ``play`` use a connection to a gateway in which the model "busy" has too much to do."""
    client: Any = FakeClient()
    guard = build(Settings(), client).public
    guard.gateway.pulse.is_up = True

    async def main() -> None:
        config = uvicorn_server(guard, Settings()).config
        config.load()
        protocol = Protocol(config, _state(), {})
        wire = Wire()
        protocol.connection_made(wire)
        for path in paths:
            gate = guard.gateway.pressure.enter(
                "busy", time.monotonic(), path, "/v1/models/{model}/predict",
            )
        gate.is_shut, gate.inside = True, 1_000
        await play(guard, protocol, wire)
        protocol.connection_lost(None)
        guard._access.flush()

    asyncio.run(main())


def _state() -> Any:
    from uvicorn.server import ServerState

    return ServerState()


def test_what_is_one_too_many_is_refused_by_its_head() -> None:
    async def play(guard: Guard, protocol: Protocol, wire: Wire) -> None:
        before = metrics.REFUSED.labels("overloaded")._value.get()
        for _ in range(3):
            wire.writes.clear()
            protocol.data_received(request())
            status, headers, body = parsed(wire.sent)
            assert (status, headers["retry-after"]) == (429, "1")
            assert body["error"]["code"] == "overloaded"
            assert body["error"]["request_id"] == headers["x-request-id"]
            assert len(headers["x-request-id"]) == 16
        assert not protocol.tasks
        assert not wire.closed
        guard._access.flush()
        assert metrics.REFUSED.labels("overloaded")._value.get() == before + 3

    talk(play)


def test_it_has_the_form_of_the_protocol_and_the_callers_id() -> None:
    path = b"/v2/models/busy/infer"

    async def play(guard: Guard, protocol: Protocol, wire: Wire) -> None:
        protocol.data_received(request(path, b"X-Request-Id: mine\r\n"))
        status, headers, body = parsed(wire.sent)
        assert (status, headers["x-request-id"]) == (429, "mine")
        assert list(body) == ["error"]
        assert "busy" not in wire.sent.decode()  # nobody has looked at the key

    talk(play, (PATH, path))


@pytest.mark.parametrize("other", [
    request(headers=b"prefer: respond-async\r\n"), request(PATH + b"?x=1"), request(method=b"GET"),
    request(version=b"1.0"), request(headers=b"connection: close\r\n"),
    request(headers=b"expect: 100-continue\r\n"), request(b"/v1/models/other/predict"),
])
def test_whatever_needs_more_than_that_goes_on(other: bytes) -> None:
    async def play(guard: Guard, protocol: Protocol, wire: Wire) -> None:
        protocol.data_received(other)
        gate = guard.gateway.pressure._gates["busy"]
        assert not wire.sent
        assert protocol.tasks
        assert not gate._refused
        assert not gate.coming
        await asyncio.wait(protocol.tasks)

    talk(play)


def test_answers_that_nobody_takes_are_not_piled_up() -> None:
    async def play(guard: Guard, protocol: Protocol, wire: Wire) -> None:
        protocol.pause_writing()
        protocol.data_received(request() * 100)
        await asyncio.sleep(0.01)
        assert not wire.sent
        assert len(protocol.tasks) == 1
        protocol.resume_writing()
        while protocol.tasks:
            await asyncio.wait(protocol.tasks)
        assert wire.sent.count(b"HTTP/1.1 429") == 100

    talk(play)


def test_a_path_that_leads_to_many_models_is_not_shut_with_one_of_them(
    monkeypatch: pytest.MonkeyPatch
) -> None:
    """The body names the model: another one may have room."""
    output = OutputSchema(kind="classifier", labels=("good", "bad"), probabilities=True)

    async def version(*_: Any) -> Any:
        return SimpleNamespace(version=PREDICTION["version"], output=output)

    monkeypatch.setattr(FakeClient, "version", version, raising=False)

    async def play(guard: Guard, protocol: Protocol, wire: Wire) -> None:
        gate = guard.gateway.pressure._gates["busy"]
        gate.is_shut = False
        for model, status in ((b"busy", b"200"), (b"other", b"200"), (b"busy", b"429")):
            wire.writes.clear()
            body = b'{"review": "x", "model": "%s"}' % model
            protocol.data_received(request(b"/v1/reviews/sentiment", body=body))
            await asyncio.wait(protocol.tasks)
            assert wire.sent.startswith(b"HTTP/1.1 " + status), (model, wire.sent)
            gate.is_shut = True

    talk(play)


def test_what_follows_an_answer_gets_no_second_one() -> None:
    async def play(guard: Guard, protocol: Protocol, wire: Wire) -> None:
        guard.gateway.pressure._gates["busy"].is_shut = False
        head = b"POST %s HTTP/1.1\r\ncontent-encoding: gzip\r\ntransfer-encoding: chunked\r\n\r\n"
        protocol.data_received(head % PATH + b"1\r\nx\r\n")
        await asyncio.wait(protocol.tasks)
        assert wire.sent.startswith(b"HTTP/1.1 415")
        protocol.data_received(b"this is no chunk")
        await asyncio.sleep(0)
        assert wire.sent.count(b"HTTP/1.1 ") == 1
        assert wire.closed

    talk(play)


def test_who_goes_away_is_missed_also_if_a_request_has_come_behind(
    monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(disconnects, "WATCH_AFTER_S", 0.0)
    monkeypatch.setattr(disconnects, "LOOK_S", 0.01)
    heard = asyncio.Event()

    async def forever(*_: Any) -> None:
        heard.set()
        await asyncio.Event().wait()

    monkeypatch.setattr(FakeClient, "call", forever)

    async def play(guard: Guard, protocol: Protocol, wire: Wire) -> None:
        guard.gateway.pressure._gates["busy"].is_shut = False
        protocol.data_received(request() + request())
        (task,) = protocol.tasks
        await heard.wait()
        protocol.connection_lost(None)
        await asyncio.wait([task], timeout=5)
        assert task.done()
        assert not wire.sent

    talk(play)


@pytest.mark.parametrize("closes", [False, True])
def test_who_takes_nothing_of_an_answer_holds_no_place_for_good(closes: bool) -> None:
    async def play(guard: Guard, protocol: Protocol, wire: Wire) -> None:
        assert protocol._stall_timer is None
        wire.unsent = 100_000
        if closes:
            protocol.transport.close()
        else:
            protocol.pause_writing()
            protocol.resume_writing()
            assert protocol._stall_timer is None
            protocol.pause_writing()
        first = protocol._stall_timer
        assert first is not None
        wire.unsent = 90_000
        protocol._abort_unless_read(100_000)  # slow, but there
        assert not wire.was_aborted
        assert protocol._stall_timer is not first
        protocol._abort_unless_read(90_000)
        assert wire.was_aborted

    talk(play)


OFFER = b"Connection: Upgrade\r\nUpgrade: h2c\r\n"


def test_the_body_after_an_offer_that_was_not_seen_is_no_request() -> None:
    async def play(guard: Guard, protocol: Protocol, wire: Wire) -> None:
        protocol.data_received(request(headers=OFFER.replace(b"Upgrade:", b"uPGrade:")))
        for _ in range(2):
            protocol.data_received(request(b"/v1/models/other/predict"))
        await asyncio.wait(protocol.tasks)
        assert wire.sent.count(b"HTTP/1.1 ") == 1
        assert b"connection: close" in wire.sent
        assert wire.closed

    talk(play)


def test_an_offer_costs_no_body_wherever_its_head_is_cut() -> None:
    whole = request(headers=OFFER)

    async def play(guard: Guard, protocol: Protocol, wire: Wire) -> None:
        guard.gateway.pressure._gates["busy"].is_shut = False
        for cut in range(1, len(whole)):
            protocol.data_received(whole[:cut])
            protocol.data_received(whole[cut:])
            await asyncio.wait(protocol.tasks)
            assert wire.sent.startswith(b"HTTP/1.1 200"), whole[:cut]
            wire.writes.clear()
        for byte in whole:
            protocol.data_received(bytes([byte]))
        await asyncio.wait(protocol.tasks)
        assert wire.sent.startswith(b"HTTP/1.1 200")
        assert not wire.closed

    talk(play)


@pytest.mark.parametrize("offer", [OFFER, OFFER.upper()])
def test_an_offer_costs_no_body_after_a_request_that_was_answered_before_its_body(
    offer: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("producer.gateway.transport.LINGER_S", 0.05)

    async def play(guard: Guard, protocol: Protocol, wire: Wire) -> None:
        whole = request(headers=b"content-encoding: gzip\r\n")
        guard.gateway.pressure._gates["busy"].is_shut = False
        protocol.data_received(whole[:-5])
        await asyncio.wait(protocol.tasks)
        assert wire.sent.startswith(b"HTTP/1.1 415")
        protocol.data_received(whole[-5:])
        await asyncio.sleep(0.1)
        assert not wire.closed
        wire.writes.clear()
        head, _, sent_body = request(headers=offer).rpartition(b"\r\n\r\n")
        protocol.data_received(head + b"\r\n\r\n")
        protocol.data_received(sent_body)
        await asyncio.wait(protocol.tasks)
        assert wire.sent.startswith(b"HTTP/1.1 200")
        assert not wire.closed

    talk(play)


def test_heads_that_end_in_the_packet_of_the_next_are_heads_of_their_own() -> None:
    async def play(guard: Guard, protocol: Protocol, wire: Wire) -> None:
        whole = request(headers=b"x: %s\r\n" % (b"y" * 10_000))
        protocol.data_received(whole[:50])
        first = protocol._head_timer
        for _ in range(10):
            protocol.data_received(whole[50:] + whole[:50])
        assert protocol._head_timer is not first
        assert wire.sent.count(b"HTTP/1.1 429") == wire.sent.count(b"HTTP/1.1 ") == 10
        assert not wire.closed

    talk(play)


def test_the_time_in_which_a_body_comes_is_no_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    async def play(guard: Guard, protocol: Protocol, wire: Wire) -> None:
        gate = guard.gateway.pressure._gates["busy"]
        gate.is_shut = False
        waited: list[float] = []
        reply = SimpleNamespace(queue_ms=0.0, compute_ms=1.0, batch_items=1)
        monkeypatch.setattr(FakeClient, "reply", reply)
        monkeypatch.setattr(Gate, "answered", lambda _, seconds, *__: waited.append(seconds))
        whole = request()
        protocol.data_received(whole[:-5])
        await asyncio.sleep(0.3)
        protocol.data_received(whole[-5:])
        await asyncio.wait(protocol.tasks)
        assert wire.sent.startswith(b"HTTP/1.1 200")
        assert waited[0] < 0.2

    talk(play)


def test_refusals_of_a_second_are_told_once(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[Any] = []
    monkeypatch.setattr(access.log, "info", lambda *_, **named: told.append(named))

    async def play(guard: Guard, protocol: Protocol, wire: Wire) -> None:
        for _ in range(3):
            protocol.data_received(request())
            protocol.data_received(request(method=b"GET"))
            await asyncio.wait(protocol.tasks)
            await asyncio.sleep(2 * access.FLUSH_S)
        assert not told
        guard._access.flush()
        assert [line["requests"] for line in told] == [3]

    talk(play)


def test_those_that_come_together_are_counted_before_their_handlers_run() -> None:
    async def play(guard: Guard, protocol: Protocol, wire: Wire) -> None:
        gate = guard.gateway.pressure._gates["busy"]
        gate.inside = gate._room - 2
        door = guard.door
        way = door.way(PATH)
        assert way is not None
        assert [door.refusal(way, PATH, []) is None for _ in range(4)] == [True, True, False, False]
        await asyncio.sleep(0)
        assert gate.coming == 0

    talk(play)


def test_a_body_in_pieces_is_forgotten_and_the_connection_goes_on() -> None:
    async def play(guard: Guard, protocol: Protocol, wire: Wire) -> None:
        whole = request()
        protocol.data_received(whole[:-5])
        first = wire.sent
        assert parsed(first)[0] == 429
        protocol.data_received(whole[-5:])
        assert wire.sent == first
        protocol.data_received(request() + request())  # two at once
        assert wire.sent.count(b"HTTP/1.1 429") == 3
        gate = guard.gateway.pressure._gates["busy"]
        gate.is_shut = False
        wire.writes.clear()
        protocol.data_received(request())
        await asyncio.wait(protocol.tasks)
        assert wire.sent.startswith(b"HTTP/1.1 200")

    talk(play)


def test_a_body_that_never_ends_ends_the_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("producer.gateway.transport.LINGER_S", 0.01)

    async def play(guard: Guard, protocol: Protocol, wire: Wire) -> None:
        protocol.data_received(request()[:-5])
        await asyncio.sleep(0.05)
        assert wire.closed

    talk(play)


def test_an_idle_connection_is_closed() -> None:
    async def play(guard: Guard, protocol: Protocol, wire: Wire) -> None:
        protocol.timeout_keep_alive = 0.05  # type: ignore[assignment]
        protocol._close_if_idle()
        protocol.data_received(request())
        assert not wire.closed
        await asyncio.sleep(0.02)
        protocol._close_if_idle()
        assert not wire.closed
        await asyncio.sleep(0.15)
        assert wire.closed

    talk(play)


def test_a_gateway_that_drains_leaves_it_to_the_application() -> None:
    async def play(guard: Guard, protocol: Protocol, wire: Wire) -> None:
        guard.gateway.is_draining = True
        protocol.data_received(request())
        await asyncio.wait(protocol.tasks)
        assert b"connection: close" in wire.sent

    talk(play)
