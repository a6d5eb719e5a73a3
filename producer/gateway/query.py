"""Parameters of a query: one that a route does not know is refused, for it may be misspelt."""

from __future__ import annotations

from collections.abc import Sequence
from difflib import get_close_matches

from fastapi import Request
from starlette.datastructures import QueryParams

from producer.gateway import failures
from producer.gateway.auth import is_open


async def only_known(request: Request) -> None:
    """For all routes of FastAPI. Health and the pages take any: balancers and links add some."""
    if request.scope["query_string"] and not is_open(request.scope["path"]):
        route = request.scope["route"]
        check_names(
            request.scope["query_string"], [one.alias for one in route.dependant.query_params]
        )


def check_names(query: bytes, known: Sequence[str]) -> None:
    """Raises RequestError for a parameter that is not ``known``.

    >>> check_names(b"limt=3", ["limit", "after"])
    Traceback (most recent call last):
    celeriac.errors.RequestError: limt: no such parameter; did you mean 'limit'? Known: limit, after
    """
    for name in QueryParams(query):
        if name not in known:
            raise failures.fault(f"{name[:80]}: no such parameter{_told(name, known)}", name[:80])


def _told(name: str, known: Sequence[str]) -> str:
    if not known:
        return "; this route takes none"
    near = get_close_matches(name[:80], known, 1)
    hint = f"; did you mean {near[0]!r}?" if near else "."
    return f"{hint} Known: {', '.join(known)}"
