"""The page at ``/docs``: complete without any other server, and its examples run."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest

from producer.gateway.openapi import HOT_PATHS, PATH_PARAMETERS
from tests.integration.gateway.conftest import Http, RunningGateway


def examples() -> Iterator[tuple[str, Any]]:
    """Path and body of every JSON example of the hot routes."""
    for path, item in HOT_PATHS.items():
        operation = item["post"]
        example = {name: one["example"] for name, one in PATH_PARAMETERS.items()}
        path = path.format(model=example["reference"], version=example["version"])  # noqa: PLW2901
        media = operation["requestBody"]["content"]["application/json"]
        bodies = [example["value"] for example in media.get("examples", {}).values()]
        for body in [*bodies, *([media["example"]] if "example" in media else [])]:
            yield path, body


@pytest.mark.parametrize(("path", "body"), list(examples()))
def test_every_example_runs(http_client: Http, path: str, body: Any) -> None:
    answer = http_client.post(path, body)
    assert answer.status == 200, answer.body


def test_there_are_examples_of_each_kind() -> None:
    assert {"/classify", "/v1/models/reviews/predict", "/v2/models/reviews/infer"} <= {
        path for path, _ in examples()
    }


def test_the_page_needs_no_other_server(http_client: Http) -> None:
    page = http_client.get("/docs")
    assert page.status == 200
    links = re.findall(r'(?:src|href)="([^"]*)"', page.body.decode())
    assert [link for link in links if link.startswith(("http", "//"))] == []
    assert "default-src 'none'" in page.headers["content-security-policy"]
    for link in links:
        if not link.startswith("data:"):
            file = http_client.get(f"/{link}")
            assert (file.status, len(file.body) > 100_000) == (200, True), link
    assert http_client.get("/docs/../../etc/passwd").status == 404
    assert http_client.get("/docs/favicon.png").status == 404
    assert b"{ .opblock-tag { flex-wrap: wrap } }</style></head>" in page.body  # of a telephone


def test_people_are_led_to_it_from_the_root(http_client: Http) -> None:
    led = http_client.get("/", accept="text/html,application/xhtml+xml,*/*;q=0.8")
    assert (led.status, led.headers["location"]) == (307, "docs")
    told = http_client.get("/", accept="*/*")
    assert (told.status, told.json["error"]["code"]) == (404, "not_found")
    assert "/docs" in told.json["error"]["message"]


OF_ITEMS = (
    "/classify", "/v1/models/{model}/predict", "/v2/models/{model}/infer",
    "/v2/models/{model}/versions/{version}/infer", "/v1/predictions/{id}", "/v1/feedback",
    "/v1/reviews/sentiment",
)


def test_the_document(http_client: Http, gateway: RunningGateway) -> None:
    document = http_client.get("/openapi.json").json
    assert document["openapi"] == "3.1.0"
    for path, item in document["paths"].items():
        for method, operation in item.items():
            assert ("422" in operation["responses"]) == (path in OF_ITEMS and method != "get"), path
            wanted = "ProtocolError" if path.startswith("/v2") else "Error"
            schema = operation["responses"]["default"]["content"]["application/json"]["schema"]
            assert schema["$ref"].endswith(f"/{wanted}"), (method, path)
    assert set(document["components"]["securitySchemes"]) == {"bearer", "header"}
    promote = "/v1/models/{name}/promote"
    assert promote not in document["paths"]
    assert promote in gateway.admin.get("/openapi.json").json["paths"]


def test_generators_of_clients_can_read_the_document(
    http_client: Http, gateway: RunningGateway
) -> None:
    """They leave out an answer with a list of anything or of several types, and take the first
    alternative whose required fields are there."""
    for http in (http_client, gateway.admin):
        for schema in schemas_in(http.get("/openapi.json").json):
            assert schema.get("type") != "array" or "items" in schema, schema
            assert len(set(of_type(schema)) - {"null"}) <= 1, schema
    document = http_client.get("/openapi.json").json
    answer = document["paths"]["/v1/models/{model}/predict"]["post"]["responses"]["200"]
    ways = answer["content"]["application/json"]["schema"]["anyOf"]
    named = [one["$ref"].rpartition("/")[2] for one in ways]
    required = [set(document["components"]["schemas"][name]["required"]) for name in named]
    assert not required[0] <= required[1]


def test_every_answer_in_json_has_a_schema(http_client: Http, gateway: RunningGateway) -> None:
    for http in (http_client, gateway.admin):
        for path, item in http.get("/openapi.json").json["paths"].items():
            for method, operation in item.items():
                for status, answer in operation["responses"].items():
                    media = answer.get("content", {}).get("application/json")
                    is_file = "/results/" in path
                    assert media is None or media.get("schema") or is_file, (method, path, status)


def schemas_in(document: Any) -> Iterator[dict[str, Any]]:
    if isinstance(document, dict):
        yield document
    for one in document.values() if isinstance(document, dict) else document:
        if isinstance(one, (dict, list)):
            yield from schemas_in(one)


def of_type(schema: dict[str, Any]) -> list[str]:
    kind = schema.get("type")
    return kind if isinstance(kind, list) else []
