"""The producer half: what other services import to get predictions.

It imports no model library, and never a module named ``celeryconfig``, ``tasks`` or ``workers``:
it lives inside other people's projects, which have their own.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from celeriac import errors as errors
    from celeriac.messages import Prediction as Prediction
    from producer.aio import AsyncClient as AsyncClient
    from producer.client import Client as Client
    from producer.feedback import Feedback as Feedback

_HOMES = {
    "AsyncClient": "producer.aio",
    "Client": "producer.client",
    "Feedback": "producer.feedback",
    "Prediction": "celeriac.messages",
}

__all__ = ["AsyncClient", "Client", "Feedback", "Prediction", "errors"]


def __getattr__(name: str) -> Any:
    if name == "errors":
        return importlib.import_module("celeriac.errors")
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = value
    return value
