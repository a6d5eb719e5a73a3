"""Connections: heads, bodies and protocols that are not as they should be."""

from __future__ import annotations

import json
import socket
import time
from base64 import b64decode
from collections.abc import Iterator

import pytest

from producer.gateway import transport
from tests.integration.gateway.conftest import Http, RunningGateway

ECHO = b"POST /v1/models/echo/predict HTTP/1.1\r\nHost: localhost\r\n"


@pytest.fixture
def connection(http_client: Http) -> Iterator[socket.socket]:
    with socket.create_connection(("127.0.0.1", http_client.port), timeout=10) as opened:
        yield opened


def read(connection: socket.socket) -> tuple[int, dict[str, str], bytes]:
    """One answer: status, headers by lower-case name, body."""
    data = b""
    while b"\r\n\r\n" not in data:
        data += connection.recv(65_536) or pytest.fail(f"closed after {data!r}")
    head, _, body = data.partition(b"\r\n\r\n")
    first, *lines = head.decode().split("\r\n")
    headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}
    while len(body) < int(headers["content-length"]):
        body += connection.recv(65_536) or pytest.fail("closed within the body")
    return int(first.split()[1]), headers, body


def is_closed(connection: socket.socket) -> bool:
    try:
        return connection.recv(1) == b""
    except ConnectionResetError:
        return True


@pytest.mark.parametrize("path", [
    "/health/live", "/health/ready", "/v2/health/ready", "/v2", "/docs", "/openapi.json",
    "/v1/models", "/v1/models/reviews", "/v1/jobs/none", "/v1/predictions/none", "/nothing",
])  # fmt: skip
def test_every_get_has_its_head(http_client: Http, connection: socket.socket, path: str) -> None:
    expected = http_client.get(path)
    for _ in range(2):  # a body would be taken for the answer to the second
        connection.sendall(b"HEAD %s HTTP/1.1\r\nHost: localhost\r\n\r\n" % path.encode())
        data = b""
        while not data.endswith(b"\r\n\r\n"):
            data += connection.recv(65_536) or pytest.fail(f"closed after {data!r}")
        head = data.decode().lower()
        assert head.startswith(f"http/1.1 {expected.status} ")
        assert f"content-length: {expected.headers['content-length']}\r\n" in head
        assert f"content-type: {expected.headers['content-type']}\r\n" in head


def test_a_head_without_end_is_refused(connection: socket.socket) -> None:
    with pytest.raises(OSError):  # noqa: PT012 - the server closes it on the way
        connection.sendall(b"GET /health/live HTTP/1.1\r\n")
        for number in range(2_000):
            connection.sendall(b"X-%d: %s\r\n" % (number, b"z" * 10_000))


def test_a_long_head_is_told_so(connection: socket.socket) -> None:
    connection.sendall(b"GET /v2/models/echo HTTP/1.1\r\nX: ")
    for _ in range(9):
        time.sleep(0.01)
        connection.sendall(b"z" * 8_000)
    status, headers, body = read(connection)
    assert status == 431
    assert headers["connection"] == "close"
    assert json.loads(body) == {"error": "The request line and its headers are too long."}
    assert is_closed(connection)


def test_a_head_in_pieces_is_read(connection: socket.socket) -> None:
    for number in (1, 2):
        for piece in (ECHO[:10], ECHO[10:40], ECHO[40:] + b"Content-Le", b"ngth: 10\r\n\r\n{", b""):
            connection.sendall(piece)
            time.sleep(0.01)
        connection.sendall(b'"item":%d}' % number)
        assert json.loads(read(connection)[2])["value"] == number


def test_a_head_that_does_not_come_ends_the_connection(
    connection: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transport, "HEAD_S", 0.3)
    connection.sendall(b"GET /health/live HTTP/1.1\r\nX: ")
    time.sleep(0.1)
    connection.sendall(b"y")  # a byte now and then does not keep it open
    status, _, body = read(connection)
    assert (status, json.loads(body)["error"]["code"]) == (408, "request_timeout")
    assert is_closed(connection)


def test_the_rest_of_a_refused_body_is_not_waited_for(
    connection: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transport, "LINGER_S", 0.3)
    connection.sendall(ECHO + b"Content-Length: 900000000\r\n\r\n{")
    assert read(connection)[0] == 413
    with pytest.raises(OSError):  # noqa: PT012 - as above
        for _ in range(200):
            connection.sendall(b"x")
            time.sleep(0.02)


@pytest.mark.parametrize("pieces", [1, 51], ids=["in one piece", "in many"])
def test_trailers_are_forgotten(
    connection: socket.socket, gateway: RunningGateway, pieces: int
) -> None:
    lines = [
        ECHO + b'Transfer-Encoding: chunked\r\n\r\na\r\n{"item":1}\r\n0\r\nX-Request-Id: evil\r\n',
        *(b"X-%d: y\r\n" % number for number in range(50)),
    ]
    for piece in lines if pieces > 1 else [b"".join(lines)]:
        connection.sendall(piece)
    connection.sendall(b"\r\n")
    status, headers, _ = read(connection)
    assert status == 200
    assert headers["x-request-id"] != "evil"
    connection.sendall(ECHO + b'X-Request-Id: mine\r\nContent-Length: 10\r\n\r\n{"item":2}')
    assert read(connection)[1]["x-request-id"] == "mine"


@pytest.mark.parametrize("coding", [
    b"gzip, chunked", b"gzip\r\nTransfer-Encoding: chunked", b"identity, chunked",
])  # fmt: skip
def test_a_body_in_a_coding_that_is_not_undone_is_refused(
    connection: socket.socket, coding: bytes
) -> None:
    body = b'b\r\n{"item": 1}\r\n0\r\n\r\n'
    connection.sendall(ECHO + b"Transfer-Encoding: %s\r\n\r\n" % coding + body)
    status, _, answer = read(connection)
    assert (status, json.loads(answer)["error"]["code"]) == (415, "unsupported_body")
    connection.sendall(ECHO + b"Transfer-Encoding: Chunked\r\n\r\n" + body)
    assert read(connection)[0] == 200


@pytest.mark.parametrize("prefer", [
    b"Prefer: respond-async\r\nPrefer: wait=1\r\n", b"prefer: Respond-Async\r\n",
])  # fmt: skip
def test_preferences_in_several_lines_and_in_any_case_are_heard(
    connection: socket.socket, prefer: bytes
) -> None:
    connection.sendall(ECHO + prefer + b'Content-Length: 10\r\n\r\n{"item":1}')
    assert read(connection)[0] == 202


@pytest.mark.parametrize("offer", [
    b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAEAAEAAAAIA\r\n",
    b"connection: upgrade\r\nupgrade: websocket\r\n",
])  # fmt: skip
def test_an_offer_of_another_protocol_costs_no_body(
    connection: socket.socket, offer: bytes
) -> None:
    for number in (1, 2):
        connection.sendall(ECHO + offer + b'Content-Length: 10\r\n\r\n{"item":%d}' % number)
        status, _, body = read(connection)
        assert (status, json.loads(body)["value"]) == (200, number)


def test_a_body_that_looks_like_a_head_stays_as_it_is(connection: socket.socket) -> None:
    text = "\r\nUpgrade: h2c\r\n\r\nupgrade: x"
    body = json.dumps({"item": text}).encode()
    raw = body.replace(b"\\r\\n", b"\r\n")  # not JSON, and not to be changed
    connection.sendall(ECHO + b"Content-Length: %d\r\n\r\n" % len(body))
    time.sleep(0.05)
    connection.sendall(body)
    assert json.loads(read(connection)[2])["value"] == text
    connection.sendall(ECHO + b"Content-Type: image/png\r\nContent-Length: %d\r\n\r\n" % len(raw))
    time.sleep(0.05)
    connection.sendall(raw)
    wrapped = json.loads(read(connection)[2])["value"]["$bytes"]
    assert b64decode(wrapped) == raw


@pytest.mark.parametrize("data", [
    b"GET /health/live HTTP/3.0\r\n\r\n", b"\x16\x03\x01" + bytes(100), b"FOO / HTTP/1.1\r\n\r\n",
    b"GET / HTTP/1.1\r\nno colon\r\n\r\n", b"GET /\xff HTTP/1.1\r\n\r\n",
    b"GET / HTTP/1.1\r\nX: a\rb\r\n\r\n", b"GET / HTTP/1.1\r\nX: \x00\r\n\r\n",
    ECHO + b"Content-Length: -1\r\n\r\n", ECHO + b"Content-Length: " + b"9" * 5_000 + b"\r\n\r\n",
    ECHO + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\n{}",
    ECHO + b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n{}",
    ECHO + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n",
])  # fmt: skip
def test_what_is_no_http_gets_our_error(connection: socket.socket, data: bytes) -> None:
    connection.sendall(data)
    status, headers, body = read(connection)
    assert (status, headers["content-type"]) == (400, "application/json")
    error = json.loads(body)["error"]
    assert error["code"] == "request_invalid"
    assert error["request_id"] == headers["x-request-id"]
    assert is_closed(connection)
