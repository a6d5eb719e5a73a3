"""HTTP servers that are measured: how each is started, asked, and what its answers contain."""

from __future__ import annotations

import json
import struct
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

from benchmarks.harness import environments
from workers.commands import worker_command

PYTHON = Path(sys.executable)
MODULES = "benchmarks.subjects"
JSON = "application/json"
OWN, CLASSIFY = "Celeriac", "Celeriac, /classify"
PLAIN = "Celeriac, plain scikit-learn"
INFER, BINARY = "Celeriac, /v2 JSON", "Celeriac, /v2 binary"
ASYNC, DEF = "FastAPI, async def", "FastAPI, def"
TWO = "FastAPI, 2 processes"
LITSERVE, MLSERVER, BENTO, RAY = "LitServe", "MLServer", "BentoML", "Ray Serve"
IN_PROCESS = (ASYNC, DEF)
BATCHING = (LITSERVE, MLSERVER, BENTO, RAY)
INSTALL_S = 600.0

Body = Callable[[Any], tuple[bytes, Mapping[str, str]]]
Shown = Callable[[Any], bytes]


@dataclass(frozen=True, kw_only=True)
class HttpSubject:
    """A server under test, with one model."""

    name: str
    model: str
    path: str
    body: Body
    """From an item to a body and its headers."""
    shown: Shown
    """From an item's label to what the answer must contain."""
    processes: Mapping[str, Sequence[str | Path]]
    """Commands by what they are called; ``{port}`` is where the server shall listen."""
    env: Mapping[str, str] = field(default_factory=dict)

    @property
    def key(self) -> str:
        return f"{self.name}/{self.model}"

    def request(self, item: Any, port: int) -> bytes:
        """The whole request for one item."""
        body, headers = self.body(item)
        lines = [f"POST {self.path} HTTP/1.1", f"Host: 127.0.0.1:{port}"]
        headers = {"Content-Type": JSON, **headers, "Content-Length": str(len(body))}
        lines += [f"{name}: {value}" for name, value in headers.items()]
        return "\r\n".join([*lines, "", ""]).encode() + body


def compact(value: Any) -> bytes:
    """JSON as servers write it: no blanks."""
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode()


def json_body(wrap: Callable[[Any], Any]) -> Body:
    """A JSON body of what ``wrap`` makes of an item."""
    return lambda item: (compact(wrap(item)), {})


def labelled(name: str = "label", *, colon: bytes = b":") -> Shown:
    """``"label":"..."``"""
    return lambda label: compact(name) + colon + compact(label)


# --- Celeriac ------------------------------------------------------------------------------------


def own(models: Sequence[str]) -> Iterator[HttpSubject]:
    """The gateway and one worker; the same with its other routes."""
    for model in models:
        yield _own(OWN, model, f"/v1/models/{model}/predict",
                   json_body(lambda item: {"item": item}), labelled())


def own_plain() -> Iterator[HttpSubject]:
    """The text model's version 2, whose recipe refuses the shorter way."""
    yield _own(PLAIN, "text", "/v1/models/text@2/predict",
               json_body(lambda item: {"item": item}), labelled())


def own_routes() -> Iterator[HttpSubject]:
    """The routes of the gateway beside the native one."""
    yield _own(CLASSIFY, "text", "/classify", json_body(lambda item: {"text": item}),
               labelled("category"))
    infer = "/v2/models/text/infer"
    yield _own(INFER, "text", infer, json_body(_v2), lambda label: compact([label]))
    yield _own(BINARY, "text", infer, _v2_binary,
               lambda label: struct.pack("<I", len(label.encode())) + label.encode())


def _own(name: str, model: str, path: str, body: Body, shown: Shown) -> HttpSubject:
    gateway = [PYTHON.with_name("celeriac"), "gateway", "--port", "{port}", "--admin-port", "0"]
    return HttpSubject(
        name=name, model=model, path=path, body=body, shown=shown,
        processes={"worker": worker_command("realtime.cpu"), "server": gateway},
        env={"CELERIAC_GATEWAY_CLASSIFY_MODEL": model},
    )


def _v2(item: Any) -> Any:
    if isinstance(item, str):
        return {"inputs": [{"name": "text", "datatype": "BYTES", "shape": [1], "data": [item]}]}
    return {"inputs": [{"name": "input", "datatype": "FP32", "shape": [1, 8, 8], "data": [item]}]}


def _v2_binary(item: str) -> tuple[bytes, Mapping[str, str]]:
    data = item.encode()
    data = struct.pack("<I", len(data)) + data
    header = compact({
        "inputs": [{"name": "text", "datatype": "BYTES", "shape": [1],
                    "parameters": {"binary_data_size": len(data)}}],
        "parameters": {"binary_data_output": True},
    })
    return header + data, {
        "Content-Type": "application/octet-stream",
        "Inference-Header-Content-Length": str(len(header)),
    }


# --- peers ---------------------------------------------------------------------------------------


def fastapi(models: Sequence[str]) -> Iterator[HttpSubject]:
    """The model in the process of uvicorn, in two ways; and with a process for each core."""
    serve = [PYTHON, "-m", "uvicorn", f"{MODULES}.http_fastapi:app", "--port", "{port}",
             "--loop", "uvloop", "--http", "httptools", "--no-access-log", "--log-level", "warning"]
    for model in models:
        for name, path, more in (
            (ASYNC, "/async", []), (DEF, "/def", []), (TWO, "/async", ["--workers", "2"])
        ):
            yield HttpSubject(
                name=name, model=model, path=path, body=json_body(lambda item: {"item": item}),
                shown=labelled(), processes={"server": [*serve, *more]},
            )


def litserve(home: Path, models: Sequence[str]) -> Iterator[HttpSubject]:
    """Its API process and one worker process."""
    python = _environment(home, "litserve", "litserve==0.2.19", "uvloop==0.23.0")
    for model in models:
        yield HttpSubject(
            name=LITSERVE, model=model, path="/predict",
            body=json_body(lambda item: {"item": item}), shown=labelled(),
            processes={"server": [python, "-m", f"{MODULES}.http_litserve", "{port}"]},
        )


def mlserver(home: Path, models: Sequence[str]) -> Iterator[HttpSubject]:
    """The model in its HTTP process: with a worker process it does not start beside uvloop."""
    python = _environment(home, "mlserver", "mlserver==1.7.1")
    for model in models:
        folder = home / "mlserver" / "models" / model
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "settings.json").write_text(json.dumps({
            "host": "127.0.0.1", "grpc_port": 0, "metrics_endpoint": None, "parallel_workers": 0,
            "debug": False,
        }))
        (folder / "model-settings.json").write_text(json.dumps({
            "name": model, "implementation": f"{MODULES}.http_mlserver.Model",
            "max_batch_size": 32, "max_batch_time": 0.002,
        }))
        yield HttpSubject(
            name=MLSERVER, model=model, path=f"/v2/models/{model}/infer",
            body=json_body(_v2), shown=lambda label: compact([label]),
            processes={"server": [python.with_name("mlserver"), "start", folder]},
            env={"MLSERVER_HTTP_PORT": "{port}"},
        )


def bento(home: Path, models: Sequence[str]) -> Iterator[HttpSubject]:
    """One worker, adaptive batching, no access log."""
    python = _environment(home, "bentoml", "bentoml==1.4.40")
    for model in models:
        yield HttpSubject(
            name=BENTO, model=model, path="/predict",
            body=json_body(lambda item: {"items": [item]}), shown=labelled(colon=b": "),
            processes={"server": [
                python.with_name("bentoml"), "serve", f"{MODULES}.http_bento:Service",
                "--host", "127.0.0.1", "--port", "{port}",
            ]},
            env={"BENTOML_DO_NOT_TRACK": "1", "BENTOML_HOME": str(home / "bentoml" / "home")},
        )


def ray(home: Path, models: Sequence[str]) -> Iterator[HttpSubject]:
    """Its proxy, controller and one replica, with the two cores."""
    python = _environment(home, "ray", "ray[serve]==2.60.0")
    for model in models:
        yield HttpSubject(
            name=RAY, model=model, path="/predict",
            body=json_body(lambda item: {"item": item}), shown=labelled(),
            processes={"server": [python, "-m", f"{MODULES}.http_ray", "{port}"]},
            env={"RAY_USAGE_STATS_ENABLED": "0"},
        )


PEERS = {LITSERVE: litserve, MLSERVER: mlserver, BENTO: bento, RAY: ray}


def _environment(home: Path, name: str, *requirements: str) -> Path:
    return environments.ensure(
        home / name, [*requirements, f"scikit-learn=={version('scikit-learn')}"],
        torch=version("torch").partition("+")[0], limit_s=INSTALL_S,
    )
