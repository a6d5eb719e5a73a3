"""``torch``: weights as safetensors, and code named ``package.module:Class``.

The weights hold no code. The class comes only from module prefixes that the server's
configuration allows; that is checked before anything is imported.

What the network returns is decided by the version's output schema. Classifier: logits
``(n, labels)``, or ``(n,)`` for two labels; of several outputs a tuple of such tensors.
Regressor: ``(n,)`` or ``(n, outputs)``.
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

from celeriac import errors
from celeriac.outputs import from_logits
from celeriac.registry.manifest import Architecture, InputSchema, ModelVersion, OutputSchema
from celeriac.runtimes import LoadOptions, Output, Saved, frameworks, library
from celeriac.runtimes.columns import classified, unless_finite, values_of
from celeriac.runtimes.torch_device import SLICE_ROWS, Engine, link_to, watching
from celeriac.runtimes.torch_recipe import KNOWN, applied

FILE = "model.safetensors"
SUFFIX = ".safetensors"
PIP = "'torch>=2.10' safetensors"
RECIPE = KNOWN


class TorchModel:
    """A network in evaluation mode."""

    def __init__(
        self, module: Any, output: OutputSchema, *, precision: str = "float32", tf32: bool = False,
        alone: bool = False,
    ) -> None:
        """``alone``: it rounds inputs by a scale of all that come together, so each comes alone."""
        torch = library("torch", pip=PIP)
        first = next(iter(module.parameters()), None)
        link = link_to(torch, "cpu" if first is None else first.device)
        self._engine = Engine(module.eval(), link, precision=precision, tf32=tf32,
                              most_rows=1 if alone else SLICE_ROWS)
        self._output = output
        self._alone = alone

    def predict(self, inputs: Any) -> Output:
        """Forward passes over slices of ``inputs``, joined."""
        run = self._engine.run
        columns = unless_finite(inputs, run) if self._alone else run(inputs)
        if self._output.kind == "classifier":
            return classified(columns, self._output, from_logits)
        return Output(values=values_of(columns))


def takes(model: Any) -> bool:
    """True of a Module. Whoever holds one has imported torch."""
    nn = sys.modules.get("torch.nn")
    return nn is not None and isinstance(model, nn.Module)


def dtype_of(_model: Any) -> str:
    """What networks are given."""
    return "float32"


def save(model: Any, folder: Path, *, architecture: Architecture | None) -> Saved:
    """Write the weights. Raises RegistryError if they cannot be written (a full disk, say), or the
    code that they belong to is not named."""
    check_architecture(model, architecture)
    weights = library("safetensors.torch", pip=PIP)
    try:
        weights.save_model(model, str(folder / FILE))
    except Exception as error:  # it has an error of its own for those of the disk
        raise errors.RegistryError(f"{FILE} cannot be written: {errors.told(error)}") from error
    return Saved(frameworks=frameworks("torch", "safetensors"))


def load(folder: Path, version: ModelVersion, options: LoadOptions) -> TorchModel:
    """Build the network and fill it; off the version's own device it computes in float32.

    Raises UntrustedModel, ModelCorrupt, RegistryError, or DeviceLost.
    """
    if version.architecture is None:
        raise errors.ModelCorrupt("its model.json names no architecture")
    here = "gpu" if options.device == "cuda" else "cpu"
    precision = version.serving.precision if version.device == here else "float32"
    with watching():
        module = applied(read(folder / FILE, version.architecture, options), version.recipe)
        return TorchModel(
            module, version.output, precision=precision, tf32=options.tf32,
            alone=bool(version.recipe.get("int8")),
        )


def wrap(model: Any, output: OutputSchema, _input: InputSchema) -> TorchModel:
    """A Model of a live network, which it puts into evaluation mode."""
    return TorchModel(model, output)


def read(path: Path, architecture: Architecture, options: LoadOptions) -> Any:
    """The network of ``architecture`` with the weights of a safetensors file.

    Raises UntrustedModel, RuntimeMissing or RegistryError.
    """
    _check_allowed(architecture.path, options)  # before a library is loaded
    if not _is_safetensors(path):
        raise errors.RegistryError(
            f"{path.name} does not hold the weights of {architecture.path}: it is not a "
            "safetensors file; pickled weights are never loaded"
        )
    torch = library("torch", pip=PIP)
    weights = library("safetensors.torch", pip=PIP)
    if options.device == "cuda" and not torch.cuda.is_available():
        raise errors.RegistryError("this process has no CUDA device; run it on a cpu role")
    torch.set_num_threads(max(1, options.threads))
    module = build(architecture, options)
    try:
        weights.load_model(module, str(path), strict=True)
    except Exception as error:
        text = " ".join(str(error).split())  # the first line alone names no weight
        raise errors.RegistryError(
            f"{path.name} does not hold the weights of {architecture.path}: "
            f"{errors.without_paths(text)}"
        ) from error
    return module.to(options.device).eval()


def _is_safetensors(path: Path) -> bool:
    """True if it begins with a header of JSON, after the header's length in eight bytes."""
    with path.open("rb") as file:
        length, first = int.from_bytes(file.read(8), "little"), file.read(1)
    return first == b"{" and 8 + length <= path.stat().st_size


def build(architecture: Architecture, options: LoadOptions) -> Any:
    """The network of ``architecture``, its weights as they are at first.

    Raises UntrustedModel, RuntimeMissing or RegistryError.
    """
    _check_allowed(architecture.path, options)
    torch = library("torch", pip=PIP)
    with torch.random.fork_rng(devices=[]):  # initial weights must not move the caller's generator
        return _build(architecture)


def architecture_of(model: Any) -> Architecture:
    """The architecture of a network that keeps its ``arguments``. Raises RegistryError."""
    path = _class_path(model)
    arguments = getattr(model, "arguments", None)
    if not isinstance(arguments, dict):
        raise errors.RegistryError(
            f"how was this {path} made? Give architecture=Architecture(path={path!r}, "
            "arguments={...}), or keep the arguments in the network as a dict `arguments`"
        )
    return Architecture(path=path, arguments=arguments)


def check_architecture(model: Any, architecture: Architecture | None) -> None:
    """Raises RegistryError unless ``architecture`` names the class of ``model``."""
    path = _class_path(model)
    if architecture is None or architecture.path != path:
        named = architecture.path if architecture else "nothing"
        raise errors.RegistryError(f"the network is a {path}; the architecture names {named}")


def _class_path(model: Any) -> str:
    kind = type(model)
    if kind.__module__ == "__main__" or "." in kind.__qualname__:
        raise errors.RegistryError(
            f"workers cannot import {kind.__qualname__} from {kind.__module__}; "
            "put the class at the top of a module that they have too"
        )
    return f"{kind.__module__}:{kind.__qualname__}"


def _check_allowed(path: str, options: LoadOptions) -> None:
    module = path.partition(":")[0]
    for prefix in options.architectures:
        if module == prefix or module.startswith(f"{prefix}."):
            return
    allowed = ", ".join(options.architectures) or "none"
    raise errors.UntrustedModel(
        f"architectures of {module!r} are not allowed here (allowed: {allowed}); "
        "if you trust that code, add its module to [models] architectures in celeriac.toml, here "
        "and for the workers"
    )


def _build(architecture: Architecture) -> Any:
    name, _, attribute = architecture.path.partition(":")
    torch = library("torch", pip=PIP)
    try:
        kind = getattr(importlib.import_module(name), attribute)
    except (ImportError, AttributeError) as error:
        raise errors.RegistryError(
            f"cannot import {architecture.path}: {errors.told(error)}"
        ) from error
    if not (isinstance(kind, type) and issubclass(kind, torch.nn.Module)):
        raise errors.UntrustedModel(f"{architecture.path} is not a torch Module")
    try:
        return kind(**architecture.arguments)
    except Exception as error:
        raise errors.RegistryError(
            f"{architecture.path} does not take its arguments: {errors.told(error)}"
        ) from error
