"""Write a model from memory into the registry, with golden examples, as its files have it."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from celeriac import errors, runtimes
from celeriac.inputs import ARRAYS, Limits, collate
from celeriac.messages import check_model_name, encode_item
from celeriac.outputs import answers
from celeriac.registry.manifest import (
    Architecture,
    GoldenExample,
    InputSchema,
    ModelDraft,
    ModelVersion,
    OutputSchema,
    Serving,
)
from celeriac.registry.store import Registry
from celeriac.runtimes import LoadOptions, Model, Output, Saved
from celeriac.samples import Samples, as_items, as_samples
from celeriac.scoring import Scorer, essence, limits_of, same_answer
from celeriac.settings import get_settings

PICKLED = (".joblib", ".pickle", ".pkl", ".pt", ".pth")
MOST_DESCRIBED = 10_000
"""Characters of a description."""


def register(  # noqa: PLR0913 - the words of a notebook; all but three have a default
    name: str,
    model: Any,
    *,
    examples: Any,
    registry: Registry | None = None,
    labels: Sequence[Any] | None = None,
    kind: Literal["classifier", "regressor"] | None = None,
    input: InputSchema | None = None,
    text_column: str = "text",
    architecture: Architecture | None = None,
    metrics: Mapping[str, float] | None = None,
    description: str = "",
    device: Literal["cpu", "gpu"] = "cpu",
    serving: Serving | None = None,
    recipe: Mapping[str, Any] | None = None,
    golden: int = 8,
    reference: Any = None,
    reference_labels: Sequence[Any] | None = None,
) -> ModelVersion:
    """Write a model into the registry as its next version. It serves once it is promoted.

    ``model`` is a fitted scikit-learn estimator or pipeline, a torch Module, an ONNX model
    (the path of its file, its bytes, or an ``OnnxFile``), ``"echo"``, or what a runtime of
    ``[models] runtimes`` takes.
    ``examples`` are inputs as the model takes them: a list of texts, a pandas frame, or an array
    whose first axis counts them. The input schema is inferred from them, and ``golden`` of them
    are kept with their answers (and one more for a column of texts that may be missing, if none of
    these lacks one): whoever promotes the version reproduces them first.
    ``kind="regressor"`` has a scikit-learn outlier detector answer with its score, the higher the
    stranger, instead of -1 and 1. ``labels`` names the outputs of a torch classifier, in order (of
    several outputs: one list for each); without it a Module is a regressor. ``serving`` says
    whether answers are cached, and how single items are gathered into batches. ``recipe`` says how
    the runtime runs it, as in ``{"direct": False}``: scikit-learn alone, by no shorter way.
    ``registry`` is the configured one by default.

    ``reference`` is what drift is measured against: training or held-out inputs of the same form
    as ``examples``, thousands if there are, in the order in which they came. Without it, examples
    serve if there are a hundred. ``reference_labels``: the truth of each, None where it is not
    known or the model was trained on it; drift reports then say whether answers became worse.

    Raises RegistryError if the model cannot be saved, does not answer its examples, or answers
    differently when it is read back; then nothing is registered.
    """
    check_model_name(name)
    _check_options(description, device, serving)
    plain_metrics = _plain_metrics(metrics or {})
    settings = get_settings()
    registry = registry or Registry(settings.models.root)
    model = _opened(model)
    form = format_of(model)
    if form == "torch":
        model = copy.deepcopy(model)  # evaluation mode is ours, not the caller's
        architecture = architecture or runtimes.runtime("torch").architecture_of(model)
    samples = _samples(model, examples, input, text_column, golden)
    module = runtimes.runtime(form)
    runtimes.check_recipe(recipe or {}, module)

    def write(folder: Path) -> ModelDraft:
        saved: Saved = module.save(model, folder, architecture=architecture)
        output = _output_of(saved, kind, labels)
        found = _try(module.wrap(model, output, samples.schema), samples)
        output = _with_outputs(output, found.values)
        draft = ModelDraft(
            format=form, input=samples.schema, output=output, device=device,
            architecture=architecture, frameworks=saved.frameworks,
            recipe=saved.recipe | dict(recipe or {}),
            metrics=plain_metrics,
            description=description, serving=serving or Serving(),
        )
        expected = _answers(found, output, name)
        reread = _reread(name, folder, draft, LoadOptions.of(settings))
        golden = _golden(name, samples.items, expected, reread.score(samples.items))
        _write_profile(folder, reread, examples, reference, reference_labels)
        return draft.model_copy(update={"golden": golden})

    return registry.add(name, write)


def _check_options(description: str, device: str, serving: Serving | None) -> None:
    if len(description) > MOST_DESCRIBED:
        raise errors.RegistryError(
            f"the description has {len(description):,} characters; at most {MOST_DESCRIBED:,} are "
            "taken, because all clients and workers read it with the catalogue"
        )
    if device == "cpu" and serving is not None and serving.precision == "bfloat16":
        raise errors.RegistryError(
            "a version for the CPU is registered in float32; celeriac optimize compares bfloat16 "
            "with it, and registers it where it is faster"
        )


def _plain_metrics(metrics: Mapping[str, float]) -> dict[str, float]:
    plain = {key: float(value) for key, value in metrics.items()}
    for key, value in plain.items():
        if not math.isfinite(value):
            raise errors.RegistryError(f"the metric {key!r} is {value}; metrics are finite numbers")
    return plain


def _opened(model: Any) -> Any:
    """An ONNX model may be given as the path of its file, or as its bytes."""
    if isinstance(model, Path):
        if model.suffix in PICKLED:
            raise errors.RegistryError(
                f"{model} cannot be registered: it is loaded by running it. `celeriac models "
                "import` converts such a file, once"
            )
        return runtimes.runtime("onnx").read(model)
    if isinstance(model, (bytes, bytearray)):
        return runtimes.runtime("onnx").OnnxFile(data=bytes(model))
    return model


def format_of(model: Any) -> str:
    """The format for an object in memory. Raises RegistryError if there is none."""
    for form in runtimes.formats():
        if runtimes.runtime(form).takes(model):
            return form
    raise errors.RegistryError(
        f"a {type(model).__name__} cannot be registered; "
        "give a scikit-learn estimator, a torch Module, the pathlib.Path of an .onnx file, or "
        "'echo'"
    )


def _samples(
    model: Any, examples: Any, schema: InputSchema | None, text_column: str, count: int
) -> Samples:
    form = format_of(model)
    if form == "echo":
        schema = schema or InputSchema(kind="any")
    if schema is not None:
        return _as_given(as_items(examples, count=count, schema=schema))
    dtype_of = getattr(runtimes.runtime(form), "dtype_of", None)
    dtype = None if dtype_of is None else dtype_of(model)
    if dtype is not None:
        return as_samples(examples, count=count, text_column=text_column, dtype=dtype)
    names = getattr(model, "feature_names_in_", None)
    return as_samples(
        examples, count=count, text_column=text_column,
        names=None if names is None else [str(name) for name in names],
    )


def _as_given(samples: Samples) -> Samples:
    """Samples whose ``raw`` a model of numbers or images takes. Raises RegistryError.

    A frame for a model of frames stays as it is: what workers make of it is compared with that.
    """
    is_frame = samples.schema.frame and hasattr(samples.raw, "columns")
    if is_frame or samples.schema.kind not in (*ARRAYS, "table"):
        return samples
    limits = Limits(item_bytes=2**62, image_pixels=get_settings().realtime.max_image_pixels)
    collated = collate(samples.items, samples.schema, limits)
    for number, error in sorted(collated.errors.items()):
        raise errors.RegistryError(f"example {number + 1} does not fit: {error.message}")
    return replace(samples, raw=collated.inputs)


def _output_of(
    saved: Saved, kind: Literal["classifier", "regressor"] | None, labels: Sequence[Any] | None
) -> OutputSchema:
    """What the model says of its answers; where it cannot tell, what the caller says."""
    given = _plain_labels(labels)
    if saved.output is not None:
        if given and given != saved.output.labels:
            raise errors.RegistryError(
                f"the model has its own labels {saved.output.labels}; leave out `labels`"
            )
        if kind == "regressor" and saved.may_score:
            return OutputSchema(kind="regressor")
        if kind and kind != saved.output.kind:
            raise errors.RegistryError(f"the model is a {saved.output.kind}, not a {kind}")
        return saved.output
    if not given:
        if kind == "classifier" or (saved.wants_labels and kind is None):
            raise errors.RegistryError(
                "name the labels of the classifier, in order: labels=[...]; its file does not say "
                "which there are"
            )
        return OutputSchema(kind="regressor")
    if kind == "regressor":
        raise errors.RegistryError("a regressor has no labels; leave out `labels` or `kind`")
    several = isinstance(given[0], tuple)
    for of_one in given if several else (given,):
        if len(set(of_one)) < len(of_one):
            raise errors.RegistryError(f"each label stands for one output: {of_one} repeats some")
    return OutputSchema(
        kind="classifier", labels=given, outputs=len(given) if several else 1, probabilities=True
    )


def _write_profile(
    folder: Path, scorer: Scorer, examples: Any, reference: Any, truth: Sequence[Any] | None
) -> None:
    """``profile.json``, if there is something to make it of. Raises RegistryError."""
    from celeriac.drift.profile import PROFILE_NAME
    from celeriac.drift.reference import LEAST_ROWS
    from celeriac.drift.registering import profile_of

    schema = scorer.manifest.input
    if reference is None and truth is not None:
        raise errors.RegistryError("reference_labels are the truth of a reference: give it, too")
    if schema.kind == "any" or (reference is None and len(examples) < LEAST_ROWS):
        return
    profile = profile_of(
        examples if reference is None else reference, schema, scorer.manifest.output,
        scorer.score_table, truth=truth, limits=scorer.limits,
        source="examples" if reference is None else "reference",
    )
    (folder / PROFILE_NAME).write_bytes(profile.dump())


def _plain_labels(labels: Any) -> tuple[Any, ...]:
    given = [] if labels is None else labels
    given = given.tolist() if hasattr(given, "tolist") else list(given)
    plain = [label.item() if hasattr(label, "item") else encode_item(label) for label in given]
    return tuple(tuple(label) if isinstance(label, list) else label for label in plain)


def _try(model: Model, samples: Samples) -> Output:
    """What the model in memory answers. Raises RegistryError if it does not take its examples."""
    try:
        output = model.predict(samples.raw)
        count = len(output.values)
    except Exception as error:
        raise errors.RegistryError(
            f"the model does not answer its examples: {errors.told(error)}"
        ) from error
    if count != len(samples.items):
        raise errors.RegistryError(
            f"the model gave {count} answers to {len(samples.items)} examples; "
            "give the examples as it takes them (a text model: a list of texts, no frame)"
        )
    return output


def _answers(found: Output, schema: OutputSchema, name: str) -> list[dict[str, Any]]:
    """What callers get of it. Raises RegistryError if it is not what the model says it answers."""
    try:
        return answers(found, schema, name, 1)
    except Exception as error:
        raise errors.RegistryError(
            f"the model's answers are not those of a {schema.kind} with {schema.outputs} "
            f"output{'s' if schema.outputs > 1 else ''} ({errors.told(error)}); of a search over "
            "models of several outputs (GridSearchCV), give its best_estimator_"
        ) from error


def _with_outputs(output: OutputSchema, values: Any) -> OutputSchema:
    if output.kind != "regressor" or values.ndim == 1:
        return output
    return output.model_copy(update={"outputs": int(values.shape[1])})


def _reread(name: str, folder: Path, draft: ModelDraft, options: LoadOptions) -> Scorer:
    """The model as its files have it, before they are a version."""
    manifest = ModelVersion(
        **{field: getattr(draft, field) for field in ModelDraft.model_fields},
        name=name, version=1, files=(), created_at="",
    )
    model = runtimes.runtime(draft.format).load(folder, manifest, options)
    return Scorer(manifest, model, limits_of(options))


def _of_nulls(item: Any) -> str:
    """Why a model may answer otherwise when it is read back."""
    if isinstance(item, dict) and None in item.values():
        return ("Was it trained on None where a text is missing? Workers give it NaN there, as "
                "pandas reads files: train it so")
    return "Does it keep something that its format does not save?"


def _golden(
    name: str, items: Sequence[Any], expected: Sequence[dict[str, Any]],
    found: Sequence[dict[str, Any]],
) -> tuple[GoldenExample, ...]:
    """Items with their answers; raises RegistryError unless both models give the same."""
    for number, (one, other) in enumerate(zip(expected, found, strict=True), start=1):
        if "error" in other:
            raise errors.RegistryError(
                f"{name}: example {number} gets no answer: {other['error']['message']}"
            )
        if not same_answer(one, other):
            raise errors.RegistryError(
                f"{name}: read back from its files, the model answers example {number} with "
                f"{essence(other)}; the one in memory answers {essence(one)}. "
                f"{_of_nulls(items[number - 1])}"
            )
    return tuple(
        GoldenExample(item=item, answer=essence(answer))
        for item, answer in zip(items, found, strict=True)
    )
