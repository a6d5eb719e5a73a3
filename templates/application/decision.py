"""What the application decides: plain values in, plain values out. No queue, no model, no clock.

Here: which grower a wine is from, if the model is sure enough; else a taster is asked. Everything
that is yours to decide belongs into this file, where a test is one line.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Policy:
    """What may be changed without changing code."""

    least_probability: float = 0.8
    """Below it nobody trusts the model."""


@dataclass(frozen=True, kw_only=True)
class Decision:
    """What becomes of one item, and why."""

    action: str
    """``accept`` or ``ask``."""
    label: str | None
    reason: str


def decide(label: str, probability: float, policy: Policy) -> Decision:
    """The decision for one answer of the model."""
    sure = f"{probability:.0%} sure of {label}"
    if probability >= policy.least_probability:
        return Decision(action="accept", label=label, reason=sure)
    return Decision(action="ask", label=None, reason=f"only {sure}")


def failed(reason: str) -> Decision:
    """The decision where the model has no answer: an error never looks like an acceptance."""
    return Decision(action="ask", label=None, reason=f"no answer: {reason}")
