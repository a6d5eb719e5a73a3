"""Inference over ``/v2``, with made-up answers: what becomes of errors, versions and time."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable
from typing import Any

import pytest

from celeriac import errors
from celeriac.messages import ModelRef, Prediction
from celeriac.registry.catalogue import Catalogue, ModelInfo, VersionInfo
from celeriac.registry.manifest import InputSchema, OutputSchema
from celeriac.settings import GatewaySettings, Settings
from producer.gateway.app import build
from producer.gateway.oip import routes
from producer.gateway.oip.statistics import Answered, Statistics


def version(number: int, labels: tuple[Any, ...]) -> VersionInfo:
    return VersionInfo(
        version=number, format="echo", device="cpu", input=InputSchema(kind="text"),
        output=OutputSchema(kind="classifier", labels=labels), created_at="",
    )


CATALOGUE = Catalogue(models={"m": ModelInfo(
    name="m", aliases={"champion": 1, "next": 2},
    versions={1: version(1, ("a", "b")), 2: version(2, (0, 1))},
)})


class Routes:
    """The catalogue in memory; ``found`` is what memory has of it."""

    found = True

    def described(self, ref: str) -> Any:
        parsed = ModelRef.parse(ref)
        if not self.found:
            return None
        return CATALOGUE.models[parsed.name], CATALOGUE.resolve(parsed)

    def catalogue(self, timeout_s: float) -> Catalogue:
        assert 0 < timeout_s <= 60
        return CATALOGUE


class FakeClient:
    def __init__(self) -> None:
        self.routes = Routes()
        self.job_statuses = None


class Gateway:
    """Asks a gateway without a server; ``answer`` makes the outcomes."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        client: Any = FakeClient()
        self.client = client
        limits = GatewaySettings(max_timeout_s=8, timeout_s=4)
        self.app = build(Settings(gateway=limits), client).public
        self.app.gateway.pulse.is_up = True  # nothing asks Redis here
        self.asked: list[tuple[str, list[Any], float]] = []
        self.answer: Callable[[str, list[Any]], list[Any]] = lambda ref, items: [
            Prediction(model="m", version=1, label="a") for _ in items
        ]

        async def many(gateway: Any, context: Any, ref: str, items: list[Any]) -> list[Any]:
            self.asked.append((ref, items, context.timeout_s))
            context.items = len(items)
            return self.answer(ref, items)

        async def one(gateway: Any, context: Any, ref: str, item: Any) -> Any:
            (outcome,) = await many(gateway, context, ref, [item])
            if not isinstance(outcome, Prediction):
                raise outcome
            return outcome

        monkeypatch.setattr(routes, "predict_many", many)
        monkeypatch.setattr(routes, "predict_one", one)

    def __call__(
        self, *texts: str, path: str = "/v2/models/m/infer", method: str = "POST",
        headers: tuple[tuple[bytes, bytes], ...] = (), **request: Any,
    ) -> tuple[int, dict[bytes, bytes], Any]:
        tensor = {"name": "text", "datatype": "BYTES", "shape": [len(texts)], "data": list(texts)}
        data = json.dumps({"inputs": [tensor], **request}).encode()
        return asyncio.run(self._ask(method, path, headers, data))

    async def _ask(self, method: str, path: str, headers: Any, data: bytes) -> Any:
        sent: list[Any] = []

        async def receive() -> Any:
            return {"type": "http.request", "body": data, "more_body": False}

        async def send(message: Any) -> None:
            sent.append(message)

        scope = {
            "type": "http", "method": method, "path": path, "raw_path": path.encode(),
            "query_string": b"", "headers": list(headers), "root_path": "", "scheme": "http",
            "http_version": "1.1", "client": ("127.0.0.1", 1), "server": ("127.0.0.1", 2),
        }
        await self.app(scope, receive, send)
        body = b"".join(message.get("body", b"") for message in sent[1:])
        return sent[0]["status"], dict(sent[0]["headers"]), json.loads(body)


@pytest.fixture
def gateway(monkeypatch: pytest.MonkeyPatch) -> Gateway:
    return Gateway(monkeypatch)


def test_one_and_many(gateway: Gateway) -> None:
    assert gateway("x", id="7")[2] == {
        "model_name": "m", "model_version": "1", "id": "7",
        "outputs": [{"name": "label", "datatype": "BYTES", "shape": [1], "data": ["a"]}],
    }
    assert gateway("x", "y")[2]["outputs"][0]["data"] == ["a", "a"]
    assert [items for _, items, _ in gateway.asked] == [["x"], ["x", "y"]]


@pytest.mark.parametrize(("texts", "aside"), [(1, False), (30_000, True)])
def test_many_texts_do_not_hold_up_the_loop(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch, texts: int, aside: bool
) -> None:
    decoded: list[int] = []

    def decode(*_: Any) -> Any:
        decoded.append(threading.get_ident())
        raise errors.RequestError("seen")

    monkeypatch.setattr(routes, "decode_request", decode)
    tensor = {"name": "text", "datatype": "BYTES", "shape": [1, texts],
              "parameters": {"binary_data_size": 4 * texts}}
    head = json.dumps({"inputs": [tensor]}).encode()
    headers = ((b"inference-header-content-length", b"%d" % len(head)),)
    status, _, body = asyncio.run(gateway._ask(
        "POST", "/v2/models/m/infer", headers, head + bytes(4 * texts)
    ))
    assert (status, body) == (400, {"error": "seen"})
    assert (decoded != [threading.get_ident()]) == aside


def test_what_memory_does_not_have_is_looked_up(gateway: Gateway) -> None:
    gateway.client.routes.found = False
    assert gateway("x")[0] == 200
    status, _, body = gateway("x", path="/v2/models/other/infer")
    assert (status, list(body)) == (404, ["error"])


@pytest.mark.parametrize(("path", "ref"), [
    ("/v2/models/m/infer", "m"),
    ("/v2/models/m/versions/1/infer", "m@1"),
    ("/v2/models/m/versions/champion/infer", "m@champion"),
])
def test_versions_in_paths(gateway: Gateway, path: str, ref: str) -> None:
    assert gateway("x", path=path)[0] == 200
    assert gateway.asked[0][0] == ref


@pytest.mark.parametrize(("path", "status"), [
    ("/v2/models/m/versions/9/infer", 404),
    ("/v2/models/m/versions//infer", 404),
    ("/v2/models/m/versions/1/2/infer", 404),
    ("/v2/models/m/variants/1/infer", 404),
    ("/v2/models/m/infer/infer", 404),
    ("/v2/models/../infer", 400),
    ("/v2/models/m@1/infer", 400),
    ("/v2/models/M/infer", 400),
    ("/v2/nothing", 404),
    ("/v2/models/m/versions/1/nothing", 404),
    ("/v2", 405),
    ("/v2/models/m", 405),
])
def test_paths_that_are_none(gateway: Gateway, path: str, status: int) -> None:
    found, headers, body = gateway("x", path=path)
    assert found == status
    assert list(body) == ["error"]
    assert headers[b"content-type"] == b"application/json"
    assert b"x-request-id" in headers
    assert gateway.asked == []


def test_other_methods_are_refused(gateway: Gateway) -> None:
    status, headers, body = gateway("x", method="GET")
    assert (status, headers[b"allow"], list(body)) == (405, b"POST", ["error"])


def test_the_first_bad_item_fails_the_request(gateway: Gateway) -> None:
    good = Prediction(model="m", version=1, label="a")
    for outcomes, status, said in (
        ([good, errors.InvalidItem("no text")], 422, "item 1: no text"),
        ([errors.ModelFailed("it broke"), good], 500, "item 0: it broke"),
        ([errors.InvalidItem("no text")], 422, "item 0: no text"),
        ([good, errors.PayloadTooLarge("long")], 413, "item 1: long"),
        ([good, errors.DeadlineExceeded("late")], 504, "late"),
        ([good, errors.BrokerError("redis://secret")], 503, "cannot be reached"),
    ):
        gateway.answer = lambda ref, items, outcomes=outcomes: outcomes  # type: ignore[misc]
        found, _, body = gateway(*["x"] * len(outcomes))
        assert found == status
        assert said in body["error"]
        assert "secret" not in body["error"]


def test_an_overloaded_model_says_when_to_come_again(gateway: Gateway) -> None:
    gateway.answer = lambda ref, items: [errors.Overloaded("too much waits", 1.2) for _ in items]
    for texts in (["x"], ["x", "y"]):
        status, headers, body = gateway(*texts)
        assert (status, headers[b"retry-after"]) == (429, b"2")
        assert body == {"error": "too much waits"}


def test_a_promotion_in_between_is_no_mixture(gateway: Gateway) -> None:
    def answer(ref: str, items: list[Any]) -> list[Any]:
        versions = [2] * len(items) if ref == "m@2" else [1, 2]
        return [Prediction(model="m", version=n, label="a" if n == 1 else 1) for n in versions]

    gateway.answer = answer
    _, _, body = gateway("x", "y")
    assert [ref for ref, _, _ in gateway.asked] == ["m", "m@2"]
    assert body["model_version"] == "2"
    (label,) = body["outputs"]
    assert (label["datatype"], label["data"]) == ("INT64", [1, 1])


def test_outputs_are_those_of_the_version_that_answered(gateway: Gateway) -> None:
    gateway.answer = lambda ref, items: [Prediction(model="m", version=2, label=1)]
    _, _, body = gateway("x", outputs=[{"name": "label"}])
    assert body["model_version"] == "2"
    assert body["outputs"][0]["datatype"] == "INT64"


@pytest.mark.parametrize(("timeout_us", "header_ms", "seconds"), [
    (None, None, 4), (0, None, 4), (2_500_000, None, 2.5), (10**12, None, 8),
    (2_500_000, 500, 0.5), (2_500_000, 6_000, 2.5), (None, 6_000, 6), (None, 10**6, 8),
])
def test_the_time_of_a_request(
    gateway: Gateway, timeout_us: int | None, header_ms: int | None, seconds: float
) -> None:
    parameters = {} if timeout_us is None else {"timeout": timeout_us}
    header = () if header_ms is None else ((b"x-request-timeout-ms", b"%d" % header_ms),)
    assert gateway("x", parameters=parameters, headers=header)[0] == 200
    assert gateway.asked[0][2] == pytest.approx(seconds)


def test_a_body_that_is_nested_too_deep(gateway: Gateway) -> None:
    deep: Any = 1
    for _ in range(40):
        deep = [deep]
    status, _, body = gateway("x", parameters={"deep": deep})
    assert status == 400
    assert "max_depth" in body["error"]


def test_statistics_count_what_was_answered_and_what_was_not(gateway: Gateway) -> None:
    gateway("x", "y")
    gateway("x", outputs=[{"name": "nothing"}])
    (one, two) = gateway.app.gateway.inferences.to_wire([("m", 1), ("m", 2)])["model_stats"]
    assert (one["inference_count"], two["inference_count"]) == (2, 0)
    assert one["inference_stats"]["success"]["count"] == 1
    assert one["inference_stats"]["fail"]["count"] == 1
    assert two["last_inference"] == 0 < one["last_inference"]


def test_statistics_have_every_field_of_the_extension() -> None:
    counted = Statistics()
    for items, passes, cache in ((1, 0.25, ""), (1, 0.75, "miss"), (0, 0.0, "hit")):
        counted.succeeded("m", 1, Answered(
            items=items, seconds=0.5, passes=passes, queue_s=0.25, compute_s=0.125, cache=cache,
        ))
    (one,) = counted.to_wire([("m", 1)])["model_stats"]
    assert one.keys() == {
        "name", "version", "last_inference", "inference_count", "execution_count",
        "inference_stats", "batch_stats",
    }
    assert (one["inference_count"], one["execution_count"], one["batch_stats"]) == (2, 1, [])
    assert one["inference_stats"] == {
        "success": {"count": 3, "ns": 1_500_000_000}, "fail": {"count": 0, "ns": 0},
        "queue": {"count": 3, "ns": 750_000_000},
        "compute_input": {"count": 2, "ns": 0}, "compute_output": {"count": 2, "ns": 0},
        "compute_infer": {"count": 2, "ns": 375_000_000},  # the counts of the three are equal
        "cache_hit": {"count": 1, "ns": 500_000_000}, "cache_miss": {"count": 1, "ns": 0},
    }


@pytest.mark.parametrize(("path", "data_type"), [
    ("/v2/models/m/config", "TYPE_STRING"), ("/v2/models/m/versions/next/config", "TYPE_INT64"),
])
def test_the_configuration_is_of_one_version(gateway: Gateway, path: str, data_type: str) -> None:
    assert gateway(path=path, method="GET")[2] == {
        "name": "m", "platform": "celeriac_echo", "backend": "echo", "version_policy": {"all": {}},
        "max_batch_size": 0,
        "input": [{"name": "text", "data_type": "TYPE_STRING", "dims": [-1]}],
        "output": [{"name": "label", "data_type": data_type, "dims": [-1]}],
        "response_cache": {"enable": False},
    }


def test_without_a_version_there_is_no_configuration(gateway: Gateway) -> None:
    status, _, body = gateway(path="/v2/models/m/versions/9/config", method="GET")
    assert (status, list(body)) == (404, ["error"])


def test_what_a_client_of_kserve_asks_by_default_is_not_offered(gateway: Gateway) -> None:
    status, _, body = gateway(path="/v1/models/m:predict")
    assert (status, body["error"]["code"]) == (404, "not_found")
    assert "set the client to V2" in body["error"]["message"]


@pytest.mark.parametrize("path", ["/v2", "/v2/"])
def test_the_server_has_two_addresses(gateway: Gateway, path: str) -> None:
    """The text of the protocol says ``v2``, its OpenAPI document ``/v2/``."""
    status, _, body = gateway(path=path, method="GET")
    assert (status, body["name"]) == (200, "celeriac")
