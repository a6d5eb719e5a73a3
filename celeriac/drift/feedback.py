"""Labels as counts in Redis: how often a version was right, by the time of the prediction.

A label adds to the counts of its five minutes and to the stream that the test of
:mod:`celeriac.drift.concept` reads, in one script; no label and no item is kept.
"""

from __future__ import annotations

import math
import secrets
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from celeriac import errors, lua
from celeriac.drift.labels import Judged
from celeriac.keys import (
    FEEDBACK_KEY_KEY,
    FEEDBACK_VERSIONS_KEY,
    feedback_counts_key,
    feedback_seen_key,
    feedback_stream_key,
)
from celeriac.settings import FeedbackSettings

BUCKET_S = 300
"""Counts are kept for each five minutes."""
DAY_S = 86_400
MOST_WAITING = 100_000
"""Labels of a version that wait for the test; further ones are counted, and not tested."""
_Z_95 = 1.959964

_RECORD = """
local seen, counts, stream, versions = unpack(KEYS)
local nonce, seen_until, most, bucket, kept, right, off, waiting, name, now = unpack(ARGV)
local function add(what, value)  -- HINCRBYFLOAT keeps 17 digits after the point: too few
  local sum = (redis.call('HGET', counts, bucket .. what) or 0) + value
  redis.call('HSET', counts, bucket .. what, string.format('%.17g', sum))
end
if redis.call('SISMEMBER', seen, nonce) == 1 then return 'again' end
if redis.call('SCARD', seen) >= tonumber(most) then return 'full' end
redis.call('SADD', seen, nonce)
redis.call('EXPIREAT', seen, seen_until)
redis.call('HINCRBY', counts, bucket .. ':rows', 1)
if off == '' then
  redis.call('HINCRBY', counts, bucket .. ':right', right)
else
  add(':off', off)
  add(':square', off * off)
end
redis.call('EXPIRE', counts, kept)
if redis.call('LLEN', stream) < tonumber(waiting) then
  redis.call('RPUSH', stream, off == '' and tostring(1 - right) or off)
  redis.call('EXPIRE', stream, kept)
end
redis.call('ZADD', versions, now, name)
redis.call('EXPIRE', versions, kept)
return 'counted'
"""
_KEY = """
redis.call('SET', KEYS[1], ARGV[1], 'NX')
return redis.call('GET', KEYS[1])
"""


@dataclass(frozen=True, kw_only=True)
class Labelled:
    """A label that belongs to a prediction."""

    model: str
    version: int
    made_s: float
    """When the prediction was made, Unix time."""
    nonce: bytes
    """A prediction counts once."""
    judged: Judged


@dataclass(frozen=True, kw_only=True)
class Accuracy:
    """How good the answers of one version were, of those whose truth is known.

    Its first four are named as those of :class:`celeriac.drift.profile.Performance`.
    """

    measure: Literal["accuracy", "mean absolute error"]
    rows: int
    value: float
    """Share of right answers, or mean absolute error. 0 of no rows."""
    error: float
    """Standard error of the value."""

    @property
    def more_is_better(self) -> bool:
        return self.measure == "accuracy"

    @property
    def interval(self) -> tuple[float, float]:
        """95 %: of a share Wilson's, of a mean the normal one."""
        if not self.rows:
            return 0.0, 1.0 if self.more_is_better else math.inf
        if not self.more_is_better:
            return max(0.0, self.value - _Z_95 * self.error), self.value + _Z_95 * self.error
        square, rows = _Z_95**2, self.rows
        middle = (self.value + square / (2 * rows)) / (1 + square / rows)
        half = _Z_95 / (1 + square / rows) * math.sqrt(
            self.value * (1 - self.value) / rows + square / (4 * rows**2)
        )
        return max(0.0, middle - half), min(1.0, middle + half)


def signing_key(client: Any, settings: FeedbackSettings, held: bytes = b"") -> bytes:
    """What signs ids: ``[feedback] secret``, or a key that is made once and kept in Redis.

    ``held`` was the key before: it is put back if Redis has lost it. Raises redis.RedisError.
    """
    if settings.secret:
        return settings.secret.encode()
    key: bytes = lua.run(client, _KEY, [FEEDBACK_KEY_KEY], held or secrets.token_hex(32))
    return key


def record(
    client: Any, labelled: Labelled, settings: FeedbackSettings, *, now_s: float
) -> bool:
    """Count a label; False if its prediction had one already.

    Raises Overloaded if too many are remembered of that day, and redis.RedisError.
    """
    model, version = labelled.model, labelled.version
    day = int(labelled.made_s // DAY_S)
    judged = labelled.judged
    outcome = lua.run(
        client, _RECORD,
        [
            feedback_seen_key(model, version, day), feedback_counts_key(model, version, day),
            feedback_stream_key(model, version), FEEDBACK_VERSIONS_KEY,
        ],
        labelled.nonce, round((day + 1) * DAY_S + settings.accepted_s), settings.max_per_day,
        int(labelled.made_s % DAY_S // BUCKET_S), settings.kept_s, int(bool(judged.right)),
        "" if judged.absolute_error is None else repr(float(judged.absolute_error)), MOST_WAITING,
        f"{model}:{version}", repr(now_s),
    )  # fmt: skip
    if outcome == b"full":
        raise errors.Overloaded(
            f"{settings.max_per_day:,} predictions that {model}@{version} made on one day have "
            "labels already ([feedback] max_per_day)"
        )
    return bool(outcome == b"counted")


def accuracy_since(
    client: Any, model: str, version: int, since_s: float, now_s: float | None = None
) -> Accuracy:
    """Of the predictions that ``version`` made since ``since_s`` (Unix time; to five minutes).

    Raises redis.RedisError.
    """
    return _total(_buckets(client, model, version, since_s, now_s).values())


@dataclass(frozen=True, kw_only=True)
class VersionAccuracy:
    """How good one version was."""

    version: int
    whole: Accuracy
    over_time: list[tuple[float, Accuracy]]
    """Of each step in which there are labels, by its beginning (Unix time)."""


def accuracies(
    client: Any, model: str, since_s: float, step_s: float, now_s: float
) -> list[VersionAccuracy]:
    """Of each version of a model that has labels since then, the newest first; also by steps of
    ``step_s``.

    Raises redis.RedisError.
    """
    found = []
    for name, version in sorted(labelled_versions(client), reverse=True):
        if name != model:
            continue
        buckets = _buckets(client, model, version, since_s, now_s)
        if buckets:
            found.append(VersionAccuracy(
                version=version, whole=_total(buckets.values()),
                over_time=_by_steps(buckets, step_s),
            ))
    return found


def labelled_versions(client: Any) -> dict[tuple[str, int], float]:
    """Versions that have labels, to when the last one came. Raises redis.RedisError."""
    found = {}
    for name, at_s in client.zrange(FEEDBACK_VERSIONS_KEY, 0, -1, withscores=True):
        model, _, version = name.decode().partition(":")
        found[model, int(version)] = float(at_s)
    return found


@dataclass(kw_only=True)
class _Counts:
    rows: int = 0
    right: int | None = None
    off: float = 0.0
    square: float = 0.0


def _buckets(
    client: Any, model: str, version: int, since_s: float, now_s: float | None
) -> dict[float, _Counts]:
    """By the beginning of their five minutes."""
    now_s = time.time() if now_s is None else now_s
    days = range(int(since_s // DAY_S), int(now_s // DAY_S) + 1)
    pipe = client.pipeline(transaction=False)
    for day in days:
        pipe.hgetall(feedback_counts_key(model, version, day))
    found: dict[float, _Counts] = {}
    for day, fields in zip(days, pipe.execute(), strict=True):
        found |= {
            begin_s: counts for begin_s, counts in _of_day(day, fields)
            if begin_s + BUCKET_S > since_s
        }
    return found


def _by_steps(
    buckets: Mapping[float, _Counts], step_s: float
) -> list[tuple[float, Accuracy]]:
    steps: dict[float, list[_Counts]] = {}
    for begin_s, counts in buckets.items():
        steps.setdefault(begin_s // step_s * step_s, []).append(counts)
    return [(begin_s, _total(steps[begin_s])) for begin_s in sorted(steps)]


def _of_day(day: int, fields: Mapping[bytes, bytes]) -> Iterator[tuple[float, _Counts]]:
    found: dict[int, _Counts] = {}
    for field, value in fields.items():
        number, _, what = field.decode().partition(":")
        counts = found.setdefault(int(number), _Counts())
        setattr(counts, what, int(value) if what in {"rows", "right"} else float(value))
    for bucket in sorted(found):
        yield float(day * DAY_S + bucket * BUCKET_S), found[bucket]


def _total(counts: Iterable[_Counts]) -> Accuracy:
    listed = list(counts)
    rows = sum(one.rows for one in listed)
    if any(one.right is None for one in listed):
        mean = sum(one.off for one in listed) / max(rows, 1)
        spread = max(0.0, sum(one.square for one in listed) / max(rows, 1) - mean**2)
        return Accuracy(
            measure="mean absolute error", rows=rows, value=mean,
            error=math.sqrt(spread / max(rows, 1)),
        )
    share = sum(one.right or 0 for one in listed) / max(rows, 1)
    return Accuracy(
        measure="accuracy", rows=rows, value=share,
        error=math.sqrt(share * (1 - share) / max(rows, 1)),
    )
