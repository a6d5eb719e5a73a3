"""Pages of elsewhere get nothing from a gateway without keys, nor from any admin port."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from celeriac.settings import KeySettings
from producer.gateway.keys import digest_of, new_key
from tests.integration.gateway.conftest import Answer, Http, RunningGateway

ECHO = "/v1/models/echo/predict"
INFER = "/v2/models/echo/infer"
PUBLIC = [
    ("POST", ECHO), ("POST", "/classify"), ("POST", INFER), ("GET", "/v1/models"), ("GET", "/v2"),
    ("GET", "/v1/jobs/aa/events"), ("POST", "/v1/jobs"), ("GET", "/metrics"),
]
ADMIN = [
    ("POST", "/v1/models/echo/promote"), ("POST", "/v1/models/echo/rollback"), ("GET", "/metrics"),
]
HOSTILE = [
    {"origin": "http://evil.example", "content-type": "text/plain"},
    {"origin": "null"},
    {"origin": "http://127.0.0.1:1"},
    {"sec-fetch-site": "cross-site"},
    {"host": "evil.example:8000"},
    {"host": "evil.example:8000", "origin": "http://evil.example:8000",
     "sec-fetch-site": "same-origin"},
]


def check_refused(answer: Answer, path: str) -> None:
    assert answer.status == 403, (path, answer.body)
    if path.startswith("/v2"):
        assert "gateway" in answer.json["error"]
    else:
        error = answer.json["error"]
        assert (error["code"], bool(error["request_id"])) == ("origin_refused", True)


@pytest.mark.parametrize("headers", HOSTILE, ids=str)
def test_pages_of_elsewhere_are_refused(gateway: RunningGateway, headers: dict[str, str]) -> None:
    for http, routes in ((gateway.http, PUBLIC), (gateway.admin, ADMIN)):
        for method, path in routes:
            body = {"item": 1} if method == "POST" else None
            check_refused(http(method, path, body, headers), path)


def test_health_and_the_description_are_open(gateway: RunningGateway) -> None:
    for path in ("/health/live", "/docs", "/openapi.json"):
        assert gateway.http.get(path, origin="http://evil.example").status == 200


@pytest.mark.parametrize("name", ["127.0.0.1", "localhost", "[::1]"])
def test_its_own_page_and_programs_are_answered(gateway: RunningGateway, name: str) -> None:
    place = f"{name}:{gateway.port}"
    own = {"host": place, "origin": f"http://{place}", "sec-fetch-site": "same-origin"}
    for headers in (own, {"host": place}):
        assert gateway.http("POST", ECHO, {"item": 1}, headers).status == 200
        assert gateway.admin("GET", "/metrics", None, {"host": name}).status == 200


def test_hosts_that_are_allowed(start_gateway: Callable[..., RunningGateway]) -> None:
    http = start_gateway(allowed_hosts=("ml.example.org",)).http
    origin = "https://ml.example.org"
    assert http.post(ECHO, {"item": 1}, host="ml.example.org", origin=origin).status == 200
    assert http.post(ECHO, {"item": 1}, origin=origin).status == 200  # a proxy that changes Host
    check_refused(http.post(ECHO, {"item": 1}, host="evil.example"), ECHO)
    asked = http("OPTIONS", ECHO, None, {"origin": origin, "access-control-request-method": "POST"})
    assert (asked.status, "access-control-allow-origin" in asked.headers) == (405, False)
    page = http.post(ECHO, {"item": 1}, origin="http://localhost:5173")
    assert "let its own server pass the requests on" in page.json["error"]["message"]


def test_with_keys_only_the_admin_port_looks(
    start_gateway: Callable[..., RunningGateway],
) -> None:
    key = new_key()
    one = KeySettings(sha256=digest_of(key), scopes=("infer", "admin"))
    gateway = start_gateway(keys={"one": one.model_dump()})
    foreign = {"origin": "http://evil.example", "host": "gateway.internal", "x-api-key": key}
    assert gateway.http("POST", ECHO, {"item": 1}, foreign).status == 200
    promote = ADMIN[0][1]
    check_refused(gateway.admin("POST", promote, {"version": 1}, foreign), promote)
    known = Http(gateway.admin.port, key)
    assert known.get("/metrics").status == 200
