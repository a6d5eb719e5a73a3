"""Puts right what was lost of submitted predictions: leases, messages, webhooks, time."""

from __future__ import annotations

from collections import Counter

from celeriac import errors
from celeriac.messages import ModelRef, predict_queue
from celeriac.registry.catalogue import fetch
from celeriac.submissions.ledger import BATCH_ITEMS, Overview, SubmissionLedger, WaitingLine
from producer import nudges
from producer.broker import Broker
from producer.queues import headers_in

QUEUED_S = 10.0
"""A line whose first one has waited for so long should have messages that call for it."""
MOST_AT_ONCE = 500
MOST_SWEEPS = 20
"""Sweeps of one run, at most; the next run goes on."""
MOST_CALLS = 100
"""Messages that one run sends again for one line, at most."""


def reconcile(
    broker: Broker, ledger: SubmissionLedger, *, queued_s: float = QUEUED_S
) -> tuple[dict[str, int], Overview]:
    """One look at all that is due; what was put right by its kind, and what is open now.

    Costs two exchanges if nothing is. Raises redis.RedisError; the next run goes on.
    """
    counts: Counter[str] = Counter()
    for _ in range(MOST_SWEEPS):
        sweep = ledger.sweep(
            most=MOST_AT_ONCE, max_attempts=broker.settings.submissions.max_attempts
        )
        for line, count in sweep.lines:
            queue, _, model = line.partition(":")
            nudges.publish_calls(broker.redis, queue, model, -(-count // BATCH_ITEMS))
        counts.update(lapsed=sweep.lapsed, failed=sweep.failed, expired=sweep.expired)
        if sweep.looked_at < MOST_AT_ONCE:
            break
    overview = ledger.overview()
    overdue = [line for line in overview.lines if line.oldest_s >= queued_s]
    moved = _moved(broker, ledger, overdue)
    counts["moved"] = sum(moved.values())
    left = [line for line in overdue if line.name not in moved]
    counts["messages"] = sum(_call_again(broker, left).values())
    return {what: count for what, count in counts.items() if count}, overview


def move(broker: Broker, ledger: SubmissionLedger, model: str, queue: str, to: str) -> int:
    """Have what waits for ``model`` in one queue wait in another one, where its version is answered
    now; how many they were. Raises redis.RedisError.
    """
    total = 0
    for _ in range(MOST_SWEEPS):
        moved = ledger.move(model, queue, to, MOST_AT_ONCE)
        nudges.publish_calls(broker.redis, to, model, -(-moved // BATCH_ITEMS))
        total += moved
        if moved < MOST_AT_ONCE:
            break
    return total


def _moved(broker: Broker, ledger: SubmissionLedger, lines: list[WaitingLine]) -> dict[str, int]:
    """Move the lines whose versions are answered elsewhere now, by the catalogue; how many
    submissions, by line."""
    if not lines:
        return {}
    catalogue = fetch(broker.redis)
    moved = {}
    for line in lines:
        try:
            device = catalogue.resolve(ModelRef.parse(line.model)).device
        except errors.RequestError:  # whoever takes it says so
            continue
        if predict_queue(device) != line.queue:
            moved[line.name] = move(broker, ledger, line.model, line.queue, predict_queue(device))
    return moved


def _call_again(broker: Broker, overdue: list[WaitingLine]) -> dict[str, int]:
    """Send the messages that each line lacks; how many, by line."""
    called: dict[str, Counter[str] | None] = {}
    sent = {}
    for line in overdue:
        if line.queue not in called:
            called[line.queue] = _calls_in(broker, line.queue)
        present = called[line.queue]
        if present is None:
            continue
        lacking = min(-(-line.waiting // BATCH_ITEMS) - present[line.name], MOST_CALLS)
        nudges.publish_calls(broker.redis, line.queue, line.model, lacking)
        sent[line.name] = max(lacking, 0)
    return sent


def _calls_in(broker: Broker, queue: str) -> Counter[str] | None:
    role = queue.replace("predict.", "realtime.", 1)
    headers = headers_in(broker, queue, role)
    if headers is None:
        return None
    return Counter(str(one.get(nudges.LINE_HEADER)) for one in headers)
