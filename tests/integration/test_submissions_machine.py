"""The ledger of submissions under any order of events: a state machine on a real server."""

from __future__ import annotations

import time
from typing import Any, ClassVar

import pytest
import redis
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    invariant,
    multiple,
    rule,
)

from celeriac import errors
from celeriac.keys import SUBMISSIONS_WAITING_PREFIX, submission_key
from celeriac.submissions import ledger as submissions
from celeriac.submissions.ledger import (
    Claim,
    Limits,
    Outcome,
    Submission,
    SubmissionLedger,
    SubmissionState,
    Webhook,
)
from tests.integration.state_machines import run_machine

pytestmark = pytest.mark.uncounted

QUEUE, MODEL = "predict.cpu", "echo"
LINE = f"{QUEUE}:{MODEL}"
NAMES = st.sampled_from(["t:a", "t:b", "t:c", "t:d", "u:a", "u:e"])
"""Of two tenants."""
ATTEMPTS = 3
GONE_S, HELD_S = 0.0, 600.0
"""A lease that has lapsed at once, and one that never does within a test."""
LIMITS = Limits(open=4, open_bytes=1_000, known=1_000, tenant_share=0.75)
TENANT_OPEN = 3
FINAL = ("done", "failed", "cancelled", "expired")


class SubmissionMachine(RuleBasedStateMachine):
    """Callers submit and cancel; workers claim, renew, answer, fail and die; time passes."""

    client: ClassVar[redis.Redis]
    runs = Bundle("runs")

    def __init__(self) -> None:
        super().__init__()
        self.client.flushall()
        self.ledger = SubmissionLedger(self.client)
        self.accepted: dict[str, bytes] = {}
        self.ended: dict[str, tuple[str, bytes]] = {}
        self.newest: dict[str, int] = {}
        self.leases: dict[str, float] = {}
        self.calls = 0
        """Messages under way; one is lost only in a rule that says so."""
        self.lost_calls = False

    # --- callers ----------------------------------------------------------------------------------

    @rule(one=NAMES, item=st.sampled_from([b"1", b"22"]), expires_s=st.sampled_from([600.0, 0.0]))
    def submit(self, one: str, item: bytes, expires_s: float) -> None:
        tenant, _, name = one.partition(":")
        open_ = [other for other in self.accepted if other not in self.ended]
        theirs = [other for other in open_ if other.startswith(f"{tenant}:")]
        wanted = Submission(
            tenant=tenant, id=name, model=MODEL, queue=QUEUE, item=item, digest=item.decode(),
            expires_s=expires_s, kept_s=600,
            webhook=Webhook(delivery=f"delivery-{one}", url="https://h/x", host="h:443"),
        )
        try:
            is_new, _ = self.ledger.submit(wanted, LIMITS, b"call")
        except errors.Conflict:
            assert self.accepted[one] != item
        except errors.Overloaded:
            assert one not in self.accepted
            assert len(open_) == LIMITS.open or len(theirs) == TENANT_OPEN
        else:
            assert one in self.accepted or (
                len(open_) < LIMITS.open and len(theirs) < TENANT_OPEN
            )
            assert is_new == (one not in self.accepted)
            self.accepted.setdefault(one, item)
        self._take_calls()

    @rule(one=NAMES)
    def cancel(self, one: str) -> None:
        state = self.ledger.cancel(*one.split(":"))
        assert (state is None) == (one not in self.accepted)
        if state is SubmissionState.CANCELLED and one not in self.ended:
            self._end(one, "cancelled", b"")

    # --- workers ----------------------------------------------------------------------------------

    @rule(target=runs, lease_s=st.sampled_from([GONE_S, HELD_S]))
    def claim(self, lease_s: float) -> Any:
        self.calls = max(0, self.calls - 1)
        claims = self.ledger.claim(
            QUEUE, MODEL, worker="w", lease_s=lease_s, message=b"call",
            most=submissions.BATCH_ITEMS,
        )
        for claim in claims.taken:
            one = claim.name
            assert one not in self.ended
            assert self.leases.get(one) != HELD_S, "a live lease was taken away"
            assert claim.epoch > self.newest.get(one, 0)
            assert 1 <= claim.attempt <= ATTEMPTS
            assert claim.item == self.accepted[one]
            self.newest[one] = claim.epoch
            self.leases[one] = lease_s
        again = [claim for claim in claims.taken if claim.attempt > 1]
        assert len(claims.taken) == 1 or not again, "what was begun before runs alone"
        self._take_calls()
        return multiple(*claims.taken)

    @rule(target=runs)
    def claim_and_die(self) -> Any:
        """The run may live on, and not know that it has lost its lease."""
        found = self.claim(GONE_S)
        self.sweep()
        return found

    @rule(run=runs, lease_s=st.sampled_from([GONE_S, HELD_S]))
    def renew(self, run: Claim, lease_s: float) -> None:
        if self.ledger.renew([run], lease_s):
            assert self._holds(run)
            self.leases[self._id(run)] = lease_s

    @rule(run=runs, answer=st.sampled_from([b'{"value":1}', b'{"error":{"code":"x"}}']))
    def answer(self, run: Claim, answer: bytes) -> None:
        holds = self._holds(run)
        (outcome,) = self.ledger.commit([(run, answer)]).outcomes
        assert (outcome in (Outcome.DONE, Outcome.FAILED)) == holds
        if holds:
            self._end(self._id(run), str(outcome), answer)
            assert self.ledger.commit([(run, b"{}")]).outcomes == (Outcome.ENDED,)

    @rule(run=runs)
    def fail(self, run: Claim) -> None:
        holds = self._holds(run)
        (outcome,) = self.ledger.give_back([run], ATTEMPTS, b'{"error":{}}').outcomes
        assert (outcome is Outcome.FENCED) != holds
        if outcome is Outcome.FAILED:
            assert run.attempt == ATTEMPTS
            self._end(self._id(run), "failed", b'{"error":{}}')
        elif outcome is Outcome.QUEUED:
            self.leases.pop(self._id(run))
            self.calls += 1  # as the worker publishes

    # --- the reconciler ---------------------------------------------------------------------------

    @rule()
    def sweep(self) -> None:
        sweep = self.ledger.sweep(most=100, max_attempts=ATTEMPTS)
        for line, count in sweep.lines:
            assert line == LINE
            self.calls += count
        lapsed = [one for one, lease_s in self.leases.items() if lease_s == GONE_S]
        for one in lapsed:
            self.leases.pop(one)
        assert sweep.lapsed + sweep.failed <= len(lapsed)

    @rule()
    def lose_a_message(self) -> None:
        self.calls = max(0, self.calls - 1)
        self.lost_calls = True

    # --- what holds always ------------------------------------------------------------------------

    @invariant()
    def all_fits(self) -> None:
        self.what_was_accepted_is_there_and_what_ended_stays()
        self.the_indexes_say_the_same()
        self.somebody_is_called_to_what_waits()

    def what_was_accepted_is_there_and_what_ended_stays(self) -> None:
        for one, item in self.accepted.items():
            record = self.ledger.read(*one.split(":"))  # ends what has no time left
            assert record is not None, "an accepted item is lost"
            key = submission_key(*one.split(":"))
            if record.state.is_final:
                if one not in self.ended:
                    assert record.state in (SubmissionState.EXPIRED, SubmissionState.FAILED)
                    self._end(one, str(record.state), record.answer)
                assert (record.state, record.answer) == self.ended[one]
                assert not self.client.hexists(key, "item")
                assert self.client.pttl(key) > 0
                assert record.webhook_status == "pending"
            else:
                assert one not in self.ended
                assert self.client.hget(key, "item") == item
                assert self.client.pttl(key) == -1

    def the_indexes_say_the_same(self) -> None:
        records = {one: self.ledger.read(*one.split(":")) for one in self.accepted}
        states = {one: record.state for one, record in records.items() if record}
        open_ = {one for one, state in states.items() if not state.is_final}
        waiting = {one for one, state in states.items() if state is SubmissionState.QUEUED}
        assert _members(self.client, "celeriac:submissions:open") == open_
        assert _members(self.client, SUBMISSIONS_WAITING_PREFIX + LINE) == waiting
        assert _members(self.client, "celeriac:submissions:ended") == set(self.ended)
        overview = self.ledger.overview()
        assert overview.open == len(open_)
        sizes = {one: len(item) for one, item in self.accepted.items() if one in open_}
        assert overview.open_bytes == sum(sizes.values())
        for tenant in ("t:", "u:"):
            theirs = [size for one, size in sizes.items() if one.startswith(tenant)]
            key = f"celeriac:submissions:tenant:{tenant[0]}"
            held: Any = self.client.hmget(key, "open", "bytes")
            assert [int(one or 0) for one in held] == [len(theirs), sum(theirs)]
            ended = f"celeriac:submissions:ended:{tenant[0]}"
            assert _members(self.client, ended) == {
                one for one in self.ended if one.startswith(tenant)
            }
            assert not self.client.exists(ended) or self.client.pttl(ended) > 500_000
        due = _members(self.client, "celeriac:webhooks:due:h:443")
        assert due == {f"delivery-{one}" for one in self.ended}

    def somebody_is_called_to_what_waits(self) -> None:
        if not self.lost_calls:
            waiting = int(self.client.zcard(SUBMISSIONS_WAITING_PREFIX + LINE))
            assert self.calls >= -(-waiting // submissions.BATCH_ITEMS)

    def teardown(self) -> None:
        """Workers that live, and time: everything ends."""
        for one, lease_s in list(self.leases.items()):
            if lease_s == HELD_S and one not in self.ended:
                run = Claim(one, self.newest[one], 1, b"")
                self.ledger.renew([run], GONE_S)
        for _ in range(ATTEMPTS * len(self.accepted) + 1):
            time.sleep(0.001)
            self.ledger.sweep(most=100, max_attempts=ATTEMPTS)
            claims = self.ledger.claim(QUEUE, MODEL, worker="w", lease_s=9, message=b"call")
            self.ledger.commit((claim, b'{"value":1}') for claim in claims.taken)
        for one in self.accepted:
            record = self.ledger.read(*one.split(":"))
            assert record is not None
            assert record.state in FINAL, record

    # --- helpers ----------------------------------------------------------------------------------

    def _holds(self, run: Claim) -> bool:
        one = self._id(run)
        return one not in self.ended and one in self.leases and self.newest[one] == run.epoch

    def _id(self, run: Claim) -> str:
        return run.name

    def _end(self, one: str, state: str, answer: bytes) -> None:
        assert one not in self.ended, "it ended twice"
        self.ended[one] = (state, answer)
        self.leases.pop(one, None)

    def _take_calls(self) -> None:
        self.calls += int(self.client.llen(QUEUE))
        self.client.delete(QUEUE)


def _members(client: redis.Redis, key: str) -> set[str]:
    found: Any = client.zrange(key, 0, -1)
    return {one.decode() for one in found}


@pytest.mark.timeout(300)
def test_any_order_of_events(
    redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(submissions, "BATCH_ITEMS", 2)  # so that lines have several batches
    run_machine(SubmissionMachine, redis_client, examples=150, steps=30)
