"""Runtimes: one small module for each model format, behind one small interface.

A runtime module has the name of its format and two functions::

    def save(model, folder: Path, *, architecture: Architecture | None) -> Saved
    def load(folder: Path, version: ModelVersion, options: LoadOptions) -> Model

Runtimes do not know each other, and each imports its library only inside these functions.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol

import numpy as np

from celeriac import errors
from celeriac.registry.manifest import Architecture, ModelVersion, OutputSchema

FORMATS = ("sklearn", "torch", "echo")


@dataclass(frozen=True, kw_only=True)
class LoadOptions:
    """What the server allows and offers; never read from a model's files."""

    trusted_types: Sequence[str] = ()
    architectures: Sequence[str] = ("celeriac.runtimes.architectures",)
    device: str = "cpu"
    """``cpu`` or ``cuda``."""
    threads: int = 1
    """Intra-op threads that the model may use."""


@dataclass(frozen=True, kw_only=True)
class Saved:
    """What ``save`` wrote: files (names within the folder) and what it learnt of the model."""

    files: Sequence[str]
    output: OutputSchema | None = None
    """What the model says of its own answers, if it can tell."""
    frameworks: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Output:
    """Raw answers of one forward pass over ``n`` items.

    ``values`` has shape ``(n,)`` or ``(n, outputs)``: labels of a classifier, numbers of a
    regressor. ``probabilities`` is ``(n, labels)``, one such array per output for several outputs,
    or None.
    """

    values: Any
    probabilities: np.ndarray[Any, Any] | list[np.ndarray[Any, Any]] | None = None


class Model(Protocol):
    """A loaded model."""

    def predict(self, inputs: Any) -> Output:
        """Answer a whole batch.

        ``inputs`` is what ``celeriac.inputs`` made of the items by the input schema: a list of
        texts, an array ``(n, *shape)``, a pandas frame of ``n`` rows, or a list (kind ``any``).
        """
        ...


def runtime(format: str) -> ModuleType:
    """The module of a format.

    Raises RuntimeMissing if there is none.
    """
    if format not in FORMATS:
        raise errors.RuntimeMissing(
            f"no runtime for the format {format!r}; this release has {', '.join(FORMATS)}"
        )
    return importlib.import_module(f"celeriac.runtimes.{format}")


def load(folder: Path, version: ModelVersion, options: LoadOptions) -> Model:
    """Load a version whose files were verified.

    Raises RegistryError, or one of its kinds, that names the version.
    """
    module = runtime(version.format)
    model: Model = module.load(folder, version, options)
    return model


__all__ = [
    "FORMATS", "Architecture", "LoadOptions", "Model", "Output", "Saved", "load", "runtime",
]
