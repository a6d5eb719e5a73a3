"""``echo``: answers every item with itself. For first steps and for measuring what is around it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from celeriac.registry.manifest import Architecture, InputSchema, ModelVersion, OutputSchema
from celeriac.runtimes import LoadOptions, Output, Saved

RECIPE = ()


class EchoModel:
    """The item is the answer."""

    def predict(self, inputs: Any) -> Output:
        """``inputs`` unchanged."""
        if hasattr(inputs, "to_dict"):  # a pandas frame
            return Output(values=inputs.to_dict("records"))
        return Output(values=list(inputs))


def takes(model: Any) -> bool:
    """True of the word ``"echo"``."""
    return isinstance(model, str) and model == "echo"


def save(_model: Any, _folder: Path, *, architecture: Architecture | None) -> Saved:  # noqa: ARG001
    """There is nothing to save."""
    return Saved(output=OutputSchema(kind="any"))


def load(_folder: Path, _version: ModelVersion, _options: LoadOptions) -> EchoModel:
    """There is nothing to load."""
    return EchoModel()


def wrap(_model: Any, _output: OutputSchema, _input: InputSchema) -> EchoModel:
    """There is nothing to wrap."""
    return EchoModel()
