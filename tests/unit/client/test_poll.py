from __future__ import annotations

from producer.jobs import poll_pause_s


def test_a_short_job_is_looked_at_often_and_a_long_one_each_second() -> None:
    assert [poll_pause_s(waited_s) for waited_s in (0, 1, 10, 1_000)] == [0.01, 0.03, 0.3, 1.0]


def test_pauses_are_shorter_while_a_job_finalizes() -> None:
    waits = (0, 1, 10, 1_000)
    assert [poll_pause_s(waited_s, True) for waited_s in waits] == [0.002, 0.03, 0.3, 1.0]
