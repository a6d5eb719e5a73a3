"""Streams as the watch sees them: what workers count, look after look, and its episodes."""

from __future__ import annotations

from collections import deque
from typing import Any

import numpy as np

from benchmarks.harness.drift_streams import STEP, WINDOW
from celeriac.drift import bins, watching
from celeriac.drift.counted import Stretch
from celeriac.drift.features import Feature
from celeriac.drift.reference import make_profile
from celeriac.drift.tally import Standard, Tally, pack
from celeriac.drift.window import WindowRule
from celeriac.registry.manifest import InputSchema, OutputSchema

Array = np.ndarray[Any, Any]


def standard_of(reference: Array) -> Standard:
    """Of a reference ``(features, rows)``, as registration makes it."""
    profile = make_profile({f"x{number}": Feature(one) for number, one in enumerate(reference)})
    return Standard(
        profile=profile, digest="", input=InputSchema(kind="any"), output=OutputSchema(kind="any")
    )


def first_episode(standard: Standard, stream: Array, rows_between_alarms: float) -> int:
    """Rows of a stream ``(features, rows)`` after which an episode opens; -1: none does."""
    rule = WindowRule(rows=WINDOW, rows_between_alarms=rows_between_alarms)
    standing = watching.unwatched("m", 1, "not_enough_data", 0.0)
    stretches: deque[Stretch] = deque(maxlen=WINDOW // STEP + 1)
    codes = [
        bins.codes(feature, values)
        for feature, values in zip(standard.watched, stream, strict=True)
    ]
    for number in range(stream.shape[1] // STEP):
        now_s = float(number + 1)
        some = slice(number * STEP, (number + 1) * STEP)
        found = Tally.empty(standard)
        for one, start, feature in zip(codes, standard.starts, standard.watched, strict=False):
            found.counts[start : start + feature.bins] += np.bincount(
                one[some], minlength=feature.bins
            )
        found.rows = found.seen = STEP
        stretches.appendleft(Stretch(now_s, pack(standard, found)))
        seen = watching.gather(standard, stretches, standing.mark, rule)
        standing = watching.look(standing, standard, seen, rule, now_s)
        if standing.unsent:
            return (number + 1) * STEP
    return -1
