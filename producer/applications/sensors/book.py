"""Takes readings for a tenant: reads what is known of their sensors, judges, writes, in blocks.

Who judges is whoever was called: a service, a gateway. If somebody else has written a sensor's
state in the meantime, its readings are judged again on top of that.
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import numpy as np
import redis

from celeriac.applications.sensors import ingest, rows, state
from celeriac.applications.sensors.alarms import Change
from celeriac.applications.sensors.readings import Readings
from celeriac.drift.episodes import Hysteresis
from celeriac.messages import CONTRACT, SENSORS_ANALYSE, batch_queue
from celeriac.settings import SensorSettings
from producer import wire
from producer.applications.sensors import answers
from producer.applications.sensors.answers import Outcome
from producer.applications.sensors.scripts import MOST_ALARMS
from producer.applications.sensors.store import BEHIND, NO_ROOM, SAVED, Save, SensorStore
from producer.broker import Broker
from producer.jobs import redis_errors

Array = np.ndarray[Any, Any]

BLOCK_SENSORS = 250
"""Sensors of one exchange: Redis is busy with so many for a few milliseconds."""
OVERLAP_FROM = 4
"""Blocks from which on two threads take them."""
PATIENCE_S = 5.0
"""How long readings are judged anew while others write the same sensors."""
CALL_EXPIRES_S = 60
"""The sweep calls again: a batch role that was away finds no heap of calls."""
_encode = msgspec.json.Encoder().encode


@dataclass(frozen=True)
class _Part:
    """Readings of some sensors."""

    places: Array
    """Among all readings."""
    owner: Array
    """Place of each one's sensor in ``names``."""
    names: list[str]

    def only(self, wanted: list[int]) -> _Part:
        """Those of some of its sensors."""
        renamed = np.full(len(self.names), -1)
        renamed[wanted] = np.arange(len(wanted))
        kept = renamed[self.owner] >= 0
        return _Part(
            self.places[kept], renamed[self.owner[kept]], [self.names[one] for one in wanted]
        )


class SensorBook:
    """The readings of one tenant. Safe with threads."""

    def __init__(self, broker: Broker, tenant: str) -> None:
        self._broker = broker
        self._tenant = tenant
        self._settings: SensorSettings = broker.settings.sensors

    def take(
        self, readings: Readings, threshold: float | None = None, scores: Array | None = None
    ) -> list[Outcome]:
        """Judge readings and keep them: an answer or an error for each, in their order.

        ``scores`` are those of a model; then ``threshold`` is of these. Raises PayloadTooLarge, and
        BrokerError: then some may have been kept, and can be sent again all the same.
        """
        answers.check_count(readings, self._settings.max_readings)
        found: list[Outcome | None] = [readings.errors.get(place) for place in range(len(readings))]
        work = _Work(readings, self._rule(threshold), scores, found)
        with redis_errors(self._broker):
            self._take_all(work, list(_parts(readings)))
        return [one for one in found if one is not None]

    def _take_all(self, work: _Work, parts: list[_Part]) -> None:
        """One after the other; of many, two at a time: one is judged while Redis writes another."""
        if len(parts) < OVERLAP_FROM:
            for part in parts:
                self._take(work, part)
            return
        with ThreadPoolExecutor(2, "sensors") as pool:
            for _ in pool.map(lambda part: self._take(work, part), parts):
                pass

    def _rule(self, threshold: float | None) -> ingest.Rule:
        settings = self._settings
        return ingest.Rule(
            threshold=settings.threshold if threshold is None else threshold,
            min_scale=settings.min_scale,
            hysteresis=Hysteresis(
                close_below=settings.close_below, close_looks=settings.close_readings
            ),
        )

    def _take(self, work: _Work, part: _Part) -> None:
        store = SensorStore(self._broker.redis, self._settings)
        end_s, pause_s = time.monotonic() + PATIENCE_S, 0.001
        while part.names:
            known = store.states(self._tenant, part.names)
            lost: list[int] = []
            for channels, some in work.by_channels(part, known):
                lost += self._write(store, work, some, known, channels)
            part = part.only(sorted(lost))
            if lost and time.monotonic() > end_s:
                work.refuse(part, answers.contended)
                return
            if lost:
                time.sleep(random.uniform(0, pause_s))  # noqa: S311 - no secret
                pause_s = min(pause_s * 2, 0.05)

    def _write(
        self, store: SensorStore, work: _Work, part: _Part, known: Sequence[bytes | None],
        channels: int,
    ) -> list[int]:
        """Sensors (places in ``known``) that somebody else has written."""
        owners = np.unique(part.owner).tolist()
        some = part.only(owners)
        data = [known[owner] for owner in owners]
        taken = work.judge(some, state.read(data, self._settings.window, channels))
        saves = list(_saves(taken, some, data, channels, self._settings.forget_after_s))
        saved = store.save(self._tenant, channels, [save for _, save in saves])
        if saved.calls:
            call(self._broker.redis)
        outcomes = {one: outcome for (one, _), outcome in zip(saves, saved.outcomes, strict=True)}
        settled = [one for one in range(len(owners)) if outcomes.get(one, SAVED) == SAVED]
        work.answer(some, taken.judged, set(settled), self._settings.window)
        done = set(settled)
        for refusal, error in (
            (NO_ROOM, answers.no_room(self._settings.max_sensors)),
            (BEHIND, answers.behind(self._settings.max_ready_mb)),
        ):
            refused = [one for one, outcome in outcomes.items() if outcome == refusal]
            work.refuse(some.only(refused), lambda _, error=error: error)
            done |= set(refused)
        return [owner for one, owner in enumerate(owners) if one not in done]


class _Work:
    """The readings of one call, and what is known of them so far."""

    def __init__(
        self, readings: Readings, rule: ingest.Rule, scores: Array | None,
        found: list[Outcome | None],
    ) -> None:
        self._readings, self._rule, self._scores, self._found = readings, rule, scores, found
        self._lengths = (
            np.full(len(readings), readings.values.shape[1])
            if isinstance(readings.values, np.ndarray)
            else np.array([len(row) for row in readings.values], dtype=np.int64)
        )

    def by_channels(
        self, part: _Part, known: Sequence[bytes | None]
    ) -> Iterator[tuple[int, _Part]]:
        """The readings of sensors with as many channels as each other. A new sensor has as many
        as its first reading; one with another number is refused."""
        lengths = self._lengths[part.places]
        wanted = np.array([state.channels_of(one) for one in known], dtype=np.int64)
        firsts = np.full(len(known), -1)
        firsts[part.owner[::-1]] = np.arange(len(part.owner))[::-1]
        is_new = (wanted == 0) & (firsts >= 0)
        wanted[is_new] = lengths[firsts[is_new]]
        fits = lengths == wanted[part.owner]
        for at in np.flatnonzero(~fits).tolist():
            owner = part.owner[at]
            self._found[part.places[at]] = answers.other_channels(
                part.names[owner], int(wanted[owner]), int(lengths[at])
            )
        for channels in np.unique(lengths[fits]).tolist():
            some = fits & (lengths == channels)
            yield channels, _Part(part.places[some], part.owner[some], part.names)

    def judge(self, part: _Part, states: Array) -> ingest.Taken:
        readings = self._readings
        if isinstance(readings.values, np.ndarray):
            values = readings.values[part.places]
        else:
            values = np.stack([readings.values[place] for place in part.places])
        came = ingest.Came(part.owner, readings.at_ms[part.places], values)
        scores = None if self._scores is None else self._scores[part.places]
        return ingest.take(states, part.names, came, self._rule, scores)

    def answer(self, part: _Part, judged: ingest.Judged, settled: set[int], window: int) -> None:
        names = [part.names[owner] for owner in part.owner]
        seconds = (self._readings.at_ms[part.places] / 1_000).tolist()
        made = answers.answers(names, seconds, judged, self._rule.threshold, window)
        is_all = len(settled) == len(part.names)
        for place, owner, answer in zip(
            part.places.tolist(), part.owner.tolist(), made, strict=True
        ):
            if is_all or owner in settled:
                self._found[place] = answer

    def refuse(self, part: _Part, error: Any) -> None:
        for place, owner in zip(part.places.tolist(), part.owner.tolist(), strict=True):
            self._found[place] = error(part.names[owner])


def call(client: redis.Redis) -> None:
    """Call a batch worker to what is ready. Raises redis.RedisError."""
    queue = batch_queue("cpu")
    client.lpush(queue, wire.task_message(
        SENSORS_ANALYSE, wire.new_id(), queue, {"v": CONTRACT}, shown={}, ignore_result=True,
        expires_at=datetime.now(UTC) + timedelta(seconds=CALL_EXPIRES_S),
    ))  # fmt: skip


def _parts(readings: Readings) -> Iterator[_Part]:
    """The readings without errors, a bounded number of sensors at a time."""
    index: dict[str, int] = {}
    owner = np.array(
        [index.setdefault(name, len(index)) for name in readings.sensors], dtype=np.int64
    )
    places = np.arange(len(readings))
    if readings.errors:
        fine = np.ones(len(readings), dtype=bool)
        fine[list(readings.errors)] = False
        places = places[fine]
    names, mine = list(index), owner[places]
    for start in range(0, len(names), BLOCK_SENSORS):
        some = places[(mine >= start) & (mine < start + BLOCK_SENSORS)]
        whole = _Part(some, owner[some] - start, names[start : start + BLOCK_SENSORS])
        yield whole.only(np.unique(whole.owner).tolist())


def _saves(
    taken: ingest.Taken, part: _Part, data: Sequence[bytes | None], channels: int, ttl_s: int
) -> Iterator[tuple[int, Save]]:
    """What is to be written of the sensors that have something new, by their place."""
    now_s = int(time.time())
    states, width = taken.states, rows.width(channels)
    # A sensor's place in the list of those that are alive need not be kept to the second.
    touch = np.abs(now_s - states["indexed_s"].astype(np.int64)) > max(1, ttl_s // 10)
    states["indexed_s"][touch] = now_s
    # From the system: two forked processes must not come to the same ones.
    states["token"] = np.frombuffer(os.urandom(state.TOKEN_BYTES * len(states)), "V8")
    written, kept = taken.rows.tobytes(), state.written(states)
    ends = np.cumsum(taken.counts) * width
    alarms = _alarms(taken.judged.changes, part)
    for one in np.flatnonzero(taken.counts).tolist():
        before = data[one]
        yield one, Save(
            name=part.names[one],
            token=b"" if before is None else before[: state.TOKEN_BYTES],
            state=kept[one],
            rows=written[ends[one] - taken.counts[one] * width : ends[one]],
            touch=bool(touch[one]), alarms=alarms.get(one, b""),
        )


def _alarms(changes: list[Change], part: _Part) -> dict[int, bytes]:
    """What opened and closed, by the place of the sensor: a line of JSON each, the newest last."""
    found: dict[int, list[bytes]] = {}
    for change in changes:
        episode = asdict(change.episode)
        told = {"sensor": episode.pop("feature"), "event": change.event, **episode}
        found.setdefault(int(part.owner[change.row]), []).append(_encode(told))
    return {one: b"\n".join(told[-MOST_ALARMS:]) for one, told in found.items()}
