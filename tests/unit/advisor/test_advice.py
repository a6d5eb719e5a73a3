"""What is advised, with and without figures."""

from __future__ import annotations

import pytest

from celeriac import errors
from celeriac.advisor.advice import Advice, Choice, advise, serving
from celeriac.advisor.queueing import Service, play
from celeriac.advisor.requirement import Requirement, UpdateFrequency
from celeriac.registry.manifest import Passes, Profile

TEXT = Profile(fixed_s=0.9e-3, item_s=0.12e-3)
NETWORK = Profile(fixed_s=0.060, item_s=0.004)


def asked(
    latency_ms: float, volume: int, frequency: UpdateFrequency, profile: Profile | None = None,
    peak_per_s: float | None = None,
) -> Advice:
    wanted = Requirement(
        latency_ms=latency_ms, volume=volume, update_frequency=frequency, peak_per_s=peak_per_s
    )
    return advise(wanted, profile, max_batch_size=32 if profile is NETWORK else 64)


@pytest.mark.parametrize(
    ("latency_ms", "volume", "frequency", "headline"),
    [
        (50, 10_000, "continuous", "real time"),  # fraud detection
        (3_600_000, 5_000_000, "daily", "batch"),  # a daily sales report
        (500, 100_000, "hourly", "real time or mini-batch"),  # product recommendation
        (5_000, 100_000, "hourly", "needs further analysis"),
        (500, 5_000_000, "continuous", "needs further analysis"),
        (100, 5_000_000, "daily", "real time"),
        (101, 1_000_000, "daily", "real time or mini-batch"),
        (1_001, 1_000_000, "daily", "needs further analysis"),
    ],
)
def test_the_rules_need_no_model(
    latency_ms: float, volume: int, frequency: UpdateFrequency, headline: str
) -> None:
    advice = asked(latency_ms, volume, frequency)
    assert advice.headline == headline
    assert advice.reasons
    assert advice.can_be_met is None


def test_what_is_missing_is_named() -> None:
    advice = asked(5_000, 100_000, "hourly")
    assert any("celeriac optimize" in one for one in advice.missing)
    assert any("busiest second" in one for one in advice.missing)
    assert len(asked(5_000, 100_000, "hourly", peak_per_s=30).missing) == 1


def test_figures_decide_where_rules_do_not() -> None:
    advice = asked(5_000, 100_000, "hourly", TEXT)
    assert (advice.choices, advice.can_be_met, advice.missing) == ((Choice.BATCH,), True, ())
    assert advice.batch is not None
    assert advice.batch.items == 4_167


def test_a_lone_item_never_waits_for_company_that_does_not_come() -> None:
    assert asked(500, 100_000, "hourly", TEXT).choices == (Choice.REAL_TIME,)


def test_small_batches_where_they_save_processes() -> None:
    advice = asked(300, 50_000_000, "continuous", NETWORK)
    assert advice.choices == (Choice.MINI_BATCH,)
    assert advice.mini_batch is not None
    assert advice.real_time is not None
    assert advice.mini_batch.processes <= advice.real_time.processes
    assert advice.mini_batch.waits.p99_ms <= 300


def test_a_model_that_is_too_slow_says_so() -> None:
    advice = asked(50, 10_000, "continuous", NETWORK)
    assert advice.can_be_met is False
    assert "one item alone takes" in advice.reasons[-1]
    assert "celeriac optimize" in advice.reasons[-1]


def test_a_job_gets_the_cores_that_it_needs() -> None:
    job = asked(3_600_000, 5_000_000, "daily", NETWORK).batch
    assert job is not None
    assert job.met
    assert job.processes > 2
    assert job.duration_s <= 3_600
    short = asked(1_500, 5_000_000, "daily", NETWORK)
    assert short.batch is not None
    assert not short.batch.met  # a job takes longer than that to start


def test_batches_cost_less_than_single_items() -> None:
    advice = asked(3_600_000, 5_000_000, "daily", TEXT)
    assert advice.batch is not None
    assert advice.real_time is not None
    assert advice.batch.core_hours_per_million < advice.real_time.core_hours_per_million


@pytest.mark.parametrize("fields", [
    {"latency_ms": 0}, {"latency_ms": float("nan")}, {"volume": 0}, {"volume": 10**13},
    {"update_frequency": "weekly"}, {"peak_per_s": -1.0}, {"peak_per_s": float("inf")},
])
def test_what_makes_no_sense_is_refused_by_name(fields: dict[str, object]) -> None:
    good: dict[str, object] = {
        "latency_ms": 50, "volume": 10_000, "update_frequency": "continuous"
    }
    with pytest.raises(errors.RequestError, match="it must be") as caught:
        Requirement(**{**good, **fields})  # type: ignore[arg-type]
    assert caught.value.field in fields


def test_busy_lanes_are_no_reason_for_more_of_them() -> None:
    """Many processes take what waits in tiny batches, and are all busy with next to no load."""
    cheap = Profile(device="cpu", fixed_s=0.0, item_s=58e-6, machine="a test")
    wanted = Requirement(
        latency_ms=100, volume=10**9, update_frequency="continuous", peak_per_s=86_500
    )
    found = advise(wanted, cheap, max_batch_size=256).real_time
    assert found is not None
    assert found.processes == 9
    assert found.met
    assert found.waits.p99_ms < 10


def test_what_no_number_of_processes_can_do_is_played_once() -> None:
    play.cache_clear()
    slow = Service(fixed_s=0.050, item_s=0.001, max_batch_size=8)
    wanted = Requirement(latency_ms=20, volume=1_000_000, update_frequency="continuous")
    assert not serving(wanted, slow).met
    assert play.cache_info().misses == 1


def test_what_the_percentiles_rest_on_is_said() -> None:
    passes = tuple(Passes(items=n, pause_s=0, seconds=(0.001 * n,) * 8) for n in (1, 64))
    served = Profile(fixed_s=0.001, item_s=0.001, passes=passes)
    assert not any("tight loop" in one or "Redis" in one
                   for one in asked(50, 10_000, "continuous", served).reasons)
    assert "tight loop" in asked(50, 10_000, "continuous", TEXT).reasons[-1]
    few = served.model_copy(update={"cores": 2})
    assert "Redis" in asked(50, 10_000, "continuous", few).reasons[-1]
    assert not any("Redis" in one for one in asked(3_600_000, 5_000_000, "daily", few).reasons)
