"""What a caller is told of a post."""

from __future__ import annotations

from typing import Literal, NamedTuple

import msgspec

from celeriac.applications.moderation.audit import Human, Record
from celeriac.applications.moderation.decision import PartScore, Reason
from celeriac.applications.moderation.policy import Policy


class Decision(msgspec.Struct, frozen=True, kw_only=True):
    """What is to be done with a post, and why."""

    id: str
    """By which it can be explained later."""
    decision: Literal["allow", "review", "block"]
    reasons: tuple[Reason, ...]
    """The gravest first; empty if nothing speaks against the post."""
    scores: tuple[PartScore, ...]
    """Of each part and category."""
    policy: str
    """``NAME@VERSION``."""
    queued: bool | None = None
    """Of a review: it is in the queue; False: that is full. None: there is nothing to review."""


class Explanation(NamedTuple):
    """All that is known of a decision."""

    record: Record
    reviews: list[Human]
    """What people decided since."""
    policy: Policy | None
    """As it was then; None if it is not kept here."""


def decision_of(record: Record, queued: bool | None) -> Decision:
    return Decision(
        id=record.id, decision=record.decision, reasons=record.reasons, scores=record.scores,
        policy=record.policy, queued=queued,
    )
