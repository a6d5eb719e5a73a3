"""Alerts: what is sent, how it is signed, and that no receiver can hold a sender up."""

from __future__ import annotations

import json
import socket
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from msgspec import structs

from celeriac.alerts import Alert, AlertKind, encode
from celeriac.settings import AlertSettings
from celeriac.webhooks import sign
from tasks import alerts

ALERT = Alert(
    kind=AlertKind.FAILED, schedule="reviews", entry="dataset", date="2026-11-21", attempt=1,
    reason="no such file", next="celeriac nightly run reviews", at="2026-11-22T02:00:00+00:00",
)
BODY = encode(ALERT)


class Receiver(ThreadingHTTPServer):
    """A webhook that answers as it is told."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.statuses: list[int] = []
        self.got: list[tuple[dict[str, str], bytes]] = []
        self.url = f"http://127.0.0.1:{self.server_address[1]}/hook"


class _Handler(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        receiver: Any = self.server
        body = self.rfile.read(int(self.headers["Content-Length"]))
        receiver.got.append((dict(self.headers), body))
        status = receiver.statuses.pop(0) if receiver.statuses else 204
        self.send_response(status)
        if status in (301, 302, 307):
            self.send_header("Location", receiver.url)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    server = Receiver()
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def test_what_a_receiver_gets(receiver: Receiver) -> None:
    settings = AlertSettings(webhook=receiver.url, secret="key")
    assert alerts.call_webhook(settings, BODY) == ("", False)
    [(headers, body)] = receiver.got
    assert json.loads(body) == {
        "id": ALERT.id, "v": 1, "kind": "failed", "schedule": "reviews", "entry": "dataset",
        "date": "2026-11-21", "attempt": 1, "job_id": "", "reason": "no such file",
        "next": "celeriac nightly run reviews", "at": "2026-11-22T02:00:00+00:00",
    }
    stamp = headers["X-Celeriac-Signature"].partition(",")[0].removeprefix("t=")
    assert headers["X-Celeriac-Signature"] == sign(body, "key", int(stamp))
    assert abs(int(stamp) - time.time()) < 60
    again = structs.replace(ALERT, reason="another word for it", at="2026-11-22T02:00:15+00:00")
    other = structs.replace(ALERT, attempt=2)
    assert (again.id == ALERT.id, other.id == ALERT.id) == (True, False)
    assert headers["Content-Type"] == "application/json"


@pytest.mark.parametrize(
    ("status", "again"), [(500, True), (503, True), (429, True), (404, False), (302, False)]
)
def test_a_receiver_that_fails(receiver: Receiver, status: int, again: bool) -> None:
    receiver.statuses = [status]
    found = alerts.call_webhook(AlertSettings(webhook=receiver.url), BODY)
    assert found == (f"it answered {status}", again)
    assert len(receiver.got) == 1
    assert "X-Celeriac-Signature" not in receiver.got[0][0]


def test_a_receiver_that_hangs_or_is_not_there() -> None:
    with socket.create_server(("127.0.0.1", 0)) as hanging:
        port = hanging.getsockname()[1]
        settings = AlertSettings(webhook=f"http://127.0.0.1:{port}", timeout_s=0.2)
        started = time.monotonic()
        problem, again = alerts.call_webhook(settings, BODY)
        assert problem.startswith("it does not answer: ")
        assert problem.endswith("it took too long")
        assert again
        assert time.monotonic() - started < 5
    problem, again = alerts.call_webhook(settings, BODY)
    assert "does not answer" in problem
    assert again


def test_a_command_gets_the_alert(tmp_path: Path) -> None:
    code = "import sys; open(sys.argv[1], 'wb').write(sys.stdin.buffer.read())"
    target = tmp_path / "a file"
    settings = AlertSettings(command=[sys.executable, "-c", code, str(target)])
    assert alerts.run_command(settings, BODY) == ""
    assert target.read_bytes() == BODY


def test_a_command_that_fails(tmp_path: Path) -> None:
    def outcome(*command: str, timeout_s: float = 20) -> str:
        settings = AlertSettings(command=list(command), timeout_s=timeout_s)
        return alerts.run_command(settings, BODY)

    missing = "/no/such/program"
    assert outcome(missing) == f"{missing} cannot be started: No such file or directory"
    assert outcome("sh", "-c", "exec <&-; exit 3") == "it ended with exit code 3"
    left = tmp_path / "left"
    started = time.monotonic()
    hangs = outcome("sh", "-c", f"(sleep 2; touch {left}) & sleep 60", timeout_s=0.3)
    assert hangs == "it ran longer than 0.3 s and was killed"
    assert time.monotonic() - started < 10
    time.sleep(2.2)
    assert not left.exists()  # what it had started is gone, too
