"""Finds the GPUs of this machine, and gives a process one of them before a library can touch CUDA.

NVML answers without a CUDA context. CUDA itself reads its environment once, when a process uses it
first, and cannot be used after a fork: so what a process may use is decided in its environment,
before Python has imported any model library.
"""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Mapping, MutableMapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from celeriac import errors
from celeriac.logs import get_logger
from celeriac.settings.variables import PINNED_GPU

log = get_logger(__name__)

VISIBLE, ORDER = "CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER"
_NONE = "-1"
"""As ``CUDA_VISIBLE_DEVICES``: no GPU at all."""
_LIBRARIES = ("torch", "onnxruntime", "cupy", "tensorflow")
"""What may use CUDA as soon as it is imported."""


@dataclass(frozen=True, kw_only=True)
class Gpu:
    """One GPU, or one part of a divided GPU (MIG)."""

    label: str
    """Its number in the order of the PCI bus: ``0``; ``0.1`` is the second part of GPU 0."""
    uuid: str
    """``GPU-...`` or ``MIG-...``."""
    name: str
    """As its maker calls it."""
    memory_bytes: int


def find() -> list[Gpu]:
    """All GPUs that NVML knows, in the order of the PCI bus; one that does not answer, as after
    it has fallen off the bus, is left out, and keeps its number.

    Raises NoGpu, which says why none can be found.
    """
    nvml = load_nvml()
    found, reason = list[Gpu](), ""
    try:
        for number in range(nvml.nvmlDeviceGetCount()):
            try:
                found += _parts(nvml, number)
            except nvml.NVMLError as error:
                reason = str(error)
                log.warning("a GPU does not answer", gpu=number, reason=reason)
    except nvml.NVMLError as error:
        reason = str(error)
    finally:
        nvml.nvmlShutdown()
    if reason and not found:
        raise errors.NoGpu(f"the NVIDIA driver does not tell its GPUs: {reason}")
    return found


def load_nvml() -> Any:
    """NVML, initialised: the module ``pynvml``. Raises NoGpu if it or the driver is missing."""
    try:
        nvml = importlib.import_module("pynvml")
    except ModuleNotFoundError as error:
        raise errors.NoGpu(
            "GPUs are found through NVML, and its library is not installed; "
            "run: pip install nvidia-ml-py"
        ) from error
    try:
        nvml.nvmlInit()
    except nvml.NVMLError as error:
        raise errors.NoGpu(
            f"this machine has no GPU that can be used (NVML: {error}); `nvidia-smi` must show "
            "one here (in a container: start it with GPUs). Without a GPU, run the cpu roles"
        ) from error
    return nvml


def _parts(nvml: Any, number: int) -> list[Gpu]:
    handle = nvml.nvmlDeviceGetHandleByIndex(number)
    parts = _mig_handles(nvml, handle)
    if parts is None:
        return [_describe(nvml, handle, str(number))]
    return [_describe(nvml, part, f"{number}.{place}") for place, part in enumerate(parts)]


def _mig_handles(nvml: Any, handle: Any) -> list[Any] | None:
    """The parts of a divided GPU, which cannot be used as a whole; None if it is not divided."""
    try:
        divided = nvml.nvmlDeviceGetMigMode(handle)[0]
    except nvml.NVMLError:  # a GPU that cannot be divided
        return None
    if not divided:
        return None
    found = []
    for place in range(nvml.nvmlDeviceGetMaxMigDeviceCount(handle)):
        try:
            found.append(nvml.nvmlDeviceGetMigDeviceHandleByIndex(handle, place))
        except nvml.NVMLError:  # no part there
            continue
    return found


def _describe(nvml: Any, handle: Any, label: str) -> Gpu:
    return Gpu(
        label=label, uuid=_text(nvml.nvmlDeviceGetUUID(handle)),
        name=_text(nvml.nvmlDeviceGetName(handle)),
        memory_bytes=int(nvml.nvmlDeviceGetMemoryInfo(handle).total),
    )


def _text(value: bytes | str) -> str:
    return value.decode() if isinstance(value, bytes) else value


def choose(
    found: Sequence[Gpu], environ: Mapping[str, str], wanted: Sequence[str] = ()
) -> list[Gpu]:
    """Those of ``found`` that ``CUDA_VISIBLE_DEVICES`` leaves, and of these the ``wanted`` ones.

    Both name GPUs by UUID (or its beginning) or by label. Raises ConfigError for a name that fits
    none or several, or a number that CUDA would count in another order than NVML does.
    """
    visible = environ.get(VISIBLE)
    if visible is None:
        left = list(found)
    else:
        names = _names(visible)
        _check_order(found, names, environ)
        left = [_named(found, name, VISIBLE) for name in names]
    if wanted:
        left = [_named(left, name, "[gpu] devices") for name in wanted]
    doubles = {gpu.label for gpu in left if left.count(gpu) > 1}
    if doubles:
        raise errors.ConfigError(f"GPU {', '.join(sorted(doubles))} is named twice; name it once")
    return left


def _names(visible: str) -> list[str]:
    names = [name.strip() for name in visible.split(",") if name.strip()]
    return [] if names in ([_NONE], ["NoDevFiles"], ["void"]) else names


def _check_order(found: Sequence[Gpu], names: Sequence[str], environ: Mapping[str, str]) -> None:
    is_same = environ.get(ORDER) == "PCI_BUS_ID" or len({gpu.name for gpu in found}) == 1
    number = next((name for name in names if name.isdigit()), None)
    if number is not None and not is_same:
        raise errors.ConfigError(
            f"{VISIBLE} names GPU {number} by its number, and without {ORDER}=PCI_BUS_ID CUDA "
            "counts the fastest first: set that, or name the GPU by its UUID (`nvidia-smi -L`)"
        )


def _named(found: Sequence[Gpu], name: str, where: str) -> Gpu:
    fitting = [gpu for gpu in found if name in (gpu.label, gpu.uuid)]
    if not fitting and not name[:1].isdigit():
        fitting = [gpu for gpu in found if gpu.uuid.startswith(name)]
    if len(fitting) == 1:
        return fitting[0]
    known = ", ".join(f"{gpu.label} ({gpu.uuid})" for gpu in found) or "none"
    what = "several GPUs" if fitting else "no GPU that can be used here"
    raise errors.ConfigError(f"{where} has {name!r}, which names {what}; there are: {known}")


def usable(environ: Mapping[str, str], wanted: Sequence[str] = ()) -> list[Gpu]:
    """The GPUs that this program may use, at least one. Raises NoGpu or ConfigError."""
    found = find()
    chosen = choose(found, environ, wanted)
    if not chosen:
        hidden = f"; {VISIBLE}={environ.get(VISIBLE, '')!r} hides all {len(found)}" if found else ""
        raise errors.NoGpu(f"this machine has no GPU that can be used{hidden}; run the cpu roles")
    return chosen


def environment_of(gpu: Gpu) -> dict[str, str]:
    """What pins a process to a GPU, as an addition to its environment."""
    return {VISIBLE: gpu.uuid, ORDER: "PCI_BUS_ID", PINNED_GPU: json.dumps(asdict(gpu))}


def pinned(environ: Mapping[str, str]) -> Gpu | None:
    """The GPU that a process of this environment has been given; None if it was given none."""
    said = environ.get(PINNED_GPU)
    if not said:
        return None
    try:
        gpu = Gpu(**json.loads(said))
    except (ValueError, TypeError):
        return None
    return gpu if environ.get(VISIBLE) == gpu.uuid else None


def pin(environ: MutableMapping[str, str], wanted: Sequence[str] = ()) -> Gpu:
    """Give this process its GPU, if whoever started it has not done so: the only one there is.

    Raises NoGpu, ConfigError if there are several, and WorkerError if it comes too late.
    """
    gpu = pinned(environ)
    if gpu is None:
        _check_untouched()
        several = usable(environ, wanted)
        if len(several) > 1:
            labels = ", ".join(gpu.label for gpu in several)
            raise errors.ConfigError(
                f"a process uses one GPU, and there are {len(several)} ({labels}): "
                "`celeriac worker ROLE` starts one for each; or choose one by its UUID "
                f"in {VISIBLE}"
            )
        gpu = several[0]
    environ.update(environment_of(gpu))
    return gpu


def hide(environ: MutableMapping[str, str]) -> None:
    """Let this process, and what it starts, see no GPU."""
    environ[VISIBLE] = _NONE
    environ.pop(PINNED_GPU, None)


def _check_untouched() -> None:
    """Raises WorkerError if a library that may use CUDA is imported here already."""
    early = [name for name in _LIBRARIES if name in sys.modules]
    if early:
        raise errors.WorkerError(
            f"{early[0]} was imported before this process had its GPU; "
            "nothing that a worker starts with may import it"
        )
