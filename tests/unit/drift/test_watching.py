"""The watch as a policy: what it makes of counts, looks and clocks."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest

from celeriac.drift import bins, watching
from celeriac.drift.counted import Stretch
from celeriac.drift.episodes import Hysteresis, Look, Step, Watched
from celeriac.drift.events import DriftEvent
from celeriac.drift.features import Feature
from celeriac.drift.reference import make_profile
from celeriac.drift.standing import REFUSED, Standing
from celeriac.drift.tally import Standard, Tally, pack
from celeriac.drift.window import WindowRule
from celeriac.registry.manifest import InputSchema, OutputSchema

RULE = WindowRule(rows=1_000, rows_between_alarms=100_000)
START_S = 1_000_000.0


def standard_of(**columns: np.ndarray) -> Standard:
    profile = make_profile({name: Feature(values) for name, values in columns.items()})
    return Standard(
        profile=profile, digest="d", input=InputSchema(kind="any"), output=OutputSchema(kind="any")
    )


@pytest.fixture(scope="module")
def standard() -> Standard:
    chance = np.random.default_rng(0)
    return standard_of(
        x=chance.normal(size=5_000), y=chance.normal(size=5_000),
        colour=chance.choice(["red", "green"], 5_000).astype(object),
    )


class Stream:
    """Items that come in stretches of ten seconds, and a look after each."""

    def __init__(self, standard: Standard, rule: WindowRule = RULE) -> None:
        self.standard, self.rule = standard, rule
        self.chance = np.random.default_rng(7)
        self.stretches: list[Stretch] = []
        self.now_s = START_S
        self.standing = watching.unwatched("m", 1, "not_enough_data", START_S)
        self.events: list[DriftEvent] = []

    def draw(
        self, rows: int, shift: float = 0.0, null_share: float = 0.0, new_share: float = 0.0
    ) -> dict[str, np.ndarray]:
        x = self.chance.normal(size=rows) + shift
        x[self.chance.random(rows) < null_share] = np.nan
        colour = self.chance.choice(["red", "green"], rows).astype(object)
        colour[self.chance.random(rows) < new_share] = "mauve"
        return {"x": x, "y": self.chance.normal(size=rows), "colour": colour}

    def come(self, rows: int = 100, refused: int = 0, **how: float) -> Standing:
        """Some items, and a look at them."""
        self.now_s += 10
        values = self.draw(rows, **how)
        found = Tally.empty(self.standard)
        for one, start in zip(self.standard.watched, self.standard.starts, strict=False):
            found.counts[start : start + one.bins] += bins.counts(one, values[one.name])
        found.rows, found.refused, found.seen = rows, refused, rows + refused
        self.stretches.insert(0, Stretch(self.now_s, pack(self.standard, found)))
        return self.look()

    def look(self) -> Standing:
        seen = watching.gather(self.standard, self.stretches, self.standing.mark, self.rule)
        after = watching.look(self.standing, self.standard, seen, self.rule, self.now_s)
        self.events += [DriftEvent.from_dict(event) for event in after.unsent]
        encoded = msgspec.json.encode(msgspec.structs.replace(after, unsent=()))
        self.standing = msgspec.json.decode(encoded, type=Standing)  # as it comes from Redis
        return self.standing

    def told(self) -> list[tuple[str, str]]:
        return [(event.kind, event.state) for event in self.events]


def test_a_clean_stream_is_stable_and_nobody_is_told(standard: Standard) -> None:
    stream = Stream(standard)
    for _ in range(100):
        stream.come()
    assert stream.standing.state == "stable"
    assert stream.standing.rows == 1_000
    assert stream.told() == []


def test_a_shift_is_one_episode_and_it_ends(standard: Standard) -> None:
    stream = Stream(standard)
    for shift in [0.0] * 15 + [1.0] * 20:
        stream.come(shift=shift)
    assert stream.told() == [("data_drift", "opened")]
    assert stream.standing.state == "drift"
    assert {one.name: one.state for one in stream.standing.features} == {
        "x": "drift", "y": "stable", "colour": "stable",
    }
    (event,) = stream.events
    assert event.features == ("x",)
    assert "x: distance 0." in event.detail
    since_s = stream.standing.since_s
    assert event.at_s == since_s < stream.now_s
    for _ in range(20):
        stream.come()
    assert stream.told() == [("data_drift", "opened"), ("data_drift", "closed")]
    assert stream.standing.state == "stable"
    (ended,) = stream.standing.ended
    assert (ended.kind, ended.opened_at_s, ended.features) == ("data_drift", since_s, ("x",))


def test_refused_items_make_no_looks_at_how_the_others_are_distributed(
    standard: Standard, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream = Stream(standard)
    for _ in range(12):
        stream.come()
    looks: dict[str, int] = {}
    whole = watching.step

    def counting(watched: Watched, look: Look, rule: Hysteresis) -> Step:
        if look.statistic is not None:
            looks[watched.feature] = looks.get(watched.feature, 0) + 1
        return whole(watched, look, rule)

    monkeypatch.setattr(watching, "step", counting)
    for _ in range(20):
        stream.come(rows=12, refused=48)  # 240 sound ones: a look when 50 of them have come
    assert looks[REFUSED] == 20
    assert looks["x"] == looks["y"] == looks["colour"] == 2 * 4  # one for nulls, one for drift
    assert stream.standing.rows > 1_000  # shown, all the same
    assert {one.rows for one in stream.standing.features[:3]} == {stream.standing.rows}


@pytest.mark.parametrize(("others", "told"), [(5, []), (20, [("data_drift", "opened")])])
def test_a_constant_that_is_not_quite_one(others: int, told: list[tuple[str, str]]) -> None:
    """A value that comes once in more rows than the reference has is no drift."""
    chance = np.random.default_rng(0)
    standard = standard_of(
        x=np.zeros(5_000), y=chance.normal(size=5_000),
        colour=chance.choice(["red", "green"], 5_000).astype(object),
    )
    stream = Stream(standard)
    stream.draw = lambda rows, **how: {  # type: ignore[method-assign]
        "x": np.where(stream.chance.random(rows) < others / 1_000, 1.0, 0.0),
        "y": stream.chance.normal(size=rows),
        "colour": stream.chance.choice(["red", "green"], rows).astype(object),
    }
    for _ in range(12):
        stream.come(rows=100)
    assert stream.told() == told


def test_too_few_items_say_nothing(standard: Standard) -> None:
    stream = Stream(standard)
    for _ in range(4):
        stream.come(shift=5.0)
    assert stream.standing.state == "not_enough_data"
    assert stream.told() == []


def test_the_same_items_are_looked_at_once(standard: Standard) -> None:
    stream = Stream(standard)
    for shift in [0.0] * 10 + [2.0] * 10:
        stream.come(shift=shift)
    opened = stream.standing
    for _ in range(30):  # the shift is over, and nobody asks any more
        stream.now_s += 10
        stream.look()
    assert stream.standing.looked_at_s == opened.looked_at_s
    assert stream.standing.watched_at_s == stream.now_s
    assert stream.standing.state == "drift"
    stream.come(rows=20)  # a fiftieth of the window is too little for a look
    assert stream.standing.looked_at_s == opened.looked_at_s


def test_items_that_come_slowly_add_up_to_a_look(standard: Standard) -> None:
    stream = Stream(standard)
    for _ in range(12):
        stream.come()
    before_s = stream.standing.looked_at_s
    for _ in range(5):
        stream.come(rows=10)
    assert stream.standing.looked_at_s == stream.now_s != before_s


def test_nulls_are_broken_data_and_no_drift(standard: Standard) -> None:
    stream = Stream(standard)
    for null_share in [0.0] * 10 + [0.9] * 10:
        stream.come(null_share=null_share, shift=0.0)
    assert stream.told() == [("data_quality", "opened")]
    assert stream.standing.state == "broken"
    (event,) = stream.events
    assert event.features == ("x",)
    assert "null" in event.detail
    for _ in range(15):
        stream.come()
    assert stream.told() == [("data_quality", "opened"), ("data_quality", "closed")]


def test_a_feature_that_is_null_for_good(standard: Standard) -> None:
    stream = Stream(standard)
    for _ in range(12):
        stream.come(null_share=1.0)
    assert stream.told() == [("data_quality", "opened")]
    assert next(one for one in stream.standing.features if one.name == "x").note == (
        "every value is null; in the reference none was"
    )


def test_a_flood_of_new_categories_is_broken_data(standard: Standard) -> None:
    stream = Stream(standard)
    for new_share in [0.0] * 10 + [0.5] * 10:
        stream.come(new_share=new_share)
    assert stream.told() == [("data_quality", "opened")]
    assert stream.events[0].features == ("colour",)


def test_drift_is_told_once_the_data_are_sound(standard: Standard) -> None:
    stream = Stream(standard)
    for _ in range(15):
        stream.come(new_share=0.5, shift=1.0)
    assert stream.told() == [("data_quality", "opened")]
    for _ in range(15):
        stream.come(shift=1.0)
    assert stream.told() == [
        ("data_quality", "opened"), ("data_quality", "closed"), ("data_drift", "opened"),
    ]


def test_features_that_change_one_after_the_other_are_one_episode(standard: Standard) -> None:
    stream = Stream(standard)
    draw = stream.draw
    for _ in range(15):
        stream.come()
    for _ in range(15):
        stream.come(shift=1.0)
    stream.draw = lambda rows, **how: draw(rows, **how) | {  # type: ignore[method-assign]
        "y": stream.chance.normal(size=rows) - 2
    }
    for _ in range(15):
        stream.come(shift=1.0)
    assert stream.told() == [("data_drift", "opened")]
    assert stream.standing.episodes["data_drift"].features == ("x", "y")


def test_a_clock_that_was_ahead_keeps_nobody_from_looking(standard: Standard) -> None:
    stream = Stream(standard)
    for _ in range(12):
        stream.come(shift=1.0)
    assert stream.standing.state == "drift"
    stream.now_s -= 86_400
    stream.stretches = []
    for _ in range(25):
        stream.come()
    assert stream.standing.state == "stable"
    assert stream.told() == [("data_drift", "opened"), ("data_drift", "closed")]


def test_counts_from_a_clock_far_ahead_are_left_out(standard: Standard) -> None:
    stream = Stream(standard)
    for _ in range(12):
        stream.come()
    early = Stream(standard)
    early.now_s = START_S + 86_400
    early.come(rows=2_000, shift=5.0)
    stream.stretches.insert(0, early.stretches[0])
    stream.come()
    assert stream.told() == []


def test_two_processes_count_one_window(standard: Standard) -> None:
    one, other = Stream(standard), Stream(standard)
    other.chance = np.random.default_rng(8)
    for shift in (0.0, 0.0, 1.0, 1.0):
        other.come(shift=shift)
        one.stretches.insert(0, other.stretches[0])
        one.come(shift=shift)
    assert one.told() == [("data_drift", "opened")]
    assert one.standing.rows == 800
    assert other.told() == []  # alone it has seen too little


def test_a_share_of_a_fast_stream(standard: Standard) -> None:
    stream = Stream(standard)
    stream.come()
    found = Tally.empty(standard)
    found.rows, found.seen = 100, 300
    found.counts[:] = 1
    stream.stretches.insert(0, Stretch(stream.now_s, pack(standard, found)))
    stream.look()
    assert stream.standing.counted_share == pytest.approx(0.5)


def test_another_profile_under_the_same_number_begins_anew(standard: Standard) -> None:
    stream = Stream(standard)
    for _ in range(12):
        stream.come(shift=2.0)
    assert stream.standing.state == "drift"
    from dataclasses import replace

    stream.standard = replace(standard, digest="another")
    assert stream.look().state == "not_enough_data"
    assert stream.standing.episodes == {}
    assert stream.told() == [("data_drift", "opened"), ("data_drift", "closed")]
    assert stream.events[1].detail == "m@1 is another version now"
    assert [one.kind for one in stream.standing.ended] == ["data_drift"]


def test_a_reference_that_is_too_short_has_no_threshold() -> None:
    short = standard_of(
        x=np.arange(120.0), y=np.random.default_rng(0).normal(size=120),
        colour=np.array(["red", "green"] * 60, dtype=object),
    )
    stream = Stream(short)
    for _ in range(12):
        stream.come()
    x = next(one for one in stream.standing.features if one.name == "x")
    assert (x.state, x.threshold) == ("not_enough_data", None)


def test_what_is_retired_is_told(standard: Standard) -> None:
    stream = Stream(standard)
    for _ in range(12):
        stream.come(shift=2.0)
    over = watching.retired(stream.standing, stream.now_s)
    (event,) = map(DriftEvent.from_dict, over.unsent)
    assert (event.kind, event.state, event.features) == ("data_drift", "closed", ("x",))


def test_a_flood_of_refused_items_is_broken_data_and_hides_no_drift(standard: Standard) -> None:
    stream = Stream(standard)
    for _ in range(12):
        stream.come(rows=90, refused=10)  # callers make mistakes
    assert stream.told() == []
    shown = stream.standing.features[-1]
    assert (shown.name, shown.state, shown.distance) == (REFUSED, "stable", 0.1)
    assert stream.standing.state == "stable"
    for _ in range(4):
        stream.come(rows=10, refused=200)
    assert stream.told() == [("data_quality", "opened")]
    assert stream.events[0].features == (REFUSED,)
    assert "% of the items do not fit the model's input" in stream.events[0].detail
    assert stream.standing.counted_share == 1.0
    for _ in range(14):
        stream.come(rows=60, refused=40, shift=2.0)
    assert stream.told()[1:] == [("data_drift", "opened")]
    for _ in range(16):
        stream.come()
    assert set(stream.told()[2:]) == {("data_quality", "closed"), ("data_drift", "closed")}
    assert stream.standing.features[-1].name != REFUSED  # there are none any more


def test_items_that_are_all_refused_are_broken_data(standard: Standard) -> None:
    stream = Stream(standard)
    for _ in range(6):
        stream.come(rows=0, refused=100)
    assert stream.told() == [("data_quality", "opened")]
    assert stream.standing.state == "broken"


def test_where_most_items_are_refused_the_others_are_watched_too(standard: Standard) -> None:
    stream = Stream(standard)
    for _ in range(10):
        stream.come(rows=100)
    for _ in range(30):
        stream.come(rows=25, refused=75, shift=2.0)
    assert stream.told() == [("data_quality", "opened"), ("data_drift", "opened")]
    assert "too few" not in stream.standing.features[-1].note
    for _ in range(40):
        stream.come(rows=5, refused=95)
    note = stream.standing.features[-1].note
    assert note.endswith("and the others are too few to say whether they drift")


def test_what_closes_in_a_look_is_told_before_what_opens(standard: Standard) -> None:
    stream = Stream(standard)
    for _ in range(12):
        stream.come(null_share=0.5)
    while stream.told() == [("data_quality", "opened")]:
        stream.come(shift=3.0)
    assert stream.told()[1] == ("data_quality", "closed")
    for _ in range(3):
        stream.come(shift=3.0)
    assert stream.told()[2:] == [("data_drift", "opened")]


def test_data_that_a_person_has_mended_are_looked_at_anew(standard: Standard) -> None:
    stream = Stream(standard)
    for _ in range(12):
        stream.come(null_share=0.5)
    assert stream.standing.state == "broken"
    stream.standing = watching.mended(stream.standing, "mended, says ann", stream.now_s)
    (event,) = map(DriftEvent.from_dict, stream.standing.unsent)
    assert (event.kind, event.state, event.detail) == (
        "data_quality", "closed", "mended, says ann"
    )
    stream.standing = msgspec.structs.replace(stream.standing, unsent=())
    stream.stretches = []  # of before begin_s: none is read
    assert stream.standing.begin_s == stream.now_s
    assert (stream.standing.state, stream.standing.memory) == ("not_enough_data", {})
    assert {(one.state, one.rows, one.distance, one.note) for one in stream.standing.features} == {
        ("not_enough_data", 0, None, "")
    }
    assert stream.standing.ended[0].kind == "data_quality"
    for _ in range(12):
        stream.come()
    assert (stream.standing.state, len(stream.events)) == ("stable", 1)
    for _ in range(12):
        stream.come(null_share=0.5)  # it was not mended
    assert stream.told()[1:] == [("data_quality", "opened")]


def test_a_reference_that_is_gone_closes_what_is_open(standard: Standard) -> None:
    stream = Stream(standard)
    for _ in range(12):
        stream.come(shift=2.0)
    gone = watching.without_profile(stream.standing, stream.now_s)
    assert (gone.state, gone.episodes) == ("no_profile", {})
    assert [(event["kind"], event["state"]) for event in gone.unsent] == [("data_drift", "closed")]
    later = watching.without_profile(gone, stream.now_s + 9)
    assert (later.since_s, later.watched_at_s) == (gone.since_s, stream.now_s + 9)


def test_how_long_a_window_fills(standard: Standard) -> None:
    stream = Stream(standard, WindowRule(rows=10_000))
    for _ in range(5):
        stream.come()
    one = stream.standing
    assert (one.items, one.window_rows, one.fills) == (500, 10_000, True)
    assert one.full_in_s == pytest.approx(9_500 / (500 / 40))
    stream.now_s += 86_400  # nobody asks
    assert stream.look().fills is False  # a week holds 3,500 items
    full = Stream(standard)
    for _ in range(12):
        full.come()
    assert (full.standing.full_in_s, full.standing.fills) == (None, True)


def test_a_window_that_more_fields_would_hold_than_are_kept_never_fills(
    standard: Standard, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watching, "MOST_FIELDS", 20)
    stream = Stream(standard, WindowRule(rows=10_000))
    for _ in range(5):
        stream.come()
    assert stream.standing.fills is False
