"""Puts right what was lost of submitted predictions: leases, messages, webhooks, time."""

from __future__ import annotations

from collections import Counter

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
    counts["messages"] = sum(_call_again(broker, overdue).values())
    return {what: count for what, count in counts.items() if count}, overview


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
