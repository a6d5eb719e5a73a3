"""Callers who know only a name: ``celeriac.predict`` is an ordinary task in every respect."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import redis
from celery import Celery, chain, chord, group, signature
from celery.exceptions import TaskRevokedError
from celery.result import AsyncResult

from celeriac.messages import CONTRACT, PREDICT
from celeriac.registry.manifest import InputSchema, ModelDraft, OutputSchema
from celeriac.registry.store import Registry
from celeriac.settings import Settings

pytestmark = pytest.mark.uncounted

QUEUE = "predict.cpu"
TIMEOUT_S = 20


@pytest.fixture
def echo(settings: Settings) -> Registry:
    registry = Registry(settings.models.root)
    draft = ModelDraft(
        format="echo", input=InputSchema(kind="any"), output=OutputSchema(kind="any")
    )
    registry.add("echo", lambda folder: draft)
    registry.aliases("echo").promote(1, expected=None, who="test", why="")
    return registry


@pytest.fixture
def caller(settings: Settings, redis_client: redis.Redis) -> Iterator[Celery]:
    """Somebody else's Celery app: it has Celery's defaults and none of our tasks."""
    app = Celery(
        "somebody", broker=settings.broker_url, backend=settings.broker_url, set_as_current=False
    )
    yield app
    app.close()


def ask(app: Celery, items: list[Any], **options: Any) -> AsyncResult:
    kwargs = {"model": "echo", "items": items}
    result: AsyncResult = app.send_task(PREDICT, kwargs=kwargs, queue=QUEUE, **options)
    return result


def call(app: Celery, items: list[Any], **options: Any) -> Any:
    kwargs = {"model": "echo", "items": items}
    return signature(PREDICT, kwargs=kwargs, queue=QUEUE, app=app, immutable=True, **options)


def values(answers: list[dict[str, Any]]) -> list[Any]:
    return [answer["value"] for answer in answers]


def test_an_ordinary_task(
    echo: Registry, caller: Celery, start_worker: Callable[..., Any], redis_client: redis.Redis
) -> None:
    """One worker, every Celery feature: starting a worker costs more than all of them."""
    worker = start_worker("realtime.cpu")

    answers = ask(caller, ["a", 2, None]).get(timeout=TIMEOUT_S)
    assert answers == [{"model": "echo", "version": 1, "value": value} for value in ("a", 2, None)]
    assert ask(caller, []).get(timeout=TIMEOUT_S) == []
    positional = caller.send_task(PREDICT, args=["echo@1", ["x"]], queue=QUEUE)
    assert values(positional.get(timeout=TIMEOUT_S)) == ["x"]

    # the whole request is at fault: the task fails, and says how
    for kwargs, code in (
        ({"model": "nothing", "items": [1]}, "ModelNotFound"),
        ({"model": "echo@9", "items": [1]}, "VersionNotFound"),
        ({"model": "../x", "items": [1]}, "RequestError"),
        ({"model": "echo", "items": "text"}, "RequestError"),
        ({"model": "echo", "items": [0] * 1001}, "PayloadTooLarge"),
        ({"model": "echo", "items": [1], "v": 99}, "ContractMismatch"),
        ({"model": "echo"}, "RequestError"),
        ({"model": "echo", "items": [1], "itmes": [1]}, "RequestError"),
    ):
        result = caller.send_task(PREDICT, kwargs=kwargs, queue=QUEUE)
        with pytest.raises(Exception, match=r".+") as raised:
            result.get(timeout=TIMEOUT_S)
        assert type(raised.value).__name__ == code, kwargs
        assert result.traceback is None
        assert "/" not in str(raised.value).replace("../x", "")
    previous = caller.send_task(
        PREDICT, kwargs={"model": "echo", "items": [1], "v": CONTRACT - 1}, queue=QUEUE
    )
    assert values(previous.get(timeout=TIMEOUT_S)) == [1]

    # an item is at fault: its own slot says so
    mixed = ask(caller, ["good", {"$bytes": "?"}]).get(timeout=TIMEOUT_S)
    assert mixed[0]["value"] == "good"
    assert mixed[1]["error"]["code"] == "item_invalid"

    # expires, countdown, revoke
    expired = ask(caller, ["x"], expires=-1)
    with pytest.raises(TaskRevokedError, match="expired"):
        expired.get(timeout=TIMEOUT_S)
    started = time.monotonic()
    later = ask(caller, ["x"], countdown=1.5)
    assert values(later.get(timeout=TIMEOUT_S)) == ["x"]
    assert time.monotonic() - started >= 1.4
    revoked = ask(caller, ["x"], countdown=3)
    caller.control.revoke(revoked.id)
    with pytest.raises(TaskRevokedError):
        revoked.get(timeout=TIMEOUT_S)

    # canvas: each acts on the finished prediction
    many = group(call(caller, [n]) for n in range(5)).apply_async()
    assert [values(answers) for answers in many.get(timeout=TIMEOUT_S)] == [[n] for n in range(5)]
    linked = call(caller, ["linked"])
    ask(caller, ["first"], link=linked).get(timeout=TIMEOUT_S)
    assert values(AsyncResult(_linked_id(redis_client), app=caller).get(timeout=TIMEOUT_S)) == [
        "linked"
    ]
    chained = chain(call(caller, ["one"]), call(caller, ["two"])).apply_async()
    assert values(chained.get(timeout=TIMEOUT_S)) == ["two"]
    assert values(chained.parent.get(timeout=TIMEOUT_S)) == ["one"]
    body = signature(PREDICT, kwargs={"model": "echo"}, queue=QUEUE, app=caller)
    body.kwargs["items"] = ["body"]
    body.set(immutable=True)
    finished = chord([call(caller, [n]) for n in range(3)], app=caller)(body)
    assert values(finished.get(timeout=TIMEOUT_S)) == ["body"]

    # link_error gets the failed task's id
    failed = caller.send_task(
        PREDICT, kwargs={"model": "nothing", "items": [1]}, queue=QUEUE,
        link_error=call(caller, ["told"], task_id="told-of-it"),
    )  # fmt: skip
    with pytest.raises(Exception, match="nothing"):
        failed.get(timeout=TIMEOUT_S)
    assert values(AsyncResult("told-of-it", app=caller).get(timeout=TIMEOUT_S)) == ["told"]

    # control
    pong = caller.control.ping(destination=[worker.hostname], timeout=5)
    assert pong == [{worker.hostname: {"ok": "pong"}}]
    assert caller.control.inspect([worker.hostname], timeout=5).registered()
    assert worker.stop() == 0


def _linked_id(client: redis.Redis) -> str:
    """The id that Celery gave the linked task: the newest result that says so."""
    deadline = time.monotonic() + TIMEOUT_S
    while time.monotonic() < deadline:
        for key in client.scan_iter("celery-task-meta-*"):
            if b'"linked"' in (client.get(key) or b""):
                return str(key.decode().removeprefix("celery-task-meta-"))
        time.sleep(0.05)
    raise AssertionError("the linked task has no result")


def test_a_task_outlives_its_worker(
    echo: Registry, caller: Celery, start_worker: Callable[..., Any], settings: Settings
) -> None:
    """``kill -9`` while the message is held: another worker runs it, once its lease has ended."""
    first = start_worker("realtime.cpu")
    held = ask(caller, ["kept"], countdown=6)
    inspect = caller.control.inspect([first.hostname], timeout=5)
    deadline = time.monotonic() + 10
    while not (inspect.scheduled() or {}).get(first.hostname):
        assert time.monotonic() < deadline
    first.kill()
    start_worker("realtime.cpu")
    assert values(held.get(timeout=60)) == ["kept"]
