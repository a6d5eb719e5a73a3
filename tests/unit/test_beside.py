"""What waits for others' servers is done beside its task, in order, and ends with its process."""

from __future__ import annotations

import contextvars
import threading

import pytest

from tasks import beside
from tasks.beside import Beside

WAIT_S = 20


def test_a_task_does_not_wait_and_who_comes_meanwhile_is_done_after_it() -> None:
    began, go, done = threading.Event(), threading.Event(), []

    def slow() -> None:
        began.set()
        assert go.wait(WAIT_S)
        done.append("slow")

    one = Beside("test")
    one.ask(slow)
    assert began.wait(WAIT_S)
    one.ask(lambda: done.append("forgotten"))
    one.ask(lambda: done.append("last"))
    assert not one.wait(0.01)
    assert done == []
    go.set()
    assert one.wait(WAIT_S)
    assert done == ["slow", "last"]
    one.ask(lambda: done.append("again"))
    assert one.wait(WAIT_S)
    assert done[-1] == "again"


def test_what_fails_keeps_nothing_from_what_comes_next() -> None:
    one, done = Beside("test"), threading.Event()

    def broken() -> None:
        raise ConnectionError("Redis is away")

    one.ask(broken)
    assert one.wait(WAIT_S)
    one.ask(done.set)
    assert done.wait(WAIT_S)


def test_it_sees_what_its_task_sees() -> None:
    variable = contextvars.ContextVar("variable", default="none")
    variable.set("of the task")
    one, seen = Beside("test"), []
    one.ask(lambda: seen.append(variable.get()))
    assert one.wait(WAIT_S)
    assert seen == ["of the task"]


def test_a_process_that_ends_waits_within_bounds_and_begins_nothing(
    monkeypatch: pytest.MonkeyPatch
) -> None:
    one, began, go, more = Beside("test"), threading.Event(), threading.Event(), []

    def until_told() -> None:
        began.set()
        while one.goes_on and not go.wait(0.01):
            pass
        go.wait(WAIT_S)

    one.ask(until_told)
    assert began.wait(WAIT_S)
    one.ask(lambda: more.append("too late"))
    monkeypatch.setattr(beside, "END_S", 0.01)
    one._end()  # as the signal of a process that ends
    assert not one.goes_on
    go.set()
    monkeypatch.setattr(beside, "END_S", WAIT_S)
    one._end()
    assert one.wait(0)
    assert more == []
