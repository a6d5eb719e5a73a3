"""What the lane makes of what it pops: it never raises."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from hypothesis import given, strategies as st

from celeriac.messages import PREDICT, PREDICT_ENVELOPE
from workers.lane.messages import Misfit, Received, read_address, read_message

ENVELOPE = {
    "v": 1, "id": "e1", "model": "reviews", "items": ["good"], "reply_to": "c1",
    "deadline_ms": 2_000_000_000_000,
}  # fmt: skip


def message(
    kwargs: Any = ENVELOPE, *, task: str = PREDICT_ENVELOPE, base64_body: bool = False,
    **headers: Any,
) -> bytes:  # fmt: skip
    body = json.dumps([[], kwargs, {"callbacks": None}])
    properties: dict[str, Any] = {"delivery_tag": "t", "body_encoding": "utf-8"}
    if base64_body:
        body = base64.b64encode(body.encode()).decode()
        properties["body_encoding"] = "base64"
    head = {"task": task, "id": "e1", **headers}
    return json.dumps({"body": body, "headers": head, "properties": properties}).encode()


@pytest.mark.parametrize("base64_body", [False, True])
def test_an_envelope_in_either_body_encoding(base64_body: bool) -> None:
    received = read_message(message(base64_body=base64_body, sent_ms=1_000.0), 1_250.0)
    assert isinstance(received, Received)
    assert received.envelope.items == ["good"]
    assert received.queue_ms == 250.0


def test_without_a_stamp_or_with_a_clock_ahead_the_queue_time_is_zero() -> None:
    for raw in (message(), message(sent_ms=9_000.0)):
        received = read_message(raw, 1_000.0)
        assert isinstance(received, Received)
        assert received.queue_ms == 0.0


def test_another_task_is_a_misfit_with_its_name() -> None:
    misfit = read_message(message({"model": "m", "items": []}, task=PREDICT), 0.0)
    assert isinstance(misfit, Misfit)
    assert (misfit.task, misfit.reply_to) == (PREDICT, "")


@pytest.mark.parametrize(
    "change", [{"items": "text"}, {"deadline_ms": "soon"}, {"model": None}, {"v": None}]
)
def test_a_broken_envelope_still_says_whom_to_tell(change: dict[str, Any]) -> None:
    misfit = read_message(message({**ENVELOPE, **change}), 0.0)
    assert isinstance(misfit, Misfit)
    assert (misfit.id, misfit.reply_to) == ("e1", "c1")
    assert misfit.error.code == "request_invalid"


def test_an_envelope_of_a_later_contract_is_read() -> None:
    received = read_message(message({**ENVELOPE, "v": 9, "new_field": 1}), 0.0)
    assert isinstance(received, Received)
    assert received.envelope.v == 9


@given(st.binary(max_size=100))
def test_any_bytes_are_a_misfit(raw: bytes) -> None:
    assert isinstance(read_message(raw, 0.0), Misfit)
    assert read_address(raw) is None


@pytest.mark.parametrize("item", [b"\xff", b"[" * 10_000 + b"]" * 10_000])
@pytest.mark.parametrize("encoding", [b"utf-8", b"base64"])
def test_what_is_no_text_and_lists_without_end(item: bytes, encoding: bytes) -> None:
    kwargs = b'{"v":1,"id":"e","model":"m","items":[%b],"reply_to":"c","deadline_ms":1}' % item
    body = b"[[],%b,{}]" % kwargs
    body = base64.b64encode(body) if encoding == b"base64" else body.replace(b'"', b'\\"')
    raw = b'{"body":"%b","headers":{"task":"%b","id":"e"},"properties":{"body_encoding":"%b"}}' % (
        body, PREDICT_ENVELOPE.encode(), encoding
    )
    assert isinstance(read_message(raw, 0.0), Misfit)
    read_address(raw)  # it does not look into items


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=5),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    )
)
def test_any_body_is_a_misfit(kwargs: Any) -> None:
    assert isinstance(read_message(message(kwargs), 0.0), Misfit)
    broken = message().replace(b'"utf-8"', b'"base64"')
    assert isinstance(read_message(broken, 0.0), Misfit)
