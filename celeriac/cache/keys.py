"""The key of an answer: model, version, and a digest of the item."""

from __future__ import annotations

import json
from hashlib import blake2b
from typing import Any

import msgspec

PREFIX = "celeriac:cache:"

_encode = msgspec.json.Encoder(order="sorted").encode


def cache_key(name: str, version: int, item: Any) -> str:
    """The key of the answer of ``name@version`` to ``item``, as that travels on the wire.

    Clients and workers find the same one. Raises ValueError for what JSON cannot hold.
    """
    return f"{PREFIX}{name}:{version}:{blake2b(canonical(item), digest_size=16).hexdigest()}"


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
