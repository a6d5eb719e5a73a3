"""What clients of other servers ask for that is not offered, known by its path: a 404 says it."""

from __future__ import annotations

import re

_MODEL = r"/v2/models/[^/]+(?:/versions/[^/]+)?"
_ABSENT = [
    (re.compile(pattern), what) for pattern, what in (
        (r"/v2/repository/models/[^/]+/(?:un)?load",
         "loading and unloading of models (workers follow what is promoted)"),
        (r"/v2/(?:system|cuda)sharedmemory(?:/.*)?", "shared memory (send the data)"),
        (rf"(?:{_MODEL}|/v2)/trace/setting|/v2/logging", "settings of traces and logs"),
        (rf"{_MODEL}/(?:generate|generate_stream|infer_stream)",
         "generation and streams of answers"),
        (r"/v1/models/[^/]+:(?:predict|explain)",
         "KServe's V1 protocol (set the client to V2, or post to /v1/models/MODEL/predict)"),
    )
]  # fmt: skip


def not_offered(path: str) -> str | None:
    """What a client wants that asks ``path``; None if nothing known has this path.

    >>> not_offered("/v2/systemsharedmemory/status")
    'not offered here: shared memory (send the data)'
    """
    found = next((what for pattern, what in _ABSENT if pattern.fullmatch(path)), None)
    return f"not offered here: {found}" if found else None
