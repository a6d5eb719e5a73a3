"""One batch of the lane: envelopes for one version, and what became of them."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any

import msgspec

from celeriac import errors, metrics
from celeriac.cache import Answerer
from celeriac.cache.worker import get_worker_cache
from celeriac.drift.counter import get_counter
from celeriac.host import ModelHost
from celeriac.logs import get_logger
from celeriac.messages import CONTRACT, Reply
from celeriac.registry.manifest import ModelVersion
from celeriac.scoring import Scorer
from tasks.predict import count_answers
from workers.lane.buffer import Target
from workers.lane.limits import Limits
from workers.lane.messages import Received

log = get_logger(__name__)

LOGGED_REQUESTS = 8
"""Requests that one line about failures names, at most: one line for each batch is enough."""


MOST_LOSSES = 4
"""Processes that one envelope may cost their GPU; then what is left of it fails."""
_BREAKING = errors.ModelFailed("the GPU failed with this item, twice")
_LEFT = errors.WorkerError(
    "not scored: the GPU failed with other items of the same message; send it again"
)


class Batch(msgspec.Struct):
    """Envelopes in the order in which they came."""

    target: Target
    received: list[Received]
    items: int
    """How many."""
    closed: str
    limits: Limits
    answers: list[dict[str, Any]] = msgspec.field(default_factory=list)
    """Of all items, in order."""
    is_scored: bool = False
    """False if the batch failed as a whole."""
    manifest: ModelVersion | None = None
    """Of the version that scored them."""
    scored_items: list[Any] = msgspec.field(default_factory=list)
    """All items, in order."""
    replies: list[Reply] = msgspec.field(default_factory=list)
    """One for each envelope, in order."""
    seconds: float = 0.0
    """The forward pass."""

    def score(self, host: ModelHost) -> None:
        """Answer all items. Raises nothing: failures are replies too."""
        try:
            self._score(host)
        except errors.CeleriacError as error:
            self._fail(error)
        except BaseException as error:  # the callers must learn of it too, and the lane goes on
            log.exception("batch failed", model=self.target[0], version=self.target[1])
            self._fail(errors.WorkerError(
                f"{self.target[0]}@{self.target[1]} could not be used; the worker's log names "
                f"the reason ({type(error).__name__})"
            ))

    def _score(self, host: ModelHost) -> None:
        items = [item for one in self.received for item in one.envelope.items]
        scorer = host.scorer(*self.target)
        started = time.perf_counter()
        if self.is_suspect:
            self._score_alone(scorer, items)
        else:
            self.answers = scorer.answer(items, self.limits.cap)
        self.seconds = time.perf_counter() - started
        self.is_scored = True
        self.manifest, self.scored_items = scorer.manifest, items
        start = 0
        for one in self.received:
            end = start + one.count
            self.replies.append(self._reply(one, self.answers[start:end]))
            start = end

    @property
    def is_suspect(self) -> bool:
        """True of an envelope that another process had in hand when it lost its GPU."""
        return any(one.losses for one in self.received)

    def _score_alone(self, scorer: Scorer, items: list[Any]) -> None:
        """Item by item, so that a loss is known to be one item's; those that are known are not
        scored."""
        (one,) = self.received
        for place, item in enumerate(items):
            if place in one.breaking:
                self.answers.append({"error": _BREAKING.to_wire()})
            else:
                self.answers += scorer.answer([item], 1)

    def blamed(self) -> Reply | None:
        """The answer to a suspect whose next item has cost this process its GPU, too.

        None if items behind it are to be scored by the next process. Too many such items, and those
        that are left fail with them.
        """
        (one,) = self.received
        behind = one.count - len(self.answers) - 1
        if behind and one.losses < MOST_LOSSES:
            return None
        failed = {"error": _BREAKING.to_wire()}
        return self._reply(one, [*self.answers, failed, *[{"error": _LEFT.to_wire()}] * behind])

    def _fail(self, error: errors.CeleriacError) -> None:
        self.replies = [failed(one.envelope.id, error) for one in self.received]

    def observe_cost(self, seconds: float) -> None:
        """Learn from the time of a whole turn with this batch."""
        if self.answers and not self.is_suspect:  # neither failed nor without items
            passes = -(-self.items // self.limits.cap)
            self.limits.cost.observe(min(self.items, self.limits.cap), seconds / passes)

    def count(self) -> None:
        """Count what was scored, off the callers' path: sizes, times, items."""
        self._log()
        if not self.is_scored:
            metrics.LANE_ERRORS.labels("request").inc(len(self.received))
            return
        model, cap = self.target[0], self.limits.cap
        seconds, sizes, fill, waited = _measures(model)
        seconds.observe(self.seconds)
        for start in range(0, self.items, cap):
            items = min(cap, self.items - start)
            sizes.observe(items)
            fill.observe(items / cap)
        for one in self.received:
            waited.observe(one.queue_ms / 1000)
        metrics.BATCHES.labels(model, self.closed).inc()
        count_answers(model, self.answers)

    def _log(self) -> None:
        """One line for the items that failed, and one for all where someone looks closely.

        They name the requests that the items came with: a gateway's log has the same ids.
        """
        failures = [
            (request, error["code"])
            for one, reply in zip(self.received, self.replies, strict=True)
            for request, error in failed_requests(one.envelope.requests, reply)
        ]
        if failures:
            shown = dict(failures[:LOGGED_REQUESTS])
            log.info("items failed", model=self.target[0], version=self.target[1],
                     requests=shown, items=len(failures))
        if logging.getLogger(__name__).isEnabledFor(logging.DEBUG):
            requests = [request for one in self.received for request in one.envelope.requests]
            log.debug("batch answered", model=self.target[0], version=self.target[1],
                      items=self.items, requests=requests)

    def keep(self) -> None:
        """Have the answers written to the result cache, where the version says so, and the items
        counted, where it has a profile."""
        if self.manifest is None:
            return
        if self.manifest.serving.cache:
            who = Answerer.of(self.manifest)
            get_worker_cache().keep(who, self.scored_items, self.answers)
        get_counter().offer(self.manifest, self.scored_items, self.answers)

    def _reply(self, one: Received, answers: list[dict[str, Any]]) -> Reply:
        return Reply(
            v=CONTRACT,
            id=one.envelope.id,
            answers=answers,
            queue_ms=round(one.queue_ms, 3),
            compute_ms=round(self.seconds * 1000, 3),
            batch_items=min(self.items, self.limits.cap),
            closed=self.closed,
        )


@lru_cache(maxsize=1_000)
def _measures(model: str) -> tuple[Any, Any, Any, Any]:
    """A look-up of labels costs as much as an observation."""
    measures = (
        metrics.REAL_TIME_SECONDS, metrics.BATCH_ITEMS, metrics.FILL, metrics.QUEUE_SECONDS
    )
    one, two, three, four = (measure.labels(model) for measure in measures)
    return one, two, three, four


def failed_requests(
    requests: Sequence[str], reply: Reply
) -> Iterator[tuple[str, dict[str, Any]]]:
    """The id of each request with an item that failed, and that item's error."""
    if not requests:
        return
    if reply.error is not None:
        yield from ((request, reply.error) for request in requests)
    for request, answer in zip(requests, reply.answers or (), strict=False):
        if "error" in answer:
            yield request, answer["error"]


def failed(id: str, error: errors.CeleriacError) -> Reply:
    """The answer to a whole envelope that is at fault."""
    return Reply(v=CONTRACT, id=id, error=error.to_wire())
