"""The lease of a running chunk: renewed, lost, cancelled, and the end of a run that hangs."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest
import redis

from celeriac.jobs import lease as leases
from celeriac.jobs.lease import EXIT_CODE, ChunkLease
from celeriac.jobs.ledger import Answer


def wait_for(condition: Callable[[], bool]) -> bool:
    pause = threading.Event()
    for _ in range(500):
        if condition():
            return True
        pause.wait(0.02)
    return False


@pytest.mark.parametrize("answer", [Answer.LOST, Answer.CANCELLED])
def test_a_run_stops_when_its_lease_or_its_job_is_gone(answer: Answer) -> None:
    with ChunkLease(lambda: answer, lease_s=0.04, timeout_s=60) as lease:
        assert wait_for(lease.is_stopped)
    assert lease.answer is answer
    assert not lease.is_over


def test_a_run_goes_on_while_redis_is_away_or_has_forgotten() -> None:
    asked: list[int] = []

    def renew() -> Answer:
        asked.append(1)
        if len(asked) < 4:
            raise redis.ConnectionError("away")
        return Answer.UNKNOWN

    with ChunkLease(renew, lease_s=0.04, timeout_s=60) as lease:
        assert wait_for(lambda: len(asked) > 6)
        assert not lease.is_stopped()
        assert lease.is_held()


def test_the_lease_is_asked_for_once_more_unless_it_has_just_been_heard(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now_s = [100.0]
    monkeypatch.setattr(leases.time, "monotonic", lambda: now_s[0])
    lease = ChunkLease(lambda: Answer.LOST, lease_s=3_600, timeout_s=60)  # no thread asks
    now_s[0] += 0.9
    assert lease.is_held()  # by its claim
    now_s[0] += 0.2
    assert not lease.is_held()
    assert lease.is_stopped()


def test_the_process_of_a_cancelled_run_that_does_not_stop_ends(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With a grace of its own, and not for a run that only lost its lease."""
    monkeypatch.setattr(leases, "CANCEL_GRACE_S", 0.05)
    exits: list[int] = []
    seen: list[bool] = []

    def run(answer: Answer) -> bool:
        exits.clear()
        with ChunkLease(
            lambda: answer, lease_s=0.04, timeout_s=60, exit=exits.append,
            on_hang=lambda: seen.append(lease.is_over),
        ) as lease:
            assert wait_for(lease.is_stopped)
            threading.Event().wait(0.3)
        return bool(exits)

    assert run(Answer.CANCELLED)
    assert (exits, seen) == ([EXIT_CODE], [False])
    assert not run(Answer.LOST)


def test_a_run_is_stopped_when_its_time_is_over() -> None:
    exits: list[int] = []
    with ChunkLease(
        lambda: Answer.KEPT, lease_s=0.04, timeout_s=0.05, exit=exits.append
    ) as lease:
        assert wait_for(lease.is_stopped)
    assert lease.is_over
    assert exits == []


def test_the_process_of_a_run_that_hangs_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leases, "EXIT_GRACE_S", 0.05)
    exits: list[int] = []
    given_back: list[str] = []

    def give_back() -> None:
        given_back.append("chunk")
        raise redis.ConnectionError("away")

    with ChunkLease(
        lambda: Answer.KEPT, lease_s=0.04, timeout_s=0.05, on_hang=give_back, exit=exits.append
    ):
        assert wait_for(lambda: bool(exits))
    assert (exits, given_back) == ([EXIT_CODE], ["chunk"])
