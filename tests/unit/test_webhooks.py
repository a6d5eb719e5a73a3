"""Webhooks: whom they may go to, how they are signed, when they are tried again."""

from __future__ import annotations

import socket
import ssl
import threading
import time
from collections.abc import Iterator

import pytest

from celeriac import errors, webhooks
from celeriac.webhooks import Target, Undelivered, check_target, delay_s, is_allowed, post

HOSTS = ("hooks.example.org", "other.example.org:8443", "127.0.0.1:9000", "localhost", "[::1]:9000")


@pytest.mark.parametrize(("url", "place", "path"), [
    ("https://hooks.example.org/a?b=c", "hooks.example.org:443", "/a?b=c"),
    ("https://HOOKS.example.org", "hooks.example.org:443", "/"),
    ("https://hooks.example.org:443/", "hooks.example.org:443", "/"),
    ("https://other.example.org:8443/x", "other.example.org:8443", "/x"),
    ("http://127.0.0.1:9000/x", "127.0.0.1:9000", "/x"),
    ("http://localhost/x", "localhost:80", "/x"),
    ("http://[::1]:9000/x", "::1:9000", "/x"),
])  # fmt: skip
def test_listed_hosts(url: str, place: str, path: str) -> None:
    target = check_target(url, HOSTS)
    assert (target.place, target.path) == (place, path)


@pytest.mark.parametrize("url", [
    "https://example.org/", "https://hooks.example.org:8443/", "https://other.example.org/",
    "https://hooks.example.org.evil.net/", "http://hooks.example.org/", "https://localhost:444/",
    "https://user@hooks.example.org/", "https://hooks.example.org/#x", "ftp://localhost/", "",
    "https://hooks.example.org/ x", "https://hooks.example.org/\r\nX: 1", "https:///x", "//x",
    "https://hooks.example.org:99999/", "https://hooks.example.org:x/", "https://[::1/",
    "https://hooks.example.org/" + "x" * 2_048, "https://hooks.éxample.org/",
])  # fmt: skip
def test_all_others_are_refused(url: str) -> None:
    with pytest.raises(errors.RequestError, match="webhook"):
        check_target(url, HOSTS)


def test_no_host_is_listed_by_default() -> None:
    with pytest.raises(errors.RequestError, match="webhook_hosts"):
        check_target("https://hooks.example.org/", ())


@pytest.mark.parametrize(("address", "host", "allowed"), [
    ("93.184.216.34", "hooks.example.org", True), ("10.1.2.3", "hooks.internal", True),
    ("169.254.169.254", "hooks.example.org", False), ("fe80::1%eth0", "hooks.example.org", False),
    ("::ffff:169.254.169.254", "hooks.example.org", False),
    ("127.0.0.1", "hooks.example.org", False), ("127.0.0.1", "localhost", True),
    ("::1", "hooks.example.org", False), ("0.0.0.0", "hooks.example.org", False),
    ("224.0.0.1", "hooks.example.org", False), ("fd00:ec2::254", "hooks.example.org", False),
])  # fmt: skip
def test_where_a_name_may_lead(address: str, host: str, allowed: bool) -> None:
    assert is_allowed(address, host) is allowed


def test_a_name_that_leads_to_the_metadata_address(monkeypatch: pytest.MonkeyPatch) -> None:
    found = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("169.254.169.254", 443))]
    monkeypatch.setattr(webhooks.socket, "getaddrinfo", lambda *_, **__: found)
    target = check_target("https://hooks.example.org/", HOSTS)
    with pytest.raises(Undelivered, match="do not go to"):
        post(target, b"{}", {}, 1)


def test_a_resolver_that_hangs_or_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    go = threading.Event()
    monkeypatch.setattr(webhooks.socket, "getaddrinfo", lambda *_, **__: go.wait(20) and [])
    target = check_target("https://hooks.example.org/", HOSTS)
    began_s = time.monotonic()
    with pytest.raises(Undelivered, match=r"address of hooks\.example\.org was not found in time"):
        post(target, b"{}", {}, 0.2)
    assert time.monotonic() - began_s < 5
    go.set()

    def nobody(*_: object, **__: object) -> None:
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(webhooks.socket, "getaddrinfo", nobody)
    with pytest.raises(Undelivered, match="has no address"):
        post(target, b"{}", {}, 20)


def test_delays_grow_and_end() -> None:
    middle = [delay_s(attempt, 0.5) for attempt in range(1, 11)]
    assert middle == [5, 15, 45, 135, 405, 1_215, 3_600, 3_600, 3_600, None]
    for attempt in range(1, 10):
        low, high = delay_s(attempt, 0.0), delay_s(attempt, 1.0)
        assert low is not None
        assert high is not None
        assert high == pytest.approx(1.5 * low)


class Peer:
    """Accepts one connection after the other and does ``act`` with it."""

    def __init__(self) -> None:
        self.listening = socket.create_server(("127.0.0.1", 0))
        self.said = b""
        self.pause_s = 0.0
        self.is_open = True
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    @property
    def target(self) -> Target:
        port = self.listening.getsockname()[1]
        return check_target(f"http://127.0.0.1:{port}/x", [f"127.0.0.1:{port}"])

    def _run(self) -> None:
        while self.is_open:
            try:
                connection, _ = self.listening.accept()
            except OSError:
                return
            with connection:
                _read_all(connection)
                for byte in self.said:
                    try:
                        connection.sendall(bytes([byte]))
                    except OSError:
                        break
                    time.sleep(self.pause_s)


def _read_all(connection: socket.socket) -> None:
    """What is left unread would reset the connection."""
    connection.settimeout(0.1)
    try:
        while connection.recv(65_536):
            pass
    except TimeoutError:
        connection.settimeout(None)


@pytest.fixture
def peer() -> Iterator[Peer]:
    peer = Peer()
    yield peer
    peer.is_open = False
    peer.listening.shutdown(socket.SHUT_RDWR)
    peer.listening.close()
    peer.thread.join(5)


def test_answers_are_read_within_bounds(peer: Peer) -> None:
    peer.said = b"HTTP/1.1 204 No Content\r\n\r\n"
    assert post(peer.target, b"{}", {"X-A": "b"}, 2) == 204
    for said in (b"", b"SSH-2.0\r\n\r\n", b"HTTP/1.1 200 OK\r\n" + b"A: b\r\n" * 200 + b"\r\n"):
        peer.said = said
        with pytest.raises(Undelivered, match="no answer"):
            post(peer.target, b"{}", {}, 2)


def test_a_name_with_an_address_that_nobody_listens_at(
    peer: Peer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As localhost has, where a receiver is at 127.0.0.1 alone, and ::1 comes first."""
    peer.said, port = b"HTTP/1.1 204 No Content\r\n\r\n", peer.target.port
    found = [("", "", 0, "", (address, port)) for address in ("127.0.0.2", "127.0.0.1")]
    monkeypatch.setattr(webhooks, "_look_up", lambda *_: found)
    target = check_target(f"http://localhost:{port}/x", [f"localhost:{port}"])
    assert post(target, b"{}", {}, 5) == 204


def test_a_receiver_that_sends_a_byte_now_and_then(peer: Peer) -> None:
    peer.said, peer.pause_s = b"HTTP/1.1 200 OK\r\n" + b"A: b\r\n" * 50, 0.05
    started = time.monotonic()
    with pytest.raises(Undelivered):
        post(peer.target, b"{}", {}, 0.5)
    assert time.monotonic() - started < 5  # all of it comes in 16 s


def test_nobody_listens() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    target = check_target(f"http://127.0.0.1:{port}/x", [f"127.0.0.1:{port}"])
    with pytest.raises(Undelivered, match="connection refused"):
        post(target, b"{}", {}, 1)


def test_tls_that_is_not_trusted(peer: Peer) -> None:
    peer.said = b"HTTP/1.1 204 No Content\r\n\r\n"
    port = peer.target.port
    target = check_target(f"https://127.0.0.1:{port}/x", [f"127.0.0.1:{port}"])
    with pytest.raises(Undelivered, match="TLS"):
        post(target, b"{}", {}, 1)


def test_tls_that_is_cut_before_the_next_read(
    peer: Peer, monkeypatch: pytest.MonkeyPatch
) -> None:
    handshake = ssl.SSLSocket.do_handshake

    def cut_before(connection: ssl.SSLSocket) -> None:
        webhooks._cut(connection)
        handshake(connection)

    monkeypatch.setattr(ssl.SSLSocket, "do_handshake", cut_before)
    port = peer.target.port
    target = check_target(f"https://127.0.0.1:{port}/x", [f"127.0.0.1:{port}"])
    with pytest.raises(Undelivered, match="no answer"):
        post(target, b"{}", {}, 5)
