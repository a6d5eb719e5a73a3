"""The door: requests for a model that has too much to do already, refused by their head.

Beyond capacity most requests are refused, so what a refusal costs is what is left of the capacity.
Here it costs a tenth of an answer: no task, no body, no look at the key, a response that is made
once in a tenth of a second, and one line of the log a second for all of them.
"""

from __future__ import annotations

import asyncio
import time

from celeriac import errors
from producer.gateway import failures
from producer.gateway.access import AccessLog
from producer.gateway.context import Gateway, new_request_id, own_request_id
from producer.gateway.pressure import Gate, Way

_ID = "REQUEST-ID-HERE."
"""Stands for the request id in a response; as long as the ids that are made here."""


class Door:
    """Refuses requests of one gateway before they are requests of the application."""

    def __init__(self, gateway: Gateway, access: AccessLog) -> None:
        self._gateway = gateway
        self._access = access
        self._made: dict[tuple[Gate, bool], tuple[int, bytes]] = {}

    def way(self, path: bytes) -> Way | None:
        """Where a request of ``path`` would go, if it may be one too many there."""
        return None if self._gateway.is_draining else self._gateway.pressure.shut_way(path)

    def _let_in(self, gate: Gate) -> None:
        """Its handler counts it, but not before all that came with it have passed the door."""
        if not gate.coming:
            asyncio.get_running_loop().call_soon(_all_have_come, gate)
        gate.coming += 1

    def refusal(
        self, way: Way, path: bytes, headers: list[tuple[bytes, bytes]]
    ) -> bytes | None:
        """The response to a POST of ``path``; None to let it in. Both are counted.

        One that fetches its prediction later (``Prefer``) is not concerned.
        """
        request_id = ""
        for name, _ in headers:
            if name == b"prefer":
                return None
            if name == b"x-request-id":
                request_id = own_request_id(headers)
        if not way.gate.refuses(time.monotonic()):
            self._let_in(way.gate)
            return None
        self._access.refused(way.route, way.gate.model)
        if request_id:
            return _response(way.gate.refusal_of_a_stranger(), request_id, path)
        response = self._response(way.gate, path)
        return response.replace(_ID.encode(), new_request_id().encode())

    def _response(self, gate: Gate, path: bytes) -> bytes:
        key = gate, path.startswith(b"/v2")
        looks, response = self._made.get(key, (-1, b""))
        if looks != gate.looks:
            self._made = {known: made for known, made in self._made.items() if known[0].inside}
            response = _response(gate.refusal_of_a_stranger(), _ID, path)
            self._made[key] = gate.looks, response
        return response


def _all_have_come(gate: Gate) -> None:
    gate.coming = 0


def _response(error: errors.Overloaded, request_id: str, path: bytes) -> bytes:
    return failures.response(error, request_id, path.decode("latin-1"))
