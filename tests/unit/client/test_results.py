"""Stored results of Celery tasks, and the errors that they stand for."""

from __future__ import annotations

from typing import Any

import pytest

from celeriac import errors
from producer.results import check_timeout, parse_outcome, read_answer, schedule, task_error


@pytest.mark.parametrize(
    ("status", "result", "error", "message"),
    [
        ("FAILURE", {"exc_type": "ModelNotFound", "exc_message": ["no 'x'"]},
         errors.ModelNotFound, "no 'x'"),
        ("FAILURE", {"exc_type": "PromotionRefused", "exc_message": "item 3 differs"},
         errors.PromotionRefused, "item 3 differs"),
        ("FAILURE", {"exc_type": "CeleriacError", "exc_message": ["odd"]},
         errors.CeleriacError, "odd"),
        ("FAILURE", {"exc_type": "ValueError", "exc_message": ["bad"], "exc_module": "builtins"},
         errors.WorkerError, "the task failed with ValueError: bad"),
        ("FAILURE", {"exc_type": "NotRegistered", "exc_message": ["celeriac.new"]},
         errors.WorkerError, "the worker does not know the task celeriac.new; upgrade it"),
        ("REVOKED", {"exc_type": "TaskRevokedError", "exc_message": ["revoked"]},
         errors.Cancelled, "the task was revoked"),
        ("REVOKED", {"exc_type": "TaskRevokedError", "exc_message": ["expired"]},
         errors.DeadlineExceeded, ("the task expired before a worker took it; `celeriac status` "
         "shows whether workers are there, and whose clock is wrong")),
        ("FAILURE", None, errors.WorkerError, "an error failed"),
        ("FAILURE", "text", errors.WorkerError, "an error failed"),
    ],
)  # fmt: skip
def test_a_failed_task_becomes_a_typed_error(
    status: str, result: Any, error: type[errors.CeleriacError], message: str
) -> None:
    found = task_error(status, result)

    assert type(found) is error
    assert found.message == message


def test_no_class_is_looked_up_by_its_name() -> None:
    found = task_error(
        "FAILURE", {"exc_type": "system", "exc_module": "os", "exc_message": ["touch /tmp/x"]}
    )

    assert type(found) is errors.WorkerError


def test_what_is_stored() -> None:
    assert parse_outcome(None) is None
    pending = parse_outcome(b'{"status": "STARTED", "result": {"pid": 1}, "children": []}')
    assert pending is not None
    assert not pending.finished
    done = parse_outcome(b'{"status": "SUCCESS", "result": [1], "traceback": null}')
    assert done is not None
    assert done.value() == [1]
    with pytest.raises(errors.WorkerError, match="result_serializer"):
        parse_outcome(b"\x80\x04.")


def test_an_answer_of_another_form_is_an_error_of_the_worker() -> None:
    for answer in (None, [], "x", {"label": 1}):
        assert type(read_answer(answer)) is errors.WorkerError


def test_looks_at_redis_are_bounded_by_the_time_and_pauses_grow(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now_s = 100.0
    monkeypatch.setattr("producer.results.time.monotonic", lambda: now_s)
    pauses = []
    for pause_s in schedule(0.2):
        pauses.append(pause_s)
        now_s += pause_s

    assert pauses[0] == 0
    assert sum(pauses) == pytest.approx(0.2)
    assert 3 < len(pauses) < 30
    assert pauses[2] > pauses[1]


@pytest.mark.parametrize("timeout_s", [0, -1, float("nan"), float("inf")])
def test_a_timeout_that_makes_no_sense(timeout_s: float) -> None:
    with pytest.raises(errors.RequestError, match="timeout_s"):
        check_timeout(timeout_s, 5.0)


def test_the_default_timeout() -> None:
    assert check_timeout(None, 5.0) == 5.0
    assert check_timeout(2, 5.0) == 2.0
