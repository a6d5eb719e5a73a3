"""The models bare, without Celeriac's checks: what people call from a task of their own."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

Answers = Callable[[Sequence[Any]], list[Any]]


def bare(name: str) -> Answers:
    """The model as a function of a list of items, as they come from JSON."""
    if name == "echo":
        return list
    model = _load(name)
    if name == "text":
        return lambda items: _labelled(model.predict(list(items)))
    import numpy as np

    return lambda items: _labelled(model.predict(np.asarray(items, dtype=np.float32)))


def _load(name: str) -> Any:
    from celeriac import runtimes
    from celeriac.registry.store import Registry

    registry = Registry(Path(os.environ["CELERIAC_MODELS_ROOT"]))
    version = registry.verify(name, 1)
    options = runtimes.LoadOptions(threads=1)
    return runtimes.load(registry.folder(name, 1), version, options)


def _labelled(output: Any) -> list[dict[str, Any]]:
    chosen = output.probabilities.argmax(axis=1)
    best = output.probabilities[range(len(chosen)), chosen]
    return [
        {"label": label, "probability": probability}
        for label, probability in zip(chosen.tolist(), best.tolist(), strict=True)
    ]
