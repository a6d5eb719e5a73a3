"""``celeriac gpu check``: does everything that needs a GPU work on this machine?

On each GPU the checks of :mod:`workers.gpu_probe` run in processes that are pinned as workers are;
then a whole stack with its workers on all GPUs answers, scores a dataset, and survives a kill.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from celeriac import errors
from celeriac.keys import worker_key
from celeriac.registry.store import Registry
from celeriac.settings import BrokerSettings, ModelsSettings, Settings, StackSettings
from producer import Client
from producer.broker import connect
from workers.commands import ROOT
from workers.device_loss import EXIT_CODE
from workers.devices import Gpu, environment_of
from workers.gpu_workers import GPU_ROLES
from workers.stack import Stack
from workers.valkey import free_port

PROBE_S = 300.0
"""Longest run of one probe: the first use of a GPU compiles and loads kernels."""
WAIT_S = 120.0
PLAYED = Gpu(label="0", uuid="GPU-played", name="a CPU in its place", memory_bytes=0)
Outcome = Literal["ok", "failed", "not run"]
_IN_ONE = ("pinning", "parity", "autocast", "throughput")
_ALONE = ("memory", "loss")
"""Checks that spoil their process."""


@dataclass(frozen=True, kw_only=True)
class Finding:
    """What one check found."""

    where: str
    """``GPU 0``, or ``all``."""
    check: str
    outcome: Outcome
    told: str


def check(gpus: Sequence[Gpu], device: str) -> Iterator[Finding]:
    """Run all checks, one after the other; ``device`` is ``cuda``, or ``cpu`` to play them."""
    for gpu in gpus:
        for names in (_IN_ONE, *((name,) for name in _ALONE)):
            yield from _probe(gpu, device, names)
    yield _guarded("all", "workers", lambda: _try_workers(gpus, device))


def _probe(gpu: Gpu, device: str, names: Sequence[str]) -> Iterator[Finding]:
    where = f"GPU {gpu.label}"
    command = [sys.executable, "-m", "workers.gpu_probe", device, *names]
    try:
        ran = subprocess.run(  # noqa: S603 - our own command
            command, env=os.environ | environment_of(gpu), cwd=ROOT, capture_output=True,
            text=True, timeout=PROBE_S, check=False,
        )
    except subprocess.TimeoutExpired:
        yield from (
            Finding(where=where, check=name, outcome="failed", told=f"no end after {PROBE_S:g} s")
            for name in names
        )
        return
    said = (line for line in ran.stdout.splitlines() if line.startswith("{"))  # logs are there too
    found = {one["check"]: one for one in map(json.loads, said)}
    for name in names:
        if name == "loss" and name not in found and ran.returncode == EXIT_CODE:
            told = f"the process ended with exit code {EXIT_CODE}, so a fresh one can begin"
            found[name] = {"outcome": "ok", "told": told}
        one = found.get(name) or {"outcome": "failed", "told": _died(ran)}
        yield Finding(where=where, check=name, outcome=one["outcome"], told=one["told"])


def _died(ran: subprocess.CompletedProcess[str]) -> str:
    last = ran.stderr.strip().rpartition("\n")[2] or "it said nothing"
    return f"the probe ended with exit code {ran.returncode}: {last}"


def _guarded(where: str, name: str, run: Callable[[], str]) -> Finding:
    try:
        return Finding(where=where, check=name, outcome="ok", told=run())
    except Exception as error:  # noqa: BLE001 - whatever it is, the check has failed
        told = error.message if isinstance(error, errors.CeleriacError) else errors.told(error)
        return Finding(where=where, check=name, outcome="failed", told=told)


# --- a stack on all GPUs ----------------------------------------------------------------------


def _try_workers(gpus: Sequence[Gpu], device: str) -> str:
    with tempfile.TemporaryDirectory(prefix="celeriac-gpu-") as folder:
        settings = _settings(Path(folder))
        _register(Registry(settings.models.root), plays=device == "cpu")
        with Stack(
            settings, roles=("maintenance",), gpus=gpus, flower=False, gateway=False, beat=False
        ) as stack, Client(url=stack.url, timeout_s=WAIT_S) as client:
            _predict(client, 64)
            _score_dataset(client, Path(folder))
            for gpu in gpus:
                stack.kill(f"realtime.gpu-{gpu.label}", signal.SIGKILL)
            stack.wait_ready(WAIT_S)
            _predict(client, 64)
            names = _workers_on(stack, gpus)
    played = " (played: an echo model without CUDA)" if device == "cpu" else ""
    return f"{', '.join(names)}: 64 items, a dataset of 1,000 rows, and again after a kill{played}"


def _settings(folder: Path) -> Settings:
    return Settings(
        broker=BrokerSettings(),
        stack=StackSettings(state_dir=folder / "state", redis_port=free_port(), metrics_port=0),
        models=ModelsSettings(root=folder / "models"),
    )


def _register(registry: Registry, *, plays: bool) -> None:
    from celeriac.registry.manifest import Column, InputSchema, ModelDraft, OutputSchema

    if plays:
        draft = ModelDraft(
            format="echo", device="gpu", input=InputSchema(kind="any"),
            output=OutputSchema(kind="any"),
        )
        registry.add("probe", lambda _: draft)
    else:
        from celeriac.release import register
        from celeriac.runtimes.architectures import MLP

        schema = InputSchema(
            kind="array", shape=(4,), dtype="float32",
            columns=tuple(Column(name=name) for name in "abcd"),
        )
        register(
            "probe", MLP(4, 1, [32]), examples=[[0.1, 0.2, 0.3, 0.4]], input=schema,
            device="gpu", registry=registry,
        )
    registry.aliases("probe").promote(1, expected=None, who="celeriac gpu check", why="")


def _predict(client: Client, count: int) -> None:
    items = [[n / count, 0.0, 1.0, -1.0] for n in range(count)]
    answers = client.predict_many("probe", items)
    if len(answers) != count:
        raise errors.WorkerError(f"{len(answers)} answers to {count} items")


def _score_dataset(client: Client, folder: Path, rows: int = 1_000) -> None:
    source = folder / "rows.jsonl"
    lines = (json.dumps({"a": n / rows, "b": 0.0, "c": 1.0, "d": -1.0}) for n in range(rows))
    source.write_text("\n".join(lines) + "\n", encoding="utf-8")
    status = client.submit_dataset(str(source), "probe", str(folder / "out")).wait(WAIT_S)
    if str(status.state) != "completed" or status.rows_ok != rows:
        raise errors.JobFailed(f"the dataset is {status.state}: {status.rows_ok} of {rows} rows")


def _workers_on(stack: Stack, gpus: Sequence[Gpu]) -> list[str]:
    """The workers by name, each on its GPU. Raises WorkerError if one is missing or elsewhere."""
    client: Any = connect(stack.settings)
    end_s = time.monotonic() + 30.0
    wanted = {f"{role}-{gpu.label}": gpu.uuid for role in GPU_ROLES for gpu in gpus}
    while True:
        texts = client.mget(client.keys(worker_key("*gpu-*")) or ["-"])
        said = [json.loads(text) for text in texts if text]
        found = {one["hostname"].partition("@")[0]: one["gpu"]["uuid"] for one in said}
        if found == wanted:
            return sorted(found)
        if time.monotonic() > end_s:
            raise errors.WorkerError(f"workers are {found}, and should be {wanted}")
        time.sleep(0.2)
