"""In which numbers a network computes, by what its device is capable of. Pure."""

from __future__ import annotations

BFLOAT16_FROM = (8, 0)
"""Compute capability of the first GPUs with units for bfloat16 ..."""
FLOAT16_FROM = (7, 0)
"""... and for float16."""


def autocast_type(wanted: str, device: str, capability: tuple[int, int] | None) -> str | None:
    """The type that autocast uses; None: the network computes in float32, as it is.

    ``wanted`` is a version's ``serving.precision``; ``device`` is ``cpu`` or ``cuda``, and
    ``capability`` the GPU's. What a device has no units for would be slower, so it is not used.

    >>> autocast_type("auto", "cuda", (8, 6)), autocast_type("auto", "cuda", (7, 5))
    ('bfloat16', 'float16')
    """
    if wanted == "float32":
        return None
    if device == "cpu":
        return "bfloat16" if wanted == "bfloat16" else None
    capability = capability or (0, 0)
    if wanted in ("auto", "bfloat16") and capability >= BFLOAT16_FROM:
        return "bfloat16"
    if wanted in ("auto", "float16") and capability >= FLOAT16_FROM:
        return "float16"
    return None


def float32_mode(tf32: bool) -> str:
    """How CUDA multiplies float32: ``ieee``, or ``tf32`` with a mantissa of 10 bits."""
    return "tf32" if tf32 else "ieee"


def wants_channels_last(device: str, dimensions: set[int]) -> bool:
    """True if images go channels last: ``dimensions`` are those of the network's convolutions."""
    return device == "cuda" and dimensions == {2}
