"""What is done about drift: one model's way from an event to a better version, or back.

Pure: who carries it out says what happened and what time it is, and is told what the state is
now. A state that has a deadline (``until_s``) is left when it is over, whatever happens.

``idle`` -> ``retraining`` -> ``judging`` -> ``waiting_for_approval`` -> ``promoting`` ->
``watching`` -> ``cooling`` -> ``idle``; every one of them may also end in ``cooling``.
"""

from __future__ import annotations

import math
from enum import StrEnum
from typing import Any, NamedTuple

import msgspec
from msgspec.structs import replace

from celeriac import errors
from celeriac.drift.events import DriftEvent
from celeriac.settings.adapt import AdaptSettings

NOBODY = "celeriac"
"""Who decided, if no person did."""
SURE = 3.0
"""Standard errors by which a version does worse: less may be chance."""
BROKEN_S = 31 * 86_400.0
"""So long after they were told, broken data hold nothing up any more: who would have told their end
may have forgotten them, or be switched off."""


class Phase(StrEnum):
    """Where the adaptation of a model stands."""

    IDLE = "idle"
    RETRAINING = "retraining"
    JUDGING = "judging"
    WAITING = "waiting_for_approval"
    PROMOTING = "promoting"
    WATCHING = "watching"
    COOLING = "cooling"


class Figure(msgspec.Struct, frozen=True, kw_only=True):
    """How good a version was, where the truth is known."""

    measure: str
    value: float
    error: float
    """Standard error."""
    rows: int

    @property
    def more_is_better(self) -> bool:
        return self.measure != "mean absolute error"

    def __str__(self) -> str:
        return f"{self.measure} {self.value:.4g} on {self.rows:,} rows"

    @classmethod
    def of(cls, found: Any) -> Figure:
        """Of a record with these fields."""
        return cls(
            measure=found.measure, value=float(found.value), error=float(found.error),
            rows=int(found.rows),
        )


class Compared(msgspec.Struct, frozen=True, kw_only=True):
    """Champion and challenger on the same labelled rows."""

    champion: Figure
    challenger: Figure
    accuracies: tuple[Figure, Figure] | None = None
    """Share of right answers of both, where the measure is another: what feedback can tell."""

    @property
    def gain(self) -> float:
        return gain(self.champion, self.challenger)

    def __str__(self) -> str:
        new, old = self.challenger, self.champion
        return (
            f"{new.measure} {new.value:.4g}, the champion's {old.value:.4g}, on {new.rows:,} "
            f"labelled rows"
        )


class Adaptation(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The state of one model."""

    model: str
    phase: Phase = Phase.IDLE
    since_s: float = 0.0
    until_s: float = 0.0
    """The phase ends then at the latest; 0: it does not by itself."""
    event: dict[str, Any] | None = None
    """What began it (:meth:`DriftEvent.to_dict`)."""
    champion: int = 0
    """When it began."""
    challenger: int = 0
    task: str = ""
    """Id of the call of the hook."""
    is_asked: bool = False
    """The hook has been called."""
    alias_before: int = 0
    """The version that the alias ``challenger`` named before; 0: none."""
    compared: Compared | None = None
    approver: str = NOBODY
    baseline: Figure | None = None
    """How good the champion before was lately: the new one must not be worse."""
    broken: dict[str, float] = {}
    """Since when the data of a version are broken, by ``SOURCE@VERSION``, of an entry of the
    schedule by ``SOURCE:ENTRY@VERSION``."""

    def breaches(self, now_s: float) -> dict[str, float]:
        """``broken``, without what has lapsed: it is older than :data:`BROKEN_S`."""
        return {
            place: since_s for place, since_s in self.broken.items() if now_s < since_s + BROKEN_S
        }


class Step(NamedTuple):
    """What changes, and what the history says of it."""

    state: Adaptation
    what: str
    why: str
    who: str = NOBODY


# --- what begins it -------------------------------------------------------------------------------


def on_event(  # noqa: PLR0913 - a state, what happened, and what is so now
    state: Adaptation, event: DriftEvent, rule: AdaptSettings, now_s: float, *, champion: int,
    alias: int, task: str,
) -> Step | None:
    """What an event calls for; None: nothing that the history should tell.

    ``champion`` and ``alias`` are the versions that the aliases ``champion`` and ``challenger``
    name now (0: none), ``task`` the id of a call of the hook, if there is to be one.
    """
    place = f"{event.place}@{event.version}"
    if event.kind == "data_quality":
        return _on_breach(state, event, place, rule, now_s)
    if event.state != "opened":
        return None
    state = replace(state, champion=champion) if state.phase is Phase.IDLE else state
    refusal = _refusal(state, event, rule, now_s, champion)
    if refusal:
        return Step(state, "not_retrained", f"{event.kind} of {event.ref}: {refusal}")
    begun = Adaptation(
        model=state.model, phase=Phase.RETRAINING, since_s=now_s,
        until_s=now_s + rule.retrain_timeout_s, event=event.to_dict(), champion=champion,
        alias_before=alias, task=task,
    )
    return Step(begun, "retraining", f"{event.kind} ({event.source}): {event.detail}")


def _refusal(
    state: Adaptation, event: DriftEvent, rule: AdaptSettings, now_s: float, champion: int
) -> str:
    if event.version != champion:
        return f"the champion is version {champion}" if champion else "there is no champion"
    for place in state.breaches(now_s):
        source, _, version = place.rpartition("@")
        if version == str(champion):
            return f"the data are broken ({source}); no version is trained on them"
    if event.kind not in rule.on:
        return "the policy does not retrain on it"
    if state.phase is Phase.COOLING:
        if now_s < state.until_s:
            return f"cools down for another {math.ceil(state.until_s - now_s):,} s"
        return ""
    return "" if state.phase is Phase.IDLE else f"is {state.phase} already"


def _on_breach(
    state: Adaptation, event: DriftEvent, place: str, rule: AdaptSettings, now_s: float
) -> Step:
    """Broken data end a training that is under way, and begin none until they are mended."""
    broken = state.breaches(now_s)
    if event.state == "closed":
        broken.pop(place, None)
        return Step(replace(state, broken=broken), "data_mended", event.detail)
    state = replace(state, broken={**broken, place: min(event.at_s, now_s)})
    if state.phase in (Phase.RETRAINING, Phase.JUDGING) and event.version == state.champion:
        why = f"the data are broken meanwhile: {event.detail}"
        return ended(state, "stopped", why, rule, now_s)
    why = f"data_quality of {event.ref}: {event.detail}; no version is trained on broken data"
    return Step(state, "not_retrained", why)


# --- the challenger -------------------------------------------------------------------------------


def asked(state: Adaptation, rule: AdaptSettings) -> Step:
    """The hook has been called."""
    why = f"{rule.retrain} on queue {rule.queue}"
    return Step(replace(state, is_asked=True), "asked", why)


def retrained(state: Adaptation, version: int, rule: AdaptSettings, now_s: float) -> Step:
    """The hook has registered a version."""
    new = replace(
        state, phase=Phase.JUDGING, challenger=version, since_s=now_s,
        until_s=now_s + 3 * rule.judge_timeout_s + 300,
    )
    return Step(new, "judging", f"{state.model}@{version} is the challenger")


def judged(state: Adaptation, compared: Compared, rule: AdaptSettings, now_s: float) -> Step:
    """Champion and challenger have been compared on the held-out rows."""
    state = replace(state, compared=compared)
    found = f"{state.model}@{state.challenger}: {compared}"
    if not is_better(compared, rule.margin):
        return ended(state, "refused", f"{found}: not better by {rule.margin:g}", rule, now_s)
    if rule.approval == "person":
        new = replace(
            state, phase=Phase.WAITING, since_s=now_s, until_s=now_s + rule.approve_within_s
        )
        return Step(new, "waiting_for_approval", found)
    return Step(_promoting(state, now_s), "accepted", found)


def is_better(compared: Compared, margin: float) -> bool:
    """True if the challenger wins by the margin; with a margin of 0 it must not only be equal."""
    return compared.gain >= margin - 1e-12 and compared.gain > 0


def gain(before: Figure, now: Figure) -> float:
    """How much better ``now`` is: of a mean absolute error, as a share of the one before.

    Raises RequestError if they are not the same measure.
    """
    if before.measure != now.measure:
        raise errors.RequestError(
            f"{before.measure} and {now.measure} cannot be compared: do both versions answer in "
            "the same form?"
        )
    if before.more_is_better:
        return now.value - before.value
    return (before.value - now.value) / before.value if before.value else -now.value


# --- the decision ---------------------------------------------------------------------------------


def decided(  # noqa: PLR0913 - a decision, and what the history says of it
    state: Adaptation, rule: AdaptSettings, now_s: float, *, approve: bool, who: str, why: str,
    version: int | None = None,
) -> Step:
    """A person has decided. Raises RequestError if there is nothing to decide, or the challenger
    is another than ``version``."""
    if state.phase is not Phase.WAITING:
        raise errors.RequestError(
            f"{state.model} has no challenger that waits for a decision: it is {state.phase}; "
            f"`celeriac drift adaptation {state.model}` shows its history"
        )
    if version is not None and version != state.challenger:
        raise errors.RequestError(
            f"the challenger that waits is {state.model}@{state.challenger}, "
            f"not {state.model}@{version}"
        )
    why = why or f"{state.model}@{state.challenger}"
    if not approve:
        return ended(state, "rejected", why, rule, now_s, who)
    new = replace(_promoting(state, now_s), approver=who)
    return Step(new, "approved", why, who)


def _promoting(state: Adaptation, now_s: float) -> Adaptation:
    return replace(state, phase=Phase.PROMOTING, since_s=now_s, until_s=0.0)


def promoted(
    state: Adaptation, baseline: Figure | None, rule: AdaptSettings, now_s: float
) -> Step:
    """The challenger is the champion."""
    new = replace(
        state, phase=Phase.WATCHING, since_s=now_s, until_s=now_s + rule.watch_s, baseline=baseline
    )
    beside = f"; before: {baseline}" if baseline else ""
    return Step(new, "promoted", f"{state.model}@{state.challenger}{beside}")


# --- the watch window -----------------------------------------------------------------------------


def does_worse(baseline: Figure | None, now: Figure | None, rule: AdaptSettings) -> bool:
    """True if labels of the watch window say so: by the margin, and by more than chance explains.
    """
    if baseline is None or now is None or now.rows < rule.watch_labels:
        return False
    if baseline.measure != now.measure:
        return False
    fell = abs(now.value - baseline.value) > SURE * math.hypot(now.error, baseline.error)
    return fell and gain(baseline, now) <= -rule.margin


def ended(  # noqa: PLR0913, PLR0917 - an end, and what the history says of it
    state: Adaptation, what: str, why: str, rule: AdaptSettings, now_s: float, who: str = NOBODY
) -> Step:
    """It is over; ``what`` says how, as ``failed`` or ``kept``."""
    cools = rule.cooldown_s > 0
    new = Adaptation(
        model=state.model, phase=Phase.COOLING if cools else Phase.IDLE, since_s=now_s,
        until_s=now_s + rule.cooldown_s if cools else 0.0, broken=state.broken,
    )
    return Step(new, what, why, who)


def overdue(state: Adaptation, rule: AdaptSettings, now_s: float) -> Step | None:
    """What the end of a phase's time means; None if it has time left, or ends otherwise."""
    if not state.until_s or now_s < state.until_s:
        return None
    if state.phase is Phase.RETRAINING:
        why = f"{rule.retrain} has registered no challenger within {rule.retrain_timeout_s:g} s"
        return ended(state, "failed", why, rule, now_s)
    if state.phase is Phase.JUDGING:
        why = "champion and challenger were not compared in time"
        return ended(state, "failed", why, rule, now_s)
    if state.phase is Phase.WAITING:
        why = f"nobody has approved {state.model}@{state.challenger} in time"
        return ended(state, "dropped", why, rule, now_s)
    if state.phase is Phase.COOLING:
        idle = Adaptation(model=state.model, since_s=now_s, broken=state.broken)
        return Step(idle, "ready", "the next event may begin anew")
    return None
