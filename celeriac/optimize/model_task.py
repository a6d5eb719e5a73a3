"""A form of a model that is measured in a process of its own: what one process tells the other."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from celeriac import compute_threads, errors
from celeriac.release.aside import run_aside

if TYPE_CHECKING:
    from celeriac.registry.manifest import ModelVersion
    from celeriac.runtimes import LoadOptions


@dataclass(frozen=True, kw_only=True)
class ModelTask:
    """A form, and items for it. Each kind of measurement adds its own fields."""

    folder: str
    """Where the form's files lie."""
    manifest: str
    """Its ``model.json``, as text."""
    samples: str
    """A file of items as JSON, as they travel on the wire."""
    options: dict[str, Any] = field(default_factory=dict)
    """``LoadOptions``."""

    def run(self, module: str, threads: int, limit_s: float) -> dict[str, Any]:
        """What ``python -m module`` answers, in a process that has ``threads``.

        Raises ModelFailed, or the error of ours that it ended with, if it fails or takes longer
        than ``limit_s``.
        """
        return run_aside(
            module, (), asdict(self), timeout_s=limit_s, late=f"took longer than {limit_s:g} s",
            what="its process", kind=errors.ModelFailed, env=compute_threads.environment(threads),
        )

    def read(self) -> tuple[ModelVersion, LoadOptions, list[Any]]:
        """In that process: what is told of the form, how it is loaded, and the items."""
        from celeriac.registry.manifest import ModelVersion
        from celeriac.runtimes import LoadOptions

        manifest = ModelVersion.model_validate_json(self.manifest)
        items = json.loads(Path(self.samples).read_text(encoding="utf-8"))
        return manifest, LoadOptions(**self.options), items
