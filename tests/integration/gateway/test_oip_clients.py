"""The Open Inference Protocol, driven by clients that were written elsewhere.

``tritonclient`` (Triton's own, sync and asyncio, JSON and binary) and ``open-inference-openapi``
(generated from the protocol's OpenAPI document) speak to a gateway process over the real stack.
"""

from __future__ import annotations

import asyncio
import io
import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import tritonclient.http as triton
import tritonclient.http.aio as triton_aio
from open_inference.openapi.client import AsyncOpenInferenceClient, OpenInferenceClient
from open_inference.openapi.core.api_error import ApiError
from open_inference.openapi.errors import BadRequestError, NotFoundError
from open_inference.openapi.types import InferenceRequest
from PIL import Image
from tritonclient.utils import InferenceServerException

import celeriac
from celeriac.settings import KeySettings, Settings
from producer import Client
from producer.gateway.keys import digest_of, new_key
from tests.conftest import ROOT, Worker
from tests.integration.gateway.conftest import TEXTS, Http, RunningGateway
from workers.child_settings import environment
from workers.valkey import free_port

EVERY_WAY = pytest.mark.parametrize("binary", [False, True], ids=["json", "binary"])


@pytest.fixture(scope="module")
def port(
    gateway_settings: Settings, gateway_worker: Worker, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[int]:
    """A gateway process as an operator starts it."""
    chosen = free_port()
    log = tmp_path_factory.mktemp("gateway-process") / "gateway.log"
    command = [str(Path(sys.executable).with_name("celeriac")), "gateway", "--port", str(chosen)]
    with log.open("wb") as file:
        process = subprocess.Popen(
            command, cwd=ROOT, env=os.environ | environment(gateway_settings),
            stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.STDOUT,
        )
    try:
        wait_live(process, chosen, log.read_text)
        yield chosen
    finally:
        process.terminate()
        assert process.wait(20) == 0, log.read_text()


def wait_live(process: subprocess.Popen[bytes], port: int, log: Any) -> None:
    deadline = time.monotonic() + 30
    while True:
        assert process.poll() is None, log()
        assert time.monotonic() < deadline, log()
        try:
            if Http(port).get("/v2/health/ready").status == 200:
                return
        except OSError:
            time.sleep(0.05)


@pytest.fixture(scope="module")
def client(port: int) -> Iterator[triton.InferenceServerClient]:
    with triton.InferenceServerClient(f"127.0.0.1:{port}") as one:
        yield one


@pytest.fixture(scope="module")
def ours(gateway_settings: Settings, gateway_worker: Worker) -> Iterator[Client]:
    """Our own client: the answers must be the same."""
    with Client(settings=gateway_settings) as one:
        yield one


def texts(values: list[str] | list[bytes], binary: bool, name: str = "text") -> Any:
    array = np.array(values, dtype=object)
    tensor = triton.InferInput(name, list(array.shape), "BYTES")
    return tensor.set_data_from_numpy(array, binary_data=binary)


def numbers(array: Any, datatype: str, binary: bool, name: str = "input") -> Any:
    tensor = triton.InferInput(name, list(array.shape), datatype)
    return tensor.set_data_from_numpy(array, binary_data=binary)


def wanted(binary: bool, *names: str) -> list[Any]:
    return [triton.InferRequestedOutput(name, binary_data=binary) for name in names]


def png(pixels: Any) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


# --- health and metadata -------------------------------------------------------------------------


def test_health(client: triton.InferenceServerClient) -> None:
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("reviews")
    assert client.is_model_ready("reviews", "1")
    assert client.is_model_ready("reviews", "champion")
    assert not client.is_model_ready("nothing")
    assert not client.is_model_ready("reviews", "7")


def test_metadata(client: triton.InferenceServerClient) -> None:
    server = client.get_server_metadata()
    assert (server["name"], server["version"]) == ("celeriac", celeriac.__version__)
    assert "binary_tensor_data" in server["extensions"]
    assert client.get_model_metadata("reviews", "1") == client.get_model_metadata("reviews") == {
        "name": "reviews", "versions": ["1"], "platform": "celeriac_sklearn",
        "inputs": [{"name": "text", "datatype": "BYTES", "shape": [-1]}],
        "outputs": [
            {"name": "label", "datatype": "BYTES", "shape": [-1]},
            {"name": "probability", "datatype": "FP64", "shape": [-1]},
        ],
        "properties": {"input": "text", "version": "1"},
    }
    with pytest.raises(InferenceServerException, match="no model named 'nothing'") as caught:
        client.get_model_metadata("nothing")
    assert caught.value.status() == "404"
    with pytest.raises(InferenceServerException, match="7"):
        client.get_model_metadata("reviews", "7")


def test_the_configuration_says_what_the_metadata_says(
    client: triton.InferenceServerClient,
) -> None:
    assert "model_configuration" in client.get_server_metadata()["extensions"]
    for name in ("echo", "reviews", "table", "rent", "digits", "pixels"):
        config, described = client.get_model_config(name, "1"), client.get_model_metadata(name)
        assert (config["name"], config["platform"]) == (name, described["platform"])
        assert config["max_batch_size"] == 0  # or the dims would lack the axis of the items
        assert config["response_cache"] == {"enable": name == "reviews"}
        for side in ("input", "output"):
            assert [
                (one["name"], one["data_type"].replace("STRING", "BYTES"), one["dims"])
                for one in config[side]
            ] == [
                (one["name"], f"TYPE_{one['datatype']}", one["shape"])
                for one in described[f"{side}s"]
            ]
    with pytest.raises(InferenceServerException, match="no model named 'nothing'") as caught:
        client.get_model_config("nothing")
    assert caught.value.status() == "404"


def test_repository_index_and_statistics(client: triton.InferenceServerClient) -> None:
    index = client.get_model_repository_index()
    assert {"name": "pixels", "version": "1", "state": "READY", "reason": ""} in index

    def counts(found: dict[str, Any]) -> dict[str, Any]:
        (one,) = found["model_stats"]
        return dict(one)

    before = counts(client.get_inference_statistics("digits"))
    client.infer("digits", [numbers(np.zeros((3, 64)), "FP64", True)])
    with pytest.raises(InferenceServerException):
        client.infer("digits", [numbers(np.zeros((3, 63)), "FP64", True)])
    after = counts(client.get_inference_statistics("digits", "1"))
    assert (after["name"], after["version"]) == ("digits", "1")
    assert after["inference_count"] == before["inference_count"] + 3
    assert 1 <= after["execution_count"] - before["execution_count"] <= 3
    success, fail = after["inference_stats"]["success"], after["inference_stats"]["fail"]
    assert success["count"] == before["inference_stats"]["success"]["count"] + 1
    assert 0 < success["ns"] < 60e9
    for part in ("queue", "compute_infer"):
        spent = after["inference_stats"][part], before["inference_stats"][part]
        assert 0 < spent[0]["ns"] - spent[1]["ns"] <= success["ns"]
    assert fail["count"] == before["inference_stats"]["fail"]["count"] + 1
    assert abs(after["last_inference"] - time.time() * 1000) < 60_000
    before = counts(client.get_inference_statistics("reviews"))
    for _ in range(2):
        client.infer("reviews", [texts([TEXTS[0]], True)])
    after = counts(client.get_inference_statistics("reviews"))
    hits, misses = (
        after["inference_stats"][part]["count"] - before["inference_stats"][part]["count"]
        for part in ("cache_hit", "cache_miss")
    )
    assert (1 <= hits <= 2, hits + misses) == (True, 2)
    assert after["inference_count"] == before["inference_count"] + misses  # what was computed
    every = client.get_inference_statistics()["model_stats"]
    assert {one["name"] for one in every} >= {"digits", "echo", "pixels", "reviews", "table"}
    with pytest.raises(InferenceServerException):
        client.get_inference_statistics("nothing")


def test_what_is_not_offered_is_said(client: triton.InferenceServerClient) -> None:
    for ask, what in (
        (lambda: client.load_model("reviews"), "loading and unloading of models"),
        (lambda: client.unload_model("reviews"), "loading and unloading of models"),
        (client.get_system_shared_memory_status, "shared memory"),
        (lambda: client.register_system_shared_memory("a", "/b", 8), "shared memory"),
        (client.get_cuda_shared_memory_status, "shared memory"),
        (lambda: client.get_trace_settings("reviews"), "settings of traces and logs"),
        (client.get_log_settings, "settings of traces and logs"),
    ):
        with pytest.raises(InferenceServerException, match=f"not offered here: {what}") as caught:
            ask()
        assert caught.value.status() == "404"


# --- inference -----------------------------------------------------------------------------------


@EVERY_WAY
def test_text(client: triton.InferenceServerClient, ours: Client, binary: bool) -> None:
    values = [*TEXTS[:2], "", "ünïcode \U0001f600"]
    for shape in ((4,), (4, 1)):
        given = texts(np.array(values, dtype=object).reshape(shape), binary)
        answer = client.infer(
            "reviews", [given], outputs=wanted(binary, "probability", "label"), request_id="a-1",
        )
        expected = ours.predict_many("reviews", values)
        labels = [one.decode() if binary else one for one in answer.as_numpy("label")]
        assert labels == [one.label for one in expected]
        assert np.allclose(answer.as_numpy("probability"), [one.probability for one in expected])
        body = answer.get_response()
        assert (body["id"], body["model_name"], body["model_version"]) == ("a-1", "reviews", "1")
        assert [output["name"] for output in body["outputs"]] == ["probability", "label"]
        assert all(("data" in output) != binary for output in body["outputs"])


def test_without_outputs_all_of_them_come_in_binary(client: triton.InferenceServerClient) -> None:
    answer = client.infer("reviews", [texts([TEXTS[0].encode()], True)])
    assert answer.as_numpy("label").tolist() == [b"positive"]
    assert 0.5 < answer.as_numpy("probability")[0] <= 1
    assert answer.as_numpy("nothing") is None
    assert answer.get_output("label")["parameters"]["binary_data_size"] == 12


def test_outputs_may_come_in_both_ways(client: triton.InferenceServerClient) -> None:
    outputs = wanted(True, "label") + wanted(False, "probability")
    answer = client.infer("reviews", [texts([TEXTS[0]], True)], outputs=outputs)
    assert answer.as_numpy("label").tolist() == [b"positive"]
    assert answer.get_output("probability")["data"][0] > 0.5


@EVERY_WAY
@pytest.mark.parametrize("datatype", ["FP16", "FP32", "FP64", "INT8", "INT64", "UINT8", "UINT64"])
def test_tables(
    client: triton.InferenceServerClient, ours: Client, binary: bool, datatype: str
) -> None:
    rows = np.array([[0, 0], [5, 5], [1, 3]]).astype(triton_dtype(datatype))
    expected = [one.label for one in ours.predict_many("table", rows.tolist())]
    answer = client.infer(
        "table", [numbers(rows, datatype, binary)], outputs=wanted(binary, "label")
    )
    assert answer.as_numpy("label").tolist() == expected
    assert answer.get_output("label")["datatype"] == "INT64"
    columns = [numbers(rows[:, n].copy(), datatype, binary, f"x{n}") for n in (1, 0)]
    assert client.infer("table", columns).as_numpy("label").tolist() == expected


@EVERY_WAY
def test_a_table_of_named_columns(
    client: triton.InferenceServerClient, ours: Client, binary: bool
) -> None:
    described = client.get_model_metadata("rent")
    assert [(one["name"], one["datatype"]) for one in described["inputs"]] == [
        ("rooms", "INT64"), ("area", "FP64"), ("district", "BYTES"), ("balcony", "BOOL"),
    ]
    items = [
        {"rooms": 2, "area": 50.5, "district": "south", "balcony": True},
        {"rooms": 4, "area": 110.0, "district": "north", "balcony": False},
    ]
    given = []
    for column in described["inputs"]:
        name, datatype = column["name"], column["datatype"]
        values = [item[name] for item in items]
        given.append(
            texts(values, binary, name) if datatype == "BYTES"
            else numbers(np.array(values), datatype, binary, name)
        )
    answer = client.infer("rent", given, outputs=wanted(binary, "value"))
    expected = [one.value for one in ours.predict_many("rent", items)]
    assert np.allclose(answer.as_numpy("value"), expected)
    with pytest.raises(InferenceServerException, match="lacks the inputs: balcony"):
        client.infer("rent", given[:3])


def triton_dtype(datatype: str) -> Any:
    return np.dtype(datatype.lower().replace("fp", "float"))


def test_bf16(client: triton.InferenceServerClient, ours: Client) -> None:
    import ml_dtypes

    rows = np.array([[0, 0], [5, 5]]).astype(ml_dtypes.bfloat16)
    answer = client.infer("table", [numbers(rows, "BF16", True)])
    expected = [one.label for one in ours.predict_many("table", [[0, 0], [5, 5]])]
    assert answer.as_numpy("label").tolist() == expected


def test_a_missing_number_is_nan(client: triton.InferenceServerClient) -> None:
    with pytest.raises(InferenceServerException, match="item 1: the model raised ValueError"):
        client.infer("table", [numbers(np.array([[0, 1], [np.nan, 2]]), "FP64", True)])


@EVERY_WAY
def test_arrays(client: triton.InferenceServerClient, ours: Client, binary: bool) -> None:
    rows = np.random.default_rng(5).integers(0, 17, (40, 64)).astype(np.float64)
    answer = client.infer("digits", [numbers(rows, "FP64", binary)])
    expected = ours.predict_many("digits", list(rows))
    assert answer.as_numpy("label").tolist() == [one.label for one in expected]
    found = answer.as_numpy("probability")
    assert np.allclose(found, [one.probability for one in expected])


def test_images(client: triton.InferenceServerClient, ours: Client) -> None:
    pixels = np.random.default_rng(6).integers(0, 256, (3, 8, 8)).astype(np.uint8)
    files = [png(one) for one in pixels]
    expected = [one.label for one in ours.predict_many("pixels", files)]
    by_file = client.infer("pixels", [texts(files, True, "image")])
    assert by_file.as_numpy("label").tolist() == expected
    array = pixels.astype(np.float32) / 255
    for binary in (True, False):
        by_array = client.infer("pixels", [numbers(array, "FP32", binary, "image")])
        assert by_array.as_numpy("label").tolist() == expected
        assert np.allclose(by_array.as_numpy("probability"), by_file.as_numpy("probability"))


@EVERY_WAY
def test_versions_and_aliases(client: triton.InferenceServerClient, binary: bool) -> None:
    for version in ("", "1", "champion"):
        answer = client.infer("reviews", [texts([TEXTS[0]], binary)], model_version=version)
        assert answer.get_response()["model_version"] == "1"
    with pytest.raises(InferenceServerException) as caught:
        client.infer("reviews", [texts([TEXTS[0]], binary)], model_version="9")
    assert caught.value.status() == "404"


@EVERY_WAY
def test_bool_and_anything(client: triton.InferenceServerClient, binary: bool) -> None:
    flags = numbers(np.array([True, False]), "BOOL", binary)
    answer = client.infer("echo", [flags], outputs=wanted(binary, "value"))
    found = [one.decode() if binary else one for one in answer.as_numpy("value")]
    assert found == ["true", "false"]


def test_many_items_in_one_request(client: triton.InferenceServerClient, ours: Client) -> None:
    values = [f"{TEXTS[n % 2]} {n}" for n in range(600)]
    labels = client.infer("reviews", [texts(values, True)]).as_numpy("label")
    assert [one.decode() for one in labels] == [
        one.label for one in ours.predict_many("reviews", values)
    ]


def test_requests_at_the_same_time(port: int) -> None:
    with triton.InferenceServerClient(f"127.0.0.1:{port}", concurrency=8) as client:
        under_way = [
            client.async_infer("reviews", [texts([TEXTS[n % 2]], True)], request_id=str(n))
            for n in range(40)
        ]
        for n, one in enumerate(under_way):
            answer = one.get_result(timeout=30)
            assert answer.get_response()["id"] == str(n)
            label = answer.as_numpy("label")[0]
            assert label == (b"positive" if n % 2 == 0 else b"negative")


def test_priority_and_timeout(client: triton.InferenceServerClient) -> None:
    given = [texts(["never seen before"], True)]
    assert client.infer("reviews", given, priority=1, timeout=5_000_000).as_numpy("label").size
    assert client.infer("reviews", given, timeout=2**60).as_numpy("label").size
    with pytest.raises(InferenceServerException) as caught:
        client.infer("reviews", given, timeout=1)
    assert caught.value.status() == "504"


def test_parameters_of_the_caller_are_no_matter(client: triton.InferenceServerClient) -> None:
    answer = client.infer("reviews", [texts([TEXTS[0]], True)], parameters={"mine": "x", "n": 3})
    assert answer.as_numpy("label").tolist() == [b"positive"]


def test_errors_are_said(client: triton.InferenceServerClient) -> None:
    one = texts([TEXTS[0]], True)
    for model, inputs, outputs, status, said in (
        ("nothing", [one], None, "404", "no model named 'nothing'"),
        ("reviews", [texts(["a"], True, "words")], None, "400", "no input 'words'"),
        ("reviews", [one, one], None, "400", "twice"),
        ("reviews", [one], wanted(True, "score"), "400", "no output 'score'"),
        ("reviews", [one], wanted(True, "label", "label"), "400", "twice"),
        ("reviews", [numbers(np.zeros(1), "FP64", True, "text")], None, "400", "takes BYTES"),
        ("reviews", [texts(["a", b"\xff"], True)], None, "400", "not UTF-8"),
        ("digits", [numbers(np.zeros((2, 8, 8)), "FP64", True)], None, "400", r"shape \[-1, 64\]"),
        ("digits", [numbers(np.full((2, 64), np.nan), "FP64", True)], None, "422", "item 0: "),
        ("pixels", [texts([b"no image"], True, "image")], None, "422", "item 0: .* image"),
        ("reviews", [texts(["a"] * 1_001, True)], None, "413", "1,001 items"),
        ("reviews", [texts(["x" * 17_000_000], True)], None, "413", "16,000,000 bytes"),
    ):
        with pytest.raises(InferenceServerException, match=said) as caught:
            client.infer(model, inputs, outputs=outputs)
        assert caught.value.status() == status, caught.value


def test_with_classes_is_refused(client: triton.InferenceServerClient) -> None:
    output = triton.InferRequestedOutput("label", class_count=2)
    with pytest.raises(InferenceServerException, match="classification is not offered"):
        client.infer("reviews", [texts([TEXTS[0]], True)], outputs=[output])


def test_with_keys(start_gateway: Callable[..., RunningGateway]) -> None:
    keys = {name: new_key() for name in ("reader", "clerk")}
    tables = {
        "reader": KeySettings(sha256=digest_of(keys["reader"])),
        "clerk": KeySettings(sha256=digest_of(keys["clerk"]), scopes=("batch",)),
    }
    running = start_gateway(keys={name: table.model_dump() for name, table in tables.items()})
    given = [texts([TEXTS[0]], True)]
    with triton.InferenceServerClient(f"127.0.0.1:{running.port}") as client:
        assert client.is_server_live()
        assert client.is_server_ready()
        assert not client.is_model_ready("reviews")
        for headers, status in (({}, "401"), ({"Authorization": f"Bearer {keys['clerk']}"}, "403")):
            with pytest.raises(InferenceServerException, match="API key") as caught:
                client.infer("reviews", given, headers=headers)
            assert caught.value.status() == status
        reader = {"Authorization": f"Bearer {keys['reader']}"}
        assert client.is_model_ready("reviews", headers=reader)
        answer = client.infer("reviews", given, headers=reader)
        assert answer.as_numpy("label").tolist() == [b"positive"]


# --- asyncio -------------------------------------------------------------------------------------


@asynccontextmanager
async def asyncio_client(port: int) -> AsyncIterator[Any]:
    client = triton_aio.InferenceServerClient(f"127.0.0.1:{port}")
    try:
        yield client
    finally:
        await client.close()


@EVERY_WAY
def test_tritons_asyncio_client(port: int, binary: bool) -> None:
    async def main() -> None:
        async with asyncio_client(port) as client:
            assert await client.is_server_live()
            assert await client.is_server_ready()
            assert await client.is_model_ready("reviews")
            assert not await client.is_model_ready("nothing")
            assert (await client.get_model_metadata("table"))["inputs"][0]["shape"] == [-1, 2]
            assert await client.get_model_repository_index()
            assert (await client.get_inference_statistics("table"))["model_stats"]
            answers = await asyncio.gather(*(
                client.infer(
                    "reviews", [texts([TEXTS[n % 2]], binary)], request_id=str(n),
                    outputs=wanted(binary, "label"),
                )
                for n in range(20)
            ))
            for n, answer in enumerate(answers):
                label = answer.as_numpy("label")[0]
                text = label.decode() if binary else label
                assert (answer.get_response()["id"], text) == (
                    str(n), "positive" if n % 2 == 0 else "negative",
                )
            with pytest.raises(InferenceServerException, match="no model named"):
                await client.infer("nothing", [texts(["a"], binary)])
            with pytest.raises(InferenceServerException, match="no input"):
                await client.infer("reviews", [texts(["a"], binary, "words")])

    asyncio.run(main())


# --- open-inference-openapi ----------------------------------------------------------------------


def request(**inputs: Any) -> InferenceRequest:
    return InferenceRequest(id="o-1", inputs=[
        {"name": name, "datatype": datatype, "shape": [len(data)], "data": data}
        for name, (datatype, data) in inputs.items()
    ])


def test_the_generated_client(port: int) -> None:
    with httpx.Client() as connection:
        client = OpenInferenceClient(
            base_url=f"http://127.0.0.1:{port}", httpx_client=connection
        )
        client.check_server_liveness()
        client.check_server_readiness()
        client.check_model_version_readiness("reviews", "1")
        assert client.read_server_metadata().name == "celeriac"
        described = client.read_model_version_metadata("table", "1")
        assert [(one.name, one.datatype, one.shape) for one in described.inputs or []] == [
            ("input", "FP64", [-1, 2])
        ]
        answer = client.model_version_infer(
            "reviews", "1", request=request(text=("BYTES", TEXTS[:2]))
        )
        assert (answer.id, answer.model_name, answer.model_version) == ("o-1", "reviews", "1")
        label, probability = answer.outputs
        assert label.data.__root__ == ["positive", "negative"]
        assert len(probability.data.__root__) == 2
        columns = request(x0=("INT64", [0, 5]), x1=("FP32", [0.5, 5.0]))
        answer = client.model_version_infer("table", "1", request=columns)
        assert answer.outputs[0].data.__root__ == [0, 1]
        with pytest.raises(NotFoundError, match="no version 9"):
            client.check_model_version_readiness("reviews", "9")
        with pytest.raises(BadRequestError, match="no input 'x0'"):
            client.model_version_infer("reviews", "1", request=columns)
        for ask in (  # of these it does not expect 404, and raises it as it is
            lambda: client.model_version_infer("nothing", "1", request=columns),
            lambda: client.read_model_version_metadata("nothing", "1"),
        ):
            with pytest.raises(ApiError, match="no model named 'nothing'") as caught:
                ask()
            assert caught.value.status_code == 404


def test_the_generated_asyncio_client(port: int) -> None:
    async def main() -> None:
        async with httpx.AsyncClient() as connection:
            client = AsyncOpenInferenceClient(
                base_url=f"http://127.0.0.1:{port}", httpx_client=connection
            )
            await client.check_server_readiness()
            answer = await client.model_version_infer(
                "reviews", "1", request=request(text=("BYTES", TEXTS[:1]))
            )
            assert answer.outputs[0].data.__root__ == ["positive"]

    asyncio.run(main())
