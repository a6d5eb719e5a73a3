"""An episode opens once and closes once."""

from __future__ import annotations

from hypothesis import given, strategies as st

from celeriac.drift.episodes import Hysteresis, Look, Watched, step

RULE = Hysteresis(close_below=0.8, close_looks=2)


def run(values: list[float | None], start_s: float = 1.0) -> list[tuple[float, str]]:
    watched, events = Watched(feature="x"), []
    for number, value in enumerate(values):
        at_s = start_s + number
        watched, event, episode = step(watched, Look(at_s=at_s, statistic=value, threshold=1), RULE)
        if event:
            assert episode is not None
            events.append((at_s, event))
    return events


def test_opens_once_and_closes_after_calm_looks() -> None:
    values = [0.5, 1.5, 1.2, 2.0, 0.9, 0.7, 0.9, 0.7, 0.7, 0.2]
    assert run(values) == [(2.0, "opened"), (9.0, "closed")]


def test_between_the_marks_nothing_changes() -> None:
    assert run([0.9] * 5) == []
    assert run([1.1, *[0.9] * 20]) == [(1.0, "opened")]


def test_looks_without_data_neither_open_nor_close() -> None:
    assert run([None, 1.5, None, None, None, 0.7, None, 0.7]) == [(2.0, "opened"), (8.0, "closed")]


def test_the_peak_is_kept() -> None:
    watched = Watched(feature="x")
    for at_s, value in enumerate([1.5, 3.0, 2.0], start=1):
        watched = step(watched, Look(at_s=at_s, statistic=value, threshold=1), RULE).watched
    assert watched.episode is not None
    assert (watched.episode.peak, watched.episode.peak_at_s) == (3.0, 2)
    assert (watched.episode.opened_with, watched.episode.opened_at_s) == (1.5, 1)


def test_a_clock_that_jumps_back_and_a_second_look_change_nothing() -> None:
    watched = step(Watched(feature="x"), Look(at_s=100, statistic=2, threshold=1), RULE).watched
    for at_s in (100, 50, -1e12):
        assert step(watched, Look(at_s=at_s, statistic=0, threshold=1), RULE).watched == watched


@given(st.lists(st.one_of(st.none(), st.floats(0, 2)), max_size=60))
def test_events_alternate(values: list[float | None]) -> None:
    events = [event for _, event in run(values)]
    assert events == ["opened", "closed"] * (len(events) // 2) + ["opened"] * (len(events) % 2)
