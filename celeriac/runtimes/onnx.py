"""``onnx``: graphs for ONNX Runtime, from any framework that exports them.

A file holds operators and weights, no code. It is looked through before it is loaded: operators
that would need a library of somebody else, and weights outside the version's folder, are refused.

Inputs follow the version's input schema: a text model takes one tensor of strings, a table either
one tensor of all columns or one of each, arrays and images one tensor. Outputs of a classifier are
labels with probabilities (as scikit-learn's converter writes them, ``zipmap`` off), or one tensor
of scores for each output; of a regressor numbers.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, Literal

import numpy as np

from celeriac import errors
from celeriac.inputs import ARRAYS, take
from celeriac.outputs import from_logits
from celeriac.registry.manifest import (
    MANIFEST_NAME,
    Architecture,
    InputSchema,
    ModelVersion,
    OutputSchema,
)
from celeriac.runtimes import LoadOptions, Output, Saved, frameworks, library, onnx_graph
from celeriac.runtimes.columns import classified, unless_finite, values_of

FILE = "model.onnx"
SUFFIX = ".onnx"
PIP = "onnxruntime"
RECIPE = ("scores",)
MOST_BYTES = 2**31 - 1
"""Of one file: protobuf has no larger ones. Weights beyond that lie in files beside it."""

_TAKEN = (FILE, MANIFEST_NAME, "profile.json", "optimize.json", "optimize.svg")
"""Names that weights beside the graph cannot have: a version has files of these."""
_DOMAINS = ("", "ai.onnx", "ai.onnx.ml", "com.microsoft", "com.microsoft.nchwc")
_REFUSED = ("PyOp", "EPContext")
"""Operators of known domains that run, or read, something beside the file."""
_SLICE_ROWS = 1_024
_DTYPES: dict[str, Any] = {
    "tensor(float)": np.float32, "tensor(double)": np.float64, "tensor(float16)": np.float16,
    "tensor(int64)": np.int64, "tensor(int32)": np.int32, "tensor(bool)": np.bool_,
    "tensor(string)": object,
}
_LABELS = ("tensor(int64)", "tensor(string)")
_SURE = ("Softmax", "Sigmoid")
"""Operators whose results are probabilities."""

Scores = Literal["probabilities", "logits", "none"]


@dataclass(frozen=True, kw_only=True)
class OnnxFile:
    """A model in memory, to be registered."""

    data: bytes
    path: Path | None = None
    """Where it lies; needed if there is ``external``."""
    external: Mapping[str, Path] = field(default_factory=dict)
    """Files with weights, by the name that the graph has for each."""
    scores: Scores | None = None
    """What a classifier's numbers are. None: as the graph says, otherwise logits."""
    output: OutputSchema | None = None
    """What it answers, if the one who converted it knows."""


class OnnxModel:
    """A session. Safe with threads."""

    def __init__(
        self, session: Any, schema: InputSchema, output: OutputSchema, scores: Scores,
        alone: bool = False,
    ) -> None:
        """``alone``: it rounds inputs by a scale of all that come together, so each comes alone."""
        self._session = session
        self._alone = alone
        self._slice_rows = 1 if alone else _SLICE_ROWS
        self._output = output
        self._scores = scores
        self._feed = feeder(session.get_inputs(), schema)
        self._label, self._numbers = _outputs(session.get_outputs(), output)
        self._names = [self._label] if self._label else []
        if not self._label or scores != "none":
            self._names += self._numbers

    def predict(self, inputs: Any) -> Output:
        """Runs over slices of ``inputs``, joined."""
        run = self._columns
        columns = unless_finite(inputs, run) if self._alone else run(inputs)
        if self._output.kind == "regressor":
            return Output(values=values_of(columns))
        if self._label:
            return self._labelled(columns)
        choose = from_logits if self._scores == "logits" else _from_probabilities
        return classified(columns, self._output, choose)

    def _columns(self, inputs: Any) -> list[Any]:
        rows = len(inputs)
        parts = [
            self._run(take(inputs, start, start + self._slice_rows))
            for start in range(0, rows, self._slice_rows)
        ]
        columns = parts[0] if len(parts) == 1 else [
            np.concatenate(column) for column in zip(*parts, strict=True)
        ]
        if any(len(column) != rows for column in columns):
            raise ValueError(f"the graph gave {len(columns[0])} answers to {rows} items")
        return columns

    def _run(self, inputs: Any) -> list[Any]:
        try:
            found: list[Any] = self._session.run(self._names, self._feed(inputs))
        except Exception as error:
            if "alloc" in str(error):  # the library has no type of its own
                raise MemoryError("ONNX Runtime could not allocate memory") from error
            raise
        return found

    def _labelled(self, columns: list[Any]) -> Output:
        """The graph chooses the label itself."""
        values = columns[0].reshape(len(columns[0]))
        if not self._output.probabilities:
            return Output(values=values)
        return Output(values=values, probabilities=_checked(columns[1]))


def takes(model: Any) -> bool:
    """True of an OnnxFile."""
    return isinstance(model, OnnxFile)


def save(model: OnnxFile, folder: Path, *, architecture: Architecture | None) -> Saved:
    """Write the graph and its weights. Raises UntrustedModel or RegistryError."""
    if architecture is not None:
        raise errors.RegistryError("an architecture is for torch; an ONNX file needs none")
    graph = check(model.data)
    (folder / FILE).write_bytes(model.data)
    for name, source in model.external.items():
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, target)
    _check_external(graph, folder)
    session = _session(folder / FILE, LoadOptions())
    output = model.output or _described(session.get_outputs(), graph)
    are_labels = {one.type in _LABELS for one in session.get_outputs()}
    return Saved(
        output=output, wants_labels=output is None and are_labels == {True, False},
        frameworks=frameworks("onnxruntime"),
        recipe={"scores": _scores(model, graph, output, session)},
    )


def load(folder: Path, version: ModelVersion, options: LoadOptions) -> OnnxModel:
    """Look through the file, then make a session. Raises UntrustedModel or RegistryError."""
    graph = check(_bytes(folder / FILE))
    _check_external(graph, folder)
    session = _session(folder / FILE, options)
    scores: Any = version.recipe.get("scores", "logits")
    return OnnxModel(session, version.input, version.output, scores, graph.scales_together)


def wrap(model: OnnxFile, output: OutputSchema, schema: InputSchema) -> OnnxModel:
    """A Model of a file in memory."""
    graph = check(model.data)
    if graph.external and model.path is None:
        raise errors.RegistryError(
            "the graph keeps its weights in other files: give its path, not its bytes"
        )
    source = model.path if graph.external and model.path else model.data
    session = _session(source, LoadOptions())
    scores = _scores(model, graph, output, session)
    return OnnxModel(session, schema, output, scores, graph.scales_together)


def read(path: Path, _options: LoadOptions | None = None, scores: Scores | None = None) -> OnnxFile:
    """The file, with those that its weights are in. Raises UntrustedModel or RegistryError."""
    data = _bytes(path)
    graph = check(data)
    _check_external(graph, path.parent)
    return OnnxFile(
        data=data, path=path, scores=scores,
        external={name: path.parent / name for name in graph.external}
    )


def dtype_of(model: OnnxFile) -> Literal["float32", "float64"] | None:
    """What the graph wants numbers in; None: it wants a tensor of each column, or texts."""
    inputs = [*check(model.data).inputs.values()]
    if len(inputs) != 1 or inputs[0] == _STRING:
        return None
    return "float64" if inputs[0] in _WIDE else "float32"


_STRING, _WIDE = 8, (6, 7, 11)
"""ONNX's numbers of these types; the second: int32, int64, and double."""


# --- what may be loaded --------------------------------------------------------------------------


def check(data: bytes) -> onnx_graph.Graph:
    """Raises RegistryError if it is no ONNX file, UntrustedModel if it needs what is not in it."""
    if len(data) > MOST_BYTES:
        raise errors.RegistryError(
            f"{FILE} has {len(data):,} bytes; an ONNX file has at most {MOST_BYTES:,}: save its "
            "weights beside it (onnx.save_model(..., save_as_external_data=True))"
        )
    try:
        graph = onnx_graph.scan(data)
    except onnx_graph.BadFile as error:
        raise errors.RegistryError(
            f"{FILE} is damaged, or no ONNX file: {error}; export the model again"
        ) from None
    foreign = sorted(
        f"{domain}.{name}" if domain else name for domain, name in graph.operators
        if name in _REFUSED or (domain not in _DOMAINS and (domain, name) not in graph.functions)
    )
    if foreign:
        raise errors.UntrustedModel(
            f"{FILE} uses operators that ONNX Runtime does not have itself: {', '.join(foreign)}; "
            "libraries of custom operators are never loaded. Export the model without them"
        )
    return graph


def _check_external(graph: onnx_graph.Graph, folder: Path) -> None:
    home = folder.resolve()
    for name in sorted(graph.external):
        parts = PurePosixPath(name).parts
        if parts and parts[0] in _TAKEN[1:]:
            raise errors.RegistryError(
                f"{FILE} keeps weights in {name!r}, which is a file of each version itself; save "
                "them under another name"
            )
        if not parts or name.startswith("/") or ".." in parts or "\\" in name or (
            parts[0] in _TAKEN
        ):
            raise errors.UntrustedModel(
                f"{FILE} names weights outside its folder: {name!r}; they must lie beside it"
            )
        path = folder / name
        if not path.is_file() or not path.resolve().is_relative_to(home):
            raise errors.RegistryError(
                f"{FILE} keeps weights in {name!r}, which is not a file in its folder; "
                "give them together"
            )


def _bytes(path: Path) -> bytes:
    if path.stat().st_size > MOST_BYTES:
        raise errors.RegistryError(
            f"{path.name} has {path.stat().st_size:,} bytes; "
            f"an ONNX file has at most {MOST_BYTES:,}"
        )
    return path.read_bytes()


def _session(source: Path | bytes, options: LoadOptions) -> Any:
    ort = library("onnxruntime", pip=PIP)
    settings = ort.SessionOptions()
    settings.intra_op_num_threads = max(1, options.threads)
    settings.inter_op_num_threads = 1
    settings.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    settings.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    settings.use_deterministic_compute = True
    settings.log_severity_level = 4  # what goes wrong is raised
    settings.add_session_config_entry("session.intra_op.allow_spinning", "0")
    given = source if isinstance(source, bytes) else str(source)
    try:
        # On the CPU, on workers with a GPU, too.
        return ort.InferenceSession(given, settings, providers=["CPUExecutionProvider"])
    except Exception as error:
        text = errors.without_paths(" ".join(str(error).split()))
        raise errors.RegistryError(f"ONNX Runtime cannot load {FILE}: {text}") from error


# --- what goes in --------------------------------------------------------------------------------


def feeder(inputs: Sequence[Any], schema: InputSchema) -> Callable[[Any], dict[str, Any]]:
    """A function from collated inputs to the graph's tensors. Raises RegistryError."""
    for one in inputs:
        if one.type not in _DTYPES:
            raise errors.RegistryError(f"the graph's input {one.name!r} is a {one.type}: no tensor")
        if one.shape and isinstance(one.shape[0], int):
            raise errors.RegistryError(
                f"the graph's input {one.name!r} takes batches of exactly {one.shape[0]}; export "
                "the model with a first axis of any length (dynamic_axes, or dynamic_shapes)"
            )
    if schema.kind == "any":
        raise errors.RegistryError("an ONNX model needs to know its input: text, table or array")
    if len(inputs) == 1:
        return _one_tensor(inputs[0], schema)
    return _tensor_of_each_column(inputs, schema)


def _one_tensor(one: Any, schema: InputSchema) -> Callable[[Any], dict[str, Any]]:
    dtype, name = _DTYPES[one.type], one.name
    if (dtype is object) != (schema.kind == "text"):
        raise errors.RegistryError(
            f"the graph's input {name!r} is a {one.type}; the examples say that an item is "
            f"{'text' if schema.kind == 'text' else 'numbers'}"
        )
    if schema.kind == "text":
        shape = (-1, 1) if len(one.shape) == 2 else (-1,)
        return lambda texts: {name: np.array(texts, dtype=object).reshape(shape)}
    sides = one.shape[1:]
    fixed = schema.kind in ARRAYS and all(isinstance(side, int) for side in sides)
    if schema.frame:
        return lambda frame: {name: _as(dtype, frame.to_numpy(), name)}
    if not fixed:
        return lambda array: {name: _as(dtype, array, name)}
    return lambda array: {name: _as(dtype, array, name).reshape(len(array), *sides)}


def _tensor_of_each_column(
    inputs: Sequence[Any], schema: InputSchema
) -> Callable[[Any], dict[str, Any]]:
    names = [column.name for column in schema.columns]
    if schema.kind != "table" or {one.name for one in inputs} != set(names):
        wanted = ", ".join(one.name for one in inputs)
        raise errors.RegistryError(
            f"the graph takes one tensor of each of: {wanted}; the examples must be a frame with "
            "these columns"
        )
    wanted_dtypes = {one.name: _DTYPES[one.type] for one in inputs}
    places = {name: number for number, name in enumerate(names)}
    if schema.frame:
        return lambda frame: {
            name: _as(dtype, frame[name].to_numpy(), name).reshape(-1, 1)
            for name, dtype in wanted_dtypes.items()
        }
    return lambda rows: {
        name: _as(dtype, rows[:, places[name], None], name)
        for name, dtype in wanted_dtypes.items()
    }


def _as(dtype: Any, values: Any, name: str) -> Any:
    """``values`` as the graph's numbers or texts. Raises ValueError if it takes whole numbers, or
    true and false, and one of these is none: a cast would make another number of it."""
    with np.errstate(invalid="ignore"):
        found = values.astype(dtype, copy=False)
    if dtype in _EXACT and (found != values).any():
        wanted = "true or false" if dtype is np.bool_ else f"whole numbers ({dtype.__name__})"
        raise ValueError(f"the graph's input {name!r} takes {wanted}")
    return found


_EXACT = (np.int64, np.int32, np.bool_)


# --- what comes out ------------------------------------------------------------------------------


def _described(outputs: Sequence[Any], graph: onnx_graph.Graph) -> OutputSchema | None:
    """What a graph with its own labels answers; None: it has none."""
    chosen = next((one for one in outputs if one.type in _LABELS), None)
    if chosen is None:
        return None
    labels = graph.labels_of(chosen.name)
    are_texts = chosen.type == "tensor(string)"
    if not labels or any(isinstance(label, str) != are_texts for label in labels):
        return None
    numbers = any(one.type not in _LABELS for one in outputs)
    return OutputSchema(kind="classifier", labels=labels, probabilities=numbers)


def _outputs(outputs: Sequence[Any], schema: OutputSchema) -> tuple[str, list[str]]:
    """Names of the output that holds labels ("": none does) and of those that hold numbers."""
    for one in outputs:
        if one.type not in _DTYPES:
            raise errors.RegistryError(
                f"the graph's output {one.name!r} is a {one.type}; convert the model with "
                "options={'zipmap': False}"
            )
    labels = [one.name for one in outputs if one.type in _LABELS]
    numbers = [one.name for one in outputs if one.type not in _LABELS]
    if schema.kind == "classifier" and schema.outputs == 1 and labels:
        return labels[0], numbers[:1]
    if schema.kind == "regressor":
        return "", [one.name for one in outputs if one.type != "tensor(string)"]
    return "", numbers


def _scores(
    model: OnnxFile, graph: onnx_graph.Graph, output: OutputSchema | None, session: Any
) -> Scores:
    if model.scores is not None:
        return model.scores
    outputs = session.get_outputs()
    if any(one.type in _LABELS for one in outputs):
        return "probabilities" if output is None or output.probabilities else "none"
    makers = [graph.producers.get(one.name) for one in outputs]
    sure = all(maker is not None and maker.operator in _SURE for maker in makers)
    return "probabilities" if sure else "logits"


def _from_probabilities(scores: Any, labels: list[Any]) -> tuple[Any, Any]:
    """Labels and probabilities from ``(n, labels)``, or from ``(n,)`` of the second of two."""
    if len(labels) == 2 and (scores.ndim == 1 or scores.shape[1] == 1):
        positive = scores.reshape(-1)
        scores = np.column_stack([1 - positive, positive])
    if scores.ndim != 2 or scores.shape[1] != len(labels):
        raise ValueError(f"the graph gave shape {scores.shape} for {len(labels)} labels")
    names = np.empty(len(labels), dtype=object)
    names[:] = labels
    return names[scores.argmax(axis=1)], _checked(scores)


def _checked(scores: Any) -> Any:
    with np.errstate(invalid="ignore"):
        low, high = scores.min(initial=0.0), scores.max(initial=0.0)
    if low < -_SLACK or high > 1 + _SLACK:
        raise ValueError(
            "the graph's scores are no probabilities; register it with scores='logits', "
            "or scores='none' if only its labels count"
        )
    return scores


_SLACK = 1e-3
