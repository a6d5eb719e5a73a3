"""A runtime in one file: linear classifiers as plain arrays, in numpy's own format.

It is the example of ``docs/models.md``, "A runtime of your own". ``[models] runtimes`` names its
module, and the last part of that name without ``_runtime`` is the format: ``linear``.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from celeriac import errors
from celeriac.outputs import Output, from_logits
from celeriac.registry.manifest import Architecture, InputSchema, ModelVersion, OutputSchema
from celeriac.runtimes import LoadOptions, Saved

FILE = "model.npz"
SUFFIX = ".npz"


@dataclass
class Linear:
    """What is registered: ``x @ weights + bias`` are the logits of ``labels``."""

    weights: np.ndarray[Any, Any]
    bias: np.ndarray[Any, Any]
    labels: list[str]


class LinearModel:
    """What answers."""

    def __init__(self, model: Linear) -> None:
        self._model = model

    def predict(self, inputs: Any) -> Output:
        """``inputs``: an array ``(n, columns)``."""
        model = self._model
        values, probabilities = from_logits(inputs @ model.weights + model.bias, model.labels)
        return Output(values=values, probabilities=probabilities)


def takes(model: Any) -> bool:
    """True if an object in memory is one of ours."""
    return isinstance(model, Linear)


def dtype_of(_model: Any) -> str:
    """What the model wants its numbers in."""
    return "float64"


def save(model: Linear, folder: Path, *, architecture: Architecture | None) -> Saved:  # noqa: ARG001
    """Write the files of a version."""
    np.savez(folder / FILE, weights=model.weights, bias=model.bias, labels=np.array(model.labels))
    output = OutputSchema(kind="classifier", labels=tuple(model.labels), probabilities=True)
    return Saved(output=output)


def wrap(model: Linear, _output: OutputSchema, _input: InputSchema) -> LinearModel:
    """The model in memory, as it will answer once it is loaded."""
    return LinearModel(model)


def load(folder: Path, _version: ModelVersion, options: LoadOptions) -> LinearModel:
    """The model of a version whose digests were verified."""
    return LinearModel(read(folder / FILE, options))


def read(path: Path, _options: LoadOptions) -> Linear:
    """The model in a file; nothing in it is run. Raises RegistryError."""
    try:
        with np.load(path, allow_pickle=False) as file:
            labels = [str(label) for label in file["labels"]]
            return Linear(file["weights"], file["bias"], labels)
    except Exception as error:
        raise errors.RegistryError(
            f"{path.name} cannot be read: {errors.told(error)}"
        ) from error
