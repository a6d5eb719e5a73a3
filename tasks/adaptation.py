"""What is done about drift: an event begins it, looks of beat carry it on, a person decides.

Each step is one line of the model's ``adaptation.jsonl``, which only who has seen the line before
can add. A worker that is killed costs a step its time: the next look takes it again.
"""

from __future__ import annotations

import json
import math
import time
import uuid
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import redis
from celery import Task, shared_task

from celeriac import errors, lua, metrics, release
from celeriac.alerts import Alert, AlertKind
from celeriac.drift import adaptation
from celeriac.drift.adaptation import Adaptation, Compared, Figure, Phase, Step
from celeriac.drift.adaptation_log import AdaptationLog, Line
from celeriac.drift.events import DriftEvent
from celeriac.drift.feedback import accuracy_since
from celeriac.keys import adapting_key, drift_asker_key, drift_unasked_key
from celeriac.logs import get_logger
from celeriac.messages import (
    CHAMPION,
    CONTRACT,
    DRIFT_ADAPT,
    MAINTENANCE_QUEUE,
    ModelRef,
    check_contract,
)
from celeriac.registry.aliases import CHALLENGER
from celeriac.registry.store import Registry
from celeriac.settings import Settings, get_settings
from celeriac.settings.adapt import AdaptSettings
from producer.broker import Broker
from producer.jobs import redis_errors
from tasks.alerts import notify, send_pending
from tasks.beat import BeatTask, every
from tasks.hook import Hook
from tasks.models import publish_registry

log = get_logger(__name__)

ADAPT_EVERY_S = 10.0
TOLD_WITHIN_S = 3_600.0
"""A step that was taken and not told (its worker was killed) is told so long afterwards."""
_MOST_STEPS = 12
_MOST_UNASKED = 1_000
_ASK_S = 60
_ASK_FOR_S = 30.0
"""Then the next look goes on: within ``_ASK_S`` nobody else asks."""
_SPARE_S = 60
_QUIET = ("asked", "retraining", "judging", "accepted", "ready", "not_retrained", "data_mended")
"""Steps of which nobody need be told."""


@shared_task(name=DRIFT_ADAPT, base=BeatTask, bind=True, ignore_result=True)
def adapt(self: Task, model: str, v: int = 1) -> dict[str, str] | None:
    """Carry the adaptation of one model on, as far as it goes now; returns where it is then."""
    check_contract(v)
    with Broker(get_settings()) as broker:
        history = AdaptationLog(_registry(broker).root, model)
        _, before = history.read()
        carry_on(broker, model, owner=str(self.request.id))
        state, after = history.read()
    return {"phase": str(state.phase)} if after != before else None


def beat_schedule(settings: Settings) -> dict[str, dict[str, Any]]:
    """Entries of the beat schedule: a look at each model that has a policy."""
    return {
        f"adapt-{model}": every(ADAPT_EVERY_S, DRIFT_ADAPT, model=model, v=CONTRACT)
        for model in settings.drift.adapt
    }


# --- what begins it, and what a person decides ----------------------------------------------------


def ask(broker: Broker, event: DriftEvent) -> None:
    """Have the policy of the model asked: now, or by a later look of beat if that fails.

    Raises redis.RedisError.
    """
    if event.model not in broker.settings.drift.adapt:
        return
    key = drift_unasked_key(event.model)
    with broker.redis.pipeline(transaction=True) as pipe:
        pipe.rpush(key, json.dumps(event.to_dict()))
        pipe.ltrim(key, -_MOST_UNASKED, -1)
        pipe.expire(key, math.ceil(adaptation.BROKEN_S))
        pipe.execute()
    ask_waiting(broker, event.model)


def ask_waiting(broker: Broker, model: str) -> None:
    """Ask the policy of a model about the events that wait, the oldest first: until one fails, or
    at once not at all, if another task does. Raises redis.RedisError."""
    key, asker, owner = drift_unasked_key(model), drift_asker_key(model), str(uuid.uuid4())
    client: Any = broker.redis
    if not client.set(asker, owner, nx=True, ex=_ASK_S):
        return
    until_s = time.monotonic() + _ASK_FOR_S
    try:
        while time.monotonic() < until_s and (waiting := client.lindex(key, 0)) is not None:
            event = _waiting_event(waiting)
            if event is not None:
                on_event(broker, event)
            client.lrem(key, 1, waiting)
    except redis.RedisError:
        raise
    except (errors.CeleriacError, OSError) as error:
        log.warning("the policy is asked again later", model=model, reason=str(error))
    except Exception:  # whatever it is, the event waits for the next look
        log.exception("the policy is asked again later", model=model)
    finally:
        lua.release(client, asker, owner)


def _waiting_event(data: bytes) -> DriftEvent | None:
    """None: it is none, and would hold up all others for ever."""
    try:
        return DriftEvent.from_dict(json.loads(data))
    except (ValueError, errors.RequestError) as error:
        log.error("what waits for a policy is no event, and is left out", reason=str(error))  # noqa: TRY400
        return None


def on_event(broker: Broker, event: DriftEvent) -> Step | None:
    """Do what the policy of the model says; None: nothing.

    Raises RegistryError if its folder cannot be read or locked.
    """
    rule = broker.settings.drift.adapt.get(event.model)
    registry = _registry(broker)
    if rule is None or event.model not in registry.names():
        return None
    history = AdaptationLog(registry.root, event.model)
    for _ in range(_MOST_STEPS):
        state, seen = history.read()
        named = registry.aliases(event.model).read()
        step = adaptation.on_event(
            state, event, rule, time.time(), champion=named.get(CHAMPION, 0),
            alias=named.get(CHALLENGER, 0), task=str(uuid.uuid4()),
        )
        if step is None:
            return None
        if history.add(step, seen=seen, now_s=time.time()):
            _drop_alias(registry, state, step.state)
            log.info("adaptation", model=event.model, step=step.what, why=step.why)
            with suppress(errors.BrokerError):  # the next look of beat goes on
                _wake(broker, event.model)
            return step
    raise errors.RegistryError(f"{event.model}: others write its adaptation.jsonl all the time")


def decide(
    broker: Broker, ref: ModelRef, *, approve: bool, who: str, why: str
) -> Step:
    """A person approves the challenger that waits, or rejects it.

    Raises RequestError if there is none or another one, ConfigError if the model has no policy,
    BrokerError if the decision is written and cannot be carried out at once.
    """
    rule = rule_of(broker.settings, ref.name)
    registry = _registry(broker)
    history = AdaptationLog(registry.root, ref.name)
    for _ in range(_MOST_STEPS):
        state, seen = history.read()
        step = adaptation.decided(
            state, rule, time.time(), approve=approve, who=who, why=why, version=ref.version
        )
        if history.add(step, seen=seen, now_s=time.time()):
            _drop_alias(registry, state, step.state)
            try:
                _wake(broker, ref.name)
            except errors.BrokerError as error:
                raise errors.BrokerError(
                    f"the decision is written, and carried out when Redis is there: {error.message}"
                ) from error
            return step
    raise errors.RegistryError(f"{ref.name}: others write its adaptation.jsonl all the time")


def rule_of(settings: Settings, model: str) -> AdaptSettings:
    """The policy of a model. Raises ConfigError."""
    rule = settings.drift.adapt.get(model)
    if rule is None:
        known = ", ".join(sorted(settings.drift.adapt)) or "none"
        raise errors.ConfigError(f"no [drift.adapt.{model}] in the settings; there is: {known}")
    return rule


# --- what carries it on ---------------------------------------------------------------------------


def carry_on(broker: Broker, model: str, *, owner: str) -> Adaptation | None:
    """Take all steps that can be taken now, unless another task does; the state afterwards."""
    rule = broker.settings.drift.adapt.get(model)
    registry = _registry(broker)
    if rule is None or model not in registry.names():
        return None
    ask_waiting(broker, model)
    key = adapting_key(model)
    settings = broker.settings.models
    longest_s = rule.judge_timeout_s + settings.check_timeout_s + _SPARE_S
    if not broker.redis.set(key, owner, nx=True, ex=math.ceil(longest_s)):
        return None
    try:
        return _take_steps(_Work(broker, registry, rule, model))
    finally:
        lua.release(broker.redis, key, owner)


@dataclass(frozen=True)
class _Work:
    """A model, its policy, and what is needed to carry it out."""

    broker: Broker
    registry: Registry
    rule: AdaptSettings
    model: str

    @property
    def client(self) -> Any:
        return self.broker.redis

    @property
    def hook(self) -> Hook:
        return Hook(self.broker, self.registry, self.rule)

    def champion(self) -> int:
        return self.registry.aliases(self.model).read().get(CHAMPION, 0)


def _take_steps(work: _Work) -> Adaptation:
    history = AdaptationLog(work.registry.root, work.model)
    _tell_last(work, history)
    for _ in range(_MOST_STEPS):
        state, seen = history.read()
        if _costs(state):
            history.check_room()
        step = _next(work, state, time.time())
        if step is None:
            break
        if history.add(step, seen=seen, now_s=time.time()):
            _drop_alias(work.registry, state, step.state)
            log.info("adaptation", model=work.model, step=step.what, why=step.why, who=step.who)
            _tell_last(work, history)
    return history.read()[0]


def _costs(state: Adaptation) -> bool:
    """True if the next step calls somebody, or computes for long."""
    return state.phase in (Phase.JUDGING, Phase.PROMOTING) or (
        state.phase is Phase.RETRAINING and not state.is_asked
    )


def _next(work: _Work, state: Adaptation, now_s: float) -> Step | None:
    """Do what the phase calls for; the step that follows, None if it is not its time."""
    rule = work.rule
    if state.phase is Phase.RETRAINING:
        return _retraining(work, state, now_s)
    late = adaptation.overdue(state, rule, now_s)
    if late is not None or state.phase in (Phase.IDLE, Phase.COOLING):
        return late
    champion = work.champion()
    if state.phase is Phase.WATCHING:
        return _watching(work, state, now_s, champion)
    if champion == state.challenger and state.phase is not Phase.JUDGING:
        return adaptation.promoted(state, _baseline(work, state, now_s), rule, now_s)
    if champion != state.champion:
        why = f"the champion is version {champion} now, no longer {state.champion}"
        return adaptation.ended(state, "superseded", why, rule, now_s)
    if state.phase is Phase.JUDGING:
        return _judging(work, state)
    return _promoting(work, state) if state.phase is Phase.PROMOTING else None


def _retraining(work: _Work, state: Adaptation, now_s: float) -> Step | None:
    """What the hook has answered counts, however late somebody looks: it had its own time."""
    rule = work.rule
    late = adaptation.overdue(state, rule, now_s)
    if late is None and not state.is_asked:
        work.hook.call(state)
        return adaptation.asked(state, rule)
    found = work.hook.outcome(state) if state.is_asked else None
    if found is None:
        return None if late is None else late._replace(why=late.why + work.hook.unserved())
    try:
        version = work.hook.challenger(state, found)
    except errors.CeleriacError as error:
        why = f"{rule.retrain}: {error.message}"
        return adaptation.ended(state, "failed", why, rule, now_s)
    return adaptation.retrained(state, version, rule, now_s)


def _judging(work: _Work, state: Adaptation) -> Step:
    try:
        compared = _compare(work, state)
        return adaptation.judged(state, compared, work.rule, time.time())
    except errors.CeleriacError as error:
        return adaptation.ended(state, "failed", error.message, work.rule, time.time())


def _compare(work: _Work, state: Adaptation) -> Compared:
    from celeriac.release.judging import judge  # numpy and pyarrow, also in beat

    return judge(
        work.registry, work.model, state.champion, state.challenger, rule=work.rule,
        settings=work.broker.settings,
    )


def _promoting(work: _Work, state: Adaptation) -> Step:
    try:
        release.promote(
            work.registry, f"{work.model}@{state.challenger}", settings=work.broker.settings,
            who=state.approver, why=f"drift: {state.compared}",
        )
    except errors.CeleriacError as error:
        return adaptation.ended(state, "not_promoted", error.message, work.rule, time.time())
    publish_registry(work.client)
    now_s = time.time()
    return adaptation.promoted(state, _baseline(work, state, now_s), work.rule, now_s)


def _watching(work: _Work, state: Adaptation, now_s: float, champion: int) -> Step | None:
    rule = work.rule
    if champion != state.challenger:
        why = f"the champion is version {champion} now, no longer {state.challenger}"
        return adaptation.ended(state, "superseded", why, rule, now_s)
    found = _lately(work, state.challenger, state.since_s)
    if adaptation.does_worse(state.baseline, found, rule):
        return _roll_back(work, state, f"{found}; before: {state.baseline}")
    if now_s < state.since_s + rule.watch_s:
        return None
    if found is not None and found.rows >= rule.watch_labels and state.baseline is not None:
        why = f"{found}; before: {state.baseline}"
        return adaptation.ended(state, "kept", why, rule, now_s)
    return _without_feedback(work, state)


def _without_feedback(work: _Work, state: Adaptation) -> Step:
    """Too few labels of its own predictions have come: both versions on the newest rows again."""
    rule, few = work.rule, f"fewer than {work.rule.watch_labels:,} labels by feedback"
    try:
        compared = _compare(work, state)
        lost = -compared.gain
    except errors.CeleriacError as error:
        why = f"how it does is not known: {few}, and {error.message}"
        return adaptation.ended(state, "kept", why, rule, time.time())
    if lost > 0 and lost >= rule.margin:
        return _roll_back(work, state, f"{few}; on the newest rows {compared}")
    return adaptation.ended(
        state, "kept", f"{few}; on the newest rows {compared}", rule, time.time()
    )


def _roll_back(work: _Work, state: Adaptation, why: str) -> Step:
    try:
        done = release.rollback(
            work.registry, work.model, who=adaptation.NOBODY, why=f"drift: does worse: {why}",
            champion=state.challenger, to=state.champion,
        )
    except errors.CeleriacError as error:
        return adaptation.ended(
            state, "not_rolled_back", f"does worse: {why}; {error.message}", work.rule, time.time()
        )
    with suppress(redis.RedisError, errors.CeleriacError):  # beat has it published again
        publish_registry(work.client)
    return adaptation.ended(
        state, "rolled_back", f"to version {done['version']}: {why}", work.rule, time.time()
    )


# --- how versions do ------------------------------------------------------------------------------


def _lately(work: _Work, version: int, since_s: float) -> Figure | None:
    found = accuracy_since(work.client, work.model, version, since_s)
    return Figure.of(found) if found is not None and found.rows else None


def _baseline(work: _Work, state: Adaptation, now_s: float) -> Figure | None:
    """How the champion before did: by feedback, or else on the held-out rows."""
    found = _lately(work, state.champion, now_s - work.rule.watch_s)
    if found is not None and found.rows >= work.rule.watch_labels:
        return found
    if state.compared is None:
        return found
    accuracies = state.compared.accuracies
    return accuracies[0] if accuracies else state.compared.champion


# --- what is told ---------------------------------------------------------------------------------


def _tell_last(work: _Work, history: AdaptationLog) -> None:
    """Tell the newest step of which somebody is told, once."""
    found = news(history.newest(), time.time())
    if found is None:
        return
    line, before = found
    if notify(work.broker, alert_of(line, before)):
        metrics.DRIFT_ADAPTATIONS.labels(work.model, line.what).inc()
    send_pending(work.broker)


def news(lines: Sequence[Line], now_s: float) -> tuple[Line, Adaptation] | None:
    """The newest step of which somebody is told, and the state that it left; None: there is none,
    or it is too long ago. Quiet steps after it do not hide it."""
    loud = [number for number, line in enumerate(lines) if line.what not in _QUIET]
    if not loud or now_s - lines[loud[-1]].at_s > TOLD_WITHIN_S:
        return None
    line = lines[loud[-1]]
    return line, lines[loud[-1] - 1].state if loud[-1] else line.state


def alert_of(line: Line, before: Adaptation) -> Alert:
    """What a webhook or a command is told of a step; ``before``: the state that it left."""
    model = line.state.model
    version = line.state.challenger or before.challenger or before.champion
    doing = f"celeriac drift adaptation {model}"
    if line.what == "waiting_for_approval":
        doing = f"celeriac drift approve {model}@{version}; or: celeriac drift reject {model}"
    elif line.what == "promoted":
        doing = f"nothing; celeriac models rollback {model} takes it back"
    by = "" if line.who == adaptation.NOBODY else f" (by {line.who})"
    return Alert(
        kind=AlertKind.ADAPTATION, entry=_place_of(before.event or line.state.event), model=model,
        version=version, state=line.what, reason=f"{line.why}{by}", next=doing,
        at=datetime.fromtimestamp(line.at_s, UTC).isoformat(timespec="milliseconds"),
    )


def _place_of(event: dict[str, Any] | None) -> str:
    return DriftEvent.from_dict(event).place if event else "policy"


# --- small things ---------------------------------------------------------------------------------


def _registry(broker: Broker) -> Registry:
    return Registry(Path(broker.settings.models.root))


def _wake(broker: Broker, model: str) -> None:
    with redis_errors(broker):
        broker.celery.send_task(
            DRIFT_ADAPT, kwargs={"model": model, "v": CONTRACT}, queue=MAINTENANCE_QUEUE,
            expires=60,
        )


def _drop_alias(registry: Registry, before: Adaptation, now: Adaptation) -> None:
    """A challenger of which all is decided is none any more."""
    if not before.challenger or now.phase not in (Phase.WATCHING, Phase.COOLING, Phase.IDLE):
        return
    try:
        if registry.aliases(before.model).read().get(CHALLENGER) == before.challenger:
            release.unassign(
                registry, before.model, CHALLENGER, who=adaptation.NOBODY, why="drift"
            )
    except errors.CeleriacError as error:  # somebody gives it at this moment
        log.warning("alias challenger not taken away", model=before.model, reason=error.message)
