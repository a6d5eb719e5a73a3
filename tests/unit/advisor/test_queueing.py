"""The queue that is played through, against what is known of such queues."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from celeriac.advisor.queueing import (
    SHARED,
    Service,
    Sharing,
    Stops,
    Times,
    _arrivals,
    _places,
    play,
)
from celeriac.registry.manifest import PASS_SHARES, Passes, Profile


def shorter_waits(services: float, rho: float) -> float:
    """Erlang's formula for M/D/1: the share of items that wait at most so many services."""
    return (1 - rho) * sum(
        (rho * (k - services)) ** k / math.factorial(k) * math.exp(-rho * (k - services))
        for k in range(int(services) + 1)
    )


def test_one_at_a_time_agrees_with_erlangs_formula() -> None:
    service_s, rho = 0.010, 0.7
    single = Service(fixed_s=service_s, item_s=0, max_batch_size=1)
    waits = play(rho / service_s, single, 1, arrivals=200_000)
    assert waits.utilisation == pytest.approx(rho, rel=0.03)
    assert waits.mean_batch_size == 1
    assert shorter_waits(waits.p50_ms / 10 - 1, rho) == pytest.approx(0.50, abs=0.03)
    assert shorter_waits(waits.p99_ms / 10 - 1, rho) == pytest.approx(0.99, abs=0.003)


def exponential(mean_s: float) -> tuple[float, ...]:
    """The mean of each group of PASS_SHARES of such times."""

    def longer(share: float) -> float:  # the integral of times beyond the quantile
        left = 1 - share
        return mean_s * left * (1 - math.log(left)) if left > 1e-12 else 0.0

    ends = [0.0, *itertools.accumulate(PASS_SHARES)]
    return tuple(
        (longer(start) - longer(end)) / share
        for start, end, share in zip(ends, ends[1:], PASS_SHARES, strict=False)
    )


def varying(*passes: Passes, most: int = 1) -> Service:
    return Service(fixed_s=0.010, item_s=0.001, max_batch_size=most, passes=passes)


def test_times_that_vary_agree_with_the_formula_of_m_m_1() -> None:
    service_s, rho = 0.010, 0.5
    times = exponential(service_s)
    assert sum(map(math.prod, zip(times, PASS_SHARES, strict=True))) == pytest.approx(service_s)
    single = varying(Passes(items=1, pause_s=0, seconds=times))
    waits = play(rho / service_s, single, 1, arrivals=200_000)
    assert waits.utilisation == pytest.approx(rho, rel=0.06)  # straight lines between groups
    played_s = service_s * waits.utilisation / rho
    mean_ms = 1_000 * played_s / (1 - waits.utilisation)  # of an item; it is exponential, too
    assert waits.p50_ms == pytest.approx(mean_ms * math.log(2), rel=0.04)
    assert waits.p95_ms == pytest.approx(mean_ms * math.log(20), rel=0.06)
    assert waits.p99_ms == pytest.approx(mean_ms * math.log(100), rel=0.06)


def test_a_pass_after_a_pause_takes_as_long_as_it_was_measured() -> None:
    groups = len(PASS_SHARES)
    service = varying(
        Passes(items=1, pause_s=0, seconds=(0.001,) * groups),
        Passes(items=1, pause_s=0.004, seconds=(0.003,) * groups),
    )
    seldom = play(1, service, 1)
    assert (seldom.p50_ms, seldom.p99_ms) == pytest.approx((3, 3), rel=0.05)
    assert service.alone_s == pytest.approx(0.003)
    times = Times(service)
    assert [times.seconds(1, pause_s, 0) for pause_s in (0, 0.002, 0.004, 9)] == pytest.approx(
        [0.001, 0.002, 0.003, 0.003]
    )


def test_sizes_between_and_beyond_those_that_were_measured() -> None:
    groups = len(PASS_SHARES)
    times = Times(varying(
        Passes(items=2, pause_s=0, seconds=(0.002,) * groups),
        Passes(items=4, pause_s=0, seconds=(0.010,) * groups), most=8,
    ))
    found = [times.seconds(items, 0, 3) for items in (1, 2, 3, 4, 6)]
    assert found == pytest.approx([0.002, 0.002, 0.006, 0.010, 0.012])


def test_batches_carry_what_single_items_cannot() -> None:
    service = Service(fixed_s=0.010, item_s=0.0001, max_batch_size=64)
    waits = play(1_000, service, 1)  # ten times what single items allow
    assert 8 < waits.mean_batch_size < 16
    assert waits.p99_ms < 30


def test_above_its_capacity_the_wait_grows_and_all_are_busy() -> None:
    service = Service(fixed_s=0.001, item_s=0.001, max_batch_size=8)
    waits = play(3 * service.capacity_per_s, service, 1)
    assert waits.utilisation > 0.99
    assert waits.mean_batch_size == pytest.approx(8, rel=0.01)
    assert waits.p50_ms > 1_000


def test_more_processes_wait_less() -> None:
    service = Service(fixed_s=0.010, item_s=0.010, max_batch_size=4)
    waits = [play(120, service, number).p99_ms for number in (2, 3, 4)]
    assert waits == sorted(waits, reverse=True)


def test_waiting_fills_batches_and_is_bounded() -> None:
    service = Service(fixed_s=0.010, item_s=0.0001, max_batch_size=64)
    eager = play(200, service, 1)
    patient = play(200, service, 1, max_wait_ms=50)
    assert patient.mean_batch_size > 2 * eager.mean_batch_size
    assert patient.utilisation < eager.utilisation
    assert patient.p99_ms <= 50 + 2 * 11 + 1


def test_the_same_question_has_the_same_answer() -> None:
    service = Service(fixed_s=0.001, item_s=0.0001, max_batch_size=64)
    first = play(500, service, 2)
    assert play(500, service, 2) is first
    play.cache_clear()
    _arrivals.cache_clear()
    _places.cache_clear()
    assert play(500, service, 2) == first


def test_stops_take_their_share_of_the_time() -> None:
    stops = Stops(Sharing(slower=1.5, stops_per_s=50, stop_s=0.004))
    took_s = [stops.prolonged(0.001) for _ in range(50_000)]
    assert sum(took_s) == pytest.approx(50_000 * 0.0015 * (1 + 50 * 0.004), rel=0.02)
    assert min(took_s) == pytest.approx(0.0015)


def test_many_stops_are_not_counted_one_by_one() -> None:
    """Of a model of a minute they are three thousand for each batch."""
    stops = Stops(Sharing(slower=1.5, stops_per_s=50, stop_s=0.004))
    drawn: list[float] = []
    draw = stops._chance.expovariate

    def counted(rate: float) -> float:
        drawn.append(rate)
        return draw(rate)

    stops._chance.expovariate = counted  # type: ignore[method-assign]
    took_s = [stops.prolonged(60.0) for _ in range(2_000)]
    assert sum(took_s) == pytest.approx(2_000 * 90 * (1 + 50 * 0.004), rel=0.001)
    assert 0.35 < np.std(took_s) < 0.41  # of the sum of 4,500 stops: 0.004 sqrt(2 x 4,500)
    assert not drawn


def test_who_shares_cores_waits_longer_above_all_in_the_tail() -> None:
    alone = Service(fixed_s=0.001, item_s=0.0001, max_batch_size=64)
    shared = Service(fixed_s=0.001, item_s=0.0001, max_batch_size=64, sharing=SHARED)
    quick, slow = play(400, alone, 1), play(400, shared, 1)
    median = slow.p50_ms / quick.p50_ms
    assert 1 < median < 1.5
    assert slow.p99_ms / quick.p99_ms > 1.3 * median


@pytest.mark.parametrize(("cores", "shares"), [(0, False), (1, True), (2, True), (3, False)])
def test_few_cores_are_shared(cores: int, shares: bool) -> None:
    profile = Profile(fixed_s=0.001, item_s=0.0001, cores=cores)
    assert (Service.of(profile, 64).sharing is not None) == shares
