"""Equal items that are under way together."""

from __future__ import annotations

from typing import Any

import pytest

from celeriac import errors
from celeriac.messages import Prediction
from producer import flights as flights_module, wire
from producer.calls import Call
from producer.flights import Flights
from producer.statistics import Counts

ANSWER = Prediction(model="a", version=1, value=1)


def make_call(key: str | None = "k", left_ms: int = 60_000) -> Call:
    call = Call("a", "realtime.cpu.a", b"1", wire.now_ms() + left_ms)
    call.key = key
    return call


@pytest.fixture
def sent() -> list[Call]:
    return []


@pytest.fixture
def flights(sent: list[Call]) -> Flights:
    return Flights(sent.extend, Counts())


def test_followers_share_the_answer(flights: Flights) -> None:
    leader, *followers = [make_call() for _ in range(4)]
    assert flights.lead(leader)
    assert not any(flights.lead(call) for call in followers)
    assert flights.lead(make_call("another"))
    assert flights.lead(make_call(None))

    leader.settle(ANSWER)

    assert all(call.outcome is ANSWER for call in followers)
    assert flights.lead(make_call())  # the next one is a flight of its own


def test_each_follower_gets_an_error_of_its_own(flights: Flights) -> None:
    leader, follower = make_call(), make_call()
    flights.lead(leader)
    flights.lead(follower)

    leader.settle(errors.Overloaded("full", 2.0))

    error = follower.outcome
    assert isinstance(error, errors.Overloaded)
    assert error is not leader.outcome
    assert (error.message, error.retry_after_s) == ("full", 2.0)


@pytest.mark.parametrize("fate", [errors.DeadlineExceeded(), errors.Cancelled()])
def test_the_fate_of_the_leader_is_not_that_of_its_followers(
    flights: Flights, sent: list[Call], fate: errors.CeleriacError
) -> None:
    leader, late, gone, patient = make_call(), make_call(left_ms=-1), make_call(), make_call()
    for call in (leader, late, gone, patient):
        flights.lead(call)
    gone.settle(errors.Cancelled())

    leader.settle(fate)

    assert sent == [patient]
    assert patient.outcome is None
    assert flights.lead(patient)  # once: it follows no other call any more
    assert late.outcome is None  # its own caller keeps its time


def test_a_follower_that_gives_up_leaves_the_leader_alone(flights: Flights) -> None:
    leader, follower = make_call(), make_call()
    flights.lead(leader)
    flights.lead(follower)

    follower.settle(errors.DeadlineExceeded())

    assert leader.outcome is None
    leader.settle(ANSWER)
    assert isinstance(follower.outcome, errors.DeadlineExceeded)


def test_followers_are_bounded(flights: Flights, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flights_module, "MAX_FOLLOWERS", 2)

    assert [flights.lead(make_call()) for _ in range(5)] == [True, False, False, True, True]


def test_a_call_that_was_settled_before_it_leads_keeps_nobody_waiting(flights: Flights) -> None:
    gone, next_one = make_call(), make_call()
    gone.settle(errors.Cancelled())  # its caller was quicker than the lookup

    flights.lead(gone)

    assert flights.lead(next_one)
    next_one.settle(ANSWER)
    assert flights.lead(make_call())


def test_a_flight_lands_once(flights: Flights, sent: list[Call]) -> None:
    leader, follower, later = make_call(), make_call(), make_call()
    flights.lead(leader)
    flights.lead(follower)
    flight: Any = leader.flight
    leader.settle(errors.Cancelled())

    assert flights.lead(later)
    flight.land(leader)

    assert sent == [follower]
    assert not flights.lead(make_call())  # the later flight goes on


def test_an_alias_and_its_version_do_not_fly_together(flights: Flights) -> None:
    """The worker may know of a promotion by which the alias means another version."""
    alias, version = make_call(), make_call()
    version.model = "a@1"
    assert flights.lead(alias)
    assert flights.lead(version)

    alias.settle(Prediction(model="a", version=2, value=2))

    assert version.outcome is None
