"""Packing calls into envelopes, and the bounds of what may wait."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given, strategies as st

from celeriac import errors
from celeriac.messages import MAX_ENVELOPE_ITEMS, Prediction
from celeriac.settings import BrokerSettings, Settings
from producer import coalescer
from producer.broker import Broker
from producer.coalescer import MAX_ENVELOPE_BYTES, Call, Coalescer, pack
from producer.replies import settle

MODELS = st.sampled_from(["a", "a@1", "b"])
SIZES = st.sampled_from([1, 100, MAX_ENVELOPE_BYTES // 3, MAX_ENVELOPE_BYTES + 1])


def make_call(model: str = "a", size: int = 1, queue: str = "realtime.cpu.a") -> Call:
    return Call(model, queue, b"1" * size, 4_000_000_000_000)


@given(st.lists(st.tuples(MODELS, SIZES), max_size=100))
def test_every_call_is_in_one_envelope_in_order_and_within_the_limits(
    wanted: list[tuple[str, int]],
) -> None:
    calls = [make_call(model, size) for model, size in wanted]

    envelopes = list(pack(calls))

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
    envelopes = list(pack(make_call() for _ in range(100)))

    assert [len(members) for members in envelopes] == [32, 32, 32, 4]


@pytest.fixture
def waiting() -> Coalescer:
    """A coalescer whose thread does not run: what is submitted waits."""
    settings = Settings(broker=BrokerSettings(url="redis://127.0.0.1:1/0"))
    return Coalescer(Broker(settings), "me")


def test_too_many_open_items_are_refused_until_some_are_settled(
    waiting: Coalescer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(coalescer, "MAX_OPEN_ITEMS", 3)
    first = [make_call() for _ in range(3)]
    waiting.submit(first)

    with pytest.raises(errors.Overloaded, match="3 items"):
        waiting.submit([make_call()])
    first[0].answer(Prediction(model="a", version=1, value=1))
    waiting.submit([make_call()])
    with pytest.raises(errors.Overloaded):
        waiting.submit([make_call()])
    first[1].future.cancel()
    waiting.submit([make_call()])


def test_too_many_open_bytes_are_refused(
    waiting: Coalescer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(coalescer, "MAX_OPEN_BYTES", 100)
    waiting.submit([make_call(size=60)])

    with pytest.raises(errors.Overloaded):
        waiting.submit([make_call(size=41)])
    waiting.submit([make_call(size=40)])


def test_what_still_waits_at_the_end_fails(waiting: Coalescer) -> None:
    call = make_call()
    waiting.submit([call])

    waiting.fail_all("closed")

    with pytest.raises(errors.Cancelled, match="closed"):
        call.future.result(0)


def test_an_answer_that_nobody_waits_for_is_dropped() -> None:
    call = make_call()
    call.future.cancel()

    call.answer(Prediction(model="a", version=1))
    call.fail(errors.ModelFailed())

    assert call.future.cancelled()


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
    import msgspec

    from celeriac.messages import Reply

    call = make_call()

    settle([call], msgspec.convert({"v": 1, "id": "x", **reply}, Reply))

    with pytest.raises(error) as caught:
        call.future.result(0)
    assert type(caught.value) is error
