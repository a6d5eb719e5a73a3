"""Whatever fails, each item that is waited for is answered once, in its own slot."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import redis
from hypothesis import HealthCheck, given, settings, strategies as st

from celeriac.host import ModelHost
from celeriac.keys import reply_key
from celeriac.messages import CONTRACT, PREDICT_ENVELOPE, realtime_queue
from celeriac.registry.manifest import InputSchema, ModelDraft, OutputSchema, Serving
from celeriac.registry.store import Registry
from celeriac.runtimes import LoadOptions, Output
from celeriac.settings import RealtimeSettings, Settings as AllSettings
from workers.lane.events import NoEvents
from workers.lane.lane import Lane

pytestmark = pytest.mark.uncounted

MODELS = ("one", "two")
CAP = 8
WHOLE, POISON, MEMORY = "good", "poison", "memory"
CODES = {POISON: "model_failed", MEMORY: "resource_exhausted"}
UNSENT, UNREAD = "before it was sent", "after it was done"


class Fussy:
    """Answers texts with themselves, and a batch with a bad one not at all."""

    def predict(self, inputs: Any) -> Output:
        for text in inputs:
            if text.startswith(MEMORY):
                raise MemoryError
            if text.startswith(POISON):
                raise ValueError(text)
        return Output(values=list(inputs))


@dataclass(frozen=True, kw_only=True)
class Sent:
    """One envelope, and what is to become of it."""

    model: str
    kinds: list[str]
    times: int
    """How often it is sent."""
    is_late: bool
    is_known: bool
    """False if it asks for a version that does not exist."""

    def items(self, id: str) -> list[str]:
        return [f"{kind} {id} {slot}" for slot, kind in enumerate(self.kinds)]


SENT = st.builds(
    Sent,
    model=st.sampled_from(MODELS),
    # A model that fails with all that it is tried on is at fault itself: the first item is good.
    kinds=st.lists(st.sampled_from([WHOLE, WHOLE, POISON, MEMORY]), max_size=11).map(
        lambda rest: [WHOLE, *rest]
    ),
    times=st.sampled_from([1, 1, 1, 2]),
    is_late=st.sampled_from([False] * 5 + [True]),
    is_known=st.sampled_from([True] * 5 + [False]),
)


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> ModelHost:
    registry = Registry(tmp_path_factory.mktemp("models"))
    draft = ModelDraft(
        format="echo", input=InputSchema(kind="any"), output=OutputSchema(kind="any"),
        serving=Serving(max_batch_size=CAP),
    )
    for name in MODELS:
        registry.add(name, lambda folder: draft)
        registry.aliases(name).promote(1, expected=None, who="test", why="")
    host = ModelHost(registry, LoadOptions())
    host.refresh()
    for name in MODELS:
        host.scorer(name, 1)._model = Fussy()
    return host




def break_connection(lane: Lane, plan: list[str | None]) -> Callable[[], int]:
    """Have the lane's exchanges with Redis fail by plan; returns how many have failed."""
    once = lane._link.once
    failures = 0

    def broken(*commands: Any) -> list[Any]:
        nonlocal failures
        fate = plan.pop(0) if plan else None
        if fate == UNSENT:
            failures += 1
            raise redis.ConnectionError(fate)
        results = once(*commands)
        if fate == UNREAD:
            failures += 1
            raise redis.ConnectionError(fate)
        return results

    lane._link.once = broken  # type: ignore[method-assign]
    return lambda: failures


def message(sent: Sent, id: str) -> str:
    now_ms = time.time() * 1000
    kwargs = {
        "v": CONTRACT, "id": id, "model": sent.model if sent.is_known else f"{sent.model}@9",
        "items": sent.items(id), "reply_to": "me",
        "deadline_ms": int(now_ms + (-10_000 if sent.is_late else 600_000)),
    }  # fmt: skip
    headers = {"task": PREDICT_ENVELOPE, "id": id, "sent_ms": now_ms}
    return json.dumps({"body": json.dumps([[], kwargs, {}]), "headers": headers, "properties": {}})


def turn_until_idle(lane: Lane, client: redis.Redis) -> None:
    queues = [realtime_queue("cpu", name) for name in MODELS]
    while any(client.llen(queue) for queue in queues) or lane._buffer.lines or lane._outbox:
        try:
            lane.step()
        except redis.ConnectionError:
            continue  # as the lane's own loop does, but without its pause


def replies(client: redis.Redis) -> dict[str, list[bytes]]:
    found: dict[str, list[bytes]] = {}
    raws: Any = client.lrange(reply_key("me"), 0, -1)
    for raw in raws:
        found.setdefault(json.loads(raw)["id"], []).append(raw)
    return found


def check_answers(sent: Sent, id: str, raw: bytes) -> None:
    """Each slot has its own item's answer or error."""
    reply = json.loads(raw)
    if not sent.is_known:
        assert reply["error"]["code"] == "version_not_found"
        return
    assert len(reply["answers"]) == len(sent.kinds)
    for kind, item, answer in zip(sent.kinds, sent.items(id), reply["answers"], strict=True):
        if kind == WHOLE:
            assert (answer["value"], answer["model"]) == (item, sent.model)
        else:
            assert answer["error"]["code"] == CODES[kind]


@given(
    sends=st.lists(SENT, min_size=1, max_size=12),
    plan=st.lists(st.sampled_from([None, None, UNSENT, UNREAD]), max_size=12),
)
@settings(
    max_examples=60,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
def test_each_item_is_answered_once_in_its_own_slot_whatever_fails(
    host: ModelHost, settings: AllSettings, redis_client: redis.Redis,
    sends: list[Sent], plan: list[str | None],
) -> None:  # fmt: skip
    redis_client.flushall()
    small = settings.model_copy(update={"realtime": RealtimeSettings(max_batch_items=CAP)})
    own_client = redis.Redis.from_url(settings.broker_url)  # each lane takes a connection of it
    lane = Lane(host, own_client, small, NoEvents())
    plan = list(plan)
    failures = break_connection(lane, plan)
    messages = {f"e{number}": message(sent, f"e{number}") for number, sent in enumerate(sends)}
    wanted = {name: sent for name, sent in zip(messages, sends, strict=True) if not sent.is_late}
    for raw, sent in zip(messages.values(), sends, strict=True):
        for _ in range(sent.times):
            redis_client.lpush(realtime_queue("cpu", sent.model), raw)
    turn_until_idle(lane, redis_client)
    plan.clear()
    # What Redis handed over in an exchange that was never read is lost: its client sends it again.
    for name in wanted.keys() - replies(redis_client).keys():
        assert failures()
        redis_client.lpush(realtime_queue("cpu", wanted[name].model), messages[name])
    turn_until_idle(lane, redis_client)
    lane._link.close()
    own_client.close()

    found = replies(redis_client)
    assert found.keys() == wanted.keys()
    for name, copies in found.items():
        assert len(set(copies)) == 1
        assert len(copies) <= wanted[name].times * (1 + failures())
        check_answers(wanted[name], name, copies[0])
