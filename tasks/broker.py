"""The broker that tasks which run often keep in their process; others open one for each run."""

from __future__ import annotations

from functools import lru_cache

from celeriac.settings import get_settings
from producer.broker import Broker


@lru_cache(maxsize=1)
def kept_broker() -> Broker:
    """Made when it is first needed. A forked process has connections of its own."""
    return Broker(get_settings())
