"""Submitted predictions: run a batch of them, and put right what was lost."""

from __future__ import annotations

import time
from typing import Any

import msgspec
from celery import shared_task

from celeriac import errors, metrics
from celeriac.host import get_host
from celeriac.jobs.chunk import process_name
from celeriac.logs import get_logger
from celeriac.messages import (
    CONTRACT,
    PREDICT_SUBMITTED,
    SUBMISSIONS_RECONCILE,
    check_contract,
    predict_queue,
)
from celeriac.settings import get_settings
from celeriac.submissions.deliveries import Deliveries
from celeriac.submissions.lease import SubmissionLease
from celeriac.submissions.ledger import BATCH_ITEMS, Claim, Ended, SubmissionLedger
from producer import lost_submissions, nudges
from tasks.base import CeleriacTask
from tasks.beat import BeatTask
from tasks.broker import kept_broker
from tasks.patience import patiently
from tasks.predict import score

log = get_logger(__name__)

LONGEST_RUN_S = 3_600.0
"""A batch whose passes the watchdog finds in order holds its submissions so long, at most."""
LASTING = (errors.ModelCorrupt, errors.UntrustedModel, errors.RuntimeMissing)
"""What no later attempt would mend."""
_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder().decode


def _ledger() -> SubmissionLedger:
    return SubmissionLedger(kept_broker().redis)


@shared_task(name=PREDICT_SUBMITTED, base=CeleriacTask, acks_late=True, ignore_result=True)
def predict_submitted(model: str, queue: str, v: int = CONTRACT) -> None:
    """Predict the oldest submissions that wait for ``model`` in ``queue``, at most one batch."""
    check_contract(v)
    ledger, settings = _ledger(), get_settings().submissions
    if (right := _right_queue(model, queue)) != queue:
        moved = lost_submissions.move(kept_broker(), ledger, model, queue, right)
        log.info("submissions moved to the queue of another device", items=moved, queue=right)
        return
    claims = ledger.claim(
        queue, model, worker=process_name(), lease_s=settings.lease_s,
        message=nudges.call_to_line(queue, model),
    )
    _count("expired", claims.expired)
    _tell(claims.hosts)
    if not claims.taken:
        return
    with SubmissionLease(
        lambda: ledger.renew(claims.taken, settings.lease_s),
        lease_s=settings.lease_s, longest_s=LONGEST_RUN_S,
    ):
        _run(ledger, queue, model, claims.taken)


@shared_task(name=SUBMISSIONS_RECONCILE, base=BeatTask, ignore_result=True)
def reconcile() -> dict[str, int] | None:
    """Run again what was lost, end what has no time left, send what is due.

    Returns how many, by what was done with them.
    """
    found, overview = lost_submissions.reconcile(kept_broker(), _ledger())
    metrics.SUBMISSIONS_OPEN.set(overview.open)
    nudges.publish_deliveries(kept_broker().redis, Deliveries(kept_broker().redis).hosts())
    for what, count in found.items():
        metrics.SUBMISSIONS_RECONCILED.labels(what).inc(count)
    if found:
        log.warning("submissions reconciled", **found)
    return found or None


def _right_queue(model: str, queue: str) -> str:
    """Of the device whose workers answer for ``model`` now; ``queue`` if that is this one's."""
    host = get_host()
    try:
        _, device = host.placed(model)
    except errors.CeleriacError:  # each item is told
        return queue
    return queue if device == host.device else predict_queue(device)


def _run(
    ledger: SubmissionLedger, queue: str, model: str, claims: tuple[Claim, ...]
) -> None:
    started = time.perf_counter()
    try:
        answers = _answers(model, claims)
    except errors.RegistryError as error:  # it may pass: they are tried again when the lease lapses
        log.warning("submissions have to wait", reason=error.message, items=len(claims))
        return
    except Exception as error:
        log.exception("submissions failed", reason=str(error), items=len(claims))
        _give_back(ledger, queue, model, claims)
        return
    encoded = [_encode(answer) for answer in answers]
    ended = patiently(lambda: ledger.commit(zip(claims, encoded, strict=True)))
    _note(ended)
    log.info(
        "submissions predicted", items=len(claims), seconds=round(time.perf_counter() - started, 3)
    )


def _answers(model: str, claims: tuple[Claim, ...]) -> list[dict[str, Any]]:
    """One answer or error for each item; what would fail again is an error of each.

    Raises RegistryError if the version cannot be loaded now, unless it was the last attempt.
    """
    try:
        return score(model, [_decode(claim.item) for claim in claims])
    except (errors.RequestError, errors.RegistryError, errors.ItemError) as error:
        is_last = claims[0].attempt >= get_settings().submissions.max_attempts
        if isinstance(error, errors.RegistryError) and not (is_last or isinstance(error, LASTING)):
            raise
        return [{"error": error.to_wire()} for _ in claims]


def _give_back(
    ledger: SubmissionLedger, queue: str, model: str, claims: tuple[Claim, ...]
) -> None:
    failure = errors.WorkerError("the worker failed on it; its log names the reason").to_wire()
    most = get_settings().submissions.max_attempts
    ended = patiently(lambda: ledger.give_back(claims, most, _encode({"error": failure})))
    _note(ended)
    again = sum(outcome == "queued" for outcome in ended.outcomes)
    nudges.publish_calls(kept_broker().redis, queue, model, -(-again // BATCH_ITEMS))


def _note(ended: Ended) -> None:
    for outcome in ended.outcomes:
        _count(str(outcome), 1)
    _tell(ended.hosts)


def _count(outcome: str, count: int) -> None:
    if count:
        metrics.SUBMISSIONS.labels(outcome).inc(count)


def _tell(hosts: tuple[str, ...]) -> None:
    """Have webhooks sent; if Redis is away now, the reconciler will."""
    if hosts:
        patiently(lambda: nudges.publish_deliveries(kept_broker().redis, hosts))
