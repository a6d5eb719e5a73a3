"""A stack's settings as its children get them: by their environment, tables by a file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from celeriac.datasets.places import S3_PREFIX
from celeriac.settings import (
    GatewaySettings,
    ModerationSettings,
    Settings,
    scalars,
)
from celeriac.settings.adapt import AdaptSettings
from celeriac.settings.nightly import NightlySettings


def absolute(settings: Settings) -> Settings:
    """``settings`` with absolute paths: children run in another folder."""
    stack = settings.stack.model_copy(update={"state_dir": settings.stack.state_dir.absolute()})
    models = settings.models.model_copy(update={"root": settings.models.root.absolute()})
    nights = {name: _absolute_night(night) for name, night in settings.nightly.items()}
    adapt = {name: _absolute_policy(one) for name, one in settings.drift.adapt.items()}
    drift = settings.drift.model_copy(update={"adapt": adapt})
    return settings.model_copy(update={
        "stack": stack, "models": models, "nightly": nights, "drift": drift,
        "gateway": _absolute_gateway(settings.gateway),
        "moderation": _absolute_moderation(settings.moderation),
    })


def _absolute_night(night: NightlySettings) -> NightlySettings:
    return night.model_copy(update={
        "dataset": _absolute_dataset(night.dataset), "output": _absolute_dataset(night.output),
        "ready": None if night.ready is None else _absolute_dataset(night.ready),
    })


def _absolute_policy(policy: AdaptSettings) -> AdaptSettings:
    return policy.model_copy(update={"labelled": _absolute_dataset(policy.labelled)})


def _absolute_gateway(gateway: GatewaySettings) -> GatewaySettings:
    return gateway.model_copy(update={
        "dataset_roots": tuple(map(_absolute_dataset, gateway.dataset_roots)),
        "output_roots": tuple(map(_absolute_dataset, gateway.output_roots)),
    })


def _absolute_moderation(moderation: ModerationSettings) -> ModerationSettings:
    policy = moderation.policy
    return moderation.model_copy(update={
        "folder": moderation.folder.absolute(),
        "policy": policy and str(Path(policy).absolute()),
    })


def _absolute_dataset(path: str) -> str:
    return path if path.startswith(S3_PREFIX) else str(Path(path).expanduser().absolute())


def environment(settings: Settings) -> dict[str, str]:
    """Every scalar setting as an environment variable, for a process that shall have the same.

    Tables (``[nightly.NAME]``, ``[drift.adapt.MODEL]``, ``[gateway.keys.NAME]``) are not among
    them.
    """
    settings = absolute(settings)
    variables = {}
    for section in type(settings).model_fields:
        table = getattr(settings, section)
        if isinstance(table, BaseModel):
            for name in scalars(type(table)):
                variables[f"CELERIAC_{section}_{name}".upper()] = _text(getattr(table, name))
    return variables | {"CELERIAC_BROKER_URL": settings.broker_url}


def tables_toml(settings: Settings) -> str:
    """Nights, policies and keys of the gateway as tables of a ``celeriac.toml``."""
    lines = []
    tables_by_path: tuple[tuple[str, Mapping[str, BaseModel]], ...] = (
        ("nightly", settings.nightly), ("gateway.keys", settings.gateway.keys),
        ("drift.adapt", settings.drift.adapt),
    )
    for path, tables in tables_by_path:
        for name, table in tables.items():
            lines.append(f"[{path}.{_quote(name)}]")
            values = table.model_dump(mode="json", exclude_none=True)
            lines += [f"{key} = {_toml(value)}" for key, value in values.items()]
    return "\n".join([*lines, ""])


def _text(value: Any) -> str:
    if value is None:
        return ""
    return _toml(list(value)) if isinstance(value, (list, tuple)) else str(value)


def _toml(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_quote(key)} = {_toml(one)}" for key, one in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_toml, value)) + "]"
    return _quote(value)


def _quote(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)  # of these types JSON and TOML agree
