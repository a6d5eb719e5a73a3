"""Which numbers a network computes in, by tables."""

from __future__ import annotations

import pytest
import torch

from celeriac.runtimes.precision import autocast_type, float32_mode, wants_channels_last
from celeriac.runtimes.torch_device import set_float32_mode

P100, V100, T4, A100, L4, H100 = (6, 0), (7, 0), (7, 5), (8, 0), (8, 9), (9, 0)


@pytest.mark.parametrize(
    ("wanted", "device", "capability", "chosen"),
    [
        ("float32", "cpu", None, None),
        ("float32", "cuda", H100, None),
        ("auto", "cpu", None, None),
        ("auto", "cuda", P100, None),
        ("auto", "cuda", V100, "float16"),
        ("auto", "cuda", T4, "float16"),
        ("auto", "cuda", A100, "bfloat16"),
        ("auto", "cuda", L4, "bfloat16"),
        ("auto", "cuda", H100, "bfloat16"),
        ("auto", "cuda", None, None),
        ("bfloat16", "cpu", None, "bfloat16"),
        ("bfloat16", "cuda", T4, None),
        ("bfloat16", "cuda", A100, "bfloat16"),
        ("float16", "cpu", None, None),
        ("float16", "cuda", P100, None),
        ("float16", "cuda", T4, "float16"),
        ("float16", "cuda", H100, "float16"),
    ],
)
def test_autocast_by_what_is_wanted_and_what_there_is(
    wanted: str, device: str, capability: tuple[int, int] | None, chosen: str | None
) -> None:
    assert autocast_type(wanted, device, capability) == chosen


@pytest.mark.parametrize(
    ("device", "dimensions", "last"),
    [
        ("cuda", {2}, True), ("cuda", set(), False), ("cuda", {1}, False), ("cuda", {3}, False),
        ("cuda", {2, 3}, False), ("cpu", {2}, False),
    ],
)
def test_images_go_channels_last_on_a_gpu(device: str, dimensions: set[int], last: bool) -> None:
    assert wants_channels_last(device, dimensions) is last


@pytest.mark.parametrize(("tf32", "mode"), [(False, "ieee"), (True, "tf32")])
def test_tf32_is_what_the_setting_says(
    tf32: bool, mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Torch's own default would be TF32 in convolutions, and none in products."""
    backends = (
        torch.backends.cuda.matmul, torch.backends.cudnn.conv, torch.backends.cudnn.rnn
    )
    before = [backend.fp32_precision for backend in backends]
    try:
        set_float32_mode(torch, tf32)
        assert float32_mode(tf32) == mode
        assert [backend.fp32_precision for backend in backends] == [mode] * 3
        assert not torch.cuda.is_initialized()
    finally:
        for backend, mode_before in zip(backends, before, strict=True):
            backend.fp32_precision = mode_before
