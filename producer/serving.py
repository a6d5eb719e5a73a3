"""Which worker serves which version of a model: what the workers' heartbeats say."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import msgspec

from celeriac.keys import worker_key

LOOK_S = 0.1
"""Between two looks while a version spreads."""


@dataclass(frozen=True, kw_only=True)
class Serving:
    """One worker that serves a model, or could."""

    hostname: str
    role: str
    version: int | None
    """The version that answers there as champion; None: none yet."""
    kept_back: str = ""
    """Why a newer champion could not be loaded."""
    kept: int = 0
    """Which one; 0: none."""
    created_at: str = ""
    """When the version that answers was registered; empty: not said."""

    def serves(self, version: int, created_at: str = "") -> bool:
        """True if that version answers. ``created_at``: when it was registered, where another may
        have had its number before."""
        is_other = self.created_at and created_at and self.created_at != created_at
        return self.version == version and not is_other


@dataclass(frozen=True, kw_only=True)
class Spread:
    """How far a version has come."""

    workers: list[Serving]
    version: int
    seconds: float
    created_at: str = ""

    @property
    def serve(self) -> list[Serving]:
        """Those that serve it."""
        return [one for one in self.workers if one.serves(self.version, self.created_at)]

    @property
    def is_complete(self) -> bool:
        """True if all serve it, and there is one."""
        return bool(self.workers) and len(self.serve) == len(self.workers)

    def told(self) -> str:
        """One sentence."""
        if not self.workers:
            return "no worker that could serve it is up; it serves when one starts"
        done = f"served by {len(self.serve)} of {len(self.workers)} workers"
        late = [
            f"{worker.hostname} {_still(worker, self.version)}" for worker in self.workers
            if not worker.serves(self.version, self.created_at)
        ]
        return f"{done} after {self.seconds:.1f} s" + "".join(f"; {one}" for one in late)


def read_heartbeats(client: Any) -> list[dict[str, Any]]:
    """What each live worker says of itself. Through a redis-py client; may raise RedisError."""
    keys = list(client.scan_iter(match=worker_key("*"), count=1_000))
    lives: Iterable[Any] = client.mget(keys) if keys else []
    return [msgspec.json.decode(life) for life in lives if life]


def read_serving(client: Any, name: str, device: str) -> list[Serving]:
    """The live workers of ``device`` that answer single items, and what they serve of a model.

    Through a redis-py client; may raise redis.RedisError.
    """
    found = [
        _serving(worker, name) for worker in read_heartbeats(client)
        if worker.get("device") == device or name in (worker.get("serving") or {})
    ]
    return sorted(found, key=lambda worker: worker.hostname)


def wait_served(  # noqa: PLR0913 - what is waited for, and two clocks
    client: Any, name: str, version: int, device: str, timeout_s: float, *,
    created_at: str = "",
    clock: Callable[[], float] = time.monotonic, sleep: Callable[[float], None] = time.sleep,
) -> Spread:
    """Wait until every worker serves ``version``, or says why it does not; or ``timeout_s``.

    ``created_at``: as of :meth:`Serving.serves`.
    """
    began_s = clock()
    while True:
        workers = read_serving(client, name, device)
        spread = Spread(
            workers=workers, version=version, seconds=clock() - began_s, created_at=created_at
        )
        if _is_settled(spread) or spread.seconds >= timeout_s:
            return spread
        sleep(LOOK_S)


def _is_settled(spread: Spread) -> bool:
    served = spread.serve
    return all(worker in served or worker.kept == spread.version for worker in spread.workers)


def _serving(said: dict[str, Any], name: str) -> Serving:
    kept, reason = (said.get("kept_back") or {}).get(name) or (0, "")
    return Serving(
        hostname=said["hostname"], role=said["role"], kept_back=reason, kept=kept,
        version=(said.get("serving") or {}).get(name),
        created_at=(said.get("registered") or {}).get(name) or "",
    )


def _still(worker: Serving, wanted: int) -> str:
    serves = f"serves {worker.version}" if worker.version else "serves none yet"
    if worker.version == wanted:
        serves = f"serves the {wanted} that was registered before"
    return f"{serves}: {worker.kept_back}" if worker.kept == wanted else serves
