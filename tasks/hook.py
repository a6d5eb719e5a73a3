"""The task of a user that makes a challenger: how it is called, and what it has answered."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import Any

from celeriac import errors, release
from celeriac.drift import adaptation
from celeriac.drift.adaptation import Adaptation
from celeriac.keys import result_key
from celeriac.registry.aliases import CHALLENGER
from celeriac.registry.store import Registry
from celeriac.settings.adapt import AdaptSettings
from producer.broker import Broker
from producer.jobs import redis_errors


@dataclass(frozen=True)
class Answer:
    """What the hook has returned."""

    value: Any


@dataclass(frozen=True)
class Failure:
    """The hook has raised, or was revoked."""

    why: str


@dataclass(frozen=True)
class Hook:
    """The hook of one policy."""

    broker: Broker
    registry: Registry
    rule: AdaptSettings

    def call(self, state: Adaptation) -> None:
        """Send it; it is ended, and no longer begun, when its time is over. Raises BrokerError."""
        rule = self.rule
        with redis_errors(self.broker):
            self.broker.celery.send_task(
                rule.retrain, args=[_request(state, rule)], task_id=state.task, queue=rule.queue,
                expires=rule.retrain_timeout_s, time_limit=math.ceil(rule.retrain_timeout_s),
                ignore_result=False,
            )

    def outcome(self, state: Adaptation) -> Answer | Failure | None:
        """None: nothing yet. Raises redis.RedisError."""
        stored = self.broker.redis.get(result_key(state.task))
        try:
            found = json.loads(stored) if stored else {}
        except ValueError:  # a result of its own serializer: the alias tells
            found = {}
        status = found.get("status") if isinstance(found, dict) else None
        if status == "SUCCESS":
            return Answer(found.get("result"))
        if status in ("FAILURE", "REVOKED"):
            return Failure(_words(found.get("result")))
        alias = self._new_alias(state)
        return Answer(alias) if alias else None

    def challenger(self, state: Adaptation, found: Answer | Failure) -> int:
        """The version that it has registered, which has the alias ``challenger`` now.

        Raises CeleriacError: there is none.
        """
        if isinstance(found, Failure):
            raise errors.WorkerError(found.why)
        version = _version(state.model, found.value) or self._new_alias(state)
        if not version:
            raise errors.RequestError(
                f"it returned {str(found.value)[:80]!r}, and gave no new version the alias "
                "challenger; it returns the number of the version that it has registered"
            )
        if version == state.champion:
            raise errors.RequestError(f"version {version} is the champion itself")
        release.assign(
            self.registry, f"{state.model}@{version}", CHALLENGER, who=adaptation.NOBODY,
            why="drift",
        )
        return version

    def unserved(self) -> str:
        """What to say of messages that wait in its queue; empty: there are none."""
        waiting = int(self.broker.redis.llen(self.rule.queue))
        if not waiting:
            return ""
        return (
            f"; {waiting:,} messages wait on queue {self.rule.queue}: is its worker running?"
        )

    def _new_alias(self, state: Adaptation) -> int:
        """The version to which it has given the alias ``challenger``; 0: none."""
        alias = self.registry.aliases(state.model).read().get(CHALLENGER, 0)
        return 0 if alias in (state.alias_before, state.champion) else alias


def _request(state: Adaptation, rule: AdaptSettings) -> dict[str, Any]:
    """What the hook is given, as plain JSON values."""
    return {
        "v": 1, "model": state.model, "version": state.champion, "event": state.event,
        "labelled": rule.labelled, "label": rule.label, "text_column": rule.text_column,
        "held_out_rows": rule.held_out_rows,
    }


def _words(result: Any) -> str:
    if not isinstance(result, dict):
        return errors.without_paths(str(result or "it was revoked"))
    message = result.get("exc_message")
    if isinstance(message, (list, tuple)):
        message = " ".join(map(str, message))
    return errors.without_paths(f"{result.get('exc_type') or 'error'}: {message}", 300)


def _version(model: str, value: Any) -> int | None:
    """From a number, ``"3"`` or ``"NAME@3"``. Raises RequestError for another model's."""
    if isinstance(value, bool) or value is None:
        return None
    if isinstance(value, int):
        return value if value > 0 else None
    name, at, number = str(value).rpartition("@")
    if at and name != model:
        raise errors.RequestError(f"it returned {str(value)[:80]!r}, a version of another model")
    return int(number) if number.isascii() and number.isdecimal() else None
