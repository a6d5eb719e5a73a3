"""The result cache: the answer of a version to an item, kept for a while, given again at once.

Workers write it, clients and workers read it, where a version's entry says ``serving.cache``. The
key names the version and when it was registered, so neither a promotion nor a deleted registry
needs a purge. Whatever goes wrong with it is a miss.
"""

from __future__ import annotations

from celeriac.cache.cache import Cache
from celeriac.cache.keys import Answerer, cache_key
from celeriac.cache.memory import MemoryStore
from celeriac.cache.store import RedisStore, Store
from celeriac.settings import Settings


def open_cache(settings: Settings) -> Cache:
    """The cache that the settings name; it connects at first use, and in each process anew."""
    chosen = settings.cache
    if not chosen.enabled:
        return Cache(None)
    store = RedisStore(settings.cache_url, chosen.timeout_ms / 1000)
    return Cache(store, ttl_s=chosen.ttl_s, max_value_bytes=chosen.max_value_bytes)


__all__ = ["Answerer", "Cache", "MemoryStore", "RedisStore", "Store", "cache_key", "open_cache"]
