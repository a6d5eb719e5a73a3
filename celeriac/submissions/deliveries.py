"""The webhooks that are to be sent: made due by what ends a submission, taken under a lease."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from celeriac.keys import (
    WEBHOOK_HOSTS_KEY,
    WEBHOOK_PREFIX,
    WEBHOOKS_DUE_PREFIX,
    WEBHOOKS_SILENT_PREFIX,
)

OLDEST_S = 43_200
"""A delivery that is older is given up, whatever attempts it has left."""
NEVER_ANSWERED = "its host has not answered for twelve hours"

_PRELUDE = f"""
local WEBHOOK, DUE = '{WEBHOOK_PREFIX}', '{WEBHOOKS_DUE_PREFIX}'
local SILENT, OLDEST = '{WEBHOOKS_SILENT_PREFIX}', {OLDEST_S * 1_000}
""" + """
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)

-- Of a host: attempts in a row without an answer, and until when (ms) it is left alone.
local function silence(host)
  local found = redis.call('HMGET', SILENT .. host, 'attempts', 'until_ms')
  return tonumber(found[1] or '0'), tonumber(found[2] or '0')
end

local function settle(due, id, status, reason, forget)
  redis.call('ZREM', due, id)
  redis.call('HDEL', WEBHOOK .. id, 'answer')
  redis.call('PEXPIREAT', WEBHOOK .. id, math.max(forget, now + 1000))
  redis.call('HSET', WEBHOOK .. id, 'status', status, 'reason', reason)
end
"""

# Hosts that have deliveries due, and are not left alone; those that have none at all are forgotten.
_HOSTS = _PRELUDE + """
local found = {}
for _, host in ipairs(redis.call('SMEMBERS', KEYS[1])) do
  if redis.call('EXISTS', DUE .. host) == 0 then
    redis.call('SREM', KEYS[1], host)
  elseif redis.call('ZCOUNT', DUE .. host, '-inf', now) > 0 then
    local _, until_ms = silence(host)
    if now >= until_ms then found[#found + 1] = host end
  end
end
return found
"""

# ARGV: host, most, lease in ms, reason of those that are too old, how many the taker has under way.
# Whoever takes one counts an attempt. A host that did not answer gets one at a time, to see whether
# it does now.
_TAKE = _PRELUDE + """
local due, most = DUE .. ARGV[1], tonumber(ARGV[2])
local attempts, until_ms = silence(ARGV[1])
if now < until_ms then return {{}, 0} end
if attempts > 0 then most = math.min(most, 1 - tonumber(ARGV[5])) end
if most <= 0 then return {{}, 0} end
local found, given_up = {}, 0
for _, id in ipairs(redis.call('ZRANGEBYSCORE', due, '-inf', now, 'LIMIT', 0, most + 100)) do
  local ended, forget = unpack(redis.call('HMGET', WEBHOOK .. id, 'ended_ms', 'forget_ms'))
  if not ended then
    redis.call('ZREM', due, id)
  elseif now - ended > OLDEST then
    settle(due, id, 'given_up', ARGV[4], forget)
    given_up = given_up + 1
  elseif #found < most then
    local attempt = redis.call('HINCRBY', WEBHOOK .. id, 'attempts', 1)
    redis.call('ZADD', due, now + ARGV[3], id)
    found[#found + 1] = {id, attempt, redis.call('HMGET', WEBHOOK .. id, 'url', 'id', 'model',
                                                 'state', 'answer', 'ended_ms')}
  end
end
return {found, given_up}
"""

# ARGV: host, delivery, attempt, status, reason, ms until the next attempt ('': none).
_SETTLE = _PRELUDE + """
local due, id = DUE .. ARGV[1], ARGV[2]
local status, attempt, forget =
  unpack(redis.call('HMGET', WEBHOOK .. id, 'status', 'attempts', 'forget_ms'))
if status ~= 'pending' then return 0 end
if ARGV[4] == 'pending' then
  if attempt ~= ARGV[3] then return 0 end
  redis.call('ZADD', due, now + ARGV[6], id)
  redis.call('HSET', WEBHOOK .. id, 'reason', ARGV[5])
else
  settle(due, id, ARGV[4], ARGV[5], forget)
end
return 1
"""

# ARGV: host, and the ms that it is left alone, by the number of attempts in a row. Those that were
# under way together count once.
_SILENT = _PRELUDE + """
local attempts, until_ms = silence(ARGV[1])
if now < until_ms then return attempts end
attempts = attempts + 1
local pause = tonumber(ARGV[math.min(attempts + 1, #ARGV)])
redis.call('HSET', SILENT .. ARGV[1], 'attempts', attempts, 'until_ms', now + pause)
redis.call('PEXPIRE', SILENT .. ARGV[1], pause + 600000)
return attempts
"""

PAUSES_S = (5.0, 10.0, 20.0, 40.0, 60.0)
"""How long a host is left alone after its first attempt without an answer, its second ..."""


@dataclass(frozen=True, kw_only=True)
class Delivery:
    """One webhook that its taker sends now."""

    id: str
    host: str
    """``host:port``."""
    attempt: int
    """1 for the first."""
    url: str
    prediction_id: str
    model: str
    state: str
    answer: bytes
    """JSON of a prediction or of ``{"error": ...}``; empty if there is none."""
    ended_ms: int


@dataclass(frozen=True)
class Taken:
    """What a sender got of a host."""

    deliveries: tuple[Delivery, ...]
    given_up: int
    """How many were too old."""


class Deliveries:
    """The deliveries on a redis-py client. Every method may raise redis.RedisError."""

    def __init__(self, client: Any) -> None:
        self._client = client

    def hosts(self) -> list[str]:
        """The hosts that may get webhooks now, as ``host:port``."""
        return sorted(_text(host) for host in self._client.eval(_HOSTS, 1, WEBHOOK_HOSTS_KEY))

    def take(self, host: str, *, most: int, lease_s: float, under_way: int = 0) -> Taken:
        """The deliveries to ``host`` that are due; nobody else has them for ``lease_s``.

        None while the host is left alone. After it has not answered at most one, with those that
        the taker has ``under_way``.
        """
        found, given_up = self._client.eval(
            _TAKE, 0, host, most, round(lease_s * 1_000), NEVER_ANSWERED, under_way
        )
        return Taken(tuple(_delivery(host, *one) for one in found), int(given_up))

    def silent(self, host: str) -> int:
        """``host`` has not answered: leave it alone for a while. How often that was in a row."""
        pauses = (round(pause_s * 1_000) for pause_s in PAUSES_S)
        return int(self._client.eval(_SILENT, 0, host, *pauses))

    def answered(self, host: str) -> None:
        """``host`` has answered, whatever it said."""
        self._client.delete(WEBHOOKS_SILENT_PREFIX + host)

    def arrived(self, delivery: Delivery) -> bool:
        """It was taken by its receiver; False if that was known."""
        return self._settle(delivery, "delivered", "", "")

    def failed(self, delivery: Delivery, reason: str, delay_s: float | None) -> bool:
        """This attempt failed; the next one is due after ``delay_s`` (None: there is none).

        False if another attempt has begun since.
        """
        if delay_s is None:
            return self._settle(delivery, "given_up", reason[:200], "")
        return self._settle(delivery, "pending", reason[:200], round(delay_s * 1_000))

    def _settle(self, delivery: Delivery, status: str, reason: str, delay_ms: Any) -> bool:
        return bool(self._client.eval(
            _SETTLE, 0, delivery.host, delivery.id, delivery.attempt, status, reason, delay_ms
        ))


def _delivery(host: str, id: Any, attempt: Any, fields: Any) -> Delivery:
    url, prediction_id, model, state, answer, ended_ms = fields
    return Delivery(
        id=_text(id), host=host, attempt=int(attempt), url=_text(url),
        prediction_id=_text(prediction_id), model=_text(model), state=_text(state),
        answer=answer or b"", ended_ms=int(ended_ms),
    )


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value or "")
