"""Which batch is next: tables for each rule, properties for all of them together."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given, settings, strategies as st

from celeriac.batching.cost import CostLine
from celeriac.batching.policy import (
    DEADLINE,
    DRAINED,
    FULL,
    WAIT,
    Choice,
    Line,
    Pause,
    Turns,
    choose,
    cut_batch,
    ready_ms,
)

FAR = 1e12


@dataclass(frozen=True)
class Message:
    count: int = 1
    deadline_ms: float = FAR
    arrived_ms: float = 0.0
    name: int = 0


def cost(fixed_s: float = 0.0, item_s: float = 0.0) -> CostLine:
    line = CostLine()
    line.fixed_s, line.item_s = fixed_s, item_s
    return line


def line(*messages: Message, fixed_s: float = 0.0, item_s: float = 0.0, **options: Any) -> Line:
    options = {"max_items": 64} | options
    return Line(waiting=deque(messages), cost=cost(fixed_s, item_s), **options)


def chosen(lines: dict[str, Line], turns: Turns[str] | None = None, now_ms: float = 0.0) -> str:
    choice = choose(lines, turns or Turns(), now_ms)
    assert isinstance(choice, Choice)
    return choice.key


@pytest.mark.parametrize(
    ("given_line", "messages", "items", "closed"),
    [
        (line(Message(3), Message(4)), 2, 7, DRAINED),
        (line(Message(32), Message(32), Message(1)), 2, 64, FULL),
        (line(Message(32), Message(33)), 1, 32, FULL),
        (line(Message(100), Message(1)), 1, 100, FULL),
        (line(Message(64)), 1, 64, FULL),
        # 10 ms an item; a deadline in 25 ms holds two of them.
        (line(*[Message(1, 25.0)] * 5, item_s=0.01), 2, 2, DEADLINE),
        (line(Message(1), Message(1, 25.0), Message(1), item_s=0.01), 2, 2, DEADLINE),
        # Never less than one message; one that is lost anyway holds up no other.
        (line(Message(9, 5.0), Message(1), item_s=0.01), 2, 10, DRAINED),
        (line(*[Message(1, 25.0)] * 5), 5, 5, DRAINED),
        (line(Message(1), max_wait_ms=5.0), 1, 1, WAIT),
        (line(Message(64), max_wait_ms=5.0), 1, 64, FULL),
        (line(Message(1), max_wait_ms=5.0, more=True), 1, 1, DRAINED),
    ],
)
def test_where_a_batch_ends(given_line: Line, messages: int, items: int, closed: str) -> None:
    cut = cut_batch(given_line, 0.0)
    assert (cut.messages, cut.items, cut.closed) == (messages, items, closed)


def test_nothing_waits() -> None:
    assert choose({}, Turns(), 0.0) is None


def test_a_batch_may_wait_for_more_but_not_longer_than_it_said() -> None:
    lines = {"a": line(Message(arrived_ms=100.0), max_wait_ms=5.0)}
    assert choose(lines, Turns(), 102.0) == Pause(until_ms=105.0)
    choice = choose(lines, Turns(), 105.0)
    assert isinstance(choice, Choice)
    assert choice.cut.closed == WAIT


def test_a_batch_does_not_wait_for_a_clock_that_was_set_back() -> None:
    lines = {"a": line(Message(arrived_ms=3_600_100.0), max_wait_ms=5.0)}
    assert isinstance(choose(lines, Turns(), 101.0), Choice)


def test_a_batch_does_not_wait_past_a_deadline() -> None:
    lines = {"a": line(Message(1, 150.0, 100.0), max_wait_ms=500.0, item_s=0.01)}
    assert choose(lines, Turns(), 102.0) == Pause(until_ms=130.0)
    choice = choose(lines, Turns(), 131.0)
    assert isinstance(choice, Choice)
    assert choice.cut.closed == DEADLINE


def test_one_that_waits_for_more_holds_up_no_other() -> None:
    lines = {"a": line(Message(), max_wait_ms=5.0), "b": line(Message())}
    assert chosen(lines) == "b"


def test_models_take_turns_whatever_their_load() -> None:
    turns: Turns[str] = Turns()
    lines = {"busy": line(*[Message()] * 500), "calm": line(Message()), "third": line(Message())}
    order = []
    for _ in range(6):
        key = chosen(lines, turns)
        turns.served(key, lines)
        order.append(key)
    assert order[:3] == order[3:]
    assert set(order) == set(lines)


def test_who_cannot_wait_for_a_round_of_the_others_goes_first() -> None:
    turns: Turns[str] = Turns()
    lines = {
        "slow": line(Message(), fixed_s=0.1),
        "tight": line(Message(1, 80.0), fixed_s=0.01),
        "tighter": line(Message(1, 60.0), fixed_s=0.01),
    }
    turns.served("tight", lines)
    turns.served("tighter", lines)
    assert chosen(lines, turns) == "tighter"
    relaxed = lines | {"tight": line(Message(1, 500.0), fixed_s=0.01)}
    del relaxed["tighter"]
    assert chosen(relaxed, turns) == "slow"


def test_a_model_that_is_always_urgent_starves_no_other() -> None:
    turns: Turns[str] = Turns()
    lines = {
        "urgent": line(*[Message(1, 110.0)] * 500, fixed_s=0.1),
        "also": line(*[Message(1, 120.0)] * 500, fixed_s=0.1),
        "calm": line(Message(1), fixed_s=0.1),
    }
    order = []
    for _ in range(30):
        key = chosen(lines, turns)
        turns.served(key, lines)
        order.append(key)
    assert order.count("calm") >= 3
    assert order.count("also") >= 3


MESSAGES = st.builds(
    Message, st.integers(1, 40), st.floats(0, 5_000) | st.just(FAR), st.floats(0, 50)
)
LINES = st.dictionaries(
    st.sampled_from("abcde"),
    st.tuples(
        st.lists(MESSAGES, min_size=1, max_size=30),
        st.integers(1, 64), st.floats(0, 0.2), st.floats(0, 0.05), st.sampled_from([0.0, 20.0]),
    ),
    min_size=1, max_size=5,
)  # fmt: skip


@given(LINES)
@settings(max_examples=200)
def test_everything_is_served_once_in_order_within_the_cap_and_nobody_starves(
    given_lines: dict[str, Any],
) -> None:
    waiting = {
        key: deque(Message(m.count, m.deadline_ms, m.arrived_ms, n) for n, m in enumerate(rest[0]))
        for key, rest in given_lines.items()
    }
    served: dict[str, list[int]] = {key: [] for key in waiting}
    passed = dict.fromkeys(waiting, 0)
    turns: Turns[str] = Turns()
    now_ms = 50.0
    while any(waiting.values()):
        lines = {
            key: Line(
                waiting=waiting[key], max_items=cap, cost=cost(fixed_s, item_s), max_wait_ms=wait_ms
            )
            for key, (_, cap, fixed_s, item_s, wait_ms) in given_lines.items() if waiting[key]
        }
        choice = choose(lines, turns, now_ms)
        if isinstance(choice, Pause):
            assert now_ms < choice.until_ms <= 70.0
            now_ms = choice.until_ms
            continue
        assert choice is not None
        due = [
            key for key, line in lines.items()
            if ready_ms(line, cut_batch(line, now_ms)) <= now_ms
        ]
        taken = [waiting[choice.key].popleft() for _ in range(choice.cut.messages)]
        total = sum(message.count for message in taken)
        assert total == choice.cut.items
        assert len(taken) == 1 or total <= lines[choice.key].max_items
        served[choice.key] += [message.name for message in taken]
        turns.served(choice.key, lines)
        for key in due:
            passed[key] = 0 if key == choice.key else passed[key] + 1
            assert passed[key] <= 3 * len(given_lines) + 1
        now_ms += 1_000 * choice.cut.seconds
    assert served == {key: list(range(len(rest[0]))) for key, rest in given_lines.items()}
