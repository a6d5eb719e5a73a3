"""Rate limits: a bucket of tokens for each key, in Redis, so that all gateways share it.

A gateway takes a small block of tokens at a time, so that a request seldom costs a round trip; what
it does not use within a second is void.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

from redis.asyncio import Redis
from redis.exceptions import RedisError

from celeriac import errors
from celeriac.keys import rate_key
from celeriac.settings import GatewaySettings, KeySettings
from producer.gateway.failures import RateLimited

BLOCK_S = 0.05
"""A block is what the key may use in so much time, but at least one token."""
BLOCK_TTL_S = 1.0
BURST_S = 2.0
"""Without a burst of its own, a key may save up the tokens of so much time."""

TAKE = """
local now = redis.call('TIME')
now = now[1] + now[2] / 1e6
local rate, burst, wanted = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local held = redis.call('HMGET', KEYS[1], 'tokens', 'at')
local tokens, at = tonumber(held[1]) or burst, tonumber(held[2]) or now
tokens = math.min(burst, tokens + math.max(0, now - at) * rate)
local taken = math.min(wanted, math.floor(tokens))
tokens = tokens - taken
redis.call('HSET', KEYS[1], 'tokens', tostring(tokens), 'at', string.format('%.6f', now))
redis.call('PEXPIRE', KEYS[1], math.ceil(burst / rate * 1000) + 1000)
local wait = 0
if taken == 0 then wait = (1 - tokens) / rate end
return {taken, tostring(wait)}
"""
"""Takes up to ``wanted`` tokens; how many it got, and if none, the seconds until there is one."""


class Rates:
    """The limited keys of one gateway."""

    def __init__(
        self, settings: GatewaySettings, redis: Redis,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._buckets = {
            name: Bucket(name, key, redis, clock)
            for name, key in settings.keys.items() if key.rate_per_s is not None
        }  # fmt: skip

    def __contains__(self, key: str) -> bool:
        return key in self._buckets

    async def take(self, key: str) -> None:
        """Use up one request of a limited key. Raises RateLimited, and BrokerError."""
        bucket = self._buckets[key]
        if not bucket.take():
            await bucket.refill()


class Bucket:
    """What one gateway holds of one key's tokens."""

    def __init__(
        self, name: str, key: KeySettings, redis: Redis, clock: Callable[[], float]
    ) -> None:
        assert key.rate_per_s is not None  # noqa: S101 - only limited keys have one
        self._name = name
        self._rate = key.rate_per_s
        self._burst = key.burst or max(1, int(key.rate_per_s * BURST_S))
        self._block = max(1, min(self._burst, int(key.rate_per_s * BLOCK_S)))
        self._clock = clock
        self._tokens = 0
        self._until_s = 0.0
        """After that its tokens are void."""
        self._empty_until_s = 0.0
        """Before that there is nothing to be had in Redis either."""
        self._script: Any = redis.register_script(TAKE)
        self._turn = asyncio.Lock()

    def take(self) -> bool:
        """True if a token was at hand. Raises RateLimited if there is none anywhere."""
        now_s = self._clock()
        if self._tokens > 0 and now_s < self._until_s:
            self._tokens -= 1
            return True
        if now_s < self._empty_until_s:
            raise self._refusal(self._empty_until_s - now_s)
        return False

    async def refill(self) -> None:
        """Fetch a block, one caller at a time, and take a token of it."""
        async with self._turn:
            if self.take():  # another one's block has come meanwhile
                return
            try:
                taken, wait = await self._script(
                    keys=[rate_key(self._name)], args=[self._rate, self._burst, self._block]
                )
            except (RedisError, OSError, TimeoutError) as error:
                raise errors.BrokerError(f"no rate limit could be read: {error}") from error
            now_s = self._clock()
            if not taken:
                wait_s = float(wait)
                self._empty_until_s = now_s + wait_s
                raise self._refusal(wait_s)
            self._tokens, self._until_s = int(taken) - 1, now_s + BLOCK_TTL_S

    def _refusal(self, wait_s: float) -> RateLimited:
        return RateLimited(
            f"the API key {self._name!r} may send {self._rate:g} requests a second; "
            f"the next in {wait_s:.2g} s", wait_s
        )
