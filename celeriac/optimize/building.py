"""Forms of a registered version: its files, and what its ``model.json`` says of them.

What reads the model runs as ``python -m celeriac.optimize.building``: a converter that hangs,
crashes or takes all memory costs its own process. The task comes as JSON on stdin, the result goes
as JSON to stdout.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from celeriac import errors, runtimes
from celeriac.drift.profile import PROFILE_NAME
from celeriac.optimize import convert
from celeriac.optimize.variants import Traits, Variant
from celeriac.registry.manifest import MANIFEST_NAME, ModelVersion
from celeriac.release.aside import answer_with, run_aside
from celeriac.runtimes import LoadOptions
from celeriac.runtimes.onnx import OnnxFile


class Builder:
    """Forms of one version, below ``work``; each is made in a process that has ``limit_s``."""

    def __init__(
        self, manifest: ModelVersion, folder: Path, options: LoadOptions, work: Path, *,
        limit_s: float,
    ) -> None:
        self.manifest = manifest
        self._folder = folder
        self._options = options
        self._work = work
        self._limit_s = limit_s
        self._made: dict[str, tuple[Path, dict[str, Any]]] = {}

    def traits(self, cores: int) -> Traits:
        """What can be told of the model. Raises RegistryError if it cannot be loaded."""
        manifest = self.manifest
        return Traits(
            format=manifest.format, device=manifest.device, threads=self._options.threads,
            cores=cores, recipe=manifest.recipe,
            converts=all(map(find_spec, ("onnx", "onnxruntime", "skl2onnx"))),
            **(self._aside("look") if manifest.format in ("sklearn", "torch") else {}),
        )

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
        folder, saved = self._graph(variant.form)
        return folder, manifest.model_copy(update={
            "format": "onnx", "recipe": saved["recipe"], "architecture": None,
            "frameworks": manifest.frameworks | saved["frameworks"],
        })

    def _graph(self, form: str) -> tuple[Path, dict[str, Any]]:
        """Made once, for any number of threads."""
        if form not in self._made:
            folder = Path(tempfile.mkdtemp(prefix=form.replace(" ", "-"), dir=self._work))
            self._made[form] = folder, self._aside(form, folder)
        return self._made[form]

    def _aside(self, what: str, target: Path | None = None) -> dict[str, Any]:
        wanted = {
            "what": what, "folder": str(self._folder), "target": str(target or ""),
            "manifest": self.manifest.model_dump_json(),
            "options": asdict(replace(self._options, device="cpu")),
        }
        return run_aside(
            "celeriac.optimize.building", (), wanted, timeout_s=self._limit_s,
            late=f"building it took longer than {self._limit_s:g} s",
            what="the process that built it", kind=errors.RegistryError,
        )

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


NOTES = ("optimize.json", "optimize.svg")
"""What is kept beside the model: the whole table, and the plot."""


# --- in the process ------------------------------------------------------------------------------


def main() -> int:
    """The process that looks at a model, or makes a graph of it."""
    return answer_with(
        lambda wanted: [_answer(wanted)],
        told=lambda error: errors.RegistryError(errors.told(error)),
    )


def _answer(wanted: dict[str, Any]) -> dict[str, Any]:
    manifest = ModelVersion.model_validate_json(wanted["manifest"])
    model = _read(Path(wanted["folder"]), manifest, LoadOptions(**wanted["options"]))
    if wanted["what"] == "look":
        look = _of_sklearn if manifest.format == "sklearn" else _of_torch
        return look(model, manifest)
    graph = _GRAPHS[manifest.format](model, manifest)
    if wanted["what"] == "onnx int8":
        graph = convert.quantised(graph)
    saved = runtimes.runtime("onnx").save(graph, Path(wanted["target"]), architecture=None)
    return {"recipe": saved.recipe, "frameworks": saved.frameworks}


def _read(folder: Path, manifest: ModelVersion, options: LoadOptions) -> Any:
    """The object in the version's files, as it was before any recipe."""
    module = runtimes.runtime(manifest.format)
    if manifest.format == "torch":
        return module.read(folder / module.FILE, manifest.architecture, options)
    return module.read(folder / module.FILE, options)


def _of_sklearn(model: Any, manifest: ModelVersion) -> dict[str, Any]:
    module = runtimes.runtime("sklearn")
    module.in_one_thread(model)  # as a worker does
    found = module.shorter(model, manifest)
    return {"has_direct_way": found.way is not None, "why_not_direct": found.why}


def _of_torch(model: Any, manifest: ModelVersion) -> dict[str, Any]:
    from celeriac.runtimes.torch_recipe import compiler

    kinds = {type(part).__name__ for part in model.modules()}
    return {
        "has_convolutions": "Conv2d" in kinds, "has_linear_layers": "Linear" in kinds,
        "compiler": compiler(), "bfloat16": manifest.device == "gpu" or _has_bfloat16(),
    }


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


def _has_bfloat16() -> bool:
    """True if the processor multiplies it (AVX-512 BF16 or AMX, or ARM's)."""
    try:
        flags = Path("/proc/cpuinfo").read_text(encoding="utf-8").split()
    except OSError:
        return False
    return not {"avx512_bf16", "amx_bf16", "bf16"}.isdisjoint(flags)


if __name__ == "__main__":
    sys.exit(main())
