"""Decisions are tested without a stack: values for the policy, a fake client for the caller."""

from __future__ import annotations

import sys

import pytest
from app import MODEL, Application, main
from decision import Policy, decide

from celeriac import errors
from producer.testing import FakeClient


@pytest.mark.parametrize(
    ("probability", "action"), [(1.0, "accept"), (0.8, "accept"), (0.79, "ask"), (0.34, "ask")]
)
def test_who_is_sure_is_trusted(probability: float, action: str) -> None:
    assert decide("class_1", probability, Policy()).action == action


def test_one_item_is_asked_once() -> None:
    client = FakeClient({MODEL: {"label": "class_0", "probability": 0.97}})
    assert Application(client).one({"alcohol": 13.0}).label == "class_0"
    assert [call.model for call in client.calls] == [MODEL]


def test_a_bad_item_harms_no_other() -> None:
    client = FakeClient({MODEL: lambda items: [
        errors.InvalidItem("no alcohol") if "alcohol" not in item
        else {"label": "class_2", "probability": 0.9} for item in items
    ]})
    found = Application(client).some([{"alcohol": 12.0}, {}, {"alcohol": 14.0}])
    assert [one.action for one in found] == ["accept", "ask", "accept"]
    assert "no alcohol" in found[1].reason


def test_the_policy_is_the_only_bound() -> None:
    client = FakeClient({MODEL: {"label": "class_0", "probability": 0.6}})
    assert Application(client).one({}).action == "ask"
    assert Application(client, Policy(least_probability=0.5)).one({}).action == "accept"


def test_what_is_no_json_is_told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["app.py", "one", '{"alcohol": much}'])
    assert main() == 1
    assert "is not valid JSON" in capsys.readouterr().err
