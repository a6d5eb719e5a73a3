"""What an operator sees: metrics, log lines on both sides, keys, drain, restarts."""

from __future__ import annotations

import http.client
import json
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from celeriac.settings import GatewaySettings, Settings
from tests.conftest import ROOT, Worker
from tests.integration.gateway.conftest import Http, RunningGateway
from tests.integration.gateway.process import GatewayProcess
from tests.waiting import wait_until

pytestmark = pytest.mark.uncounted

CELERIAC = str(Path(sys.executable).with_name("celeriac"))
ECHO = "/v1/models/echo/predict"


Start = Callable[..., GatewayProcess]


@pytest.fixture
def start_process(
    gateway_settings: Settings, gateway_worker: Worker, tmp_path: Path
) -> Iterator[Start]:
    started: list[GatewayProcess] = []

    def start(**changes: Any) -> GatewayProcess:
        merged = gateway_settings.gateway.model_dump() | changes
        chosen = gateway_settings.model_copy(
            update={"gateway": GatewaySettings.model_validate(merged)}
        )
        started.append(GatewayProcess(chosen, tmp_path, f"gateway-{len(started)}"))
        return started[-1].wait_ready()

    yield start
    for process in started:
        process.stop()


def test_what_is_counted(gateway: RunningGateway) -> None:
    def count(status: int) -> float:
        text = gateway.admin.get("/metrics").body.decode()
        name = "celeriac_gateway_requests_total"
        labels = f'method="POST",route="/v1/models/{{model}}/predict",status="{status}"'
        found = re.search(re.escape(f"{name}{{{labels}}}") + r" ([\d.e+]+)", text)
        return float(found[1]) if found else 0.0

    before = count(200), count(404)
    gateway.http.post(ECHO, {"item": 1})
    gateway.http.post("/v1/models/nobody/predict", {"item": 1})
    assert (count(200), count(404)) == (before[0] + 1, before[1] + 1)

    def text() -> str:
        return gateway.admin.get("/metrics").body.decode()

    assert "celeriac_gateway_broker_up 1.0" in text()
    # How many depends on which gateway of this process was made last.
    assert "celeriac_gateway_requests_in_flight " in text()
    assert 'celeriac_gateway_request_seconds_count{route="/v1/models/{model}/predict"}' in text()


def under_way(process: GatewayProcess) -> float:
    """Requests without that which asks."""
    text = process.admin.get("/metrics").body.decode()
    found = re.search(r"^celeriac_gateway_requests_in_flight ([\d.e+]+)$", text, re.MULTILINE)
    assert found is not None
    return float(found[1]) - 1


def test_requests_under_way_are_counted(start_process: Start) -> None:
    process = start_process(access_log=False)
    assert under_way(process) == 0
    head = b"POST /v1/models/echo/predict HTTP/1.1\r\nHost: localhost\r\n"
    head += b"Content-Length: 100\r\nX-Request-Timeout-Ms: 60000\r\n\r\n"
    waiting = [
        socket.create_connection(("127.0.0.1", process.http.port)) for _ in range(3)
    ]
    for connection in waiting:
        connection.sendall(head)
    wait_until(lambda: under_way(process) == 3)
    for connection in waiting:
        connection.close()
    wait_until(lambda: under_way(process) == 0, timeout_s=30)  # before their minute is over


def test_a_method_that_a_hot_path_does_not_take_has_its_route_in_log_and_metrics(
    start_process: Start,
) -> None:
    process = start_process(access_log=True)
    for path in ("/v1/models/echo/predict", "/v2/models/echo/infer", "/classify"):
        answer = process.http.get(path)
        assert (answer.status, answer.headers["allow"]) == (405, "POST")
    assert process.http("PUT", "/v1/models", b"").status == 405
    text = process.admin.get("/metrics").body.decode()
    for method, route in (
        ("GET", "/v1/models/{model}/predict"), ("GET", "/classify"),
        ("GET", "/v2/models/{model}[/versions/{version}]/infer"), ("PUT", "/v1/models"),
    ):
        labels = f'method="{method}",route="{route}",status="405"'
        assert f"celeriac_gateway_requests_total{{{labels}}} 1.0" in text
        assert f"method={method} route={route} status=405" in process.text


def test_a_request_has_one_id_in_both_logs(
    start_process: Start, gateway_worker: Worker
) -> None:
    process = start_process(access_log=True)
    process.http.post("/v1/models/reviews/predict", {"item": 7}, X_Request_Id="find-me-1")
    process.http.post("/classify", {"text": "secret text"}, X_Request_Id="find-me-2")
    deadline = time.monotonic() + 10
    while "find-me-2" not in process.text or "find-me-1" not in gateway_worker.log.read_text():
        assert time.monotonic() < deadline, process.text
        time.sleep(0.05)
    line = next(line for line in process.text.splitlines() if "find-me-1" in line)
    assert "route=/v1/models/{model}/predict status=422" in line
    assert "code=item_invalid model=reviews" in line
    assert "secret text" not in process.text
    worker_line = next(
        line for line in gateway_worker.log.read_text().splitlines() if "find-me-1" in line
    )
    assert "items failed" in worker_line
    assert "item_invalid" in worker_line


def test_term_drains(start_process: Start) -> None:
    process = start_process(drain_notice_s=2.0)
    found: list[Any] = []
    waiting = threading.Thread(target=lambda: found.append(
        process.http.post("/v1/models/idle/predict", {"item": 1}, X_Request_Timeout_Ms="2500")
    ))
    waiting.start()
    idle = http.client.HTTPConnection("127.0.0.1", process.http.port, timeout=10)
    idle.request("GET", "/health/live")
    assert idle.getresponse().read() == b'{"live":true}'
    time.sleep(0.3)
    process.process.send_signal(signal.SIGTERM)
    wait_until(lambda: process.http.get("/health/ready").status == 503)  # red first ...
    assert process.http.get("/health/live").status == 200
    answer = process.http.post(ECHO, {"item": 1})  # ... while it still answers
    assert (answer.status, answer.headers["connection"]) == (200, "close")
    waiting.join(10)
    assert found[0].status == 504  # it got all of its time, and an answer
    assert process.process.wait(10) == 0
    with pytest.raises(ConnectionRefusedError):
        process.http.get("/health/live")
    assert "gateway has ended" in process.text
    idle.close()


def test_a_request_that_never_ends_does_not_hold_up_the_end(start_process: Start) -> None:
    process = start_process(drain_timeout_s=1.0)
    found: list[Any] = []
    asking = threading.Thread(target=lambda: found.append(
        process.http.post("/v1/models/idle/predict", {"item": 1}, X_Request_Timeout_Ms="20000")
    ))
    asking.start()
    wait_until(lambda: under_way(process) == 1)
    began = time.monotonic()
    assert process.stop() == 0
    assert time.monotonic() - began < 6
    asking.join(10)
    assert (found[0].status, found[0].json["error"]["code"]) == (503, "gateway_busy")
    assert "Traceback" not in process.text


class Balancer(threading.Thread):
    """Sends requests to two gateways as a balancer does: to those that say that they are ready."""

    def __init__(self, gateways: list[GatewayProcess]) -> None:
        super().__init__()
        self.gateways = gateways
        self.answers: list[int] = []
        self.failures: list[str] = []
        self.going_on = True

    def run(self) -> None:
        number = 0
        while self.going_on:
            number += 1
            ready = [one for one in self.gateways if is_ready(one)]
            if not ready:
                self.failures.append("none is ready")
                continue
            try:
                answer = ready[number % len(ready)].http.post(ECHO, {"item": number})
                self.answers.append(answer.status)
            except OSError as error:
                self.failures.append(repr(error))


def is_ready(gateway: GatewayProcess) -> bool:
    try:
        return gateway.http.get("/health/ready").status == 200
    except OSError:
        return False


def test_a_rolling_restart_fails_no_request(start_process: Start) -> None:
    gateways = [start_process(drain_notice_s=0.7), start_process(drain_notice_s=0.7)]
    balancers = [Balancer(gateways) for _ in range(3)]
    for balancer in balancers:
        balancer.start()
    try:
        for place in range(2):
            time.sleep(0.3)
            assert gateways[place].stop() == 0
            gateways[place] = start_process(drain_notice_s=0.7)
        time.sleep(0.5)
    finally:
        for balancer in balancers:
            balancer.going_on = False
            balancer.join(20)
    answers = [status for balancer in balancers for status in balancer.answers]
    assert [failure for balancer in balancers for failure in balancer.failures] == []
    assert set(answers) == {200}
    assert len(answers) > 50


def test_the_command_refuses_to_be_open_to_all(tmp_path: Path) -> None:
    ran = subprocess.run(
        [CELERIAC, "gateway", "--host", "0.0.0.0", "--port", "0"],
        check=False, cwd=ROOT, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert ran.returncode == 1
    assert "there are no keys" in ran.stderr


def test_a_key_that_the_command_makes_opens_the_gateway(start_process: Start) -> None:
    made = subprocess.run(
        [CELERIAC, "gateway-key", "shop", "--scope", "infer"],
        cwd=ROOT, capture_output=True, text=True, timeout=60, check=True,
    ).stdout  # fmt: skip
    key = re.search(r"clr_\S+", made)
    digest = re.search(r'sha256 = "(\w+)"', made)
    assert key
    assert digest
    process = start_process(keys={"shop": {"sha256": digest[1], "tenant": "shop"}})
    assert process.http.post(ECHO, {"item": 1}).status == 401
    assert process.http.post(ECHO, {"item": 1}, X_Api_Key=key[0]).status == 200
    assert key[0] not in process.text


def test_json_lines(start_process: Start, gateway_settings: Settings, tmp_path: Path) -> None:
    log = gateway_settings.log.model_copy(update={"format": "json"})
    gateway = gateway_settings.gateway.model_copy(update={"access_log": True})
    settings = gateway_settings.model_copy(update={"log": log, "gateway": gateway})
    process = GatewayProcess(settings, tmp_path, "json")
    try:
        deadline = time.monotonic() + 20
        while '"gateway serves"' not in process.text:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        said = next(json.loads(line) for line in process.text.splitlines() if "serves" in line)
        Http(int(said["url"].rpartition(":")[2])).post(ECHO, {"item": 1}, X_Request_Id="a-1")
        while "a-1" not in process.text:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        line = next(json.loads(line) for line in process.text.splitlines() if "a-1" in line)
    finally:
        process.stop()
    assert line["event"] == "request"
    assert (line["model"], line["version"], line["status"]) == ("echo", 1, 200)
    assert line["timestamp"].endswith("Z")
