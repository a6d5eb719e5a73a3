"""A policy that follows its file."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from celeriac import errors
from celeriac.applications.moderation.policy import Policy, read_policy
from celeriac.logs import get_logger

LOOK_S = 1.0
"""How old what is known of the file may be."""
log = get_logger(__name__)


class PolicyFile:
    """A policy that follows its file. One that is not valid any more changes nothing."""

    def __init__(self, path: Path | None, accept: Callable[[Policy], None]) -> None:
        """``accept`` raises Conflict or StorageError for a policy that cannot be taken.

        Raises ConfigError if the file is not valid.
        """
        self._path = path
        self._accept = accept
        self._looked_s = time.monotonic()
        self._changed = self._stamp()
        self._policy = read_policy(path)

    def current(self) -> Policy:
        now_s = time.monotonic()
        if self._path is not None and now_s - self._looked_s > LOOK_S:
            self._looked_s = now_s
            self._look()
        return self._policy

    def _look(self) -> None:
        changed = self._stamp()
        if changed == self._changed:
            return
        self._changed = changed
        try:
            policy = read_policy(self._path)
            self._accept(policy)
        except (errors.ConfigError, errors.Conflict, errors.StorageError) as error:
            log.warning("policy not taken: the one before goes on", problem=error.message)
        else:
            self._policy = policy
            log.info("policy taken", policy=self._policy.ref, digest=self._policy.digest)

    def _stamp(self) -> tuple[int, int] | None:
        try:
            found = self._path.stat() if self._path else None
        except OSError:
            return None
        return (found.st_mtime_ns, found.st_size) if found else None
