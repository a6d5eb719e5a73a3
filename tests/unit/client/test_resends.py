"""When an envelope is looked for, and when its work counts as lost."""

from __future__ import annotations

import json
from typing import Any

import pytest

from celeriac import errors
from celeriac.settings import BrokerSettings, Settings
from producer import wire
from producer.broker import Broker
from producer.calls import Call
from producer.envelopes import SentEnvelope
from producer.publisher import Publisher
from producer.refusals import Refusals
from producer.resends import (
    LATEST_LOOK_S,
    LONGEST_PAUSE_S,
    TurnTimes,
    due,
    is_lost,
    still_waits,
)
from producer.statistics import Counts

NOW_MS = 1_000_000


def make_envelope(*lefts_ms: int, now_ms: int = NOW_MS) -> SentEnvelope:
    calls = [Call("a", "realtime.cpu.a", b"1", now_ms + left) for left in lefts_ms]
    return SentEnvelope(calls, "me", now_ms)


def test_looks_at_40_percent_and_every_10_percent_of_the_shortest_time() -> None:
    envelope = make_envelope(1_000, 1_900)

    looked = [ms for ms in range(0, 1_000, 10) if due([envelope], NOW_MS + ms)]

    assert looked == [400, 500, 600, 700, 800, 900]


def test_a_late_look_is_not_made_up_for() -> None:
    envelope = make_envelope(1_000)

    assert due([envelope], NOW_MS + 750)
    assert not due([envelope], NOW_MS + 800)
    assert due([envelope], NOW_MS + 850)


def test_an_envelope_is_sent_again_only_once() -> None:
    envelope = make_envelope(1_000)
    envelope.resent = True

    assert not due([envelope], NOW_MS + 900)


@pytest.mark.parametrize(
    ("turn_ms", "held_ms"),
    [
        (0, 100),  # a tenth of its time
        (20, 100),
        (50, 150),  # three turns
        (400, 300),  # so that there is time left
    ],
)
def test_what_waits_no_more_is_lost_after_the_time_that_a_worker_takes(
    turn_ms: float, held_ms: int
) -> None:
    envelope = make_envelope(1_000)
    assert due([envelope], NOW_MS + 400)
    assert not is_lost(envelope, NOW_MS + 400, turn_ms)
    looks = [ms for ms in range(400, 1_000, 10) if due([envelope], NOW_MS + ms)]
    assert looks[0] == 400 + held_ms
    assert is_lost(envelope, NOW_MS + 400 + held_ms, turn_ms)


def test_a_look_that_comes_too_soon_changes_nothing() -> None:
    envelope = make_envelope(1_000)
    assert not is_lost(envelope, NOW_MS + 400, 0)
    assert not is_lost(envelope, NOW_MS + 499, 0)
    assert is_lost(envelope, NOW_MS + 500, 0)


def test_the_longest_turn_of_late_counts_and_fades() -> None:
    times = TurnTimes()
    assert times.longest_ms("q") == 0
    times.observe("q", 100)
    times.observe("other", 900)
    times.observe("q", 5)
    assert 90 < times.longest_ms("q") < 100
    for _ in range(100):
        times.observe("q", 5)
    assert times.longest_ms("q") == 5


@pytest.mark.parametrize(
    ("oldest", "waits"),
    [
        (None, False),  # the queue is empty: a worker has it, or had
        ({"headers": {"sent_ms": NOW_MS - 1}}, True),
        ({"headers": {"sent_ms": NOW_MS}}, True),  # perhaps its own
        ({"headers": {"sent_ms": NOW_MS + 1}}, False),
        ({"headers": {"sent_ms": NOW_MS + 0.5}}, False),
        ({"headers": {}}, True),  # nothing is known of it: no more load
        ({"headers": {"sent_ms": "late"}}, True),
        ([], True),
        (b'{"x": ' + b"[" * 10_000 + b"]" * 10_000 + b"}", True),
    ],
)
def test_the_oldest_message_says_whether_the_own_one_waits(oldest: object, waits: bool) -> None:
    raw = oldest if isinstance(oldest, bytes | None) else json.dumps(oldest).encode()

    assert still_waits(NOW_MS, raw) is waits


def test_our_own_message_tells_when_it_was_sent() -> None:
    envelope = make_envelope(1_000, now_ms=wire.now_ms())

    assert still_waits(envelope.sent_ms, envelope.message)
    assert not still_waits(envelope.sent_ms - 1, envelope.message)


def test_who_has_hours_does_not_wait_for_a_share_of_them() -> None:
    envelope = make_envelope(3_600_000)
    at_ms = NOW_MS + int(LATEST_LOOK_S * 1_000)
    assert not due([envelope], at_ms - 1)
    assert due([envelope], at_ms)
    assert not is_lost(envelope, at_ms, 0)
    assert is_lost(envelope, at_ms + int(LONGEST_PAUSE_S * 1_000), 0)


def test_who_has_minutes_outlasts_the_start_of_a_gpu_worker() -> None:
    """Looked for early, told late: another worker may be about to beat."""

    class Absent:
        """No worker of the GPU has been seen; the envelope waits."""

        def exchange(self, *commands: Any) -> list[Any]:
            return [0 if name == "EXISTS" else envelope.message for name, *_ in commands]

    call = Call("a", "realtime.gpu.a", b"1", NOW_MS + 600_000)
    envelope = SentEnvelope([call], "me", NOW_MS)
    broker = Broker(Settings(broker=BrokerSettings(url="redis://127.0.0.1:1/0")))
    publisher: Any = Publisher(broker, "me", Counts(), Refusals(10))
    publisher._channel, publisher._sent = Absent(), {envelope.id: envelope}
    for ms in (30_000, 40_000, 239_000):
        publisher.look(NOW_MS + ms)
        assert call.outcome is None
    publisher.look(NOW_MS + 250_000)
    assert isinstance(call.outcome, errors.NotServed)
