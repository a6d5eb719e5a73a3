"""``celeriac optimize``: faster forms of a version, measured and compared."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from celeriac import errors
from celeriac.messages import ModelRef
from celeriac.registry.manifest import ModelVersion
from celeriac.registry.store import Registry
from celeriac.settings import Settings, get_settings


def register(app: typer.Typer) -> None:
    app.command("optimize")(optimize)


def optimize(
    model: Annotated[str, typer.Argument(help="NAME, NAME@VERSION or NAME@ALIAS.")],
    samples: Annotated[
        Path | None,
        typer.Option(help="Real items to compare on: .csv, .jsonl, .npy, or a folder of images."),
    ] = None,
    text_column: Annotated[str | None, typer.Option(help="CSV column of a text model.")] = None,
    label_column: Annotated[
        str | None, typer.Option(help="CSV column with the right labels, for the accuracy.")
    ] = None,
    batch_sizes: Annotated[str, typer.Option(help="Items of one batch.")] = "1,8,32,128",
    only: Annotated[str, typer.Option(help="Forms to try, as in: onnx,direct.")] = "",
    device: Annotated[
        Literal["cpu", "gpu"] | None, typer.Option(help="The version's own; no other is measured.")
    ] = None,
    threads: Annotated[
        int, typer.Option(min=0, help="Of a worker; 0: [realtime] threads.")
    ] = 0,
    seconds: Annotated[
        float, typer.Option(min=0.02, max=60, help="For each batch size of each form.")
    ] = 0.4,
    limit_s: Annotated[
        float, typer.Option(min=1, max=3_600, help="For each form; longer ones are given up.")
    ] = 120.0,
    agreement: Annotated[
        float, typer.Option(min=0, max=1, help="Share of equal labels, at least.")
    ] = 1.0,
    max_error: Annotated[
        float, typer.Option(min=0, help="Of a probability, at most.")
    ] = 0.01,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Measure and show; register nothing.")
    ] = False,
    profile: Annotated[
        bool, typer.Option("--profile", help="If none is faster, register the same with its cost.")
    ] = False,
    plot: Annotated[
        Path | None, typer.Option(help="The plot (.svg); by default in the state folder.")
    ] = None,
    json: Annotated[Path | None, typer.Option(help="The whole table, as JSON.")] = None,
) -> None:
    """Try faster forms of a model; register the fastest that answers alike.

    Nothing is promoted: the command for that is said at the end.
    """
    from celeriac import release
    from celeriac.optimize.optimising import Optimiser, Wanted
    from celeriac.optimize.parity import Allowed
    from celeriac.optimize.table import show
    from celeriac.runtimes import LoadOptions
    from workers.threads import cores

    settings = get_settings()
    registry = Registry(settings.models.root)
    version = _use_device(registry, ModelRef.parse(model), device, settings)
    items, labels = _read(samples, version, text_column, label_column)
    wanted = Wanted(
        batch_sizes=_sizes(batch_sizes), size_s=seconds, limit_s=limit_s,
        threads=threads or settings.realtime.threads or cores(), cores=cores(),
        allowed=Allowed(agreement=agreement, error=max_error),
        only=tuple(word.strip() for word in only.split(",") if word.strip()),
    )
    release.check(registry, version.ref, settings, slower=True)
    found = Optimiser(
        registry, version.name, version.version, options=LoadOptions.of(settings), wanted=wanted,
        items=items, labels=labels, golden_only=samples is None,
        tell=lambda name: typer.echo(f"  measuring: {name}", err=True),
    ).run(register=not dry_run, profile=profile)
    show(found)
    _write(found, plot or settings.stack.state_dir / "optimize" / f"{version.ref}.svg", json)


def _use_device(
    registry: Registry, ref: ModelRef, wanted: str | None, settings: Settings
) -> ModelVersion:
    """The version; this process, and those that it starts, see from now on what its worker would:
    one GPU, or none."""
    from workers import devices

    version = registry.get(ref.name, registry.resolve(ref))
    if wanted not in (None, version.device):
        raise errors.RequestError(
            f"{version.ref} runs on the {version.device}, and so would its faster forms: "
            f"they are not measured on the {wanted}; leave out --device"
        )
    if version.device == "gpu":
        devices.pin(os.environ, settings.gpu.devices)
    else:
        devices.hide(os.environ)
    return version


def _write(found: Any, plot: Path, json: Path | None) -> None:
    from celeriac.optimize.plot import svg

    plot.parent.mkdir(parents=True, exist_ok=True)
    plot.write_text(svg(found.lines, found.model), encoding="utf-8")
    typer.echo(f"Plot: {plot}")
    if json is not None:
        json.parent.mkdir(parents=True, exist_ok=True)
        json.write_text(found.as_json(), encoding="utf-8")


def _sizes(text: str) -> tuple[int, ...]:
    try:
        sizes = sorted({int(word) for word in text.split(",")})
    except ValueError:
        sizes = []
    if not sizes or sizes[0] < 1 or sizes[-1] > 100_000:
        raise errors.RequestError(f"--batch-sizes {text}: want numbers from 1 on, as in 1,8,32,128")
    return tuple(sizes)


# --- samples -------------------------------------------------------------------------------------

MOST_SAMPLES = 1_000


def _read(
    path: Path | None, version: Any, text_column: str | None, label_column: str | None
) -> tuple[list[Any], Sequence[Any] | None]:
    """Items as they travel on the wire, and their labels. Without a file: the golden ones."""
    from celeriac.release.examples import read_examples
    from celeriac.samples import as_items

    if path is None:
        if label_column:
            raise errors.RequestError("--label-column is for --samples FILE.csv")
        items = [example.item for example in version.golden]
        if not items:
            raise errors.RequestError(f"{version.ref} has no golden examples: give --samples FILE")
        return items, None
    if path.suffix == ".csv" and path.is_file():
        return _from_csv(path, version.input, text_column, label_column)
    if label_column:
        raise errors.RequestError("--label-column is for --samples FILE.csv")
    examples = read_examples(path, text_column or "text", None)
    return as_items(examples, count=MOST_SAMPLES, schema=version.input).items, None


def _from_csv(
    path: Path, schema: Any, text_column: str | None, label_column: str | None
) -> tuple[list[Any], Sequence[Any] | None]:
    from celeriac.inputs import columns_needed
    from celeriac.release.examples import read_frame
    from celeriac.samples import as_items

    frame = read_frame(path)
    names = columns_needed(schema, list(frame.columns), text_column)
    if label_column and label_column not in frame.columns:
        raise errors.RequestError(
            f"{path}: has no column {label_column!r}; it has {', '.join(frame.columns)}"
        )
    step = max(1, len(frame) // MOST_SAMPLES)
    may_lack = {one.name for one in schema.columns if one.dtype == "float" or one.nullable}
    needed = [name for name in names if name not in may_lack]
    frame = frame.dropna(subset=[*needed, *([label_column] if label_column else [])])
    frame = frame.iloc[::step].head(MOST_SAMPLES)
    if frame.empty:
        raise errors.RequestError(f"{path}: holds no whole row of {', '.join(needed or names)}")
    labels = frame[label_column].tolist() if label_column else None
    if schema.kind == "text":
        return frame[names[0]].astype(str).tolist(), labels
    if schema.kind != "table":
        rows = frame[names].to_numpy().reshape(len(frame), *schema.shape)
        return as_items(rows, count=len(rows), schema=schema).items, labels
    return as_items(frame[names], count=len(frame), schema=schema).items, labels
