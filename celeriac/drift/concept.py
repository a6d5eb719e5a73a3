"""Are answers wrong more often than they were? A cumulative sum of the errors of one version.

Each label adds to the sum what it says for "errors have doubled" against "errors are as before"
(Page, 1954; of a wrong answer much, of a right one a little the other way); the sum never falls
below zero, and beyond its limit it alarms. It moves on a lattice of whole numbers, so the labels
between two false alarms are known exactly (Brook and Evans, 1972; Reynolds and Stoumbos, 1999), and
the limit follows from the number that is wished. Absolute errors of numbers become right and wrong
first: wrong is what is further off than four of five answers of the reference.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

import msgspec
import numpy as np
from scipy.linalg import solve_banded

from celeriac import errors
from celeriac.drift.episodes import Event, Hysteresis, Look, Watched, step
from celeriac.drift.performance import FAR_SHARE
from celeriac.drift.profile import Performance
from celeriac.drift.records import LEAST_LABELLED

SURE = 0.5
"""So many standard errors is the usual rate taken higher than the reference says."""
LEAST_RATE, MOST_RATE = 0.002, 0.95
"""Answers that are wrong more often than that cannot become worse: no sum alarms."""
CEILING = 1.5
"""The sum does not rise beyond so many times its limit, so that an end is seen soon."""
RULE = Hysteresis(close_below=0.5, close_looks=1)
FEATURE = "error"


class Usual(msgspec.Struct, frozen=True, kw_only=True):
    """How often a version is wrong when nothing has changed, and the test that follows from it."""

    source: Literal["reference", "first labels"]
    rows: int
    """Labelled ones that say so."""
    rate: float
    """Share of wrong answers, as measured."""
    far: float | None = None
    """Of numbers: an absolute error beyond it is wrong."""
    up: int
    """What a wrong answer adds to the sum ..."""
    down: int = 1
    """... and what a right one takes away: one of both is 1."""
    limit: int
    """Beyond it the sum alarms."""
    labels_between_alarms: int
    """For which the limit was made."""


class Run(msgspec.Struct, frozen=True, array_like=True):
    """The sum, and what it is made of."""

    sum: int = 0
    labels: int = 0
    """Since it was zero."""
    wrong: int = 0
    """Of these."""

    @property
    def rate(self) -> float:
        return self.wrong / max(self.labels, 1)


class ErrorTest(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Where the test of a version stands between two looks."""

    usual: Usual | None = None
    gathered: tuple[float, ...] = ()
    """The first errors, while nobody knows yet what is usual."""
    run: Run = Run()
    labels: int = 0
    """That it has looked at."""
    watched: Watched = Watched(feature=FEATURE)

    def dump(self) -> bytes:
        return msgspec.json.encode(self)

    @classmethod
    def load(cls, data: bytes) -> ErrorTest:
        """The inverse of :meth:`dump`. Raises RequestError if it is of another release."""
        try:
            return msgspec.json.decode(data, type=cls)
        except msgspec.MsgspecError as error:
            raise errors.RequestError(f"the test of errors is damaged: {error}") from error


class Outcome(NamedTuple):
    """After some labels."""

    test: ErrorTest
    event: Event | None = None
    """Of the episode that opened or closed."""
    run: Run = Run()
    """What the look was made of."""


@dataclass(frozen=True, kw_only=True)
class Terms:
    """What is wished of the test."""

    labels_between_alarms: int = 20_000
    first_labels: int = 300


def note_errors(test: ErrorTest, found: Sequence[float], now_s: float, terms: Terms) -> Outcome:
    """Take note of errors in the order in which their labels came; one look for all of them.

    ``found``: of a class 1 for a wrong answer and 0 for a right one, of a number its absolute
    error. ``now_s``: Unix time.
    """
    if not found:
        return Outcome(test)
    usual = test.usual
    if usual is None:
        test, found = _gathered(test, found, terms)
        usual = test.usual
        if usual is None or not found:
            return Outcome(test)
    if usual.labels_between_alarms != terms.labels_between_alarms:
        usual = _usual(usual.rate, usual.rows, usual.far, terms, usual.source)
    wrong = [value > (0.5 if usual.far is None else usual.far) for value in found]
    last, highest = _summed(test.run, wrong, usual)
    run = last if test.watched.episode is not None else highest
    look = Look(at_s=now_s, statistic=run.sum, threshold=usual.limit)
    # A clock that was ahead, and is right again, must not keep us from looking.
    watched = replace(test.watched, seen_at_s=min(test.watched.seen_at_s, now_s - 1.0))
    watched, event, _ = step(watched, look, RULE)
    test = msgspec.structs.replace(
        test, usual=usual, run=last, labels=test.labels + len(wrong), watched=watched
    )
    return Outcome(test, event, run)


def given_up(test: ErrorTest, now_s: float) -> Outcome:
    """The end of an open episode about which no labels say anything any more."""
    if test.watched.episode is None:
        return Outcome(test)
    watched = replace(test.watched, episode=None, seen_at_s=now_s)
    test = msgspec.structs.replace(test, run=Run(), watched=watched)
    return Outcome(test, "closed")


def usual_of_classes(
    wrong: float, rows: int, terms: Terms, source: Literal["reference", "first labels"]
) -> Usual:
    """From the share of wrong answers among ``rows`` labelled ones."""
    return _usual(wrong, rows, None, terms, source)


def usual_of_numbers(
    far: float, rows: int, terms: Terms, source: Literal["reference", "first labels"]
) -> Usual:
    """From the absolute error that a share of :data:`FAR_SHARE` of ``rows`` answers exceeds."""
    return _usual(FAR_SHARE, rows, far, terms, source)


def usual_of_reference(performance: Performance | None, terms: Terms) -> Usual | None:
    """From how good the answers to the reference were; None if too few have labels."""
    if performance is None or performance.rows < LEAST_LABELLED:
        return None
    if performance.far is not None:
        return usual_of_numbers(performance.far, performance.rows, terms, "reference")
    accuracy = performance.value if performance.measure == "accuracy" else performance.accuracy
    if accuracy is None:
        return None
    return usual_of_classes(1 - accuracy, performance.rows, terms, "reference")


def run_length(rate: float, up: int, limit: int, down: int = 1) -> float:
    """Labels until an alarm, in the mean, of answers of which a share of ``rate`` is wrong.

    A sum of ``s`` needs ``x[s] = 1 + rate * x[s + up] + (1 - rate) * x[max(s - down, 0)]`` labels
    more, and none beyond ``limit``.
    """
    states = limit + 1
    top, low = min(up, limit), min(down, limit)
    bands = np.zeros((top + 1 + low, states))
    bands[top] = 1.0
    bands[top, 0] = rate
    bands[top + 1 :, 0] = -(1 - rate)
    if down <= limit:
        bands[top + down, : states - down] = -(1 - rate)
    if up <= limit:
        bands[0, up:] = -rate
    return float(solve_banded((low, top), bands, np.ones(states))[0])


def _usual(
    rate: float, rows: int, far: float | None, terms: Terms,
    source: Literal["reference", "first labels"],
) -> Usual:
    before, after = _rates(rate, rows)
    for_wrong = math.log(after / before)
    for_right = math.log((1 - before) / (1 - after))
    up, down = max(1, round(for_wrong / for_right)), max(1, round(for_right / for_wrong))
    limit = _limit(before, up, down, terms.labels_between_alarms)
    if before >= MOST_RATE:
        up = 0
    return Usual(
        source=source, rows=rows, rate=rate, far=far, up=up, down=down, limit=limit,
        labels_between_alarms=terms.labels_between_alarms,
    )


def _rates(rate: float, rows: int) -> tuple[float, float]:
    """What counts as usual, a little more than was measured, and what counts as doubled."""
    share = (rate * rows + 0.5) / (rows + 1)
    spread = math.sqrt(share * (1 - share) / (rows + 1))
    before = min(max(share + SURE * spread, LEAST_RATE), MOST_RATE)
    after = max(2 * share, 1.5 * before)
    return before, min(after, (1 + before) / 2)


def _limit(rate: float, up: int, down: int, labels_between_alarms: int) -> int:
    """The lowest with which a false alarm is rare enough."""
    high = up
    while run_length(rate, up, high, down) < labels_between_alarms:
        high *= 2
    low = high // 2
    while high - low > 1:
        middle = (low + high) // 2
        if run_length(rate, up, middle, down) < labels_between_alarms:
            low = middle
        else:
            high = middle
    return high


def _gathered(
    test: ErrorTest, found: Sequence[float], terms: Terms
) -> tuple[ErrorTest, Sequence[float]]:
    """The test with the first errors, and what is left of them once they are enough."""
    lacking = terms.first_labels - len(test.gathered)
    known = (*test.gathered, *found[:lacking])
    labels = test.labels + len(found[:lacking])
    if len(known) < terms.first_labels:
        return msgspec.structs.replace(test, gathered=known, labels=labels), ()
    usual = usual_of_errors(known, terms)
    test = msgspec.structs.replace(test, usual=usual, gathered=(), labels=labels)
    return test, found[lacking:]


def usual_of_errors(found: Sequence[float], terms: Terms) -> Usual:
    """From the first errors themselves."""
    values = np.asarray(found, dtype=float)
    if np.isin(values, (0.0, 1.0)).all():
        return usual_of_classes(float(values.mean()), len(values), terms, "first labels")
    far = float(np.quantile(values, 1 - FAR_SHARE))
    return usual_of_numbers(far, len(values), terms, "first labels")


def _summed(run: Run, wrong: Sequence[bool], usual: Usual) -> tuple[Run, Run]:
    """The sum after these answers, and where it was highest."""
    sum_, labels, errors_ = run.sum, run.labels, run.wrong
    highest, ceiling = run, math.ceil(CEILING * usual.limit)
    for is_wrong in wrong:
        labels, errors_ = labels + 1, errors_ + is_wrong
        sum_ = min(sum_ + usual.up, ceiling) if is_wrong else sum_ - usual.down
        if sum_ <= 0:
            sum_ = labels = errors_ = 0
        if sum_ > highest.sum:
            highest = Run(sum_, labels, errors_)
    return Run(sum_, labels, errors_), highest
