"""The router of the hot routes: two comparisons of text for a request, no patterns."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import NamedTuple

from producer.gateway.context import Answer, Gateway, RequestContext
from producer.gateway.failures import MethodNotAllowed

Handler = Callable[[Gateway, RequestContext, str], Awaitable[Answer]]
"""Takes what stands in the path between the route's prefix and its suffix."""


class HotRoute(NamedTuple):
    """A route that is answered without FastAPI."""

    prefix: str
    """The whole path, if there is no suffix."""
    suffix: str
    template: str
    """As in the OpenAPI page."""
    scope: str
    """What the key must allow."""
    handler: Handler
    method: str = "POST"


class HotRouter:
    """Finds the hot route of a request."""

    def __init__(self, routes: list[HotRoute]) -> None:
        self._exact = {route.prefix: route for route in routes if not route.suffix}
        self._open = [route for route in routes if route.suffix]

    def find(self, method: str, path: str) -> tuple[HotRoute, str] | None:
        """The route and the variable part of its path; None if it is no hot one.

        Raises MethodNotAllowed.
        """
        found = self._match(path)
        if found is not None and found[0].method != method:
            allow = found[0].method
            raise MethodNotAllowed(f"{found[0].template} takes {allow} only", allow)
        return found

    def _match(self, path: str) -> tuple[HotRoute, str] | None:
        exact = self._exact.get(path)
        if exact is not None:
            return exact, ""
        for route in self._open:
            if path.startswith(route.prefix) and path.endswith(route.suffix):
                rest = path[len(route.prefix) : -len(route.suffix)]
                if rest:
                    return route, rest
        return None
