"""What a gateway counts. Labels are bounded: templates of paths, never paths."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from prometheus_client import Counter, Gauge, Histogram

REQUESTS = Counter(
    "celeriac_gateway_requests_total", "Requests that were answered", ["method", "route", "status"]
)
SECONDS = Histogram(
    "celeriac_gateway_request_seconds", "From the head of a request to its answer", ["route"],
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60),
)
IN_FLIGHT = Gauge("celeriac_gateway_requests_in_flight", "Requests that have no answer yet")
REFUSED = Counter(
    "celeriac_gateway_refused_total", "Requests that were not taken, by the code of the error",
    ["code"],
)
ITEMS = Counter("celeriac_gateway_items_total", "Items that came for single predictions")
CACHE = Counter(
    "celeriac_gateway_cache_total", "Requests for models with a result cache", ["outcome"]
)
DISCONNECTED = Counter(
    "celeriac_gateway_disconnected_total", "Callers that went away before they were answered"
)
BROKER_UP = Gauge("celeriac_gateway_broker_up", "1 while Redis answers this gateway")

METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS"})


@lru_cache(maxsize=2_000)
def of_route(method: str, route: str, status: int) -> tuple[Any, Any]:
    """Counter and histogram of a route: looking labels up costs as much as counting."""
    known = method if method in METHODS else "other"
    return REQUESTS.labels(known, route, str(status)), SECONDS.labels(route)
