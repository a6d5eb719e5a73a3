"""Events of drift: from one process to another, and as an alert."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from celeriac import errors
from celeriac.alerts import encode
from celeriac.drift.events import DriftEvent

EVENT = DriftEvent(
    kind="data_drift", state="opened", model="delays", version=3, source="stream",
    features=("temp", "dewp"), detail="temp has become larger", at_s=1_764_000_000.25,
)


def test_through_json_and_back() -> None:
    wire = json.loads(json.dumps(EVENT.to_dict()))
    assert DriftEvent.from_dict(wire) == EVENT
    assert DriftEvent.from_dict(wire | {"of_a_later_release": 1}) == EVENT


@pytest.mark.parametrize("wrong", [
    {"kind": "worse"}, {"state": "open"}, {"source": "file"}, {"features": None},
    {"version": "latest"}, {"at_s": float("nan")}, {"at_s": 1e300}, {"kind": ["data_drift"]},
])  # fmt: skip
def test_what_is_no_event_is_told(wrong: dict[str, Any]) -> None:
    with pytest.raises(errors.RequestError, match=r"event of drift"):
        DriftEvent.from_dict(EVENT.to_dict() | wrong)
    with pytest.raises(errors.RequestError, match=next(iter(wrong))):
        DriftEvent.from_dict({k: v for k, v in EVENT.to_dict().items() if k not in wrong})


def test_its_alert_is_about_a_model_and_claimed_once_for_each_event() -> None:
    body = json.loads(encode(EVENT.alert()))
    assert body.pop("next")
    assert body.pop("id") == EVENT.alert().id
    assert body == {
        "v": 1, "kind": "data_drift", "entry": "stream", "model": "delays", "version": 3,
        "state": "opened", "features": ["temp", "dewp"], "reason": "temp has become larger",
        "at": "2025-11-24T16:00:00.250+00:00",
    }
    others = [
        replace(EVENT, state="closed"), replace(EVENT, at_s=EVENT.at_s + 1),
        replace(EVENT, kind="data_quality"), replace(EVENT, version=4),
        replace(EVENT, source="dataset"), replace(EVENT, model="reviews"),
    ]
    assert len({one.alert().claim for one in [EVENT, *others]}) == 7
    assert replace(EVENT, detail="told again").alert().claim == EVENT.alert().claim
