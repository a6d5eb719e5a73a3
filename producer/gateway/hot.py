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


def check_method(route: HotRoute, method: str) -> None:
    """Raises MethodNotAllowed."""
    if route.method != method:
        raise MethodNotAllowed(f"{route.template} takes {route.method} only", route.method)


class HotRouter:
    """Finds the hot route of a request."""

    def __init__(self, routes: list[HotRoute]) -> None:
        self._exact = {route.prefix: route for route in routes if not route.suffix}
        self._open = [route for route in routes if route.suffix]

    def find(self, path: str) -> tuple[HotRoute, str] | None:
        """The route and the variable part of its path; None if it is no hot one."""
        exact = self._exact.get(path)
        if exact is not None:
            return exact, ""
        for route in self._open:
            if path.startswith(route.prefix) and path.endswith(route.suffix):
                rest = path[len(route.prefix) : -len(route.suffix)]
                if rest:
                    return route, rest
        return None
