"""The memory of replies is bounded by count and by bytes, and forgets the oldest first."""

from __future__ import annotations

from hypothesis import given, strategies as st

from celeriac.batching.recent import EACH_BYTES, Recent


def test_a_reply_is_found_for_its_client_only() -> None:
    recent = Recent()
    recent.put(("e1", "me"), b"reply")
    assert recent.get(("e1", "me")) == b"reply"
    assert recent.get(("e1", "you")) is None


def test_the_oldest_go_first() -> None:
    recent = Recent(max_replies=2)
    for number in range(3):
        recent.put((str(number), "me"), b"x")
    assert [recent.get((str(number), "me")) for number in range(3)] == [None, b"x", b"x"]


def test_a_reply_larger_than_all_room_is_not_kept() -> None:
    recent = Recent(max_bytes=EACH_BYTES + 10)
    recent.put(("small", "me"), b"12345")
    recent.put(("large", "me"), b"x" * 11)
    assert recent.get(("small", "me")) == b"12345"
    assert recent.get(("large", "me")) is None


@given(st.lists(st.tuples(st.integers(0, 9), st.binary(max_size=30)), max_size=60))
def test_bounds_hold_and_the_newest_is_there(puts: list[tuple[int, bytes]]) -> None:
    recent = Recent(max_replies=5, max_bytes=4 * EACH_BYTES)
    for number, reply in puts:
        recent.put((str(number), "me"), reply)
        assert recent.get((str(number), "me")) == reply
        held = [found for n in range(10) if (found := recent.get((str(n), "me"))) is not None]
        assert len(held) == len(recent) <= 5
        size = sum(len(one) + EACH_BYTES for one in held)
        assert size == recent.bytes <= 4 * EACH_BYTES
