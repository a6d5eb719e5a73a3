"""From scikit-learn and torch to ONNX, in memory."""

from __future__ import annotations

import contextlib
import io
import itertools
import logging
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np

from celeriac import errors
from celeriac.inputs import ARRAYS
from celeriac.registry.manifest import InputSchema, OutputSchema
from celeriac.runtimes import library
from celeriac.runtimes.onnx import OnnxFile, wrap

PIP = "skl2onnx"
OPSET = 17
_LOCALE = "C.UTF-8"
"""Always there on Linux, and lowers letters of every alphabet; the converter names ``en_US``,
which many containers do not have."""


def from_sklearn(estimator: Any, schema: InputSchema, output: OutputSchema) -> OnnxFile:
    """A fitted estimator as a graph. Raises RegistryError if the converter cannot do it."""
    skl2onnx = library("skl2onnx", pip=PIP)
    if output.outputs > 1:
        raise errors.RegistryError("models of several outputs are not converted")
    if schema.nullable:
        raise errors.RegistryError(
            f"column {schema.nullable[0]!r} takes null, which no text of ONNX is"
        )
    options: list[dict[str, Any]] = [{"zipmap": False}] if output.kind == "classifier" else []
    if not output.probabilities:
        options.append({})  # converters of such classifiers may know no such option

    scores: Any = "probabilities" if output.probabilities else "none"

    ways = [estimator]
    if schema.frame and not hasattr(estimator, "steps"):
        ways.append(_of_columns(estimator, schema))

    def converted(way: Any, wide: bool, options: dict[str, Any]) -> OnnxFile:
        with _quiet(), _boosted_trees():
            graph = skl2onnx.to_onnx(
                way, initial_types=_types(schema, wide), options=options,
                target_opset={"": OPSET, "ai.onnx.ml": 3},
            )
        _set_locale(graph.graph)
        if schema.frame:
            _name_inputs(graph.graph, [column.name for column in schema.columns])
        file = OnnxFile(data=graph.SerializeToString(), scores=scores, output=output)
        wrap(file, output, schema)  # some graphs of doubles cannot be loaded
        return file

    # Some of its converters know float32 alone.
    *others, last = itertools.product(ways, (True, False), options)
    for attempt in others:
        with contextlib.suppress(Exception):
            return converted(*attempt)
    try:
        return converted(*last)
    except Exception as error:
        raise errors.RegistryError(
            f"skl2onnx cannot convert it: {errors.told(error)[:200]}"
        ) from error


def _of_columns(estimator: Any, schema: InputSchema) -> Any:
    """The same behind a step that joins columns: the converters of single estimators know one
    input alone, and a graph of a frame has one of each column."""
    compose = library("sklearn.compose", pip="scikit-learn")
    pipeline = library("sklearn.pipeline", pip="scikit-learn")
    import pandas as pd

    names = [column.name for column in schema.columns]
    joined = compose.ColumnTransformer([("columns", "passthrough", names)])
    joined.fit(pd.DataFrame(np.zeros((1, len(names))), columns=names))
    return pipeline.Pipeline([("columns", joined), ("estimator", estimator)])


def from_torch(module: Any, schema: InputSchema) -> OnnxFile:
    """A network as a graph; its answers are what the network returns.

    ``module`` is in evaluation mode, on the CPU. Raises RegistryError.
    """
    torch = library("torch", pip="torch")
    if schema.kind not in (*ARRAYS, "table") or schema.frame:
        raise errors.RegistryError(f"a network of {schema.kind} is not converted")
    shape = schema.shape if schema.kind in ARRAYS else (len(schema.columns),)
    example = torch.zeros((2, *shape), dtype=getattr(torch, schema.dtype))
    with torch.inference_mode():
        found = module(example)
    names = [f"output_{n}" for n in range(len(found) if isinstance(found, (tuple, list)) else 1)]
    file = io.BytesIO()
    with _quiet():
        try:
            torch.onnx.export(
                module, (example,), file, dynamo=False, input_names=["input"], output_names=names,
                dynamic_axes={name: {0: "items"} for name in ("input", *names)},
                opset_version=OPSET,
            )
        except Exception as error:
            raise errors.RegistryError(
                f"torch cannot export it: {errors.told(error)[:200]}"
            ) from error
    return OnnxFile(data=file.getvalue(), scores="logits")


def quantised(file: OnnxFile) -> OnnxFile:
    """Its weights as 8-bit integers. Raises RuntimeMissing or RegistryError."""
    onnx = library("onnx", pip="onnx")
    quantization = library("onnxruntime.quantization", pip="onnxruntime onnx")
    import tempfile
    from dataclasses import replace
    from pathlib import Path

    with tempfile.TemporaryDirectory() as folder, _quiet():
        small = Path(folder) / "small.onnx"
        try:
            quantization.quantize_dynamic(
                onnx.load_from_string(file.data), str(small),
                weight_type=quantization.QuantType.QUInt8,
            )
        except Exception as error:
            raise errors.RegistryError(
                f"it cannot be quantised: {errors.told(error)[:200]}"
            ) from error
        return replace(file, data=small.read_bytes())


def _types(schema: InputSchema, wide: bool) -> list[tuple[str, Any]]:
    kinds = library("skl2onnx.common.data_types", pip=PIP)
    real = kinds.DoubleTensorType if wide else kinds.FloatTensorType
    if schema.kind == "text":
        return [("text", kinds.StringTensorType([None]))]
    if schema.kind == "table" and schema.frame:
        tensors = {
            "float": real, "int": kinds.Int64TensorType,
            "bool": kinds.BooleanTensorType, "text": kinds.StringTensorType,
        }
        return [(column.name, tensors[column.dtype]([None, 1])) for column in schema.columns]
    if schema.kind not in (*ARRAYS, "table"):
        raise errors.RegistryError(f"a model of {schema.kind} is not converted")
    tensor = kinds.FloatTensorType if schema.dtype == "float32" else real
    width = int(np.prod(schema.shape)) if schema.kind in ARRAYS else len(schema.columns)
    return [("input", tensor([None, width]))]


def _name_inputs(graph: Any, names: list[str]) -> None:
    """As the columns are called; the converter writes ``area__m2_`` for ``area (m2)``."""
    called = {one.name: name for one, name in zip(graph.input, names, strict=True)}
    for node in graph.node:
        node.input[:] = [called.get(name, name) for name in node.input]
    for one in graph.input:
        one.name = called[one.name]


def _set_locale(graph: Any) -> None:
    onnx = library("onnx", pip="onnx")
    for node in graph.node:
        if node.op_type == "StringNormalizer":
            kept = [one for one in node.attribute if one.name != "locale"]
            del node.attribute[:]
            node.attribute.extend([*kept, onnx.helper.make_attribute("locale", _LOCALE)])


@contextlib.contextmanager
def _boosted_trees() -> Iterator[None]:
    """Where missing values go is True or False in scikit-learn's boosted trees, the converter hands
    that on as it is, and ONNX's writer takes whole numbers alone."""
    trees = library("skl2onnx.common.tree_ensemble", pip=PIP)
    original = trees.add_node

    def add_node(*given: Any, nodes_missing_value_tracks_true: Any = 0, **named: Any) -> Any:
        to_left = int(nodes_missing_value_tracks_true)
        return original(*given, nodes_missing_value_tracks_true=to_left, **named)

    trees.add_node = add_node
    try:
        yield
    finally:
        trees.add_node = original


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Converters warn of their own future, print, and log advice for their own command lines."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
