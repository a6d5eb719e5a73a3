"""Packing calls into envelopes, settling them, and the bounds of what may wait."""

from __future__ import annotations

import queue
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import msgspec
import pytest
from hypothesis import given, strategies as st

from celeriac import errors
from celeriac.messages import MAX_ENVELOPE_ITEMS, Prediction
from celeriac.settings import BrokerSettings, Settings
from producer import calls as calls_module
from producer.broker import Broker
from producer.calls import Call, OpenItems, settle_all
from producer.coalescer import Coalescer
from producer.envelopes import MAX_ENVELOPE_BYTES, pack
from producer.flights import Flights
from producer.publisher import Publisher
from producer.realtime import Realtime
from producer.refusals import Refusals
from producer.replies import outcomes, read_reply
from producer.statistics import Counts

MODELS = st.sampled_from(["a", "a@1", "b"])
SIZES = st.sampled_from([1, 100, MAX_ENVELOPE_BYTES // 3, MAX_ENVELOPE_BYTES + 1])


NOW_MS = 4_000_000_000_000


def make_call(model: str = "a", size: int = 1, left_ms: int = 5_000) -> Call:
    return Call(model, "realtime.cpu.a", b"1" * size, NOW_MS + left_ms)


@given(st.lists(st.tuples(MODELS, SIZES), max_size=100))
def test_every_call_is_in_one_envelope_in_order_and_within_the_limits(
    wanted: list[tuple[str, int]],
) -> None:
    calls = [make_call(model, size) for model, size in wanted]

    envelopes = list(pack(calls, NOW_MS))

    assert Counter(id(call) for members in envelopes for call in members) == Counter(
        id(call) for call in calls
    )
    for members in envelopes:
        assert len({call.model for call in members}) == 1
        assert len(members) <= MAX_ENVELOPE_ITEMS
        assert len(members) == 1 or sum(call.size for call in members) <= MAX_ENVELOPE_BYTES
    for model in ("a", "a@1", "b"):
        packed = [call for members in envelopes for call in members if call.model == model]
        assert packed == [call for call in calls if call.model == model]


def test_full_envelopes_when_many_wait() -> None:
    envelopes = list(pack((make_call() for _ in range(100)), NOW_MS))

    assert [len(members) for members in envelopes] == [32, 32, 32, 4]


def test_a_tight_deadline_does_not_travel_with_a_loose_one() -> None:
    """What a worker computes until the last deadline of an envelope must be of use to all."""
    calls = [make_call(left_ms=left) for left in (100, 5_000, 110, 60_000, 5_100, 100)]

    envelopes = list(pack(calls, NOW_MS))

    assert [[call.deadline_ms - NOW_MS for call in members] for members in envelopes] == [
        [100, 110, 100], [5_000, 5_100], [60_000],
    ]  # fmt: skip


@given(st.lists(st.integers(1, 10**7), max_size=60))
def test_the_times_in_one_envelope_are_within_a_factor_of_two(lefts: list[int]) -> None:
    for members in pack([make_call(left_ms=left) for left in lefts], NOW_MS):
        times = [call.deadline_ms - NOW_MS for call in members]
        assert max(times) < 2 * min(times)


def test_too_many_open_items_are_refused_until_some_are_settled(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(calls_module, "MAX_OPEN_ITEMS", 3)
    open_items = OpenItems()
    first = [make_call() for _ in range(3)]
    assert open_items.open(first) == 3

    with pytest.raises(errors.Overloaded, match="3 items"):
        open_items.open([make_call()])
    first[0].settle(Prediction(model="a", version=1, value=1))
    assert open_items.open([make_call()]) == 3
    with pytest.raises(errors.Overloaded):
        open_items.open([make_call()])
    assert settle_all([(first[0], errors.Cancelled()), (first[1], errors.Cancelled())]) == 1
    assert open_items.open([make_call()]) == 3
    assert open_items.items == 3


def test_too_many_open_bytes_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calls_module, "MAX_OPEN_BYTES", 100)
    open_items = OpenItems()
    open_items.open([make_call(size=60)])

    with pytest.raises(errors.Overloaded):
        open_items.open([make_call(size=41)])
    open_items.open([make_call(size=40)])
    assert open_items.size == 100


class InterruptedLock:
    """An interrupt comes right before or after it is held."""

    def __init__(self, *, after: bool) -> None:
        self.after = after

    def __enter__(self) -> None:
        if not self.after:
            raise KeyboardInterrupt

    def __exit__(self, *_: object) -> None:
        if self.after:
            raise KeyboardInterrupt


@pytest.mark.parametrize("after", [False, True])
def test_an_interrupt_as_items_are_counted_leaves_none_open(
    monkeypatch: pytest.MonkeyPatch, after: bool
) -> None:
    """They counted for ever; at 10,000 a client refuses everything."""
    open_items = OpenItems()
    calls = [make_call() for _ in range(3)]
    with monkeypatch.context() as patch:
        patch.setattr(open_items, "_lock", InterruptedLock(after=after))
        with pytest.raises(KeyboardInterrupt):
            open_items.open(calls)
    settle_all((call, errors.Cancelled()) for call in calls)
    assert (open_items.items, open_items.size) == (0, 0)


def test_what_still_waits_at_the_end_fails() -> None:
    counts = Counts()
    broker = Broker(Settings(broker=BrokerSettings(url="redis://127.0.0.1:1/0")))
    publisher = Publisher(broker, "me", counts, Refusals(10))
    waiting = Coalescer(publisher, counts, OpenItems())  # not started
    flights = Flights(waiting.submit, counts)
    leader, follower = make_call(), make_call()
    for call in (leader, follower):
        call.key = "k"
    assert [flights.lead(call) for call in (leader, follower)] == [True, False]
    waiting.submit([leader])

    waiting.fail_all("closed")

    assert isinstance(leader.wait(0), errors.Cancelled)
    assert isinstance(follower.wait(0), errors.Cancelled)


def test_who_fails_all_waits_for_nothing_that_the_sender_has_just_taken() -> None:
    class Raced(queue.SimpleQueue[Any]):
        def empty(self) -> bool:
            return False  # it is now

    counts = Counts()
    broker = Broker(Settings(broker=BrokerSettings(url="redis://127.0.0.1:1/0")))
    waiting = Coalescer(Publisher(broker, "me", counts, Refusals(10)), counts, OpenItems())
    waiting._waiting = Raced()
    closing = threading.Thread(target=waiting.fail_all, args=("closed",), daemon=True)
    closing.start()
    closing.join(5)
    assert not closing.is_alive()


def test_the_first_outcome_is_the_only_one() -> None:
    call = make_call()
    assert call.wait(0.001) is None
    answer = Prediction(model="a", version=1)

    assert call.settle(answer)
    assert not call.settle(errors.ModelFailed())
    assert call.wait(0) is answer


def test_a_thread_that_waits_is_woken() -> None:
    calls = [make_call() for _ in range(200)]
    answer = Prediction(model="a", version=1)
    with ThreadPoolExecutor(8) as pool:
        waits = [pool.submit(call.wait, 20) for call in calls]
        settle_all((call, answer) for call in calls)
        assert all(wait.result(20) is answer for wait in waits)


@pytest.mark.parametrize(
    ("reply", "error"),
    [
        ({"error": {"code": "model_not_found", "message": "gone"}}, errors.ModelNotFound),
        ({"answers": []}, errors.WorkerError),
        ({}, errors.WorkerError),
        ({"answers": [{"model": "a", "version": "one"}]}, errors.WorkerError),
        ({"answers": [{"error": {"code": "item_invalid", "message": "x"}}]}, errors.InvalidItem),
        ({"answers": [{"error": {"code": "of_later", "message": "x"}}]}, errors.CeleriacError),
    ],
)
def test_replies_that_are_errors(
    reply: dict[str, object], error: type[errors.CeleriacError]
) -> None:
    raw = msgspec.json.encode({"v": 1, "id": "x", **reply})

    (outcome,) = outcomes(read_reply(raw), 1)

    assert type(outcome) is error


def test_replies_with_predictions() -> None:
    answers = [{"model": "a", "version": 2, "label": "error"}, {"model": "a", "version": 2}]
    for reply in ({"answers": answers}, {"answers": [*answers, {"error": {"code": "cancelled"}}]}):
        raw = msgspec.json.encode({"v": 1, "id": "x", "queue_ms": 1.0, "of_later": 1, **reply})
        found = outcomes(read_reply(raw), len(reply["answers"]))
        assert found[:2] == [
            Prediction(model="a", version=2, label="error"), Prediction(model="a", version=2),
        ]  # fmt: skip


def test_who_gives_up_while_the_outcome_arrives_gets_that_one() -> None:
    """A settler has been first, and has not got round to the outcome yet."""
    call = make_call()
    realtime = Realtime(Broker(Settings(broker=BrokerSettings(url="redis://127.0.0.1:1/0"))))
    answer = Prediction(model="a", version=1)
    call._once.acquire()
    with ThreadPoolExecutor(1) as pool:
        late = pool.submit(realtime.late, call, 1.0)
        time.sleep(0.05)
        call.outcome = answer
        call._once.release()
        assert late.result(10) is answer
