"""The key of an answer: who answers, and a digest of the item."""

from __future__ import annotations

import json
from hashlib import blake2b
from typing import Any, NamedTuple, Self

import msgspec

from celeriac.registry.manifest import ModelVersion

PREFIX = "celeriac:cache:"

_encode = msgspec.json.Encoder(order="sorted").encode


class Answerer(NamedTuple):
    """A version of a model, told from one that has got its name and number later: where a registry
    was deleted, numbers begin anew."""

    name: str
    version: int
    created_at: str
    """When it was registered."""

    @classmethod
    def of(cls, manifest: ModelVersion) -> Self:
        return cls(manifest.name, manifest.version, manifest.created_at)


def cache_key(who: Answerer, item: Any) -> str:
    """The key of the answer of ``who`` to ``item``, as that travels on the wire.

    Clients and workers find the same one. Raises ValueError for what JSON cannot hold.
    """
    digest = blake2b(canonical(item), digest_size=16, key=who.created_at.encode()[:64])
    return f"{PREFIX}{who.name}:{who.version}:{digest.hexdigest()}"


def canonical(item: Any) -> bytes:
    """JSON with sorted keys: equal items give equal bytes. Raises ValueError.

    >>> canonical({"b": 1, "a": [1.0, None]})
    b'{"a":[1.0,null],"b":1}'
    """
    try:
        data = _encode(item)
    except (TypeError, OverflowError, RecursionError) as error:
        raise ValueError(f"the item has no JSON form: {error}") from error
    if b"null" in data and not isinstance(item, str):
        json.dumps(item, allow_nan=False)  # msgspec writes NaN as null, which is another item
    return data
