"""Predictions over HTTP, through the whole stack."""

from __future__ import annotations

import base64
import io
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.integration.gateway.conftest import Http, RunningGateway


def test_classify_is_the_tutorials_endpoint(http_client: Http) -> None:
    answer = http_client.post("/classify", {"text": "great coffee"})
    assert answer.status == 200
    assert answer.json["category"] == "positive"
    assert 0.5 < answer.json["confidence"] <= 1
    assert answer.headers["content-type"] == "application/json"
    assert len(answer.headers["x-request-id"]) == 16


@pytest.mark.parametrize(("model", "code"), [
    ("nobody", "model_not_found"), ("reviews@7", "version_not_found"),
])
def test_classify_without_its_model_names_the_setting(
    gateway: RunningGateway, monkeypatch: pytest.MonkeyPatch, model: str, code: str
) -> None:
    limits = gateway.gateway.limits.model_copy(update={"classify_model": model})
    monkeypatch.setattr(gateway.gateway, "limits", limits)
    answer = gateway.http.post("/classify", {"text": "great coffee"})
    assert (answer.status, answer.json["error"]["code"]) == (404, code)
    assert f"([gateway] classify_model is '{model}')" in answer.json["error"]["message"]


def test_one_item(http_client: Http) -> None:
    answer = http_client.post("/v1/models/reviews/predict", {"item": "awful coffee"})
    assert answer.status == 200
    assert answer.json["label"] == "negative"
    assert answer.json["model"] == "reviews"
    assert answer.json["version"] == 1


def test_many_items_keep_their_order_and_their_own_errors(http_client: Http) -> None:
    answer = http_client.post(
        "/v1/models/reviews@1/predict", {"items": ["great", 7, "awful"]}
    )
    assert answer.status == 200
    first, second, third = answer.json["predictions"]
    assert (first["label"], third["label"]) == ("positive", "negative")
    assert second["error"]["code"] == "item_invalid"
    assert (answer.json["model"], answer.json["version"]) == ("reviews", 1)


def test_an_item_that_wraps_nothing_has_its_own_error(http_client: Http) -> None:
    wrong = [{"$bytes": "!"}, {"$array": "AAAA", "dtype": "<f8", "shape": [64]}]
    answer = http_client.post("/v1/models/echo/predict", {"items": ["a", *wrong, "b"]})
    assert answer.status == 200, answer.body
    first, *bad, last = answer.json["predictions"]
    assert (first["value"], last["value"]) == ("a", "b")
    assert [one["error"]["code"] for one in bad] == ["item_invalid"] * 2
    alone = http_client.post("/v1/models/echo/predict", {"items": wrong})
    assert [one["error"]["code"] for one in alone.json["predictions"]] == ["item_invalid"] * 2


def test_an_empty_list_of_items(http_client: Http) -> None:
    answer = http_client.post("/v1/models/reviews/predict", {"items": []})
    assert (answer.status, answer.json["predictions"]) == (200, [])


def test_an_image_as_the_body(http_client: Http) -> None:
    file = io.BytesIO()
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(file, "PNG")
    answer = http_client.post(
        "/v1/models/pixels/predict", file.getvalue(), Content_Type="Image/PNG"
    )
    assert answer.status == 200, answer.body
    assert answer.json["label"] in range(10)
    text = base64.b64encode(file.getvalue()).decode()
    again = http_client.post("/v1/models/pixels/predict", {"item": {"$bytes": text}})
    assert again.json == answer.json
    bare = http_client.post("/v1/models/pixels/predict", {"item": text})
    assert (bare.status, '{"$bytes": BASE64}' in bare.json["error"]["message"]) == (422, True)
    for kind in ("application/x-www-form-urlencoded", ""):
        untold = http_client.post("/v1/models/pixels/predict", file.getvalue(), Content_Type=kind)
        assert (untold.status, untold.json["error"]["code"]) == (415, "unsupported_body")
        assert "Content-Type: image/png" in untold.json["error"]["message"]


def test_a_typed_array(http_client: Http) -> None:
    data = base64.b64encode(np.zeros(64, "<f8").tobytes()).decode()
    item = {"$array": data, "dtype": "<f8", "shape": [64]}
    answer = http_client.post("/v1/models/digits/predict", {"item": item})
    assert answer.status == 200, answer.body
    assert answer.json["label"] in range(10)


def test_echo_gives_back_what_it_gets(http_client: Http) -> None:
    item = {"text": "é \U0001f600", "list": [1, 2.5, None, True], "nested": {"a": [[]]}}
    answer = http_client.post("/v1/models/echo/predict", {"item": item})
    assert answer.json["value"] == item


@pytest.mark.parametrize(("path", "body", "status", "code"), [
    ("/v1/models/nobody/predict", {"item": 1}, 404, "model_not_found"),
    ("/v1/models/reviews@9/predict", {"item": "a"}, 404, "version_not_found"),
    ("/v1/models/UPPER/predict", {"item": "a"}, 400, "request_invalid"),
    ("/v1/models/reviews/predict", {"item": 1}, 422, "item_invalid"),
    ("/v1/models/reviews/predict", {}, 400, "request_invalid"),
    ("/v1/models/reviews/predict", {"item": 1, "items": []}, 400, "request_invalid"),
    ("/v1/models/reviews/predict", {"items": ["a"], "more": 1}, 400, "request_invalid"),
    ("/v1/models/reviews/predict", {"items": "a"}, 400, "request_invalid"),
    ("/v1/models/reviews/predict", b"", 400, "request_invalid"),
    ("/v1/models/reviews/predict", b"{", 400, "request_invalid"),
    ("/v1/models/reviews/predict", {"items": ["a"] * 1_001}, 413, "payload_too_large"),
    ("/v1/models/a/b/predict", {"item": 1}, 404, "not_found"),
    ("/v1/nothing", {}, 404, "not_found"),
    ("/classify", {"text": 1}, 400, "request_invalid"),
    ("/classify", {}, 400, "request_invalid"),
])  # fmt: skip
def test_what_is_wrong_is_told(
    http_client: Http, path: str, body: Any, status: int, code: str
) -> None:
    answer = http_client.post(path, body, X_Request_Id="the-caller.s_own")
    assert (answer.status, answer.json["error"]["code"]) == (status, code), answer.body
    assert answer.json["error"]["request_id"] == "the-caller.s_own"
    assert answer.headers["x-request-id"] == "the-caller.s_own"


def test_the_field_at_fault_is_named(http_client: Http) -> None:
    answer = http_client.post("/v1/models/reviews/predict", {"items": "a"})
    assert answer.json["error"]["field"] == "items"


def test_another_method_is_refused(http_client: Http) -> None:
    answer = http_client.get("/v1/models/reviews/predict")
    assert (answer.status, answer.headers["allow"]) == (405, "POST")
    answer = http_client.post("/health/live")
    assert (answer.status, answer.headers["allow"]) == (405, "GET, HEAD")


def test_health_and_docs(http_client: Http) -> None:
    assert http_client.get("/health/live").json == {"live": True}
    assert http_client.get("/health/ready").json == {"ready": True}
    page = http_client.get("/openapi.json")
    assert page.status == 200
    assert {"/classify", "/v1/models/{model}/predict", "/health/live"} <= set(page.json["paths"])
    assert http_client.get("/docs").status == 200
