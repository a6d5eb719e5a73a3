"""What is done about drift, step by step, with a clock of the test's own."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
import redis
from pydantic import ValidationError

from celeriac import errors
from celeriac.drift import adaptation, adaptation_log
from celeriac.drift.adaptation import Adaptation, Compared, Figure, Phase, Step
from celeriac.drift.adaptation_log import NAME, AdaptationLog, Line
from celeriac.drift.events import DriftEvent
from celeriac.registry.manifest import InputSchema, ModelDraft, OutputSchema
from celeriac.registry.store import Registry
from celeriac.settings import Settings
from celeriac.settings.adapt import AdaptSettings
from tasks.adaptation import TOLD_WITHIN_S, _next, _Work, alert_of, news
from tasks.hook import Answer

RULE = AdaptSettings(
    retrain="shop.retrain", queue="training", labelled="rows.csv", label="truth",
    retrain_timeout_s=100, judge_timeout_s=10, approve_within_s=1_000, watch_s=500, cooldown_s=300,
)
EVENT = DriftEvent(
    kind="concept_drift", state="opened", model="delays", version=1, source="feedback",
    features=(), detail="accuracy has fallen", at_s=50.0,
)
BREACH = replace(EVENT, kind="data_quality", source="stream", detail="temp is null")
IDLE = Adaptation(model="delays")
IDLE_AGAIN = Adaptation(model="delays", since_s=1_001)


def figure(
    value: float, measure: str = "accuracy", rows: int = 2_000, error: float = 0.01
) -> Figure:
    return Figure(measure=measure, value=value, error=error, rows=rows)


def on_event(
    state: Adaptation, event: DriftEvent = EVENT, now_s: float = 100.0, **fields: Any
) -> Any:
    rule = RULE.model_copy(update=fields)
    return adaptation.on_event(state, event, rule, now_s, champion=1, alias=0, task="t1")


def until(phase: Phase, **fields: Any) -> Adaptation:
    """The state on its straight way."""
    rule = RULE.model_copy(update=fields)
    state = on_event(IDLE).state
    compared = Compared(champion=figure(0.80), challenger=figure(0.85))
    steps = [
        lambda: adaptation.asked(state, rule),
        lambda: adaptation.retrained(state, 2, rule, 110),
        lambda: adaptation.judged(state, compared, rule, 120),
        lambda: adaptation.decided(state, rule, 130, approve=True, who="ada", why=""),
        lambda: adaptation.promoted(state, figure(0.80), rule, 140),
        lambda: adaptation.ended(state, "kept", "as good", rule, 700),
        lambda: adaptation.overdue(state, rule, 1_001),
    ]
    while state.phase is not phase:
        state = steps.pop(0)().state
    return state


def test_the_straight_way() -> None:
    began = on_event(IDLE)
    assert (began.what, began.state.phase, began.state.champion) == ("retraining", "retraining", 1)
    waiting = until(Phase.WAITING)
    assert (waiting.challenger, waiting.until_s) == (2, 1_120)
    assert until(Phase.PROMOTING).until_s == 0
    watching = until(Phase.WATCHING)
    assert (watching.baseline, watching.until_s) == (figure(0.80), 640)
    assert until(Phase.COOLING).until_s == 1_000
    ready = adaptation.overdue(until(Phase.COOLING), RULE, 1_001)
    assert ready is not None
    assert (ready.what, ready.state) == ("ready", IDLE_AGAIN)


def test_without_a_person_a_better_challenger_goes_on() -> None:
    compared = Compared(champion=figure(0.80), challenger=figure(0.85))
    rule = RULE.model_copy(update={"approval": "none"})
    step = adaptation.judged(until(Phase.JUDGING), compared, rule, 120)
    assert (step.what, step.state.phase, step.who) == ("accepted", "promoting", "celeriac")


@pytest.mark.parametrize(("old", "new", "measure", "better"), [
    (0.80, 0.81, "accuracy", True), (0.80, 0.809, "accuracy", False), (0.80, 0.7, "AUC", False),
    (10.0, 9.9, "mean absolute error", True), (10.0, 9.95, "mean absolute error", False),
    (10.0, 12.0, "mean absolute error", False), (0.0, 0.0, "mean absolute error", False),
])  # fmt: skip
def test_the_challenger_must_win_by_the_margin(
    old: float, new: float, measure: str, better: bool
) -> None:
    compared = Compared(champion=figure(old, measure), challenger=figure(new, measure))
    step = adaptation.judged(until(Phase.JUDGING), compared, RULE, 120)
    assert (step.what == "waiting_for_approval") == better
    assert better or (step.what, step.state.phase) == ("refused", Phase.COOLING)


def test_with_a_margin_of_zero_an_equal_challenger_does_not_win() -> None:
    assert not adaptation.is_better(Compared(champion=figure(0.8), challenger=figure(0.8)), 0.0)


@pytest.mark.parametrize("phase", list(Phase))
def test_broken_data_never_begin_a_training_and_end_one(phase: Phase) -> None:
    state = until(phase)
    step = on_event(state, BREACH)
    assert step.what == ("stopped" if phase in ("retraining", "judging") else "not_retrained")
    assert step.state.phase is (Phase.COOLING if step.what == "stopped" else phase)
    assert "broken" in step.why


def test_drift_in_data_that_are_broken_begins_nothing_until_they_are_mended() -> None:
    broken = on_event(IDLE, BREACH).state
    step = on_event(broken)
    assert (step.what, step.state.phase) == ("not_retrained", Phase.IDLE)
    assert "the data are broken (stream)" in step.why
    other = on_event(broken, replace(BREACH, source="dataset")).state
    mended = on_event(other, replace(BREACH, state="closed")).state
    assert on_event(mended).what == "not_retrained"  # in the dataset, still
    mended = on_event(mended, replace(BREACH, state="closed", source="dataset")).state
    assert on_event(mended).what == "retraining"


def test_an_alert_says_where_it_was_seen() -> None:
    one = replace(EVENT, source="dataset", entry="north")
    step = on_event(IDLE, one)
    line = Line(number=1, at_s=1.0, what=step.what, who=step.who, why="", state=step.state)
    assert alert_of(line, step.state).entry == "dataset:north"
    assert alert_of(msgspec.structs.replace(line, state=IDLE), IDLE).entry == "policy"


def test_each_entry_of_the_schedule_has_its_own_broken_data() -> None:
    one, two = (replace(BREACH, source="dataset", entry=name) for name in ("north", "south@2"))
    state = on_event(on_event(IDLE, one).state, two).state
    state = on_event(state, replace(one, state="closed")).state
    assert list(state.broken) == ["dataset:south@2@1"]
    assert "the data are broken (dataset:south@2)" in on_event(state).why
    assert one.alert().claim != two.alert().claim  # found in the same second
    assert on_event(on_event(state, replace(two, state="closed")).state).what == "retraining"


@pytest.mark.parametrize("at_s", [100.0, 9e9])  # by a clock that is far ahead, too
def test_broken_data_whose_end_nobody_tells_lapse(at_s: float) -> None:
    broken = on_event(IDLE, replace(BREACH, at_s=at_s)).state
    end_s = 100 + adaptation.BROKEN_S
    assert on_event(broken, now_s=end_s - 1).what == "not_retrained"
    assert broken.breaches(end_s) == {}
    assert on_event(broken, now_s=end_s).what == "retraining"
    again = on_event(broken, replace(BREACH, at_s=end_s - 1), now_s=end_s - 1).state
    assert on_event(again, now_s=end_s).what == "not_retrained"


def test_what_was_broken_of_another_version_is_no_matter() -> None:
    broken = on_event(IDLE, replace(BREACH, version=7)).state
    began = on_event(broken)
    assert (began.what, began.state.broken) == ("retraining", {})


@pytest.mark.parametrize(("event", "fields", "why"), [
    (replace(EVENT, version=3), {}, "the champion is version 1"),
    (EVENT, {"on": ("data_drift",)}, "the policy does not retrain on it"),
])  # fmt: skip
def test_events_that_call_for_nothing(event: DriftEvent, fields: Any, why: str) -> None:
    step = on_event(IDLE, event, **fields)
    assert (step.what, step.state.phase) == ("not_retrained", Phase.IDLE)
    assert why in step.why
    assert on_event(IDLE, replace(event, state="closed"), **fields) is None


@pytest.mark.parametrize("phase", [one for one in Phase if one not in ("idle", "cooling")])
def test_one_adaptation_at_a_time(phase: Phase) -> None:
    step = on_event(until(phase))
    assert (step.what, step.state.phase) == ("not_retrained", phase)


def test_it_cools_down() -> None:
    cooling = until(Phase.COOLING)
    step = on_event(cooling, now_s=999)
    assert (step.what, "cools down for another 1 s" in step.why) == ("not_retrained", True)
    assert adaptation.overdue(cooling, RULE, 999) is None
    assert on_event(cooling, now_s=1_000).what == "retraining"  # whether somebody looked or not
    without = RULE.model_copy(update={"cooldown_s": 0.0})
    assert adaptation.ended(until(Phase.WATCHING), "kept", "", without, 9).state.phase is Phase.IDLE


@pytest.mark.parametrize(("phase", "what"), [
    (Phase.RETRAINING, "failed"), (Phase.JUDGING, "failed"), (Phase.WAITING, "dropped"),
    (Phase.COOLING, "ready"),
])  # fmt: skip
def test_every_wait_ends(phase: Phase, what: str) -> None:
    state = until(phase)
    assert adaptation.overdue(state, RULE, state.until_s - 0.1) is None
    step = adaptation.overdue(state, RULE, state.until_s)
    assert step is not None
    assert step.what == what
    assert step.state.phase in (Phase.COOLING, Phase.IDLE)


@pytest.mark.parametrize("phase", [one for one in Phase if one != "waiting_for_approval"])
def test_there_is_nothing_to_decide(phase: Phase) -> None:
    with pytest.raises(errors.RequestError, match="no challenger that waits"):
        adaptation.decided(until(phase), RULE, 1, approve=True, who="ada", why="")


def test_a_person_rejects_or_means_another_version() -> None:
    waiting = until(Phase.WAITING)
    step = adaptation.decided(waiting, RULE, 1, approve=False, who="ada", why="too few rows")
    assert (step.what, step.who, step.why) == ("rejected", "ada", "too few rows")
    with pytest.raises(errors.RequestError, match="delays@2, not delays@3"):
        adaptation.decided(waiting, RULE, 1, approve=True, who="ada", why="", version=3)


@pytest.mark.parametrize(("before", "now", "worse"), [
    (figure(0.80), figure(0.70), True), (figure(0.80), figure(0.78), False),
    (figure(0.80), figure(0.70, rows=299), False), (figure(0.80), figure(0.90), False),
    (figure(0.80, error=1e-4), figure(0.795, error=1e-4), False),  # sure, and less than the margin
    (None, figure(0.1), False), (figure(0.80), None, False),
    (figure(0.8, "AUC"), figure(0.1), False),
    (figure(5.0, "mean absolute error"), figure(6.0, "mean absolute error"), True),
    (figure(5.0, "mean absolute error"), figure(4.0, "mean absolute error"), False),
])  # fmt: skip
def test_what_is_worse_in_the_watch_window(
    before: Figure | None, now: Figure | None, worse: bool
) -> None:
    assert adaptation.does_worse(before, now, RULE) == worse


def test_figures_of_other_measures_are_not_compared() -> None:
    compared = Compared(champion=figure(0.8), challenger=figure(2.0, "mean absolute error"))
    with pytest.raises(errors.RequestError, match="cannot be compared"):
        adaptation.judged(until(Phase.JUDGING), compared, RULE, 1)


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    """Version 2 has taken the place of version 1."""
    found = Registry(tmp_path)
    draft = ModelDraft(
        format="echo", input=InputSchema(kind="any"), output=OutputSchema(kind="any")
    )
    for _ in range(3):
        found.add("delays", lambda folder: draft)
    for version in (1, 2):
        promote(found, version)
    return found


def promote(registry: Registry, version: int) -> None:
    aliases = registry.aliases("delays")
    aliases.promote(version, expected=aliases.read().get("champion"), who="ada", why="")


def after_the_window(
    registry: Registry, monkeypatch: pytest.MonkeyPatch, meanwhile: Callable[[], object]
) -> Step:
    """Version 2 does worse on the newest rows; ``meanwhile``: while they are answered."""

    def compare(*_: object) -> Compared:
        meanwhile()
        return Compared(champion=figure(0.8), challenger=figure(0.6))

    def away(*_: object) -> None:
        raise redis.ConnectionError

    monkeypatch.setattr("tasks.adaptation._compare", compare)
    monkeypatch.setattr("tasks.adaptation._lately", lambda *_: None)
    monkeypatch.setattr("tasks.adaptation.publish_registry", away)  # beat has it done again
    broker: Any = SimpleNamespace(redis=None)
    step = _next(_Work(broker, registry, RULE, "delays"), until(Phase.WATCHING), 1e9)
    assert step is not None
    return step


def test_a_version_that_does_worse_is_rolled_back(
    registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = after_the_window(registry, monkeypatch, lambda: None)
    assert (step.what, step.state.phase) == ("rolled_back", Phase.COOLING)
    assert registry.aliases("delays").read() == {"champion": 1}


@pytest.mark.parametrize("promoted", [(3,), (3, 2)])
def test_what_a_person_promotes_meanwhile_is_not_rolled_back(
    registry: Registry, monkeypatch: pytest.MonkeyPatch, promoted: tuple[int, ...]
) -> None:
    """Nor a version taken that was not looked at."""
    step = after_the_window(
        registry, monkeypatch, lambda: [promote(registry, version) for version in promoted]
    )
    assert step.what == "not_rolled_back"
    assert "meanwhile" in step.why
    assert registry.aliases("delays").read()["champion"] == promoted[-1]


def test_a_challenger_that_was_there_in_time_counts_though_nobody_looked(
    registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The maintenance role was away until the time of the training was over."""
    state = adaptation.asked(until(Phase.RETRAINING), RULE).state
    monkeypatch.setattr("tasks.hook.Hook.outcome", lambda *_: Answer(2))
    monkeypatch.setattr("tasks.hook.Hook.unserved", lambda _: "")
    work = _Work(SimpleNamespace(redis=None), registry, RULE, "delays")  # type: ignore[arg-type]
    step = _next(work, state, state.until_s + 1)
    assert step is not None
    assert (step.what, step.state.challenger) == ("judging", 2)
    monkeypatch.setattr("tasks.hook.Hook.outcome", lambda *_: None)
    step = _next(work, state, state.until_s + 1)
    assert step is not None
    assert step.what == "failed"


# --- the history ----------------------------------------------------------------------------------


def test_of_two_that_saw_the_same_only_one_adds(tmp_path: Path) -> None:
    (tmp_path / "delays").mkdir()
    log = AdaptationLog(tmp_path, "delays")
    step = on_event(IDLE)
    with ThreadPoolExecutor(4) as pool:
        won = list(pool.map(lambda _: log.add(step, seen=0, now_s=1.0), range(8)))
    assert won.count(True) == 1
    assert log.read() == (step.state, 1)
    assert log.add(adaptation.asked(step.state, RULE), seen=1, now_s=2.0)
    assert [line.what for line in log.lines()] == ["retraining", "asked"]


def test_a_line_that_a_crash_has_cut_is_no_step(tmp_path: Path) -> None:
    (tmp_path / "delays").mkdir()
    log = AdaptationLog(tmp_path, "delays")
    assert log.read() == (IDLE, 0)
    assert log.add(on_event(IDLE), seen=0, now_s=1.0)
    file = tmp_path / "delays" / NAME
    file.write_bytes(file.read_bytes() + b'{"number":2,"at_s":')
    state, seen = log.read()
    assert (state.phase, seen) == (Phase.RETRAINING, 1)
    assert log.add(Step(state, "asked", "", "x"), seen=1, now_s=2.0)
    assert [line.number for line in log.lines()] == [1, 2]


def test_a_long_history_is_read_from_its_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "delays").mkdir()
    log, file = AdaptationLog(tmp_path, "delays"), tmp_path / "delays" / NAME
    for number in range(9):
        assert log.add(on_event(IDLE), seen=number, now_s=1.0)
    line = len(file.read_bytes()) // 9
    for tail in (1, line // 2, line, 2 * line + 5, 20 * line):
        monkeypatch.setattr(adaptation_log, "TAIL_BYTES", tail)
        found = [one.number for one in log.newest()]
        assert found == list(range(10 - len(found), 10))
        assert found
        assert log.read()[1] == 9
    monkeypatch.setattr(adaptation_log, "TAIL_BYTES", 2 * line + 5)
    assert len(log.newest()) == 2
    file.write_bytes(file.read_bytes() + b"x" * 3 * line)  # a crash has cut the last one
    assert log.read()[1] == 9


def test_a_quiet_step_does_not_hide_the_one_before_it(tmp_path: Path) -> None:
    (tmp_path / "delays").mkdir()
    log = AdaptationLog(tmp_path, "delays")
    assert news(log.lines(), 1.0) is None
    began = on_event(IDLE)
    assert log.add(began, seen=0, now_s=1.0)
    assert news(log.lines(), 1.0) is None
    stopped = on_event(began.state, BREACH)
    mended = on_event(stopped.state, replace(BREACH, state="closed"))
    assert log.add(stopped, seen=1, now_s=2.0)
    assert log.add(mended, seen=2, now_s=3.0)
    found = news(log.lines(), 4.0)
    assert found is not None
    assert (found[0].what, found[1]) == ("stopped", began.state)
    assert news(log.lines(), 3.0 + TOLD_WITHIN_S) is None


# --- the settings ---------------------------------------------------------------------------------


@pytest.mark.parametrize(("table", "said"), [
    ({"on": ["data_quality"]}, "no version is trained on broken data"),
    ({"queue": "maintenance"}, "a queue of its own"), ({"queue": "realtime.cpu.delays"}, "its own"),
    ({"retrain": ""}, "at least 1"), ({"margin": 2}, "less than or equal"),
    ({"held_out_rows": 3}, "greater"), ({"approval": "me"}, "person"),
])  # fmt: skip
def test_settings_that_cannot_be_meant(table: dict[str, Any], said: str) -> None:
    whole = RULE.model_dump() | table
    with pytest.raises(ValidationError, match=said):
        Settings.model_validate({"drift": {"adapt": {"delays": whole}}})


def test_the_policy_is_of_a_model() -> None:
    with pytest.raises(ValidationError, match="model as a whole"):
        Settings.model_validate({"drift": {"adapt": {"delays@2": RULE.model_dump()}}})
    with pytest.raises(ValidationError, match="not a model name"):
        Settings.model_validate({"drift": {"adapt": {"De lays": RULE.model_dump()}}})
