"""What every task shares: a summary instead of the payload, and a worker that outlives nonsense."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from celery import Celery
from celery.exceptions import InvalidTaskError

from celeriac.messages import PREDICT
from tasks import predict  # noqa: F401 - registers the task
from tasks.base import SummarisedRequest
from tests.unit.eventer import Eventer


def request(payload: Any, eventer: Eventer | None = None, **headers: Any) -> SummarisedRequest:
    app = Celery(set_as_current=False)
    task = app.tasks[PREDICT]
    message = SimpleNamespace(
        headers={"id": "r1", "task": PREDICT, **headers}, payload=payload, body=b"",
        content_type="application/json", content_encoding="utf-8", delivery_info={}, properties={},
    )
    return SummarisedRequest(message, app=app, task=task, eventer=eventer)


@pytest.mark.parametrize(
    ("args", "kwargs"),
    [
        ([], {"model": "reviews", "items": ["a secret", "b"]}),
        (["reviews", ["a secret", "b"]], {}),
        (["reviews"], {"items": ["a secret", "b"]}),
    ],
)
def test_it_says_what_it_is_about_however_it_was_called(
    args: list[Any], kwargs: dict[str, Any]
) -> None:
    shown = request([args, kwargs, {}])
    assert shown.kwargsrepr == "{'model': 'reviews', 'items': 2}"
    assert shown.argsrepr == "()"


@pytest.mark.parametrize("payload", [[], {"a": 1}, [1, 2], 7, None])
def test_a_message_that_is_no_task_is_refused_and_ends_no_worker(payload: Any) -> None:
    with pytest.raises(InvalidTaskError, match="no task"):
        request(payload)


def test_arguments_of_a_wrong_kind_are_left_to_the_task() -> None:
    assert request([None, ["a secret"], {}]).kwargsrepr == "{}"


def test_events_carry_neither_result_nor_traceback() -> None:
    eventer = Eventer()
    seen = request([[], {"model": "reviews", "items": []}, {}], eventer)
    seen.send_event("task-succeeded", result="['a secret']")
    seen.send_event("task-failed", exception="WorkerError()", traceback="ValueError: 'a secret'")
    assert [event["type"] for event in eventer.sent] == ["task-succeeded", "task-failed"]
    assert "secret" not in repr(eventer.sent)
