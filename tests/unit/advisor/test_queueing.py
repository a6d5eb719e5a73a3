"""The queue that is played through, against what is known of such queues."""

from __future__ import annotations

import math

import pytest

from celeriac.advisor.queueing import Service, _arrivals, play


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
    assert play(500, service, 2) == first
