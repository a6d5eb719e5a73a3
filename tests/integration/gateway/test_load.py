"""Deadlines, overload, too many requests, callers that go away."""

from __future__ import annotations

import http.client
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import redis

from celeriac import errors
from celeriac.keys import reply_key
from celeriac.settings import Settings
from tests.integration.gateway.conftest import Answer, Http, RunningGateway
from tests.waiting import wait_until

Start = Callable[..., RunningGateway]
IDLE = "/v1/models/idle/predict"
QUEUE = "realtime.gpu.idle"
MINUTE = "X-Request-Timeout-Ms: 60000\r\n"
GIVEN_UP_S = 30.0
"""Before the time of a request that has a minute is over."""


@pytest.fixture
def queue(gateway_settings: Settings) -> Iterator[redis.Redis]:
    """The server, with nothing in the queue that nobody serves."""
    client = redis.Redis.from_url(gateway_settings.broker_url)
    client.delete(QUEUE)
    yield client
    client.delete(QUEUE)
    client.close()


def open_request(port: int, path: str = IDLE, item: Any = 1) -> socket.socket:
    """A request whose answer is not read, and which has a minute."""
    body = json.dumps({"item": item})
    connection = socket.create_connection(("127.0.0.1", port))
    connection.sendall((
        f"POST {path} HTTP/1.1\r\nHost: localhost\r\n"
        f"Content-Length: {len(body)}\r\n{MINUTE}\r\n{body}"
    ).encode())
    return connection


# --- deadlines -----------------------------------------------------------------------------------


def test_the_callers_time_is_kept(http_client: Http, queue: redis.Redis) -> None:
    began = time.monotonic()
    answer = http_client.post(IDLE, {"item": 1}, X_Request_Timeout_Ms="300")
    took_s = time.monotonic() - began
    assert (answer.status, answer.json["error"]["code"]) == (504, "deadline_exceeded")
    assert 0.29 <= took_s < 3


def test_no_caller_gets_more_time_than_the_limit(start_gateway: Start, queue: redis.Redis) -> None:
    gateway = start_gateway(max_timeout_s=0.3)
    began = time.monotonic()
    answer = gateway.http.post(IDLE, {"item": 1}, X_Request_Timeout_Ms="60000")
    assert answer.status == 504
    assert time.monotonic() - began < 3
    (message,) = queue.lrange(QUEUE, 0, -1)
    deadline_ms = json.loads(json.loads(message)["body"])[1]["deadline_ms"]
    assert deadline_ms < time.time() * 1000 + 300  # the worker knows it too


@pytest.mark.parametrize("value", ["0", "-5", "soon", "1.5", "", "9" * 5_000, "NaN"])
def test_a_time_that_is_none(http_client: Http, value: str) -> None:
    answer = http_client.post(IDLE, {"item": 1}, X_Request_Timeout_Ms=value)
    assert answer.status == 400
    assert answer.json["error"]["field"] == "X-Request-Timeout-Ms"


def test_a_body_that_does_not_come(http_client: Http) -> None:
    with socket.create_connection(("127.0.0.1", http_client.port)) as connection:
        connection.sendall(
            b"POST /classify HTTP/1.1\r\nHost: localhost\r\nContent-Length: 50\r\n"
            b"X-Request-Timeout-Ms: 400\r\n\r\n{"
        )
        began = time.monotonic()
        connection.settimeout(10)
        answer = connection.recv(10_000)
    assert answer.startswith(b"HTTP/1.1 408")
    assert b'"request_timeout"' in answer
    assert 0.3 < time.monotonic() - began < 4


# --- overload ------------------------------------------------------------------------------------


def test_an_overloaded_model_says_when_to_come_again(
    start_gateway: Start, queue: redis.Redis
) -> None:
    http = start_gateway().http  # its client remembers the refusal

    def answer() -> None:
        popped: Any = queue.brpop([QUEUE], timeout=10)
        envelope = json.loads(json.loads(popped[1])["body"])[1]
        error = errors.Overloaded("too much waits", 1.3).to_wire()
        body = {"v": 1, "id": envelope["id"], "error": error}
        queue.rpush(reply_key(envelope["reply_to"]), json.dumps(body))

    worker = threading.Thread(target=answer)
    worker.start()
    first = http.post(IDLE, {"item": 1})
    worker.join(10)
    assert (first.status, first.json["error"]["code"]) == (429, "overloaded")
    assert first.headers["retry-after"] == "2"
    again = http.post(IDLE, {"item": 1})  # refused here, without asking anybody
    assert (again.status, again.headers["retry-after"]) == (429, "2")
    assert queue.llen(QUEUE) == 0


def test_more_requests_than_it_takes_are_refused_at_once(
    start_gateway: Start, queue: redis.Redis
) -> None:
    gateway = start_gateway(max_concurrent=4)
    waiting = [open_request(gateway.port, item=number) for number in range(4)]
    wait_until(lambda: len(gateway.gateway.watches) == 4, "four requests under way")
    for answer in (
        gateway.http.post(IDLE, {"item": 5}), gateway.http.get("/v1/models"),
        gateway.http.post("/v1/models/nobody/predict", b"[" * 100_000),
    ):
        assert (answer.status, answer.json["error"]["code"]) == (503, "gateway_busy")
        assert answer.headers["retry-after"] == "1"
    assert len(gateway.gateway.watches) == 4, "they were not refused at once"
    protocol = gateway.http.post("/v2/models/idle/infer", b"{}")
    assert (protocol.status, protocol.headers["retry-after"]) == (503, "1")
    assert "max_concurrent" in protocol.json["error"]
    assert gateway.http.get("/health/live").status == 200
    assert gateway.http.get("/health/ready").status == 200
    for connection in waiting:
        connection.close()
    wait_until(
        lambda: not gateway.gateway.watches, "the requests to be given up", timeout_s=GIVEN_UP_S
    )
    assert gateway.http.post("/v1/models/echo/predict", {"item": 5}).status == 200


def test_bodies_that_are_held_are_bounded_together(start_gateway: Start) -> None:
    gateway = start_gateway(max_body_bytes=10_000)
    head = (
        f"POST {IDLE} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 10000\r\n{MINUTE}\r\n"
    ).encode()
    waiting = [socket.create_connection(("127.0.0.1", gateway.port)) for _ in range(32)]
    for connection in waiting:
        connection.sendall(head + b" " * 9_999)
    wait_until(lambda: gateway.gateway.body_bytes == 32 * 9_999, "32 bodies that are nearly there")
    answer = gateway.http.post("/v1/models/echo/predict", {"item": "x" * 100})
    assert (answer.status, answer.json["error"]["code"]) == (503, "gateway_busy")
    assert answer.headers["retry-after"] == "1"
    for connection in waiting:
        connection.close()
    wait_until(
        lambda: gateway.gateway.body_bytes == 0, "the bodies to be forgotten", timeout_s=GIVEN_UP_S
    )
    assert gateway.http.post("/v1/models/echo/predict", {"item": "x" * 100}).status == 200


def test_of_json_less_is_taken_than_of_images_and_tensors(start_gateway: Start) -> None:
    http = start_gateway(max_body_bytes=9_000, max_json_bytes=3_000).http
    path, text = "/v1/models/echo/predict", "x" * 3_000
    assert http.post(path, {"item": text[:2_900]}).status == 200
    answer = http.post(path, {"item": text})
    assert (answer.status, answer.json["error"]["code"]) == (413, "payload_too_large")
    assert "max_json_bytes" in answer.json["error"]["message"]
    assert http("PUT", "/v1/predictions/x", {"model": "echo", "item": text}).status == 413
    assert http.post(path, text.encode(), Content_Type="image/png").status == 200

    head = json.dumps({"inputs": [{
        "name": "input", "datatype": "FP64", "shape": [1, 500],
        "parameters": {"binary_data_size": 4_000},
    }]}).encode()
    tensors = {"Inference_Header_Content_Length": str(len(head))}
    infer = "/v2/models/echo/infer"
    assert http.post(infer, head + bytes(4_000), **tensors).status == 200
    spaces = b" " * 3_000 + head
    long = {"Inference_Header_Content_Length": str(len(spaces))}
    assert http.post(infer, spaces + bytes(4_000), **long).status == 413
    assert http.post(infer, spaces).status == 413
    assert http.post(infer, head + bytes(9_000), **tensors).status == 413


def test_many_at_the_same_time(http_client: Http) -> None:
    def send(number: int) -> Answer:
        return http_client.post("/v1/models/echo/predict", {"item": number})

    with ThreadPoolExecutor(32) as pool:
        answers = list(pool.map(send, range(500)))
    assert [answer.json["value"] for answer in answers] == list(range(500))
    assert max(int(answer.headers["x-batch-size"]) for answer in answers) > 1


# --- callers that go away ------------------------------------------------------------------------


def test_work_of_a_caller_who_went_away_leaves_its_queue(
    http_client: Http, gateway: RunningGateway, queue: redis.Redis
) -> None:
    gone = [open_request(http_client.port, item=f"gone {number}") for number in range(3)]
    stays = open_request(http_client.port, item="stays")
    wait_until(lambda: len(gateway.gateway.watches) == 4, "four requests under way")
    wait_until(lambda: queue.llen(QUEUE) >= 1, "messages in the queue")
    for connection in gone:
        connection.close()
    wait_until(
        lambda: len(gateway.gateway.watches) == 1, "the requests to be given up",
        timeout_s=GIVEN_UP_S,
    )

    def items() -> list[Any]:
        envelopes = [json.loads(json.loads(raw)["body"])[1] for raw in queue.lrange(QUEUE, 0, -1)]
        return [item for envelope in envelopes for item in envelope["items"]]

    # What shares its envelope with one that still waits stays with it.
    wait_until(lambda: queue.llen(QUEUE) == 1, "the work to leave the queue")
    assert "stays" in items()
    stays.close()
    wait_until(lambda: queue.llen(QUEUE) == 0, "the last one to leave the queue")


def test_a_caller_who_goes_away_within_its_body(http_client: Http, gateway: RunningGateway) -> None:
    connection = socket.create_connection(("127.0.0.1", http_client.port))
    connection.sendall((
        f"POST /classify HTTP/1.1\r\nHost: localhost\r\nContent-Length: 50\r\n{MINUTE}\r\n{{"
    ).encode())
    wait_until(lambda: gateway.gateway.watches, "the request")
    connection.close()
    wait_until(
        lambda: not gateway.gateway.watches, "the request to be given up", timeout_s=GIVEN_UP_S
    )


# --- what an answer says of its way --------------------------------------------------------------


def test_headers_name_version_cache_batch_and_times(http_client: Http) -> None:
    text = {"text": f"great coffee {time.time_ns()}"}
    first = http_client.post("/classify", text)
    assert first.headers["x-model-version"] == "1"
    assert first.headers["x-cache"] == "miss"
    assert int(first.headers["x-batch-size"]) >= 1
    times = dict(part.split(";dur=") for part in first.headers["server-timing"].split(", "))
    assert float(times["total"]) >= float(times["queue"]) + float(times["compute"]) > 0

    def is_hit() -> bool:
        return http_client.post("/classify", text).headers["x-cache"] == "hit"

    wait_until(is_hit, "the answer in the cache")
    hit = http_client.post("/classify", text)
    assert hit.body == first.body
    assert "x-batch-size" not in hit.headers
    assert hit.headers["x-model-version"] == "1"
    echo = http_client.post("/v1/models/echo/predict", {"items": [1, 2, 3]})
    assert "x-cache" not in echo.headers
    assert echo.headers["x-batch-size"] == "3"


def test_one_connection_serves_many_requests(http_client: Http) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", http_client.port, timeout=10)
    for number in range(20):
        connection.request("POST", "/v1/models/echo/predict", json.dumps({"item": number}))
        assert json.loads(connection.getresponse().read())["value"] == number
    connection.close()


def test_pipelined_requests_are_answered_in_order(http_client: Http) -> None:
    def request(number: int) -> bytes:
        body = json.dumps({"item": number}).encode()
        head = "POST /v1/models/echo/predict HTTP/1.1\r\nHost: localhost\r\n"
        head += f"Content-Length: {len(body)}"
        return head.encode() + b"\r\n\r\n" + body

    with socket.create_connection(("127.0.0.1", http_client.port)) as connection:
        connection.settimeout(10)
        connection.sendall(b"".join(request(number) for number in range(5)))
        received = b""
        while received.count(b'"value":') < 5:
            received += connection.recv(65_536)
    found = [int(part[:1]) for part in received.split(b'"value":')[1:]]
    assert found == [0, 1, 2, 3, 4]
