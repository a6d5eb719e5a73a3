"""Items or rows as a model takes them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from celeriac import errors

ARRAYS = ("array", "image")
"""Kinds of which the model is given one array."""


@dataclass(frozen=True)
class Collated:
    """What is good of them, and what is wrong with the others."""

    inputs: Any
    """A list, an array ``(n, *shape)``, or a pandas frame of ``n`` rows."""
    index: Sequence[int]
    """Position of each of the ``n`` among the items or rows that came in."""
    errors: dict[int, errors.CeleriacError] = field(default_factory=dict)
    """What is wrong with the others, by position."""


def take(inputs: Any, start: int, stop: int) -> Any:
    """Rows ``start`` to ``stop`` of collated inputs, of whatever kind."""
    return inputs.iloc[start:stop] if hasattr(inputs, "iloc") else inputs[start:stop]


def pick(inputs: Any, positions: Any) -> Any:
    """The rows at an array of positions, of a frame or an array."""
    return inputs.iloc[positions] if hasattr(inputs, "iloc") else inputs[positions]
