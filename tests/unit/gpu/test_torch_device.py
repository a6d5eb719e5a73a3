"""The path to a GPU and back, with a stand-in for the few calls of torch.cuda that it makes."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from celeriac import errors, passes, release, runtimes, scoring
from celeriac.optimize import measuring
from celeriac.registry.manifest import Architecture, ModelVersion, OutputSchema, Serving
from celeriac.registry.store import Registry
from celeriac.runtimes import LoadOptions
from celeriac.runtimes.architectures import MLP, DigitCNN
from celeriac.runtimes.ceiling import Ceiling
from celeriac.runtimes.torch import TorchModel
from celeriac.runtimes.torch_device import SLICE_ROWS, CudaLink, Engine, Link, trouble


class StandIn:
    """torch.cuda: notes what is asked of it, in order."""

    def __init__(self, capability: tuple[int, int] = (8, 0)) -> None:
        self.capability = capability
        self.calls: list[str] = []
        self.entered = 0

    def Stream(self, device: Any) -> str:
        self.calls.append("stream")
        return "the stream"

    @contextlib.contextmanager
    def stream(self, stream: str) -> Iterator[None]:
        assert stream == "the stream"
        self.entered += 1
        yield
        self.entered -= 1

    def Event(self) -> StandIn:
        return self

    def record(self, stream: str) -> None:
        assert stream == "the stream"
        self.calls.append("record")

    def synchronize(self, device: Any = None) -> None:
        self.calls.append("await" if device is None else "settle")

    def empty_cache(self) -> None:
        self.calls.append("empty")

    def get_device_capability(self, device: Any) -> tuple[int, int]:
        return self.capability


class Far(CudaLink):
    """A link that takes itself for one to a GPU; its tensors are the CPU's."""

    def __init__(self, cuda: StandIn) -> None:
        super().__init__(torch, "cpu", cuda, pins=False)

    @property
    def kind(self) -> str:
        return "cuda"


class Short(nn.Module):
    """Has memory for so many rows; a row of 13 never fits."""

    def __init__(self, rows: int, error: BaseException) -> None:
        super().__init__()
        self.rows, self.error = rows, error
        self.tried: list[int] = []

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        self.tried.append(len(inputs))
        if len(inputs) > self.rows or (inputs == 13).any():
            raise self.error
        return inputs[:, 0] * 2


CUDA_SHORT = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
CPU_SHORT = RuntimeError("[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate "
                         "memory: you tried to allocate 4 bytes")
LOST = torch.AcceleratorError("CUDA error: device-side assert triggered\nCUDA kernel errors ...")


@pytest.fixture(autouse=True)
def modes() -> Iterator[None]:
    backends = (
        torch.backends.cuda.matmul, torch.backends.cudnn.conv, torch.backends.cudnn.rnn
    )
    before = [backend.fp32_precision for backend in backends]
    yield
    for backend, mode in zip(backends, before, strict=True):
        backend.fp32_precision = mode


def rows(count: int) -> np.ndarray[Any, Any]:
    return np.arange(count, dtype=np.float32).reshape(-1, 1) + 100


@pytest.mark.parametrize("link", [Link(torch, "cpu"), Far(StandIn())], ids=["cpu", "cuda"])
def test_both_ways_give_the_same(link: Link) -> None:
    torch.manual_seed(1)
    network = MLP(4, 3).eval()
    inputs = np.random.default_rng(1).normal(size=(2 * SLICE_ROWS + 5, 4)).astype(np.float32)
    (found,) = Engine(network, link).run(inputs)
    with torch.inference_mode():
        expected = network(torch.tensor(inputs)).numpy()
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_a_slice_is_awaited_when_the_next_one_is_under_way() -> None:
    cuda = StandIn()
    engine = Engine(Short(4, CUDA_SHORT), Far(cuda))
    engine.ceiling = Ceiling(4)
    (found,) = engine.run(rows(10))
    assert found.tolist() == [2.0 * (100 + row) for row in range(10)]
    assert cuda.calls == [
        "stream", "settle", "record", "record", "await", "record", "await", "await"
    ]
    assert cuda.entered == 0


def test_images_go_channels_last_and_come_back_the_same() -> None:
    class Seen(DigitCNN):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            assert images.is_contiguous(memory_format=torch.channels_last)
            assert self.features[3].weight.is_contiguous(memory_format=torch.channels_last)
            return super().forward(images)

    torch.manual_seed(1)
    network = Seen().eval()
    images = np.random.default_rng(1).normal(size=(5, 1, 8, 8)).astype(np.float32)
    with torch.inference_mode():
        expected = DigitCNN.forward(network, torch.tensor(images)).numpy()
    engine = Engine(network, Far(StandIn()))
    assert engine.channels_last
    np.testing.assert_allclose(engine.run(images)[0], expected, rtol=1e-4, atol=1e-5)
    assert not Engine(DigitCNN().eval(), Link(torch, "cpu")).channels_last


@pytest.mark.parametrize(
    ("precision", "capability", "chosen"),
    [
        ("float32", (9, 0), None), ("auto", (9, 0), torch.bfloat16),
        ("auto", (7, 5), torch.float16), ("auto", (6, 1), None),
    ],
)
def test_autocast_is_what_the_gpu_has_units_for(
    precision: str, capability: tuple[int, int], chosen: torch.dtype | None
) -> None:
    engine = Engine(MLP(2, 1).eval(), Far(StandIn(capability)), precision=precision)
    assert engine.autocast is chosen


def test_autocast_is_about_as_good_on_the_cpu() -> None:
    torch.manual_seed(1)
    network = MLP(16, 4).eval()
    inputs = np.random.default_rng(1).normal(size=(64, 16)).astype(np.float32)
    (exact,) = Engine(network, Link(torch, "cpu")).run(inputs)
    engine = Engine(network, Link(torch, "cpu"), precision="bfloat16")
    assert engine.autocast is torch.bfloat16
    (found,) = engine.run(inputs)
    assert found.dtype == np.float32
    assert not np.array_equal(found, exact)
    np.testing.assert_allclose(found, exact, atol=0.02)


@pytest.mark.parametrize("error", [CUDA_SHORT, CPU_SHORT, MemoryError("short")])
def test_short_memory_halves_the_batch_and_is_remembered(error: BaseException) -> None:
    now_s = [0.0]
    cuda, network = StandIn(), Short(100, error)
    engine = Engine(network, Far(cuda), clock=lambda: now_s[0])
    (found,) = engine.run(rows(1_000))
    assert found.tolist() == [2.0 * (100 + row) for row in range(1_000)]
    assert network.tried[:5] == [1_000, 500, 250, 125, 62]
    assert cuda.calls.count("empty") == 4
    network.tried.clear()
    engine.run(rows(100))
    assert network.tried == [62, 38]  # not tried in vain again ...
    network.tried.clear()
    now_s[0] = 3_600.0
    engine.run(rows(100))
    assert network.tried == [100]  # ... for a while


def test_a_row_that_never_fits_fails_alone() -> None:
    inputs = rows(40)
    inputs[7] = 13
    model = TorchModel(Short(1_000, CUDA_SHORT), OutputSchema(kind="regressor"))
    output, kept, failed = scoring.isolate(model, inputs, len(inputs))
    assert list(failed) == [7]
    assert isinstance(failed[7], errors.ResourceExhausted)
    assert output is not None
    assert len(output.values) == len(kept) == 39


@pytest.mark.parametrize(
    ("error", "what"),
    [
        (CUDA_SHORT, "memory"),
        (CPU_SHORT, "memory"),
        (MemoryError(), "memory"),
        (torch.AcceleratorError("CUDA error: out of memory"), "memory"),
        (LOST, "lost"),
        (torch.AcceleratorError("CUDA error: an illegal memory access was encountered"), "lost"),
        (RuntimeError("CUDA error: unspecified launch failure"), "lost"),
        (RuntimeError("CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling cublasSgemm"),
         "lost"),
        (RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"), "lost"),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied (2x3 and 4x5)"), "other"),
        (ValueError("CUDA error"), "other"),
    ],
)
def test_what_an_error_means(error: BaseException, what: str) -> None:
    assert trouble(error) == what


def test_a_lost_gpu_is_told_to_the_worker_and_no_item_is_blamed() -> None:
    told: list[tuple[Any, str]] = []
    passes.on_device_lost(lambda under_way, reason: told.append((under_way, reason)))
    try:
        model = TorchModel(Short(0, LOST), OutputSchema(kind="regressor"))
        with passes.under_way("net", 3, 5), pytest.raises(errors.DeviceLost, match="lost its GPU"):
            scoring.isolate(model, rows(5), 5)
    finally:
        passes.on_device_lost(None)
    ((under_way, reason),) = told
    assert (under_way.model, under_way.version, under_way.items) == ("net", 3, 5)
    assert reason == "CUDA error: device-side assert triggered"


def test_an_error_of_the_model_is_its_own() -> None:
    with pytest.raises(RuntimeError, match="shapes"):
        Engine(Short(0, RuntimeError("shapes")), Far(StandIn())).run(rows(3))


# --- a version, as it is loaded -------------------------------------------------------------------


@pytest.fixture
def register(tmp_path: Path) -> Callable[..., ModelVersion]:
    def registered(**more: Any) -> ModelVersion:
        torch.manual_seed(1)
        return release.register(
            "net", MLP(3, 2), examples=EXAMPLES, labels=["no", "yes"],
            architecture=Architecture(path="celeriac.runtimes.architectures:MLP",
                                      arguments={"inputs": 3, "outputs": 2}),
            registry=Registry(tmp_path), **more,
        )

    return registered


EXAMPLES = np.random.default_rng(1).normal(size=(12, 3)).astype(np.float32)


def test_a_version_for_the_gpu_is_float32_on_the_cpu(
    register: Callable[..., ModelVersion], tmp_path: Path
) -> None:
    version = register(device="gpu", serving=Serving(precision="bfloat16"))
    scorer = scoring.Scorer.load(Registry(tmp_path), "net", version.version, LoadOptions())
    scorer.check_golden()
    assert scorer.manifest.serving.precision == "bfloat16"


def test_a_version_for_the_cpu_is_in_the_numbers_that_it_names(
    register: Callable[..., ModelVersion], tmp_path: Path
) -> None:
    """As ``celeriac optimize`` registers it."""
    version = register()
    for_cpu = version.model_copy(update={"serving": Serving(precision="bfloat16")})
    answers = []
    for manifest in (version, for_cpu):
        model = runtimes.load(Registry(tmp_path).folder("net", 1), manifest, LoadOptions())
        answers.append(model.predict(EXAMPLES).probabilities)
    assert not np.array_equal(*answers)
    np.testing.assert_allclose(*answers, atol=0.02)


def test_bfloat16_for_the_cpu_has_to_be_compared_first(
    register: Callable[..., ModelVersion], tmp_path: Path
) -> None:
    with pytest.raises(errors.RegistryError, match="celeriac optimize compares"):
        register(serving=Serving(precision="bfloat16"))
    assert Registry(tmp_path).names() == []


def test_a_gpu_that_is_lost_by_a_load_is_told_to_the_worker(
    register: Callable[..., ModelVersion], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    version = register(device="gpu")
    told: list[tuple[Any, str]] = []

    def lose(_link: Link) -> None:
        raise LOST

    monkeypatch.setattr(Link, "settle", lose)
    passes.on_device_lost(lambda under_way, reason: told.append((under_way, reason)))
    try:
        with pytest.raises(errors.DeviceLost, match=r"net@1: .*lost its GPU"):
            scoring.Scorer.load(Registry(tmp_path), "net", version.version, LoadOptions())
    finally:
        passes.on_device_lost(None)
    ((under_way, reason),) = told
    assert (under_way.model, under_way.version, under_way.items) == ("net", 1, 0)
    assert reason == "CUDA error: device-side assert triggered"


def test_golden_answers_of_a_faster_form_are_those_of_the_check(
    register: Callable[..., ModelVersion], tmp_path: Path
) -> None:
    """What is promoted is checked on the CPU, wherever it was measured."""
    version, registry = register(device="gpu"), Registry(tmp_path)
    form = version.model_copy(update={"serving": Serving(precision="bfloat16")})
    folder = registry.folder("net", 1)
    options = LoadOptions()
    fast = scoring.Scorer.open(folder, form, options)
    checked = measuring._on_cpu(fast, str(folder), replace(options, device="cuda"))
    answers = [scoring.essence(answer) for answer in measuring._golden(checked)]
    assert answers == [example.answer for example in version.golden]
