"""The operator's half of ``celeriac models``: what works on the registry folder itself."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from celeriac import errors
from celeriac.messages import ModelRef
from celeriac.registry.store import Registry
from celeriac.settings import get_settings
from producer.cli import terminal
from producer.cli.models import app, offer_local, tell_latency

Examples = Annotated[
    Path | None,
    typer.Option(help="Inputs, at least one: .csv, .jsonl, .npy, or a folder of images."),
]
Input = Annotated[Path | None, typer.Option(help="What an item is, as JSON. Images need it.")]
Labels = Annotated[
    str | None, typer.Option(help="Classifier that has none itself: in order, as a,b,c.")
]
Metric = Annotated[list[str] | None, typer.Option(help="As accuracy=0.93.")]
TextColumn = Annotated[str, typer.Option(help="Column of a text model.")]
Description = Annotated[str, typer.Option(help="What it is for.")]
Device = Annotated[Literal["cpu", "gpu"], typer.Option(help="Where it runs.")]


def register(_main: typer.Typer) -> None:
    """Join the producer's ``celeriac models``."""
    offer_local(_on_folder)


@app.command("register")
def register_model(
    name: Annotated[str, typer.Argument(help="Name of the model, as in `reviews`.")],
    source: Annotated[
        Path | None,
        typer.Argument(help="A .skops, .safetensors or .onnx file, or a folder of one."),
    ] = None,
    format: Annotated[
        str | None, typer.Option(help="sklearn, torch, onnx, echo ... Told by the file's name.")
    ] = None,
    examples: Examples = None,
    input: Input = None,
    architecture: Annotated[str | None, typer.Option(help="torch: package.module:Class.")] = None,
    arguments: Annotated[str, typer.Option(help="torch: arguments of the class, as JSON.")] = "{}",
    labels: Labels = None,
    kind: Annotated[
        Literal["classifier", "regressor"] | None,
        typer.Option(help="regressor: an outlier detector answers with its score."),
    ] = None,
    metric: Metric = None,
    text_column: TextColumn = "text",
    description: Description = "",
    device: Device = "cpu",
    cache: Annotated[
        bool, typer.Option("--cache", help="Keep answers, and give them again to equal items.")
    ] = False,
    max_batch_size: Annotated[
        int | None, typer.Option(min=1, max=4_096, help="Items of one forward pass, at most.")
    ] = None,
    max_wait_ms: Annotated[
        float, typer.Option(min=0, max=1_000, help="How long a batch may wait to fill.")
    ] = 0.0,
    precision: Annotated[
        Literal["float32", "auto", "bfloat16", "float16"],
        typer.Option(help="torch: numbers of the forward pass; auto: the best that the GPU has."),
    ] = "float32",
    plain: Annotated[
        bool, typer.Option("--plain", help="scikit-learn: run it by no shorter way of ours.")
    ] = False,
) -> None:
    """Register a model file as the next version of NAME."""
    from celeriac import release
    from celeriac.registry.manifest import Architecture, Serving
    from celeriac.release.examples import read_examples, read_schema

    form = format or _format_of(source)
    named = read_architecture(architecture, arguments) if form == "torch" else None
    model = _read_model(form, source, named)
    version = release.register(
        name, model,
        examples=["hello"] if form == "echo" and examples is None
        else read_examples(examples, text_column, model),
        input=read_schema(input), labels=read_labels(labels), kind=kind,
        metrics=read_metrics(metric or []),
        text_column=text_column,
        architecture=named if isinstance(named, Architecture) else None,
        description=description, device=device,
        serving=Serving(
            cache=cache, max_batch_size=max_batch_size, max_wait_ms=max_wait_ms,
            precision=precision,
        ),
        recipe={"direct": False} if plain else None,
    )
    typer.echo(f"{version.ref} is registered. Let it serve: celeriac models promote {version.ref}")


@app.command()
def check(
    model: Annotated[str, typer.Argument(help="NAME@VERSION or NAME@ALIAS.")],
) -> None:
    """Verify a version's files, load it and try its golden examples, in a process of its own."""
    from celeriac import release

    checked = release.check(_registry(), ModelRef.parse(model), get_settings())
    version = checked.manifest
    typer.echo(
        f"{version.ref}: {terminal.counted(len(version.files), 'file')} verified, "
        f"{terminal.counted(len(version.golden), 'golden example')} reproduced"
    )
    tell_latency(checked.figures())


def _on_folder(action: str, model: str, who: str, why: str, force: bool) -> dict[str, Any]:
    from celeriac import release

    if action == "promote":
        return release.promote(
            _registry(), model, settings=get_settings(), who=who, why=why, force=force
        )
    return release.rollback(_registry(), model, who=who, why=why)


def _registry() -> Registry:
    return Registry(get_settings().models.root)


def _suffixes() -> dict[str, str]:
    """Formats by the ends of their files' names."""
    from celeriac import runtimes

    modules = {form: runtimes.runtime(form) for form in runtimes.formats()}
    return {module.SUFFIX: form for form, module in modules.items() if hasattr(module, "SUFFIX")}


def _format_of(source: Path | None) -> str:
    if source is None:
        raise errors.RequestError("name a model file, or --format echo")
    suffixes = _suffixes()
    form = suffixes.get(_model_file(source).suffix)
    if form is None:
        raise errors.RequestError(
            f"{source}: a model file ends in {', '.join(suffixes)}; "
            "pickle, joblib and .pt files are for `celeriac models import`"
        )
    return form


def _model_file(source: Path) -> Path:
    if not source.exists():
        raise errors.RequestError(f"{source}: no such file")
    if not source.is_dir():
        return source
    suffixes = _suffixes()
    found = [path for path in sorted(source.iterdir()) if path.suffix in suffixes]
    if len(found) != 1:
        raise errors.RequestError(
            f"{source}: the folder holds {len(found)} model files ({', '.join(suffixes)}); name one"
        )
    return found[0]


def read_architecture(path: str | None, arguments: str) -> Any:
    """The class of a network and its arguments, which are JSON. Raises RequestError."""
    from pydantic import ValidationError

    from celeriac.registry.manifest import Architecture

    if path is None:
        raise errors.RequestError(
            "a safetensors file holds weights alone; name its code: --architecture "
            "package.module:Class --arguments '{...}'"
        )
    try:
        return Architecture(path=path, arguments=json.loads(arguments))
    except (ValidationError, ValueError) as error:
        raise errors.RequestError(
            f"--architecture {path} --arguments {arguments}: want package.module:Class "
            "and a JSON object"
        ) from error


def _read_model(form: str, source: Path | None, architecture: Any) -> Any:
    from celeriac import runtimes

    if form == "echo":
        return "echo"
    if source is None:
        raise errors.RequestError(f"name the {form} model file")
    options = runtimes.LoadOptions.of(get_settings())
    file = _model_file(source)
    module = runtimes.runtime(form)
    if form == "torch":
        return module.read(file, architecture, options)
    return module.read(file, options)


def read_labels(text: str | None) -> list[Any] | None:
    """``0,1,2`` are whole numbers if all of them are; ``007`` is a text, which would become 7."""
    if text is None:
        return None
    labels = [label.strip() for label in text.split(",")]
    return [int(label) for label in labels] if all(map(_is_whole, labels)) else list(labels)


def _is_whole(text: str) -> bool:
    digits = text.removeprefix("-")
    return digits.isdecimal() and digits.isascii() and str(int(text)) == text


def read_metrics(pairs: list[str]) -> dict[str, float]:
    """From ``NAME=NUMBER``. Raises RequestError."""
    metrics = {}
    for pair in pairs:
        name, _, value = pair.partition("=")
        try:
            metrics[name.strip()] = number = float(value)
        except ValueError:
            number = math.nan
        if not math.isfinite(number):
            raise errors.RequestError(f"--metric {pair}: want NAME=NUMBER, a finite one")
    return metrics
