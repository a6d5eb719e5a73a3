"""Shares of the cores, and first guesses of a version's cost."""

from __future__ import annotations

import pytest

from celeriac.batching.cost import CostLine
from celeriac.registry.manifest import Profile
from celeriac.registry.profiles import fitting, this_machine
from workers import threads
from workers.roles import role_for


@pytest.mark.parametrize(
    ("role", "asked", "pool", "cores", "realtime", "expected"),
    [
        ("realtime.cpu", "", "solo", 8, 1, 1),
        ("realtime.cpu", "", "solo", 8, 3, 3),
        ("realtime.cpu", "", "solo", 2, 3, 2),  # no more than there are
        ("realtime.cpu", "", "solo", 8, 0, 8),
        ("batch.cpu", "", "prefork", 8, 1, 1),  # a process for each core
        ("batch.cpu", "auto", "prefork", 8, 1, 1),
        ("batch.cpu", "2", "prefork", 8, 1, 4),
        ("batch.cpu", "3", "prefork", 8, 1, 2),
        ("batch.cpu", "16", "prefork", 8, 1, 1),
        ("batch.cpu", "4", "solo", 8, 1, 8),
        ("batch.gpu", "", "prefork", 8, 1, 8),
        ("maintenance", "", "prefork", 8, 1, 1),
    ],
)
def test_each_process_has_its_share(
    role: str, asked: str, pool: str, cores: int, realtime: int, expected: int
) -> None:
    chosen = role_for([role])
    count = threads.processes(chosen, asked, pool, cores)
    assert threads.share(chosen, processes=count, cores=cores, realtime=realtime) == expected


def test_what_the_operator_set_stays() -> None:
    environment = {"OMP_NUM_THREADS": "5"}
    threads.limit(environment, 2)
    assert environment["OPENBLAS_NUM_THREADS"] == "2"
    assert threads.limited(environment) == 5
    assert environment["OMP_WAIT_POLICY"] == "passive"  # waiting threads do not spin
    active = {"OMP_WAIT_POLICY": "active"}
    threads.limit(active, 2)
    assert active["OMP_WAIT_POLICY"] == "active"


@pytest.mark.parametrize(("text", "expected"), [("4,2", 4), ("x", 1), ("0", 1), ("", 1)])
def test_odd_values_of_the_variable(text: str, expected: int) -> None:
    assert threads.limited({"OMP_NUM_THREADS": text}) == expected


def profile(machine: str, threads: int, device: str = "cpu") -> Profile:
    return Profile(device=device, threads=threads, machine=machine, fixed_s=1, item_s=1)  # type: ignore[arg-type]


def test_the_profile_measured_most_alike() -> None:
    some = [profile("a", 1), profile("a", 4), profile("b", 2), profile("a", 2, "gpu")]
    assert fitting(some, device="cpu", threads=3, machine="a") == some[1]
    assert fitting(some, device="cpu", threads=1, machine="b") == some[2]
    assert fitting(some, device="cpu", threads=1, machine="c") == some[0]
    assert fitting(some, device="gpu", threads=1, machine="c") == some[3]
    assert fitting([], device="cpu", threads=1, machine="a") is None
    assert "cores" in this_machine()


def test_a_first_guess_is_soon_outweighed() -> None:
    line = CostLine.of(0.01, 0.001)
    assert line.known
    assert line.predicted(1) == pytest.approx(0.011, rel=0.2)
    assert line.predicted(64) == pytest.approx(0.074, rel=0.2)
    for items in (1, 8, 32) * 10:
        line.observe(items, 0.001 + 0.000_1 * items)
    assert line.predicted(32) == pytest.approx(0.0042, rel=0.25)
