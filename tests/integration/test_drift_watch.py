"""Counting and watching with a real Redis: what is written, told once, and forgotten."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import redis
from sklearn.linear_model import LogisticRegression

from celeriac import errors, metrics, release
from celeriac.drift import counted, standing, tally
from celeriac.drift.adaptation_log import AdaptationLog
from celeriac.drift.counter import DriftCounter
from celeriac.drift.events import DriftEvent
from celeriac.drift.standing import FeatureStanding, Overtaken, Watcher
from celeriac.drift.tally import Standard
from celeriac.keys import (
    DRIFT_COUNTED_KEY,
    DRIFT_STANDINGS_KEY,
    DRIFT_WATCHER_KEY,
    drift_counts_key,
    drift_standing_key,
    drift_times_key,
)
from celeriac.messages import ModelRef
from celeriac.registry.catalogue import publish
from celeriac.registry.manifest import ModelVersion
from celeriac.registry.store import Registry
from celeriac.runtimes import LoadOptions
from celeriac.scoring import Scorer
from celeriac.settings import ModelsSettings, Settings
from celeriac.settings.adapt import AdaptSettings
from celeriac.settings.nightly import NightlySettings
from producer.broker import Broker
from tasks import drift, drift_notices
from tasks.drift_mended import close_breaches
from tests.conftest import Ran
from tests.waiting import wait_until

ANSWER = {"label": "large", "probability": 0.9}


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Registry:
    """``sizes`` has a profile, ``bare`` has none."""
    registry = Registry(tmp_path_factory.mktemp("registry"))
    chance = np.random.default_rng(0)
    rows = pd.DataFrame({"size": chance.normal(size=3_000), "age": chance.normal(size=3_000)})
    model = LogisticRegression().fit(rows, np.where(rows["size"] > 0, "large", "small"))
    release.register("sizes", model, examples=rows[:5], reference=rows, registry=registry)
    release.register("bare", model, examples=rows[:5], registry=registry)
    for name in ("sizes", "bare"):
        registry.aliases(name).promote(1, expected=None, who="test", why="")
    return registry


@pytest.fixture
def broker(
    settings: Settings, registry: Registry, redis_client: redis.Redis
) -> Iterator[Broker]:
    settings = settings.model_copy(update={"models": ModelsSettings(root=registry.root)})
    publish(redis_client, registry.infos())
    broker = Broker(settings)
    yield broker
    broker.close()


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Events that were announced."""
    found: list[Any] = []
    monkeypatch.setattr(drift, "announce", lambda broker, *events: found.extend(events))
    return found


class Clock:
    def __init__(self) -> None:
        self.now_s = 1_000_000.0

    def __call__(self) -> float:
        return self.now_s


class Stream:
    """Items for a counter, and a clock that goes on."""

    def __init__(self, broker: Broker, registry: Registry) -> None:
        self.broker, self.registry = broker, registry
        self.clock = Clock()
        self.chance = np.random.default_rng(3)
        self.scorer = Scorer.load(registry, "sizes", 1, LoadOptions())
        self.counters = [self.counter(), self.counter()]

    def counter(self, client: Any = None) -> DriftCounter:
        """Without its thread, which would count once a second, also among the next test's keys."""
        counter = self.counter_with_thread(client)
        counter._start = lambda: None  # type: ignore[method-assign]
        return counter

    def counter_with_thread(self, client: Any = None) -> DriftCounter:
        return DriftCounter(
            self.registry, client or self.broker.redis, self.broker.settings, clock=self.clock
        )

    def manifest(self, name: str = "sizes") -> ModelVersion:
        return self.registry.get(name, 1)

    def items(self, rows: int, shift: float = 0.0) -> tuple[list[Any], list[Any]]:
        values = self.chance.normal(size=(rows, 2))
        items = [{"size": float(a), "age": float(b + shift)} for a, b in values]
        return items, self.scorer.score(items)

    def come(self, rows: int = 100, shift: float = 0.0) -> list[standing.Standing]:
        """Items for each worker, and a look."""
        self.clock.now_s += 5
        for counter in self.counters:
            counter.offer(self.manifest(), *self.items(rows, shift))
            counter.flush()
        return drift.watch_all(self.broker, self.clock.now_s)


@pytest.fixture
def stream(broker: Broker, registry: Registry) -> Stream:
    return Stream(broker, registry)


def quiet(found: standing.Standing) -> dict[str, str]:
    return {one.name: one.state for one in found.features}


def test_what_workers_count_is_one_window(stream: Stream, told: list[Any]) -> None:
    for _ in range(6):
        found = {one.ref: one for one in stream.come()}
    assert found["bare@1"].state == "no_profile"
    sizes = found["sizes@1"]
    assert sizes.rows == 1_000  # of 1,200 by two workers: the newest
    assert quiet(sizes)["size"] == quiet(sizes)["age"] == "stable"
    shown = sizes.shown()
    assert {"digest", "memory", "unsent", "mark"}.isdisjoint(shown)
    assert standing.load_all(stream.broker.redis) == [found["bare@1"], sizes]


def test_a_shift_is_told_once_and_its_end_once(stream: Stream, told: list[Any]) -> None:
    stream.counters[0].prepare(stream.manifest())
    for shift in [0.0] * 6 + [1.0] * 8 + [0.0] * 12:
        stream.come(shift=shift)
    assert [(event.kind, event.state, event.features) for event in told] == [
        ("data_drift", "opened", ("age",)), ("data_drift", "closed", ("age",)),
    ]
    assert told[0].model == "sizes"


def test_all_keys_expire_or_are_owned(stream: Stream, told: list[Any]) -> None:
    stream.come()
    client = stream.broker.redis
    for key in (
        drift_counts_key("sizes", 1), drift_times_key("sizes", 1), DRIFT_COUNTED_KEY,
        drift_standing_key("sizes", 1), DRIFT_STANDINGS_KEY,
    ):
        assert 0 < client.ttl(key) <= 8 * 86_400, key
    assert not client.exists(DRIFT_WATCHER_KEY)
    assert client.hlen(drift_counts_key("bare", 1)) == 0


def test_a_stretch_is_counted_once_however_often_it_is_written(
    stream: Stream, told: list[Any]
) -> None:
    counter = stream.counters[0]
    for _ in range(3):  # in one stretch of time
        counter.offer(stream.manifest(), *stream.items(100))
        counter.flush()
    fields: Any = stream.broker.redis.hkeys(drift_counts_key("sizes", 1))
    assert len([field for field in fields if counter._process.encode() in field]) == 1
    found = {one.ref: one for one in drift.watch_all(stream.broker, stream.clock.now_s)}
    assert found["sizes@1"].rows == 300


def test_an_item_that_cannot_be_counted_keeps_no_other_from_it(
    stream: Stream, told: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = tally.tally

    def odd(standard: Any, items: Any, *rest: Any) -> Any:
        if any(item["size"] == "odd" for item in items):
            raise OverflowError("odd")
        return whole(standard, items, *rest)

    monkeypatch.setattr(tally, "tally", odd)
    counter = stream.counters[0]
    items, answers = stream.items(100)
    items[41] = items[42] = {"size": "odd", "age": 0.0}
    counter.offer(stream.manifest(), items, answers)
    counter.flush()
    found = {one.ref: one for one in drift.watch_all(stream.broker, stream.clock.now_s)}
    assert found["sizes@1"].items == 98


def test_the_oldest_counts_go(redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(counted, "MOST_FIELDS", 3)
    for at_s in (10.0, 20.0, 30.0, 40.0, 50.0):
        counted.write(
            redis_client, "m", 1, process="a", start_s=at_s, data=str(at_s).encode(), now_s=at_s
        )
    assert redis_client.hlen(drift_counts_key("m", 1)) == 3
    found = counted.newest(redis_client, "m", 1, from_s=0, until_s=45)
    assert [one.start_s for one in found] == [40.0, 30.0]
    assert counted.versions(redis_client, from_s=0) == [("m@1", 50.0)]
    assert counted.versions(redis_client, from_s=60) == []


def test_the_newest_counts_are_read_in_blocks_and_each_once(
    redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    def write(at_s: float) -> None:
        counted.write(
            redis_client, "m", 1, process="a", start_s=at_s, data=str(at_s).encode(), now_s=at_s
        )

    monkeypatch.setattr(counted, "BLOCK", 2)
    for at_s in (10.0, 20.0, 30.0, 40.0, 50.0):
        write(at_s)
    named: list[Any] = []
    zrange = redis_client.zrange

    def counting(*given: Any, **more: Any) -> Any:
        found: Any = zrange(*given, **more)
        named.extend(found)
        return found

    monkeypatch.setattr(redis_client, "zrange", counting)
    found = iter(counted.newest(redis_client, "m", 1, from_s=0, until_s=100))
    first = next(found)
    assert len(named) == 2
    write(60.0)  # meanwhile
    assert [one.start_s for one in (first, *found)] == [50.0, 40.0, 30.0, 20.0, 10.0]


def test_redis_that_is_away_costs_no_answer_and_is_made_good(
    stream: Stream, told: list[Any]
) -> None:
    class Away:
        is_away = True

        def evalsha(self, *given: Any) -> Any:
            if self.is_away:
                raise redis.ConnectionError("away")
            return stream.broker.redis.evalsha(*given)

        def eval(self, *given: Any) -> Any:
            return stream.broker.redis.eval(*given)

    away: Any = Away()
    counter = stream.counter(away)
    counter.offer(stream.manifest(), *stream.items(100))
    counter.flush()
    away.is_away = False
    counter.offer(stream.manifest(), *stream.items(60))
    counter.flush()
    found = {one.ref: one for one in drift.watch_all(stream.broker, stream.clock.now_s)}
    assert found["sizes@1"].rows == 160
    away.is_away = True
    lost = metrics.DRIFT_ITEMS.labels("sizes", "lost")._value.get()
    counter.offer(stream.manifest(), *stream.items(50))
    counter.flush()
    stream.clock.now_s += 60  # that stretch is over
    counter.offer(stream.manifest(), *stream.items(1))
    counter.flush()
    assert metrics.DRIFT_ITEMS.labels("sizes", "lost")._value.get() == lost + 50


def test_a_fast_stream_is_counted_in_part(stream: Stream, told: list[Any]) -> None:
    counter = stream.counters[0]
    for _ in range(20):
        counter.offer(stream.manifest(), *stream.items(100))
    counter.flush()
    found = {one.ref: one for one in drift.watch_all(stream.broker, stream.clock.now_s)}
    assert found["sizes@1"].rows == 512
    assert found["sizes@1"].counted_share == pytest.approx(512 / 2_000, abs=1e-3)


def test_items_that_are_strange_cost_a_line_in_the_log(stream: Stream, told: list[Any]) -> None:
    counter = stream.counters[0]
    counter.offer(stream.manifest(), [{"size": object(), "age": []}, 7], [ANSWER, {"error": {}}])
    counter.flush()
    counter.offer(stream.manifest(), *stream.items(100))
    counter.flush()
    found = {one.ref: one for one in drift.watch_all(stream.broker, stream.clock.now_s)}
    assert found["sizes@1"].rows == 100


def test_a_version_that_is_never_counted_is_told_once(
    stream: Stream, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also while another one is counted beside it."""
    whole = counted.write
    said: list[Any] = []
    folder = stream.registry.folder("sizes", 1)

    def write(client: Any, name: str, version: int, **given: Any) -> None:
        if name == "broken":
            raise ValueError("as ever")
        whole(client, name, version, **given)

    def warning(what: str, **more: Any) -> None:
        said.append((what, more))

    sizes = stream.manifest()
    broken = sizes.model_copy(update={"name": "broken"})
    monkeypatch.setattr(counted, "write", write)
    monkeypatch.setattr(stream.registry, "folder", lambda *_: folder)
    monkeypatch.setattr("celeriac.drift.counter.log", SimpleNamespace(warning=warning))
    for _ in range(3):
        for manifest in (sizes, broken):
            stream.counters[0].offer(manifest, *stream.items(5))
        stream.counters[0].flush()
    assert said == [("drift is not counted", {"reason": "broken@1: ValueError: as ever"})]


def test_a_damaged_profile_that_two_threads_read_stops_no_counting(
    stream: Stream, monkeypatch: pytest.MonkeyPatch
) -> None:
    counter = stream.counters[0]

    def damaged(*given: Any) -> None:
        monkeypatch.setattr(Standard, "of", lambda *_: None)
        counter.prepare(stream.manifest())  # the other thread is faster
        raise errors.RegistryError("damaged")

    monkeypatch.setattr(Standard, "of", damaged)
    counter.offer(stream.manifest(), *stream.items(5))
    counter.flush()
    assert counter._lines == {}


def test_a_profile_that_could_not_be_read_is_read_later(
    stream: Stream, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(*given: Any) -> None:
        raise errors.RegistryError("the disk is away")

    counter = stream.counters[0]
    with monkeypatch.context() as patched:
        patched.setattr(Standard, "of", away)
        counter.prepare(stream.manifest())
    counter.offer(stream.manifest(), *stream.items(5))
    assert counter._lines == {}
    stream.clock.now_s += 601
    counter.offer(stream.manifest(), *stream.items(5))
    counter.flush()
    assert stream.broker.redis.hlen(drift_counts_key("sizes", 1)) == 1


def test_a_version_that_comes_while_a_round_begins_is_counted_by_the_next(
    stream: Stream, monkeypatch: pytest.MonkeyPatch
) -> None:
    counter, load_all = stream.counters[0], stream.counters[0]._load_all
    given = stream.items(5)

    def late() -> None:
        load_all()
        if not counter._lines:
            counter.offer(stream.manifest(), *given)

    monkeypatch.setattr(counter, "_load_all", late)
    counter.flush()
    [line] = counter._lines.values()
    assert (line.rows, line.fails) == (5, False)
    counter.flush()
    assert (line.tally.rows, line.fails) == (5, False)


def test_a_version_without_a_profile_costs_nothing(stream: Stream) -> None:
    counter = stream.counter_with_thread()
    for _ in range(3):
        counter.offer(stream.manifest("bare"), *stream.items(5))
    assert counter._thread is None
    assert counter._lines == {}


def test_a_version_that_is_deleted_is_told_and_forgotten(
    stream: Stream, told: list[Any], redis_client: redis.Redis
) -> None:
    for shift in [0.0] * 4 + [2.0] * 4:
        stream.come(shift=shift)
    publish(redis_client, {})
    assert drift.watch_all(stream.broker, stream.clock.now_s) == []
    assert standing.load_all(redis_client) == []
    assert [event.state for event in told] == ["opened", "closed"]


def test_a_version_that_rests_is_let_go(stream: Stream) -> None:
    counter = stream.counters[0]
    counter.offer(stream.manifest(), *stream.items(5))
    counter.flush()
    stream.clock.now_s += 300
    counter.flush()
    assert len(counter._lines) == 1
    stream.clock.now_s += 301
    counter.flush()
    assert counter._lines == {}
    counter.offer(stream.manifest(), *stream.items(5))
    assert len(counter._lines) == 1


def test_counting_by_its_own_thread(stream: Stream, told: list[Any]) -> None:
    counter = stream.counter_with_thread()
    counter.offer(stream.manifest(), *stream.items(100))
    wait_until(lambda: stream.broker.redis.exists(drift_counts_key("sizes", 1)))


def test_one_task_watches_at_a_time(stream: Stream, told: list[Any]) -> None:
    stream.come()
    first = Watcher(stream.broker.redis, "first")
    assert first.begin()
    assert drift.watch_all(stream.broker, stream.clock.now_s) == []
    first.end()
    assert len(drift.watch_all(stream.broker, stream.clock.now_s)) == 2


def test_a_watch_that_was_overtaken_writes_nothing(
    stream: Stream, told: list[Any]
) -> None:
    (_, one) = stream.come()
    slow = Watcher(stream.broker.redis, "slow")
    assert slow.begin()
    stream.broker.redis.set(DRIFT_WATCHER_KEY, "another")  # its time was over
    with pytest.raises(Overtaken):
        slow.save(one)
    with pytest.raises(Overtaken):
        slow.forget(one)
    slow.end()
    assert stream.broker.redis.get(DRIFT_WATCHER_KEY) == b"another"


def test_many_watches_at_once_open_one_episode(stream: Stream, told: list[Any]) -> None:
    stream.counters[0].prepare(stream.manifest())
    for shift in [0.0] * 3 + [1.0] * 3:
        stream.clock.now_s += 5
        for counter in stream.counters:
            counter.offer(stream.manifest(), *stream.items(100, shift))
            counter.flush()
        threads = [
            threading.Thread(target=drift.watch_all, args=(stream.broker, stream.clock.now_s))
            for _ in range(4)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert [event.state for event in told] == ["opened"]


def test_an_event_that_could_not_be_told_is_told_by_the_next_watch(
    stream: Stream, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(broker: Any, event: Any) -> None:
        raise errors.BrokerError("away")

    monkeypatch.setattr(drift, "announce", away)
    for shift in [0.0] * 4 + [2.0] * 4:
        stream.come(shift=shift)
    found: list[Any] = []
    monkeypatch.setattr(drift, "announce", lambda broker, *events: found.extend(events))
    drift.watch_all(stream.broker, stream.clock.now_s)
    assert [event.state for event in found] == ["opened"]
    drift.watch_all(stream.broker, stream.clock.now_s)
    assert len(found) == 1


def test_a_version_that_nobody_asks_any_more_is_told_and_forgotten(
    stream: Stream, told: list[Any], redis_client: redis.Redis
) -> None:
    for shift in [0.0] * 4 + [2.0] * 4:
        stream.come(shift=shift)
    info = stream.registry.infos()["sizes"].model_copy(update={"aliases": {}})
    publish(redis_client, {"sizes": info})
    drift.watch_all(stream.broker, stream.clock.now_s)
    refs = [one.ref for one in standing.load_all(redis_client)]
    assert refs == ["sizes@1"]  # it was asked a moment ago
    drift.watch_all(stream.broker, stream.clock.now_s + drift.IDLE_S)
    assert standing.load_all(redis_client) == []
    assert not redis_client.exists(drift_counts_key("sizes", 1))
    assert [event.state for event in told] == ["opened", "closed"]


def test_a_watch_that_is_killed_while_it_lets_a_version_go_tells_the_same_event_again(
    stream: Stream, told: list[Any], redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    for shift in [0.0] * 4 + [2.0] * 4:
        stream.come(shift=shift)
    publish(redis_client, {})
    forget = Watcher.forget

    def killed(watcher: Watcher, one: standing.Standing) -> None:
        raise KeyboardInterrupt

    told.clear()
    monkeypatch.setattr(Watcher, "forget", killed)
    with pytest.raises(KeyboardInterrupt):
        drift.watch_all(stream.broker, stream.clock.now_s)
    monkeypatch.setattr(Watcher, "forget", forget)
    drift.watch_all(stream.broker, stream.clock.now_s + 60)
    assert [event.state for event in told] == ["closed"]
    assert standing.load_all(redis_client) == []


def test_refused_items_have_a_gauge_however_many_features_there_are() -> None:
    many = [
        FeatureStanding(name=f"x{number}", role="answer", state="stable", since_s=0.0, rows=9)
        for number in range(drift.SHOWN_FEATURES)
    ]
    none = FeatureStanding(
        name=standing.REFUSED, role="input", state="broken", since_s=0.0, rows=9, distance=0.5
    )
    figures = drift._figures([*many, none])
    assert len(figures) == drift.SHOWN_FEATURES
    assert figures[standing.REFUSED][0] == 0.5


def test_a_damaged_profile_keeps_no_other_version_from_being_watched(
    stream: Stream, tmp_path: Path, told: list[Any]
) -> None:
    broken = stream.registry.folder("sizes", 1) / "profile.json"
    whole = broken.read_bytes()
    drift._read.cache_clear()
    broken.write_bytes(b"{")
    try:
        found = drift.watch_all(stream.broker, stream.clock.now_s)
    finally:
        broken.write_bytes(whole)
    assert [one.ref for one in found] == ["bare@1"]


def test_an_odd_failure_keeps_no_other_version_from_being_watched(
    stream: Stream, told: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    newest, save = counted.newest, Watcher.save

    def odd(*given: Any, **more: Any) -> Any:
        raise ZeroDivisionError("odd")

    def away(watcher: Watcher, one: standing.Standing) -> None:
        raise Overtaken

    stream.come()
    monkeypatch.setattr(counted, "newest", odd)
    assert [one.ref for one in drift.watch_all(stream.broker, stream.clock.now_s)] == ["bare@1"]
    monkeypatch.setattr(counted, "newest", newest)
    monkeypatch.setattr(Watcher, "save", away)  # that one ends the look
    assert drift.watch_all(stream.broker, stream.clock.now_s) == []
    monkeypatch.setattr(Watcher, "save", save)
    assert len(drift.watch_all(stream.broker, stream.clock.now_s)) == 2


def test_a_person_says_that_the_data_are_mended(
    stream: Stream, told: list[Any], celeriac: Callable[..., Ran]
) -> None:
    settings = stream.broker.settings
    env = {
        "CELERIAC_BROKER_URL": settings.broker_url,
        "CELERIAC_MODELS_ROOT": str(stream.registry.root),
    }
    stream.clock.now_s = time.time() - 3_600
    nothing = celeriac("drift", "mended", "sizes", env=env)
    assert nothing.returncode != 0
    assert "no broken data are open" in " ".join(nothing.stderr.split())

    stream.clock.now_s += 5
    item = {"size": "large", "age": 1.0}
    answers = stream.scorer.score([item] * 500)
    stream.counters[0].offer(stream.manifest(), [item] * 500, answers)
    stream.counters[0].flush()
    drift.watch_all(stream.broker, stream.clock.now_s)
    assert [(one.kind, one.state) for one in told] == [("data_quality", "opened")]
    found = celeriac("drift", "mended", "sizes", "--why", "a client was old", env=env)
    assert "sizes@1: the data are mended" in found.stdout
    assert [(one.kind, one.state) for one in told[1:]] == [("data_quality", "closed")]
    assert told[1].detail.endswith(": a client was old")

    stream.clock.now_s = time.time() + 60
    (_, sizes) = stream.come(rows=300)
    assert (sizes.state, sizes.items, sizes.episodes) == ("stable", 600, {})
    assert len(told) == 2  # of the items of before nothing is heard any more


def test_what_only_the_policy_remembers_is_closed_by_a_person_too(
    stream: Stream, monkeypatch: pytest.MonkeyPatch
) -> None:
    rule = AdaptSettings.model_validate({
        "retrain": "shop.retrain", "queue": "training", "labelled": "rows.csv", "label": "y",
    })
    drifts = stream.broker.settings.drift.model_copy(update={"adapt": {"sizes": rule}})
    broker = Broker(stream.broker.settings.model_copy(update={"drift": drifts}))
    breach = DriftEvent(
        kind="data_quality", state="opened", model="sizes", version=1, source="stream",
        features=("age",), detail="age is null", at_s=time.time(),
    )
    assert drift_notices.tell(broker, breach)
    log = AdaptationLog(stream.registry.root, "sizes")
    assert list(log.read()[0].broken) == ["stream@1"]
    found: list[DriftEvent] = []
    monkeypatch.setattr(
        "tasks.drift_mended.announce", lambda broker, *events: found.extend(events)
    )
    ref = ModelRef(name="sizes")
    assert close_breaches(broker, ref, why="mended") == ["sizes@1"]
    for event in found:
        assert drift_notices.tell(broker, event)
    assert log.read()[0].broken == {}
    with pytest.raises(errors.RequestError, match="no broken data"):
        close_breaches(broker, ref, why="mended")

    # Of two entries of the schedule, one is there no more.
    gone, here = (replace(breach, source="dataset", entry=name) for name in ("gone", "here"))
    entry = NightlySettings(model="sizes", dataset="in/{date}.csv", output="out/{date}")
    settings = broker.settings.model_copy(update={"nightly": {"here": entry}})
    broker.close()
    broker = Broker(settings)
    assert drift_notices.tell(broker, gone)
    assert drift_notices.tell(broker, here)
    found.clear()
    assert close_breaches(broker, ref, why="mended") == ["sizes@1"]
    assert [(event.entry, event.state) for event in found] == [("gone", "closed")]
    assert drift_notices.tell(broker, found[0])
    assert list(log.read()[0].broken) == ["dataset:here@1"]
    broker.close()


def test_what_is_shown_no_more_keeps_no_gauge(stream: Stream, told: list[Any]) -> None:
    distance = metrics.DRIFT_DISTANCE.labels("sizes", "1", standing.REFUSED)
    for refused in [20, 20, 0, 0, 0, 0, 0, 0]:
        items, answers = stream.items(100)
        items += [{"size": "large"}] * refused
        answers += [{"error": {"code": "item_invalid", "message": ""}}] * refused
        stream.clock.now_s += 5
        for counter in stream.counters:
            counter.offer(stream.manifest(), items, answers)
            counter.flush()
        drift.watch_all(stream.broker, stream.clock.now_s)
        if refused:
            assert distance._value.get() == pytest.approx(1 / 6, abs=0.001)
    assert math.isnan(distance._value.get())


def test_an_event_goes_to_whoever_tells_it(stream: Stream) -> None:
    """With the task that is really sent: one message for each event."""
    for shift in [0.0] * 4 + [2.0] * 4:
        stream.come(shift=shift)
    waiting = stream.broker.redis.lrange("maintenance", 0, -1)
    assert len(waiting) == 1
    assert b"celeriac.drift.notice" in waiting[0]
    assert drift_notices.DRIFT_NOTICE == "celeriac.drift.notice"
