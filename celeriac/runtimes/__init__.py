"""Runtimes: one small module for each model format, behind one small interface.

A runtime module has the name of its format and four functions::

    def takes(model) -> bool
    def save(model, folder: Path, *, architecture: Architecture | None) -> Saved
    def load(folder: Path, version: ModelVersion, options: LoadOptions) -> Model
    def wrap(model, output: OutputSchema, input: InputSchema) -> Model

``takes`` is true of objects in memory that it can save; ``wrap`` makes a Model of one of them, and
``load`` does so from files. It may also have ``dtype_of(model)``, which says what the model wants
numbers in ("float32", "float64", or None: as they come), ``RECIPE``, the keys of recipes that it
knows (a version that asks for others is not loaded), and, for ``celeriac models register``,
``SUFFIX`` and ``read(path, options)``, which gives the object in a file.
Runtimes do not know each other, and each imports its library only inside these functions.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version as installed
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol

from celeriac import errors
from celeriac.logs import get_logger
from celeriac.outputs import Output
from celeriac.registry.manifest import Architecture, ModelVersion, OutputSchema
from celeriac.settings import Settings, get_settings

log = get_logger(__name__)

FORMATS = ("sklearn", "torch", "onnx", "echo")


@dataclass(frozen=True, kw_only=True)
class LoadOptions:
    """What the server allows and offers; never read from a model's files."""

    trusted_types: Sequence[str] = ()
    architectures: Sequence[str] = ("celeriac.runtimes.architectures",)
    device: str = "cpu"
    """``cpu`` or ``cuda``."""
    threads: int = 1
    """Intra-op threads that the model may use."""
    tf32: bool = False
    """A GPU may multiply float32 with less precision."""
    max_item_bytes: int = 1_000_000
    max_image_pixels: int = 25_000_000

    @classmethod
    def of(cls, settings: Settings, *, device: str = "cpu", threads: int = 1) -> LoadOptions:
        """What ``[models]``, ``[gpu]`` and ``[realtime]`` allow."""
        return cls(
            trusted_types=settings.models.trusted_types,
            architectures=settings.models.architectures,
            device=device,
            threads=threads,
            tf32=settings.gpu.tf32,
            max_item_bytes=settings.realtime.max_item_bytes,
            max_image_pixels=settings.realtime.max_image_pixels,
        )


@dataclass(frozen=True, kw_only=True)
class Saved:
    """What ``save`` learnt of the model whose files it wrote."""

    output: OutputSchema | None = None
    """What the model says of its own answers, if it can tell."""
    wants_labels: bool = False
    """It answers with labels, and cannot tell which there are."""
    frameworks: dict[str, str] = field(default_factory=dict)
    may_score: bool = False
    """It is an outlier detector: as a regressor it answers with scores instead of labels."""
    recipe: dict[str, Any] = field(default_factory=dict)
    """How to run it; ``load`` finds it in the version's own ``recipe``."""


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

    Raises RuntimeMissing if there is none, or if it cannot be imported.
    """
    if format in FORMATS:
        return importlib.import_module(f"celeriac.runtimes.{format}")
    name = _others().get(format)
    if name is None:
        raise errors.RuntimeMissing(
            f"no runtime for the format {format!r}; here are {', '.join(formats())}. "
            "[models] runtimes in celeriac.toml names modules of others"
        )
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise errors.RuntimeMissing(
            f"the runtime {name} ([models] runtimes) cannot be imported: {errors.told(error)}"
        ) from error


def formats() -> tuple[str, ...]:
    """All formats that can be loaded here."""
    return (*FORMATS, *_others())


def _others() -> dict[str, str]:
    """Modules of ``[models] runtimes`` by their format: the last part of the name."""
    return {
        name.rpartition(".")[2].removesuffix("_runtime"): name
        for name in get_settings().models.runtimes
    }


def load(folder: Path, version: ModelVersion, options: LoadOptions) -> Model:
    """Load a version whose files were verified.

    Raises RegistryError, or one of its kinds, that names the version, whatever its code raises,
    and the cure if other releases of libraries wrote it; DeviceLost if the GPU is lost by it.
    """
    for package, wrote, here in _other_releases(version):
        log.warning("written by another release of a library", model=version.name,
                    version=version.version, library=package, wrote=wrote, here=here)
    try:
        module = runtime(version.format)
        check_recipe(version.recipe, module)
        model: Model = module.load(folder, version, options)
    except errors.CeleriacError as error:
        by_release = type(error) in (errors.RegistryError, errors.UntrustedModel)
        cure = cure_of(version) if by_release else ""
        raise type(error)(f"{version.ref}: {error.message}{cure}") from error
    except Exception as error:
        if type(error).__name__ == "SoftTimeLimitExceeded":  # of the task that we run in
            raise
        raise errors.RegistryError(
            f"{version.ref}: loading it raised {errors.told(error)}{cure_of(version)}"
        ) from error
    return model


def check_recipe(recipe: Mapping[str, Any], module: ModuleType) -> None:
    """Raises RegistryError if the runtime does not know a key of the recipe."""
    unknown = sorted(recipe.keys() - set(getattr(module, "RECIPE", recipe)))
    if unknown:
        raise errors.RegistryError(
            f"its recipe asks for {', '.join(unknown)}, which this release does not know"
        )


def library(module: str, *, pip: str) -> Any:
    """Import a library that a format needs.

    Raises RuntimeMissing, which says how to install it.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name != module.partition(".")[0]:
            raise
        raise errors.RuntimeMissing(
            f"this model needs {error.name}, which is not installed; run: pip install {pip}"
        ) from error


def frameworks(*packages: str) -> dict[str, str]:
    """Installed versions of ``packages``, for the manifest."""
    return {package: installed(package) for package in packages}


def cure_of(version: ModelVersion) -> str:
    """For the end of an error: what wrote the version, what is here, and the pip command; "" if the
    same releases are here."""
    others = _other_releases(version)
    if not others:
        return ""
    releases = ", ".join(f"{name} {wrote} (here is {here})" for name, wrote, here in others)
    pip = " ".join(f"{name}=={wrote.split('+')[0]}" for name, wrote, _ in others)
    return (f". It was written by {releases}; if that is why: pip install {pip}, or register the "
            "model again here")


def _other_releases(version: ModelVersion) -> list[tuple[str, str, str]]:
    """Each library of which another release wrote it, that release and the one here."""
    others = []
    for package, wrote in version.frameworks.items():
        try:
            here = installed(package)
        except PackageNotFoundError:
            continue  # the runtime itself says what is missing
        if here.split("+")[0] != wrote.split("+")[0]:
            others.append((package, wrote, here))
    return others


__all__ = [
    "FORMATS", "Architecture", "LoadOptions", "Model", "Output", "Saved", "check_recipe", "cure_of",
    "formats", "frameworks", "library", "load", "runtime",
]
