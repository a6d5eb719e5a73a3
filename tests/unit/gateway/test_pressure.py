"""When a model has more requests than it can do."""

from __future__ import annotations

import pytest

from celeriac import errors
from producer.gateway.pressure import MAX_PATHS, ROOM, STALE_S, Gate, Pressure

MAX_WAIT_S = 0.05


def answer(gate: Gate, per_s: float, wait_s: float, compute_s: float, *, windows: int = 2) -> None:
    """So many windows of answers at one rate; each begins where the last ended."""
    for number in range(int(per_s * 0.1 * windows) + 2):
        now_s = gate._began_s + 0.1001 if number and number % (per_s * 0.1) == 0 else gate._began_s
        gate.answered(wait_s + compute_s, compute_s, now_s)


def shut(per_s: float, wait_s: float, compute_s: float) -> Gate:
    gate = Gate("busy", MAX_WAIT_S, 0.0)
    answer(gate, per_s, wait_s, compute_s)
    return gate


@pytest.mark.parametrize(("wait_s", "compute_s", "is_shut"), [
    (0.01, 0.01, False),
    (0.06, 0.01, True),
    (0.30, 0.20, False),  # of a slow model, less than two batches
    (0.50, 0.20, True),
])
def test_a_long_wait_shuts_it(wait_s: float, compute_s: float, is_shut: bool) -> None:
    assert shut(4_000, wait_s, compute_s).is_shut is is_shut


def test_room_is_what_is_answered_within_half_the_bound() -> None:
    gate = shut(4_000, 0.2, 0.015)
    gate.inside = int(4_000 * (MAX_WAIT_S / 2 + 0.015)) - 5
    assert not gate.refuses(gate._began_s)
    gate.coming = 10
    assert gate.refuses(gate._began_s)
    gate.coming = 0
    gate.inside += 10
    assert gate.refuses(gate._began_s)
    assert gate.refusal().retry_after_s == pytest.approx(gate.inside / 4_000, rel=0.05)


def test_few_requests_are_always_let_in() -> None:
    gate = shut(20, 0.4, 0.01)
    gate.inside = ROOM - 1
    assert gate.is_shut
    assert not gate.refuses(gate._began_s)


def test_it_opens_when_hardly_any_answer_waits() -> None:
    gate = shut(4_000, 0.2, 0.01)
    answer(gate, 4_000, 0.03, 0.01)
    assert gate.is_shut
    answer(gate, 4_000, 0.01, 0.01)
    assert not gate.is_shut


def test_it_stays_shut_while_requests_are_refused() -> None:
    gate = shut(4_000, 0.2, 0.01)
    gate.inside = 10_000
    for _ in range(3):
        assert gate.refuses(gate._began_s)
        answer(gate, 4_000, 0.01, 0.01, windows=1)
        assert gate.is_shut
    answer(gate, 4_000, 0.01, 0.01)
    assert not gate.is_shut


def test_it_opens_when_no_answer_says_any_longer_that_it_is_busy() -> None:
    gate = shut(4_000, 0.2, 0.01)
    gate.inside = 10_000
    last_s = gate._began_s
    assert gate.refuses(last_s + STALE_S - 0.1)
    assert not gate.refuses(last_s + STALE_S + 0.1)
    assert not gate.is_shut
    answer(gate, 4_000, 0.2, 0.01)
    assert gate.refuses(gate._began_s)


def test_a_slow_window_does_not_halve_the_room() -> None:
    gate = shut(4_000, 0.2, 0.01)
    before = gate._room
    answer(gate, 1_000, 0.2, 0.01, windows=1)
    assert gate._room == pytest.approx(before, rel=0.1)
    answer(gate, 1_000, 0.2, 0.01, windows=20)
    assert gate._room < before / 2


def test_a_model_is_refused_by_itself_and_forgotten_when_nobody_waits() -> None:
    pressure = Pressure(MAX_WAIT_S)
    gates = [pressure.enter("busy", 0.0, b"/busy", "/{model}") for _ in range(ROOM)]
    other = pressure.enter("other", 0.0)
    assert pressure.shut_way(b"/busy") is None
    answer(gates[0], 1_000, 1.0, 0.0)
    pressure.check("other", 0.0)
    assert pressure.shut_way(b"/busy") == (gates[0], "/{model}")
    assert pressure.shut_way(b"/other") is None
    with pytest.raises(errors.Overloaded, match="'busy'") as refusal:
        pressure.enter("busy", 1.0)
    assert refusal.value.retry_after_s == pytest.approx(ROOM / 1_000, rel=0.1)
    for gate in gates:
        pressure.leave(gate)
    pressure.leave(other)
    assert pressure.enter("busy", 2.0) is gates[0]  # all of its answers had come together
    answer(gates[0], 1_000, 0.0, 0.0)
    pressure.leave(gates[0])
    assert not pressure._gates
    assert not pressure._ways


def test_paths_of_a_model_are_bounded() -> None:
    pressure = Pressure(MAX_WAIT_S)
    gates = [pressure.enter("m", 0.0, b"/%d" % number) for number in range(100)]
    assert len(pressure._ways) == MAX_PATHS
    for gate in gates:
        pressure.leave(gate)
    assert not pressure._ways
