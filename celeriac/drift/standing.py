"""How the items of a version stand: what the watch remembers, and what it shows to people.

Light: the gateway reads it, without any library of models or statistics.
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from celeriac import lua
from celeriac.drift.episodes import Watched
from celeriac.drift.records import State
from celeriac.keys import (
    DRIFT_KEPT_S,
    DRIFT_STANDINGS_KEY,
    DRIFT_WATCHER_KEY,
    DRIFT_WATCHER_S,
    drift_standing_key,
)
from celeriac.messages import ModelRef

Kind = Literal["data_quality", "data_drift"]
KINDS: tuple[Kind, ...] = ("data_quality", "data_drift")
ENDED_KEPT = 10
REFUSED = "(refused items)"
"""Stands among the features for the items that are none."""


class FeatureStanding(msgspec.Struct, frozen=True, kw_only=True):
    """One feature in the window."""

    name: str
    role: Literal["input", "answer"]
    state: State
    since_s: float
    """Unix time since when it is in this state."""
    rows: int
    distance: float | None = None
    """None: there are too few rows to say."""
    threshold: float | None = None
    """None: the reference is too short to know."""
    note: str = ""
    """What is broken."""


class OpenEpisode(msgspec.Struct, frozen=True, kw_only=True):
    """What drifts or is broken now."""

    opened_at_s: float
    features: tuple[str, ...]
    """All that took part so far, in the order in which they came."""


class EndedEpisode(msgspec.Struct, frozen=True, kw_only=True):
    """What drifted or was broken."""

    kind: Kind
    opened_at_s: float
    closed_at_s: float
    features: tuple[str, ...]


class Mark(msgspec.Struct, frozen=True):
    """How far the stream had come at the last look."""

    start_s: float = 0.0
    """When the newest stretch of time began ..."""
    rows: int = 0
    """... and how many items it held then."""
    judged_s: float = 0.0
    judged_rows: int = 0
    """The same of sound items alone, at the last look at how they are distributed."""


class Standing(msgspec.Struct, frozen=True, kw_only=True):
    """One version."""

    contract: int = 1
    model: str
    version: int
    state: State
    since_s: float
    """Unix time since when it is in this state."""
    watched_at_s: float
    """The watch was here ..."""
    looked_at_s: float | None = None
    """... and looked last, because there were enough new items."""
    rows: int = 0
    """Items in the window, at the last look."""
    items: int = 0
    """In the window now ..."""
    window_rows: int = 0
    """... of so many that it takes."""
    full_in_s: float | None = None
    """Until the window is full, at the average pace since the first item in it, pauses included;
    None: it is full, or empty."""
    fills: bool = True
    """False: so few items come that counts are dropped before the window is full."""
    counted_share: float = 1.0
    """Of those that came: a stream that is too fast is counted in part."""
    window_start_s: float | None = None
    window_end_s: float | None = None
    features: tuple[FeatureStanding, ...] = ()
    episodes: dict[Kind, OpenEpisode] = {}
    ended: tuple[EndedEpisode, ...] = ()
    """The newest first."""
    digest: str = ""
    """Of the profile that all this refers to."""
    begin_s: float = 0.0
    """What was counted before says nothing any more: somebody has mended the data."""
    mark: Mark = Mark()
    memory: dict[str, Watched] = {}
    """By ``KIND:FEATURE``: those of which an episode is open."""
    unsent: tuple[dict[str, Any], ...] = ()
    """Events that nobody has been told of yet."""

    @property
    def ref(self) -> str:
        return f"{self.model}@{self.version}"

    def shown(self) -> dict[str, Any]:
        """What people may see of it, as JSON."""
        found: dict[str, Any] = msgspec.to_builtins(self)
        for name in ("begin_s", "digest", "mark", "memory", "unsent"):
            del found[name]
        return found


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Standing).decode


def load_all(client: Any) -> list[Standing]:
    """Of all versions, by name and version; what another release wrote is left out. Raises
    redis.RedisError."""
    refs = [ref.decode() for ref in client.smembers(DRIFT_STANDINGS_KEY)]
    if not refs:
        return []
    found = client.mget([drift_standing_key(*split(ref)) for ref in refs])
    known = [one for one in map(_read, found) if one is not None]
    return sorted(known, key=lambda one: (one.model, one.version))


def split(ref: str) -> tuple[str, int]:
    """Name and number of ``NAME@VERSION``."""
    parsed = ModelRef.parse(ref)
    return parsed.name, parsed.version or 0


def _read(data: bytes | None) -> Standing | None:
    try:
        return None if data is None else _decode(data)
    except msgspec.MsgspecError:
        return None


# --- who writes ----------------------------------------------------------------------------------

_SAVE = """
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[2], ARGV[2], 'EX', ARGV[4])
redis.call('SADD', KEYS[3], ARGV[3])
redis.call('EXPIRE', KEYS[3], ARGV[4])
return 1
"""
_FORGET = """
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
redis.call('DEL', KEYS[2])
redis.call('SREM', KEYS[3], ARGV[2])
return 1
"""


class Overtaken(Exception):
    """Another task watches now: this one was away for too long."""


class Watcher:
    """The one task that writes standings; each write says whether it is still the one.

    Methods raise redis.RedisError, and those that write Overtaken.
    """

    def __init__(self, client: Any, token: str) -> None:
        self._client = client
        self._token = token

    def begin(self) -> bool:
        """False if another task watches."""
        return bool(
            self._client.set(DRIFT_WATCHER_KEY, self._token, nx=True, ex=DRIFT_WATCHER_S)
        )

    def end(self) -> None:
        lua.release(self._client, DRIFT_WATCHER_KEY, self._token)

    def save(self, one: Standing) -> None:
        self._write(_SAVE, one, _encode(one), one.ref, DRIFT_KEPT_S)

    def forget(self, one: Standing) -> None:
        self._write(_FORGET, one, one.ref)

    def _write(self, script: str, one: Standing, *arguments: Any) -> None:
        keys = (
            DRIFT_WATCHER_KEY, drift_standing_key(one.model, one.version), DRIFT_STANDINGS_KEY
        )
        if not lua.run(self._client, script, keys, self._token, *arguments):
            raise Overtaken
