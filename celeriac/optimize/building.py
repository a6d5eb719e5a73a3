"""Forms of a registered version: its files, and what its ``model.json`` says of them."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

from celeriac import errors, runtimes
from celeriac.drift.profile import PROFILE_NAME
from celeriac.optimize import convert
from celeriac.optimize.variants import Traits, Variant
from celeriac.registry.manifest import MANIFEST_NAME, ModelVersion
from celeriac.runtimes import LoadOptions
from celeriac.runtimes.onnx import OnnxFile


class Builder:
    """Builds forms of one version below ``work``."""

    def __init__(
        self, manifest: ModelVersion, folder: Path, options: LoadOptions, work: Path
    ) -> None:
        self.manifest = manifest
        self._folder = folder
        self._options = options
        self._work = work
        self._graph: OnnxFile | None = None
        self._original: Any = None

    def traits(self, device: Literal["cpu", "gpu"], threads: int, cores: int) -> Traits:
        """What can be told of the model. Raises RegistryError if it cannot be loaded."""
        form, model = self.manifest.format, self._model()
        common: dict[str, Any] = {
            "format": form, "device": device, "threads": threads, "cores": cores,
            "converts": all(map(find_spec, ("onnx", "onnxruntime", "skl2onnx"))),
            "recipe": self.manifest.recipe,
        }
        if form == "sklearn":
            from celeriac.runtimes.sklearn_direct import direct

            return Traits(**common, has_direct_way=direct(model) is not None)
        if form == "torch":
            from celeriac.runtimes.torch_recipe import compiler

            kinds = {type(part).__name__ for part in model.modules()}
            return Traits(
                **common, has_convolutions="Conv2d" in kinds, has_linear_layers="Linear" in kinds,
                compiler=compiler(), bfloat16=device == "gpu" or _has_bfloat16(),
            )
        return Traits(**common)

    def build(self, variant: Variant) -> tuple[Path, ModelVersion]:
        """The folder and the ``model.json`` of a form. Raises RegistryError if it cannot be."""
        manifest = self.manifest
        serving = manifest.serving
        if variant.precision:
            serving = serving.model_copy(update={"precision": variant.precision})
        if variant.form == "same":
            recipe = manifest.recipe | variant.recipe
            return self._folder, manifest.model_copy(
                update={"recipe": recipe, "serving": serving}
            )
        folder = self._work / variant.name.replace(" ", "-").replace(",", "")
        folder.mkdir()
        graph = self._as_graph()
        if variant.form == "onnx int8":
            graph = convert.quantised(graph)
        saved = runtimes.runtime("onnx").save(graph, folder, architecture=None)
        return folder, manifest.model_copy(update={
            "format": "onnx", "recipe": saved.recipe, "architecture": None,
            "frameworks": manifest.frameworks | saved.frameworks,
        })

    def copy_files(self, source: Path, target: Path) -> None:
        """The model's files of a form, for a version of their own; and what drift is measured
        against, which is the original's."""
        names = {record.path for record in self.manifest.files} if source == self._folder else {
            path.relative_to(source).as_posix() for path in source.rglob("*") if path.is_file()
        }
        for name in sorted(names - {MANIFEST_NAME, PROFILE_NAME, *NOTES}):
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source / name, target / name)
        reference = self._folder / PROFILE_NAME
        if reference.is_file():
            shutil.copyfile(reference, target / PROFILE_NAME)

    def _as_graph(self) -> OnnxFile:
        if self._graph is None:
            self._graph = _GRAPHS[self.manifest.format](self._model(), self.manifest)
        return self._graph

    def _model(self) -> Any:
        """The object in the version's files, as it was before any recipe."""
        if self._original is not None:
            return self._original
        module = runtimes.runtime(self.manifest.format)
        if not hasattr(module, "read"):
            return None
        path = self._folder / module.FILE
        if self.manifest.format == "torch":
            self._original = module.read(path, self.manifest.architecture, _on_cpu(self._options))
        else:
            self._original = module.read(path, self._options)
        return self._original


NOTES = ("optimize.json", "optimize.svg")
"""What is kept beside the model: the whole table, and the plot."""


def _sklearn_graph(model: Any, manifest: ModelVersion) -> OnnxFile:
    return convert.from_sklearn(model, manifest.input, manifest.output)


def _torch_graph(model: Any, manifest: ModelVersion) -> OnnxFile:
    return convert.from_torch(model, manifest.input)


def _as_it_is(model: Any, manifest: ModelVersion) -> OnnxFile:
    if not isinstance(model, OnnxFile) or model.external:
        raise errors.RegistryError("its weights lie in files of their own")
    return OnnxFile(
        data=model.data, scores=manifest.recipe.get("scores"), output=manifest.output
    )


_GRAPHS: dict[str, Callable[[Any, ModelVersion], OnnxFile]] = {
    "sklearn": _sklearn_graph, "torch": _torch_graph, "onnx": _as_it_is,
}


def _on_cpu(options: LoadOptions) -> LoadOptions:
    from dataclasses import replace

    return replace(options, device="cpu")


def _has_bfloat16() -> bool:
    """True if the processor multiplies it (AVX-512 BF16 or AMX, or ARM's)."""
    try:
        flags = Path("/proc/cpuinfo").read_text(encoding="utf-8").split()
    except OSError:
        return False
    return not {"avx512_bf16", "amx_bf16", "bf16"}.isdisjoint(flags)
