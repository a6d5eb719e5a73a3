"""``python -m workers.gpu_probe DEVICE CHECK ...``: what a worker does on the GPU that it has.

For ``celeriac gpu check``, which starts it as it starts workers: pinned by its environment. Prints
a line of JSON for each check. DEVICE is ``cuda``, or ``cpu`` to try the checks themselves; what a
CPU cannot do is played by the network then, and the line says so.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from celeriac import errors, passes
from workers.device_loss import DeviceLoss
from workers.devices import pinned

MOST_ERROR = 1e-3
"""Largest difference of a logit between CPU and GPU, both in float32."""
MOST_AUTOCAST_ERROR = 0.03
"""Largest difference of a probability by autocast ..."""
LEAST_AGREEMENT = 0.97
"""... and the share of labels that stay the same, at least: those of networks with random weights,
which are often near a tie."""
BATCHES = (1, 8, 32, 128, 512)
MEASURE_S = 0.3
MEMORY_BYTES = 1_000_000_000
"""What the check of short memory leaves to its process."""


class Mismatch(Exception):
    """A check did not find what it should; the text says what."""


def pinning(device: str) -> str:
    """One GPU, the right one, and CUDA untouched until now."""
    if device == "cpu":
        return _not_run("a CPU is not pinned")
    gpu = pinned(os.environ)
    if gpu is None:
        raise Mismatch("this process was given no GPU")
    torch = _torch(untouched=True)
    if torch.cuda.device_count() != 1:
        raise Mismatch(f"CUDA shows {torch.cuda.device_count()} devices instead of one")
    found = torch.cuda.get_device_properties(0)
    uuid = str(getattr(found, "uuid", ""))
    if gpu.uuid.startswith("GPU-") and uuid not in (gpu.uuid, gpu.uuid.removeprefix("GPU-")):
        raise Mismatch(f"CUDA shows the GPU {uuid} instead of {gpu.uuid}")
    return f"{found.name}, capability {found.major}.{found.minor}, alone"


def parity(device: str) -> str:
    """Float32 on the device answers as float32 on the CPU does."""
    worst = 0.0
    for network, inputs in _networks():
        exact, found = _answers(network, inputs, "cpu"), _answers(network, inputs, device)
        if not np.array_equal(exact.argmax(1), found.argmax(1)):
            raise Mismatch(f"{type(network).__name__}: labels differ between CPU and {device}")
        worst = max(worst, float(np.abs(exact - found).max()))
    if worst > MOST_ERROR:
        raise Mismatch(f"logits differ by {worst:.2g}, more than {MOST_ERROR:g}")
    return f"same labels, logits within {worst:.1g}"


def autocast(device: str) -> str:
    """``precision = "auto"`` keeps labels and, nearly, probabilities."""
    wanted = "bfloat16" if device == "cpu" else "auto"
    chosen, worst, agreement = "", 0.0, 1.0
    for network, inputs in _networks():
        exact = _softmax(_answers(network, inputs, "cpu"))
        engine = _engine(network, device, precision=wanted)
        if engine.autocast is None:
            return "this GPU has no units for it: float32 is used"
        chosen = str(engine.autocast).removeprefix("torch.")
        found = _softmax(engine.run(inputs)[0])
        worst = max(worst, float(np.abs(exact - found).max()))
        agreement = min(agreement, float((exact.argmax(1) == found.argmax(1)).mean()))
    if worst > MOST_AUTOCAST_ERROR or agreement < LEAST_AGREEMENT:
        raise Mismatch(f"{chosen}: probabilities differ by {worst:.2g}, "
                       f"{agreement:.1%} of the labels agree")
    return f"{chosen}: {agreement:.1%} of the labels agree, probabilities within {worst:.1g}"


def memory(device: str) -> str:
    """A batch that does not fit is halved until it does, and answered in full."""
    torch = _torch()
    if device == "cuda":
        total = torch.cuda.get_device_properties(0).total_memory
        torch.cuda.set_per_process_memory_fraction(min(1.0, MEMORY_BYTES / total))
    network = _hungry(torch, at_most=100 if device == "cpu" else 0)
    inputs = np.arange(1_000, dtype=np.float32).reshape(-1, 1)
    engine = _engine(network, device)
    (found,) = engine.run(inputs)
    if not np.array_equal(found, inputs[:, 0]):
        raise Mismatch("the halved batch has other answers")
    rows = engine.ceiling.rows(time.monotonic())
    if rows >= len(inputs):
        raise Mismatch("memory was not short: nothing was tried")
    played = " (played: the network refuses more than 100)" if device == "cpu" else ""
    return f"1,000 rows answered, {rows} at once{played}"


def throughput(device: str) -> str:
    """Items per second of a small CNN by batch size, in float32 and with autocast."""
    network, inputs = _networks()[0]
    columns = []
    for precision in ("float32", "auto"):
        engine = _engine(network, device, precision=precision)
        if precision == "auto" and engine.autocast is None:
            continue
        speeds = [f"{size}: {_items_per_s(engine, inputs, size):,.0f}" for size in BATCHES]
        columns.append(f"{precision} " + ", ".join(speeds))
    return "items/s by batch; " + "; ".join(columns)


def loss(device: str) -> str:
    """A broken context ends the process with the exit code of a lost GPU; it does not return."""
    torch = _torch()
    DeviceLoss().install()
    module = _breaking(torch, plays=device == "cpu")
    engine = _engine(module, device)
    with passes.under_way("probe", 1, 1):
        engine.run(np.array([[10_000_000.0]], dtype=np.float32))
    raise Mismatch("the context survived an assertion of a kernel")


CHECKS: dict[str, Callable[[str], str]] = {
    "pinning": pinning, "parity": parity, "autocast": autocast, "memory": memory,
    "throughput": throughput, "loss": loss,
}


class _NotRun(Exception):
    """The device cannot do it; the text says why."""


def _not_run(why: str) -> str:
    raise _NotRun(why)


def _torch(*, untouched: bool = False) -> Any:
    early = "torch" in sys.modules
    torch: Any = importlib.import_module("torch")
    if untouched and (early or torch.cuda.is_initialized()):
        raise Mismatch("CUDA was in use before this process had its GPU")
    return torch


def _networks() -> list[tuple[Any, np.ndarray[Any, Any]]]:
    torch = _torch()
    from celeriac.runtimes.architectures import MLP, DigitCNN

    torch.manual_seed(7)
    noise = np.random.default_rng(7)
    images = noise.random((512, 1, 28, 28), dtype=np.float32)
    rows = noise.normal(size=(512, 32)).astype(np.float32)
    return [(DigitCNN(side=28, width=32), images), (MLP(32, 8, [256, 256]), rows)]


def _hungry(torch: Any, at_most: int) -> Any:
    class Hungry(torch.nn.Module):  # type: ignore[misc]
        """Takes 4 MB for each row; or says so, beyond ``at_most`` rows."""

        def forward(self, rows: Any) -> Any:
            if at_most and len(rows) > at_most:
                raise torch.OutOfMemoryError("played")
            width = 1 if at_most else 1_000_000
            return rows.expand(-1, width).clone().amax(1)

    return Hungry()


def _breaking(torch: Any, *, plays: bool) -> Any:
    class Breaking(torch.nn.Module):  # type: ignore[misc]
        """Looks up a row that is not there, which a kernel asserts; or says so."""

        def forward(self, rows: Any) -> Any:
            if plays:
                raise torch.AcceleratorError("CUDA error: played")
            table = torch.zeros(4, 4, device=rows.device)
            return torch.nn.functional.embedding(rows.long(), table).sum(-1)

    return Breaking()


def _engine(network: Any, device: str, precision: str = "float32") -> Any:
    from celeriac.runtimes.torch_device import Engine, link_to

    torch = _torch()
    return Engine(network.eval().to(device), link_to(torch, device), precision=precision)


def _answers(network: Any, inputs: Any, device: str) -> np.ndarray[Any, Any]:
    (found,) = _engine(network, device).run(inputs)
    return np.asarray(found, dtype=np.float64)


def _softmax(logits: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    powers = np.exp(logits - logits.max(1, keepdims=True))
    return np.asarray(powers / powers.sum(1, keepdims=True), dtype=np.float64)


def _items_per_s(engine: Any, inputs: Any, size: int) -> float:
    batch = inputs[:size]
    engine.run(batch)  # warm
    began_s, items = time.perf_counter(), 0
    while (seconds := time.perf_counter() - began_s) < MEASURE_S:
        engine.run(batch)
        items += size
    return items / seconds


def main(argv: list[str]) -> None:
    """Run the checks that the command line names."""
    device, names = argv[0], argv[1:]
    for name in names:
        try:
            outcome, told = "ok", CHECKS[name](device)
        except _NotRun as error:
            outcome, told = "not run", str(error)
        except Exception as error:  # noqa: BLE001 - whatever it is, the check has failed
            outcome = "failed"
            told = str(error) if isinstance(error, Mismatch) else errors.told(error)
        sys.stdout.write(json.dumps({"check": name, "outcome": outcome, "told": told}) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main(sys.argv[1:])
