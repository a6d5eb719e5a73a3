"""``/v2`` over plain HTTP: what foreign clients do not look at, and what happens in trouble."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import redis

from celeriac.registry import catalogue
from celeriac.registry.manifest import InputSchema, ModelDraft, OutputSchema
from celeriac.registry.store import Registry
from celeriac.settings import BrokerSettings, Settings
from tests.integration.gateway.conftest import Http, RunningGateway
from workers.valkey import free_port

INFER = "/v2/models/reviews/infer"
TEXT = {"inputs": [{"name": "text", "datatype": "BYTES", "shape": [1], "data": ["good coffee"]}]}


def test_both_health_calls_have_both_words(http_client: Http) -> None:
    for path in ("/v2/health/live", "/v2/health/ready"):
        answer = http_client.get(path)
        assert (answer.status, answer.json) == (200, {"live": True, "ready": True})


def test_no_content_type_is_needed(http_client: Http) -> None:
    for headers in ({}, {"Content_Type": "text/plain"}, {"Content_Type": "application/json"}):
        answer = http_client.post(INFER, json.dumps(TEXT).encode(), **headers)
        assert answer.status == 200
        assert answer.json["outputs"][0]["data"] == ["positive"]
        assert answer.headers["content-type"] == "application/json"


def test_a_binary_answer_says_how_long_its_json_is(http_client: Http) -> None:
    answer = http_client.post(INFER, TEXT | {"parameters": {"binary_data_output": True}})
    length = int(answer.headers["inference-header-content-length"])
    assert answer.headers["content-type"] == "application/octet-stream"
    sizes = [
        output["parameters"]["binary_data_size"]
        for output in json.loads(answer.body[:length])["outputs"]
    ]
    assert len(answer.body) == length + sum(sizes)
    assert answer.body[length : length + 12] == b"\x08\x00\x00\x00positive"


def test_a_raw_body(http_client: Http) -> None:
    answer = http_client.post(INFER, b"awful coffee", Inference_Header_Content_Length="0")
    assert b"\x08\x00\x00\x00negative" in answer.body
    assert http_client.post(
        "/v2/models/rent/infer", b"1234", Inference_Header_Content_Length="0"
    ).json == {"error": "the model has 4 inputs, so the body cannot be the data of one"}


@pytest.mark.parametrize(("method", "path", "status"), [
    ("GET", "/v2/nothing", 404), ("POST", "/v2/models/reviews/nothing", 404),
    ("GET", "/v2/models/nothing", 404), ("GET", "/v2/models/nothing/ready", 404),
    ("GET", "/v2/models/reviews/versions/9/ready", 404), ("POST", "/v2/models/reviews", 405),
    ("DELETE", INFER, 405), ("GET", "/v2/repository/index", 405),
    ("GET", "/v2/models/UPPER", 400), ("POST", INFER, 400),
])
def test_every_failure_has_the_one_form(
    http_client: Http, method: str, path: str, status: int
) -> None:
    answer = http_client(method, path)
    assert answer.status == status, answer.body
    assert list(answer.json) == ["error"]
    assert isinstance(answer.json["error"], str)
    assert answer.json["error"]


@pytest.mark.parametrize("change", [
    b"", b"{", b"null", b"[" * 10_000, b'{"inputs": [' + b"9" * 5_000 + b"]}", b'"\xff"', b"\x00",
])
def test_bodies_that_are_nothing(http_client: Http, change: bytes) -> None:
    began_s = time.monotonic()
    answer = http_client.post(INFER, change)
    assert answer.status == 400
    assert list(answer.json) == ["error"]
    assert time.monotonic() - began_s < 3


def test_the_index_takes_what_the_protocol_has(http_client: Http) -> None:
    for data in (b"", b"{}", b'{"ready": true}'):
        assert http_client.post("/v2/repository/index", data).status == 200
    for data in (b"{", b"[]", b'{"ready": 1}', b'{"other": true}', b"[" * 10_000):
        answer = http_client.post("/v2/repository/index", data)
        assert (answer.status, list(answer.json)) == (400, ["error"]), data


def test_compressed_bodies_are_refused(http_client: Http) -> None:
    answer = http_client.post(INFER, TEXT, Content_Encoding="gzip")
    assert (answer.status, list(answer.json)) == (415, ["error"])


def test_limits(start_gateway: Callable[..., RunningGateway]) -> None:
    http = start_gateway(max_items=2, max_body_bytes=1_024, max_depth=4).http
    texts = {"name": "text", "datatype": "BYTES", "shape": [3], "data": ["a"] * 3}
    assert http.post(INFER, {"inputs": [texts]}).status == 413
    assert http.post(INFER, TEXT | {"id": "x" * 2_000}).status == 413
    answer = http.post(INFER, TEXT | {"parameters": {"a": [[[[1]]]]}})
    assert (answer.status, list(answer.json)) == (400, ["error"])


def test_the_page_of_the_api_has_the_protocol(http_client: Http) -> None:
    paths = http_client.get("/openapi.json").json["paths"]
    assert {"/v2", "/v2/models/{model}/infer", "/v2/models/{model}/versions/{version}/infer",
            "/v2/repository/index", "/v2/health/ready"} <= paths.keys()
    example = paths["/v2/models/{model}/infer"]["post"]["requestBody"]["content"]
    answer = http_client.post(INFER, example["application/json"]["example"])
    assert answer.status == 200


@pytest.fixture
def alone(settings: Settings, redis_client: redis.Redis) -> Iterator[Any]:
    """A gateway with a catalogue, and no worker."""
    registry = Registry(settings.models.root)
    registry.add("lonely", lambda folder: ModelDraft(
        format="echo", input=InputSchema(kind="text"), output=OutputSchema(kind="any")
    ))
    registry.aliases("lonely").promote(1, expected=None, who="test", why="")
    catalogue.publish(redis_client, registry.infos())
    limits = settings.gateway.model_copy(update={"port": 0, "admin_port": 0})
    running = RunningGateway(settings.model_copy(update={"gateway": limits})).start()
    yield running
    running.stop()


def test_without_a_worker_the_model_is_not_ready(alone: RunningGateway) -> None:
    http = alone.http
    assert http.get("/v2/models/lonely").status == 200
    for path in ("/v2/models/lonely/ready", "/v2/models/lonely/versions/1/ready"):
        answer = http.get(path)
        assert answer.status == 503
        assert "no worker serves 'lonely'" in answer.json["error"]
    (listed,) = http.post("/v2/repository/index").json
    assert listed["state"] == "UNAVAILABLE"
    assert listed["reason"] == "no worker serves 'lonely' at the moment"
    assert http.post("/v2/repository/index", {"ready": True}).json == []
    began_s = time.monotonic()
    answer = http.post("/v2/models/lonely/infer", TEXT | {"parameters": {"timeout": 300_000}})
    assert (answer.status, list(answer.json)) == (504, ["error"])
    assert 0.2 < time.monotonic() - began_s < 3


def test_without_redis_every_call_says_so_soon(gateway_settings: Settings) -> None:
    nowhere = BrokerSettings(url=f"redis://127.0.0.1:{free_port()}/0")
    running = RunningGateway(gateway_settings.model_copy(update={"broker": nowhere})).start()
    try:
        for method, path, data in (
            ("POST", INFER, TEXT), ("GET", "/v2/models/reviews", None),
            ("GET", "/v2/models/reviews/ready", None), ("POST", "/v2/repository/index", None),
            ("GET", "/v2/models/stats", None),
        ):
            began_s = time.monotonic()
            answer = running.http(method, path, data)
            assert (answer.status, list(answer.json)) == (503, ["error"])
            assert str(nowhere.url) not in answer.json["error"]
            assert answer.headers["retry-after"] == "1"
            assert time.monotonic() - began_s < 3
        assert running.http.get("/v2/health/live").status == 200
        assert running.http.get("/v2").status == 200
    finally:
        running.stop()
