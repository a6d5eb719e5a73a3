"""Keys and rates over HTTP."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
import redis

from celeriac.settings import KeySettings, Settings
from producer.gateway.keys import digest_of, new_key
from tests.integration.gateway.conftest import RunningGateway

KEYS = {name: new_key() for name in ("reader", "operator", "limited")}
TABLES = {
    "reader": KeySettings(sha256=digest_of(KEYS["reader"])),
    "operator": KeySettings(sha256=digest_of(KEYS["operator"]), scopes=("infer", "admin")),
    "limited": KeySettings(sha256=digest_of(KEYS["limited"]), rate_per_s=4, burst=6),
}
Start = Callable[..., RunningGateway]
ITEM = {"item": "x"}


@pytest.fixture
def guarded(start_gateway: Start, gateway_settings: Settings) -> RunningGateway:
    client = redis.Redis.from_url(gateway_settings.broker_url)
    client.delete("celeriac:rate:limited")
    client.close()
    return start_gateway(keys={name: table.model_dump() for name, table in TABLES.items()})


def test_without_a_key_only_health_and_the_pages_answer(guarded: RunningGateway) -> None:
    http = guarded.http
    for path in ("/health/live", "/health/ready", "/v2/health/live", "/docs", "/openapi.json"):
        assert http.get(path).status == 200, path
    for method, path in [
        ("POST", "/v1/models/echo/predict"), ("POST", "/classify"), ("GET", "/v2/models/echo"),
        ("GET", "/nothing"), ("POST", "/v2/models/echo/infer"), ("GET", "/v2"),
    ]:
        answer = http(method, path, b"{}")
        assert answer.status == 401, path
        assert answer.headers["www-authenticate"].startswith("Bearer")
    assert http.post("/classify").json["error"]["code"] == "unauthenticated"
    assert "key" in http.get("/v2").json["error"]


def test_a_key_opens_what_it_is_for(guarded: RunningGateway) -> None:
    reader = {"X_Api_Key": KEYS["reader"]}
    assert guarded.http.post("/v1/models/echo/predict", ITEM, **reader).status == 200
    answer = guarded.http.get("/v1/jobs", **reader)
    assert (answer.status, answer.json["error"]["code"]) == (403, "forbidden")
    bearer = {"Authorization": f"Bearer {KEYS['reader']}"}
    assert guarded.http.post("/v1/models/echo/predict", ITEM, **bearer).status == 200


def test_the_admin_port_wants_an_operator(guarded: RunningGateway) -> None:
    assert guarded.admin.get("/health/live").status == 200
    assert guarded.admin.get("/metrics").status == 401
    assert guarded.admin.get("/metrics", X_Api_Key=KEYS["reader"]).status == 403
    answer = guarded.admin.get("/metrics", X_Api_Key=KEYS["operator"])
    assert answer.status == 200
    assert b'celeriac_gateway_refused_total{code="forbidden"}' in answer.body


def test_the_public_port_changes_no_model_and_shows_metrics_to_operators(
    guarded: RunningGateway,
) -> None:
    operator = {"X_Api_Key": KEYS["operator"]}
    promote = guarded.http.post("/v1/models/echo/promote", {"version": 1}, **operator)
    assert promote.status == 404
    assert guarded.http.get("/metrics", **operator).status == 200
    assert guarded.http.get("/metrics", X_Api_Key=KEYS["reader"]).status == 403
    assert guarded.http.get("/metrics").status == 401


def test_a_key_that_sends_too_much_is_told_when_to_come_again(
    guarded: RunningGateway, start_gateway: Start
) -> None:
    second = start_gateway(keys={name: table.model_dump() for name, table in TABLES.items()})
    gateways = [guarded, second]

    def send(number: int) -> tuple[int, str, float]:
        answer = gateways[number % 2].http.post(
            "/v1/models/echo/predict", ITEM, X_Api_Key=KEYS["limited"]
        )
        return answer.status, answer.headers.get("retry-after", ""), time.monotonic()

    began = time.monotonic()
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(send, range(40)))
    took_s = max(ended for _, _, ended in found) - began
    passed = sum(status == 200 for status, _, _ in found)
    assert 6 <= passed <= 6 + 4 * took_s + 1  # two gateways share one bucket
    assert {status for status, _, _ in found} == {200, 429}
    assert {after for status, after, _ in found if status == 429} == {"1"}

    time.sleep(1.1)
    assert send(0)[0] == 200
    reader = guarded.http.post("/v1/models/echo/predict", ITEM, X_Api_Key=KEYS["reader"])
    assert reader.status == 200
