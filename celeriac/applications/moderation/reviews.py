"""The review queue in Redis: what people are to look at, and what they said about it.

An item is open until somebody decides it, or it expires; its content is in Redis for that long and
nowhere else. A decision makes a label of it, with the text, for those who train models; labels
expire, too. Each change is one atomic script; the first decision stays.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from typing import Any, Literal

import msgspec

from celeriac import errors, lua
from celeriac.applications.moderation.audit import Record
from celeriac.applications.moderation.decision import Post
from celeriac.messages import DEFAULT_TENANT

MOST_TEXT = 10_000
"""Characters of a text that are kept for whoever looks at it."""
BLOCK = 500
"""Reviews or labels that are read at once: of the longest texts some megabytes."""

_PREFIX = "celeriac:moderation"


def open_key(tenant: str) -> str:
    """Sorted set of the open reviews of a tenant by the time (Unix ms) at which they expire.
    Trimmed by who enters or lists; expires with the last in it."""
    return f"{_PREFIX}:open:{tenant}"


def review_key(tenant: str, decision_id: str) -> str:
    """One open review (JSON). Expires ``[moderation] review_days`` after it was entered."""
    return f"{_PREFIX}:review:{tenant}:{decision_id}"


def labels_key(tenant: str) -> str:
    """Sorted set of labels of a tenant by the time (Unix ms) at which they expire. As
    :func:`open_key`."""
    return f"{_PREFIX}:labels:{tenant}"


def label_key(tenant: str, decision_id: str) -> str:
    """One label (JSON). Expires ``[moderation] label_days`` after the decision."""
    return f"{_PREFIX}:label:{tenant}:{decision_id}"


class Review(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What somebody is to look at."""

    id: str
    """Of the decision."""
    at_ms: int
    record: Record
    text: str | None = None
    cut: bool = False
    """The text is longer than what is kept of it."""
    predictions: dict[str, str] = {}
    """Ids of the predictions behind the scores, by ``PART CATEGORY``."""


class Label(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What somebody said."""

    id: str
    at_ms: int
    decision: Literal["allow", "block"]
    by: str
    review: Review
    categories: tuple[str, ...] = ()
    """Those that the post does belong to."""
    note: str = ""


class ReviewQueue:
    """The reviews of one tenant. Methods raise redis.RedisError."""

    def __init__(
        self, client: Any, *, tenant: str = DEFAULT_TENANT, most_open: int, review_s: int,
        label_s: int,
    ) -> None:
        self._client = client
        self._tenant = tenant
        self._most_open = most_open
        self._review_ms = review_s * 1_000
        self._label_ms = label_s * 1_000

    def enter(
        self, record: Record, post: Post, predictions: Mapping[str, str] | None = None
    ) -> bool:
        """Have somebody look at a post; False if the queue is full, and then nobody will."""
        now_ms = int(time.time() * 1_000)
        text = post.text
        review = Review(
            id=record.id, at_ms=now_ms, record=record, text=text and text[:MOST_TEXT],
            cut=text is not None and len(text) > MOST_TEXT, predictions=dict(predictions or {}),
        )
        keys = (open_key(self._tenant), review_key(self._tenant, record.id))
        return bool(lua.run(
            self._client, _ENTER, keys, record.id, msgspec.json.encode(review), self._review_ms,
            self._most_open,
        ))

    def open(self, most: int = 100) -> list[Review]:
        """Open reviews, the oldest first."""
        return list(chain.from_iterable(self._listed(open_key, review_key, Review, most)))

    def count(self) -> int:
        now_ms = int(time.time() * 1_000)
        return int(self._client.zcount(open_key(self._tenant), now_ms, "+inf"))

    def decide(self, label: Label) -> None:
        """Settle an open review. Raises Conflict if somebody else has, PredictionNotFound."""
        keys = [
            key(self._tenant, label.id) for key in (review_key, label_key)
        ] + [open_key(self._tenant), labels_key(self._tenant)]
        state, known = lua.run(
            self._client, _DECIDE, keys, label.id, msgspec.json.encode(label), self._label_ms
        )
        if state == b"decided":
            raise _decided(known)
        if state != b"done":
            raise _not_open(label.id)

    def review(self, decision_id: str) -> Review:
        """One open review. Raises Conflict if it is decided, PredictionNotFound."""
        found = self._client.get(review_key(self._tenant, decision_id))
        if found is not None:
            return msgspec.json.decode(found, type=Review)
        label = self._client.get(label_key(self._tenant, decision_id))
        if label is not None:
            raise _decided(label)
        raise _not_open(decision_id)

    def labels(self) -> list[Label]:
        """What people said, the oldest first."""
        return [label for block in self.labels_by_block() for label in block]

    def labels_by_block(self) -> Iterator[list[Label]]:
        """As :meth:`labels`, some at a time: all of them may be more than memory holds."""
        return self._listed(labels_key, label_key, Label, 1_000_000)

    def _listed(self, index: Any, key: Any, kind: Any, most: int) -> Iterator[list[Any]]:
        now_ms = int(time.time() * 1_000)
        name = index(self._tenant)
        self._client.zremrangebyscore(name, "-inf", now_ms)
        ids = [found.decode() for found in self._client.zrange(name, 0, most - 1)]
        for block in _blocks(ids):
            found = self._client.mget([key(self._tenant, one) for one in block])
            yield [msgspec.json.decode(data, type=kind) for data in found if data is not None]


def _decided(label: bytes) -> errors.Conflict:
    before = msgspec.json.decode(label, type=Label)
    return errors.Conflict(f"{before.id} was decided already: {before.decision}, by {before.by}")


def _not_open(decision_id: str) -> errors.PredictionNotFound:
    return errors.PredictionNotFound(
        f"{decision_id[:80]} is not among the reviews: it was never one, or has expired"
    )


def _blocks(ids: Sequence[str]) -> Iterator[Sequence[str]]:
    for start in range(0, len(ids), BLOCK):
        yield ids[start : start + BLOCK]


# A connection sends a script again whose answer was lost: then it says once more what it did.
_NOW = """
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local function enter(index, key, id, value, ttl)
  redis.call('SET', key, value, 'PX', ttl)
  redis.call('ZADD', index, now + ttl, id)
  if redis.call('PEXPIRETIME', index) < now + ttl then
    redis.call('PEXPIREAT', index, now + ttl)
  end
end
"""

# KEYS: index, item. ARGV: id, item, ms that it is kept, most that may be open.
_ENTER = _NOW + """
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now)
if redis.call('ZCARD', KEYS[1]) >= tonumber(ARGV[4])
    and not redis.call('ZSCORE', KEYS[1], ARGV[1]) then return 0 end
enter(KEYS[1], KEYS[2], ARGV[1], ARGV[2], tonumber(ARGV[3]))
return 1
"""

# KEYS: review, label, index of reviews, of labels. ARGV: id, label, ms that it is kept.
_DECIDE = _NOW + """
local known = redis.call('GET', KEYS[2])
if known == ARGV[2] then return {'done', ''} end
if known then return {'decided', known} end
if redis.call('DEL', KEYS[1]) == 0 then return {'gone', ''} end
redis.call('ZREM', KEYS[3], ARGV[1])
redis.call('ZREMRANGEBYSCORE', KEYS[4], '-inf', now)
enter(KEYS[4], KEYS[2], ARGV[1], ARGV[2], tonumber(ARGV[3]))
return {'done', ''}
"""
