"""What the checks of many nights open and close."""

from __future__ import annotations

from datetime import date
from pathlib import Path
from typing import Any

import msgspec
import pytest
from pydantic import ValidationError

from celeriac.drift.records import DriftReport, FeatureDrift, Quality
from celeriac.nightly import checks
from celeriac.settings.nightly import NightlySettings
from tasks import drift_nights

NIGHT = {"model": "delays", "dataset": "in/{date}.csv", "output": "out/{date}"}


def feature(name: str, state: str, statistic: float = 0.5) -> FeatureDrift:
    return FeatureDrift(
        name=name, role="input", kind="number", state=state, rows=900, statistic=statistic  # type: ignore[arg-type]
    )


def report(
    state: str, hour: int = 0, version: int = 1, fell: bool = False, **fields: Any
) -> DriftReport:
    quality = Quality(measure="AUC", reference=0.8, current=0.6, error=0.01, rows=900, fell=fell)
    return DriftReport(
        model="delays", version=version, source="in.csv", state=state, rows=900, rows_total=900,  # type: ignore[arg-type]
        made_at=f"2026-11-22T{hour:02}:00:00+00:00", quality=quality, **fields,
    )


def told(*states: str) -> list[tuple[str, str]]:
    """What the last of these nights tells; ``drift!``: its answers are worse, too."""
    reports = [
        report(state.rstrip("!"), hour, fell=state.endswith("!"))
        for hour, state in enumerate(states)
    ]
    found = checks.events(reports[:-1], reports[-1], entry="n", what="n", said="it has changed")
    return [(event.state, event.kind) for event in found]


@pytest.mark.parametrize(("states", "expected"), [
    (["stable"], []), (["not_enough_data"], []),
    (["drift"], [("opened", "data_drift")]),
    (["drift!"], [("opened", "concept_drift"), ("opened", "data_drift")]),
    (["worse!"], [("opened", "concept_drift")]),
    (["broken"], [("opened", "data_quality")]),
    (["broken!"], [("opened", "data_quality")]),  # answers to broken data are no matter
    (["drift", "drift"], []), (["drift", "stable"], [("closed", "data_drift")]),
    (["drift", "not_enough_data"], []), (["drift", "not_enough_data", "drift"], []),
    (["drift", "not_enough_data", "stable"], [("closed", "data_drift")]),
    (["drift", "broken"], [("opened", "data_quality")]),
    (["drift", "broken", "drift"], [("closed", "data_quality")]),
    (["broken", "drift"], [("closed", "data_quality"), ("opened", "data_drift")]),
    (["drift", "broken", "stable"], [("closed", "data_drift"), ("closed", "data_quality")]),
    (["drift", "drift!"], [("opened", "concept_drift")]),
    (["drift!", "drift"], [("closed", "concept_drift")]),
    (["drift", "stable", "drift"], [("opened", "data_drift")]),
])  # fmt: skip
def test_an_episode_opens_and_closes_once(
    states: list[str], expected: list[tuple[str, str]]
) -> None:
    assert told(*states) == expected


@pytest.mark.parametrize("quality", [
    None, Quality(measure="AUC", reference=0.8, current=0.9, error=0.1, rows=9, fell=False),
])  # fmt: skip
def test_without_labels_nobody_says_that_answers_are_as_good_again(quality: Quality | None) -> None:
    now = msgspec.structs.replace(report("drift", 1), quality=quality)
    found = checks.events(
        [report("worse", fell=True)], now, entry="n", what="n", said="it has changed"
    )
    assert [(one.state, one.kind) for one in found] == [("opened", "data_drift")]


@pytest.mark.parametrize(("before", "now", "after", "expected"), [
    ("drift", "stable", "drift", []), ("stable", "drift", "drift", []),
    ("stable", "drift", "stable", []), ("broken", "stable", "broken", []),
    ("stable", "drift", "not_enough_data", [("opened", "data_drift")]),
    ("drift", "stable", "not_enough_data", [("closed", "data_drift")]),
])  # fmt: skip
def test_a_date_that_is_caught_up_tells_what_later_ones_leave_as_it_is(
    before: str, now: str, after: str, expected: list[tuple[str, str]]
) -> None:
    found = checks.events(
        [report(before)], report(now, 2), [report(after, 1)], entry="n", what="n", said="so"
    )
    assert [(one.state, one.kind) for one in found] == expected


def test_what_an_event_says() -> None:
    found = report("drift", features=(
        feature("hour", "drift", 0.2), feature("temp", "drift", 0.9), feature("wind", "stable"),
    ))
    (event,) = checks.events(
        [], found, entry="n", what="delays, 2026-11-22", said="2 features have changed."
    )
    assert (event.features, event.source, event.ref) == (("temp", "hour"), "dataset", "delays@1")
    assert (event.entry, event.alert().entry) == ("n", "dataset:n")
    assert event.detail == "delays, 2026-11-22: 2 features have changed."
    assert event.at_s == 1_795_305_600


def test_another_version_has_another_reference() -> None:
    found = checks.events(
        [report("drift")], report("drift", 1, version=2), entry="n", what="n", said="it has changed"
    )
    assert [(one.state, one.version) for one in found] == [("closed", 1), ("opened", 2)]
    assert found[0].detail == "n: delays@2 answers now"


def test_an_entry_that_gets_another_model_ends_what_was_open_of_the_first() -> None:
    other = msgspec.structs.replace(report("broken", 1), model="other")
    found = checks.events([report("broken")], other, entry="n", what="n", said="it has changed")
    assert [(one.state, one.kind, one.ref) for one in found] == [
        ("closed", "data_quality", "delays@1"), ("opened", "data_quality", "other@1"),
    ]


def test_earlier_nights_are_read_from_their_folders(tmp_path: Path) -> None:
    night = NightlySettings.model_validate(
        NIGHT | {"kind": "drift", "output": f"{tmp_path}/{{date}}"}
    )
    for name, state in (("2026-10-01", "drift"), ("2026-11-20", "stable"), ("2026-11-22", "drift"),
                        ("2026-11-22.attempt-2", "broken"), ("2026-11-23", "stable")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "drift.json").write_bytes(report(state).dump())
    (tmp_path / "2026-11-21").mkdir()  # begun, and not done
    day = date(2026, 11, 22)
    assert [one.state for one in drift_nights.earlier(night, day, 1)] == ["stable"]
    states = [one.state for one in drift_nights.earlier(night, day, 3)]
    assert states == ["stable", "drift", "broken"]
    (tmp_path / "2026-11-22" / "drift.json").write_bytes(b"{")  # the disk was full
    assert [one.state for one in drift_nights.earlier(night, day, 3)] == ["stable", "broken"]


@pytest.mark.parametrize(("table", "said"), [
    ({"kind": "drift", "options": {"merge": True}}, r"\[nightly.NAME.check\]"),
    ({"check": {"label": "late"}}, 'kind = "drift"'), ({"kind": "drift", "drift": True}, "anyway"),
    ({"kind": "drift", "check": {"label": "late", "answers": False}}, "leave out answers = false"),
    ({"kind": "drift", "check": {"timeout_s": 0}}, "greater"), ({"kind": "stream"}, "drift"),
])  # fmt: skip
def test_entries_that_cannot_be_meant(table: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        NightlySettings.model_validate(NIGHT | table)


def test_an_entry_comes_back_from_its_own_dump() -> None:
    for table in ({}, {"kind": "drift", "check": {"label": "late"}}, {"drift": True}):
        night = NightlySettings.model_validate(NIGHT | table)
        dumped = night.model_dump(mode="json", exclude_none=True)
        assert NightlySettings.model_validate(dumped) == night
