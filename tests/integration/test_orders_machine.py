"""Orders of datasets under any order of events: a state machine on a real server."""

from __future__ import annotations

from typing import Any, ClassVar

import pytest
import redis
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
)

from celeriac.jobs.ledger import Answer, JobState, Ledger
from celeriac.keys import job_key
from tests.integration.state_machines import run_machine
from tests.integration.test_ledger import job, record

pytestmark = pytest.mark.uncounted

ATTEMPTS = 3
GONE_S, HELD_S = 0.0, 600.0
"""A lease that has lapsed at once, and one that never does within a test."""
LEASES = st.sampled_from([GONE_S, HELD_S])
FINAL = (JobState.CANCELLED, JobState.FAILED, JobState.COMPLETED)
REOPENED = (JobState.CANCELLED, JobState.FAILED)


class OrderMachine(RuleBasedStateMachine):
    """Callers order, cancel and resume; workers claim the plan, renew, die, and enter the job.

    The expected state is kept beside the ledger's.
    """

    client: ClassVar[redis.Redis]

    def __init__(self) -> None:
        super().__init__()
        self.client.flushall()
        self.ledger = Ledger(self.client, 600)
        self.state: JobState | None = None
        self.digest = self.text = ""
        self.lease_s = GONE_S
        self.attempts = 0
        self.planner = ""
        """Who plans the job now; ``planners``: all that ever did."""
        self.planners: list[str] = []

    # --- callers ----------------------------------------------------------------------------------

    @rule(digest=st.sampled_from(["one", "another"]))
    def order(self, digest: str) -> None:
        state, held = self.ledger.order(
            "j1", model="m", version=1, device="cpu", source="in.csv", output="/out",
            tenant="shop", id_column="", order=f"order {digest}", digest=digest,
        )
        assert state is self.state
        if self.state is None:
            assert not held
            self.digest, self.text = digest, f"order {digest}"
            self._begin()
        else:
            assert held == self.digest, "who ordered first is told apart from who comes later"

    @rule()
    def cancel(self) -> None:
        state = self.ledger.cancel("j1")
        if self.state is JobState.VALIDATING:
            self.state = JobState.CANCELLED
            assert state is JobState.CANCELLED
        elif self.state is JobState.IN_PROGRESS:
            self.state = JobState.CANCELLED  # nothing of it runs
        self._check_state()

    @rule(text=st.sampled_from(["", "order with a share"]))
    def resume(self, text: str) -> None:
        state, found = self.ledger.reopen("j1", text)
        assert found == (self.state in REOPENED)
        if found:
            self.text = text or self.text
            self._begin()
        assert state is self.state

    # --- planners ---------------------------------------------------------------------------------

    @rule(lease_s=LEASES)
    def claim(self, lease_s: float) -> None:
        answer, state, planner = self.ledger.claim_plan(
            "j1", lease_s=lease_s, max_attempts=ATTEMPTS
        )
        if self.state is None:
            assert answer is Answer.UNKNOWN
        elif self.state is not JobState.VALIDATING:
            assert answer is Answer.DONE
        elif self.lease_s == HELD_S:
            assert answer is Answer.BUSY, "two planners at the same time"
        elif self.attempts == ATTEMPTS:
            assert answer is Answer.DEAD
            self.state = JobState.FAILED
        else:
            assert answer is Answer.GRANTED
            self.attempts += 1
            self.lease_s = lease_s
            assert planner not in self.planners
            self.planners.append(planner)
            self.planner = planner
        assert state is self.state

    @precondition(lambda self: self.planners)
    @rule(lease_s=LEASES, data=st.data())
    def renew(self, lease_s: float, data: st.DataObject) -> None:
        planner = data.draw(st.sampled_from(self.planners))
        answer = self.ledger.renew_plan("j1", lease_s, planner)
        if self.state in REOPENED:
            assert answer is Answer.CANCELLED
        else:
            assert answer is (Answer.KEPT if planner == self.planner else Answer.LOST)
        if self.state is JobState.VALIDATING and planner == self.planner:
            self.lease_s = lease_s

    @rule()
    def planner_dies_and_is_noticed(self) -> None:
        self.ledger.release_plan("j1")
        if self.state is JobState.VALIDATING:
            self.lease_s = GONE_S

    @precondition(lambda self: self.planners)
    @rule(chunks_done=st.integers(0, 2), data=st.data())
    def enter(self, chunks_done: int, data: st.DataObject) -> None:
        """A planner has written the plan; it may be one that was replaced or stopped long ago."""
        planner = data.draw(st.sampled_from(self.planners))
        change = self.ledger.enter(
            job(2), "/out", [record(chunk) for chunk in range(chunks_done)], window=2,
            sizes=[10, 10], validated=True, planner=planner,
        )
        assert (change.answer is Answer.LOST) == (planner != self.planner)
        if self.state is JobState.VALIDATING and planner == self.planner:
            self.state = JobState.FINALIZING if chunks_done == 2 else JobState.IN_PROGRESS
            assert bool(change.wave) == (chunks_done < 2)
        else:
            assert not change.wave
            assert not change.completes
        assert change.state is self.state, "what has ended stays so"

    @precondition(lambda self: self.planners)
    @rule(data=st.data())
    def planner_fails(self, data: st.DataObject) -> None:
        planner = data.draw(st.sampled_from(self.planners))
        ends = planner == self.planner and self.state is JobState.VALIDATING
        assert self.ledger.fail_plan("j1", "no such file", planner) == ends
        if ends:
            self.state = JobState.FAILED
        self._check_state()

    @precondition(lambda self: self.state is not None)
    @rule()
    def chunk_ends_the_job(self) -> None:
        self.ledger.fail("j1", "no such model")
        if self.state not in FINAL:
            self.state = JobState.FAILED
        self._check_state()

    @precondition(lambda self: self.state in (JobState.VALIDATING, JobState.FINALIZING))
    @rule()
    def turns_out_to_be_complete(self) -> None:
        self.ledger.finish("j1", JobState.COMPLETED, rows_done=20, rows_failed=0, rows_dead=0)
        self.state = JobState.COMPLETED

    # --- the reconciler ---------------------------------------------------------------------------

    @rule()
    def sweep(self) -> None:
        sweep = self.ledger.sweep("j1", most=10, queued_s=0, finalizer_s=0)
        if self.state is not JobState.VALIDATING:
            assert not sweep.plans
        elif self.lease_s == HELD_S:
            assert not sweep.plans, "a planner at work is left alone"
        else:
            assert sweep.plans, "nobody plans it"

    # --- what always holds ------------------------------------------------------------------------

    @invariant()
    def the_order_is_known_whole(self) -> None:
        self._check_state()
        entry = self.ledger.entry("j1")
        if entry is None:
            assert self.state is None, "an order is lost"
            return
        assert entry.output == "/out"
        assert self.ledger.order_of("j1") == self.text
        assert self.client.pttl(job_key("j1")) > 0
        listed = self.ledger.page("shop", 10)
        assert listed is not None
        assert [one.job_id for one in listed[0]] == (["j1"] if entry.tenant == "shop" else [])

    @invariant()
    def what_has_not_ended_is_watched(self) -> None:
        watched = self.state is not None and self.state not in FINAL
        assert self.ledger.active() == (["j1"] if watched else [])

    @invariant()
    def what_has_failed_says_why(self) -> None:
        entry = self.ledger.entry("j1")
        if entry is not None and entry.state is JobState.FAILED:
            assert entry.error

    def teardown(self) -> None:
        """However it stands: a reconciler and an honest planner bring an order to its end."""
        if self.state is None:
            return
        self.ledger.renew_plan("j1", GONE_S, self.planner)
        if self.state is JobState.VALIDATING:
            assert self.ledger.sweep("j1", most=10, queued_s=0, finalizer_s=0).plans
            answer, *_ = self.ledger.claim_plan("j1", lease_s=HELD_S, max_attempts=ATTEMPTS)
            assert answer in (Answer.GRANTED, Answer.DEAD)
            assert (answer is Answer.DEAD) == (self.attempts == ATTEMPTS)

    # --- helpers ----------------------------------------------------------------------------------

    def _begin(self) -> None:
        self.state = JobState.VALIDATING
        self.lease_s, self.attempts, self.planner = GONE_S, 0, ""

    def _check_state(self) -> None:
        entry: Any = self.ledger.entry("j1")
        assert (entry.state if entry else None) is self.state


def test_any_order_of_events(redis_client: redis.Redis) -> None:
    run_machine(OrderMachine, redis_client, examples=60, steps=30)
