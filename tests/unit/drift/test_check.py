"""A dataset beside a profile: what is drift, what is broken, and what cannot be said."""

from __future__ import annotations

from datetime import UTC, datetime

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from scipy.signal import lfilter

from celeriac.drift import bins, reference
from celeriac.drift.calibration import threshold
from celeriac.drift.check import CheckRule, Current, check, no_profile
from celeriac.drift.features import Feature, Features
from celeriac.drift.profile import Performance, ReferenceProfile
from celeriac.drift.records import DriftReport, FeatureDrift
from celeriac.drift.reference import make_profile
from celeriac.drift.report import headline, render
from celeriac.drift.window import WindowRule, statistic, window_threshold

NOW = datetime(2026, 11, 25, tzinfo=UTC)


def numbers(rows: int = 3_000, seed: int = 0, mean: float = 0.0, std: float = 1.0) -> Feature:
    return Feature(np.random.default_rng(seed).normal(mean, std, rows))


def colours(rows: int = 3_000, seed: int = 0, p: tuple[float, ...] = (0.6, 0.3, 0.1)) -> Feature:
    names = np.array(["red", "green", "blue"], dtype=object)
    return Feature(np.random.default_rng(seed).choice(names, rows, p=p))


def texts(*values: str | None) -> Feature:
    return Feature(np.array([*values, None], dtype=object)[:-1])


@pytest.fixture(scope="module")
def profile() -> ReferenceProfile:
    return make_profile({"size": numbers(), "colour": colours()})


def compared(profile: ReferenceProfile, features: Features, **options: object) -> DriftReport:
    current = Current(features=features, source="now.csv", **options)  # type: ignore[arg-type]
    report = check(profile, current, model="m", version=1, now=NOW)
    assert DriftReport.load(report.dump()) == report
    assert render(report).startswith(b"<!doctype html>")
    return report


def one(report: DriftReport, name: str) -> FeatureDrift:
    return next(feature for feature in report.features if feature.name == name)


def test_the_same_distribution_is_stable(profile: ReferenceProfile) -> None:
    report = compared(profile, {"size": numbers(seed=1), "colour": colours(seed=2)})
    assert (report.state, report.findings) == ("stable", ())
    assert report.multivariate is not None
    assert report.multivariate.state == "stable"
    assert headline(report) == "Nothing has changed that would matter."


@pytest.mark.parametrize(
    "shifted",
    [numbers(seed=1, mean=0.5), numbers(seed=1, std=1.5), numbers(300, seed=1, mean=-1)],
)
def test_a_changed_number_drifts(profile: ReferenceProfile, shifted: Feature) -> None:
    rows = len(shifted.values)
    report = compared(profile, {"size": shifted, "colour": colours(rows, seed=2)})
    assert report.state == "drift"
    assert report.drifted == ["size"]
    assert report.findings[0].what == "size"
    assert one(report, "size").p_value < 0.01


def test_another_shape_of_the_same_mean_and_spread_drifts(profile: ReferenceProfile) -> None:
    chance = np.random.default_rng(5)
    twin = chance.normal(0, 0.436, 3_000) + 0.9 * chance.choice([-1, 1], 3_000)
    report = compared(profile, {"size": Feature(twin), "colour": colours(seed=2)})
    assert report.drifted == ["size"]
    assert "spread differently" in report.findings[0].text


def test_other_shares_of_categories_drift(profile: ReferenceProfile) -> None:
    report = compared(profile, {"size": numbers(seed=1), "colour": colours(p=(0.2, 0.7, 0.1))})
    assert report.drifted == ["colour"]


def test_a_tiny_difference_of_many_rows_is_significant_and_no_drift() -> None:
    profile = make_profile({"size": numbers(100_000)})
    report = compared(profile, {"size": numbers(1_000_000, seed=1, mean=0.05)})
    assert one(report, "size").p_value < 1e-6
    assert report.state == "stable"


def test_what_goes_together_otherwise_is_seen_by_the_classifier() -> None:
    chance = np.random.default_rng(3)
    pair = chance.multivariate_normal([0, 0], [[1, 0.9], [0.9, 1]], 4_000)
    reference = {"a": Feature(pair[:, 0]), "b": Feature(pair[:, 1]), "c": numbers(4_000)}
    profile = make_profile(reference)
    alone = chance.multivariate_normal([0, 0], [[1, -0.9], [-0.9, 1]], 4_000)
    report = compared(profile, {
        "a": Feature(alone[:, 0]), "b": Feature(alone[:, 1]), "c": numbers(4_000, seed=9),
    })
    assert report.drifted == []
    assert report.state == "drift"
    assert report.multivariate is not None
    assert {name for name, _ in report.multivariate.features[:2]} == {"a", "b"}
    assert "how they go together" in report.findings[0].text


def test_the_classifier_names_features_that_could_do_without_each_other() -> None:
    profile = make_profile({"a": numbers(seed=1), "b": numbers(seed=2)})
    report = compared(profile, {"a": numbers(seed=3, mean=9), "b": numbers(seed=4, mean=9)})
    assert report.multivariate is not None
    assert {name for name, _ in report.multivariate.features} == {"a", "b"}


def test_neighbours_that_are_alike_do_not_make_drift() -> None:
    found = []
    for seed in range(8):
        noise = np.random.default_rng(seed).normal(size=10_000)
        walk = lfilter([1], [1, -0.99], noise)[2_000:]
        profile = make_profile({"level": Feature(walk[:4_000])})
        report = compared(profile, {"level": Feature(walk[4_000:])})
        assert "short" in profile.warnings[0]
        assert report.warnings == profile.warnings
        found.append(report.state)
    assert found.count("drift") <= 1


def test_rows_that_stand_closer_than_those_of_the_reference_do_not_make_drift(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Of a long reference the classifier knows each thirteenth row; these are neighbours."""
    monkeypatch.setattr(reference, "calibrate", lambda *_, **__: None)
    noise = np.random.default_rng(0).normal(size=(12, 33_000))
    alike = lfilter([1], [1, -0.98], noise, axis=1)[:, 2_000:]
    whole = {f"x{at}": values for at, values in enumerate(alike)}
    profile = make_profile({name: Feature(values[:26_000]) for name, values in whole.items()})
    report = compared(profile, {
        name: Feature(values[28_000:30_000]) for name, values in whole.items()
    })
    assert report.state == "stable"
    assert report.multivariate is not None
    assert report.multivariate.state == "not_enough_data"


# --- broken --------------------------------------------------------------------------------------


def broken(report: DriftReport, name: str) -> str:
    assert report.state == "broken"
    assert one(report, name).state == "broken"
    return next(finding.text for finding in report.findings if finding.what == name)


def test_stretches_are_long_enough_to_say_something() -> None:
    chance = np.random.default_rng(1)
    alike = lfilter([1], [1, -0.999], chance.normal(size=30_000))
    profile = make_profile({"weather": Feature(alike), "size": numbers(30_000)})
    assert profile.by_name["weather"].autocorrelation_rows > 300
    report = compared(profile, {
        "weather": Feature(alike + 20 * alike.std()), "size": numbers(30_000, seed=2),
    })
    weather = one(report, "weather").stretches
    assert one(report, "weather").state == "drift"
    assert 2 <= len(weather) < len(one(report, "size").stretches) == 30
    assert all(some.threshold < 0.95 < some.statistic for some in weather)
    page = render(report)
    assert b'class="bar marked"' in page
    assert page.count(b'class="line under"') == page.count(b'class="line limit"') == 2


def test_stretches_of_rows_that_were_taken_evenly() -> None:
    """Every tenth row of a dataset: its rows are named, and neighbours are less alike."""
    chance = np.random.default_rng(1)
    alike = lfilter([1], [1, -0.99], chance.normal(size=50_000))
    profile = make_profile({"x": Feature(alike)})
    whole = compared(profile, {"x": Feature(alike[:5_000])})
    taken = compared(profile, {"x": Feature(alike[::10])}, rows_total=50_000)
    assert one(taken, "x").stretches[0].at.startswith("rows 1 to ")
    assert one(taken, "x").stretches[-1].at.endswith(" to 50,000")
    assert len(one(taken, "x").stretches) > len(one(whole, "x").stretches)


def test_a_missing_column(profile: ReferenceProfile) -> None:
    assert broken(compared(profile, {"colour": colours()}), "size") == "is missing"


def test_a_broken_column_without_a_name() -> None:
    nameless = make_profile({"": numbers(), "size": numbers(seed=2)})
    assert broken(compared(nameless, {"size": numbers(seed=3)}), "") == "is missing"


def test_what_a_column_holds_is_told(profile: ReferenceProfile) -> None:
    dates = Feature(np.full(300, np.nan), wrong="has changed its type: now it is date32[day]")
    report = compared(profile, {"size": dates, "colour": dates})
    assert report.state == "broken"
    assert [found.text for found in report.findings[:2]] == [dates.wrong] * 2


def test_a_changed_type(profile: ReferenceProfile) -> None:
    words = texts(*["12 cm"] * 500)
    report = compared(profile, {"size": words, "colour": colours(500)})
    assert "changed its type" in broken(report, "size")
    report = compared(profile, {"size": numbers(500), "colour": numbers(500)})
    assert "changed its type" in broken(report, "colour")


@pytest.mark.parametrize("empty", [np.full(30, np.nan), np.full(30, None, dtype=object)])
def test_a_column_without_values(profile: ReferenceProfile, empty: np.ndarray) -> None:
    report = compared(profile, {"size": Feature(empty), "colour": Feature(empty)})
    assert "every value is null" in broken(report, "size")
    assert "every value is null" in broken(report, "colour")


def test_nulls_that_were_not_there(profile: ReferenceProfile) -> None:
    values = numbers(1_000, seed=1).values.copy()
    values[:150] = np.nan
    report = compared(profile, {"size": Feature(values), "colour": colours(1_000)})
    assert broken(report, "size") == "15 % are null; in the reference none was"


def test_a_flood_of_new_categories(profile: ReferenceProfile) -> None:
    flood = texts(*(f"id-{number}" for number in range(400)), *["red"] * 600)
    report = compared(profile, {"size": numbers(1_000), "colour": flood})
    assert "never seen" in broken(report, "colour")
    assert len(report.dump()) < 20_000


def shops(seed: int, nulls: float = 0.0) -> Feature:
    """Three of ten are of shops that hardly come twice."""
    chance = np.random.default_rng(seed)
    names = np.array(["north", "south", "east"], dtype=object)[chance.integers(0, 3, 2_000)]
    is_rare = chance.random(2_000) < 0.3
    names[is_rare] = [f"shop {number}" for number in chance.integers(0, 10**6, is_rare.sum())]
    names[chance.random(2_000) < nulls] = None
    return Feature(names)


def test_values_that_come_once_are_no_flood_beside_nulls() -> None:
    profile = make_profile({"shop": shops(1, nulls=0.5), "size": numbers(2_000)})
    report = compared(profile, {"shop": shops(2, nulls=0.5), "size": numbers(2_000, seed=1)})
    assert report.state == "stable"


def test_values_that_come_once_do_not_give_rows_away() -> None:
    profile = make_profile({"shop": shops(1), "size": numbers(2_000)})
    report = compared(profile, {"shop": shops(2), "size": numbers(2_000, seed=1)})
    assert report.state == "stable"
    calibration = profile.by_name["shop"].calibration
    assert calibration is not None
    assert threshold(calibration, rows_between_alarms=100_000) < 0.2


def even(seed: int, rows: int, shops: int = 200) -> np.ndarray:
    """All shops are as common as each other; which are the commonest is chance."""
    names = np.array([f"shop {number}" for number in range(shops)], dtype=object)
    return np.random.default_rng(seed).choice(names, rows)


def test_categories_that_are_equally_common_have_neighbours_like_any_other() -> None:
    """A stratified reference; and one in which days follow each other."""
    names = [f"c{number}" for number in range(7)] * 1_000
    mixed = np.random.default_rng(0).permutation(names).astype(object)
    days = np.repeat(np.array(names[:294], dtype=object), 24)[:7_000]
    profile = make_profile({"class": Feature(mixed), "day": Feature(days)})
    assert profile.by_name["class"].autocorrelation_rows < 1.5
    assert profile.by_name["class"].calibration is not None
    assert 5 < profile.by_name["day"].autocorrelation_rows < 24


def test_few_categories_of_which_some_come_once_are_not_broken_beside_others_like_them() -> None:
    states = []
    for seed in range(12):
        chance = np.random.default_rng(seed)
        ours, others = (texts(*map(str, chance.zipf(2.0, 200))) for _ in range(2))
        profile = make_profile({"shop": ours})
        states.append(compared(profile, {"shop": others}).state)
    assert states == ["stable"] * 12


def test_few_rows_of_many_categories_are_no_drift_beside_others_like_them() -> None:
    """The few that came twice are not expected to do so again, also by Jensen and Shannon."""
    states = []
    for seed in range(12):
        profile = make_profile({"shop": Feature(even(seed, 200, 5_000))})
        others = Feature(even(100 + seed, 1_000, 5_000))
        states.append(compared(profile, {"shop": others}).state)
    assert states == ["stable"] * 12


def test_what_was_the_commonest_by_chance_is_not_expected_to_be_so_again() -> None:
    names = [f"shop {at}" for at in range(6)]
    profile = make_profile({name: Feature(even(at, 1_000)) for at, name in enumerate(names)})
    current = {name: even(9 + at, 3_000) for at, name in enumerate(names)}
    report = compared(profile, {name: Feature(values) for name, values in current.items()})
    assert report.state == "stable"
    current["shop 3"][:1_200] = "shop 7"  # a change is seen all the same
    report = compared(profile, {name: Feature(values) for name, values in current.items()})
    assert report.drifted == ["shop 3"]


def test_a_window_of_even_categories_is_no_drift() -> None:
    feature = make_profile({"shop": Feature(even(1, 1_000))}).by_name["shop"]
    limit = window_threshold(feature, WindowRule(), 1, 1_000)
    windows = [statistic(feature, bins.counts(feature, even(seed, 1_000))) for seed in range(2, 30)]
    assert max(windows) < limit < 0.3


def test_a_rise_is_seen_beside_what_a_short_reference_knows() -> None:
    chance = np.random.default_rng(5)
    half, more = (np.where(chance.random(300) < part, None, "x") for part in (0.5, 0.57))
    profile = make_profile({"x": Feature(half.astype(object))})
    now = Feature(np.tile(more.astype(object), 20))
    assert compared(profile, {"x": now}).state != "broken"  # 0.07 may be the reference's chance
    lost = Feature(np.where(np.random.default_rng(6).random(6_000) < 0.7, None, "x").astype(object))
    assert "are null" in broken(compared(profile, {"x": lost}), "x")


def in_runs(seed: int, rows: int, shops: int) -> np.ndarray:
    """The rows of one shop come together, about twenty of them, with some of another between."""
    chance = np.random.default_rng(seed)
    lengths = chance.geometric(1 / 20, rows)
    drawn = np.repeat(even(seed, rows, shops), lengths)[:rows]
    return np.where(chance.random(rows) < 0.1, np.roll(drawn, 20), drawn)


@pytest.mark.parametrize("shops", [60, 1_000])
def test_categories_that_come_in_runs_are_not_broken_beside_others_like_them(shops: int) -> None:
    """Fifty runs say how often a new shop comes, not a thousand rows: all of these were broken."""
    states = []
    for seed in range(6):
        profile = make_profile({"shop": Feature(in_runs(seed, 1_000, shops))})
        others = Feature(in_runs(100 + seed, 5_000, shops))
        states.append(compared(profile, {"shop": others}).state)
    assert states == ["stable"] * 6


@pytest.mark.parametrize("shops", [np.arange(5_000) // 20 % 10, np.arange(5_000) // 500])
def test_other_names_are_broken_where_known_ones_came_in_runs(shops: np.ndarray) -> None:
    """Ten shops that come again and again; and a reference that is sorted by them."""
    known, other = (
        np.array([f"{word} {number}" for number in range(10)], dtype=object)[shops]
        for word in ("shop", "SHOP")
    )
    profile = make_profile({"shop": Feature(known)})
    assert "never seen" in broken(compared(profile, {"shop": Feature(other)}), "shop")


def test_nulls_that_come_in_runs_are_counted_in_runs() -> None:
    """Of numbers that do not: six stretches without values beside five of twice as many rows."""
    def sizes(seed: int, rows: int, stretches: int) -> Feature:
        found = np.random.default_rng(seed).normal(size=rows)
        for start in np.linspace(0, rows - 20, stretches).astype(int):
            found[start : start + 20] = np.nan
        return Feature(found)

    profile = make_profile({"size": sizes(0, 2_000, 5)})
    assert profile.features[0].autocorrelation_rows < 8
    assert 10 < profile.features[0].null_autocorrelation_rows < 30
    assert compared(profile, {"size": sizes(1, 1_000, 6)}).state == "stable"
    assert "are null" in broken(compared(profile, {"size": sizes(2, 1_000, 20)}), "size")


def test_a_constant(profile: ReferenceProfile) -> None:
    report = compared(profile, {"size": Feature(np.full(500, 0.1)), "colour": colours(500)})
    assert "alike" in broken(report, "size")


def test_values_that_share_a_bin_are_no_constant(profile: ReferenceProfile) -> None:
    report = compared(profile, {"size": numbers(500, mean=50), "colour": colours(500)})
    assert one(report, "size").state == "drift"


def test_a_single_glitch_is_worth_a_look(profile: ReferenceProfile) -> None:
    values = numbers(1_000, seed=1).values.copy()
    values[7] = 1048.36
    report = compared(profile, {"size": Feature(values), "colour": colours(1_000, seed=2)})
    assert report.state == "stable"
    assert report.findings[0].level == "look"
    assert "1,048" in report.findings[0].text


# --- not enough ----------------------------------------------------------------------------------


@pytest.mark.parametrize("rows", [0, 1, 20])
def test_few_rows_say_nothing(profile: ReferenceProfile, rows: int) -> None:
    report = compared(profile, {"size": numbers(rows, mean=3), "colour": colours(rows)})
    assert report.state == "not_enough_data"
    assert "not the same as no drift" in report.findings[-1].text


def test_one_null_alone_is_not_broken() -> None:
    values = numbers().values.copy()
    values[::20] = np.nan
    profile = make_profile({"size": Feature(values)})
    report = compared(profile, {"size": Feature(np.array([np.nan]))})
    assert report.state == "not_enough_data"


def test_a_reference_of_one_row() -> None:
    report = compared(make_profile({"size": numbers(1)}), {"size": numbers(1_000)})
    assert one(report, "size").state == "not_enough_data"


def test_a_constant_reference() -> None:
    profile = make_profile({"size": Feature(np.full(1_000, 2.0))})
    assert compared(profile, {"size": Feature(np.full(1_000, 2.0))}).state == "stable"
    assert compared(profile, {"size": Feature(np.full(1_000, 2.5))}).drifted == ["size"]


def test_no_profile() -> None:
    report = no_profile(model="m", version=3, source="x.csv", rows=12, now=NOW)
    assert "m@3 was registered without a reference" in report.findings[0].text
    assert b"nothing to compare" in render(report)


# --- truth ---------------------------------------------------------------------------------------


def quality(value: float) -> Performance:
    return Performance(measure="AUC", value=value, error=0.01, rows=2_000)


def test_the_truth_tells_drift_from_worse_answers() -> None:
    profile = make_profile({"size": numbers()}, performance=quality(0.8))
    shifted = compared(profile, {"size": numbers(seed=1, mean=1)}, performance=quality(0.79))
    assert shifted.state == "drift"
    assert "did not fall" in " ".join(finding.text for finding in shifted.findings)
    worse = compared(profile, {"size": numbers(seed=1)}, performance=quality(0.7))
    assert (worse.state, worse.drifted) == ("worse", [])
    assert "has fallen" in worse.findings[0].text


@pytest.mark.parametrize("rows", [1, 99])
def test_few_labels_say_nothing(rows: int) -> None:
    """One wrong answer alone has no standard error: it is no proof."""
    reference = Performance(measure="accuracy", value=0.98, error=0.006, rows=450)
    profile = make_profile({"size": numbers()}, performance=reference)
    wrong = Performance(measure="accuracy", value=0.0, error=0.0, rows=rows)
    report = compared(profile, {"size": numbers(seed=1)}, performance=wrong)
    assert report.state == "stable"
    assert [(found.what, found.level) for found in report.findings] == [("accuracy", "look")]
    assert "of fewer than 100 rows nothing can be said" in report.findings[0].text
    drifted = compared(profile, {"size": numbers(seed=1, mean=1)}, performance=wrong)
    assert headline(drifted) == "1 feature of 1 has changed."


def test_nulls_that_give_rows_away_are_no_change_of_how_features_go_together() -> None:
    profile = make_profile({"a": numbers(seed=1), "b": numbers(seed=2)})
    now = {"a": numbers(seed=3).values, "b": numbers(seed=4).values}
    for values in now.values():
        values[::3] = np.nan
    report = compared(profile, {name: Feature(values) for name, values in now.items()})
    assert report.state == "broken"
    assert report.multivariate is not None
    assert report.multivariate.state == "drift"
    (together,) = [one for one in report.findings if one.what == "All features together"]
    assert together.level == "look"
    assert "how they go together" not in together.text


# --- whatever comes ------------------------------------------------------------------------------

ANY_NUMBERS = st.lists(st.floats(allow_nan=True, allow_infinity=True), max_size=80)
ANY_TEXTS = st.lists(st.one_of(st.none(), st.text(max_size=8)), max_size=80)
ANY_FEATURE = st.one_of(
    ANY_NUMBERS.map(lambda values: Feature(np.array(values, dtype=float))),
    ANY_TEXTS.map(lambda values: texts(*values)),
)
RULE = CheckRule(least_rows=5, stretches=4)


@settings(max_examples=60)
@given(st.dictionaries(st.sampled_from("abc"), ANY_FEATURE),
       st.dictionaries(st.sampled_from("abc"), ANY_FEATURE), st.integers(1, 4))
def test_nothing_crashes(reference: Features, current: Features, repeat: int) -> None:
    reference = {name: Feature(np.tile(f.values, repeat)) for name, f in reference.items()}
    rows = min((len(f.values) for f in reference.values()), default=0)
    reference = {name: Feature(f.values[:rows]) for name, f in reference.items()}
    rows = min((len(f.values) for f in current.values()), default=0)
    current = {name: Feature(f.values[:rows]) for name, f in current.items()}
    profile = make_profile(reference)
    assert ReferenceProfile.load(profile.dump()) == profile
    found = check(profile, Current(features=current, source="x"), model="m", version=1, now=NOW,
                  rule=RULE)
    assert DriftReport.load(found.dump()) == found
    assert len(render(found)) < 1_000_000
    assert {feature.name for feature in found.features} == set(reference)
    for name in reference.keys() - current.keys():
        assert one(found, name).state == "broken"


def test_a_page_of_many_features_stays_small() -> None:
    many = {f"{'a long name ' * 8}{number}": numbers(1_000, seed=number) for number in range(150)}
    report = compared(make_profile(many), many)
    assert len(render(report)) < 1_000_000
