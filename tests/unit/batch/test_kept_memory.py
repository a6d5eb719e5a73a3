"""When memory that chunks have used goes back."""

from __future__ import annotations

import threading

import pytest

from celeriac.jobs.memory import KeptMemory

LIMIT_S = 10.0


def test_it_goes_back_once_when_no_chunk_has_run_for_a_while() -> None:
    calls: list[str] = []
    gone = threading.Event()

    def give_back() -> None:
        calls.append("given back")
        gone.set()

    kept = KeptMemory(give_back, idle_s=0.02)
    for _ in range(3):
        with kept.used():
            pass
    assert gone.wait(LIMIT_S)
    assert calls == ["given back"]


def test_it_stays_while_a_chunk_runs() -> None:
    gone = threading.Event()
    kept = KeptMemory(gone.set, idle_s=0.01)
    with kept.used():
        with kept.used():
            pass
        assert not gone.wait(0.1)
    assert gone.wait(LIMIT_S)


def test_it_goes_back_after_each_time_that_chunks_came() -> None:
    calls: list[int] = []
    gone = threading.Event()

    def give_back() -> None:
        calls.append(len(calls))
        gone.set()

    kept = KeptMemory(give_back, idle_s=0.01)
    for turn in range(2):
        gone.clear()
        with kept.used():
            pass
        assert gone.wait(LIMIT_S)
        assert calls == list(range(turn + 1))


def test_a_chunk_that_fails_ends_all_the_same() -> None:
    gone = threading.Event()
    kept = KeptMemory(gone.set, idle_s=0.01)
    with pytest.raises(ZeroDivisionError), kept.used():
        1 / 0  # noqa: B018
    assert gone.wait(LIMIT_S)


def test_no_room_for_a_thread_costs_no_chunk(monkeypatch: pytest.MonkeyPatch) -> None:
    def start(_thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    gone = threading.Event()
    kept = KeptMemory(gone.set, idle_s=0.01)
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", start)
        with kept.used():
            pass
    with kept.used():
        pass
    assert gone.wait(LIMIT_S)
