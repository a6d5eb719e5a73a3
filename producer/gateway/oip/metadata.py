"""What the protocol's metadata says of this server and its models."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import celeriac
from celeriac.messages import CHAMPION
from celeriac.registry.catalogue import Catalogue, ModelInfo, VersionInfo
from producer.gateway.oip.items import (
    TensorSpec,
    inputs_of,
    outputs_of,
    table_columns,
    table_matrix,
    takes_matrix,
)
from producer.gateway.oip.readiness import is_served, unserved

EXTENSIONS = ("binary_tensor_data", "parameters", "schedule_policy", "statistics",
              "model_configuration", "model_repository(index)")


def server_metadata() -> dict[str, Any]:
    return {"name": "celeriac", "version": celeriac.__version__, "extensions": list(EXTENSIONS)}


def model_metadata(model: ModelInfo, version: VersionInfo) -> dict[str, Any]:
    """Of one version: its inputs and outputs. The shape's -1 is the number of items."""
    properties = {"input": version.input.kind, "version": str(version.version)}
    other = _other_form(version)
    if other:
        properties["other_inputs"] = ", ".join(map(_in_words, other))
    return {
        "name": model.name,
        "versions": [str(number) for number in sorted(model.versions)],
        "platform": platform_of(version),
        "inputs": [_as_json(spec) for spec in inputs_of(version.input)],
        "outputs": [_as_json(spec) for spec in outputs_of(version.output).values()],
        "properties": properties,
    }


def platform_of(version: VersionInfo) -> str:
    """What runs the version."""
    return f"celeriac_{version.format}"


def repository_index(
    catalogue: Catalogue, workers: Mapping[str, list[dict[str, Any]]]
) -> list[dict[str, str]]:
    """Every version of every model, and whether one of its device's ``workers`` would answer."""
    found = []
    for model in catalogue.models.values():
        for number, version in sorted(model.versions.items()):
            champion = number == model.aliases.get(CHAMPION)
            is_ready = is_served(workers.get(version.device, []), model.name, champion=champion)
            found.append({
                "name": model.name, "version": str(number),
                "state": "READY" if is_ready else "UNAVAILABLE",
                "reason": "" if is_ready else unserved(model.name),
            })
    return found


def _other_form(version: VersionInfo) -> Iterable[TensorSpec]:
    """The inputs that may be sent instead of those that are shown."""
    schema = version.input
    if schema.kind == "image":
        return [TensorSpec("image", "FP32", (-1, *schema.shape))]
    if schema.kind != "table" or not takes_matrix(schema):
        return []
    return [table_matrix(schema)] if schema.frame else table_columns(schema)


def _in_words(spec: TensorSpec) -> str:
    return f"{spec.name} {spec.datatype} {list(spec.shape)}"


def _as_json(spec: TensorSpec) -> dict[str, Any]:
    return {"name": spec.name, "datatype": spec.datatype, "shape": list(spec.shape)}
