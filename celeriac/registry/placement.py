"""Where versions run: on the device that they ask for, or on the CPU while no GPU worker is there.

The maintenance role decides when it publishes the catalogue, so that clients, gateways and workers
all act on one decision. Truth about a version stays in the registry.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, Literal

from celeriac.keys import seen_key
from celeriac.registry.catalogue import ModelInfo, VersionInfo

Fallback = Literal["never", "when_absent"]
Kind = Literal["realtime", "batch"]
KINDS: tuple[Kind, ...] = ("realtime", "batch")


def fallen_back(policy: Fallback, seen: Collection[str]) -> tuple[Kind, ...]:
    """The kinds of work that the CPU does for the GPU; ``seen``: roles with workers of late.

    >>> fallen_back("when_absent", {"realtime.gpu", "batch.cpu"})
    ('batch',)
    """
    if policy == "never":
        return ()
    return tuple(kind for kind in KINDS if f"{kind}.gpu" not in seen)


def seen_of_late(client: Any, roles: Collection[str]) -> set[str]:
    """Those of ``roles`` (or queues) of which a worker was heard within a minute.

    Through a redis-py client; raises redis.RedisError.
    """
    names = list(roles)
    found = client.mget([seen_key(name) for name in names]) if names else []
    return {name for name, value in zip(names, found, strict=True) if value is not None}


def place(models: Mapping[str, ModelInfo], fallen: Collection[Kind]) -> dict[str, ModelInfo]:
    """The models as they are published while ``fallen`` kinds of GPU work are done by the CPU."""
    if not fallen:
        return dict(models)
    return {
        name: model.model_copy(update={"versions": {
            number: _placed(version, fallen) for number, version in model.versions.items()
        }})
        for name, model in models.items()
    }


def as_registered(models: Mapping[str, ModelInfo]) -> dict[str, ModelInfo]:
    """What :func:`place` was given, of what it gave."""
    return {
        name: model.model_copy(update={"versions": {
            number: version.model_copy(update={
                "device": version.asks_for or version.device, "chunks_on": None, "asks_for": None,
            })
            for number, version in model.versions.items()
        }})
        for name, model in models.items()
    }


def _placed(version: VersionInfo, fallen: Collection[Kind]) -> VersionInfo:
    if version.device != "gpu":
        return version
    single, chunks = (("cpu" if kind in fallen else "gpu") for kind in KINDS)
    return version.model_copy(update={
        "device": single, "chunks_on": None if chunks == single else chunks, "asks_for": "gpu",
    })
