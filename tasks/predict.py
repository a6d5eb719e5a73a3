"""The two doors to the models: ``celeriac.predict`` and ``celeriac.predict.envelope``."""

from __future__ import annotations

import contextlib
import time
from typing import Any

import msgspec
from celery import Task, shared_task
from celery.exceptions import Reject

from celeriac import errors, metrics
from celeriac.cache import Answerer
from celeriac.cache.worker import get_worker_cache
from celeriac.drift.counter import get_counter
from celeriac.host import get_host
from celeriac.keys import REPLY_TTL_S, reply_key
from celeriac.logs import get_logger
from celeriac.messages import (
    CONTRACT,
    PREDICT,
    PREDICT_ENVELOPE,
    Envelope,
    Reply,
    check_contract,
    predict_queue,
)
from celeriac.scoring import Scorer
from celeriac.settings import get_settings
from tasks.base import CeleriacTask

log = get_logger(__name__)

FIRST_LOOK_S, LAST_LOOK_S = 0.1, 1.0
"""A task whose version is being loaded goes back to its queue for so long, longer each time ..."""
MOST_LOOKS = 300
"""... so many times; then it waits in its process."""


# Bound: as somebody's link_error an unbound task of more than one argument would be called on the
# spot by Celery, and its result kept by nobody.
@shared_task(name=PREDICT, base=CeleriacTask, bind=True)
def predict(
    self: Task, model: str, items: list[Any], v: int = CONTRACT
) -> list[dict[str, Any]]:
    """Score ``items`` with ``model``; the answers are a list in the items' order.

    Each entry is an answer or ``{"error": {"code", "message"}}``. The task fails as a whole only
    when the whole request is at fault: RequestError and its kinds, RegistryError.
    """
    check_contract(v)
    _check_items(items)
    if not _is_ready(self, model):
        # Others that wait for this process go first: a load may take long, and its trial may hang.
        pause_s = min(FIRST_LOOK_S * 2 ** min(self.request.retries, 10), LAST_LOOK_S)
        with contextlib.suppress(Reject):  # Redis takes no message: it waits in its process, then
            raise self.retry(countdown=pause_s, max_retries=MOST_LOOKS)
    return score(model, items)


def _is_ready(task: Task, model: str) -> bool:
    """False while a thread loads what ``model`` names, and the task can come again."""
    request = task.request
    if request.called_directly or request.is_eager or request.retries >= MOST_LOOKS:
        return True
    host = get_host()
    key, device = host.placed(model)
    if device != host.device or host.has_made_room(*key):
        return True
    try:
        return host.is_ready(*key)
    except errors.Overloaded:  # others are loaded before it: unlike a request, a task can wait
        return False


@shared_task(name=PREDICT_ENVELOPE, base=CeleriacTask, bind=True, ignore_result=True)
def predict_envelope(self: Task, **kwargs: Any) -> None:
    """What the lane does, for a worker without a lane: score one envelope and push the reply."""
    envelope = read_envelope(kwargs)
    if envelope.deadline_ms < time.time() * 1000:
        metrics.EXPIRED.labels("receipt").inc(len(envelope.items))
        return
    reply = Reply(v=CONTRACT, id=envelope.id, batch_items=len(envelope.items))
    started = time.perf_counter()
    try:
        check_contract(envelope.v)
        reply.answers = score(envelope.model, envelope.items)
    except errors.CeleriacError as error:
        reply.error = error.to_wire()
    reply.compute_ms = (time.perf_counter() - started) * 1000
    key = reply_key(envelope.reply_to)
    with self.backend.client.pipeline(transaction=False) as pipe:
        pipe.rpush(key, msgspec.json.encode(reply))
        pipe.expire(key, REPLY_TTL_S)
        pipe.execute()


def read_envelope(kwargs: dict[str, Any]) -> Envelope:
    """The envelope that a message's keyword arguments are. Raises RequestError if they are not."""
    try:
        return msgspec.convert(kwargs, Envelope)
    except msgspec.ValidationError as error:
        raise errors.RequestError(f"the envelope is not well formed: {error}") from error


def score(model: str, items: list[Any]) -> list[dict[str, Any]]:
    """Answers of the model that ``model`` names; those that are computed are counted and timed.

    Raises RequestError (or a kind of it) for an unknown model, RegistryError if it cannot load.
    """
    host = get_host()
    (name, version), device = host.placed(model)
    if device != host.device:
        raise errors.RequestError(
            f"{name}@{version} is for the {device.upper()}: send it to {predict_queue(device)}, "
            f"not to {predict_queue(host.device)}"
        )
    scorer = host.scorer(name, version)
    if not scorer.manifest.serving.cache:
        return _compute(scorer, items)
    cache, who = get_worker_cache(), Answerer.of(scorer.manifest)
    recalled = cache.recall(who, items)
    new = [item for item, answer in zip(items, recalled, strict=True) if answer is None]
    computed = _compute(scorer, new) if new else []
    cache.keep(who, new, computed)
    rest = iter(computed)
    return [next(rest) if answer is None else answer for answer in recalled]


def _compute(scorer: Scorer, items: list[Any]) -> list[dict[str, Any]]:
    cap = scorer.manifest.serving.max_batch_size or get_settings().realtime.max_batch_items
    started = time.perf_counter()
    answers = scorer.answer(items, cap)
    metrics.REAL_TIME_SECONDS.labels(scorer.name).observe(time.perf_counter() - started)
    count_answers(scorer.name, answers)
    get_counter().offer(scorer.manifest, items, answers)
    return answers


def count_answers(name: str, answers: list[dict[str, Any]]) -> None:
    """Count scored items and the errors among them."""
    metrics.REQUESTS.labels(name, "realtime").inc(len(answers))
    for answer in answers:
        if "error" in answer:
            metrics.ITEM_ERRORS.labels(name, answer["error"]["code"]).inc()


def _check_items(items: Any) -> None:
    limit = get_settings().realtime.max_items
    if not isinstance(items, list):
        raise errors.RequestError(f"items must be a list, not {type(items).__name__}")
    if len(items) > limit:
        raise errors.PayloadTooLarge(
            f"{len(items)} items in one task; at most {limit} are allowed: "
            "score more as a dataset (celeriac batch submit)"
        )
