"""The tests of all versions that have labels, kept in Redis: each label is looked at once.

The step of a version is one exchange to read and one script to write, which changes nothing if
somebody else was faster; the message that tells of an episode leaves with it or not at all.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from celeriac import errors, lua
from celeriac.drift.concept import (
    ErrorTest,
    Outcome,
    Terms,
    Usual,
    given_up,
    note_errors,
    usual_of_reference,
)
from celeriac.drift.events import DriftEvent
from celeriac.drift.profile import Performance
from celeriac.keys import FEEDBACK_VERSIONS_KEY, feedback_stream_key, feedback_test_key
from celeriac.logs import get_logger
from celeriac.settings import FeedbackSettings

log = get_logger(__name__)

MOST_LABELS = 20_000
"""Of one version in one step."""
SILENT_S = 7 * 86_400.0
"""An episode is given up when no label came for so long."""

_WRITE = """
if (redis.call('GET', KEYS[1]) or '') ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[1], ARGV[2], 'EX', ARGV[3])
redis.call('LTRIM', KEYS[2], ARGV[4], -1)
if ARGV[5] ~= '' then redis.call('LPUSH', KEYS[3], ARGV[5]) end
return 1
"""


@dataclass(frozen=True, kw_only=True)
class Stepped:
    """What a step found."""

    labels: int = 0
    event: DriftEvent | None = None
    is_open: bool | None = None
    """An episode is. None: nobody knows, or somebody else was faster."""


def terms_of(settings: FeedbackSettings) -> Terms:
    return Terms(
        labels_between_alarms=settings.labels_between_alarms, first_labels=settings.first_labels
    )


def step_version(  # noqa: PLR0913 - whose labels, and what becomes of them
    client: Any, model: str, version: int, *, settings: FeedbackSettings,
    performance: Callable[[], Performance | None], queue: str,
    message: Callable[[DriftEvent], bytes], last_label_s: float, now_s: float,
) -> Stepped:
    """Look at the labels of a version that have come since the last step.

    ``performance`` reads how good the version was on its reference: asked once. ``message`` is
    what goes to ``queue`` when an episode opens or closes. Raises redis.RedisError.
    """
    keys = feedback_test_key(model, version), feedback_stream_key(model, version)
    pipe = client.pipeline(transaction=True)
    pipe.get(keys[0])
    pipe.lrange(keys[1], 0, MOST_LABELS - 1)
    held, found = pipe.execute()
    test = _load(held, model, version)
    unchanged = Stepped(is_open=None if test is None else test.watched.episode is not None)
    if found:
        terms = terms_of(settings)
        if test is None:
            test = ErrorTest(usual=usual_of_reference(performance(), terms))
        outcome = note_errors(test, [float(one) for one in found], now_s, terms)
    elif test is not None and now_s - last_label_s > SILENT_S:
        outcome = given_up(test, now_s)
    else:
        return unchanged
    event = _event(model, version, outcome, now_s, is_silent=not found)
    if not found and event is None:
        return unchanged
    written = lua.run(
        client, _WRITE, [*keys, queue], held or "", outcome.test.dump(), settings.kept_s,
        len(found), b"" if event is None else message(event),
    )
    is_open = outcome.test.watched.episode is not None
    return Stepped(labels=len(found), event=event, is_open=is_open) if written else Stepped()


def read_test(client: Any, model: str, version: int) -> ErrorTest | None:
    """Where the test of a version stands; None if nothing is known. Raises redis.RedisError."""
    return _load(client.get(feedback_test_key(model, version)), model, version)


def forget_old_versions(client: Any, settings: FeedbackSettings, now_s: float) -> None:
    """Those whose counts are not kept any more. Raises redis.RedisError."""
    client.zremrangebyscore(FEEDBACK_VERSIONS_KEY, "-inf", now_s - settings.kept_s)


def _load(held: bytes | None, model: str, version: int) -> ErrorTest | None:
    if held is None:
        return None
    try:
        return ErrorTest.load(held)
    except errors.RequestError as error:
        log.warning("test of errors begins anew", model=model, version=version, reason=str(error))
        return None


def _event(
    model: str, version: int, outcome: Outcome, now_s: float, *, is_silent: bool
) -> DriftEvent | None:
    usual = outcome.test.usual
    if outcome.event is None or usual is None:
        return None
    return DriftEvent(
        kind="concept_drift", state=outcome.event, model=model, version=version,
        source="feedback", features=(), at_s=now_s,
        detail=_detail(outcome, usual, is_silent=is_silent),
    )


def _detail(outcome: Outcome, usual: Usual, *, is_silent: bool) -> str:
    what = "wrong" if usual.far is None else f"off by more than {usual.far:.4g}"
    if outcome.event == "opened":
        return (
            f"{outcome.run.rate:.1%} of the last {outcome.run.labels:,} labelled answers are "
            f"{what}; usual is {usual.rate:.1%} (the {usual.source}, {usual.rows:,} rows)"
        )
    if is_silent:
        return f"no label has come for {SILENT_S / 86_400:.0f} days"
    return f"labelled answers are {what} about as often as usual ({usual.rate:.1%})"

