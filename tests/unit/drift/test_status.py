"""What ``celeriac drift status`` says."""

from __future__ import annotations

import msgspec
import pytest

from celeriac import errors
from celeriac.drift.standing import EndedEpisode, FeatureStanding, OpenEpisode, Standing
from celeriac.settings import DriftSettings, Settings
from workers.cli import drift_labels
from workers.cli.drift_status import fetch, show

NOW_S = 1_700_000_000.0


def feature(
    name: str, state: str, distance: float | None = None, note: str = ""
) -> FeatureStanding:
    return FeatureStanding(
        name=name, role="input", state=state, since_s=NOW_S - 90, rows=1_043,  # type: ignore[arg-type]
        distance=distance, threshold=0.0912, note=note,
    )


def standing(model: str, state: str, **fields: object) -> Standing:
    return Standing(
        model=model, version=1, state=state, since_s=NOW_S, watched_at_s=NOW_S, **fields,  # type: ignore[arg-type]
    )


@pytest.fixture
def said(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch):  # type: ignore[no-untyped-def]
    monkeypatch.setenv("COLUMNS", "80")

    def call(*found: Standing, settings: Settings | None = None, now_s: float = NOW_S) -> str:
        show(list(found), settings or Settings(), now_s)
        text = capsys.readouterr().out
        assert max(map(len, text.splitlines())) <= 80
        return text

    return call


def test_what_drifts_comes_first(said) -> None:  # type: ignore[no-untyped-def]
    text = said(standing(
        "delays", "broken", looked_at_s=NOW_S - 3, rows=1_043, counted_share=0.123,
        features=(
            feature("dist[ance]", "stable", 0.02), feature("temp", "drift", 0.8124),
            feature("a_rather_long_name_of_a_column", "broken", note="40 % are null"),
        ),
        episodes={"data_drift": OpenEpisode(opened_at_s=NOW_S - 200, features=("temp",))},
    ))
    lines = text.splitlines()
    assert lines[0].split() == ["model", "feature", "items", "distance", "of", "state", "since"]
    assert "broken" in lines[1]
    assert "delays@1  temp" in text
    assert "0.812  0.091  drift" in text
    assert "dist[ance]" in text
    assert "12% of those that came are" in text
    assert "drift for 3 min 20 s: temp" in text
    assert "40 % are null" in text


def test_many_features(said) -> None:  # type: ignore[no-untyped-def]
    many = tuple(feature(f"x{number}", "stable", number / 1_000) for number in range(40))
    text = said(standing("m", "stable", looked_at_s=NOW_S, features=many))
    assert "x39" in text
    assert "x5 " not in text
    assert "and 28 more features" in text


def test_states_without_a_look(said) -> None:  # type: ignore[no-untyped-def]
    text = said(standing("a", "no_profile"), standing("b", "not_enough_data"))
    assert "a@1 was registered without a reference" in text
    assert "b@1: too few items" in text


def test_a_window_that_fills_slowly(said) -> None:  # type: ignore[no-untyped-def]
    slow = standing(
        "m", "not_enough_data", items=1_312, window_rows=100_000, full_in_s=7_300.0,
    )
    text = said(slow)
    assert "1,312 of the 100,000 items of a window;\n" in text
    # The pace of what has come: perhaps none has for minutes.
    assert "at their average pace since the first one, it is full in 2 h 1 min\n" in text
    never = said(msgspec.structs.replace(slow, fills=False))
    assert "it is never full" in never
    assert "a smaller [drift] window_rows would be" in never


def test_the_last_episode(said) -> None:  # type: ignore[no-untyped-def]
    ended = EndedEpisode(
        kind="data_quality", opened_at_s=NOW_S - 900, closed_at_s=NOW_S - 300, features=("x",)
    )
    text = said(standing("m", "stable", looked_at_s=NOW_S, ended=(ended,)))
    assert "last: broken data of x, for 10 min, ended 5 min 0 s ago" in text


def test_nothing_yet_and_a_watch_that_is_away(said) -> None:  # type: ignore[no-untyped-def]
    assert "`celeriac up` starts both" in said()
    late = said(standing("m", "stable"), now_s=NOW_S + 500)
    assert "are beat and the maintenance role up?" in late
    off = Settings(drift=DriftSettings(enabled=False))
    assert "[drift] enabled is false" in said(settings=off)


@pytest.mark.parametrize("model", ["m@champion", "m@shadow"])
def test_an_alias_is_refused(model: str) -> None:
    with pytest.raises(errors.RequestError, match="a version by its number"):
        fetch(Settings(), model)


def test_a_sentence_about_labels_is_folded_by_the_window_alone() -> None:
    assert "\n" not in drift_labels._state(None)
