"""The lane in real worker processes: batches, failures, hangs, overload, drain."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import redis
from celery import Celery

from celeriac import errors, release
from celeriac.keys import lanes_key, reply_key, worker_key
from celeriac.messages import CONTRACT, Envelope, Reply, realtime_queue
from celeriac.registry import catalogue
from celeriac.registry.manifest import InputSchema, ModelDraft, OutputSchema
from celeriac.registry.store import Registry
from celeriac.settings import (
    BrokerSettings,
    ModelsSettings,
    RealtimeSettings,
    Settings,
    StackSettings,
)
from producer import AsyncClient, Client
from producer.wire import envelope_message, new_id, now_ms
from tests.frozen import freeze_group
from tests.integration.own_modules import own_module
from tests.waiting import wait_until
from workers.child_settings import environment
from workers.supervisor import Backoff, ChildSpec, Supervisor
from workers.valkey import EmbeddedServer
from workers.watchdog import EXIT_CODE

pytestmark = pytest.mark.uncounted

ROOT = Path(__file__).parents[2]
ANSWER, MEMORY, RAISE, HANG, HOLD = range(5)
ITEM_S = 0.004
MAX_QUEUE_S = 1.0
HANG_S = 2.5
LONG_S = 1.5
CALM_MS = 80
"""Median wait at a model beside an overloaded one: two short batches of that one, and noise."""


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    """``slow`` takes 4 ms a row, ``acting`` none; ``echo`` answers at once."""
    registry = Registry(tmp_path_factory.mktemp("registry"))
    with own_module(
        "lane_models", "CELERIAC_MODELS_TRUSTED_TYPES", "lane_models.Acting"
    ) as lane_models:
        rows = np.array([[ANSWER, 1.0], [ANSWER, 2.0]])
        for name, item_s in (("slow", ITEM_S), ("acting", 0.0)):
            model = lane_models.Acting(item_s=item_s).fit(rows, rows[:, 1])
            release.register(name, model, examples=rows, registry=registry)
        draft = ModelDraft(
            format="echo", input=InputSchema(kind="any"), output=OutputSchema(kind="any")
        )
        registry.add("echo", lambda folder: draft)
        for name in ("slow", "acting", "echo"):
            registry.aliases(name).promote(1, expected=None, who="test", why="")
        yield registry


@pytest.fixture
def settings(
    server: EmbeddedServer, registry: Registry, tmp_path: Path
) -> Settings:
    return Settings(
        broker=BrokerSettings(url=server.url),
        stack=StackSettings(state_dir=tmp_path / "state", metrics_port=0),
        models=ModelsSettings(root=registry.root, trusted_types=("lane_models.Acting",)),
        realtime=RealtimeSettings(hang_timeout_s=HANG_S, max_queue_s=MAX_QUEUE_S),
    )


class Asker:
    """A raw producer: one client id, any number of messages."""

    def __init__(self, client: redis.Redis) -> None:
        self.client = client
        self.id = new_id()

    def send(
        self, model: str, items: list[Any], *, id: str = "", timeout_s: float = 30.0
    ) -> str:
        envelope = Envelope(
            v=CONTRACT, id=id or new_id(), model=model, items=items, reply_to=self.id,
            deadline_ms=now_ms() + int(timeout_s * 1000),
        )
        queue = realtime_queue("cpu", model)
        self.client.lpush(queue, envelope_message(envelope, queue))
        return envelope.id

    def replies(self, number: int, timeout_s: float = 30.0) -> dict[str, Reply]:
        """The next replies: ``number`` of them, or fewer at the end of the time."""
        found: dict[str, Reply] = {}
        end_s = time.monotonic() + timeout_s
        while len(found) < number and time.monotonic() < end_s:
            popped: Any = self.client.blmpop(0.5, 1, reply_key(self.id), direction="LEFT", count=99)
            for raw in popped[1] if popped else ():
                reply = msgspec.json.decode(raw, type=Reply)
                assert reply.id not in found
                found[reply.id] = reply
        return found


def codes(reply: Reply) -> list[Any]:
    assert reply.answers is not None
    return [answer.get("error", {}).get("code", answer.get("value")) for answer in reply.answers]


def metric(client: redis.Redis, worker: Any, name: str) -> float:
    """After all that was answered so far: a lane counts a batch when its answers have gone, and
    before the next one."""
    from urllib.request import urlopen

    after = Asker(client)
    after.send("echo", ["after"])
    assert after.replies(1)
    port = worker.describe()["metrics_port"]
    text = urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5).read().decode()
    return sum(
        float(line.rpartition(" ")[2]) for line in text.splitlines()
        if line.startswith(name) and not line.startswith("#")
    )


def test_one_worker_under_all_that_callers_do(
    settings: Settings, registry: Registry, redis_client: redis.Redis,
    start_worker: Callable[..., Any],
) -> None:  # fmt: skip
    catalogue.publish(redis_client, registry.infos())
    worker = start_worker("realtime.cpu")
    assert redis_client.zrange(lanes_key("cpu"), 0, -1) == [worker.hostname.encode()]
    _independent_producers_are_batched(redis_client)
    _a_bad_row_and_too_little_memory_fail_alone(redis_client, settings)
    _a_message_that_comes_again_is_answered_again(redis_client, worker)
    _what_came_too_late_is_dropped(redis_client, worker)
    _an_overloaded_model_refuses_the_newest(redis_client, worker)
    asyncio.run(_clients_of_an_overloaded_model_send_nothing_twice(settings))
    _draining_answers_what_was_popped_and_leaves_the_rest(redis_client, worker)
    assert redis_client.zcard(lanes_key("cpu")) == 0


def _independent_producers_are_batched(client: redis.Redis) -> None:
    askers = [Asker(client) for _ in range(20)]
    Asker(client).send("slow", [[ANSWER, 0]] * 20)  # the lane is busy with this
    time.sleep(0.02)
    for number, asker in enumerate(askers):
        asker.send("slow", [[ANSWER, number]])
    sizes = []
    for number, asker in enumerate(askers):
        (reply,) = asker.replies(1).values()
        assert codes(reply) == [number]
        assert reply.closed in {"drained", "full"}
        sizes.append(reply.batch_items)
    assert sorted(sizes)[len(sizes) // 2] > 1


def _a_bad_row_and_too_little_memory_fail_alone(client: redis.Redis, settings: Settings) -> None:
    asker = Asker(client)
    good = [asker.send("acting", [[ANSWER, n], [ANSWER, -n]]) for n in range(10)]
    bad = asker.send("acting", [[ANSWER, 1], [MEMORY, 0], [RAISE, 0], [ANSWER, 2]])
    found = asker.replies(11)
    assert [codes(found[one]) for one in good] == [[n, -n] for n in range(10)]
    assert codes(found[bad]) == [1.0, "resource_exhausted", "model_failed", 2.0]
    app = Celery(broker=settings.broker_url, backend=settings.broker_url, set_as_current=False)
    kwargs = {"model": "acting", "items": [[ANSWER, 1], [MEMORY, 0]]}
    result = app.send_task("celeriac.predict", kwargs=kwargs, queue="predict.cpu")
    answers = result.get(timeout=20)
    app.close()
    assert answers[0]["value"] == 1.0
    assert answers[1]["error"]["code"] == "resource_exhausted"


def _a_message_that_comes_again_is_answered_again(client: redis.Redis, worker: Any) -> None:
    asker = Asker(client)
    requests = 'inference_requests_total{kind="realtime",model="acting"}'
    before = metric(client, worker, requests)
    sent = asker.send("acting", [[ANSWER, 5]])
    (first,) = asker.replies(1).values()
    asker.send("acting", [[ANSWER, 6]], id=sent)
    (second,) = asker.replies(1).values()
    assert first == second
    assert metric(client, worker, requests) == before + 1
    assert metric(client, worker, "celeriac_duplicate_envelopes_total") == 1


def _what_came_too_late_is_dropped(client: redis.Redis, worker: Any) -> None:
    asker = Asker(client)
    asker.send("acting", [[ANSWER, 1], [ANSWER, 2]], timeout_s=-1.0)
    asker.send("acting", [[ANSWER, 3]])
    assert len(asker.replies(2, timeout_s=2.0)) == 1
    assert metric(client, worker, 'celeriac_expired_items_total{place="receipt"}') == 2


def _an_overloaded_model_refuses_the_newest(client: redis.Redis, worker: Any) -> None:
    """Where the machine stands still meanwhile, no answer comes in time: then it is seen again."""
    refused = "celeriac_refused_items_total"
    waited_ms = [_waited_under_overload(client, worker, metric(client, worker, refused))]
    while waited_ms[-1] >= 2_000 * MAX_QUEUE_S and len(waited_ms) < 4:
        waited_ms.append(_waited_under_overload(client, worker, metric(client, worker, refused)))
    assert waited_ms[-1] < 2_000 * MAX_QUEUE_S, waited_ms


def _waited_under_overload(client: redis.Redis, worker: Any, refused_before: float) -> float:
    asker, calm = Asker(client), Asker(client)
    sent, calm_sent = [], []
    end_s = time.monotonic() + 4.0
    begin_s = time.monotonic()
    while (now_s := time.monotonic()) < end_s:
        while len(sent) < 3 * (now_s - begin_s) / ITEM_S:
            sent.append(asker.send("slow", [[ANSWER, len(sent)]]))
        if len(calm_sent) < (now_s - begin_s) / 0.1:
            calm_sent.append(calm.send("echo", ["calm"]))
        time.sleep(0.005)
    found = asker.replies(len(sent))
    assert set(found) == set(sent)
    refused = [reply.error for reply in found.values() if reply.error]
    accepted = sorted(reply.queue_ms for reply in found.values() if reply.answers)
    assert len(refused) > len(sent) / 4
    assert len(accepted) > len(sent) / 6
    assert {error["code"] for error in refused} == {"overloaded"}
    assert all(0 < error["retry_after_s"] <= MAX_QUEUE_S for error in refused)
    total = metric(client, worker, "celeriac_refused_items_total")
    assert total == refused_before + len(refused)
    calm_ms = sorted(reply.queue_ms for reply in calm.replies(len(calm_sent)).values())
    assert len(calm_ms) == len(calm_sent)
    assert calm_ms[len(calm_ms) // 2] < CALM_MS
    return accepted[int(len(accepted) * 0.95)]


async def _clients_of_an_overloaded_model_send_nothing_twice(settings: Settings) -> None:
    """Three times what it can do, by callers who have hardly more time than its queue is long."""
    answered_s: list[float] = []
    failed: list[str] = []

    async def ask(client: AsyncClient, number: int) -> None:
        began_s = time.monotonic()
        try:
            answer = await client.predict("slow", [ANSWER, number], timeout_s=2 * MAX_QUEUE_S)
        except errors.CeleriacError as error:
            failed.append(error.code)
        else:
            assert answer.value == number
            answered_s.append(time.monotonic() - began_s)

    async with AsyncClient(settings=settings, timeout_s=30) as client:
        await client.predict("slow", [ANSWER, 0])
        calls = []
        begin_s = time.monotonic()
        while (now_s := time.monotonic()) < begin_s + 3:
            while len(calls) < 3 * (now_s - begin_s) / ITEM_S:
                calls.append(asyncio.create_task(ask(client, len(calls))))
            await asyncio.sleep(0.005)
        await asyncio.gather(*calls)
        counts = client.statistics()

    assert len(answered_s) + len(failed) == len(calls)
    assert len(answered_s) > len(calls) / 8
    assert failed.count("overloaded") > 0.9 * len(failed)
    assert sorted(answered_s)[len(answered_s) // 2] < 1.5 * MAX_QUEUE_S
    assert counts.envelopes_resent < counts.envelopes_sent / 10


def _draining_answers_what_was_popped_and_leaves_the_rest(
    client: redis.Redis, worker: Any
) -> None:
    asker = Asker(client)
    sent = [asker.send("slow", [[ANSWER, number]]) for number in range(200)]
    found = asker.replies(1)
    worker.process.terminate()
    end_s = time.monotonic() + 30
    while worker.process.poll() is None and time.monotonic() < end_s:
        sent.append(asker.send("slow", [[ANSWER, len(sent)]]))  # faster than they are answered
        time.sleep(ITEM_S / 4)
    assert worker.process.wait(0.1) == 0
    left = [json.loads(raw) for raw in client.lrange(realtime_queue("cpu", "slow"), 0, -1)]
    waiting = {message["headers"]["id"] for message in left}
    found |= asker.replies(len(sent) - len(waiting) - len(found), timeout_s=2.0)
    assert waiting
    assert len(left) == len(waiting)
    assert not waiting & set(found)
    assert waiting | set(found) == set(sent)


def test_a_worker_that_is_stopped_and_then_killed_costs_only_re_sends(
    settings: Settings, registry: Registry, redis_client: redis.Redis,
    start_worker: Callable[..., Any],
) -> None:  # fmt: skip
    catalogue.publish(redis_client, registry.infos())
    worker, other = (start_worker("realtime.cpu", wait=False) for _ in range(2))
    other.wait_ready()
    freeze_group(other.process.pid)  # the one that comes afterwards
    time.sleep(1)  # Redis hands it nothing any more
    worker.wait_ready()
    found: dict[str, Any] = {}
    with Client(settings=settings, timeout_s=8) as client:
        client.predict("acting", [ANSWER, 1])

        def ask(model: str, rows: list[list[float]]) -> None:
            found[model] = client.predict_many(model, rows)

        many = [[float(ANSWER), float(number)] for number in range(300)]
        threads = [
            threading.Thread(target=ask, args=("slow", many)),
            threading.Thread(target=ask, args=("acting", [[HANG, LONG_S]])),
        ]
        for thread in threads:
            thread.start()
            time.sleep(0.1)
        worker.process.terminate()
        time.sleep(1)
        assert worker.process.poll() is None  # it is in the long pass
        worker.kill()
        os.killpg(other.process.pid, signal.SIGCONT)
        for thread in threads:
            thread.join(20)
        counts = client.statistics()

    assert [answer.value for answer in found["slow"]] == [row[1] for row in many]
    assert [answer.value for answer in found["acting"]] == [LONG_S]
    assert 0 < counts.envelopes_resent <= counts.envelopes_sent
    assert counts.answered == counts.items_sent


def test_a_pass_that_hangs_ends_the_worker_and_what_waits_is_answered(
    settings: Settings, redis_client: redis.Redis, tmp_path: Path
) -> None:
    supervisor = Supervisor([].append)
    log = tmp_path / "worker.log"
    command = [
        sys.executable, "-m", "celery", "-A", "workers.app", "worker", "-Q", "realtime.cpu",
        "--without-mingle", "--without-gossip",
    ]  # fmt: skip
    try:
        supervisor.launch(ChildSpec(
            name="worker", argv=command, log=log, cwd=ROOT, backoff=Backoff(first_s=0.1),
            env=os.environ | environment(settings),
        ))
        asker = Asker(redis_client)
        asker.send("acting", [[ANSWER, 1]])
        assert len(asker.replies(1)) == 1, log.read_text()
        name = f"realtime.cpu@{socket.gethostname()}"  # that of its role, where none is given
        wait_until(lambda: bool(redis_client.exists(worker_key(name))))
        for kind, code in ((HANG, EXIT_CODE), (HOLD, 1)):
            seen = len(log.read_text())
            _a_pass_that_hangs(asker, supervisor, kind, code, log)
            text = log.read_text()[seen:]
            assert "in predict" in text  # the stack
            assert "31337" not in text  # no payload
    finally:
        supervisor.hurry()
        supervisor.stop()


def _a_pass_that_hangs(
    asker: Asker, supervisor: Supervisor, kind: int, code: int, log: Path
) -> None:
    deaths = supervisor.status()["worker"].deaths
    asker.send("acting", [[kind, 31_337.25]])
    began_s = time.monotonic()
    time.sleep(0.3)
    waiting = asker.send("acting", [[ANSWER, 2]])
    while supervisor.status()["worker"].deaths == deaths:
        assert time.monotonic() < began_s + HANG_S + 10.0, log.read_text()
        time.sleep(0.02)
    assert supervisor.status()["worker"].last_exit == f"ended with exit code {code}"
    assert set(asker.replies(1)) == {waiting}
