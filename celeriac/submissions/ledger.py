"""The ledger of submitted predictions in Redis: each change is one atomic script.

Whoever runs predictions holds them under a lease; the epoch tells one run from another, and only
the newest run's answer counts, unless the submission has ended by then.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import msgspec

from celeriac import errors, lua
from celeriac.keys import (
    SUBMISSIONS_BYTES_KEY,
    SUBMISSIONS_ENDED_KEY,
    SUBMISSIONS_LINES_KEY,
    SUBMISSIONS_OPEN_KEY,
    WEBHOOK_HOSTS_KEY,
    submission_key,
    submission_line,
)
from celeriac.submissions import scripts

BATCH_ITEMS = 32
"""Submissions that one message calls for, and that run together, at most."""
BATCH_BYTES = 4_000_000
"""Bytes of their items, at most; one alone may be larger."""
FREED_SHARE = 0.01
"""Who finds too many open comes back when this share of them should have ended."""
LONGEST_RETRY_S = 60.0
"""When to come back if nothing ends."""
_KEYS = (
    SUBMISSIONS_OPEN_KEY, SUBMISSIONS_ENDED_KEY, SUBMISSIONS_BYTES_KEY, SUBMISSIONS_LINES_KEY,
    WEBHOOK_HOSTS_KEY,
)
_PREFIX_LENGTH = len(submission_key("", "")) - 1


class SubmissionState(StrEnum):
    """States of a submitted prediction."""

    QUEUED = "queued"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"
    EXPIRED = "expired"
    """Its time was over before it was answered."""

    @property
    def is_final(self) -> bool:
        """True of one that has ended, however it ended."""
        return self not in (SubmissionState.QUEUED, SubmissionState.RUNNING)


class Outcome(StrEnum):
    """What became of the answer, or the failure, of one run."""

    DONE = "done"
    FAILED = "failed"
    QUEUED = "queued"
    """It is to be run once more."""
    FENCED = "fenced"
    """Another run has begun since, or will: this one does not count."""
    ENDED = "ended"
    """It had ended before: answered, cancelled, expired."""


@dataclass(frozen=True, kw_only=True)
class Webhook:
    """Whom to tell when a submission ends."""

    delivery: str
    """Id of the delivery."""
    url: str
    host: str
    """``host`` or ``host:port``, as the settings name it."""


@dataclass(frozen=True, kw_only=True)
class Submission:
    """One item that is to be predicted."""

    tenant: str
    id: str
    model: str
    """As the caller wrote it: the worker resolves an alias when it predicts."""
    queue: str
    item: bytes
    """JSON."""
    digest: str
    """Of all that was asked for; empty if the id is nobody's choice."""
    expires_s: float
    kept_s: float
    webhook: Webhook | None = None

    @property
    def name(self) -> str:
        """How the ledger calls it."""
        return submission_name(self.tenant, self.id)


@dataclass(frozen=True, kw_only=True)
class Limits:
    """How much the ledger takes."""

    open: int
    open_bytes: int
    known: int
    tenant_share: float = 1.0
    """Of each of them, for one tenant."""

    def of_tenant(self) -> tuple[int, int, int]:
        """What one tenant may have: open, bytes, known; at least one."""
        open_, open_bytes, known = (
            max(1, int(limit * self.tenant_share))
            for limit in (self.open, self.open_bytes, self.known)
        )
        return open_, open_bytes, known


@dataclass(frozen=True, kw_only=True)
class Full:
    """Why the ledger took no submission."""

    is_tenants: bool
    """It is the share of the tenant that is used up."""
    limit: str
    """``open``, ``bytes`` or ``known``."""
    forgotten_s: float
    """When the first of those is forgotten that have ended; 0 if that is no matter."""
    open: int
    ends_per_min: float

    @property
    def retry_after_s(self) -> float:
        """When there should be room: from what is forgotten, or from how fast submissions end."""
        if self.limit == "known":
            return max(self.forgotten_s, 1.0)
        return retry_after_s(self.open, self.ends_per_min)


@dataclass(frozen=True)
class Claim:
    """One submission that its claimer runs now."""

    name: str
    epoch: int
    attempt: int
    """1 for the first."""
    item: bytes


@dataclass(frozen=True)
class Claims:
    """What a worker got from a line."""

    taken: tuple[Claim, ...]
    expired: int
    """How many of the line had no time left."""
    hosts: tuple[str, ...]
    """That have webhooks to get now."""


@dataclass(frozen=True)
class Ended:
    """What a change ended."""

    outcomes: tuple[Outcome, ...]
    hosts: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Record:
    """What the ledger knows of a submission; times are Unix milliseconds, 0 if not known."""

    id: str
    model: str
    state: SubmissionState
    submitted_ms: int
    started_ms: int
    ended_ms: int
    expires_ms: int
    attempts: int
    answer: bytes
    """JSON of a prediction or of ``{"error": ...}``; empty if there is none."""
    webhook: str
    """URL; empty if there is none."""
    webhook_status: str
    """``pending``, ``delivered`` or ``given_up``; empty before there is something to tell."""
    webhook_attempts: int
    webhook_reason: str
    """Why the last attempt failed."""


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """What the reconciler found due, and has put right."""

    looked_at: int
    lapsed: int
    failed: int
    expired: int
    lines: tuple[tuple[str, int], ...]
    """Lines that somebody must be called to, and for how many submissions."""
    hosts: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class WaitingLine:
    """A line in which submissions wait."""

    name: str
    waiting: int
    oldest_s: float
    """For how long the first one has waited."""

    @property
    def queue(self) -> str:
        return self.name.partition(":")[0]

    @property
    def model(self) -> str:
        return self.name.partition(":")[2]


@dataclass(frozen=True, kw_only=True)
class Overview:
    """All that waits and runs."""

    lines: tuple[WaitingLine, ...]
    open: int
    open_bytes: int


def submission_name(tenant: str, prediction_id: str) -> str:
    """How the ledger calls a submission."""
    return submission_key(tenant, prediction_id)[_PREFIX_LENGTH:]


_FIELDS = (
    "id", "model", "state", "submitted_ms", "started_ms", "ended_ms", "expires_ms", "attempts",
    "answer", "webhook",
)
LOST = msgspec.json.encode({"error": errors.WorkerError(
    "the workers that had it ended before they answered; their logs have the reason"
).to_wire()})  # fmt: skip
"""The answer of a submission whose last attempt was lost."""


class SubmissionLedger:
    """The ledger on a redis-py client. Every method may raise redis.RedisError."""

    def __init__(self, client: Any) -> None:
        self._client = client

    # --- who submits ------------------------------------------------------------------------------

    def submit(self, submission: Submission, limits: Limits, message: bytes) -> tuple[bool, int]:
        """Enter a submission, and publish ``message`` if its line needs one.

        Returns whether it is new, and when its time is over (Unix ms): the same id with the same
        digest is entered once. Raises Conflict for another digest, and Overloaded.
        """
        hook = submission.webhook
        answer, *rest = self._run(
            scripts.SUBMIT, submission.name, submission.id, submission.model,
            submission_line(submission.queue, submission.model), submission.digest,
            submission.item, round(submission.expires_s * 1_000),
            round(submission.kept_s * 1_000), *(
                (hook.delivery, hook.url, hook.host) if hook else ("", "", "")
            ), BATCH_ITEMS, submission.queue, message,
            limits.open, limits.open_bytes, limits.known, *limits.of_tenant(),
        )
        if answer == b"conflict":
            raise errors.Conflict(
                f"the prediction {submission.id!r} was submitted with another item, model or "
                "option; give each prediction an id of its own"
            )
        if answer == b"full":
            raise _overloaded(limits, _full(*rest))
        return answer == b"accepted", int(rest[0])

    def read(self, tenant: str, prediction_id: str) -> Record | None:
        """What is known; None if nothing is. One whose time is over has expired by then."""
        name = submission_name(tenant, prediction_id)
        found, sent = self._run(scripts.READ, name, *_FIELDS)
        return _record(found, sent) if found else None

    def cancel(self, tenant: str, prediction_id: str) -> SubmissionState | None:
        """End it unless it has ended; its state now, None if it is not known."""
        state = self._run(scripts.CANCEL, submission_name(tenant, prediction_id))
        return SubmissionState(_text(state)) if state else None

    # --- who predicts -----------------------------------------------------------------------------

    def claim(  # noqa: PLR0913 - who claims what, and on which terms
        self, queue: str, model: str, *, worker: str, lease_s: float, message: bytes,
        most: int = BATCH_ITEMS, most_bytes: int = BATCH_BYTES,
    ) -> Claims:
        """Take the oldest of a line: at most ``most`` that were never begun, or one that was.

        ``message`` is published if it stops before the line is empty and its share is taken.
        """
        line = submission_line(queue, model)
        taken, expired, hosts = self._run(
            scripts.CLAIM, line, most, most_bytes, round(lease_s * 1_000), worker, queue, message
        )
        claims = (Claim(_text(name), epoch, attempt, item) for name, epoch, attempt, item in taken)
        return Claims(tuple(claims), int(expired), _texts(hosts))

    def move(self, model: str, queue: str, to: str, most: int) -> int:
        """Have those that wait for ``model`` in one queue wait in another one; how many they were.

        Nothing is published that calls for them.
        """
        line, other = submission_line(queue, model), submission_line(to, model)
        return int(self._run(scripts.MOVE, line, other, most))

    def renew(self, claims: Iterable[Claim], lease_s: float) -> int:
        """Hold them for ``lease_s`` more; how many are still held."""
        runs = (value for claim in claims for value in (claim.name, claim.epoch))
        return int(self._run(scripts.RENEW, round(lease_s * 1_000), *runs))

    def commit(self, answered: Iterable[tuple[Claim, bytes]]) -> Ended:
        """End submissions with their answers: JSON of a prediction, or of ``{"error": ...}``."""
        arguments: list[Any] = []
        for claim, answer in answered:
            state = Outcome.FAILED if answer.startswith(b'{"error":') else Outcome.DONE
            arguments += (claim.name, claim.epoch, str(state), answer)
        return _ended(self._run(scripts.COMMIT, *arguments))

    def give_back(self, claims: Iterable[Claim], max_attempts: int, failure: bytes) -> Ended:
        """End runs without an answer; one without an attempt left gets ``failure`` (JSON)."""
        runs = (value for claim in claims for value in (claim.name, claim.epoch))
        return _ended(self._run(scripts.RELEASE, max_attempts, failure, *runs))

    # --- the reconciler ---------------------------------------------------------------------------

    def sweep(self, *, most: int, max_attempts: int) -> Sweep:
        """Put right what is due: lapsed leases, and those whose time is over."""
        looked_at, lapsed, failed, expired, lines, hosts = self._run(
            scripts.SWEEP, most, max_attempts, LOST
        )
        return Sweep(
            looked_at=int(looked_at), lapsed=int(lapsed), failed=int(failed), expired=int(expired),
            lines=tuple((_text(line), int(count)) for line, count in lines), hosts=_texts(hosts),
        )

    def overview(self) -> Overview:
        """The lines in which something waits, and what is open altogether."""
        lines, open_, open_bytes = self._run(scripts.WAITING_LINES)
        return Overview(
            lines=tuple(
                WaitingLine(name=_text(name), waiting=int(waiting), oldest_s=int(oldest_ms) / 1_000)
                for name, waiting, oldest_ms in lines
            ),
            open=int(open_), open_bytes=int(open_bytes),
        )

    def _run(self, script: str, *arguments: Any) -> Any:
        return lua.run(self._client, script, _KEYS, *arguments)


def retry_after_s(open_: int, ends_per_min: float) -> float:
    """Seconds until a hundredth of ``open_`` submissions (at least one) should have ended.

    >>> retry_after_s(10_000, 3_000.0), retry_after_s(10, 0.0)
    (2.0, 60.0)
    """
    wanted = max(1.0, open_ * FREED_SHARE)
    if ends_per_min <= wanted:
        return LONGEST_RETRY_S
    return max(1.0, wanted / ends_per_min * 60)


def _full(whose: bytes, limit: bytes, forgotten_ms: int, open_: int, ends_per_min: bytes) -> Full:
    return Full(
        is_tenants=whose == b"tenant", limit=_text(limit), forgotten_s=int(forgotten_ms) / 1_000,
        open=int(open_), ends_per_min=float(ends_per_min),
    )


def _overloaded(limits: Limits, full: Full) -> errors.Overloaded:
    most = limits.of_tenant() if full.is_tenants else (limits.open, limits.open_bytes, limits.known)
    share = ", its max_tenant_share" if full.is_tenants else ""
    whose = " for one tenant" if full.is_tenants else ""
    if full.limit == "known":
        text = f"{most[2]:,} predictions are known already{whose} ([submissions] max_known{share})"
    else:
        text = (
            f"too many submitted predictions are open: at most {most[0]:,} and {most[1]:,} bytes"
            f"{whose} ([submissions] max_open, max_open_bytes{share})"
        )
    return errors.Overloaded(text, full.retry_after_s)


def _record(found: Sequence[Any], sent: Sequence[Any]) -> Record:
    fields = dict(zip(_FIELDS, found, strict=True))
    status, attempts, reason = sent or (None, None, None)
    return Record(
        id=_text(fields["id"]), model=_text(fields["model"]),
        state=SubmissionState(_text(fields["state"])),
        submitted_ms=int(fields["submitted_ms"] or 0), started_ms=int(fields["started_ms"] or 0),
        ended_ms=int(fields["ended_ms"] or 0), expires_ms=int(fields["expires_ms"] or 0),
        attempts=int(fields["attempts"] or 0), answer=fields["answer"] or b"",
        webhook=_text(fields["webhook"]), webhook_status=_text(status),
        webhook_attempts=int(attempts or 0), webhook_reason=_text(reason),
    )


def _ended(answer: Sequence[Any]) -> Ended:
    outcomes, hosts = answer
    return Ended(tuple(Outcome(_text(outcome)) for outcome in outcomes), _texts(hosts))


def _texts(values: Iterable[Any]) -> tuple[str, ...]:
    return tuple(sorted(_text(value) for value in values))


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value or "")
