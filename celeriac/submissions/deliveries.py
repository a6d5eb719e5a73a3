"""The webhooks that are to be sent: made due by what ends a submission, taken under a lease."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from celeriac.messages import WEBHOOK_HOSTS_KEY, WEBHOOK_PREFIX, WEBHOOKS_DUE_PREFIX

_PRELUDE = f"""
local WEBHOOK, DUE = '{WEBHOOK_PREFIX}', '{WEBHOOKS_DUE_PREFIX}'
""" + """
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
"""

# Hosts that have deliveries due; those that have none at all are forgotten.
_HOSTS = _PRELUDE + """
local found = {}
for _, host in ipairs(redis.call('SMEMBERS', KEYS[1])) do
  if redis.call('EXISTS', DUE .. host) == 0 then
    redis.call('SREM', KEYS[1], host)
  elseif redis.call('ZCOUNT', DUE .. host, '-inf', now) > 0 then
    found[#found + 1] = host
  end
end
return found
"""

# ARGV: host, most, lease in ms. Whoever takes one counts an attempt.
_TAKE = _PRELUDE + """
local due = DUE .. ARGV[1]
local found = {}
for _, id in ipairs(redis.call('ZRANGEBYSCORE', due, '-inf', now, 'LIMIT', 0, ARGV[2])) do
  if redis.call('EXISTS', WEBHOOK .. id) == 1 then
    local attempt = redis.call('HINCRBY', WEBHOOK .. id, 'attempts', 1)
    redis.call('ZADD', due, now + ARGV[3], id)
    found[#found + 1] = {id, attempt, redis.call('HMGET', WEBHOOK .. id, 'url', 'id', 'model',
                                                 'state', 'answer', 'ended_ms')}
  else
    redis.call('ZREM', due, id)
  end
end
return found
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
else
  redis.call('ZREM', due, id)
  redis.call('HDEL', WEBHOOK .. id, 'answer')
  redis.call('PEXPIREAT', WEBHOOK .. id, math.max(forget, now + 1000))
end
redis.call('HSET', WEBHOOK .. id, 'status', ARGV[4], 'reason', ARGV[5])
return 1
"""


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


class Deliveries:
    """The deliveries on a redis-py client. Every method may raise redis.RedisError."""

    def __init__(self, client: Any) -> None:
        self._client = client

    def hosts(self) -> list[str]:
        """The hosts that have webhooks to get now, as ``host:port``."""
        return sorted(_text(host) for host in self._client.eval(_HOSTS, 1, WEBHOOK_HOSTS_KEY))

    def take(self, host: str, *, most: int, lease_s: float) -> list[Delivery]:
        """The deliveries to ``host`` that are due; nobody else has them for ``lease_s``."""
        found: Iterable[Any] = self._client.eval(_TAKE, 0, host, most, round(lease_s * 1_000))
        return [_delivery(host, *one) for one in found]

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
