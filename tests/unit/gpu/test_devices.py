"""Which GPUs there are, which of them a program may use, and how a process gets one."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from celeriac import errors
from celeriac.settings.variables import PINNED_GPU
from tests.conftest import STAND_INS
from tests.unit.gpu.conftest import Inject, lose
from workers import devices
from workers.devices import ORDER, VISIBLE, Gpu

A100 = {"uuid": "GPU-aaaa-1", "name": "NVIDIA A100"}
T4 = {"uuid": "GPU-bbbb-2", "name": "NVIDIA T4", "memory": 16_000_000_000}
DIVIDED = {"uuid": "GPU-cccc-3", "name": "NVIDIA A30", "mig": ["MIG-1111", "MIG-2222"]}


def gpu(label: str, uuid: str, name: str = "NVIDIA T4") -> Gpu:
    return Gpu(label=label, uuid=uuid, name=name, memory_bytes=1)


TWO = [gpu("0", "GPU-aaaa-1"), gpu("1", "GPU-bbbb-2")]
MIXED = [gpu("0", "GPU-aaaa-1", "NVIDIA A100"), gpu("1", "GPU-bbbb-2")]


def test_all_gpus_are_found_and_a_divided_one_by_its_parts(inject: Inject) -> None:
    inject(A100, DIVIDED, T4)
    found = devices.find()
    assert [(one.label, one.uuid) for one in found] == [
        ("0", "GPU-aaaa-1"), ("1.0", "MIG-1111"), ("1.1", "MIG-2222"), ("2", "GPU-bbbb-2"),
    ]
    assert (found[0].name, found[3].memory_bytes) == ("NVIDIA A100", 16_000_000_000)


def test_a_gpu_that_does_not_answer_hides_no_other(
    inject: Inject, monkeypatch: pytest.MonkeyPatch
) -> None:
    inject(A100, T4)
    lose(monkeypatch, "GPU-aaaa-1")
    assert [(one.label, one.uuid) for one in devices.usable({})] == [("1", "GPU-bbbb-2")]
    inject(A100)
    with pytest.raises(errors.NoGpu, match="does not tell its GPUs: GPU is lost"):
        devices.find()


@pytest.mark.usefixtures("inject")
def test_a_machine_without_a_driver_says_what_to_do() -> None:
    with pytest.raises(errors.NoGpu, match=r"NVML Shared Library Not Found.*run the cpu roles"):
        devices.find()


def test_without_the_library_it_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    with pytest.raises(errors.NoGpu, match="pip install nvidia-ml-py"):
        devices.find()


@pytest.mark.parametrize(
    ("visible", "order", "wanted", "labels"),
    [
        (None, None, (), ["0", "1"]),
        (None, None, ("1",), ["1"]),
        (None, None, ("GPU-aaaa-1",), ["0"]),
        ("", None, (), []),
        ("-1", None, (), []),
        ("1", "PCI_BUS_ID", (), ["1"]),
        ("1,0", None, (), ["1", "0"]),  # all alike: CUDA has no faster one to put first
        ("GPU-bbbb-2", None, (), ["1"]),
        ("GPU-bb", None, (), ["1"]),  # CUDA takes the beginning of a UUID too
        (" 0 , 1 ", None, ("1",), ["1"]),
    ],
)
def test_what_is_left_of_two_alike(
    visible: str | None, order: str | None, wanted: tuple[str, ...], labels: list[str]
) -> None:
    environ = {VISIBLE: visible, ORDER: order}
    given = {name: value for name, value in environ.items() if value is not None}
    assert [one.label for one in devices.choose(TWO, given, wanted)] == labels


@pytest.mark.parametrize(
    ("found", "visible", "wanted", "told"),
    [
        (TWO, "2", (), "'2', which names no GPU"),
        (TWO, "GPU-", (), "names several GPUs"),
        (TWO, "0", ("1",), r"\[gpu\] devices has '1', which names no GPU"),
        (TWO, "0,0", (), "named twice"),
        (TWO, "0,GPU-aaaa-1", (), "named twice"),
        (MIXED, "1", (), "CUDA_DEVICE_ORDER=PCI_BUS_ID"),
    ],
)
def test_a_name_that_fits_none_or_several_is_refused(
    found: list[Gpu], visible: str, wanted: tuple[str, ...], told: str
) -> None:
    with pytest.raises(errors.ConfigError, match=told):
        devices.choose(found, {VISIBLE: visible}, wanted)


def test_a_number_counts_where_the_order_is_named() -> None:
    environ = {VISIBLE: "1", ORDER: "PCI_BUS_ID"}
    assert devices.choose(MIXED, environ) == [MIXED[1]]
    assert devices.choose(MIXED, {VISIBLE: "GPU-bbbb-2"}) == [MIXED[1]]


def test_a_part_of_a_divided_gpu_passes(inject: Inject) -> None:
    inject(DIVIDED)
    (one,) = devices.usable({VISIBLE: "MIG-2222"})
    assert devices.environment_of(one)[VISIBLE] == "MIG-2222"
    assert one.label == "0.1"


def test_hidden_gpus_are_not_used(inject: Inject) -> None:
    inject(A100, T4)
    with pytest.raises(errors.NoGpu, match="CUDA_VISIBLE_DEVICES='-1' hides all 2"):
        devices.usable({VISIBLE: "-1"})


def test_what_a_launcher_pinned_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)  # nobody is asked again
    environ = {"PATH": "/bin", **devices.environment_of(TWO[1])}
    assert devices.pin(environ) == TWO[1]
    assert (environ[VISIBLE], environ[ORDER]) == ("GPU-bbbb-2", "PCI_BUS_ID")


@pytest.mark.parametrize("said", ["", "not json", "[1]", '{"label": "0"}'])
def test_what_is_no_gpu_is_not_believed(said: str) -> None:
    assert devices.pinned({PINNED_GPU: said, VISIBLE: "GPU-aaaa-1"}) is None


def test_a_pin_that_cuda_would_not_see_is_not_believed() -> None:
    environ = {**devices.environment_of(TWO[0]), VISIBLE: "GPU-bbbb-2"}
    assert devices.pinned(environ) is None


PIN = """
import os, sys
from workers import devices
if "early" in sys.argv:
    import types
    sys.modules["torch"] = types.ModuleType("torch")
from celeriac import errors
try:
    print(devices.pin(os.environ).uuid, os.environ["CUDA_VISIBLE_DEVICES"])
except errors.CeleriacError as error:
    print(error.code, error.message)
"""


def run_pin(gpus: list[dict[str, object]], *words: str) -> str:
    environ = {
        "PATH": "/usr/bin", "PYTHONPATH": f"{STAND_INS / 'nvml'}:{STAND_INS.parents[1]}",
        "STAND_IN_GPUS": json.dumps(gpus),
    }
    ran = subprocess.run(
        [sys.executable, "-c", PIN, *words], env=environ, capture_output=True, text=True,
        check=True, timeout=60,
    )
    return ran.stdout.strip()


def test_a_process_that_nobody_pinned_takes_the_only_gpu() -> None:
    assert run_pin([A100]) == "GPU-aaaa-1 GPU-aaaa-1"


def test_of_several_it_takes_none() -> None:
    said = run_pin([A100, T4])
    assert said.startswith("config_invalid a process uses one GPU, and there are 2 (0, 1)")
    assert "`celeriac worker ROLE` starts one for each" in said


def test_it_is_too_late_once_torch_is_there() -> None:
    assert run_pin([A100], "early").startswith("worker_failed torch was imported before")


def test_a_hidden_gpu_stays_hidden() -> None:
    environ = devices.environment_of(TWO[0])
    devices.hide(environ)
    assert environ[VISIBLE] == "-1"
    assert devices.pinned(environ) is None
