"""A dataset beside the reference of a version, its answers included.

``python -m celeriac.release.comparing ROOT NAME`` does so in a process of its own, as each night.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec

from celeriac import errors
from celeriac.drift.dataset import MOST_ROWS, check_dataset
from celeriac.drift.profile import read_profile
from celeriac.drift.records import DriftReport
from celeriac.messages import ModelRef
from celeriac.registry.store import Registry
from celeriac.release.aside import answer_with, run_aside
from celeriac.runtimes import LoadOptions
from celeriac.scoring import Scorer, limits_of
from celeriac.settings import Settings


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What is compared, and how."""

    source: str
    text_column: str | None = None
    label: str | None = None
    rows: int = MOST_ROWS
    answers: bool = True
    """Load the model, and compare what it answers, too."""


def compare(
    registry: Registry, ref: ModelRef, wanted: Wanted, options: LoadOptions
) -> DriftReport:
    """Compare, in this process.

    Raises ModelNotFound, VersionNotFound, RegistryError and its kinds, DatasetError, or
    RequestError for a label without answers.
    """
    if wanted.label is not None and not wanted.answers:
        raise errors.RequestError("--label needs the model's answers: leave out --no-answers")
    manifest = registry.verify(ref.name, registry.resolve(ref))
    profile = read_profile(registry.folder(manifest.name, manifest.version))
    scorer = (
        Scorer.load(registry, manifest.name, manifest.version, options)
        if wanted.answers and profile is not None else None
    )
    return check_dataset(
        manifest, profile, wanted.source, now=datetime.now(UTC), text_column=wanted.text_column,
        label=wanted.label, most_rows=wanted.rows, limits=limits_of(options),
        predict=None if scorer is None
        else lambda table: scorer.score_table(table, wanted.text_column),
    )


def compare_aside(
    registry: Registry, ref: ModelRef, wanted: Wanted, settings: Settings, timeout_s: float
) -> DriftReport:
    """Compare in a process of its own, which may take ``timeout_s``.

    Raises as :func:`compare`, and WorkerError if the process crashes or takes longer.
    """
    version = registry.resolve(ref)
    what = f"{ref.name}@{version} beside {wanted.source}"
    found = run_aside(
        "celeriac.release.comparing", [str(registry.root.absolute()), ref.name],
        {"options": asdict(LoadOptions.of(settings)), "version": version, "what": asdict(wanted)},
        timeout_s=timeout_s, kind=errors.WorkerError,
        what=f"{what}: the process that compared them",
        late=f"{what}: comparing them took longer than {timeout_s:g} s (timeout_s)",
    )
    return msgspec.convert(found["report"], DriftReport)


def main(arguments: Sequence[str]) -> int:
    """The process that compares."""
    root, name = arguments
    return answer_with(
        lambda wanted: _compare(Registry(Path(root)), name, wanted),
        told=lambda error: errors.WorkerError(f"{name}: comparing raised {errors.told(error)}"),
    )


def _compare(registry: Registry, name: str, wanted: dict[str, Any]) -> Iterator[dict[str, Any]]:
    report = compare(
        registry, ModelRef(name=name, version=wanted["version"]), Wanted(**wanted["what"]),
        LoadOptions(**wanted["options"]),
    )
    yield {"report": msgspec.to_builtins(report)}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
