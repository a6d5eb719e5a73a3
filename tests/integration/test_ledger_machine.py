"""The ledger under any order of events: a state machine on a real server."""

from __future__ import annotations

import json
from typing import Any, ClassVar

import pytest
import redis
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    invariant,
    multiple,
    precondition,
    rule,
)

from celeriac.jobs.ledger import Answer, Change, Claim, Commit, JobState, Ledger, Runner
from celeriac.jobs.plan import ChunkRecord
from tests.integration.state_machines import run_machine
from tests.integration.test_ledger import job, record

pytestmark = pytest.mark.uncounted

CHUNKS = 3
WINDOW = 2
ATTEMPTS = 3
QUEUE = "queue"
CHUNK = st.integers(0, CHUNKS - 1)
SHARES = st.sampled_from([None, 0.0, 0.4, 1.0])
FAILED = (5, 0, 0)
"""Rows of each chunk that fail, of 10."""
JUDGED_ROWS = 10
RESUMES = st.sampled_from([True, True, False])
GONE_S, HELD_S = 0.0, 600.0
"""A lease that has lapsed at once, and one that never does within a test."""


class LedgerMachine(RuleBasedStateMachine):
    """Workers claim, renew, commit, fail and die; the server may forget everything.

    ``stored`` is the storage: the records that runs have made. Storage is never lost.
    """

    client: ClassVar[redis.Redis]
    runs = Bundle("runs")
    lost = Bundle("lost")
    """Runs that never heard what became of their commit, and what they were granted."""

    def __init__(self) -> None:
        super().__init__()
        self.client.flushall()
        self.ledger = Ledger(self.client, 600)
        self.stored: dict[int, ChunkRecord] = {}
        self.newest: dict[int, int] = {}
        self.seen: set[int] = set()
        self.counted: set[int] = set()
        self.messages: set[int] = set()
        self.finalizers = 0
        self.is_lost = False
        self.share = 1.0
        self._enter(None)

    # --- what happens -----------------------------------------------------------------------------

    @rule(target=runs, chunk=CHUNK, lease_s=st.sampled_from([GONE_S, HELD_S]))
    def claim(self, chunk: int, lease_s: float) -> Any:
        self.messages.discard(chunk)
        before = self._holder(chunk)
        claim = self.ledger.claim(
            "j1", chunk, owner=f"o{chunk}", worker="w", lease_s=lease_s, max_attempts=ATTEMPTS
        )
        if claim.answer is not Answer.GRANTED:
            if claim.answer is Answer.BUSY:
                assert before == HELD_S
            self._take(claim)
            return multiple()
        assert before != HELD_S, "a live lease was taken away"
        return self._granted(claim, lease_s)

    def _granted(self, claim: Claim, lease_s: float) -> tuple[int, int]:
        chunk = claim.chunk
        assert chunk not in self.counted
        assert claim.epoch not in self.seen
        assert claim.epoch > self.newest.get(chunk, 0)
        assert 1 <= claim.attempt <= ATTEMPTS
        self.seen.add(claim.epoch)
        self.newest[chunk] = claim.epoch
        self.leases[chunk] = lease_s
        return chunk, claim.epoch

    @rule(run=runs, lease_s=st.sampled_from([GONE_S, HELD_S]))
    def renew(self, run: tuple[int, int], lease_s: float) -> None:
        chunk, epoch = run
        answer = self.ledger.renew("j1", chunk, epoch, lease_s)
        if answer is Answer.KEPT:
            assert self.newest[chunk] == epoch
            assert chunk not in self.counted
            self.leases[chunk] = lease_s
            self.messages.discard(chunk)
        elif answer is Answer.CANCELLED and self._state() is JobState.CANCELLING:
            self.leases[chunk] = lease_s  # until it has stopped

    @rule(run=consumes(runs))
    def write_and_commit(self, run: tuple[int, int]) -> None:
        chunk, epoch = run
        self.stored.setdefault(chunk, record(chunk, FAILED[chunk]))
        self._commit(chunk, epoch)

    @rule(target=runs, run=consumes(runs), lease_s=st.sampled_from([GONE_S, HELD_S]))
    def write_and_go_on(self, run: tuple[int, int], lease_s: float) -> Any:
        """The run is granted a chunk that waits, or the next message's, in the same change."""
        claim = self._go_on(run, lease_s)
        return multiple() if claim is None else (claim.chunk, claim.epoch)

    @rule(target=lost, run=consumes(runs), lease_s=st.sampled_from([GONE_S, HELD_S]))
    def write_and_lose_the_answer(self, run: tuple[int, int], lease_s: float) -> Any:
        return run, self._go_on(run, lease_s)

    @rule(target=runs, answer=consumes(lost))
    def ask_again(self, answer: tuple[tuple[int, int], Claim | None]) -> Any:
        """Whatever has happened since: what is granted was granted to this run, and is its own."""
        (chunk, epoch), granted = answer
        found = self._commit(chunk, epoch, _runner(chunk, HELD_S)).next
        if found is None:
            return multiple()
        if granted is None or found.epoch not in self.seen:  # the first commit did not count
            return (found.chunk, self._granted(found, HELD_S)[1])
        assert (found.chunk, found.epoch, found.attempt) == (
            granted.chunk, granted.epoch, granted.attempt,
        )
        assert self.newest[found.chunk] == found.epoch
        assert found.chunk not in self.counted
        self.leases[found.chunk] = HELD_S
        return found.chunk, found.epoch

    def _go_on(self, run: tuple[int, int], lease_s: float) -> Claim | None:
        chunk, epoch = run
        self.stored.setdefault(chunk, record(chunk, FAILED[chunk]))
        change = self._commit(chunk, epoch, _runner(chunk, lease_s))
        claim = change.next
        if claim is None:
            return None
        if claim.epoch not in self.seen:
            assert change.answer is Answer.COMMITTED
            assert self._holder(claim.chunk) != HELD_S, "a live lease was taken away"
            self._granted(claim, lease_s)
        return claim

    @rule(run=runs)
    def commit_twice(self, run: tuple[int, int]) -> None:
        chunk, epoch = run
        self.stored.setdefault(chunk, record(chunk, FAILED[chunk]))
        self._commit(chunk, epoch)
        self._commit(chunk, epoch)

    @rule(run=consumes(runs))
    def write_and_die(self, run: tuple[int, int]) -> None:
        self.stored.setdefault(run[0], record(run[0], FAILED[run[0]]))

    @rule(run=runs)
    def fail(self, run: tuple[int, int]) -> None:
        chunk, epoch = run
        change = self.ledger.release("j1", chunk, epoch, reason="no", max_attempts=ATTEMPTS)
        self._released(chunk, epoch, change)

    @rule(run=runs)
    def stop(self, run: tuple[int, int]) -> None:
        chunk, epoch = run
        self._released(chunk, epoch, self.ledger.release("j1", chunk, epoch))

    @rule()
    def reconcile(self) -> None:
        sweep = self.ledger.sweep("j1", most=100, queued_s=0, finalizer_s=600)
        self.messages.update(sweep.wave)
        if sweep.suspects:
            again = self.ledger.requeue_vanished("j1", sweep.suspects, queued_s=0)
            self.messages.update(again)
        self.finalizers += sweep.completes
        for chunk in sweep.wave:
            assert self._holder(chunk) != HELD_S
            self.leases.pop(chunk, None)

    @rule(resumes=RESUMES, share=SHARES)
    def cancel(self, resumes: bool, share: float | None) -> None:
        self.ledger.cancel("j1")
        if resumes:
            self.resume(share)

    @rule(share=SHARES)
    def resume(self, share: float | None) -> None:
        if self._state() in (JobState.COMPLETED, JobState.COMPLETED_WITH_ERRORS):
            return
        self.counted = set(self.stored)
        self.is_lost = False
        held = {chunk: s for chunk, s in self.leases.items() if s == HELD_S}
        self.leases = {chunk: s for chunk, s in held.items() if chunk not in self.counted}
        self._enter(share)

    @rule()
    def requeue_dead(self) -> None:
        _, change = self.ledger.requeue_dead("j1", [])
        self._take(change)

    @precondition(lambda self: not self.is_lost)
    @rule(resumes=RESUMES, share=SHARES)
    def forget_everything(self, resumes: bool, share: float | None) -> None:
        self.client.flushall()
        self.is_lost = True
        self.share = 1.0  # as the plan says
        self.counted.clear()
        self.messages.clear()
        self.leases.clear()
        if resumes:
            self.resume(share)

    @rule(target=runs, chunk=CHUNK)
    def claim_twice(self, chunk: int) -> Any:
        """The first run lives on, and does not know that it has lost its lease."""
        found = [self.claim(chunk, lease_s) for lease_s in (GONE_S, HELD_S)]
        return multiple(*(run for run in found if isinstance(run, tuple)))

    @rule(target=runs, chunk=CHUNK)
    def claim_until_it_is_dead(self, chunk: int) -> Any:
        if self._holder(chunk) == HELD_S:
            return multiple()
        found = [self.claim(chunk, GONE_S) for _ in range(ATTEMPTS + 1)]
        return multiple(*(run for run in found if isinstance(run, tuple)))

    @rule()
    def finalize(self) -> None:
        if self.ledger.finalizing("j1", "o")[0] is Answer.GRANTED:
            dead = {one.chunk for one in self.ledger.dead("j1")}
            assert self.counted | dead == set(range(CHUNKS))
            done = 10 * len(self.counted)
            self.ledger.finish(
                "j1", JobState.COMPLETED_WITH_ERRORS, rows_done=done, rows_failed=self._failed(),
                rows_dead=10 * CHUNKS - done,
            )

    # --- what always holds ------------------------------------------------------------------------

    @invariant()
    def each_chunk_is_in_exactly_one_place(self) -> None:
        entry = self.ledger.entry("j1")
        if entry is None:
            assert self.is_lost
            return
        assert entry.chunks_waiting + entry.chunks_queued + entry.chunks_running + (
            entry.chunks_done + entry.chunks_dead
        ) == CHUNKS
        assert entry.chunks_done == len(self.counted)
        assert entry.rows_done == 10 * len(self.counted)
        assert entry.rows_failed == self._failed()
        assert entry.rows_dead == 10 * entry.chunks_dead

    @invariant()
    def a_job_with_too_many_failed_rows_does_not_go_on(self) -> None:
        entry = self.ledger.entry("j1")
        if entry is None or self.share >= 1:
            return
        failed, seen = entry.rows_failed + entry.rows_dead, entry.rows_done + entry.rows_dead
        is_too_much = seen >= JUDGED_ROWS and failed > self.share * seen
        if is_too_much:
            assert entry.state not in (JobState.IN_PROGRESS, JobState.FINALIZING)

    @invariant()
    def what_counts_is_stored(self) -> None:
        assert self.counted <= set(self.stored)

    @invariant()
    def a_job_with_work_left_is_watched(self) -> None:
        state = self._state()
        if state in (JobState.IN_PROGRESS, JobState.FINALIZING, JobState.CANCELLING):
            assert self.ledger.active() == ["j1"]

    def teardown(self) -> None:
        """However it stands: resume and honest workers bring every chunk to its end."""
        self.resume(1.0)
        for _ in range(CHUNKS * (ATTEMPTS + 2)):
            if self._state() is not JobState.IN_PROGRESS:
                break
            self.reconcile()
            for chunk in sorted(self.messages | set(self.leases)):
                self._finish(chunk)
        assert self._state() in (JobState.FINALIZING, JobState.COMPLETED_WITH_ERRORS)

    def _finish(self, chunk: int) -> None:
        if self._holder(chunk) == HELD_S:  # its process ends at last
            self.ledger.renew("j1", chunk, self.newest[chunk], GONE_S)
            self.leases[chunk] = GONE_S
        found = self.claim(chunk, HELD_S)
        if isinstance(found, tuple):
            self.write_and_commit(found)

    # --- how it is written down -------------------------------------------------------------------

    @property
    def leases(self) -> dict[int, float]:
        return self.__dict__.setdefault("_leases", {})

    @leases.setter
    def leases(self, value: dict[int, float]) -> None:
        self.__dict__["_leases"] = value

    def _enter(self, share: float | None) -> None:
        self.share = self.share if share is None else share
        self._take(self.ledger.enter(
            job(CHUNKS), "/out", self.stored.values(), window=WINDOW, sizes=[10] * CHUNKS,
            max_error_share=share, judged_rows=JUDGED_ROWS,
        ))

    def _failed(self) -> int:
        return sum(FAILED[chunk] for chunk in self.counted)

    def _holder(self, chunk: int) -> float | None:
        return self.leases.get(chunk)

    def _state(self) -> JobState | None:
        entry = self.ledger.entry("j1")
        return entry.state if entry else None

    def _commit(self, chunk: int, epoch: int, then: Runner | None = None) -> Commit:
        self._show_messages()
        change = self.ledger.commit("j1", self.stored[chunk], epoch, then, QUEUE)
        self._look_what_was_taken(change)
        if change.answer is Answer.COMMITTED:
            assert self.newest[chunk] == epoch, "an old epoch won"
            assert chunk not in self.counted, "a chunk counted twice"
            self.counted.add(chunk)
            self.leases.pop(chunk, None)
        elif change.answer is Answer.FENCED:
            assert chunk not in self.counted
        self._take(change)
        return change

    def _show_messages(self) -> None:
        """What is on its way, in the queue itself; the lowest chunk is the next."""
        self.client.delete(QUEUE)
        for chunk in sorted(self.messages):
            headers = {"job_id": "j1", "chunk_no": chunk, "eta": None}
            self.client.lpush(QUEUE, json.dumps({"headers": headers}))

    def _look_what_was_taken(self, change: Commit) -> None:
        left = {json.loads(one)["headers"]["chunk_no"] for one in self.client.lrange(QUEUE, 0, -1)}
        taken = self.messages - left
        assert taken <= ({change.next.chunk} if change.next else set())
        self.messages = left

    def _released(self, chunk: int, epoch: int, change: Change) -> None:
        if change.answer in (Answer.AGAIN, Answer.DEAD, Answer.RETURNED):
            assert self.newest[chunk] == epoch
            self.newest[chunk] = epoch + 1  # nobody's: this run is over
            self.leases.pop(chunk, None)
        if change.answer is Answer.AGAIN:
            self.messages.add(chunk)
        self._take(change)

    def _take(self, change: Change) -> None:
        self.messages.update(change.wave)
        self.finalizers += change.completes
        entry = self.ledger.entry("j1")
        if entry is not None and change.wave:
            assert entry.chunks_queued + entry.chunks_running <= WINDOW


def _runner(chunk: int, lease_s: float) -> Runner:
    return Runner(f"o{chunk}", "w", lease_s, ATTEMPTS)


def test_any_order_of_events(redis_client: redis.Redis) -> None:
    run_machine(LedgerMachine, redis_client, examples=60, steps=40)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_any_order_of_events_for_long(redis_client: redis.Redis) -> None:
    run_machine(LedgerMachine, redis_client, examples=600, steps=60)
