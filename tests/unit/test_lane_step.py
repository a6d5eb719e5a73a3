"""What a lane does before its thread starts."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from celeriac import errors
from workers import lane_step


def test_a_champion_that_has_just_gone_keeps_no_lane_from_starting(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def scorer(name: str, version: int) -> SimpleNamespace:
        if name == "gone":
            raise errors.RegistryError("it has gone")
        return SimpleNamespace(manifest=f"{name}@{version}")

    prepared: list[str] = []
    host = SimpleNamespace(serving=lambda: {"gone": 1, "here": 2}, scorer=scorer)
    monkeypatch.setattr(lane_step, "get_host", lambda: host)
    monkeypatch.setattr(
        lane_step, "get_counter", lambda: SimpleNamespace(prepare=prepared.append)
    )
    lane_step._prepare_counting()
    assert prepared == ["here@2"]
