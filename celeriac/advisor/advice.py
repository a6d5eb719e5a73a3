"""The advice itself: rules for what is required, then figures for the model.

The rules are those that the field's tutorials give: up to 100 ms is real time, millions a day are
batch, the rest depends. What depends is decided by figures where the model's profile is known, and
named as missing where it is not.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from enum import StrEnum

from celeriac.advisor.queueing import Service, Waits, play
from celeriac.advisor.requirement import DAY_S, PERIOD_S, Requirement
from celeriac.registry.manifest import Profile

AT_ONCE_MS = 100.0
"""Up to here somebody, or some payment, waits for the answer."""
SCREEN_MS = 1_000.0
"""Up to here a person who waits keeps the thread."""
MANY = 1_000_000
"""Items a day from which on scoring them one by one is waste."""
BUSY = 0.8
"""Share of what processes can do in full batches that may be planned; near 1 waits grow without
bound."""
WORTH = 0.8
"""Mini-batches must need at most this share of real time's work to be worth their wait."""
_MOST_PROCESSES = 2_000
_MOST_WAIT_MS = 1_000
_TRIES = 8
_SLICE = 1_000
"""Rows that a job scores at once, at least."""
RUN_START_S = 0.2
"""Of a batch job: plan, first messages, finaliser. 0.1 to 0.2 s were measured (decision 187)."""
CHUNK_SHARE = 1.2
"""What a job takes over its bare computing: 0.98 to 1.21 of a bare loop's CPU time, where the model
and not the reading is the work (``scripts/bench batch``)."""


class Choice(StrEnum):
    """Ways to predict."""

    REAL_TIME = "real time"
    MINI_BATCH = "mini-batch"
    BATCH = "batch"
    ANALYSE = "needs further analysis"


@dataclass(frozen=True, slots=True, kw_only=True)
class Serving:
    """Answering items as they come, at the busiest second."""

    processes: int
    max_wait_ms: float
    """How long a batch waits to fill: 0 in real time."""
    waits: Waits
    met: bool
    """Whether 99 of 100 answers come within the required time."""
    core_hours_per_million: float
    """Of processes that run all day."""
    work_s_per_million: float
    """Seconds of those in which they work."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """Scoring all that came together since the last run, as a batch job."""

    items: int
    processes: int
    duration_s: float
    met: bool
    """Whether it ends in time: within the latency, and before the next one."""
    core_hours_per_million: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Advice:
    """What to do, and why."""

    choices: tuple[Choice, ...]
    """The best first; several where what is known does not decide between them."""
    reasons: tuple[str, ...]
    missing: tuple[str, ...] = ()
    """What would decide."""
    can_be_met: bool | None = None
    """None without a profile."""
    real_time: Serving | None = None
    mini_batch: Serving | None = None
    batch: Run | None = None

    @property
    def headline(self) -> str:
        """``real time``, ``real time or mini-batch``, ``batch`` or ``needs further analysis``."""
        return " or ".join(self.choices)


def advise(
    requirement: Requirement, profile: Profile | None = None, *, max_batch_size: int = 64,
    cores: int = 2,
) -> Advice:
    """Advice for a requirement; with the profile of a model's version it has figures.

    ``max_batch_size`` is the version's, ``cores`` what a batch job may use. The figures are for
    processes of one core each.
    """
    advice = _by_rule(requirement)
    if profile is None:
        return advice
    service = Service.of(profile, max_batch_size)
    return _by_figures(
        requirement, replace(advice, missing=()), serving(requirement, service),
        _filled(requirement, service), run(requirement, profile, cores),
        alone_ms=1_000 * service.alone_s, notes=_notes(service),
    )


def _by_rule(wanted: Requirement) -> Advice:
    if wanted.latency_ms <= AT_ONCE_MS:
        return Advice(choices=(Choice.REAL_TIME,), reasons=(
            f"An answer within {_ms(wanted.latency_ms)} must be computed when its item comes.",
        ))
    if wanted.volume > MANY and wanted.update_frequency == "daily":
        return Advice(choices=(Choice.BATCH,), reasons=((
            f"{wanted.volume:,} items, and new answers once a day: one job at night "
            "does them in full batches, on cores that are free then."
        ),))
    if wanted.latency_ms <= SCREEN_MS and wanted.volume <= MANY:
        return Advice(
            choices=(Choice.REAL_TIME, Choice.MINI_BATCH), missing=_missing(wanted), reasons=((
                f"Somebody waits for up to {_ms(wanted.latency_ms)}, which leaves time to gather "
                "items into small batches; whether that pays depends on the model."
            ),),
        )
    return Advice(
        choices=(Choice.ANALYSE,), missing=_missing(wanted), reasons=(_why_not(wanted),)
    )


def _missing(wanted: Requirement) -> tuple[str, ...]:
    return (_PROFILE,) if wanted.peak_per_s else (_PROFILE, _PEAK)


_PROFILE = "what the model costs: name one that was measured (`celeriac optimize` measures)"
_PEAK = "how many items come in the busiest second (five times the day's mean is assumed)"


def _why_not(wanted: Requirement) -> str:
    if wanted.latency_ms <= SCREEN_MS:
        return (
            f"{wanted.volume:,} items a day within {_ms(wanted.latency_ms)}: real time if there "
            "are workers enough, which depends on what the model costs."
        )
    fresh = {"continuous": "as items come", "hourly": "each hour", "daily": "each day"}
    return (
        f"{_ms(wanted.latency_ms)} and new answers {fresh[wanted.update_frequency]}: a job, small "
        "batches or single answers could all be in time; their cost decides."
    )


# --- figures -------------------------------------------------------------------------------------


def serving(wanted: Requirement, service: Service, max_wait_ms: float = 0.0) -> Serving:
    """The fewest processes that answer in time in the busiest second."""
    per_s = wanted.busiest_per_s
    processes = max(1, math.ceil(per_s / (BUSY * service.capacity_per_s)))
    processes = min(processes, _MOST_PROCESSES)
    alone_ms = 1_000 * service.alone_s
    for _ in range(_TRIES):
        waits = play(per_s, service, processes, max_wait_ms=max_wait_ms)
        # Busy is no measure of room: a free process takes whatever waits, in ever smaller batches.
        has_room = per_s <= BUSY * processes * service.capacity_per_s
        met = has_room and waits.p99_ms <= wanted.latency_ms
        is_hopeless = has_room and alone_ms > wanted.latency_ms
        if met or is_hopeless or processes == _MOST_PROCESSES or waits.utilisation < 0.05:
            break
        processes = min(_MOST_PROCESSES, processes + max(1, processes // 4))
    batch = max(1, round(waits.mean_batch_size))
    return Serving(
        processes=processes, max_wait_ms=max_wait_ms, waits=waits, met=met,
        core_hours_per_million=processes * DAY_S / 3_600 * 1e6 / wanted.volume,
        work_s_per_million=1e6 * service.seconds(batch) / batch,
    )


def _filled(wanted: Requirement, service: Service) -> Serving | None:
    """Batches that wait to fill for half of the time that there is; None if there is too little."""
    left_ms = wanted.latency_ms - 1_000 * service.seconds(service.max_batch_size)
    wait_ms = min(_MOST_WAIT_MS, math.floor(left_ms / 2))
    return serving(wanted, service, float(wait_ms)) if wait_ms >= 1 else None


def run(wanted: Requirement, profile: Profile, cores: int) -> Run:
    """One batch job over what comes together between two runs.

    It has ``cores``, or as many more as it needs to end in time.
    """
    item_s = CHUNK_SHARE * (profile.item_s + profile.fixed_s / _SLICE)
    work_s = wanted.run_items * item_s
    period_s = PERIOD_S[wanted.update_frequency]
    left_s = min(wanted.latency_ms / 1_000, period_s) - RUN_START_S
    needed = math.ceil(work_s / left_s) if left_s > 0 else _MOST_PROCESSES + 1
    processes = max(cores, needed) if needed <= _MOST_PROCESSES else cores
    return Run(
        items=wanted.run_items, processes=processes, met=needed <= _MOST_PROCESSES,
        duration_s=RUN_START_S + work_s / processes,
        core_hours_per_million=1e6 * item_s / 3_600,
    )


def _by_figures(  # noqa: PLR0913 - three ways, each with its figures
    wanted: Requirement, advice: Advice, single: Serving, small: Serving | None, job: Run,
    *, alone_ms: float, notes: tuple[str, ...],
) -> Advice:
    """The same with the figures, and what they decide."""
    reasons = advice.reasons
    choice = Choice.REAL_TIME
    chosen: Serving | Run = single
    if wanted.latency_ms > AT_ONCE_MS:
        if advice.choices == (Choice.BATCH,) or wanted.latency_ms > SCREEN_MS:
            if job.met:
                choice, chosen = Choice.BATCH, job
            else:
                reasons += (_late(wanted, job),)
        if choice == Choice.REAL_TIME and small is not None and small.met and _pays(small, single):
            choice, chosen = Choice.MINI_BATCH, small
    reasons += (_ran(chosen),) if isinstance(chosen, Run) else (_served(chosen), *notes)
    reasons += () if chosen.met else (_cannot(wanted, alone_ms),)
    return replace(
        advice, choices=(choice,), reasons=reasons, can_be_met=chosen.met,
        real_time=single, mini_batch=small, batch=job,
    )


def _pays(small: Serving, single: Serving) -> bool:
    """Whether waiting for a batch to fill saves a process, or much of several processes' work."""
    return not single.met or (
        small.processes < single.processes
        or (small.processes == single.processes > 1
            and small.work_s_per_million <= WORTH * single.work_s_per_million)
    )


def _served(one: Serving) -> str:
    wait = f", batches wait up to {one.max_wait_ms:g} ms to fill" if one.max_wait_ms else ""
    return (
        f"In the busiest second {_count(one.processes, 'process', 'es')} of one core answer half "
        f"of the items within {_ms(one.waits.p50_ms)}, 95 of 100 within "
        f"{_ms(one.waits.p95_ms)} and 99 of 100 within {_ms(one.waits.p99_ms)}, "
        f"{one.waits.mean_batch_size:.1f} items a batch{wait}."
    )


def _notes(service: Service) -> tuple[str, ...]:
    """What the percentiles rest on, where that should be known."""
    notes: tuple[str, ...] = ()
    if service.sharing is not None:
        notes += ((
            "Callers, Redis and worker are taken to share the few cores of the machine that was "
            "measured; with cores of their own the slowest answers are faster. The 99th percentile "
            "of such a machine differs from minute to minute by half and more."
        ),)
    if not service.passes:
        notes += ((
            "The model's cost is known from a tight loop alone, so answers may take several times "
            "as long; `celeriac optimize --profile` measures it as it is served."
        ),)
    return notes


def _ran(one: Run) -> str:
    return (
        f"A job of {_count(one.items, 'item')} takes about {_ms(1_000 * one.duration_s)} on "
        f"{_count(one.processes, 'core')}."
    )


def _late(wanted: Requirement, one: Run) -> str:
    if wanted.update_frequency == "continuous":
        return "Items come all the time and their answers are wanted then, so a job is no way."
    return _ran(one) + " That is too late."


def _cannot(wanted: Requirement, alone_ms: float) -> str:
    if alone_ms > wanted.latency_ms:
        return (
            f"It cannot be met with this model: one item alone takes {_ms(alone_ms)}. A "
            "faster variant might do (`celeriac optimize`), or a faster machine."
        )
    return (
        "It cannot be met by more processes of this machine's kind; allow more time, or make the "
        "model faster (`celeriac optimize`)."
    )


def _count(number: int, noun: str, plural: str = "s") -> str:
    return f"{number:,} {noun}{'' if number == 1 else plural}"


def _ms(milliseconds: float) -> str:
    """A time in words that people say."""
    seconds = milliseconds / 1_000
    if seconds < 1:
        return f"{milliseconds:.3g} ms"
    if seconds < 120:
        return f"{seconds:.3g} s"
    if seconds < 7_200:
        return f"{seconds / 60:.3g} minutes"
    if seconds < 2 * DAY_S:
        return f"{seconds / 3_600:.3g} hours"
    return f"{seconds / DAY_S:.3g} days"
