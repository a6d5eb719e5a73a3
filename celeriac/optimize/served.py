"""What small batches cost a worker that serves: ``python -m celeriac.optimize.served``.

A tight loop over the same items says what a core can do. A worker that serves sees another item
each time, and rests between batches: its caches, and those of the model, are cold then, and a
batch of one can take several times as long. So passes are timed with other items each time, one
right after the other and after a pause; and all of their times count, because whoever waits longest
waits for the longest of them. The task comes as JSON on stdin, the result goes as JSON to stdout.
"""

from __future__ import annotations

import itertools
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from celeriac import errors
from celeriac.optimize.model_task import ModelTask
from celeriac.registry.manifest import PASS_SHARES, Passes
from celeriac.release.aside import answer_with

SIZES = (1, 2, 4, 8, 16, 32, 64)
PAUSES_S = (0.0, 0.003)
"""None, and one after which a longer one makes no difference."""
_LEAST_PASSES, _MOST_PASSES = 8, 2_000
_WARM_PASSES = 3
_TOO_LONG = 2.0
_DIGITS = 3


@dataclass(frozen=True, kw_only=True)
class Task(ModelTask):
    """What is measured, and for how long."""

    size_s: float
    """For each size and pause. Larger sizes than the first of which too few passes fit into it are
    left out."""
    most_items: int


def measure(task: Task, threads: int, limit_s: float) -> tuple[Passes, ...]:
    """Run a task in a process that has ``threads``.

    Raises ModelFailed, or the error of ours that it ended with, if it fails or takes longer than
    ``limit_s``.
    """
    found = task.run("celeriac.optimize.served", threads, limit_s)
    return tuple(Passes(**one) for one in found["passes"])


def grouped(took_s: Sequence[float]) -> tuple[float, ...]:
    """The mean of each of the groups of :data:`PASS_SHARES`, the shortest first."""
    ordered = sorted(took_s)
    means, start = [], 0
    for share in itertools.accumulate(PASS_SHARES):
        end = min(len(ordered), round(share * len(ordered)))
        group = ordered[start:end] or [ordered[min(start, len(ordered) - 1)]]
        means.append(float(f"{sum(group) / len(group):.{_DIGITS}g}"))
        start = end
    return tuple(means)


# --- in the process ------------------------------------------------------------------------------


def main() -> int:
    """The measuring process."""
    return answer_with(
        lambda wanted: [{"passes": [one.model_dump() for one in _measured(Task(**wanted))]}],
        told=lambda error: errors.ModelFailed(errors.told(error)),
    )


def _measured(task: Task) -> list[Passes]:
    from celeriac.scoring import Scorer

    manifest, options, items = task.read()
    scorer = Scorer.open(Path(task.folder), manifest, options)
    endless = itertools.cycle(items)

    def score(size: int) -> None:
        scorer.score([*itertools.islice(endless, size)])

    passes: list[Passes] = []
    for size in (one for one in SIZES if one <= task.most_items):
        for pause_s in PAUSES_S:
            took_s = _took_s(partial(score, size), pause_s, task.size_s)
            passes.append(Passes(items=size, pause_s=pause_s, seconds=grouped(took_s)))
        if sum(took_s) > _TOO_LONG * task.size_s:
            break
    return passes


def _took_s(call: Callable[[], Any], pause_s: float, budget_s: float) -> list[float]:
    for _ in range(_WARM_PASSES):
        call()
    took_s: list[float] = []
    end_s = time.perf_counter() + budget_s
    while len(took_s) < _LEAST_PASSES or (
        time.perf_counter() < end_s and len(took_s) < _MOST_PASSES
    ):
        time.sleep(pause_s)
        started = time.perf_counter()
        call()
        took_s.append(time.perf_counter() - started)
    return took_s


if __name__ == "__main__":
    sys.exit(main())
