"""Forward passes of a network on its device: copies, memory, precision, and what may go wrong.

The same code runs on the CPU and on a GPU; what differs is the :class:`Link` between the arrays of
this process and the tensors of the device. On a GPU all work goes down one stream: copies are
asynchronous, through pinned memory, and the next slice is on its way while the last one is awaited.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from celeriac import errors, passes
from celeriac.logs import get_logger
from celeriac.runtimes.ceiling import Ceiling
from celeriac.runtimes.precision import autocast_type, float32_mode, wants_channels_last

log = get_logger(__name__)

SLICE_ROWS = 1_024
"""Rows of one forward pass, at most: activations of a whole chunk would not fit into memory."""

Arrays = tuple[np.ndarray[Any, Any], ...]


class Landing(NamedTuple):
    """Results on their way into this process's memory."""

    tensors: Sequence[Any]
    wait: Callable[[], None]

    def arrays(self) -> Arrays:
        """The results, once they are there."""
        self.wait()
        return tuple(tensor.numpy() for tensor in self.tensors)


class Link:
    """Between arrays and the CPU's tensors: nothing travels."""

    def __init__(self, torch: Any, device: Any) -> None:
        self.torch = torch
        self.device = torch.device(device)

    @property
    def kind(self) -> str:
        """``cpu`` or ``cuda``."""
        return str(self.device.type)

    @property
    def capability(self) -> tuple[int, int] | None:
        """Compute capability of a GPU."""
        return None

    def entered(self) -> contextlib.AbstractContextManager[Any]:
        """Around all work that a pass gives to the device."""
        return contextlib.nullcontext()

    def enter(self, inputs: np.ndarray[Any, Any]) -> Any:
        """``inputs`` as a tensor on the device: a copy, since networks may write to it."""
        return self.torch.tensor(inputs, device=self.device)

    def leave(self, results: Sequence[Any]) -> Landing:
        """Have float32 copies of ``results`` brought back."""
        return Landing([result.float().cpu() for result in results], lambda: None)

    def free(self) -> None:
        """Give back memory that is only kept."""

    def settle(self) -> None:
        """Wait until the device has done all that it was given, the weights' copies among it."""


class CudaLink(Link):
    """Between arrays and a GPU's tensors: asynchronous copies on one stream, via pinned memory.

    ``cuda`` is ``torch.cuda``; ``pins`` says whether memory can be pinned.
    """

    def __init__(self, torch: Any, device: Any, cuda: Any = None, *, pins: bool = True) -> None:
        super().__init__(torch, device)
        self._cuda = cuda or torch.cuda
        self._pins = pins
        self._stream = self._cuda.Stream(device=self.device)

    @property
    def capability(self) -> tuple[int, int]:
        major, minor = self._cuda.get_device_capability(self.device)
        return major, minor

    def entered(self) -> contextlib.AbstractContextManager[Any]:
        context: contextlib.AbstractContextManager[Any] = self._cuda.stream(self._stream)
        return context

    def enter(self, inputs: np.ndarray[Any, Any]) -> Any:
        like = self.torch.from_numpy(np.empty(0, dtype=inputs.dtype))
        staged = self.torch.empty(inputs.shape, dtype=like.dtype, pin_memory=self._pins)
        np.copyto(staged.numpy(), inputs)
        # The allocator of pinned memory knows of the copy, and keeps the block until it is over.
        return staged.to(self.device, non_blocking=True)

    def leave(self, results: Sequence[Any]) -> Landing:
        copies = []
        for result in results:
            copy = self.torch.empty(
                result.shape, dtype=self.torch.float32, pin_memory=self._pins
            )
            copies.append(copy.copy_(result, non_blocking=True))
        landed = self._cuda.Event()
        landed.record(self._stream)
        return Landing(copies, landed.synchronize)

    def free(self) -> None:
        self._cuda.empty_cache()

    def settle(self) -> None:
        self._cuda.synchronize(self.device)


class Engine:
    """A network on its device. Answers arrays of any length, in slices that fit."""

    def __init__(  # noqa: PLR0913 - a network, and how it is run
        self, module: Any, link: Link, *, precision: str = "float32", tf32: bool = False,
        clock: Callable[[], float] = time.monotonic, most_rows: int = SLICE_ROWS,
    ) -> None:
        self._link = link
        self._torch = link.torch
        self._clock = clock
        self.ceiling = Ceiling(most_rows)
        self.channels_last = wants_channels_last(link.kind, _convolutions(link.torch, module))
        if self.channels_last:
            module = module.to(memory_format=self._torch.channels_last)
        self._module = module
        chosen = autocast_type(precision, link.kind, link.capability)
        self.autocast = None if chosen is None else getattr(self._torch, chosen)
        if link.kind == "cuda":
            set_float32_mode(self._torch, tf32)
        link.settle()

    def run(self, inputs: Any) -> list[np.ndarray[Any, Any]]:
        """The network's outputs for all of ``inputs``, each one array.

        Raises MemoryError if not even one row fits, and DeviceLost if the GPU cannot be used by
        this process any more.
        """
        with watching():
            parts = self._slices(inputs)
        return [np.concatenate(column) for column in zip(*parts, strict=True)]

    def _slices(self, inputs: Any) -> list[Arrays]:
        parts: list[Arrays] = []
        before: Landing | None = None
        start = 0
        while start < len(inputs):
            part = inputs[start : start + self.ceiling.rows(self._clock())]
            landing = self._launch(part)
            if before is not None:  # awaited only now, while the next slice is under way
                parts.append(before.arrays())
            before = landing
            if landing is not None:
                start += len(part)
        return parts if before is None else [*parts, before.arrays()]

    def _launch(self, inputs: Any) -> Landing | None:
        """Results on their way; None if memory was short, and fewer rows are to be tried.

        Raises MemoryError if there was one row.
        """
        try:
            return self._forward(inputs)
        except (RuntimeError, MemoryError) as error:
            if trouble(error) != "memory":
                raise
            reason = str(error)
        # The error is gone, and with it the frames that held the tensors.
        self._link.free()
        if not self.ceiling.lower(len(inputs), self._clock()):
            raise MemoryError(reason)
        log.warning("memory short: fewer rows at once", tried=len(inputs), device=self._link.kind)
        return None

    def _forward(self, inputs: Any) -> Landing:
        torch, link = self._torch, self._link
        with torch.inference_mode(), link.entered(), self._casting():
            if isinstance(inputs, np.ndarray):
                inputs = link.enter(inputs)
                if self.channels_last and inputs.ndim == 4:
                    inputs = inputs.contiguous(memory_format=torch.channels_last)
            result = self._module(inputs)
            return link.leave(result if isinstance(result, (tuple, list)) else (result,))

    def _casting(self) -> contextlib.AbstractContextManager[Any]:
        if self.autocast is None:
            return contextlib.nullcontext()
        context: contextlib.AbstractContextManager[Any] = self._torch.autocast(
            self._link.kind, dtype=self.autocast
        )
        return context


def link_to(torch: Any, device: Any) -> Link:
    """The link that a device wants."""
    return CudaLink(torch, device) if torch.device(device).type == "cuda" else Link(torch, device)


def set_float32_mode(torch: Any, tf32: bool) -> None:
    """Say how this process multiplies float32 on a GPU; by default cuDNN would take TF32."""
    mode = float32_mode(tf32)
    torch.backends.cuda.matmul.fp32_precision = mode
    torch.backends.cudnn.conv.fp32_precision = mode
    torch.backends.cudnn.rnn.fp32_precision = mode


_LOST = ("CUDA error", "CUBLAS_STATUS_EXECUTION_FAILED", "CUDNN_STATUS_EXECUTION_FAILED")
_SHORT = ("out of memory", "can't allocate memory")


def trouble(error: BaseException) -> str:
    """``memory`` (fewer rows may fit), ``lost`` (the context is broken), or ``other``.

    After an error of CUDA's own (an assertion of a kernel, an illegal access) every later call of
    the process fails alike.
    """
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return "memory"
    if not isinstance(error, RuntimeError):
        return "other"
    text = str(error)
    if any(words in text for words in _SHORT):  # the CPU's allocator has no type of its own
        return "memory"
    is_lost = type(error).__name__ == "AcceleratorError" or any(words in text for words in _LOST)
    return "lost" if is_lost else "other"


@contextlib.contextmanager
def watching() -> Iterator[None]:
    """Around work on a device. Raises DeviceLost in the place of an error that says so."""
    try:
        yield
    except RuntimeError as error:
        if trouble(error) == "lost":
            raise passes.device_lost(_first_line(error)) from error
        raise


def _convolutions(torch: Any, module: Any) -> set[int]:
    kinds = {torch.nn.Conv1d: 1, torch.nn.Conv2d: 2, torch.nn.Conv3d: 3}
    return {
        dimensions for part in module.modules() for kind, dimensions in kinds.items()
        if isinstance(part, kind)
    }


def _first_line(error: BaseException) -> str:
    return errors.without_paths(str(error).strip().partition("\n")[0])
