"""API keys: who calls, and what the key allows.

Only the SHA-256 of a key is known here. A key is compared with all of them, in constant time, so
nothing can be learnt from how long a refusal takes.
"""

from __future__ import annotations

import hashlib
import hmac

from celeriac import errors
from celeriac.settings import GatewaySettings
from producer.gateway.context import ANYBODY, Caller, RequestContext
from producer.gateway.failures import Forbidden, Unauthenticated

LONGEST_KEY = 200

OPEN_PATHS = frozenset({
    "/", "/health/live", "/health/ready", "/v2/health/live", "/v2/health/ready", "/openapi.json",
    "/docs",
})
OPEN_PREFIX = "/docs/"
"""The files of the /docs page."""
SCOPES = (
    ("/v1/jobs", "batch"), ("/v1/reviews/summaries", "batch"), ("/metrics", "admin"),
    ("/v1/moderation/reviews", "batch"), ("/v1/moderation/labels", "batch"),
)  # fmt: skip
"""Of paths that begin so; all others need ``infer``."""


class Keys:
    """The keys of one gateway."""

    def __init__(self, settings: GatewaySettings) -> None:
        """Raises ConfigError if two keys are the same."""
        self._known: list[tuple[bytes, Caller]] = []
        for name, key in settings.keys.items():
            digest = bytes.fromhex(key.sha256)
            if any(digest == known for known, _ in self._known):
                raise errors.ConfigError(
                    f"[gateway.keys.{name}] has the sha256 of another key: make one for each caller"
                )
            self._known.append((digest, Caller(name, key.tenant, frozenset(key.scopes))))

    def __bool__(self) -> bool:
        return bool(self._known)

    def caller(self, context: RequestContext) -> Caller:
        """Who sent a request. Raises Unauthenticated."""
        if not self._known:
            return ANYBODY
        digest = hashlib.sha256(_presented(context)).digest()
        found: Caller | None = None
        for known, caller in self._known:
            if hmac.compare_digest(known, digest):
                found = caller
        if found is None:
            raise Unauthenticated
        return found


def is_open(path: str) -> bool:
    """True for what anybody may ask: health, and the pages that describe the interface."""
    return path in OPEN_PATHS or path.startswith(OPEN_PREFIX)


def scope_for(path: str) -> str:
    """What a key must allow for a path of the public port.

    >>> scope_for("/v1/jobs/7")
    'batch'
    """
    return next((scope for prefix, scope in SCOPES if path.startswith(prefix)), "infer")


def check_scope(caller: Caller, scope: str) -> None:
    """Raises Forbidden unless the caller's key has the scope."""
    if scope not in caller.scopes:
        raise Forbidden(f"the API key {caller.name!r} does not have the scope {scope!r}")


def _presented(context: RequestContext) -> bytes:
    """The key that a request brings; empty if it has none."""
    header = context.headers.get(b"authorization", b"")
    kind, _, key = header.partition(b" ")
    if kind.lower() != b"bearer":
        key = context.headers.get(b"x-api-key", b"")
    key = key.strip()
    return key if len(key) <= LONGEST_KEY else b""
