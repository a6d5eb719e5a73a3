"""The model configuration of one version, as Triton's clients ask for it before they begin.

It says what the metadata says, in Triton's words. ``max_batch_size`` is 0: so the shape of each
tensor is all of its ``dims``, whose first, -1, is the number of items.
"""

from __future__ import annotations

from typing import Any

from celeriac.registry.catalogue import ModelInfo, VersionInfo
from producer.gateway.oip.items import TensorSpec, inputs_of, outputs_of
from producer.gateway.oip.metadata import platform_of


def model_configuration(
    model: ModelInfo, version: VersionInfo, *, keeps_answers: bool
) -> dict[str, Any]:
    """Of one version, in the form of Triton's ``ModelConfig``.

    ``keeps_answers``: there is a cache, for versions that ask for it.
    """
    return {
        "name": model.name,
        "platform": platform_of(version),
        "backend": version.format,
        "version_policy": {"all": {}},
        "max_batch_size": 0,
        "input": [_as_json(spec) for spec in inputs_of(version.input)],
        "output": [_as_json(spec) for spec in outputs_of(version.output).values()],
        "response_cache": {"enable": keeps_answers and version.serving.cache},
    }


def _as_json(spec: TensorSpec) -> dict[str, Any]:
    return {
        "name": spec.name, "data_type": _data_type(spec.datatype), "dims": list(spec.shape),
    }


def _data_type(datatype: str) -> str:
    return "TYPE_STRING" if datatype == "BYTES" else f"TYPE_{datatype}"
