"""The protocol's extensions that are not offered, known by their paths: a 404 says which it is."""

from __future__ import annotations

import re

_MODEL = r"models/[^/]+(?:/versions/[^/]+)?"
_ABSENT = [
    (re.compile(pattern), what) for pattern, what in (
        (rf"{_MODEL}/config", "model configuration (the metadata has inputs and outputs)"),
        (r"repository/models/[^/]+/(?:un)?load",
         "loading and unloading of models (workers follow what is promoted)"),
        (r"(?:system|cuda)sharedmemory(?:/.*)?", "shared memory (send the data)"),
        (rf"(?:{_MODEL}/)?trace/setting|logging", "settings of traces and logs"),
        (rf"{_MODEL}/(?:generate|generate_stream|infer_stream)",
         "generation and streams of answers"),
    )
]  # fmt: skip


def not_offered(path: str) -> str | None:
    """What a client wants that asks ``path`` below ``/v2``; None if no extension has this path.

    >>> not_offered("/v2/models/reviews/config")
    'not offered here: model configuration (the metadata has inputs and outputs)'
    """
    below = path.removeprefix("/v2/")
    found = next((what for pattern, what in _ABSENT if pattern.fullmatch(below)), None)
    return f"not offered here: {found}" if found else None
