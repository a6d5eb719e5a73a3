"""The lane against a real server: every item is answered once, in its own slot."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import redis

from celeriac import errors
from celeriac.host import ModelHost
from celeriac.keys import reply_key
from celeriac.messages import (
    CONTRACT,
    PREDICT,
    PREDICT_ENVELOPE,
    Reply,
    predict_queue,
    realtime_queue,
)
from celeriac.registry.manifest import InputSchema, ModelDraft, OutputSchema
from celeriac.registry.store import Registry
from celeriac.runtimes import LoadOptions
from celeriac.scoring import Scorer
from celeriac.settings import Settings
from workers.lane.events import NoEvents
from workers.lane.lane import PARKED_ITEMS, Lane
from workers.lane.queues import FIRST_POP

FAR = 4_000_000_000_000


def add_echo(registry: Registry, name: str = "echo") -> None:
    draft = ModelDraft(
        format="echo", input=InputSchema(kind="any"), output=OutputSchema(kind="any")
    )
    version = registry.add(name, lambda folder: draft)
    registry.aliases(name).promote(version.version, expected=None, who="test", why="")


@pytest.fixture
def host(settings: Settings) -> ModelHost:
    registry = Registry(settings.models.root)
    add_echo(registry)
    host = ModelHost(registry, LoadOptions())
    host.refresh()
    return host


@pytest.fixture
def lane(host: ModelHost, redis_client: redis.Redis, settings: Settings) -> Lane:
    return Lane(host, redis_client, settings, NoEvents())


def envelope(id: str, items: list[Any], **changes: Any) -> dict[str, Any]:
    kwargs = {
        "v": CONTRACT, "id": id, "model": "echo", "items": items, "reply_to": "me",
        "deadline_ms": FAR,
    }  # fmt: skip
    return kwargs | changes


def push(
    client: redis.Redis, kwargs: dict[str, Any], *, queue: str = realtime_queue("cpu", "echo"),
    task: str = PREDICT_ENVELOPE,
) -> None:  # fmt: skip
    body = json.dumps([[], kwargs, {}])
    headers = {"task": task, "id": str(kwargs.get("id")), "sent_ms": time.time() * 1000}
    message = {"body": body, "headers": headers, "properties": {"body_encoding": "utf-8"}}
    client.lpush(queue, json.dumps(message))


def replies(client: redis.Redis, reply_to: str = "me") -> dict[str, Reply]:
    raws = client.lrange(reply_key(reply_to), 0, -1)
    found = [msgspec.json.decode(raw, type=Reply) for raw in raws]
    assert len({reply.id for reply in found}) == len(found)
    return {reply.id: reply for reply in found}


def values(reply: Reply) -> list[Any]:
    assert reply.answers is not None
    return [answer["value"] for answer in reply.answers]


def test_each_item_is_answered_in_its_own_slot(lane: Lane, redis_client: redis.Redis) -> None:
    for number in range(10):
        push(redis_client, envelope(f"e{number}", [f"{number}-{i}" for i in range(number + 1)]))
    assert lane.step() == 10
    found = replies(redis_client)
    for number in range(10):
        assert values(found[f"e{number}"]) == [f"{number}-{i}" for i in range(number + 1)]
        assert found[f"e{number}"].batch_items == 55
        assert found[f"e{number}"].queue_ms > 0
    assert 0 < redis_client.ttl(reply_key("me")) <= 60


def test_answers_name_model_and_version(lane: Lane, redis_client: redis.Redis) -> None:
    push(redis_client, envelope("e", ["x"]))
    lane.step()
    assert replies(redis_client)["e"].answers == [{"model": "echo", "version": 1, "value": "x"}]


def test_the_first_turn_takes_so_many_messages_oldest_first(
    lane: Lane, redis_client: redis.Redis
) -> None:
    for number in range(FIRST_POP + 5):
        push(redis_client, envelope(f"e{number}", [number]))
    assert lane.step() == FIRST_POP
    assert set(replies(redis_client)) == {f"e{number}" for number in range(FIRST_POP)}
    assert lane.step() == 5
    assert redis_client.llen(realtime_queue("cpu", "echo")) == 0


def test_replies_go_to_whoever_asked(lane: Lane, redis_client: redis.Redis) -> None:
    push(redis_client, envelope("a", [1], reply_to="one"))
    push(redis_client, envelope("b", [2], reply_to="two"))
    lane.step()
    assert values(replies(redis_client, "one")["a"]) == [1]
    assert values(replies(redis_client, "two")["b"]) == [2]


def test_what_nobody_waits_for_never_reaches_the_model(
    lane: Lane, redis_client: redis.Redis
) -> None:
    push(redis_client, envelope("late", [1], deadline_ms=1))
    push(redis_client, envelope("early", [2]))
    assert lane.step() == 1
    assert set(replies(redis_client)) == {"early"}


def test_a_bad_request_fails_alone(lane: Lane, redis_client: redis.Redis) -> None:
    push(redis_client, envelope("good", [1]))
    push(redis_client, envelope("version", [1], model="echo@7"))
    push(redis_client, envelope("alias", [1], model="echo@nobody"))
    push(redis_client, envelope("contract", [1], v=99))
    push(redis_client, envelope("broken", [1], deadline_ms="soon"))
    push(redis_client, envelope("item", [1, {"$bytes": "?"}]))
    lane.step()
    found = replies(redis_client)
    codes = {reply.id: reply.error["code"] for reply in found.values() if reply.error}
    assert codes == {
        "version": "version_not_found",
        "alias": "version_not_found",
        "contract": "contract_mismatch",
        "broken": "request_invalid",
    }
    assert values(found["good"]) == [1]
    answers = found["item"].answers
    assert answers is not None
    assert answers[0]["value"] == 1
    assert answers[1]["error"]["code"] == "item_invalid"


def test_the_previous_contract_is_read(lane: Lane, redis_client: redis.Redis) -> None:
    push(redis_client, envelope("old", [1], v=CONTRACT - 1))
    lane.step()
    assert values(replies(redis_client)["old"]) == [1]


def test_another_task_goes_to_the_main_loop_unchanged(
    lane: Lane, redis_client: redis.Redis
) -> None:
    push(redis_client, {"id": "p", "model": "echo", "items": [1]}, task=PREDICT)
    queue = realtime_queue("cpu", "echo")
    raw = redis_client.lindex(queue, 0)
    lane.step()
    assert redis_client.lrange(predict_queue("cpu"), 0, -1) == [raw]


def test_garbage_is_dropped_and_the_lane_goes_on(lane: Lane, redis_client: redis.Redis) -> None:
    redis_client.lpush(realtime_queue("cpu", "echo"), b"\xff\x00 not json", b"{}", b"[1]")
    push(redis_client, envelope("e", [1]))
    assert lane.step() == 1
    assert set(replies(redis_client)) == {"e"}


def test_models_take_turns(lane: Lane, host: ModelHost, redis_client: redis.Redis) -> None:
    add_echo(host.registry, "other")
    host.refresh()
    for number in range(2 * FIRST_POP):
        push(redis_client, envelope(f"e{number}", [number]))
    push(redis_client, envelope("o", [1], model="other"), queue=realtime_queue("cpu", "other"))
    lane.step()
    lane.step()
    assert "o" in replies(redis_client)


def test_a_model_that_cannot_be_loaded_fails_its_requests_only(
    lane: Lane, host: ModelHost, redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    push(redis_client, envelope("e", [1]))

    def broken(name: str, version: int) -> Any:
        raise errors.ModelCorrupt(f"{name}@{version}: changed")

    monkeypatch.setattr(host, "scorer", broken)
    lane.step()
    error = replies(redis_client)["e"].error
    assert error is not None
    assert error["code"] == "model_corrupt"


@pytest.mark.parametrize("is_parked", [False, True])
def test_a_version_that_cannot_be_loaded_now_is_refused_at_once_and_the_others_answer(
    lane: Lane, host: ModelHost, redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch,
    is_parked: bool,
) -> None:
    host.registry.add("echo", lambda folder: host.registry.get("echo", 1))
    looks = []

    def full(name: str, version: int) -> bool:
        if version == 2:
            looks.append(version)
            if len(looks) == 1 and is_parked:
                return False
            raise errors.Overloaded("echo@2 is not in memory", retry_after_s=2.0)
        return True

    monkeypatch.setattr(host, "is_ready", full)
    push(redis_client, envelope("pinned", [1], model="echo@2"))
    push(redis_client, envelope("e", [1]))
    lane.step()
    lane.step()
    found = replies(redis_client)
    assert found["pinned"].error == {
        "code": "overloaded", "message": "echo@2 is not in memory", "retry_after_s": 2.0,
    }
    assert values(found["e"]) == [1]
    assert lane.step() == 0  # nothing of it is kept


@pytest.fixture
def running(lane: Lane) -> Iterator[Lane]:
    thread = threading.Thread(target=lane.run)
    thread.start()
    yield lane
    lane.stop()
    thread.join(5)
    assert not thread.is_alive()


def test_a_lost_connection_does_not_end_the_lane(
    running: Lane, redis_client: redis.Redis, settings: Settings
) -> None:
    redis_client.client_kill_filter(_type="normal", skipme=True)
    push(redis_client, envelope("e", [1]))
    raw = redis_client.blpop([reply_key("me")], timeout=5)
    assert raw is not None


def test_draining_answers_everything_that_was_popped(
    lane: Lane, redis_client: redis.Redis
) -> None:
    for number in range(200):
        push(redis_client, envelope(f"e{number}", [number]))
    thread = threading.Thread(target=lane.run)
    thread.start()
    while not redis_client.exists(reply_key("me")):
        time.sleep(0.001)
    lane.stop()
    thread.join(5)
    answered = len(replies(redis_client))
    left = redis_client.llen(realtime_queue("cpu", "echo"))
    assert answered + left == 200


class SlowLoad:
    """Versions are loaded when the test says so."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.go = threading.Event()
        load = Scorer.load

        def slow(*args: Any) -> Scorer:
            assert self.go.wait(20)
            return load(*args)

        monkeypatch.setattr(Scorer, "load", slow)


def turn_until(lane: Lane, client: redis.Redis, id: str) -> Reply:
    deadline = time.monotonic() + 20
    while id not in replies(client):
        assert time.monotonic() < deadline
        lane.step()
    return replies(client)[id]


def test_others_go_on_while_a_pinned_version_is_loaded(
    lane: Lane, redis_client: redis.Redis, host: ModelHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    host.registry.add("echo", lambda folder: host.registry.get("echo", 1))
    host.refresh()
    slow = SlowLoad(monkeypatch)
    push(redis_client, envelope("pinned", ["p"], model="echo@2"))
    push(redis_client, envelope("late", ["p"], model="echo@2",
                                deadline_ms=int(time.time() * 1000) + 300))
    push(redis_client, envelope("pinned", ["p"], model="echo@2"))  # sent again
    push(redis_client, envelope("champion", ["c"]))
    turn_until(lane, redis_client, "champion")
    time.sleep(0.3)
    for number in range(3):
        push(redis_client, envelope(f"more-{number}", [number]))
        turn_until(lane, redis_client, f"more-{number}")
    assert "pinned" not in replies(redis_client)
    slow.go.set()
    answers = turn_until(lane, redis_client, "pinned").answers
    assert answers == [{"model": "echo", "version": 2, "value": "p"}]
    assert "late" not in replies(redis_client)


def test_while_a_version_is_loaded_not_too_many_wait_for_it(
    lane: Lane, redis_client: redis.Redis, host: ModelHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    host.registry.add("echo", lambda folder: host.registry.get("echo", 1))
    host.refresh()
    slow = SlowLoad(monkeypatch)
    push(redis_client, envelope("many", ["p"] * PARKED_ITEMS, model="echo@2"))
    push(redis_client, envelope("more", ["p"], model="echo@2"))
    error = turn_until(lane, redis_client, "more").error
    assert error is not None
    assert (error["code"], error["retry_after_s"]) == ("overloaded", 1.0)
    lane.stop()
    assert lane.give_back() == 1
    assert redis_client.llen(realtime_queue("cpu", "echo")) == 1
    slow.go.set()


def test_a_pinned_version_that_cannot_be_loaded_is_an_error_with_its_reason(
    lane: Lane, redis_client: redis.Redis, host: ModelHost
) -> None:
    def write(folder: Path) -> ModelDraft:
        (folder / "weights").write_bytes(b"w")
        return host.registry.get("echo", 1)

    host.registry.add("echo", write)
    host.refresh()
    path = host.registry.folder("echo", 2) / "weights"
    path.chmod(0o644)
    path.write_bytes(b"v")
    push(redis_client, envelope("pinned", ["p"], model="echo@2"))
    error = turn_until(lane, redis_client, "pinned").error
    assert error is not None
    assert error["code"] == "model_corrupt"
    assert "echo@2: weights was changed" in error["message"]


def test_replies_that_a_full_redis_refuses_are_kept(
    lane: Lane, redis_client: redis.Redis
) -> None:
    for name in ("first", "second"):
        push(redis_client, envelope(name, [name]))
        redis_client.config_set("maxmemory", 1)
        try:
            with pytest.raises(redis.exceptions.OutOfMemoryError):
                lane.step()
        finally:
            redis_client.config_set("maxmemory", 0)
    assert redis_client.llen(realtime_queue("cpu", "echo")) == 1  # no more is taken
    lane.step()
    assert set(replies(redis_client)) == {"first"}
    lane.step()
    assert set(replies(redis_client)) == {"first", "second"}


class Panic(BaseException):
    """As libraries that are written in Rust raise."""


def test_whatever_a_model_raises_the_lane_goes_on(
    lane: Lane, host: ModelHost, redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    def panics(*_: Any) -> Any:
        raise Panic

    push(redis_client, envelope("e", [1]))
    with monkeypatch.context() as patch:
        patch.setattr(Scorer, "score", panics)
        lane.step()
    error = replies(redis_client)["e"].error
    assert error is not None
    assert error["code"] == "worker_failed"


def test_a_version_that_goes_before_its_turn_is_loaded_aside(
    lane: Lane, host: ModelHost, redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """More versions than are kept are asked for, say."""
    host.registry.add("echo", lambda folder: host.registry.get("echo", 1))
    host.refresh()
    push(redis_client, envelope("first", ["p"], model="echo@2"))
    turn_until(lane, redis_client, "first")
    ready, slow = host.is_ready, SlowLoad(monkeypatch)

    def goes_then(name: str, version: int) -> bool:
        found = ready(name, version)
        host._loaded.pop(("echo", 2), None)
        return found

    push(redis_client, envelope("pinned", ["p"], model="echo@2"))
    with monkeypatch.context() as patch:
        patch.setattr(host, "is_ready", goes_then)
        lane.step()
    push(redis_client, envelope("champion", ["c"]))
    turn_until(lane, redis_client, "champion")
    assert "pinned" not in replies(redis_client)
    slow.go.set()
    assert turn_until(lane, redis_client, "pinned").error is None
