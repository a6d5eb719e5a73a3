"""How many versions may be tried and loaded for requests at the same time in one process."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum

MAX_YOUNG = 4
"""That have begun a moment ago, as nearly all that load have: a trial is a process of its own, and
takes memory and a core."""
YOUNG_S = 5.0
"""What takes longer is large, or hangs until its time is over: others begin beside it ..."""
MAX_AT_ONCE = 8
"""... up to so many together ..."""
MAX_OF_MODEL = 6
"""... and of one model: what hangs in one leaves room for the others."""
RETRY_AFTER_S = 2.0
"""When somebody who was refused may ask again."""

Key = tuple[str, int]
"""A model's name and version."""


class Begin(Enum):
    """Whether one more version may begin."""

    NOW = "now"
    SOON = "soon"
    """Those that are at it are about to end: whoever asks waits."""
    REFUSED = "refused"
    """They may take long: whoever asks comes back."""


def may_begin(model: str, under_way_s: Mapping[Key, float]) -> Begin:
    """``under_way_s``: for how long each of the others has been at it, in seconds.

    >>> may_begin("m", {("m", 1): 20.0, ("m", 2): 0.1})
    <Begin.NOW: 'now'>
    """
    of_model = [age_s for (name, _), age_s in under_way_s.items() if name == model]
    for ages_s, most in ((of_model, MAX_OF_MODEL), (list(under_way_s.values()), MAX_AT_ONCE)):
        if len(ages_s) >= most and min(ages_s) >= YOUNG_S:
            return Begin.REFUSED
        if len(ages_s) >= most:
            return Begin.SOON
    young = sum(age_s < YOUNG_S for age_s in under_way_s.values())
    return Begin.SOON if young >= MAX_YOUNG else Begin.NOW
